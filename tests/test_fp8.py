"""fp8 checkpoints: read as torch reads them, written back so that what did not change keeps its bytes."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tiny_fp8
import tiny_models
import torch
from checkpoint_files import changed_tensors, header_bytes, stored_tensors
from edits import run_edit
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_fp8 import LAYOUTS, dequantised

from chip.edit import Applying, Change, Edit, StagedCheckpoint
from chip.errors import ChipError
from chip.inspection import inspect_model
from chip.models.checkpoint import Checkpoint
from chip.models.loading import load_model
from chip.models.matrix import Matrix, Piece
from chip.models.sites import stored_sites
from chip.models.stored import DTYPES, E4M3, SCALE_DTYPES, rounded

WEIGHT = "model.layers.1.mlp.down_proj.weight"
NUMBERS = np.arange(256, dtype=np.uint8).view(E4M3).astype(np.float64)
FINITE = np.unique(NUMBERS[np.isfinite(NUMBERS)])


@pytest.fixture(params=LAYOUTS)
def fp8(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny Llama in bf16 with fp8 linears."""
    directory = tiny_models.text_model(tmp_path / "model", "llama", dtype=torch.bfloat16)
    return tiny_fp8.quantise(directory, LAYOUTS[request.param])


def matrix_of(directory: Path, value: torch.Tensor, layout: str) -> Matrix:
    """A weight stored as fp8, alone in a checkpoint."""
    directory.mkdir(parents=True, exist_ok=True)
    codes, scale = tiny_fp8.quantised(value, LAYOUTS[layout])
    stored = {"x.weight": codes, f"x.weight{LAYOUTS[layout].suffix}": scale, "other": torch.arange(5.0)}
    (directory / "config.json").write_text('{"model_type": "llama", "quantization_config": {"quant_method": "fp8"}}')
    save_file(stored, directory / "model.safetensors", {"format": "pt"})
    return Checkpoint(directory).matrix("x.weight")


def put(pieces: list[Piece]) -> None:
    """Write pieces where they belong, as a writer does."""
    for piece in pieces:
        assert piece.tensor.start <= piece.start <= piece.start + len(piece.data) <= piece.tensor.stop
        with piece.tensor.file.open("r+b") as handle:
            handle.seek(piece.start)
            handle.write(piece.data)


def write(matrix: Matrix, values: np.ndarray[Any, Any], step: int) -> np.ndarray[Any, Any]:
    """Write all rows, `step` at a time; what will be read back, as it was promised."""
    starts = range(0, len(values), step)
    fitted = matrix.fitted((start, values[start : start + step]) for start in starts)
    promised = [fitted.rounded(values[start : start + step], start) for start in starts]
    pieces = [fitted.encode(values[start : start + step], start) for start in starts]
    for some in pieces:
        put(some)
    return np.concatenate(promised)


def again(matrix: Matrix) -> Matrix:
    """The same weight, read anew: a matrix remembers its scales as they were."""
    return Checkpoint(matrix.tensors[0].file.parent).matrix(matrix.name)


class TestRounding:
    @given(st.lists(st.floats(-460, 460), min_size=1, max_size=20), st.sampled_from([0, -1, 1]))
    def test_to_the_nearest_code_and_ties_to_even(self, given_values: list[float], towards: int) -> None:
        middles = (FINITE[1:] + FINITE[:-1]) / 2
        values = np.array([*given_values, *(middles if not towards else np.nextafter(middles, towards * np.inf))])
        found = rounded(values, E4M3).astype(np.float64)
        distance = np.abs(values[:, None] - FINITE)
        assert np.array_equal(np.abs(found - values), distance.min(1))
        tied = (distance == distance.min(1, keepdims=True)).sum(1) == 2
        assert not (rounded(values, E4M3).view(np.uint8)[tied] & 1).any()

    def test_what_is_too_large_never_saturates(self) -> None:
        assert rounded(np.array([464.0, -464.0]), E4M3).astype(float).tolist() == [448.0, -448.0]
        assert np.isnan(rounded(np.array([464.0001, -1e9, np.inf]), E4M3).astype(float)).all()


@pytest.mark.parametrize("layout", LAYOUTS)
class TestMatrix:
    @pytest.fixture
    def matrix(self, tmp_path: Path, layout: str) -> Matrix:
        torch.manual_seed(0)
        return matrix_of(tmp_path / "matrix", torch.randn(64, 96) * 0.1, layout)

    def test_values_are_codes_times_scales(self, matrix: Matrix, layout: str) -> None:
        stored = stored_tensors(matrix.tensors[0].file.parent)
        expected = dequantised(stored["x.weight"], stored[f"x.weight{LAYOUTS[layout].suffix}"]).numpy()
        assert matrix.read().dtype == np.float32
        assert np.array_equal(matrix.read(), expected)
        assert np.array_equal(np.concatenate([matrix.read_rows(0, 5), matrix.read_rows(5, 64)]), expected)

    def test_what_does_not_change_keeps_its_bytes(self, matrix: Matrix) -> None:
        before = matrix.tensors[0].file.read_bytes()
        assert np.array_equal(write(matrix, matrix.read().astype(np.float64), 16), matrix.read())
        assert matrix.tensors[0].file.read_bytes() == before

    @pytest.mark.parametrize("step", [1, 7, 64])
    def test_small_changes_leave_scales_and_other_values_alone(self, matrix: Matrix, layout: str, step: int) -> None:
        before, scales = matrix.read(), matrix.tensors[-1].digest()
        values = before.astype(np.float64)
        values[3:9, 40:60] *= 0.7
        promised = write(matrix, values, step)
        after = again(matrix).read()
        assert np.array_equal(after, promised)
        assert matrix.tensors[-1].digest() == scales
        same = values == before
        assert after[same].tobytes() == before[same].tobytes()
        assert np.abs(after - values)[~same].max() <= np.abs(values).max() / 16
        assert not np.array_equal(after, before)

    @pytest.mark.parametrize("step", [1, 16, 64])
    def test_a_scale_grows_only_where_a_value_would_not_fit(self, matrix: Matrix, layout: str, step: int) -> None:
        directory = matrix.tensors[0].file.parent
        before, old = matrix.read(), {name: one.clone() for name, one in stored_tensors(directory).items()}
        values = before.astype(np.float64)
        values[20, 50] = 7 * np.abs(values).max()
        promised = write(matrix, values, step)
        new = stored_tensors(directory)
        name = f"x.weight{LAYOUTS[layout].suffix}"
        rows, columns = LAYOUTS[layout].block
        grown = (new[name].double() != old[name].double()).reshape(-1)
        assert grown.sum() == 1
        assert (new[name].double() >= old[name].double()).all()
        inside = np.zeros(before.shape, bool)
        down, across = 20 // (rows or 64), 50 // (columns or 96)
        inside[
            down * (rows or 64) : (down + 1) * (rows or 64), across * (columns or 96) : (across + 1) * (columns or 96)
        ] = True
        after = again(matrix).read()
        assert np.array_equal(after, promised)
        assert np.array_equal(after[~inside], before[~inside])
        assert torch.equal(torch.from_numpy(after), dequantised(new["x.weight"], new[name]))
        assert abs(after[20, 50] / values[20, 50] - 1) <= 1 / 16
        wanted, ours = values[20, 50] / 448, float(new[name].double().reshape(-1)[grown])
        below = {torch.float8_e8m0fnu: ours / 2}.get(new[name].dtype, ours * (1 - 2.0**-8))
        assert below < wanted <= ours
        assert torch.equal(new["other"], old["other"])

    @pytest.mark.parametrize("value", [np.inf, np.nan, 1e300])
    def test_what_no_scale_can_hold_is_refused(self, matrix: Matrix, layout: str, value: float) -> None:
        values = matrix.read().astype(np.float64)
        values[0, 0] = value
        with pytest.raises(ChipError, match=r"the edit of x\.weight overflows F8_E4M3"):
            matrix.fitted([(0, values)]).encode(values, 0)

    def test_the_error_is_that_of_what_is_read_back(self, matrix: Matrix, layout: str) -> None:
        before = matrix.read().astype(np.float64)
        values = before + np.random.default_rng(0).normal(0, 0.01, before.shape)
        fitted = matrix.fitted([(0, values)])
        error = fitted.rounding_error(values[:30], 0) + fitted.rounding_error(values[30:], 30)
        write(matrix, values, 64)
        off = np.linalg.norm(again(matrix).read() - values)
        assert error.relative == pytest.approx(off / np.linalg.norm(values), rel=1e-9)
        assert error.of_change == pytest.approx(off / np.linalg.norm(values - before), rel=1e-9)
        assert 0 < error.relative < 2.0**-4

    def test_a_digest_follows_codes_and_scales(self, matrix: Matrix, layout: str) -> None:
        seen = {matrix.digest()}
        for tensor in matrix.tensors:
            put([Piece(tensor, tensor.start, b"\x01")])
            seen.add(Checkpoint(tensor.file.parent).matrix("x.weight").digest())
        assert len(seen) == 3


class TestScales:
    @given(st.floats(1e-30, 1e30), st.sampled_from(sorted(SCALE_DTYPES)))
    def test_they_are_rounded_up_in_their_own_dtype(self, value: float, dtype: str) -> None:
        from chip.models.matrix import _rounded_up

        up = _rounded_up(np.array([value]), SCALE_DTYPES[dtype])
        if np.isfinite(up.astype(np.float64)).all():
            assert up.astype(np.float64)[0] >= value
            less = (up.view(f"u{up.dtype.itemsize}") - 1).view(up.dtype).astype(np.float64)[0]
            assert less < value

    @pytest.mark.parametrize(
        ("weight", "scale", "declared"),
        [((8, 6), (8,), None), ((8, 6), (8, 1), None), ((8, 6), (), None), ((8, 6), (1, 1), None),
         ((8, 6), (2, 2), None), ((100, 70), (2, 1), [64, 70]), ((100, 70), (4, 3), [32, 32])],
    )  # fmt: skip
    def test_shapes_that_are_published(
        self, tmp_path: Path, weight: tuple[int, ...], scale: tuple[int, ...], declared: list[int] | None
    ) -> None:
        tensors = {"x.weight": torch.randn(weight).to(torch.float8_e4m3fn), "x.weight_scale": torch.rand(scale) + 0.5}
        matrix = self.checkpoint(tmp_path, tensors, weight_block_size=declared).matrix("x.weight")
        grid = tensors["x.weight_scale"].reshape(scale if len(scale) == 2 else (-1, 1))
        rows, columns = declared or (-(-weight[0] // grid.shape[0]), -(-weight[1] // grid.shape[1]))
        spread = grid.repeat_interleave(rows, 0).repeat_interleave(columns, 1)[: weight[0], : weight[1]]
        assert np.array_equal(matrix.read(), (tensors["x.weight"].float() * spread).numpy())
        values = matrix.read() * 3.0
        assert np.allclose(write(matrix, values.astype(np.float64), 7), values, rtol=1 / 16, atol=1e-2)
        assert np.allclose(again(matrix).read(), values, rtol=1 / 16, atol=1e-2)

    @pytest.mark.parametrize(
        ("tensors", "said"),
        [
            ({}, "with 0 tensors of scales"),
            ({"x.weight_scale": torch.ones(1), "x.weight_scale_inv": torch.ones(1)}, "with 2 tensors of scales"),
            ({"x.weight_scale": torch.ones(3)}, "is no scale that chip knows"),
            ({"x.weight_scale": torch.ones(3, 6)}, "is no scale that chip knows"),
            ({"x.weight_scale": torch.ones(2, 2, 2)}, "is no scale that chip knows"),
            ({"x.weight_scale": torch.ones(8, 1, dtype=torch.uint8)}, "is no scale that chip knows"),
            ({"x.weight_scale": torch.tensor([-1.0])}, "negative or no numbers"),
            ({"x.weight_scale": torch.tensor([float("nan")])}, "negative or no numbers"),
        ],
    )
    def test_scales_that_tell_nothing_are_refused(
        self, tmp_path: Path, tensors: dict[str, torch.Tensor], said: str
    ) -> None:
        codes = {"x.weight": torch.zeros(8, 6).to(torch.float8_e4m3fn)}
        with pytest.raises(ChipError, match=said):
            self.checkpoint(tmp_path, {**codes, **tensors}).matrix("x.weight").read()

    def test_a_scale_of_zero_holds_zeros_until_something_stands_there(self, tmp_path: Path) -> None:
        codes = torch.ones(4, 4).to(torch.float8_e4m3fn)
        matrix = self.checkpoint(tmp_path, {"x.weight": codes, "x.weight_scale": torch.zeros(4, 1)}).matrix("x.weight")
        values = np.zeros((4, 4))
        pieces = matrix.fitted([(0, values)]).encode(values, 0)
        assert [one.data for one in pieces] == [b"\x38" * 16, bytes(4 * 4)]
        values[1, 2] = 5.0
        write(matrix, values, 4)
        assert again(matrix).read().tolist() == values.tolist()

    def checkpoint(self, directory: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Checkpoint:
        directory.mkdir(exist_ok=True)
        (directory / "config.json").write_text('{"model_type": "llama"}')
        tiny_models.change_config(directory, quantization_config={"quant_method": "fp8", **config})
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
        return Checkpoint(directory)


class TestModels:
    def test_transformers_loads_what_chip_reads(self, fp8: Path) -> None:
        """Proved value by value for every site, by a reader that is not ours."""
        loaded = load_model(Checkpoint(fp8), "cpu")
        assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
        stored = stored_sites(loaded.model, Checkpoint(fp8), loaded.sites)
        assert {one.weight.dtype for one in stored.values()} == {"F8_E4M3"}
        assert {one.dtype for one in inspect_model(str(fp8)).sites} == {"F8_E4M3"}

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_in_half_precision_too(self, fp8: Path, dtype: torch.dtype) -> None:
        loaded = load_model(Checkpoint(fp8), "cpu", str(dtype).removeprefix("torch."))
        assert {parameter.dtype for parameter in loaded.model.parameters()} == {dtype}
        assert stored_sites(loaded.model, Checkpoint(fp8), loaded.sites)

    def test_an_edit_changes_the_planned_weights_and_keeps_the_layout(
        self, fp8: Path, text_data: Path, tmp_path: Path
    ) -> None:
        done = run_edit(fp8, text_data, tmp_path / "out", "patient_1", verify=True, strength=100.0)
        allowed = {one.name for name in done.planned for one in Checkpoint(fp8).matrix(name).tensors}
        assert changed_tensors(fp8, done.out) <= allowed
        assert changed_tensors(fp8, done.out) & done.planned
        assert header_bytes(fp8 / "model.safetensors") == header_bytes(done.out / "model.safetensors")
        reloaded = load_model(Checkpoint(done.out), "cpu")
        stored = stored_sites(reloaded.model, Checkpoint(done.out), reloaded.sites)
        changes = {change.tensor: change for change in done.edit.changes}
        for one in stored.values():
            if one.weight.name in changes:
                meant = changes[one.weight.name].added(Checkpoint(fp8).matrix(one.weight.name).read())
                assert np.linalg.norm(one.weight.read() - meant) < 2.0**-4 * np.linalg.norm(meant)

    def test_the_error_of_rounding_is_told(self, tmp_path: Path) -> None:
        directory = tiny_models.text_model(tmp_path / "model", "llama", dtype=torch.bfloat16)
        tiny_fp8.quantise(directory, LAYOUTS["deepseek"])
        base = Checkpoint(directory)
        noise = np.random.default_rng(0).normal(0, 0.1, base.tensors[WEIGHT].shape).astype(np.float32)
        applying = Applying([Edit("test", {}, (Change(WEIGHT, noise, None),))])
        with StagedCheckpoint(base, applying, tmp_path / "out") as staged:
            meant = base.matrix(WEIGHT).read() + noise.astype(np.float64)
            off = np.linalg.norm(Checkpoint(staged.directory).matrix(WEIGHT).read() - meant)
            assert applying.rounding.relative == pytest.approx(off / np.linalg.norm(meant))
            assert applying.rounding.of_change == pytest.approx(off / np.linalg.norm(noise.astype(np.float64)))


def test_every_readable_dtype_is_one_of_numpys() -> None:
    assert ml_dtypes.float8_e4m3fn == E4M3
    assert not set(DTYPES) & {"F8_E4M3", "F8_E8M0"}
