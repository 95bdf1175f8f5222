"""Writes a directory whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chip.errors import ChipError


@contextmanager
def new_directory(directory: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling to fill; rename it to `directory` when the block ends, remove it when it fails.

    Raises ChipError where `directory` already holds something: nothing is ever overwritten.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ChipError(f"{directory} already exists; choose another directory or remove it first.")
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = directory.with_name(f".{directory.name}.{os.getpid()}")
    unfinished.mkdir()
    try:
        yield unfinished
        if directory.exists():
            directory.rmdir()
        unfinished.rename(directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
