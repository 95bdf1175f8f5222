"""What is written into a copy of a checkpoint, or over the checkpoint itself: edited tensors, or those of its base.

A block of one tensor is in memory at a time, whatever the model's size.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
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
        """Wherever it writes: the stored tensors, with every copy of each."""
        ...

    def refuse_misfit(self, base: Checkpoint) -> None:
        """Raise ChipError where it cannot be done to a checkpoint; before anything is written."""
        ...

    def write(self, base: Checkpoint, directory: Path) -> dict[str, str]:
        """Write the tensors in `directory`, a copy of the checkpoint or its own; their digests by name."""
        ...


class Applying:
    """Edits applied in their order, each of which rounds once to what is stored.

    `edits` are those given; once they were written, with the digests of the tensors as each of them left them.
    `rounding` is then what fp8 took from them; nothing where all that they change is stored as it is.
    """

    def __init__(self, edits: Sequence[Edit]) -> None:
        self.edits = tuple(edits)
        self.rounding = RoundingError()

    def stored(self, base: Checkpoint) -> list[StoredTensor]:
        return [one for name in _steps(self.edits) for one in base.matrix(name).tensors]

    def refuse_misfit(self, base: Checkpoint) -> None:
        for change in (change for edit in self.edits for change in edit.changes):
            stored = base.tensors.get(change.tensor)
            if stored is None:
                raise ChipError(f"the edit changes {change.tensor}, which {base.directory} does not store")
            change.refuse_misfit(base.matrix(change.tensor).shape)

    def write(self, base: Checkpoint, directory: Path) -> dict[str, str]:
        steps = _steps(self.edits)

        def write(name: str) -> Written:
            return _written(base.matrix(name), list(steps[name].values()), (base.directory, directory))

        written = each(write, list(steps), _size(base, steps))
        left = [dict[str, str]() for _ in self.edits]
        for name, found in zip(steps, written, strict=True):
            self.rounding += found.rounding
            for number, digests in zip(steps[name], found.digests, strict=True):
                left[number] |= digests
        self.edits = tuple(replace(edit, edited=digests) for edit, digests in zip(self.edits, left, strict=True))
        return _last(written)


class Restoring:
    """Tensors taken back from the checkpoint that they were edited in, byte for byte."""

    def __init__(self, source: Checkpoint, tensors: Sequence[str]) -> None:
        self._source, self._tensors = source, tuple(tensors)

    def stored(self, base: Checkpoint) -> list[StoredTensor]:
        return [one for name in self._tensors for one in base.copies(name)]

    def refuse_misfit(self, base: Checkpoint) -> None:
        for name in self._tensors:
            ours, theirs = base.tensors.get(name), self._source.tensors.get(name)
            if ours is None or theirs is None or (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
                raise ChipError(f"{name} is not stored alike in {base.directory} and {self._source.directory}")

    def write(self, base: Checkpoint, directory: Path) -> dict[str, str]:
        digests = {}
        for stored in self.stored(base):
            at, total = stored.start, hashlib.sha256()
            handle = os.open(directory / stored.file.relative_to(base.directory), os.O_WRONLY)
            try:
                for block in self._source.tensors[stored.name].raw():
                    write_all(handle, block, at)
                    at += len(block)
                    total.update(block)
            finally:
                os.close(handle)
            digests[stored.name] = total.hexdigest()
        return digests


def edited_digests(base: Checkpoint, edits: Sequence[Edit]) -> dict[str, str]:
    """The digests of the tensors that edits change, after all of them; nothing is written."""
    steps = _steps(edits)

    def write(name: str) -> Written:
        return _written(base.matrix(name), list(steps[name].values()), None)

    return _last(each(write, list(steps), _size(base, steps)))


def _size(base: Checkpoint, names: Iterable[str]) -> int:
    """Bytes that tensors take."""
    return sum(base.tensors[name].stop - base.tensors[name].start for name in names)


def _steps(edits: Sequence[Edit]) -> dict[str, dict[int, Change]]:
    """By tensor, the changes that befall it, by the number of the edit that each is of."""
    steps: dict[str, dict[int, Change]] = {}
    for number, edit in enumerate(edits):
        for change in edit.changes:
            steps.setdefault(change.tensor, {})[number] = change
    return steps


@dataclass(frozen=True)
class Written:
    """What became of a tensor: after each of the steps the digests of what it is stored as, by name."""

    digests: tuple[dict[str, str], ...]
    rounding: RoundingError


def _written(matrix: Matrix, steps: Sequence[Change], where: tuple[Path, Path] | None) -> Written:
    """Take a tensor through the steps; after the last it is written, from a directory to another, where they are given.

    Memory holds a block of it at a time.
    """
    fitted = _fitted(matrix, steps)
    totals = [hashlib.sha256() for _ in steps]
    rounding = RoundingError()
    with ExitStack() as opened:
        handles: dict[Path, int] = {}
        if where is not None:
            for file in {one.file for one in matrix.tensors}:
                handles[file] = os.open(where[1] / file.relative_to(where[0]), os.O_WRONLY)
                opened.callback(os.close, handles[file])
        for start, stop in matrix.blocks():
            pieces: list[Piece] = []
            for total, step, rows in zip(totals, fitted, edited_rows(matrix, fitted, steps, start, stop), strict=True):
                pieces = step.encode(rows, start)
                total.update(pieces[0].data)
                if step.dtype not in DTYPES:
                    rounding += step.rounding_error(rows, start)
            for piece in pieces if handles else ():
                write_all(handles[piece.tensor.file], piece.data, piece.start)
    digests = ({matrix.name: total.hexdigest(), **step.companions} for total, step in zip(totals, fitted, strict=True))
    return Written(tuple(digests), rounding)


def _fitted(matrix: Matrix, steps: Sequence[Change]) -> list[Matrix]:
    """A matrix for each of the steps, which can hold what it makes of the tensor."""
    fitted: list[Matrix] = []

    def last(number: int, start: int, stop: int) -> Array:
        *_, rows = edited_rows(matrix, fitted, steps[: number + 1], start, stop)
        return rows

    for number in range(len(steps)):
        before = fitted[-1] if fitted else matrix
        fitted.append(before.fitted((start, last(number, start, stop)) for start, stop in matrix.blocks()))
    return fitted


def edited_rows(
    matrix: Matrix, fitted: Sequence[Matrix], steps: Sequence[Change], start: int, stop: int
) -> Iterator[Array]:
    """Rows `start` to `stop` as each of the steps means them, float64; each begins with what is stored of the last."""
    values = matrix.read_rows(start, stop)
    for number, change in enumerate(steps):
        rows = change.added(values, start)
        yield rows
        if number + 1 < len(steps):
            values = fitted[number].rounded(rows, start)


def _last(written: Iterable[Written]) -> dict[str, str]:
    """The digests after the last step, of all tensors."""
    return {name: digest for one in written for name, digest in one.digests[-1].items()}
