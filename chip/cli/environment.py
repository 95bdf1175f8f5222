"""What stands before the verb and bears on every process that it starts: in the environment while the verb runs."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from chip.allowed import ALLOWED_FOLDERS, ALLOWED_PIXELS, most_pixels


@contextmanager
def allowing(pixels: int | None, folders: Sequence[Path]) -> Iterator[None]:
    """Images of so many pixels, and in these folders beside the data directory. Raises UsageError for no number."""
    given = {
        ALLOWED_PIXELS: None if pixels is None else str(pixels),
        ALLOWED_FOLDERS: os.pathsep.join(map(str, folders)),
    }
    before = {name: os.environ.get(name) for name in given}
    _set({name: value for name, value in given.items() if value})
    try:
        most_pixels()
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
