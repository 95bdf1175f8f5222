"""The checkpoint writer: copies a checkpoint's files, writes some tensors anew at their own bytes, and proves the rest.

No model is loaded. Names, order, dtypes, headers and shards stay as they are. A checkpoint is written beside its
destination and renamed into place, or in place under a journal; to its user both are the same.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from chip.edit.copying import Copier
from chip.edit.journal import remove_journal, roll_back, sync_removal, write_journal
from chip.edit.outputs import files_carried, refuse_existing
from chip.edit.proof import Proof, prove
from chip.edit.rewriting import Rewriting
from chip.edit.staging import StagedDirectory
from chip.edit.threads import beside
from chip.errors import ChipError
from chip.files import explained, journal_of, lock_of, locked, sync
from chip.models.checkpoint import Checkpoint
from chip.models.stored import StoredTensor


class WrittenCheckpoint(Protocol):
    """A checkpoint that is written and can be loaded from `directory`, and undone unless it is committed.

    Used as a context manager. `copied` and `recovered` say in words how files were copied, and what a run that was
    killed had left.
    """

    copied: str
    recovered: str

    @property
    def directory(self) -> Path: ...

    @property
    def committed(self) -> bool:
        """Whether it is final, whatever went wrong since."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def prove(self) -> Proof:
        """Read everything back from the disk: what was written is as it was meant, and all else as it was."""
        ...

    def commit(self) -> None:
        """Make it final."""
        ...


class StagedCheckpoint:
    """A checkpoint in a hidden directory beside its destination; `commit` renames it into place.

    Whatever was not committed is removed on the way out. link: files that are not edited become hard links to the
    base's. force: an old checkpoint at `out` is replaced, once the new one is whole.
    """

    def __init__(
        self, base: Checkpoint, rewriting: Rewriting, out: Path, *, force: bool = False, link: bool = False
    ) -> None:
        refuse_existing(out, base.directory, force=force)
        self.recovered = self.copied = ""
        self._base, self._rewriting, self._out, self._force = base, rewriting, out, force
        self._copier = Copier(link=link)
        self._staged = StagedDirectory(out, force=force)
        self._written: dict[str, str] = {}
        self._held = ExitStack()

    @property
    def directory(self) -> Path:
        """Where it can be loaded from."""
        return self._staged.directory

    @property
    def committed(self) -> bool:
        return self._staged.committed

    def __enter__(self) -> Self:
        stored = self._rewriting.stored(self._base)
        with ExitStack() as held:
            held.enter_context(self._staged)
            self.recovered = self._staged.recovered
            with explained(self._out):
                self._create_files(stored)
                with beside(self._copier.fill, self._copier.stop, self._copier.waiting):
                    self._written = self._rewriting.write(self._base, self.directory)
                self._staged.sync()
            self.copied = self._copier.ways
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held.close()

    def prove(self) -> Proof:
        """Read everything back from the disk: what was written is as it was meant, and all else as it was."""
        self._refuse_changed()
        return prove(self._base, Checkpoint(self.directory), self._written)

    def commit(self) -> None:
        """Put it into place; where `force` was given, the old one goes only then."""
        refuse_existing(self._out, self._base.directory, force=self._force)
        self._staged.commit()

    def _refuse_changed(self) -> None:
        """Raise ChipError where the base was written to while it was read."""
        if self._base.changed():
            raise ChipError(f"{self._base.directory} changed while it was read; nothing was written, run this again")

    def _create_files(self, rewritten: Sequence[StoredTensor]) -> None:
        edited: dict[Path, list[tuple[int, int]]] = {}
        for one in rewritten:
            edited.setdefault(one.file, []).append((one.start, one.stop))
        for source in files_carried(self._base):
            target = self.directory / source.relative_to(self._base.directory)
            os.makedirs(target.parent, exist_ok=True)
            self._copier.create(source, target, edited.get(source, ()))


class CheckpointInPlace:
    """A checkpoint whose tensors are written over; `commit` makes that final.

    Whatever was not committed is put back on the way out, or, where the run is killed, by the next one. Raises
    ChipError where a file is a link or has others, since that would change another model too.
    """

    copied, recovered = "nothing", ""

    def __init__(self, base: Checkpoint, rewriting: Rewriting) -> None:
        self.directory, self.committed = base.directory, False
        self._base, self._rewriting = base, rewriting
        self._written: dict[str, str] = {}
        self._held = ExitStack()

    def __enter__(self) -> Self:
        tensors = self._rewriting.stored(self._base)
        files = sorted({tensor.file for tensor in tensors})
        _refuse_shared(files)
        _ = self._base.digest  # as it was, to compare with
        with ExitStack() as held:
            busy = f"another run is editing {self.directory} in place; wait for it to end"
            held.enter_context(locked(lock_of(self.directory), busy))
            self._refuse_changed(tensors)
            held.callback(self._put_back)
            write_journal(self.directory, tensors, self._base.tensor_digests)
            with explained(self.directory):
                self._written = self._rewriting.write(self._base, self.directory)
                for file in files:
                    sync(file)
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held.close()

    def prove(self) -> Proof:
        """Read everything back from the disk: what was written is as it was meant, and all else as it was."""
        return prove(self._base, Checkpoint(self.directory, unfinished=True), self._written)

    def commit(self) -> None:
        """Make it final: from here on there is no way back but `chip revert`."""
        remove_journal(self.directory)
        self.committed = True
        sync_removal(self.directory)

    def _refuse_changed(self, tensors: Sequence[StoredTensor]) -> None:
        """Raise ChipError where another run has edited the model since it was read; the lock is held by now."""
        if journal_of(self.directory).exists():
            raise ChipError(f"another run began to edit {self.directory} in place and was interrupted; run this again")
        for one in tensors:
            if one.digest() != self._base.tensor_digests[one.name]:
                raise ChipError(f"{one.name} in {one.file} has changed since it was read; run this again")

    def _put_back(self) -> None:
        if journal_of(self.directory).exists():
            roll_back(self.directory)


def written(
    base: Checkpoint, rewriting: Rewriting, out: Path | None, *, force: bool = False, link: bool = False
) -> WrittenCheckpoint:
    """A checkpoint that is written to `out`, or, where that is None, in place."""
    if out is None:
        return CheckpointInPlace(base, rewriting)
    return StagedCheckpoint(base, rewriting, out, force=force, link=link)


@contextmanager
def kept_once_committed(checkpoint: WrittenCheckpoint) -> Iterator[list[Path]]:
    """A list for what was written beside a checkpoint: it goes again unless the checkpoint is committed.

    A file is to be listed once it is written, so that one of before, which nothing replaced yet, stays.
    """
    beside: list[Path] = []
    try:
        yield beside
    finally:
        for path in () if checkpoint.committed else beside:
            path.unlink(missing_ok=True)


def _refuse_shared(files: list[Path]) -> None:
    for file in files:
        if file.is_symlink() or os.stat(file).st_nlink > 1:
            raise ChipError(f"{file} is a link or has others: editing it in place would change them too; give --out")
