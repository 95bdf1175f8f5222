"""What is written into a copy of a checkpoint, or over the checkpoint itself: edited tensors, or those of its base.

A block of one tensor is in memory at a time, whatever the model's size.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from chip.edit.change import Change
from chip.edit.edit import Edit
from chip.edit.threads import each
from chip.errors import ChipError
from chip.files import write_all
from chip.models.checkpoint import Checkpoint
from chip.models.matrix import Matrix, Piece, RoundingError
from chip.models.stored import DTYPES, Array, StoredTensor


class Rewriting(Protocol):
    """Writes some tensors of a checkpoint anew, at their own bytes."""

    def stored(self, base: Checkpoint) -> list[StoredTensor]:
        """All stored tensors whose bytes it may write, copies and scales among them.

        Raises ChipError where it cannot be done to a checkpoint; before anything is written.
        """
        ...

    def write(self, base: Checkpoint, directory: Path) -> dict[str, str]:
        """Write in `directory`, a copy of the checkpoint or its own; the digests of what was written, by name."""
        ...


class Applying:
    """Edits applied in their order, each of which rounds once to what is stored.

    `edits` are those given; once they were written, with the digests of the tensors as each of them left them.
    `rounding` is what fp8 took from them; nothing where all that is edited is stored as it is.
    """

    def __init__(self, edits: Sequence[Edit]) -> None:
        self.edits, self.rounding = tuple(edits), RoundingError()

    def stored(self, base: Checkpoint) -> list[StoredTensor]:
        found: list[StoredTensor] = []
        for name, steps in _steps(self.edits).items():
            if name not in base.tensors:
                raise ChipError(f"the edit changes {name}, which {base.directory} does not store")
            matrix = base.matrix(name)
            for change in steps.values():
                change.refuse_misfit(matrix.shape)
            found += matrix.tensors
        return found

    def write(self, base: Checkpoint, directory: Path) -> dict[str, str]:
        written = _rewritten(base, self.edits, directory)
        left = [dict[str, str]() for _ in self.edits]
        for (name, steps), one in zip(_steps(self.edits).items(), written, strict=True):
            for number, digest in zip(steps, one.after, strict=True):
                left[number][name] = digest
        self.edits = tuple(replace(edit, edited=digests) for edit, digests in zip(self.edits, left, strict=True))
        self.rounding = sum((one.rounding for one in written), RoundingError())
        return _merged(one.digests for one in written)


class Restoring:
    """Tensors taken back from the checkpoint that they were edited in, byte for byte."""

    def __init__(self, source: Checkpoint, tensors: Sequence[str]) -> None:
        self._source, self._tensors = source, tuple(tensors)

    def stored(self, base: Checkpoint) -> list[StoredTensor]:
        return [ours for ours, _ in self._pairs(base)]

    def write(self, base: Checkpoint, directory: Path) -> dict[str, str]:
        return dict(_restored(theirs, ours, _within(ours, base, directory)) for ours, theirs in self._pairs(base))

    def _pairs(self, base: Checkpoint) -> Iterator[tuple[StoredTensor, StoredTensor]]:
        for name in self._tensors:
            pairs = zip(base.matrix(name).tensors, self._source.matrix(name).tensors, strict=False)
            for ours, theirs in pairs:
                if (ours.name, ours.dtype, ours.shape) != (theirs.name, theirs.dtype, theirs.shape):
                    raise ChipError(f"{name} is not stored alike in {base.directory} and {self._source.directory}")
                yield ours, theirs


def edited_digests(base: Checkpoint, edits: Sequence[Edit]) -> dict[str, str]:
    """The digests of all that edits write, by name, after all of them; nothing is written."""
    return _merged(one.digests for one in _rewritten(base, edits, None))


@dataclass(frozen=True)
class _Written:
    """What became of one tensor: its digest after each step, those of the stored tensors, and what rounding took."""

    after: tuple[str, ...]
    digests: Mapping[str, str]
    rounding: RoundingError


def _steps(edits: Sequence[Edit]) -> dict[str, dict[int, Change]]:
    """By tensor, the changes that befall it, by the number of the edit that each is of."""
    steps: dict[str, dict[int, Change]] = {}
    for number, edit in enumerate(edits):
        for change in edit.changes:
            steps.setdefault(change.tensor, {})[number] = change
    return steps


def _rewritten(base: Checkpoint, edits: Sequence[Edit], directory: Path | None) -> list[_Written]:
    """Every tensor that edits change, in turn; written to `directory`, where one is given."""
    steps = _steps(edits)

    def rewritten(name: str) -> _Written:
        matrix = base.matrix(name)
        if directory is None:
            return _rewrite(matrix, list(steps[name].values()), {})
        with _opened({one.file: _within(one, base, directory) for one in matrix.tensors}) as handles:
            return _rewrite(matrix, list(steps[name].values()), handles)

    return each(rewritten, list(steps), sum(base.tensors[n].stop - base.tensors[n].start for n in steps))


def _rewrite(matrix: Matrix, steps: Sequence[Change], handles: Mapping[Path, int]) -> _Written:
    """Take one tensor through all steps, and write what the last leaves to the opened files, if there are any."""
    stages: list[tuple[Matrix, Change]] = []
    for change in steps:
        # What is stored with scales has to know all values before the first is written.
        fitted = (stages[-1][0] if stages else matrix).fitted(_edited(matrix, stages, change))
        stages.append((fitted, change))
    totals, rounding, last = [hashlib.sha256() for _ in steps], RoundingError(), stages[-1][0]
    for start, stop in matrix.blocks():
        rows, pieces = matrix.read_rows(start, stop), list[Piece]()
        for number, ((stage, change), total) in enumerate(zip(stages, totals, strict=True), 1):
            exact = change.added(rows, start)
            pieces = stage.encode(exact, start)
            total.update(pieces[0].data)
            if number < len(stages):
                rows = stage.rounded(exact, start)
            elif matrix.dtype not in DTYPES:
                rounding += stage.rounding_error(exact, start)
        for piece in pieces if handles else ():
            write_all(handles[piece.tensor.file], piece.data, piece.start)
    digests = [stage.digests(total.hexdigest()) for (stage, _), total in zip(stages, totals, strict=True)]
    return _Written(tuple(last.combined(one) for one in digests), digests[-1], rounding)


def _edited(matrix: Matrix, stages: Sequence[tuple[Matrix, Change]], change: Change) -> Iterator[tuple[int, Array]]:
    """Blocks of the exact values that a change makes of a tensor which went through some stages."""
    for start, stop in matrix.blocks():
        rows = matrix.read_rows(start, stop)
        for stage, before in stages:
            rows = stage.rounded(before.added(rows, start), start)
        yield start, change.added(rows, start)


@contextmanager
def _opened(files: Mapping[Path, Path]) -> Iterator[Mapping[Path, int]]:
    """Files opened for writing, by the names of those that they are copies of."""
    with ExitStack() as held:
        handles = {}
        for name, file in files.items():
            handles[name] = os.open(file, os.O_WRONLY)
            held.callback(os.close, handles[name])
        yield handles


def _restored(source: StoredTensor, target: StoredTensor, file: Path) -> tuple[str, str]:
    """Copy a tensor's bytes to where another lies in `file`; its name and digest."""
    handle, at, total = os.open(file, os.O_WRONLY), target.start, hashlib.sha256()
    try:
        for block in source.raw():
            write_all(handle, block, at)
            at += len(block)
            total.update(block)
    finally:
        os.close(handle)
    return source.name, total.hexdigest()


def _merged(digests: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {name: digest for one in digests for name, digest in one.items()}


def _within(stored: StoredTensor, base: Checkpoint, directory: Path) -> Path:
    return directory / stored.file.relative_to(base.directory)
