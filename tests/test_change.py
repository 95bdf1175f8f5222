"""Changes of a stored tensor: block by block as all at once, and refused where they do not fit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawing import drawn
from safetensors import safe_open
from safetensors.numpy import load_file, save, save_file

from chip.edit import Change, Edit, Projected, load_edit, save_edits
from chip.edit.change import Redirected
from chip.edit.edit import arrays_of
from chip.edit.file import load_edits
from chip.errors import ChipError
from chip.models.sites import Site, StoredSite
from chip.models.stored import Array, StoredTensor, read_header
from chip.solve import changes
from chip.solve.orthogonal import Projection

ENTRY = {"tensor": "t", "parameter": "w", "transposed": False}
HEADER: dict[str, Any] = {
    "format": "chip-edit-2",
    "edits": [
        {
            "method": "chip", "settings": {"k": 1}, "base": {"t": "b"}, "edited": {"t": "e"}, "nodes": ["n"],
            "after": ["a"], "transferred": True, "changes": [ENTRY],
        }
    ],
}  # fmt: skip
ARRAYS = {"0/0/left": np.ones((4, 2), np.float32), "0/0/right": np.ones((2, 5), np.float32)}


def change(**values: object) -> Change:
    left, right = drawn(0, 4, 2).float().numpy(), drawn(1, 2, 5).float().numpy()
    return Change(**{"tensor": "t", "left": left, "right": right, **values})  # type: ignore[arg-type]


class TestChange:
    @pytest.mark.parametrize("rows", [None, [6, 0, 3, 2]])
    @pytest.mark.parametrize("dense", [False, True])
    def test_block_by_block_it_is_as_all_at_once(self, rows: list[int] | None, dense: bool) -> None:
        height = 4 if rows is None else 8
        one = change(rows=None if rows is None else np.array(rows))
        exact = one.left.astype(np.float64) @ one.right.astype(np.float64)
        if dense:
            one = replace(one, left=exact.astype(np.float32), right=None)
            exact = one.left.astype(np.float64)
        matrix = drawn(2, height, 5).numpy()
        expected = matrix.copy()
        expected[slice(None) if rows is None else rows] += exact
        for size in (1, 2, 3, height):
            blocks = [one.added(matrix[start : start + size], start) for start in range(0, height, size)]
            np.testing.assert_allclose(np.concatenate(blocks), expected, rtol=1e-14)
        np.testing.assert_allclose(one.added(matrix), expected, rtol=1e-14)
        assert one.added(matrix.astype(np.float32)).dtype == np.float64

    @pytest.mark.parametrize(
        ("values", "shape", "fits"),
        [
            ({}, (4, 5), True),
            ({}, (3, 5), False),
            ({}, (5, 5), False),
            ({}, (4, 6), False),
            ({}, (4, 4), False),
            ({}, (), False),
            ({}, (4,), False),
            ({"rows": np.arange(4)}, (4, 5), True),
            ({"rows": np.arange(1, 5)}, (5, 5), True),
            ({"rows": np.arange(1, 5)}, (4, 5), False),
            ({"rows": np.arange(-1, 3)}, (4, 5), False),
            ({"rows": np.arange(3)}, (4, 5), False),
            ({"right": np.ones((2, 6), np.float32)}, (4, 2, 3), True),
            ({"right": np.ones((2, 1), np.float32)}, (4,), True),
            ({"left": np.ones((0, 2), np.float32), "right": np.ones((2, 0), np.float32)}, (0, 0), True),
        ],
    )
    def test_it_fits_the_shape_that_it_is_of(
        self, values: dict[str, object], shape: tuple[int, ...], fits: bool
    ) -> None:
        if fits:
            change(**values).refuse_misfit(shape)
        else:
            with pytest.raises(ChipError, match="the edit of t does not fit its shape"):
                change(**values).refuse_misfit(shape)


class TestDerivation:
    basis, rows = drawn(2, 2, 3).float().numpy(), np.array([2, 0, 1])
    keys, outputs = drawn(3, 2, 5).float().numpy(), drawn(4, 4, 2).float().numpy()

    @pytest.mark.parametrize("transposed", [False, True])
    def test_a_file_keeps_it_under_the_names_of_its_format(self, tmp_path: Path, transposed: bool) -> None:
        for number, (derivation, names) in enumerate(
            (
                (Projected(self.basis, self.rows, transposed), ("projected.basis", "projected.rows")),
                (Projected(self.basis, None, transposed), ("projected.basis",)),
                (Redirected(self.keys, self.outputs, transposed), ("redirected.keys", "redirected.outputs")),
                (None, ()),
            )
        ):
            one = change(derivation=derivation, rows=np.array([5, 1, 7, 0]))
            assert set(arrays_of(one)) == {"left", "right", "rows", *names}
            save_edits([Edit("chip", {}, (one,))], tmp_path / str(number))
            kept = load_edit(tmp_path / str(number)).changes[0]
            assert type(kept.derivation) is type(derivation)
            assert kept.derivation is None or kept.derivation.transposed is transposed
            for name, part in arrays_of(one).items():
                np.testing.assert_array_equal(arrays_of(kept)[name], part)

    def test_it_is_part_of_what_an_edit_is(self) -> None:
        derivations = (
            None,
            Projected(self.basis),
            Projected(self.basis, self.rows),
            Projected(2 * self.basis),
            Redirected(self.keys, self.outputs),
            Redirected(self.keys, 2 * self.outputs),
        )
        edits = [Edit("chip", {}, (change(derivation=one),)) for one in derivations]
        assert len({one.identity for one in edits}) == len(edits)
        assert edits[0].identity == Edit("chip", {}, (change(),)).identity


class TestFile:
    def written(self, path: Path, arrays: dict[str, Array], header: object) -> Path:
        path.write_bytes(save({**ARRAYS, **arrays}, {"chip": json.dumps(header)}))
        return path

    def test_all_that_an_edit_says_is_read_back(self, tmp_path: Path) -> None:
        (one,) = load_edits(self.written(tmp_path / "edit", {}, HEADER))
        assert one == Edit("chip", {"k": 1}, one.changes, {"t": "b"}, {"t": "e"}, ("n",), ("a",), True)
        assert (one.changes[0].tensor, one.changes[0].parameter, one.changes[0].rows) == ("t", "w", None)
        save_edits([one, replace(one, nodes=(), transferred=False)], tmp_path / "again")
        kept = json.loads(read_header(tmp_path / "again").metadata["chip"])
        assert kept == {
            **HEADER,
            "edits": [HEADER["edits"][0], {**HEADER["edits"][0], "nodes": [], "transferred": False}],
        }
        assert sorted(load_file(tmp_path / "again")) == ["0/0/left", "0/0/right", "1/0/left", "1/0/right"]
        assert [edit.transferred for edit in load_edits(tmp_path / "again")] == [True, False]
        with pytest.raises(ChipError, match="holds 2 edits where one was expected"):
            load_edit(tmp_path / "again")

    def test_arrays_stay_on_disk_and_those_of_nothing_are_nothing(self, tmp_path: Path) -> None:
        empty = {"0/0/left": np.ones((4, 0), np.float32), "0/0/right": np.ones((0, 5), np.float32)}
        for number, arrays in enumerate(({}, empty)):
            found = load_edit(self.written(tmp_path / str(number), arrays, HEADER)).changes[0]
            assert isinstance(found.left, np.memmap) is not bool(arrays)
            assert found.right is not None
            for name, part in (("0/0/left", found.left), ("0/0/right", found.right)):
                assert part.dtype == np.float32
                np.testing.assert_array_equal(part, {**ARRAYS, **arrays}[name])
            assert not found.left.flags.writeable or not found.left.size

    def test_strided_factors_are_written_in_their_order(self, tmp_path: Path) -> None:
        one = Edit("chip", {}, (change(left=drawn(0, 2, 4).float().numpy().T),))
        save_edits([one], tmp_path / "edit")
        with safe_open(tmp_path / "edit", "np") as file:
            np.testing.assert_array_equal(file.get_tensor("0/0/left"), one.changes[0].left)

    @pytest.mark.parametrize(
        ("arrays", "said"),
        [
            ({"left": np.ones(4, np.float32)}, "a factor is no matrix of 32-bit numbers"),
            ({"left": np.ones((4, 2), np.int64)}, "a factor is no matrix of 32-bit numbers"),
            ({"right": np.ones((3, 5), np.float32)}, "the factors of t do not fit each other"),
            ({"rows": np.zeros((2, 2), np.int64)}, "rows are not a list of different numbers"),
            ({"rows": np.ones(4, np.float32)}, "rows are not a list of different numbers"),
            ({"rows": np.array([1, 2, 1, 3])}, "rows are not a list of different numbers"),
            ({"projected.basis": np.ones(4, np.float32)}, "a factor is no matrix of 32-bit numbers"),
            ({"redirected.keys": np.ones(4, np.float32)}, "a factor is no matrix of 32-bit numbers"),
            ({"redirected.outputs": np.ones(4, np.float32)}, "a factor is no matrix of 32-bit numbers"),
            ({"left": np.ones((4, 2), np.float64)}, "it is damaged"),
        ],
        ids=range(10),
    )
    def test_arrays_that_no_edit_has(self, tmp_path: Path, arrays: dict[str, Array], said: str) -> None:
        path = self.written(tmp_path / "edit", {f"0/0/{name}": one for name, one in arrays.items()}, HEADER)
        with pytest.raises(ChipError, match=said):
            load_edit(path)

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            *(({name: wrong}, f"{name} are not texts") for name in ("nodes", "after") for wrong in ([1], ["a", None])),
            *(({name: {"t": 1, "u": "d"}}, f"the digests {name} are not texts") for name in ("base", "edited")),
            ({"method": 1}, "method or settings are missing"),
            ({"settings": []}, "method or settings are missing"),
            ({"changes": [{**ENTRY, "tensor": 1}]}, "a change names no tensor"),
            ({"changes": [{**ENTRY, "parameter": None}]}, "a change names no tensor"),
            ({"changes": [ENTRY, {**ENTRY, "tensor": "u"}]}, "the factors of u do not fit each other"),
            *(({name: None}, "it is damaged") for name in ("nodes", "base", "changes")),
        ],
        ids=str,
    )
    def test_entries_that_no_edit_has(self, tmp_path: Path, values: dict[str, Any], said: str) -> None:
        header = {**HEADER, "edits": [{**HEADER["edits"][0], **values}]}
        with pytest.raises(ChipError, match=said):
            load_edits(self.written(tmp_path / "edit", {}, header))

    def test_what_is_no_true_is_none(self, tmp_path: Path) -> None:
        entry = {**HEADER["edits"][0], "transferred": 1, "changes": [{**ENTRY, "transposed": 1}]}
        basis = {"0/0/projected.basis": np.ones((1, 4), np.float32)}
        found = load_edit(self.written(tmp_path / "edit", basis, {**HEADER, "edits": [entry]}))
        assert found.transferred is False
        assert found.changes[0].derivation is not None
        assert found.changes[0].derivation.transposed is False

    def test_keys_without_what_they_gave_derive_nothing(self, tmp_path: Path) -> None:
        for name in ("keys", "outputs"):
            arrays = {f"0/0/redirected.{name}": np.ones((2, 5), np.float32)}
            assert load_edit(self.written(tmp_path / name, arrays, HEADER)).changes[0].derivation is None

    def test_other_formats_and_files_without_an_edit(self, tmp_path: Path) -> None:
        with pytest.raises(ChipError, match=r"has the format 'chip-edit-1'; this version of chip reads chip-edit-2$"):
            load_edits(self.written(tmp_path / "edit", {}, {**HEADER, "format": "chip-edit-1"}))
        with pytest.raises(ChipError, match="it holds no edit"):
            load_edits(self.written(tmp_path / "edit", {}, {**HEADER, "edits": []}))
        for header in ([], "", None):
            with pytest.raises(ChipError, match="is no edit file that chip wrote"):
                load_edits(self.written(tmp_path / "edit", {}, header))


class TestStored:
    """A weight (4, 3) in the module tree, kept as it is or inputs first, with and without a bias."""

    left, right = drawn(0, 2, 1), drawn(1, 1, 3)
    rows = torch.tensor([3, 1])

    def site(self, *, transposed: bool, bias: bool = True) -> StoredSite:
        def one(name: str, *shape: int) -> StoredTensor:
            save_file({name: np.zeros(shape, np.float32)}, f"{name}.safetensors")
            (found,) = read_header(Path(f"{name}.safetensors")).tensors
            return found

        site = Site("layer", "language", 0, "layer", given="given" if transposed else "")
        return StoredSite(site, one("w", *((3, 4) if transposed else (4, 3))), one("b", 4) if bias else None)

    @pytest.fixture(autouse=True)
    def elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize("transposed", [False, True])
    def test_a_weight_gains_its_change_however_it_is_kept(self, transposed: bool) -> None:
        site, derivation = self.site(transposed=transposed), Projected(np.eye(1, 4, dtype=np.float32))
        whole, left = (self.left @ self.right).float().double(), drawn(2, 4, 1)
        some = torch.zeros(4, 3).double().index_copy(0, self.rows, whole)
        for parts, expected in (
            ((left, self.right, None), left @ self.right),
            ((self.left, self.right, self.rows), some),
            ((drawn(3, 4, 3), None, None), drawn(3, 4, 3)),
        ):
            found = changes.weight_change(site, *parts, derivation)
            assert (found.tensor, found.parameter) == ("w", site.site.parameter)
            assert found.derivation is derivation
            arrays = [one for name, one in arrays_of(found).items() if name != "projected.basis"]
            assert all(one.flags.c_contiguous for one in arrays)
            assert {one.dtype for one in arrays} <= {np.dtype(np.float32), np.dtype(np.int64)}
            kept = found.added(np.zeros((3, 4) if transposed else (4, 3)))
            np.testing.assert_allclose(kept.T if transposed else kept, expected, rtol=1e-5, atol=1e-6)
            assert found.rank_bound == (3 if parts[1] is None else 1)

    def test_of_rows_alone_where_the_weight_is_kept_as_it_is(self) -> None:
        found = changes.weight_change(self.site(transposed=False), self.left, self.right, self.rows.int())
        assert found.rows is not None
        assert (found.rows.tolist(), found.rows.dtype, found.left.shape) == ([3, 1], np.int64, (2, 1))
        assert found.derivation is None

    @pytest.mark.parametrize("rows", [None, torch.tensor([3, 1])])
    def test_a_bias_is_a_column(self, rows: torch.Tensor | None) -> None:
        site, derivation = self.site(transposed=True), Projected(np.eye(1, 4, dtype=np.float32))
        left = drawn(2, 4 if rows is None else 2, 1)
        found = changes.bias_change(site, left, drawn(3, 1, 1), rows, derivation)
        assert (found.tensor, found.parameter, found.derivation) == ("b", "layer.bias", derivation)
        expected = torch.zeros(4, 1).double()
        expected[slice(None) if rows is None else rows] = left @ drawn(3, 1, 1)
        np.testing.assert_allclose(found.added(np.zeros((4, 1))), expected, rtol=1e-5, atol=1e-6)
        with pytest.raises(ChipError, match="layer has no bias that could be changed"):
            changes.bias_change(self.site(transposed=False, bias=False), left, drawn(3, 1, 1))

    def test_what_it_is_derived_from_is_kept_in_32_bits_and_reckoned_in_64(self) -> None:
        weight, keys = drawn(4, 4, 3), drawn(5, 2, 3)
        for transposed in (False, True):
            found = changes.redirected(self.site(transposed=transposed), weight.float(), keys)
            assert (found.keys.dtype, found.outputs.dtype, found.transposed) == (np.float32, np.float32, transposed)
            np.testing.assert_array_equal(found.keys, keys.float())
            expected = (weight.float().double() @ keys.float().double().T).float()
            np.testing.assert_array_equal(found.outputs, expected)
            projection = changes.projected(Projection(self.rows, self.left.T), transposed=transposed)
            np.testing.assert_array_equal(projection.basis, self.left.T.float())
            assert projection.rows is not None
            assert (projection.rows.tolist(), projection.transposed) == ([3, 1], transposed)
        assert changes.projected(Projection(self.rows, self.left.T)).transposed is False
