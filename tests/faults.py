"""A file system that fails: every system call that writes, renames or syncs can be the one at which a run dies.

The functions of `os` are replaced for as long as a `Faults` lasts. A run that was killed does nothing any more: from
the fault on no call has any effect, whatever the run still tries in order to clean up.
"""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

NAMES = (
    "open",
    "write",
    "pwrite",
    "copy_file_range",
    "ftruncate",
    "fsync",
    "rename",
    "replace",
    "mkdir",
    "unlink",
    "remove",
    "rmdir",
    "link",
    "chmod",
)
KILLS = ("before", "after", "torn")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS)


class Killed(BaseException):
    """The process is gone; nothing in it may catch this and go on."""


@dataclass
class Faults:
    """What happens at call number `at`: `kind` is one of KILLS, or an errno that the call answers once.

    calls: every call that was made, by name and the path of what it was about.
    """

    at: int | None = None
    kind: str | int = "before"
    calls: list[tuple[str, str]] = field(default_factory=list)
    dead: bool = False

    def call(self, name: str, real: Callable[..., Any], *given: Any, **named: Any) -> Any:
        if name == "open" and not _creates(given, named):
            return real(*given, **named)
        if self.dead:
            raise Killed
        self.calls.append((name, _path(given[1] if name == "copy_file_range" else given[0])))
        if len(self.calls) - 1 != self.at:
            return real(*given, **named)
        if isinstance(self.kind, int):
            raise OSError(self.kind, os.strerror(self.kind))
        self.dead = True
        if self.kind == "torn" and name in {"write", "pwrite"}:
            real(given[0], memoryview(given[1])[: len(given[1]) // 2], *given[2:])
        elif self.kind == "torn" and name == "copy_file_range":
            real(given[0], given[1], given[2] // 2, *given[3:])
        elif self.kind == "after":
            done = real(*given, **named)
            if name == "open":
                os.close(done)
        raise Killed


def _path(given: Any) -> str:
    return os.readlink(f"/proc/self/fd/{given}") if isinstance(given, int) else os.path.realpath(given)


def _creates(given: tuple[Any, ...], named: dict[str, Any]) -> bool:
    flags = given[1] if len(given) > 1 else named.get("flags", 0)
    return bool(flags & (os.O_CREAT | os.O_TRUNC))


@contextmanager
def failing(faults: Faults) -> Iterator[Faults]:
    """Let a run meet the faults."""
    patches = [mock.patch.object(os, name, _wrapped(faults, name, getattr(os, name))) for name in NAMES]
    patches.append(mock.patch.object(fcntl, "ioctl", _wrapped(faults, "ioctl", fcntl.ioctl)))
    for patch in patches:
        patch.start()
    try:
        yield faults
    finally:
        for patch in patches:
            patch.stop()


def _wrapped(faults: Faults, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*given: Any, **named: Any) -> Any:
        return faults.call(name, real, *given, **named)

    return call
