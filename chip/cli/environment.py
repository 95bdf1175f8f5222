"""What stands before the verb and bears on every process that it starts: in the environment while the verb runs."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from chip.allowed import ALLOWED_FOLDERS, ALLOWED_PIXELS, most_pixels
from chip.errors import UsageError


@contextmanager
def allowing(pixels: int | None, folders: Sequence[Path]) -> Iterator[None]:
    """Images of so many pixels, and in these folders beside the data directory, wherever a process works.

    Raises UsageError for no number, and for a folder whose name would be taken for several.
    """
    given = {
        ALLOWED_PIXELS: None if pixels is None else str(pixels),
        ALLOWED_FOLDERS: os.pathsep.join(map(_whole, folders)),
    }
    before = {name: os.environ.get(name) for name in given}
    _set({name: value for name, value in given.items() if value})
    try:
        most_pixels()
        yield
    finally:
        _set(before)


def _whole(folder: Path) -> str:
    """A folder's whole path, links followed."""
    found = str(folder.resolve())
    if os.pathsep in found:
        raise UsageError(f"--images-from {found}: its path holds {os.pathsep!r}, which stands between folders; move it")
    return found


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
