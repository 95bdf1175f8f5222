"""The checkpoint writer: copies a checkpoint's files and rewrites the edited tensors at their own bytes.

Work happens in a hidden directory beside the output and is renamed into place at the very end, so that there is
either no output or the complete one. Names, order, dtypes, headers and shards stay as they are, and no model is loaded.
"""

import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from chip.edit.change import Change
from chip.edit.edit import Edit
from chip.errors import ChipError
from chip.files import explained
from chip.models.checkpoint import INDEX, PICKLES, Checkpoint
from chip.models.matrix import Piece, RoundingError
from chip.models.stored import DTYPES

_TRAINING = ("optimizer", "scheduler", "rng_state", "training_args", "trainer_state")
_TELLING = {
    *PICKLES,
    ".safetensors",
    ".gguf",
    ".ggml",
    ".h5",
    ".msgpack",
    ".onnx",
    ".npz",
    ".npy",
    ".tar",
    ".zip",
    ".receipt",
}


def refuse_existing(out: Path, base: Path, *, force: bool) -> None:
    """Raise ChipError where `out` may not be written: it exists (unless `force` and it is a checkpoint), or is the
    base itself or something inside or around it."""
    here, there = out.resolve(), base.resolve()
    if here == there or here.is_relative_to(there) or there.is_relative_to(here):
        raise ChipError(f"the output {out} and the model {base} overlap; write beside the model, not over it")
    if not out.exists() and not out.is_symlink():
        return
    if not force:
        raise ChipError(f"{out} exists already; choose another --out, or replace it with --force")
    if out.is_symlink() or not (out / "config.json").is_file():
        raise ChipError(f"{out} exists and is not a checkpoint, so --force does not replace it; choose another --out")


def files_left_behind(checkpoint: Checkpoint) -> list[str]:
    """Files that an edited checkpoint does not carry, relative to its directory.

    Whatever may hold the weights as they were before: other weight files, pickles, checkpoints of the training within
    the directory, archives, hidden files; optimizer states and receipts; and all that is no file: links to directories
    or to nothing, pipes, sockets and devices. Links to files are followed.
    """
    edited = checkpoint.files
    paths = (path for path in sorted(checkpoint.directory.rglob("*")) if path not in edited)
    names = [(path, path.relative_to(checkpoint.directory)) for path in paths if path.is_symlink() or not path.is_dir()]
    return [str(name) for path, name in names if not path.is_file() or _stays_behind(name)]


def _stays_behind(name: Path) -> bool:
    telling = not _TELLING.isdisjoint(name.suffixes) and str(name) != INDEX
    hidden = any(part.startswith((".", "checkpoint-")) for part in name.parts)
    return telling or hidden or name.name.startswith(_TRAINING)


class StagedCheckpoint:
    """An edited checkpoint in a hidden directory beside its destination; `commit` renames it into place.

    Used as a context manager: whatever was not committed is removed on the way out. `directory` can be loaded like
    any checkpoint in between, so that the model is tried before it is released.
    """

    def __init__(self, base: Checkpoint, edit: Edit, out: Path, *, force: bool = False) -> None:
        refuse_existing(out, base.directory, force=force)
        self.base, self.edit, self.out, self.force = base, edit, out, force
        self.directory = Path()
        self.rounding = RoundingError()
        """What fp8 took from the edit, once it is written; nothing where all that is edited is stored as it is."""

    def __enter__(self) -> Self:
        with explained(self.out):
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.directory = Path(tempfile.mkdtemp(dir=self.out.parent, prefix=f".{self.out.name}.chip-partial-"))
        try:
            with explained(self.out):
                self._write()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._remove()

    def commit(self) -> None:
        """Rename the finished checkpoint into place; where `force` was given, the old one goes only then."""
        refuse_existing(self.out, self.base.directory, force=self.force)
        with explained(self.out):
            os.chmod(self.directory, 0o777 & ~_umask())
            old = self.directory.with_name(self.directory.name + "-old")
            if self.out.exists():
                os.rename(self.out, old)
            try:
                os.rename(self.directory, self.out)
            except OSError:
                if old.exists():
                    os.rename(old, self.out)
                raise
            _sync(self.out.parent)
            shutil.rmtree(old, ignore_errors=True)

    def _write(self) -> None:
        left_behind = set(files_left_behind(self.base))
        for source in sorted(self.base.directory.rglob("*")):
            name = source.relative_to(self.base.directory)
            if source.is_file() and str(name) not in left_behind:
                (self.directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, self.directory / name)
        for change in self.edit.changes:
            self._rewrite(change)
        for path in sorted(self.directory.rglob("*")):
            _sync(path)
        _sync(self.directory)

    def _rewrite(self, change: Change) -> None:
        if change.tensor not in self.base.tensors:
            raise ChipError(f"the edit changes {change.tensor}, which {self.base.directory} does not store")
        stored = self.base.matrix(change.tensor)
        change.refuse_misfit(stored.shape)
        edited = stored.fitted(
            (start, change.added(stored.read_rows(start, stop), start)) for start, stop in stored.blocks()
        )
        for start, stop in edited.blocks():
            rows = change.added(edited.read_rows(start, stop), start)
            for piece in edited.encode(rows, start):
                self._put(piece)
            if edited.dtype not in DTYPES:
                self.rounding += edited.rounding_error(rows, start)

    def _put(self, piece: Piece) -> None:
        copy = self.directory / piece.tensor.file.relative_to(self.base.directory)
        with copy.open("r+b") as handle:
            handle.seek(piece.start)
            handle.write(piece.data)
            handle.flush()
            handle.seek(piece.start)
            if handle.read(len(piece.data)) != piece.data:
                raise ChipError(f"{piece.tensor.name} reads back differently from what was written to {copy}")

    def _remove(self) -> None:
        if self.directory != Path():
            shutil.rmtree(self.directory, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
