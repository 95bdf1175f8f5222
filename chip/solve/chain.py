"""Edits on a loaded model one after the other, as a checkpoint would hold them: rounded once each, to its own dtype.

Between two edits no checkpoint is written. The tensors that were changed so far stand in a scratch file, where the next
solver finds them as it would in a checkpoint, and in the live model.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from chip.edit import Change, Edit
from chip.errors import ChipError
from chip.files import explained
from chip.models.matrix import Matrix, Plain, Scaled
from chip.models.sites import StoredSite
from chip.models.stored import StoredTensor
from chip.solve.live import live_tensors


class Chain:
    """The live weights of a model and the tensors on disk, from a base through a chain of edits.

    base: every site that an edit may change, as the base stores it. scratch: a file that is written anew, mode 0600,
    and is the caller's to remove; it takes as many bytes as the tensors that are changed.
    """

    def __init__(self, model: nn.Module, base: Mapping[str, StoredSite], scratch: Path) -> None:
        self._sites = dict(base)
        self._live = live_tensors(model, base)
        tensors = (tensor for one in base.values() for tensor in (one.weight, one.bias) if tensor is not None)
        self._base = {tensor.name: tensor for tensor in tensors}
        self._now: dict[str, Matrix] = {}
        self._scratch = scratch
        with explained(scratch):
            scratch.unlink(missing_ok=True)
            os.close(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

    @property
    def stored(self) -> dict[str, StoredSite]:
        """The sites with their tensors as they are now."""
        return {
            name: replace(
                one,
                weight=self._now.get(one.weight.name, one.weight),
                bias=None if one.bias is None else self._now.get(one.bias.name, one.bias),
            )
            for name, one in self._sites.items()
        }

    @property
    def digests(self) -> dict[str, str]:
        """Of every tensor that was changed so far, the digest as it is now."""
        return {name: tensor.digest() for name, tensor in self._now.items()}

    def add(self, edit: Edit) -> Edit:
        """Put an edit on top; the same with the digests of what it has made of its tensors.

        Raises ChipError where it was solved on other weights than these, or does not fit them.
        """
        for change in edit.changes:
            if change.tensor not in self._base:
                raise ChipError(f"the edit changes {change.tensor}, which is no site of this model")
            before = self._now.get(change.tensor, self._base[change.tensor])
            if before.digest() != edit.base[change.tensor]:
                raise ChipError(f"the edit was solved on another {change.tensor} than the edits before it have left")
        edited = {change.tensor: self._rewrite(change).digest() for change in edit.changes}
        return replace(edit, edited=edited)

    @contextmanager
    def original(self) -> Iterator[None]:
        """The live model as the base has it, for a while."""
        try:
            for name in self._now:
                _copy(self._live[name], self._base[name])
            yield
        finally:
            for name, now in self._now.items():
                _copy(self._live[name], now)

    def _rewrite(self, change: Change) -> Matrix:
        now = self._now.get(change.tensor) or self._appended(self._base[change.tensor])
        change.refuse_misfit(now.shape)
        # What is stored with scales has to know all values before the first is written.
        exact = (change.added(now.read_rows(start, stop), start) for start, stop in now.blocks())
        fitted = now.fitted(zip((start for start, _ in now.blocks()), exact, strict=True))
        with explained(self._scratch), self._scratch.open("r+b") as handle:
            for start, stop in now.blocks():
                for piece in fitted.encode(change.added(now.read_rows(start, stop), start), start):
                    handle.seek(piece.start)
                    handle.write(piece.data)
                handle.flush()
        self._now[change.tensor] = _reopened(now)
        _copy(self._live[change.tensor], self._now[change.tensor])
        return self._now[change.tensor]

    def _appended(self, matrix: Matrix) -> Matrix:
        """A copy of a tensor of the base at the end of the scratch file."""
        match matrix:
            case Plain():
                return Plain((self._append(matrix.copies[0]),))
            case Scaled():
                codes, scales = self._append(matrix.codes[0]), self._append(matrix.scales[0])
                return replace(matrix, codes=(codes,), scales=(scales,))
        raise TypeError(f"{type(matrix).__name__} is no matrix that can be copied")

    def _append(self, tensor: StoredTensor) -> StoredTensor:
        with explained(self._scratch), self._scratch.open("ab") as handle:
            start = handle.tell()
            for block in tensor.raw():
                handle.write(block)
        return replace(tensor, file=self._scratch, start=start, stop=start + tensor.stop - tensor.start)


def _reopened(matrix: Matrix) -> Matrix:
    """The same tensors, of which nothing is remembered."""
    return replace(matrix) if isinstance(matrix, Plain | Scaled) else matrix


def _copy(live: Tensor, stored: Matrix) -> None:
    """Give a live tensor the values of a stored one, block by block."""
    matrix = live if live.dim() == 2 else live[:, None]
    wide = np.float64 if stored.dtype == "F64" else np.float32
    for start, stop in stored.blocks():
        matrix[start:stop] = torch.from_numpy(stored.read_rows(start, stop).astype(wide)).to(live.device, live.dtype)
