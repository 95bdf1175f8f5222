"""Copying files the quickest way that the file system offers, and saying which way that was."""

import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

from chip.files import write_all

_CLONE = 0x40049409
"""The ioctl FICLONE (linux/fs.h): both files share their blocks until one of them is written to."""

_COPY_BYTES = 1 << 22
_NOT_HERE = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM}
"""What a file system answers that cannot do what was asked."""


class Copier:
    """Copies the files of one checkpoint; `ways` says how: reflink, copy_file_range, read and write, hard link.

    First every file is created, then those that share nothing with their source yet are filled: what fills them may run
    beside what writes to the byte ranges that were left out.
    """

    def __init__(self, *, link: bool = False) -> None:
        self._link = link
        self._clones = self._ranges = True
        self._ways: dict[str, int] = {}
        self._waiting: list[tuple[Path, Path, list[tuple[int, int]]]] = []
        self._stopped = False

    @property
    def ways(self) -> str:
        """How files were copied, in words."""
        return ", ".join(f"{count} by {way}" for way, count in self._ways.items()) or "nothing"

    @property
    def waiting(self) -> int:
        """Bytes that are still to be copied."""
        return sum(
            os.stat(source).st_size - sum(stop - start for start, stop in left_out)
            for source, _, left_out in self._waiting
        )

    def create(self, source: Path, target: Path, left_out: Sequence[tuple[int, int]] = ()) -> None:
        """Create a copy of a file, of its size, but for the byte ranges that will be written anyway."""
        if self._link and not left_out:
            os.link(os.path.realpath(source), target)  # of the file, where the model is a directory of links
            self._note("hard link")
            return
        given, taken = os.open(source, os.O_RDONLY), -1
        try:
            taken = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            if self._clone(given, taken):
                self._note("reflink")
            else:
                os.ftruncate(taken, os.fstat(given).st_size)
                self._waiting.append((source, target, sorted(left_out)))
        finally:
            os.close(given)
            if taken >= 0:
                os.close(taken)

    def fill(self) -> None:
        """Copy what the created files still lack."""
        while self._waiting and not self._stopped:
            source, target, left_out = self._waiting.pop()
            given, taken = os.open(source, os.O_RDONLY), os.open(target, os.O_RDWR)
            try:
                size, at = os.fstat(given).st_size, 0
                for start, stop in (*left_out, (size, size)):
                    self._copy_range(given, taken, at, start)
                    at = max(at, stop)
            finally:
                os.close(given)
                os.close(taken)
            self._note("copy_file_range" if self._ranges else "read and write")

    def stop(self) -> None:
        """Have `fill` end soon, whatever is still lacking."""
        self._stopped = True

    def _note(self, way: str) -> None:
        self._ways[way] = self._ways.get(way, 0) + 1

    def _clone(self, given: int, taken: int) -> bool:
        if self._clones:
            try:
                fcntl.ioctl(taken, _CLONE, given)
            except OSError as problem:
                if problem.errno not in _NOT_HERE:
                    raise
                self._clones = False
        return self._clones

    def _copy_range(self, given: int, taken: int, start: int, stop: int) -> None:
        while start < stop and not self._stopped:
            count = self._copy_some(given, taken, start, min(stop - start, _COPY_BYTES))
            if not count:
                raise OSError(errno.EIO, "a file became shorter while it was copied")
            start += count

    def _copy_some(self, given: int, taken: int, start: int, count: int) -> int:
        if self._ranges:
            try:
                return os.copy_file_range(given, taken, count, start, start)
            except OSError as problem:
                if problem.errno not in _NOT_HERE:
                    raise
                self._ranges = False
        data = os.pread(given, count, start)
        write_all(taken, data, start)
        return len(data)
