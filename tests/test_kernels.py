"""Kernels: every sum and projection, as torch and as Triton, equals what float64 NumPy makes of the same numbers."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from chip.kernels import (
    batched_subspace,
    node_sums,
    pooled_node_sums,
    pooled_sums,
    project_rows_,
    second_moment,
)
from chip.kernels.dispatch import runs_triton
from collecting import all_wanted, assert_near
from hypothesis import given
from hypothesis import strategies as st
from kernel_choice import both, drawn, using

from chip.collect import collect
from chip.errors import UsageError
from chip.models.loading import LoadedModel
from chip.records import read_records

SIZES = st.integers(1, 6)
SEEDS = st.integers(0, 2**31)
DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])


def tolerance(dtype: torch.dtype) -> float:
    return 1e-12 if dtype == torch.float64 else 1e-5


@both
class TestPooledSums:
    @given(SEEDS, SIZES, SIZES, SIZES, SIZES, DTYPES)
    def test_they_equal_numpy(
        self, kernels: str, seed: int, batch: int, tokens: int, outputs: int, sums: int, dtype: torch.dtype
    ) -> None:
        activations = drawn(seed, batch, tokens, outputs, dtype=dtype)
        weights = np.random.default_rng(seed).random((batch, sums, tokens)) < 0.5
        with using(kernels) as device:
            found = pooled_sums(activations.to(device), torch.from_numpy(weights).to(device)).cpu()
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        expected = np.einsum("bks,bsd->bkd", weights, activations.double().numpy())
        np.testing.assert_allclose(found, expected, rtol=tolerance(dtype), atol=tolerance(dtype))

    @pytest.mark.parametrize("sums", [1, 3, 70])
    def test_rows_longer_than_a_piece_and_shapes_that_fit_no_block(self, kernels: str, sums: int) -> None:
        activations, weights = drawn(1, 2, 1100, 130, dtype=torch.float32), drawn(2, 2, sums, 1100)
        with using(kernels) as device:
            found = pooled_sums(activations.to(device), weights.to(device)).cpu()
        np.testing.assert_allclose(found, weights.numpy() @ activations.double().numpy(), rtol=1e-5, atol=1e-4)

    def test_any_strides_will_do(self, kernels: str) -> None:
        activations, weights = drawn(1, 40, 3, 50).permute(1, 2, 0), drawn(2, 50, 2, 3).permute(2, 1, 0)
        with using(kernels) as device:
            found = pooled_sums(activations.to(device), weights.to(device)).cpu()
        np.testing.assert_allclose(found, weights.numpy() @ activations.numpy(), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("value", [1e300, float("nan"), float("inf")])
    def test_padding_never_enters_whatever_it_holds(self, kernels: str, value: float) -> None:
        activations, weights = drawn(0, 2, 5, 3), torch.tensor([[[1, 1, 0, 0, 0]], [[0, 1, 1, 0, 0]]])
        real = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], dtype=torch.bool)
        spoilt = activations.masked_fill(~real[..., None], value)
        with using(kernels) as device:
            one, other = (
                pooled_sums(a.to(device), weights.to(device), real.to(device)).cpu() for a in (spoilt, activations)
            )
        assert torch.equal(one, other)


@both
class TestNodeSums:
    @given(SEEDS, SIZES, SIZES, SIZES)
    def test_they_equal_numpy(self, kernels: str, seed: int, records: int, nodes: int, outputs: int) -> None:
        pooled, nodes = drawn(seed, records, outputs), nodes + 2
        where = np.random.default_rng(seed).integers(0, nodes, records)
        touched = sorted(set(where.tolist()))
        belongs = torch.from_numpy(where == np.array(touched)[:, None])
        with using(kernels) as device:
            total, absolute = (torch.ones(nodes, outputs, device=device).double() for _ in range(2))
            node_sums(pooled.to(device), torch.tensor(touched).to(device), belongs.to(device), total, absolute)
        expected, expected_absolute = np.ones((nodes, outputs)), np.ones((nodes, outputs))
        for row, node in enumerate(where):
            expected[node] += pooled[row].numpy()
            expected_absolute[node] += np.abs(pooled[row].numpy())
        np.testing.assert_allclose(total.cpu(), expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(absolute.cpu(), expected_absolute, rtol=1e-12, atol=1e-12)


@both
class TestPooledNodeSums:
    @pytest.mark.parametrize("tokens", [1, 40, 700])
    def test_they_equal_numpy_and_repeat_bit_for_bit(self, kernels: str, tokens: int) -> None:
        activations, shares = drawn(0, 5, tokens, 30, dtype=torch.bfloat16), drawn(1, 5, 2).abs()
        weights = drawn(2, 5, 2, tokens) > 0
        real = torch.arange(tokens) < torch.tensor([tokens, 1, tokens, tokens // 2, 0])[:, None]
        belongs = torch.tensor([[1, 0, 1, 0, 0], [0, 1, 0, 1, 1]], dtype=torch.bool)
        found = []
        with using(kernels) as device:
            batch = [one.to(device) for one in (activations, weights, real, shares, torch.tensor([3, 1]), belongs)]
            for _ in range(2):
                total, absolute = (torch.ones(4, 30, device=device) for _ in range(2))
                pooled_node_sums(*batch, total, absolute)
                found.append((total.cpu(), absolute.cpu()))
        sums = np.einsum("bks,bsd->bkd", weights & real[:, None], activations.double().numpy())
        pooled = np.einsum("bk,bkd->bd", shares, sums)
        for one, values in zip(found[0], (pooled, np.abs(pooled)), strict=True):
            expected = np.ones((4, 30))
            expected[[3, 1]] += belongs.double().numpy() @ values
            np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-4)
        assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@both
class TestSecondMoment:
    @given(SEEDS, SIZES, SIZES, DTYPES)
    def test_it_equals_numpy(self, kernels: str, seed: int, tokens: int, inputs: int, dtype: torch.dtype) -> None:
        rows = drawn(seed, tokens, inputs, dtype=dtype)
        with using(kernels) as device:
            outer, total = torch.eye(inputs, device=device).double(), torch.ones(inputs, device=device).double()
            second_moment(rows.to(device), outer, total)
        values = rows.double().numpy()
        np.testing.assert_allclose(outer.cpu(), np.eye(inputs) + values.T @ values, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(total.cpu(), 1 + values.sum(0), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_chosen_rows_alone_count(self, kernels: str, dtype: torch.dtype) -> None:
        rows, chosen = drawn(0, 90, 150, dtype=dtype), torch.arange(0, 90, 2).flip(0)
        with using(kernels) as device:
            outer, total = drawn(1, 150, 150).float().to(device), torch.zeros(150, device=device)
            before = outer.cpu().double()
            second_moment(rows.to(device), outer, total, chosen.to(device))
        values = rows[chosen].double()
        np.testing.assert_allclose(outer.cpu(), before + values.T @ values, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(total.cpu(), values.sum(0), rtol=1e-5, atol=1e-4)

    def test_no_rows_add_nothing(self, kernels: str) -> None:
        with using(kernels) as device:
            outer, total = torch.zeros(3, 3, device=device).double(), torch.zeros(3, device=device).double()
            second_moment(drawn(0, 0, 3).to(device), outer, total)
        assert not outer.any()
        assert not total.any()


@both
class TestProjectRows:
    @given(SEEDS, st.integers(1, 20), st.integers(1, 40), st.integers(1, 4), DTYPES)
    def test_it_equals_numpy_rounded_once_and_leaves_the_other_rows(
        self, kernels: str, seed: int, count: int, columns: int, rank: int, dtype: torch.dtype
    ) -> None:
        weight, rows = drawn(seed, 24, columns, dtype=dtype), np.random.default_rng(seed).permutation(24)[:count]
        basis = torch.linalg.qr(drawn(seed + 1, count, rank)).Q.T.contiguous()
        before = weight.double().numpy()
        with using(kernels) as device:
            edited = weight.to(device, copy=True)
            project_rows_(edited, torch.from_numpy(rows).to(device), basis.to(device))
        after = edited.cpu()
        chosen = before[rows]
        expected = torch.from_numpy(chosen - basis.T.numpy() @ (basis.numpy() @ chosen))
        # Half a unit in the last place; but Triton's interpreter cuts bfloat16 off where a GPU rounds.
        cut_off = device.type == "cpu" and kernels == "triton" and dtype == torch.bfloat16
        rounding = torch.finfo(dtype).eps * expected.abs() * (1 if cut_off else 0.5) if dtype.itemsize == 2 else 0
        assert ((after[rows].double() - expected).abs() <= rounding + tolerance(dtype)).all()
        others = np.setdiff1d(np.arange(24), rows)
        assert torch.equal(after[others], weight[others])

    def test_twice_is_once_and_what_is_left_has_no_part_in_the_basis(self, kernels: str) -> None:
        weight, rows = drawn(0, 100, 70, dtype=torch.float32), torch.arange(0, 100, 2)
        basis = torch.linalg.qr(drawn(1, 50, 40)).Q.T.float()
        with using(kernels) as device:
            weight, rows, basis = weight.to(device), rows.to(device), basis.to(device)
            project_rows_(weight, rows, basis)
            once = weight.clone()
            assert float((basis @ once[rows]).abs().max()) <= 1e-5
            project_rows_(weight, rows, basis)
        torch.testing.assert_close(weight, once, rtol=0, atol=1e-5)

    def test_no_directions_change_nothing(self, kernels: str) -> None:
        weight = drawn(0, 4, 3)
        with using(kernels) as device:
            edited = weight.to(device, copy=True)
            project_rows_(edited, torch.arange(2, device=device), torch.zeros(0, 2, device=device))
        assert torch.equal(edited.cpu(), weight)

    def test_a_transposed_weight_will_do(self, kernels: str) -> None:
        weight, basis = drawn(0, 6, 5, dtype=torch.float32), torch.eye(3)[:1]
        with using(kernels) as device:
            edited = weight.to(device, copy=True).T.contiguous().T
            project_rows_(edited, torch.tensor([4, 1, 2], device=device), basis.to(device))
        weight[4] = 0
        torch.testing.assert_close(edited.cpu(), weight)


class TestDispatch:
    def test_automatic_is_torch_on_a_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert not runs_triton("any", torch.zeros(1))
        monkeypatch.setenv("CHIP_KERNELS", "auto")
        assert not runs_triton("any", torch.zeros(1))

    def test_torch_is_torch_and_triton_is_triton(self) -> None:
        for kernels in ("torch", "triton"):
            with using(kernels) as device:
                assert runs_triton("any", torch.zeros(1, device=device)) == (kernels == "triton")

    def test_any_other_choice_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CHIP_KERNELS", "cuda")
        with pytest.raises(UsageError, match="CHIP_KERNELS=cuda is unknown: use auto, triton or torch"):
            pooled_sums(drawn(0, 1, 1, 1), torch.ones(1, 1, 1))

    def test_triton_on_a_cpu_is_refused_unless_it_is_interpreted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CHIP_KERNELS", "triton")
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        with pytest.raises(UsageError, match="these are on cpu: use CHIP_KERNELS=auto, or set TRITON_INTERPRET=1"):
            second_moment(drawn(0, 2, 3), torch.zeros(3, 3).double(), torch.zeros(3).double())

    def test_triton_that_is_not_installed_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CHIP_KERNELS", "triton")
        monkeypatch.setattr("chip.kernels.dispatch.find_spec", lambda name: None)
        with pytest.raises(UsageError, match="needs triton, which is not installed"):
            project_rows_(drawn(0, 2, 3), torch.tensor([0]), torch.ones(1, 1))

    @pytest.mark.parametrize(
        ("rows", "named"),
        [(torch.ones(2, 3).double(), "float64 rows"), (torch.ones(129, 3), "more than 128 rows")],
    )
    def test_an_input_without_a_kernel_is_refused_by_triton(self, rows: torch.Tensor, named: str) -> None:
        with using("triton") as device, pytest.raises(UsageError, match=f"batched_subspace has no kernel for {named}"):
            batched_subspace(rows.to(device), 0.9)
        with using("auto"):
            assert int(batched_subspace(rows, 0.9)[2]) == 1

    def test_a_basis_of_too_many_directions_is_refused_by_triton(self) -> None:
        with using("triton") as device, pytest.raises(UsageError, match="more than 128 directions"):
            project_rows_(torch.ones(200, 1, device=device), torch.arange(200, device=device), torch.eye(200)[:129])

    def test_kernels_import_without_triton(self) -> None:
        script = "import sys; sys.modules['triton'] = None; import chip.kernels"
        subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"CHIP_KERNELS": "auto"})


class TestCollecting:
    @pytest.mark.skipif(torch.cuda.is_available(), reason="a model on a CPU runs only interpreted kernels")
    def test_statistics_are_the_same_with_either(self, llava: LoadedModel, hospital_data: Path) -> None:
        """The kernels in the midst of a model: packed rows, padding, several sums a row, 64-bit totals."""
        records, found = read_records(hospital_data).records[:5], []
        for kernels in ("torch", "triton"):
            with using(kernels):
                found.append(collect(llava, records, all_wanted(llava)))
        assert_near(found[1], found[0], 1e-6)
