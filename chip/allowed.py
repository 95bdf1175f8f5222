"""How large an image may be and where it may lie, and what a user allows beyond that. Opens none, and imports little.

What is allowed stands in the environment, which the processes that decode images ahead inherit.
"""

import os
from pathlib import Path

from chip.errors import UsageError

MOST_PIXELS = 80_000_000
"""The greatest image that is opened, unless more is allowed; a radiograph has at most some 25 million pixels."""
MOST_BYTES_A_PIXEL = 8
"""What a file may take for each of the most pixels: four channels of 16 bits, not compressed."""
ALLOWED_PIXELS, ALLOWED_FOLDERS = "CHIP_MOST_PIXELS", "CHIP_IMAGES_FROM"
"""Variables of the environment: more pixels, and folders beside the data directory that may hold its images."""


def most_pixels() -> int:
    """How many pixels an image may have. Raises UsageError where the environment names no number."""
    given = os.environ.get(ALLOWED_PIXELS, str(MOST_PIXELS))
    if not (given.isascii() and given.isdecimal() and int(given[:19]) > 0):
        raise UsageError(f"--most-pixels ({ALLOWED_PIXELS}) is a number of pixels, above 0; it is {given}")
    return int(given[:19])


def allowed_folders() -> tuple[Path, ...]:
    """Folders beside the data directory that may hold its images, links followed."""
    given = os.environ.get(ALLOWED_FOLDERS, "")
    return tuple(Path(folder).resolve() for folder in given.split(os.pathsep) if folder)
