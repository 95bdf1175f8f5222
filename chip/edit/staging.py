"""A directory that appears whole or not at all.

It is filled under a hidden name beside its destination and renamed into place last. A run that was killed leaves a
hidden directory at most, which the next run on the same destination recognises and cleans; two runs at once are told
apart by a lock.
"""

import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from chip.edit.threads import each
from chip.errors import ChipError
from chip.files import explained, hidden, lock_of, locked, sync

_FINISHED = ("config.json", "adapter_config.json", "dataset.json")
"""One of these is in whatever is staged."""


class StagedDirectory:
    """A hidden directory beside `out`, under its lock; `commit` renames it into place.

    Used as a context manager: whatever was not committed is removed on the way out. `recovered` says in words what an
    earlier run had left and what became of it; empty where there was nothing.
    """

    def __init__(self, out: Path, *, force: bool = False) -> None:
        """force: what stands at `out` is replaced."""
        self.out, self.directory, self._old = out, hidden(out, "partial"), hidden(out, "old")
        self.committed, self._force = False, force
        self.recovered = ""
        self._held = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as held:
            held.enter_context(locked(lock_of(self.out), f"another run is writing {self.out}; wait for it to end"))
            with explained(self.out):
                self.recovered = recover_directory(self.out)
                held.callback(self._remove)
                os.mkdir(self.directory, 0o700)
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held.close()

    def sync(self) -> None:
        """Have all that was written on disk."""
        paths = sorted(self.directory.rglob("*"))
        each(sync, paths, sum(path.stat().st_size for path in paths))
        sync(self.directory)

    def commit(self, *, private: bool = False) -> None:
        """Rename the finished directory, which was synced, into place; what it replaces goes only then. private: only
        its owner may look into it."""
        with explained(self.out):
            if not private:
                os.chmod(self.directory, 0o777 & ~_umask())
            sync(self.directory)
            if self._force and os.path.lexists(self.out):
                os.rename(self.out, self._old)
            try:
                # Fails where something stands at `out` by now, but for an empty directory.
                os.rename(self.directory, self.out)
            except OSError:
                if self._old.exists():
                    os.rename(self._old, self.out)
                raise
        self.committed = True
        try:
            sync(self.out.absolute().parent)
            remove_directory(self._old)
        except OSError as problem:
            raise ChipError(
                f"{self.out} is complete and in place, but not surely on disk yet ({problem.strerror}); check the disk"
            ) from problem

    def _remove(self) -> None:
        try:
            remove_directory(self.directory)
        except OSError as problem:
            raise ChipError(
                f"{self.out} was not written, and {self.directory} could not be removed ({problem.strerror}); the next "
                f"run with this output removes it"
            ) from problem


def recover_output(out: Path) -> str:
    """Put right what a killed run left at an output; in words, or empty.

    Raises ChipError where a run is still at it.
    """
    if not any(hidden(out, kind).exists() for kind in ("partial", "old", "lock")):
        return ""
    with locked(lock_of(out), f"another run is writing {out}; wait for it to end"), explained(out):
        return recover_directory(out)


def recover_directory(out: Path) -> str:
    """Put right what a killed run left at `out`, whose lock is held; in words, or empty."""
    partial, old = hidden(out, "partial"), hidden(out, "old")
    said = []
    if old.exists() and not os.path.lexists(out):
        os.rename(old, out)
        sync(old.parent)
        said.append(f"an interrupted run had moved {out} aside: it is back")
    elif old.exists() and not any((out / name).is_file() for name in _FINISHED):
        raise ChipError(
            f"{out} is no checkpoint, and {old} is what stood there before an interrupted run replaced it; move one of "
            "them away"
        )
    if partial.exists() or old.exists():
        said.append(f"what an interrupted run had left beside {out} was removed")
    for path in (partial, old):
        remove_directory(path)
    return "; ".join(said)


def remove_directory(path: Path) -> None:
    """Remove a directory of chip's own with all it holds, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
