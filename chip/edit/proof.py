"""Proof that a checkpoint is its base with an edit and nothing else: every byte is read, none is taken on trust."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chip.edit.edit import Edit
from chip.edit.outputs import files_carried, files_left_behind
from chip.edit.rewriting import Applying, edited_digests
from chip.errors import ChipError
from chip.files import file_digest
from chip.models.checkpoint import Checkpoint
from chip.models.stored import header_digest


@dataclass(frozen=True)
class Proof:
    """What was found equal: tensors that are as in the base, tensors that are as the edit makes them, other files; and
    the digests of both checkpoints, and of the other files."""

    unchanged: int
    edited: int
    files: int
    base_digest: str
    edited_digest: str
    files_digest: str


def prove(base: Checkpoint, edited: Checkpoint, written: Mapping[str, str]) -> Proof:
    """Prove that `edited` is `base` but for the tensors in `written`, which have those digests.

    Reads both checkpoints whole, the edited one from the disk and not from memory as far as the system allows. Raises
    ChipError that names the first difference.
    """
    for file in edited.files:
        _forget_cached(file)
    others = _prove_files(base, edited)
    if list(base.tensors) != list(edited.tensors):
        raise ChipError(f"{edited.directory} does not store the same tensors as {base.directory}")
    for name, digest in edited.tensor_digests.items():
        if digest != written.get(name, base.tensor_digests[name]):
            meant = "as the edit makes it" if name in written else f"as in {base.directory}, and no edit changes it"
            raise ChipError(f"{name} in {edited.directory} is not {meant}")
    return Proof(
        len(base.tensors) - len(written), len(written), others, base.digest, edited.digest, files_digest(edited)
    )


def verify(base: Checkpoint, edited: Checkpoint, edits: Sequence[Edit]) -> Proof:
    """Prove at any later time that `edited` is `base` after `edits`, which are applied again, in memory."""
    Applying(edits).stored(base)  # refuses what does not fit
    return prove(base, edited, edited_digests(base, edits))


def files_digest(checkpoint: Checkpoint) -> str:
    """SHA-256 over the names and digests of all files that an edited checkpoint carries but those that hold tensors:
    config, tokenizer, processor, templates and whatever else lies there."""
    total, shards = hashlib.sha256(), set(checkpoint.files)
    for path in (path for path in files_carried(checkpoint) if path not in shards):
        total.update(f"{path.relative_to(checkpoint.directory)}\0{file_digest(path)}\n".encode())
    return total.hexdigest()


def _prove_files(base: Checkpoint, edited: Checkpoint) -> int:
    """That headers and all other files are equal; the number of other files."""
    ours, theirs = ({path.relative_to(one.directory): path for path in files_carried(one)} for one in (base, edited))
    if odd := sorted(ours.keys() ^ theirs.keys()):
        lacking = base if odd[0] in theirs else edited
        raise ChipError(f"{odd[0]} is not in {lacking.directory}, but in the other checkpoint")
    for odd_one in files_left_behind(edited):
        before, after = base.directory / odd_one, edited.directory / odd_one
        if not (before.is_file() and after.is_file()) or file_digest(before) != file_digest(after):
            raise ChipError(f"{odd_one} in {edited.directory} is no file that an edited checkpoint carries")
    shards = {path.relative_to(base.directory) for path in base.files}
    for name, path in ours.items():
        digest = header_digest if name in shards else file_digest
        if digest(path) != digest(theirs[name]):
            what = "the header of " if name in shards else ""
            raise ChipError(f"{what}{name} in {edited.directory} is not as in {base.directory}")
    return len(ours) - len(shards)


def _forget_cached(file: Path) -> None:
    """Have the next reading of a file, which is on disk already, come from there."""
    handle = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
