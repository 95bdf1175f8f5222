"""How large images may be, how many and where, and what a user allows beyond that. Opens none, and imports little.

What is allowed stands in the environment, which the processes that decode images ahead inherit.
"""

import os
from pathlib import Path

from chip.errors import UsageError

MOST_PIXELS = 80_000_000
"""The greatest image that is opened, unless more is allowed; a radiograph has at most some 25 million pixels."""
MOST_BYTES_A_PIXEL = 8
"""What a file may take for each of the most pixels: four channels of 16 bits, not compressed."""
MOST_IMAGES = 100
"""Images of a record, all of which a model sees at once; studies of thousands of slices show some of them."""
IMAGES_AT_ONCE = 4
"""How many of the greatest images a record may show, or as many pixels in smaller ones."""
_LONGEST_NUMBER = 18
"""Digits of a number of pixels; there are no more addresses of memory than that."""
ALLOWED_PIXELS, ALLOWED_FOLDERS = "CHIP_MOST_PIXELS", "CHIP_IMAGES_FROM"
"""Variables of the environment: more pixels, and folders beside the data directory that may hold its images."""


def most_pixels() -> int:
    """How many pixels an image may have. Raises UsageError where the environment names no number."""
    given = os.environ.get(ALLOWED_PIXELS, str(MOST_PIXELS))
    if not (given.isascii() and given.isdecimal() and len(given) <= _LONGEST_NUMBER and int(given) > 0):
        raise UsageError(
            f"--most-pixels ({ALLOWED_PIXELS}) is a number of pixels, above 0 and of at most {_LONGEST_NUMBER} digits; "
            f"it is {given[:40]}{'…' * (len(given) > 40)}"
        )
    return int(given)


def allowed_folders() -> tuple[Path, ...]:
    """Folders beside the data directory that may hold its images, links followed."""
    given = os.environ.get(ALLOWED_FOLDERS, "")
    return tuple(Path(folder).resolve() for folder in given.split(os.pathsep) if folder)
