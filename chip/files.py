"""Files: digests, locks, and writing so that a reader sees the whole file or none of it.

Whatever is written goes through the functions of `os`, one call a step, so that a test can let any of them fail.
"""

import errno
import fcntl
import glob
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from chip.errors import ChipError

_READ_BYTES = 1 << 20
_HEAD_BYTES = 4096
MOST_BYTES_SMALL = 64 << 20
"""More than any configuration, receipt, ledger, lexicon, key or list of splits has."""
_MARK = re.compile(rb'"format\\?": \\?"chip-|Software\0chip-')
"""Stands near the beginning of every file that chip writes: the name of its format; of a picture, who drew it."""


def without_repetition(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, for `object_pairs_hook`. Raises ValueError where a name stands in it twice: two readers may take
    different values of such a one."""
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def read_small(path: Path, most: int = MOST_BYTES_SMALL) -> bytes:
    """All of a file that is small by its kind. Raises ChipError where it is no regular file, which may have no end, or
    has more than `most` bytes; OSError where it cannot be read."""
    # Before it is opened: opening a pipe would wait for whoever writes to it.
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ChipError(f"{path} is no regular file; name a file that has an end")
    with path.open("rb") as handle:
        if found.st_size > most or len(content := handle.read(most + 1)) > most:
            raise ChipError(f"{path} has more than {most >> 20} MiB, more than any file of its kind; check the path")
    return content


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
        handle = os.open(partial, os.O_WRONLY)
        try:
            write_all(handle, data)
        finally:
            os.close(handle)


def write_all(handle: int, data: bytes | memoryview, at: int | None = None) -> None:
    """Write all of `data` to an open file: where it stands, or at an offset."""
    left = memoryview(data).cast("B")
    while left:
        count = os.write(handle, left) if at is None else os.pwrite(handle, left, at)
        left, at = left[count:], None if at is None else at + count


@contextmanager
def private_file(path: Path) -> Iterator[Path]:
    """A file to write to, which takes the place of `path` once it is whole and on disk: mode 0600, or not at all.

    What an earlier run that was killed left unfinished is removed; what another run is still writing is not.
    """
    with explained(path):
        os.makedirs(path.parent, exist_ok=True)
        remove_abandoned(path)
        partial = path.with_name(f".{path.name}.chip-partial-{os.getpid()}")
        handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield partial
            sync(partial)
            os.replace(partial, path)
            sync(path.parent)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(partial)
            raise
        finally:
            os.close(handle)


def remove_abandoned(path: Path) -> None:
    """Remove what killed runs left of a private file that was to be written at `path`."""
    for partial in path.parent.glob(glob.escape(f".{path.name}.chip-partial-") + "*"):
        _remove_unless_held(partial)


def _remove_unless_held(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except BlockingIOError:
        pass
    finally:
        os.close(handle)


def hidden(path: Path, kind: str) -> Path:
    """A hidden name beside `path`, whatever it is called by, for something of chip's."""
    there = path.resolve()
    return there.with_name(f".{there.name}.chip-{kind}")


def lock_of(path: Path) -> Path:
    """The lock file of whatever is written at `path`."""
    return hidden(path, "lock")


def journal_of(model: Path) -> Path:
    """Where the journal of an edit in place is kept: as long as it is there, the model may be half edited."""
    return hidden(model, "journal")


@contextmanager
def locked(path: Path, busy: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`, which goes when it is let go; a run that was killed no longer holds its own.

    Raises ChipError(`busy`) where another run holds it, unless this one is to `wait` for it."""
    with explained(path):
        os.makedirs(path.parent, exist_ok=True)
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                # Whoever held it may have removed it between the two calls: what was locked is then no longer there.
                if _same_file(handle, path):
                    break
            except BlockingIOError as problem:
                os.close(handle)
                raise ChipError(busy) from problem
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)
    try:
        yield
    finally:
        try:
            with suppress(FileNotFoundError):
                os.unlink(path)
        except OSError as problem:
            raise ChipError(f"the lock {path} could not be removed ({problem.strerror}); it may stay") from problem
        finally:
            os.close(handle)


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def sync(path: Path) -> None:
    """Have a file or a directory on disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
    if path.exists() and not written_by_chip(path):
        raise ChipError(f"{path} exists and chip did not write it; name another file")


def written_by_chip(path: Path) -> bool:
    """Whether a file says that chip wrote it."""
    with path.open("rb") as handle:
        return _MARK.search(handle.read(_HEAD_BYTES)) is not None


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what the operating system refuses while `path` is written into one sentence."""
    try:
        yield
    except OSError as problem:
        full = " (the disk is full: free some space and run again)" if problem.errno == errno.ENOSPC else ""
        raise ChipError(f"{path} could not be written: {problem.strerror}{full}; nothing was left behind") from problem
