"""Whatever happens while a checkpoint is written, the source is intact and the output absent, complete or recoverable.

A run is killed at each system call that writes, renames or syncs, and its disk fails at each; real processes are killed
at moments of their own.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from checkpoint_files import digests
from faults import ERRORS, KILLS, Faults, Killed, failing
from test_edit import change_of

from chip.edit import Edit, save_edits
from chip.edit.recovery import recover
from chip.errors import ChipError
from chip.files import journal_of
from chip.models.checkpoint import Checkpoint
from chip.workflow.apply import ApplyRequest, carry_out_apply, prepare_apply

BIAS = "model.norm.weight"


@dataclass(frozen=True)
class Place:
    """A directory with a model, an edit of it, and what both must come to."""

    root: Path
    before: dict[str, str]
    after: dict[str, str]

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def apply(self, *, in_place: bool = False, force: bool = False) -> None:
        out = None if in_place else self.out
        request = ApplyRequest((self.model,), (self.root / "edit",), out, in_place=in_place, force=force)
        carry_out_apply(request, prepare_apply(request))

    def afresh(self) -> None:
        """As if nothing had ever been run here."""
        for path in self.root.iterdir():
            if path.name not in {"pristine", "edit"}:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.root / "pristine", self.model)

    def hidden(self) -> list[str]:
        return [path.name for path in self.root.iterdir() if path.name.startswith(".")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("faults")
    pristine = tiny_models.text_model(root / "pristine", "llama", shard_size="60KB")
    (pristine / "deep").mkdir()
    (pristine / "deep/notes.txt").write_text("carried along")
    base = Checkpoint(pristine)
    changes = (change_of(), change_of(1, tensor=BIAS, outputs=32, inputs=1))
    kept = {change.tensor: base.tensors[change.tensor].digest() for change in changes}
    save_edits([Edit("oblique", {}, changes, kept)], root / "edit")
    one = Place(root, digests(pristine), {})
    one.afresh()
    one.apply()
    return Place(root, one.before, digests(one.out))


def calls_of(run: Callable[[], None]) -> int:
    """How many calls a run makes at which it could die."""
    with failing(Faults()) as faults:
        run()
    return len(faults.calls)


def points(place: Place, prepare: Callable[[], None], run: Callable[[], None]) -> Iterator[int]:
    """The calls of a run, one after the other, each with everything prepared anew."""
    place.afresh()
    prepare()
    for number in range(calls_of(run)):
        place.afresh()
        prepare()
        yield number


def nothing() -> None:
    """Nothing to prepare."""


class TestKilled:
    @pytest.mark.parametrize("kind", KILLS)
    def test_a_new_output_is_absent_or_complete_and_the_next_run_succeeds(self, place: Place, kind: str) -> None:
        seen = 0
        for number in points(place, nothing, place.apply):
            with pytest.raises(Killed), failing(Faults(number, kind)):
                place.apply()
            assert digests(place.model) == place.before
            if place.out.exists():
                assert digests(place.out) == place.after
                recover(place.out, place.out)
            else:
                place.apply()
            assert digests(place.out) == place.after
            assert not place.hidden()
            seen += 1
        assert seen > 60

    @pytest.mark.parametrize("kind", KILLS)
    def test_an_output_that_is_replaced_is_the_old_one_or_the_new_one(self, place: Place, kind: str) -> None:
        def old() -> None:
            shutil.copytree(place.root / "pristine", place.out)
            (place.out / "old.txt").write_text("old")

        place.afresh()
        old()
        before = digests(place.out)
        for number in points(place, old, lambda: place.apply(force=True)):
            with pytest.raises(Killed), failing(Faults(number, kind)):
                place.apply(force=True)
            assert digests(place.model) == place.before
            recover(place.out, place.out)
            assert digests(place.out) in (before, place.after)
            place.apply(force=True)
            assert digests(place.out) == place.after
            assert not place.hidden()

    @pytest.mark.parametrize("kind", KILLS)
    def test_a_model_edited_in_place_is_refused_until_it_is_put_back_or_is_whole(self, place: Place, kind: str) -> None:
        seen = 0
        for number in points(place, nothing, lambda: place.apply(in_place=True)):
            with pytest.raises(Killed), failing(Faults(number, kind)):
                place.apply(in_place=True)
            if journal_of(place.model).exists():
                with pytest.raises(ChipError, match="`chip recover"):
                    Checkpoint(place.model)
                recover(place.model, place.model)
                assert digests(place.model) == place.before
            assert digests(place.model) in (place.before, place.after)
            if digests(place.model) == place.before:
                place.apply(in_place=True)
            assert digests(place.model) == place.after
            recover(place.model, place.model)
            assert not place.hidden()
            seen += 1
        assert seen > 20

    @pytest.mark.parametrize("kind", KILLS)
    def test_putting_a_model_back_may_be_interrupted_too(self, place: Place, kind: str) -> None:
        def half_edited() -> None:
            total = calls_of_in_place
            with pytest.raises(Killed), failing(Faults(total - 3, "before")):
                place.apply(in_place=True)
            assert journal_of(place.model).exists()

        place.afresh()
        calls_of_in_place = calls_of(lambda: place.apply(in_place=True))
        for number in points(place, half_edited, lambda: recover(place.model, place.model) and None):
            with pytest.raises(Killed), failing(Faults(number, kind)):
                recover(place.model, place.model)
            recover(place.model, place.model)
            assert digests(place.model) == place.before


class TestFailing:
    @pytest.mark.parametrize("error", ERRORS, ids=os.strerror)
    @pytest.mark.parametrize("in_place", [False, True], ids=["new output", "in place"])
    def test_a_disk_that_fails_is_one_sentence_and_leaves_all_or_nothing(
        self, place: Place, error: int, in_place: bool
    ) -> None:
        for number in points(place, nothing, lambda: place.apply(in_place=in_place)):
            with failing(Faults(number, error)), contextlib.suppress(ChipError):
                place.apply(in_place=in_place)
            recover(place.model, place.model)
            if in_place:
                assert digests(place.model) in (place.before, place.after)
            else:
                assert digests(place.model) == place.before
                assert not place.out.exists() or digests(place.out) == place.after
                recover(place.out, place.out)
                assert not place.hidden()


class TestOrder:
    def test_all_is_on_disk_before_the_output_appears_and_the_appearance_after(self, place: Place) -> None:
        """Power may fail at any moment, and what was not synced is then lost in any order."""
        place.afresh()
        with failing(Faults()) as faults:
            place.apply()
        staged = os.path.realpath(place.root / ".out.chip-partial")
        renamed = faults.calls.index(("rename", staged))
        written = {path for name, path in faults.calls[:renamed] if name not in {"fsync", "unlink"}}
        within = {path for path in written if path.startswith(staged)}
        assert len(within) > len(place.before)
        for path in within:
            steps = [name for name, one in faults.calls[:renamed] if one == path]
            assert steps[-1] == "fsync", path
        assert faults.calls[renamed + 1] == ("fsync", os.path.realpath(place.root))

    def test_the_journal_is_on_disk_before_the_model_changes_and_goes_last(self, place: Place) -> None:
        place.afresh()
        with failing(Faults()) as faults:
            place.apply(in_place=True)
        journal, model = os.path.realpath(journal_of(place.model)), os.path.realpath(place.model)
        touched = [number for number, (_, path) in enumerate(faults.calls) if path.startswith(model)]
        kept, gone = (
            next(number for number, (name, path) in enumerate(faults.calls) if name == step and path.startswith(start))
            for step, start in (
                ("replace", f"{os.path.dirname(journal)}/.{os.path.basename(journal)}"),
                ("unlink", journal),
            )
        )
        assert faults.calls[kept - 1][0] == "fsync"
        assert faults.calls[kept + 1] == ("fsync", os.path.dirname(journal))
        assert kept + 1 < touched[0]
        assert touched[-1] < gone
        assert faults.calls[touched[-1]][0] == "fsync"


CHECKPOINT_BYTES = 96 << 20


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that takes a while to write, with an edit of every tensor, each of random numbers."""
    from safetensors.numpy import save_file

    root = tmp_path_factory.mktemp("large")
    (root / "model").mkdir()
    (root / "model/config.json").write_text('{"model_type": "llama"}')
    rng = np.random.default_rng(0)
    count = CHECKPOINT_BYTES // (4 * 1024 * 1024)
    tensors = {f"layers.{n}.weight": rng.normal(size=(1024, 1024)).astype(np.float32) for n in range(count)}
    save_file(tensors, root / "model/model.safetensors", {"format": "pt"})
    base = Checkpoint(root / "model")
    changes = [change_of(n, tensor=name, outputs=1024, inputs=1024) for n, name in enumerate(tensors)]
    kept = {name: base.tensors[name].digest() for name in tensors}
    save_edits([Edit("oblique", {}, tuple(changes), kept)], root / "edit")
    return root


@pytest.mark.parametrize("arguments", [("--out", "out"), ("--in-place",)], ids=["new output", "in place"])
def test_real_processes_that_are_killed_leave_nothing_that_the_next_run_cannot_put_right(
    large: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    shutil.copytree(large / "model", tmp_path / "model")
    command = [sys.executable, "-m", "chip", "apply", "model", str(large / "edit"), *arguments]
    began = time.monotonic()
    subprocess.run([*command, "--receipt", "first"], cwd=tmp_path, check=True, capture_output=True)
    took = time.monotonic() - began
    edited = tmp_path / ("out" if "--out" in arguments else "model")
    before, after = digests(large / "model"), digests(edited)
    killed = 0
    for share in np.linspace(0.15, 0.95, 9):
        for path in tmp_path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(large / "model", tmp_path / "model")
        running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(took * share)
        running.send_signal(signal.SIGKILL)
        killed += running.wait() == -signal.SIGKILL
        if "--out" in arguments:
            assert digests(tmp_path / "model") == before
            assert not edited.exists() or digests(edited) == after
        recover(tmp_path / "model", tmp_path / "model")
        recover(tmp_path / "out", tmp_path / "out")
        assert digests(tmp_path / "model") in (before, after)
        if not edited.exists() or digests(edited) != after:
            subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        assert digests(edited) == after
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".") and path.is_dir()]
    assert killed
