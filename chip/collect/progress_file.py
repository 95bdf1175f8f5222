"""A file in which long work keeps how far it has come: private, tied by a digest to the work that it is of, and written
no oftener than a small share of the time allows."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from chip.collect.tensors import read_header, write_tensors
from chip.errors import ChipError

_SHARE = 20
"""At most one part in so many of the time goes into keeping what there is."""


class ProgressFile:
    """Progress of one kind at `path`, every so many seconds. `identity` is a digest of the work.

    form, work: the format's name, and what the work is called.
    """

    form = ""
    work = ""

    def __init__(self, path: Path, identity: str, seconds: float) -> None:
        self.path, self.identity = path, identity
        self._seconds = seconds
        self._next = time.monotonic() + seconds

    @property
    def due(self) -> bool:
        return time.monotonic() >= self._next

    def damaged(self, problem: Exception) -> ChipError:
        """What to say where the file does not hold what it should."""
        return ChipError(f"{self.path} is damaged ({problem}); remove it to start afresh")

    def _header(self, notice: Callable[[str], None]) -> dict[str, Any] | None:
        """The header of the same work's progress; None where there is nothing or, with a notice, only of another one.

        Raises one of `chip.collect.tensors.UNREADABLE` where the file is damaged.
        """
        if not self.path.is_file():
            return None
        header = read_header(self.path)
        if header["format"] == self.form and header["identity"] == self.identity:
            return header
        notice(f"{self.path.name} holds the progress of another {self.work}, which is dropped")
        return None

    def _keep(self, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
        """Write what there is, in place of what was kept before."""
        began = time.monotonic()
        write_tensors(self.path, tensors, {"format": self.form, "identity": self.identity, **header})
        ended = time.monotonic()
        self._next = ended + max(self._seconds, _SHARE * (ended - began))
