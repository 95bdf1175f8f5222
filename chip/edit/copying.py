"""Copying files the quickest way that the file system offers, and saying which way that was."""

import errno
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

from chip.files import write_all

_CLONE = 0x40049409
"""The ioctl FICLONE (linux/fs.h): both files share their blocks until one of them is written to."""

_COPY_BYTES = 1 << 24
_NOT_HERE = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM}
"""What a file system answers that cannot do what was asked."""


class Copier:
    """Copies the files of one checkpoint; `ways` says how: reflink, copy_file_range, read and write, hard link."""

    def __init__(self, *, link: bool = False) -> None:
        self._link = link
        self._clones = self._ranges = True
        self._ways: dict[str, int] = {}

    @property
    def ways(self) -> str:
        """How files were copied, in words."""
        return ", ".join(f"{count} by {way}" for way, count in self._ways.items()) or "nothing"

    def copy(self, source: Path, target: Path) -> None:
        """Copy a file whole; with `link`, as one more name of the same file."""
        if self._link:
            os.link(source, target, follow_symlinks=True)
            self._note("hard link")
            return
        self.copy_but(source, target, ())

    def copy_but(self, source: Path, target: Path, left_out: Iterable[tuple[int, int]]) -> None:
        """Copy a file but for the byte ranges that will be written anyway; those may hold anything until then."""
        given = os.open(source, os.O_RDONLY)
        try:
            taken = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                if self._clone(given, taken):
                    self._note("reflink")
                    return
                size, at = os.fstat(given).st_size, 0
                os.ftruncate(taken, size)
                ranges = self._ranges
                for start, stop in (*sorted(left_out), (size, size)):
                    self._copy_range(given, taken, at, start)
                    at = max(at, stop)
                self._note("copy_file_range" if ranges and self._ranges else "read and write")
            finally:
                os.close(taken)
        finally:
            os.close(given)

    def _note(self, way: str) -> None:
        self._ways[way] = self._ways.get(way, 0) + 1

    def _clone(self, given: int, taken: int) -> bool:
        if not self._clones:
            return False
        try:
            fcntl.ioctl(taken, _CLONE, given)
        except OSError as problem:
            if problem.errno not in _NOT_HERE:
                raise
            self._clones = False
        return self._clones

    def _copy_range(self, given: int, taken: int, start: int, stop: int) -> None:
        while start < stop:
            count = self._copy_some(given, taken, start, min(stop - start, _COPY_BYTES))
            if not count:
                raise OSError(errno.EIO, "a file became shorter while it was copied")
            # What was written is on its way to the disk while the next is copied, and fsync has little to wait for.
            os.posix_fadvise(taken, start, count, os.POSIX_FADV_DONTNEED)
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
