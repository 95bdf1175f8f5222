"""Kernels: every sum and basis equals what float64 NumPy makes of the same numbers, whatever the shape."""

import numpy as np
import pytest
import torch
from chip.kernels import batched_subspace, pooled_sums, second_moment
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

SIZES = st.integers(1, 6)
SEEDS = st.integers(0, 2**31)
DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16])


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


class TestPooledSums:
    @given(SEEDS, SIZES, SIZES, SIZES, SIZES, DTYPES, st.sampled_from([0.0, 0.3, 1.0]))
    def test_they_equal_numpy(
        self, seed: int, batch: int, tokens: int, outputs: int, nodes: int, dtype: torch.dtype, alpha: float
    ) -> None:
        rng = np.random.default_rng(seed)
        activations = drawn(seed, batch, tokens, outputs, dtype=dtype)
        kinds = rng.integers(0, 3, (batch, tokens))
        kinds[:, 0] = rng.integers(1, 3, batch)
        where = rng.integers(0, nodes, batch)
        total, absolute = torch.ones(nodes, outputs).double(), torch.ones(nodes, outputs).double()
        pooled = pooled_sums(
            activations,
            torch.from_numpy(kinds == 1),
            torch.from_numpy(kinds == 2),
            torch.from_numpy(where),
            alpha,
            total,
            absolute,
        )
        values, expected = activations.double().numpy(), np.ones((nodes, outputs))
        expected_absolute = np.ones((nodes, outputs))
        for row in range(batch):
            image, text = (values[row][kinds[row] == kind] for kind in (1, 2))
            if not len(image) or not len(text):
                mean = (image if len(image) else text).mean(0)
            else:
                mean = alpha * image.mean(0) + (1 - alpha) * text.mean(0)
            np.testing.assert_allclose(pooled[row], mean, rtol=1e-12, atol=1e-12)
            expected[where[row]] += mean
            expected_absolute[where[row]] += np.abs(mean)
        np.testing.assert_allclose(total, expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(absolute, expected_absolute, rtol=1e-12, atol=1e-12)

    def test_padding_never_enters_however_large(self) -> None:
        activations = drawn(0, 2, 5, 3)
        image = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
        text = torch.tensor([[0, 0, 1, 0, 0], [1, 1, 1, 0, 0]], dtype=torch.bool)
        spoilt = activations.masked_fill(~(image | text)[..., None], 1e300)
        results = []
        for values in (activations, spoilt):
            sums = torch.zeros(1, 3).double(), torch.zeros(1, 3).double()
            pooled_sums(values, image, text, torch.tensor([0, 0]), 0.3, *sums)
            results.append(sums)
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])

    def test_padding_that_is_not_finite_never_enters_either(self) -> None:
        activations = drawn(0, 1, 4, 3)
        text = torch.tensor([[True, True, False, False]])
        activations[0, 2:] = float("nan")
        total = torch.zeros(1, 3).double()
        pooled_sums(activations, ~text & False, text, torch.tensor([0]), 0.3, total, total.clone())
        torch.testing.assert_close(total[0], activations[0, :2].mean(0))


class TestSecondMoment:
    @given(SEEDS, SIZES, SIZES, SIZES, DTYPES)
    def test_it_equals_numpy(self, seed: int, batch: int, tokens: int, inputs: int, dtype: torch.dtype) -> None:
        activations = drawn(seed, batch, tokens, inputs, dtype=dtype)
        mask = torch.from_numpy(np.random.default_rng(seed).random((batch, tokens)) < 0.5)
        outer, total = torch.eye(inputs).double(), torch.ones(inputs).double()
        count = second_moment(activations, mask, outer, total)
        picked = activations.double().numpy()[mask.numpy()]
        assert count == len(picked)
        np.testing.assert_allclose(outer, np.eye(inputs) + picked.T @ picked, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(total, 1 + picked.sum(0), rtol=1e-12, atol=1e-12)

    def test_an_empty_mask_adds_nothing(self) -> None:
        outer, total = torch.zeros(3, 3).double(), torch.zeros(3).double()
        assert second_moment(drawn(0, 2, 4, 3), torch.zeros(2, 4, dtype=torch.bool), outer, total) == 0
        assert not outer.any()
        assert not total.any()

    def test_rows_need_no_batch_axis(self) -> None:
        rows = drawn(0, 7, 3)
        outer, total = torch.zeros(3, 3).double(), torch.zeros(3).double()
        assert second_moment(rows, torch.ones(7, dtype=torch.bool), outer, total) == 7
        torch.testing.assert_close(outer, rows.T @ rows)


def rank_by_numpy(rows: np.ndarray, variance: float) -> int:
    """The fewest singular values whose squares hold the share, counted one by one."""
    squares = np.linalg.svd(rows, compute_uv=False) ** 2
    held = 0.0
    for rank, square in enumerate(squares, start=1):
        held += square
        if held >= variance * squares.sum() * (1 - 1e-12):
            return rank
    return len(squares)


class TestSubspace:
    @given(SEEDS, st.integers(1, 6), st.integers(1, 12), st.sampled_from([0.3, 0.5, 0.9, 0.95]))
    def test_bases_values_and_ranks_equal_numpy(self, seed: int, count: int, width: int, variance: float) -> None:
        rows = drawn(seed, count, width)
        bases, values, rank = batched_subspace(rows, variance)
        size = min(count, width)
        assert bases.shape == (size, width)
        np.testing.assert_allclose(values, np.linalg.svd(rows.numpy(), compute_uv=False), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(bases @ bases.T, np.eye(size), atol=1e-10)
        assert int(rank) == rank_by_numpy(rows.numpy(), variance)
        kept = bases[: int(rank)]
        left_over = rows - rows @ kept.T @ kept
        assert float(left_over.square().sum()) <= (1 - variance) * float(rows.square().sum()) + 1e-9

    @given(SEEDS, st.integers(1, 4), st.integers(5, 10))
    def test_a_rank_deficient_matrix_has_no_more_directions_than_its_rank(
        self, seed: int, true_rank: int, width: int
    ) -> None:
        rows = drawn(seed, 6, true_rank) @ drawn(seed + 1, true_rank, width)
        bases, _, rank = batched_subspace(rows, 1.0 - 1e-9)
        assert 1 <= int(rank) <= true_rank
        kept = bases[: int(rank)]
        assert float((rows - rows @ kept.T @ kept).norm()) <= 1e-4 * float(rows.norm())

    def test_all_the_energy_of_a_deficient_matrix_is_its_rank_and_no_more(self) -> None:
        rows = torch.tensor([[3.0, 4.0, 0.0], [3.0, 4.0, 0.0], [3.0, 4.0, 0.0]]).double()
        assert int(batched_subspace(rows, 1.0)[2]) == 1

    def test_zero_rows_fill_up_and_change_nothing(self) -> None:
        rows = drawn(0, 3, 8)
        filled = torch.cat([rows, torch.zeros(4, 8).double()])
        bases, values, rank = batched_subspace(torch.stack([filled, filled.roll(2, 0)]), 0.9)
        single = batched_subspace(rows, 0.9)
        for one in range(2):
            assert int(rank[one]) == int(single[2])
            kept = bases[one, : int(rank[one])]
            torch.testing.assert_close(kept.T @ kept, single[0][: int(single[2])].T @ single[0][: int(single[2])])
            torch.testing.assert_close(values[one, :3], single[1])

    def test_a_matrix_of_zeros_has_rank_zero(self) -> None:
        assert batched_subspace(torch.zeros(2, 3, 5).double(), 0.95)[2].tolist() == [0, 0]

    def test_duplicated_rows_are_one_direction(self) -> None:
        row = drawn(3, 1, 6)
        bases, _, rank = batched_subspace(row.repeat(5, 1), 0.95)
        assert int(rank) == 1
        assert abs(float((bases[0] @ row[0]) / row.norm())) == pytest.approx(1)
