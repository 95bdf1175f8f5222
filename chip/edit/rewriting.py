"""What is written into a copy of a checkpoint, or over the checkpoint itself: edited tensors, or those of its base.

A block of one tensor is in memory at a time, whatever the model's size.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from chip.edit.change import Change
from chip.edit.edit import Edit
from chip.edit.threads import each
from chip.errors import ChipError
from chip.files import write_all
from chip.models.checkpoint import Checkpoint
from chip.models.stored import DTYPES, Array, StoredTensor, rounded


class Rewriting(Protocol):
    """Writes some tensors of a checkpoint anew, at their own bytes."""

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of the tensors that it writes, each once."""
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
    """

    def __init__(self, edits: Sequence[Edit]) -> None:
        self.edits = tuple(edits)

    @property
    def tensors(self) -> tuple[str, ...]:
        return tuple(_steps(self.edits))

    def refuse_misfit(self, base: Checkpoint) -> None:
        for change in (change for edit in self.edits for change in edit.changes):
            stored = base.tensors.get(change.tensor)
            if stored is None:
                raise ChipError(f"the edit changes {change.tensor}, which {base.directory} does not store")
            change.refuse_misfit(stored.shape)

    def write(self, base: Checkpoint, directory: Path) -> dict[str, str]:
        steps = _steps(self.edits)

        def write(name: str) -> list[str]:
            stored = base.tensors[name]
            return _edited_digests(stored, list(steps[name].values()), _within(stored, base, directory))

        digests = dict(zip(steps, each(write, list(steps), _size(base, steps)), strict=True))
        left = [dict[str, str]() for _ in self.edits]
        for name, found in digests.items():
            for number, digest in zip(steps[name], found, strict=True):
                left[number][name] = digest
        self.edits = tuple(replace(edit, edited=digests) for edit, digests in zip(self.edits, left, strict=True))
        return {name: found[-1] for name, found in digests.items()}


class Restoring:
    """Tensors taken back from the checkpoint that they were edited in, byte for byte."""

    def __init__(self, source: Checkpoint, tensors: Sequence[str]) -> None:
        self._source, self.tensors = source, tuple(tensors)

    def refuse_misfit(self, base: Checkpoint) -> None:
        for name in self.tensors:
            ours, theirs = base.tensors.get(name), self._source.tensors.get(name)
            if ours is None or theirs is None or (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
                raise ChipError(f"{name} is not stored alike in {base.directory} and {self._source.directory}")

    def write(self, base: Checkpoint, directory: Path) -> dict[str, str]:
        digests = {}
        for name in self.tensors:
            stored, total = base.tensors[name], hashlib.sha256()
            handle, at = os.open(_within(stored, base, directory), os.O_WRONLY), stored.start
            try:
                for block in self._source.tensors[name].raw():
                    write_all(handle, block, at)
                    at += len(block)
                    total.update(block)
            finally:
                os.close(handle)
            digests[name] = total.hexdigest()
        return digests


def edited_blocks(stored: StoredTensor, steps: Sequence[Change], start: int, stop: int) -> Iterator[Array]:
    """Rows `start` to `stop` of a tensor after each of the steps, as it is stored. Raises ChipError on overflow."""
    values = stored.read_rows(start, stop)
    for change in steps:
        values = rounded(change.added(values, start), DTYPES[stored.dtype])
        if not np.isfinite(values).all():
            raise ChipError(f"the edit of {stored.name} overflows {stored.dtype}; nothing was written")
        yield values


def edited_digests(base: Checkpoint, edits: Sequence[Edit]) -> dict[str, str]:
    """The digests of the tensors that edits change, after all of them; nothing is written."""
    steps = _steps(edits)

    def last(name: str) -> str:
        return _edited_digests(base.tensors[name], list(steps[name].values()), None)[-1]

    return dict(zip(steps, each(last, list(steps), _size(base, steps)), strict=True))


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


def _edited_digests(stored: StoredTensor, steps: Sequence[Change], file: Path | None) -> list[str]:
    """The digests of a tensor after each of the steps; after the last it is written to `file`, where one is given."""
    totals = [hashlib.sha256() for _ in steps]
    handle = None if file is None else os.open(file, os.O_WRONLY)
    try:
        for start, stop in stored.blocks():
            data = b""
            for total, values in zip(totals, edited_blocks(stored, steps, start, stop), strict=True):
                data = values.tobytes()
                total.update(data)
            if handle is not None:
                write_all(handle, data, stored.start + start * stored.row_bytes)
    finally:
        if handle is not None:
            os.close(handle)
    return [total.hexdigest() for total in totals]


def _within(stored: StoredTensor, base: Checkpoint, directory: Path) -> Path:
    return directory / stored.file.relative_to(base.directory)
