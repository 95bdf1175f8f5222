"""Files: digests, and writing so that a reader sees the whole file or none of it."""

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chip.errors import ChipError

_READ_BYTES = 1 << 20
_HEAD_BYTES = 4096
_MARK = b"chip-"
"""Stands near the beginning of every file that chip writes, in the name of its format."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    total = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(_READ_BYTES):
            total.update(block)
    return total.hexdigest()


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read (mode 0600), whole or not at all."""
    with private_file(path) as partial:
        partial.write_bytes(data)


@contextmanager
def private_file(path: Path) -> Iterator[Path]:
    """A file to write to, which takes the place of `path` once it is whole and on disk: mode 0600, or not at all."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        partial = Path(name)
        try:
            yield partial
            with partial.open("rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def refuse_unwritable(path: Path) -> None:
    """Raise ChipError where `path` could not be written in the end, before anything is worked out for it."""
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise ChipError(f"{path} cannot be written: {parent} is a file, not a directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ChipError(f"{path} cannot be written: {parent} is read-only here")


def refuse_foreign(path: Path) -> None:
    """Raise ChipError where `path` is a file that chip did not write: none is ever replaced."""
    if path.is_dir():
        raise ChipError(f"{path} is a directory; name a file")
    if path.exists():
        with path.open("rb") as handle:
            if _MARK not in handle.read(_HEAD_BYTES):
                raise ChipError(f"{path} exists and chip did not write it; name another file")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what the operating system refuses while `path` is written into one sentence."""
    try:
        yield
    except OSError as problem:
        full = " (the disk is full: free some space and run again)" if problem.errno == errno.ENOSPC else ""
        raise ChipError(f"{path} could not be written: {problem.strerror}{full}; nothing was left behind") from problem
