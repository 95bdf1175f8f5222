"""Edits and the writer: rounded once, written whole or not at all, and silent about what was removed."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tiny_models
import torch
from checkpoint_files import changed_tensors, changed_values, digests, header_bytes, mode
from edits import request, run_edit
from hypothesis import given
from hypothesis import strategies as st

from chip.edit import Applying, Change, Edit, StagedCheckpoint, load_edit, refuse_existing, save_edits
from chip.edit.outputs import files_left_behind
from chip.edit.receipt import hashed_nodes, read_salt, salt_file
from chip.errors import ChipError
from chip.models.checkpoint import Checkpoint
from chip.models.stored import rounded
from chip.workflow import carry_out, prepare_edit

WEIGHT = "model.layers.1.mlp.down_proj.weight"


def change_of(
    seed: int = 0, rows: list[int] | None = None, *, tensor: str = WEIGHT, outputs: int = 32, inputs: int = 64
) -> Change:
    """A random change of rank two of the tiny Llama's weight."""
    rng = np.random.default_rng(seed)
    count = outputs if rows is None else len(rows)
    left = rng.normal(size=(count, 2)).astype(np.float32)
    right = rng.normal(size=(2, inputs)).astype(np.float32)
    return Change(tensor, left, right, None if rows is None else np.array(rows))


def edit_of(*changes: Change) -> Edit:
    return Edit("oblique", {"strength": 1.0}, changes or (change_of(),), {WEIGHT: "digest"})


def nearest_bfloat16(value: float) -> int:
    """The bits of the bfloat16 next to a number's magnitude, by exact arithmetic."""
    if math.isnan(value):
        return 0x7FC0
    if math.isinf(value):
        return 0x7F80
    exact = Fraction(abs(value))
    exponent = max(math.frexp(abs(value))[1] - 8, -133) if value else -133
    unit = Fraction(2) ** exponent
    steps = round(exact / unit)  # to even, where two are as near
    bits = steps if exponent == -133 else (exponent + 133) * 128 + steps
    return min(bits, 0x7F80)


def leftovers(directory: Path) -> list[str]:
    """Everything in a directory that is hidden, or named like something staged."""
    return [path.name for path in directory.iterdir() if path.name.startswith(".") or "partial" in path.name]


class TestChange:
    @given(st.integers(0, 2**31), st.sampled_from([np.float64, np.float32, np.float16, ml_dtypes.bfloat16]))
    def test_it_is_computed_in_64_bits_and_rounded_once(self, seed: int, dtype: type) -> None:
        values = np.random.default_rng(seed).normal(size=(32, 64)).astype(dtype)
        change = change_of(seed + 1)
        exact = values.astype(np.float64) + change.left.astype(np.float64) @ change.right.astype(np.float64)
        edited = changed_values(change, values)
        assert edited.dtype == values.dtype
        assert edited.tobytes() == rounded(exact, np.dtype(dtype)).tobytes()

    def test_bfloat16_is_rounded_from_the_exact_sum(self) -> None:
        half_way = np.array([[1.0]], dtype=ml_dtypes.bfloat16)
        above = Change("t", np.array([[2.0**-8]], dtype=np.float32), None)
        nudged = Change("t", np.array([[2.0**-8, 2.0**-30]], np.float32), np.ones((2, 1), np.float32))
        assert float(changed_values(above, half_way)[0, 0]) == 1.0
        assert float(changed_values(nudged, half_way)[0, 0]) == 1.0 + 2.0**-7

    @given(st.lists(st.floats(width=64), min_size=1, max_size=60), st.integers(-60, 60))
    def test_bfloat16_is_the_nearest_one_of_every_float(self, numbers: list[float], exponent: int) -> None:
        """Against exact arithmetic: of the two neighbours the nearer, of two as near the even one."""
        with np.errstate(all="ignore"):
            values = np.array(numbers) * 2.0**exponent
            found = rounded(values, np.dtype(ml_dtypes.bfloat16))
        assert np.array_equal(np.signbit(values), np.signbit(found.astype(np.float64)))
        for value, bits in zip(values.tolist(), found.view(np.uint16).tolist(), strict=True):
            assert bits & 0x7FFF == nearest_bfloat16(value)

    def test_rows_outside_are_bit_equal_and_the_input_is_not_touched(self) -> None:
        values = np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)
        kept = values.copy()
        edited = changed_values(change_of(rows=[7, 2, 30]), values)
        assert np.array_equal(values, kept)
        outside = np.setdiff1d(np.arange(32), [2, 7, 30])
        assert edited[outside].tobytes() == values[outside].tobytes()
        assert all((edited[row] != values[row]).any() for row in (2, 7, 30))

    def test_a_vector_is_a_matrix_of_one_column(self) -> None:
        change = change_of(rows=[1, 3], outputs=5, inputs=1)
        edited = changed_values(change, np.zeros(5, dtype=np.float32))
        assert edited.shape == (5,)
        np.testing.assert_array_equal(edited[[1, 3]], change.delta()[:, 0].astype(np.float32))

    def test_a_dense_change_is_its_left_side(self) -> None:
        left = np.ones((32, 64), dtype=np.float32)
        assert Change(WEIGHT, left, None).rank_bound == 32
        assert np.array_equal(changed_values(Change(WEIGHT, left, None), left), 2 * left)
        assert change_of().rank_bound == 2

    def test_a_tensor_changes_once(self) -> None:
        with pytest.raises(ChipError, match="changes the same tensor twice"):
            edit_of(change_of(0), change_of(1))


class TestEditFile:
    def test_round_trip_for_its_owner_only(self, tmp_path: Path) -> None:
        bias = change_of(2, [0, 5], tensor="some.bias", inputs=1)
        full = Change("other.weight", np.eye(3, dtype=np.float32), None)
        edit = edit_of(change_of(1, [4, 1]), bias, full)
        save_edits([edit], tmp_path / "edit")
        assert mode(tmp_path / "edit") == 0o600
        found = load_edit(tmp_path / "edit")
        assert (found.method, found.settings, found.base) == (edit.method, edit.settings, edit.base)
        assert {change.tensor for change in found.changes} == {change.tensor for change in edit.changes}
        for change in edit.changes:
            same = next(one for one in found.changes if one.tensor == change.tensor)
            for mine, theirs in ((change.left, same.left), (change.right, same.right), (change.rows, same.rows)):
                assert (mine is None) == (theirs is None)
                assert mine is None or np.array_equal(mine, theirs)

    def test_the_same_edit_is_the_same_bytes(self, tmp_path: Path) -> None:
        save_edits([edit_of()], tmp_path / "a")
        save_edits([edit_of()], tmp_path / "b")
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
    def test_a_truncated_file_is_one_sentence(self, tmp_path: Path, share: float) -> None:
        save_edits([edit_of()], tmp_path / "edit")
        content = (tmp_path / "edit").read_bytes()
        (tmp_path / "edit").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ChipError, match="is no edit file that chip wrote, or it is damaged"):
            load_edit(tmp_path / "edit")

    def test_other_files_are_no_edits(self, tmp_path: Path, llama_directory: Path) -> None:
        for path in (llama_directory / "model.safetensors", llama_directory / "config.json", tmp_path / "absent"):
            with pytest.raises(ChipError, match="is no edit file that chip wrote"):
                load_edit(path)


class TestWriter:
    def write(self, base: Path, edit: Edit, out: Path, *, force: bool = False) -> Path:
        with StagedCheckpoint(Checkpoint(base), Applying([edit]), out, force=force) as staged:
            staged.commit()
        return out

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_names_order_dtypes_headers_and_other_tensors_stay(self, tmp_path: Path, dtype: torch.dtype) -> None:
        base = tiny_models.text_model(tmp_path / "model", "llama", dtype=dtype, shard_size="40KB")
        out = self.write(base, edit_of(), tmp_path / "out")
        assert changed_tensors(base, out) == {WEIGHT}
        for shard in base.glob("*.safetensors"):
            assert header_bytes(shard) == header_bytes(out / shard.name)
        before, after = digests(base), digests(out)
        assert before.keys() == after.keys()
        edited = {name for name in before if before[name] != after[name]}
        assert edited == {Checkpoint(base).tensors[WEIGHT].file.name}
        assert not leftovers(tmp_path)

    def test_the_edited_values_are_those_of_the_change(self, tmp_path: Path, llama_directory: Path) -> None:
        out = self.write(llama_directory, edit_of(), tmp_path / "out")
        before, after = (Checkpoint(one).tensors[WEIGHT].read() for one in (llama_directory, out))
        assert after.tobytes() == changed_values(change_of(), before).tobytes()

    def test_two_equal_checkpoints_give_equal_bytes(self, tmp_path: Path, llama_directory: Path) -> None:
        shutil.copytree(llama_directory, tmp_path / "copy")
        one = self.write(llama_directory, edit_of(), tmp_path / "one")
        other = self.write(tmp_path / "copy", edit_of(), tmp_path / "other")
        assert digests(one) == digests(other)

    def test_pickles_and_what_training_left_stay_behind(self, tmp_path: Path, llama_directory: Path) -> None:
        base = tmp_path / "model"
        shutil.copytree(llama_directory, base)
        left = ["optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "trainer_state.json", "x.ckpt"]
        left += ["pytorch_model.bin", "checkpoint-5/optimizer.safetensors", "data.pkl"]
        left += [
            "consolidated.safetensors.bak",
            "model.gguf",
            "checkpoint-5/config.json",
            ".git/HEAD",
            "old.receipt.json",
        ]
        kept = ["README.md", "deep/er/notes.txt"]
        for name in left + kept:
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).write_text("content")
        assert sorted(files_left_behind(Checkpoint(base))) == sorted(left)
        out = self.write(base, edit_of(), tmp_path / "out")
        assert set(digests(out)) == set(digests(base)) - set(left)
        assert (out / "deep/er/notes.txt").read_text() == "content"

    def test_the_model_is_never_written_to(self, tmp_path: Path) -> None:
        base = tiny_models.text_model(tmp_path / "model", "llama")
        before = digests(base)
        for path in base.rglob("*"):
            path.chmod(0o444)
        self.write(base, edit_of(), tmp_path / "out")
        assert digests(base) == before

    def test_links_to_a_cache_become_files_of_their_own(self, tmp_path: Path, llama_directory: Path) -> None:
        """A model in the hub's cache is a directory of links; the output must not write through them."""
        base = tmp_path / "snapshot"
        base.mkdir()
        for path in llama_directory.iterdir():
            (base / path.name).symlink_to(path)
        before = digests(llama_directory)
        out = self.write(base, edit_of(), tmp_path / "out")
        assert digests(llama_directory) == before
        assert not any(path.is_symlink() for path in out.rglob("*"))

    def test_an_exception_while_staged_leaves_nothing(self, tmp_path: Path, llama_directory: Path) -> None:
        def fail() -> None:
            with StagedCheckpoint(Checkpoint(llama_directory), Applying([edit_of()]), tmp_path / "out") as staged:
                assert (staged.directory / "config.json").is_file()
                assert mode(staged.directory) == 0o700
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fail()
        assert not list(tmp_path.iterdir())

    def test_what_was_not_committed_is_gone(self, tmp_path: Path, llama_directory: Path) -> None:
        with StagedCheckpoint(Checkpoint(llama_directory), Applying([edit_of()]), tmp_path / "out"):
            pass
        assert not list(tmp_path.iterdir())

    def test_an_edit_of_a_tensor_that_is_not_stored_is_refused(self, tmp_path: Path, llama_directory: Path) -> None:
        with pytest.raises(ChipError, match=r"the edit changes other, which .* does not store"):
            self.write(llama_directory, edit_of(change_of(tensor="other")), tmp_path / "out")
        assert not list(tmp_path.iterdir())

    def test_an_edit_of_another_shape_is_refused(self, tmp_path: Path, llama_directory: Path) -> None:
        with pytest.raises(ChipError, match=WEIGHT):
            self.write(llama_directory, edit_of(change_of(outputs=16)), tmp_path / "out")
        assert not list(tmp_path.iterdir())

    def test_an_overflow_is_refused(self, tmp_path: Path) -> None:
        base = tiny_models.text_model(tmp_path / "model", "llama", dtype=torch.float16)
        huge = replace(change_of(), left=np.full((32, 2), 1e5, dtype=np.float32))
        with pytest.raises(ChipError, match=f"the edit of {WEIGHT} overflows F16; nothing was written"):
            self.write(base, edit_of(huge), tmp_path / "out")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


class TestOutputs:
    def test_an_existing_output_is_refused_without_force(self, tmp_path: Path, llama_directory: Path) -> None:
        (tmp_path / "out").mkdir()
        with pytest.raises(ChipError, match="exists already; choose another --out, or replace it with --force"):
            refuse_existing(tmp_path / "out", llama_directory, force=False)

    @pytest.mark.parametrize("kind", ["file", "directory", "link", "dangling link"])
    def test_force_replaces_nothing_but_checkpoints(self, tmp_path: Path, llama_directory: Path, kind: str) -> None:
        out = tmp_path / "out"
        if kind == "file":
            out.write_text("precious")
        elif kind == "directory":
            out.mkdir()
            (out / "notes.txt").write_text("precious")
        else:
            (tmp_path / "elsewhere").mkdir()
            (tmp_path / "elsewhere/config.json").write_text("{}")
            out.symlink_to(tmp_path / ("elsewhere" if kind == "link" else "nowhere"))
        with pytest.raises(ChipError, match="is not a checkpoint, so --force does not replace it"):
            refuse_existing(out, llama_directory, force=True)

    @pytest.mark.parametrize("out", ["model", "model/inside", ".", "model/../model", "link"])
    def test_an_output_that_overlaps_with_the_model_is_refused(self, tmp_path: Path, out: str) -> None:
        (tmp_path / "model").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "model")
        with pytest.raises(ChipError, match="overlap; write beside the model, not over it"):
            refuse_existing(tmp_path / out, tmp_path / "model", force=True)

    def test_force_replaces_a_whole_checkpoint_only_when_the_new_one_is_ready(
        self, tmp_path: Path, llama_directory: Path
    ) -> None:
        out = tmp_path / "out"
        shutil.copytree(llama_directory, out)
        (out / "old.txt").write_text("old")
        before = digests(out)
        other = edit_of(change_of(tensor="other"))
        with (
            pytest.raises(ChipError),
            StagedCheckpoint(Checkpoint(llama_directory), Applying([other]), out, force=True),
        ):
            pass
        assert digests(out) == before
        with StagedCheckpoint(Checkpoint(llama_directory), Applying([edit_of()]), out, force=True) as staged:
            assert digests(out) == before
            staged.commit()
        assert not (out / "old.txt").exists()
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_the_output_has_the_users_usual_permissions(self, tmp_path: Path, llama_directory: Path) -> None:
        old = os.umask(0o027)
        try:
            with StagedCheckpoint(Checkpoint(llama_directory), Applying([edit_of()]), tmp_path / "out") as staged:
                staged.commit()
        finally:
            os.umask(old)
        assert mode(tmp_path / "out") == 0o750


WRITE = """
import resource, sys
from pathlib import Path
from chip.edit import Applying, StagedCheckpoint, load_edit
from chip.errors import ChipError
from chip.models.checkpoint import Checkpoint
from chip.models.stored import rounded
model, edit, out, limit = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    with StagedCheckpoint(Checkpoint(model), Applying([load_edit(Path(edit))]), Path(out)) as staged:
        staged.commit()
except ChipError as problem:
    print(problem)
    sys.exit(1)
assert "torch" not in sys.modules
"""


class TestFullDisk:
    def write_in_a_process(self, model: Path, edit: Path, out: Path, limit: int = 0) -> tuple[int, str, str]:
        command = [sys.executable, "-c", WRITE, str(model), str(edit), str(out), str(limit)]
        # Unmeasured: what measures a process writes a file as well, which then may not grow either.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    @pytest.fixture
    def edit_file(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp("edit") / "edit"
        save_edits([edit_of()], path)
        return path

    def test_writing_needs_no_torch(self, tmp_path: Path, llama_directory: Path, edit_file: Path) -> None:
        code, _, errors = self.write_in_a_process(llama_directory, edit_file, tmp_path / "out")
        assert (code, errors) == (0, "")
        assert changed_tensors(llama_directory, tmp_path / "out") == {WEIGHT}

    def test_files_that_may_not_grow_are_one_sentence_and_leave_nothing(
        self, tmp_path: Path, llama_directory: Path, edit_file: Path
    ) -> None:
        code, said, errors = self.write_in_a_process(llama_directory, edit_file, tmp_path / "out", limit=10_000)
        assert (code, errors) == (1, "")
        assert f"{tmp_path / 'out'} could not be written: File too large; nothing was left behind" in said
        assert not list(tmp_path.iterdir())

    def test_a_full_disk_is_one_sentence_and_leaves_nothing(
        self, tmp_path: Path, llama_directory: Path, edit_file: Path
    ) -> None:
        small = tmp_path / "small"
        small.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("no small file system can be mounted here")
        try:
            code, said, errors = self.write_in_a_process(llama_directory, edit_file, small / "out")
            assert (code, errors) == (1, "")
            assert "the disk is full: free some space and run again" in said
            assert "nothing was left behind" in said
            assert not list(small.iterdir())
        finally:
            subprocess.run(["umount", str(small)], check=True)


class TestReceipts:
    def test_a_salt_is_made_once_for_its_owner_only(self) -> None:
        first = read_salt()
        assert len(first) == 32
        assert mode(salt_file()) == 0o600
        assert read_salt() == first
        salt_file().unlink()
        assert read_salt() != first

    def test_a_short_or_unusable_salt_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        salt_file().parent.mkdir(exist_ok=True)
        salt_file().write_bytes(b"short")
        with pytest.raises(ChipError, match="too short to be a salt"):
            read_salt()
        monkeypatch.setenv("CHIP_SALT_FILE", str(tmp_path))
        with pytest.raises(ChipError, match="salt"):
            read_salt()

    def test_hashes_depend_on_node_and_salt(self) -> None:
        nodes = [("a", "b"), ("a/b",), ("a",)]
        one, other = hashed_nodes(nodes, b"x" * 32), hashed_nodes(nodes, b"y" * 32)
        assert len({*one, *other}) == 6
        assert hashed_nodes(nodes, b"x" * 32) == one

    @pytest.mark.parametrize("values", [{}, {"method": "chip"}, {"toward": "mean"}], ids=str)
    def test_checkpoint_receipt_and_edit_never_name_the_target(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path, values: dict[str, object]
    ) -> None:
        done = run_edit(llava_directory, hospital_data, tmp_path / "out", "patient_1", verify=True, **values)
        receipt = done.result.receipt
        assert receipt is not None
        assert receipt == tmp_path / "out.receipt.json"
        assert mode(receipt) == 0o600
        assert mode(tmp_path / "out.edit.safetensors") == 0o600
        names = [b"patient_1", b"study_1", b"inst_0"]
        for path in [receipt, tmp_path / "out.edit.safetensors", *done.out.rglob("*")]:
            content = path.read_bytes() if path.is_file() else b""
            assert not any(name in content for name in names), path
        written = json.loads(receipt.read_text())
        assert written["edits"][0]["nodes"] == hashed_nodes([("inst_0", "patient_1")], read_salt())
        assert written["proof"]["base_digest"] == Checkpoint(llava_directory).digest
        assert written["proof"]["edited_digest"] == Checkpoint(done.out).digest
        assert set(written["tensors"]) == done.planned
        assert {row["group"] for row in written["verification"]} >= {"target", "siblings", "rest"}

    def test_a_receipt_inside_the_output_is_refused(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path
    ) -> None:
        asked = {"receipt": tmp_path / "out/receipt.json"}
        with pytest.raises(ChipError):
            carry_out(prepare_edit(request(llava_directory, hospital_data, tmp_path / "out", "patient_1", **asked)))
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("name", ["receipt", "edit_out", "statistics"])
    def test_nothing_of_chips_own_is_written_into_a_model(self, tmp_path: Path, hospital_data: Path, name: str) -> None:
        model = tiny_models.llava(tmp_path / "model")
        before = digests(model)
        asked = request(model, hospital_data, tmp_path / "out", "patient_1", **{name: model / "model.safetensors"})
        with pytest.raises(ChipError):
            carry_out(prepare_edit(asked))
        assert digests(model) == before

    def test_a_receipt_that_cannot_be_written_leaves_no_output(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        asked = {"receipt": tmp_path / "file/receipt.json"}
        with pytest.raises(ChipError, match="could not be written"):
            carry_out(prepare_edit(request(llava_directory, hospital_data, tmp_path / "out", "patient_1", **asked)))
        assert not (tmp_path / "out").exists()
        assert not leftovers(tmp_path)
