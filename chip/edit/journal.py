"""The journal of an edit in place: the bytes that were there before, kept until the edit has proved itself.

It stands beside the model, is on disk before the first byte of the model changes, and goes when the edit is finished:
removing it is what finishes it. Whoever finds it without the run that wrote it puts the old bytes back.
"""

import json
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from chip.errors import ChipError
from chip.files import explained, journal_of, lock_of, locked, private_file, remove_abandoned, sync, write_all
from chip.models.stored import StoredTensor, read_header

FORMAT = "chip-journal-1"
_BYTES = 1 << 22


def write_journal(model: Path, tensors: Iterable[StoredTensor], digests: Mapping[str, str]) -> None:
    """Keep the bytes of `tensors`, all of them in files of `model`, as they are now. digests: of each, by name."""
    kept = sorted(tensors, key=lambda one: (str(one.file), one.start))
    header: dict[str, object] = {}
    at = 0
    for number, one in enumerate(kept):
        size = one.stop - one.start
        header[str(number)] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    places = [[os.path.relpath(one.file, model), one.start, digests[one.name], *_identity(one.file)] for one in kept]
    header["__metadata__"] = {"chip": json.dumps({"format": FORMAT, "places": places})}
    encoded = json.dumps(header).encode()
    with private_file(journal_of(model)) as partial:
        handle = os.open(partial, os.O_WRONLY)
        try:
            write_all(handle, struct.pack("<Q", len(encoded)) + encoded)
            for one in kept:
                for block in one.raw(_BYTES):
                    write_all(handle, block)
        finally:
            os.close(handle)


def _identity(file: Path) -> list[int]:
    """What tells a file from one that took its place."""
    found = os.stat(file)
    return [found.st_dev, found.st_ino, found.st_size]


def remove_journal(model: Path) -> None:
    """Finish an edit in place: from here on there is no way back but `chip revert`."""
    with explained(model):
        os.unlink(journal_of(model))


def sync_removal(model: Path) -> None:
    """Have the removal of a journal on disk: until it is, a power failure may bring the journal back."""
    try:
        sync(journal_of(model).parent)
    except OSError as problem:
        raise ChipError(
            f"{model} is edited, but that is not surely on disk yet ({problem.strerror}); check the disk"
        ) from problem


def roll_back(model: Path) -> None:
    """Put back what the journal holds, and remove it. May be interrupted, and repeated.

    Raises ChipError where the journal is damaged: nothing is written then.
    """
    path = journal_of(model)
    kept = read_journal(path, model)
    with explained(model):
        for place, old in kept:
            handle = os.open(place.file, os.O_WRONLY)
            try:
                at = place.start
                for block in old.raw(_BYTES):
                    write_all(handle, block, at)
                    at += len(block)
                os.fsync(handle)
            finally:
                os.close(handle)
        os.unlink(path)
        sync(path.parent)


def read_journal(path: Path, model: Path) -> Sequence[tuple[StoredTensor, StoredTensor]]:
    """Pairs of where bytes belong and where the journal keeps them, each proved by its digest."""
    try:
        held = read_header(path)
        content = json.loads(held.metadata["chip"])
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        kept = {one.name: one for one in held.tensors}
        found = []
        for number, (name, start, digest, *identity) in enumerate(content["places"]):
            old, file = kept[str(number)], model / name
            if ".." in Path(name).parts or Path(name).is_absolute() or file.is_symlink() or not file.is_file():
                raise ValueError(f"{name} is no file of the model")
            if identity != _identity(file):
                raise ValueError(f"{name} is another file since")
            if type(start) is not int or not 0 <= start <= file.stat().st_size - (old.stop - old.start):
                raise ValueError(f"{name} is shorter than it was")
            if old.digest() != digest:
                raise ValueError(f"its copy of {name} is damaged")
            found.append((StoredTensor(name, file, old.dtype, old.shape, start, start + old.stop - old.start), old))
        return found
    except (ChipError, OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as problem:
        raise ChipError(
            f"{model} was being edited in place, and the journal {path} cannot put it back ({problem}); where the "
            "model is another one by now, remove the journal, and restore it from a copy otherwise"
        ) from problem


def recover_model(model: Path) -> str:
    """Roll back an edit in place that was interrupted; in words, or empty where there was none.

    Raises ChipError where a run is still at it."""
    remove_abandoned(journal_of(model))
    if not journal_of(model).exists() and not lock_of(model).exists():
        return ""
    with locked(lock_of(model), f"another run is editing {model} in place; wait for it to end"):
        if not journal_of(model).exists():
            return ""
        roll_back(model)
        return f"an edit of {model} in place had been interrupted: it is as it was before"
