"""Kernels: every sum and basis equals what float64 NumPy makes of the same numbers, whatever the shape."""

import numpy as np
import pytest
import torch
from chip.kernels import batched_subspace, node_sums, pooled_sums, second_moment
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

SIZES = st.integers(1, 6)
SEEDS = st.integers(0, 2**31)
DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16])


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


class TestPooledSums:
    @given(SEEDS, SIZES, SIZES, SIZES, SIZES, DTYPES)
    def test_they_equal_numpy(
        self, seed: int, batch: int, tokens: int, outputs: int, sums: int, dtype: torch.dtype
    ) -> None:
        activations = drawn(seed, batch, tokens, outputs, dtype=dtype)
        weights = np.random.default_rng(seed).random((batch, sums, tokens)) < 0.5
        found = pooled_sums(activations, torch.from_numpy(weights))
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        expected = np.einsum("bks,bsd->bkd", weights, activations.double().numpy())
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("value", [1e300, float("nan"), float("inf")])
    def test_padding_never_enters_whatever_it_holds(self, value: float) -> None:
        activations, weights = drawn(0, 2, 5, 3), torch.tensor([[[1, 1, 0, 0, 0]], [[0, 1, 1, 0, 0]]])
        real = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], dtype=torch.bool)
        spoilt = activations.masked_fill(~real[..., None], value)
        assert torch.equal(pooled_sums(spoilt, weights, real), pooled_sums(activations, weights, real))


class TestNodeSums:
    @given(SEEDS, SIZES, SIZES, SIZES)
    def test_they_equal_numpy(self, seed: int, records: int, nodes: int, outputs: int) -> None:
        pooled, nodes = drawn(seed, records, outputs), nodes + 2
        where = np.random.default_rng(seed).integers(0, nodes, records)
        touched = sorted(set(where.tolist()))
        total, absolute = torch.ones(nodes, outputs).double(), torch.ones(nodes, outputs).double()
        belongs = torch.from_numpy(where == np.array(touched)[:, None])
        node_sums(pooled, torch.tensor(touched), belongs, total, absolute)
        expected, expected_absolute = np.ones((nodes, outputs)), np.ones((nodes, outputs))
        for row, node in enumerate(where):
            expected[node] += pooled[row].numpy()
            expected_absolute[node] += np.abs(pooled[row].numpy())
        np.testing.assert_allclose(total, expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(absolute, expected_absolute, rtol=1e-12, atol=1e-12)


class TestSecondMoment:
    @given(SEEDS, SIZES, SIZES, DTYPES)
    def test_it_equals_numpy(self, seed: int, tokens: int, inputs: int, dtype: torch.dtype) -> None:
        rows = drawn(seed, tokens, inputs, dtype=dtype)
        outer, total = torch.eye(inputs).double(), torch.ones(inputs).double()
        second_moment(rows, outer, total)
        values = rows.double().numpy()
        np.testing.assert_allclose(outer, np.eye(inputs) + values.T @ values, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(total, 1 + values.sum(0), rtol=1e-12, atol=1e-12)

    def test_no_rows_add_nothing(self) -> None:
        outer, total = torch.zeros(3, 3).double(), torch.zeros(3).double()
        second_moment(drawn(0, 0, 3), outer, total)
        assert not outer.any()
        assert not total.any()


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
