"""Which edits fit which weights, by digests alone; and what writing them in their order leaves, tensor by tensor."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tiny_fp8
from safetensors.numpy import load_file, save_file

from chip.edit import Applying, Change, Edit, Projected
from chip.edit.chain import fitting
from chip.edit.rewriting import Restoring, edited_digests
from chip.errors import ChipError
from chip.models.checkpoint import Checkpoint
from chip.models.stored import Array

BASIS = np.eye(2, 4, dtype=np.float32)


def stored(directory: Path, seed: int, **dtypes: type) -> Checkpoint:
    """Tensors `one`, `two` and `three` (4, 3), drawn by seed, each in a file of its own."""
    directory.mkdir()
    draw = np.random.default_rng(seed)
    (directory / "config.json").write_text(json.dumps({"model_type": "nothing"}))
    files = {name: f"{name}.safetensors" for name in ("one", "two", "three")}
    for name, file in files.items():
        save_file({name: draw.normal(size=(4, 3)).astype(dtypes.get(name, np.float32))}, directory / file)
    index = {"metadata": {}, "weight_map": files}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return Checkpoint(directory)


def change(name: str, seed: int) -> Change:
    draw = np.random.default_rng(seed)
    left, right = (draw.normal(size=shape).astype(np.float32) for shape in ((4, 2), (2, 3)))
    return Change(name, left, right, derivation=Projected(BASIS))


def solved(base: Checkpoint, *names: str, seed: int = 0, after: tuple[Edit, ...] = ()) -> Edit:
    """An edit of these tensors as the base holds them, with the digests that it leaves."""
    edit = Edit(
        "chip",
        {},
        tuple(change(name, seed + number) for number, name in enumerate(names)),
        {name: base.tensors[name].digest() for name in names},
        after=tuple(one.identity for one in after),
    )
    return replace(edit, edited=edited_digests(base, [edit]))


def written(base: Checkpoint, directory: Path, *edits: Edit) -> Checkpoint:
    shutil.copytree(base.directory, directory)
    Applying(edits).write(base, directory)
    return Checkpoint(directory)


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    return stored(tmp_path / "base", 0)


class TestFitting:
    def test_edits_fit_what_they_were_solved_on_and_what_those_before_leave(
        self, tmp_path: Path, base: Checkpoint
    ) -> None:
        first = solved(base, "one", "two")
        between = written(base, tmp_path / "between", first)
        second, beside = solved(between, "two", "three", seed=5, after=(first,)), solved(base, "three", seed=9)
        for edits in ((first,), (first, second), (first, beside), (beside, first), ()):
            assert fitting(base, edits) == edits
            assert fitting(base, edits, transfer=True) == edits
        with pytest.raises(ChipError, match=r"^edit 1 was solved on other weights than .* \(two differs\)$"):
            fitting(base, (second,))
        with pytest.raises(ChipError, match=r"edit 2 was .* \(two differs\), and so$"):
            fitting(base, (beside, second), hint=", and so")

    def test_beside_edits_that_the_weights_carry_those_fit_that_were_solved_before_them(
        self, tmp_path: Path, base: Checkpoint
    ) -> None:
        first, other = solved(base, "one", "two"), solved(base, "two", seed=7)
        edited = written(base, tmp_path / "edited", first)
        later = solved(edited, "two", "three", seed=5)
        assert fitting(edited, (other,), (first,)) == (other,)
        assert fitting(edited, (later,), (first,)) == (later,)
        assert fitting(edited, (later,)) == (later,)
        twice = written(edited, tmp_path / "twice", later)
        assert fitting(twice, (other,), (first, later)) == (other,)
        with pytest.raises(ChipError, match=r"does not carry what --after names: one is not as"):
            fitting(base, (other,), (first,))
        with pytest.raises(ChipError, match=r"does not carry what --after names: two is not as"):
            fitting(twice, (other,), (later, first))
        elsewhere = replace(first, edited={"absent": "its digest"})
        assert fitting(base, (other,), (elsewhere,)) == (other,)

    def test_an_edit_that_is_given_twice_is_refused(self, base: Checkpoint) -> None:
        first, other = solved(base, "one"), solved(base, "three", seed=3)
        for edits, after in (((first, other, first), ()), ((other, first), (first,))):
            with pytest.raises(ChipError, match=rf"^one edit was given twice \({first.identity[:12]}…\)"):
                fitting(base, edits, after)

    def test_an_edit_that_the_weights_carry_is_refused_and_is_not_transferred(
        self, tmp_path: Path, base: Checkpoint
    ) -> None:
        first, beside = solved(base, "one", "two"), solved(base, "three")
        edited = written(base, tmp_path / "edited", first)
        for transfer in (False, True):
            with pytest.raises(ChipError, match="carries edit 2 already; give the model as it was before it"):
                fitting(edited, (beside, first), transfer=transfer)
        half = replace(first, edited={**first.edited, "two": "another digest"})
        with pytest.raises(ChipError, match="edit 1 was solved on other weights"):
            fitting(edited, (half,))
        with pytest.raises(ChipError, match="edit 1 was solved on other weights"):
            fitting(edited, (replace(first, edited={}),))
        with pytest.raises(ChipError, match="edit 1 was solved on other weights"):
            fitting(edited, (replace(first, edited={"absent": "its digest"}),))

    def test_a_tensor_that_is_not_there_fits_nothing(self, base: Checkpoint) -> None:
        one = replace(solved(base, "one"), changes=(change("absent", 0),))
        with pytest.raises(ChipError, match=r"\(absent differs\)"):
            fitting(base, (one,))

    def test_what_does_not_fit_is_derived_anew_where_that_is_asked_for(self, tmp_path: Path, base: Checkpoint) -> None:
        other = stored(tmp_path / "other", 1)
        first, fits = solved(base, "one"), solved(other, "two")
        moved, same = fitting(other, (first, fits), transfer=True)
        assert same is fits
        assert moved.transferred
        assert moved.base == {"one": other.tensors["one"].digest()}
        between = written(base, tmp_path / "between", first)
        second = solved(between, "one", seed=4, after=(first,))
        with pytest.raises(ChipError, match="edit 2 was solved on what another of these edits leaves"):
            fitting(other, (first, second), transfer=True)
        assert fitting(other, (second,), transfer=True)[0].transferred


def as_kept(values: Array, dtype: type) -> Array:
    return values.astype(np.float32).astype(dtype)


class TestRewriting:
    @pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
    def test_each_edit_rounds_once_to_what_is_stored_and_leaves_its_digest(self, tmp_path: Path, dtype: type) -> None:
        base = stored(tmp_path / "base", 0, two=dtype)
        changes = change("two", 1), change("one", 2), change("two", 3)
        edits = (
            Edit("a", {}, (changes[0], changes[1]), {"two": "", "one": ""}),
            Edit("b", {}, (change("three", 4),), {"three": ""}),
            Edit("c", {}, (changes[2],), {"two": ""}),
        )
        values = base.tensors["two"].read()
        steps = [as_kept(changes[0].added(values), dtype)]
        steps.append(as_kept(changes[2].added(steps[0]), dtype))
        shutil.copytree(base.directory, tmp_path / "out")
        applying = Applying(edits)
        digests = applying.write(base, tmp_path / "out")
        found = load_file(tmp_path / "out" / "two.safetensors")["two"]
        np.testing.assert_array_equal(found, steps[1])
        assert [edit.edited.get("two") for edit in applying.edits] == [
            hashlib.sha256(steps[0].tobytes()).hexdigest(),
            None,
            hashlib.sha256(steps[1].tobytes()).hexdigest(),
        ]
        assert [list(edit.edited) for edit in applying.edits] == [["two", "one"], ["three"], ["two"]]
        out = Checkpoint(tmp_path / "out")
        assert digests == edited_digests(base, edits) == {name: one.digest() for name, one in out.tensors.items()}
        assert applying.rounding.meant == 0
        assert {one.name for one in applying.stored(base)} == {"one", "two", "three"}

    def test_what_does_not_fit_is_refused_before_anything_is_written(self, base: Checkpoint) -> None:
        with pytest.raises(ChipError, match=r"the edit changes absent, which .* does not store"):
            Applying([Edit("a", {}, (change("absent", 0),))]).stored(base)
        narrow = replace(change("one", 0), right=np.zeros((2, 2), np.float32))
        with pytest.raises(ChipError, match="the edit of one does not fit its shape"):
            Applying([Edit("a", {}, (change("two", 0),)), Edit("b", {}, (narrow,))]).stored(base)

    def test_what_is_restored_is_byte_for_byte_what_was_there(self, tmp_path: Path, base: Checkpoint) -> None:
        edited = written(base, tmp_path / "edited", solved(base, "one", "two", "three"))
        restoring = Restoring(base, ["three", "one"])
        assert [one.name for one in restoring.stored(edited)] == ["three", "one"]
        shutil.copytree(edited.directory, tmp_path / "out")
        digests = restoring.write(edited, tmp_path / "out")
        assert digests == {name: base.tensors[name].digest() for name in ("three", "one")}
        for name in ("one", "two", "three"):
            source = edited if name == "two" else base
            file = f"{name}.safetensors"
            assert (tmp_path / "out" / file).read_bytes() == (source.directory / file).read_bytes()

    def test_what_is_stored_otherwise_is_not_restored(self, tmp_path: Path, base: Checkpoint) -> None:
        other = stored(tmp_path / "other", 0, one=ml_dtypes.bfloat16)
        with pytest.raises(ChipError, match="one is not stored alike in"):
            Restoring(other, ["two", "one"]).stored(base)

    @pytest.mark.parametrize("layout", ["deepseek", "fbgemm"])
    def test_of_fp8_it_tells_what_the_last_rounding_took(self, tmp_path: Path, layout: str) -> None:
        (tmp_path / "base").mkdir()
        (tmp_path / "base" / "config.json").write_text(json.dumps({"model_type": "nothing"}))
        draw = np.random.default_rng(0)
        names = ("a.up_proj.weight", "b.up_proj.weight")
        tensors = {name: draw.normal(size=(32, 16)).astype(np.float32) for name in names}
        plain = {"plain": draw.normal(size=(32, 16)).astype(np.float32)}
        save_file(tensors | plain, tmp_path / "base" / "model.safetensors")
        base = Checkpoint(tiny_fp8.quantise(tmp_path / "base", tiny_fp8.LAYOUTS[layout]))
        changes = {
            name: Change(name, draw.normal(size=(32, 16)).astype(np.float32), None) for name in (*names, "plain")
        }
        first, second = (Edit("a", {}, tuple(changes.values())), Edit("b", {}, (changes[names[0]],)))
        between, out = (shutil.copytree(base.directory, tmp_path / name) for name in ("between", "out"))
        Applying([first]).write(base, between)
        applying = Applying([first, second])
        applying.write(base, out)
        exact = {
            names[0]: changes[names[0]].added(Checkpoint(between).matrix(names[0]).read()),
            names[1]: changes[names[1]].added(base.matrix(names[1]).read()),
        }
        expected = np.zeros(3)
        for name, meant in exact.items():
            found, given = Checkpoint(out).matrix(name), base.matrix(name)
            np.testing.assert_allclose(found.read(), meant, atol=0.08 * np.abs(meant).max())
            expected += [np.square(one).sum() for one in (found.read() - meant, meant, meant - given.read())]
            assert next(edit.edited[name] for edit in reversed(applying.edits) if name in edit.edited) == found.digest()
        assert applying.edits[0].edited[names[0]] == Checkpoint(between).matrix(names[0]).digest()
        rounding = applying.rounding
        np.testing.assert_allclose([rounding.off, rounding.meant, rounding.change], expected)
        assert edited_digests(base, [first, second]) == {
            name: one.digest() for name, one in Checkpoint(out).tensors.items()
        }
