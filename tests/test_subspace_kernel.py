"""Subspaces, as torch and as Triton, beside a float64 SVD: orthonormal, and the same span wherever there is a gap."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from chip.kernels import batched_subspace
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_choice import both, drawn, using
from torch import Tensor

SEEDS = st.integers(0, 2**31)


def rank_by_numpy(rows: np.ndarray, variance: float) -> int:
    """The fewest singular values whose squares hold the share, counted one by one."""
    squares = np.linalg.svd(rows, compute_uv=False) ** 2
    held = 0.0
    for rank, square in enumerate(squares, start=1):
        held += square
        if held >= variance * squares.sum() * (1 - 1e-12):
            return rank
    return len(squares)


def with_singular_values(seed: int, values: Tensor, width: int) -> Tensor:
    """Rows (m, width) in float32 that have these singular values (m,), up to rounding."""
    left, right = (torch.linalg.qr(drawn(seed + i, size, len(values))).Q for i, size in enumerate((len(values), width)))
    return (left * values @ right.T).float()


def check(rows: Tensor, variance: float, kernels: str = "triton", counts: Tensor | None = None) -> Tensor:
    """Hold what is kept of float32 matrices (N, m, k) to the float64 SVD of each. Returns the ranks."""
    with using(kernels) as device:
        given = None if counts is None else counts.to(device)
        bases, values, ranks = (one.cpu() for one in batched_subspace(rows.to(device), variance, given))
    assert bases.shape == (len(rows), min(rows.shape[1:]), rows.shape[2])
    assert bases.isfinite().all()
    for one in range(len(rows)):
        live = rows[one] if counts is None else rows[one, : int(counts[one])]
        _, true, directions = np.linalg.svd(live.double().numpy(), full_matrices=False)
        rank = int(ranks[one])
        kept = bases[one, :rank].double().numpy()
        assert rank == 0 or np.linalg.norm(kept @ kept.T - np.eye(rank), 2) <= 1e-5
        size = min(len(true), values.shape[1])
        np.testing.assert_allclose(values[one, :size], true[:size], rtol=0, atol=2e-6 * true.max(initial=0))
        for cut in range(1, rank + 1):
            following = true[cut] if cut < len(true) else 0
            if true[cut - 1] - following > 0.1 * true[cut - 1]:
                sine = np.linalg.norm(kept[:cut] - kept[:cut] @ directions[:cut].T @ directions[:cut], 2)
                assert sine <= 1e-3
    return ranks


class TestTwin:
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


@both
class TestBoth:
    @settings(max_examples=8)
    @given(SEEDS, st.integers(1, 18), st.integers(1, 70), st.sampled_from([0.3, 0.9, 0.95, 0.9999, 1.0]))
    def test_any_shape(self, kernels: str, seed: int, count: int, width: int, variance: float) -> None:
        check(drawn(seed, 1, count, width, dtype=torch.float32), variance, kernels)

    def test_ragged_matrices_ignore_what_their_other_rows_hold(self, kernels: str) -> None:
        rows, counts = drawn(0, 4, 7, 40, dtype=torch.float32), torch.tensor([3, 7, 0, 1])
        rows[0, 3:] = float("nan")
        ranks = check(rows, 1.0, kernels, counts)
        assert ranks.tolist() == [3, 7, 0, 1]

    def test_leading_dimensions_are_kept(self, kernels: str) -> None:
        rows = drawn(0, 2, 3, 4, 9, dtype=torch.float32)
        with using(kernels) as device:
            bases, values, ranks = batched_subspace(rows.to(device), 0.9, torch.full((2, 3), 2, device=device))
            single = batched_subspace(rows[1, 2, :2].to(device), 0.9)
        assert bases.shape == (2, 3, 4, 9)
        assert int(ranks[1, 2]) == int(single[2])
        torch.testing.assert_close(values[1, 2, :2], single[1])

    def test_duplicates_zeros_and_deficient_ranks(self, kernels: str) -> None:
        rows = drawn(0, 4, 12, 90, dtype=torch.float32)
        rows[0, 6:] = rows[0, :6]
        rows[1, 2:9] = 0
        rows[2] = rows[2, :, :3] @ rows[2, :3]
        rows[3] = 0
        assert check(rows, 0.999999, kernels).tolist() == [6, 5, 3, 0]

    def test_a_single_direction_repeated(self, kernels: str) -> None:
        assert check(drawn(0, 1, 1, 50, dtype=torch.float32).repeat(1, 16, 1), 1.0, kernels).tolist() == [1]

    @pytest.mark.parametrize("scale", [1e-25, 1e25])
    def test_scale_does_not_matter(self, kernels: str, scale: float) -> None:
        rows = drawn(0, 1, 5, 30, dtype=torch.float32)
        with using(kernels) as device:
            bases, values, _ = batched_subspace((rows * scale).to(device), 0.9)
            plain = batched_subspace(rows.to(device), 0.9)
        torch.testing.assert_close(values / scale, plain[1])
        torch.testing.assert_close((bases[0] @ plain[0][0].T).abs(), torch.eye(5, device=device), rtol=0, atol=1e-5)


class TestTriton:
    @settings(max_examples=5)
    @given(SEEDS, st.integers(2, 16), st.floats(0, 6), st.sampled_from([0.95, 0.9999, 1.0]))
    def test_conditions_up_to_a_million(self, seed: int, count: int, digits: float, variance: float) -> None:
        spectrum = torch.logspace(0, -digits, count, dtype=torch.float64)
        check(with_singular_values(seed, spectrum, 130)[None], variance)

    def test_it_keeps_what_a_float32_gram_would_lose(self) -> None:
        spectrum = torch.tensor([1.0, 1e-1, 1e-2, 5e-4, 4e-7], dtype=torch.float64)
        assert check(with_singular_values(3, spectrum, 200)[None], 1 - 1e-7).tolist() == [4]

    def test_clustered_values(self) -> None:
        spectrum = torch.tensor([1.0] * 8 + [1e-3] * 8, dtype=torch.float64)
        check(with_singular_values(4, spectrum, 100)[None], 1.0)

    def test_rows_of_one_length(self) -> None:
        check(torch.nn.functional.normalize(drawn(0, 1, 33, 300, dtype=torch.float32), dim=-1), 0.95)

    def test_the_most_rows(self) -> None:
        check(with_singular_values(5, torch.logspace(0, -3, 128, dtype=torch.float64), 2000)[None], 0.9999)

    def test_a_wide_matrix(self) -> None:
        check(drawn(0, 1, 16, 20_000, dtype=torch.float32), 0.95)

    def test_half_precision_rows(self) -> None:
        rows = drawn(0, 1, 6, 50, dtype=torch.bfloat16)
        with using("triton") as device:
            found = batched_subspace(rows.to(device), 0.9)
            same = batched_subspace(rows.float().to(device), 0.9)
        assert all(torch.equal(*pair) for pair in zip(found, same, strict=True))

    def test_the_same_rows_give_the_same_bytes_in_any_company(self) -> None:
        rows = drawn(0, 3, 9, 80, dtype=torch.float32)
        with using("triton") as device:
            many, one = batched_subspace(rows.to(device), 0.9), batched_subspace(rows[1:2].to(device), 0.9)
        assert all(torch.equal(a[1:2], b) for a, b in zip(many, one, strict=True))


class TestCompiling:
    def test_every_kernel_compiles_for_a_gpu_and_fits(self) -> None:
        """For Hopper, without one: types, shapes and layouts are checked, which the interpreter does not."""
        script = Path(__file__).parent / "compile_kernels.py"
        surroundings = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        ran = subprocess.run([sys.executable, script], env=surroundings, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        made = [json.loads(line) for line in ran.stdout.splitlines()]
        assert {one["kernel"] for one in made} >= {"_jacobi_kernel", "_rotate_kernel", "_pooled_kernel", "_node_kernel"}
        assert all(one["shared"] <= 99 * 1024 for one in made)
