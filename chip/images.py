"""Image files: the formats that are opened, how large an image may be, and what is raised of one that does not decode.

Pillow knows dozens of formats, some of which start programs (EPS starts Ghostscript); a data set has need of a few.
"""

import struct
import warnings
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import IO

from PIL import Image

from chip.allowed import IMAGES_AT_ONCE, most_pixels
from chip.errors import ChipError

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp"}
"""The formats that a data set may hold, by Pillow's name, and what their files are called."""
LONGEST_SIDES = 200
"""How many times as long as the other a side may be: a processor that scales the shorter side up to what the model sees
makes a line of 80 million pixels of one of a few thousand."""
DAMAGED = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, IndexError, OverflowError, struct.error, zlib.error),
    Image.DecompressionBombError,
)
"""What Pillow raises of files that are damaged, of no format that is opened, or too large."""


@contextmanager
def opened(file: Path | IO[bytes], formats: Collection[str] = tuple(SUFFIXES)) -> Iterator[Image.Image]:
    """An image file of one of the formats, not decoded yet. Raises one of DAMAGED where it is none, has more than
    `most_pixels()`, or one side more than LONGEST_SIDES times as long as the other."""
    most = most_pixels()
    with _limit_of_pillow(most):
        image = Image.open(file, formats=tuple(formats))
    with image:
        wide, high = image.size
        if wide * high > most:
            raise Image.DecompressionBombError(f"it has more than {most:,} pixels; --most-pixels allows more")
        if max(wide, high) > LONGEST_SIDES * min(wide, high):
            raise Image.DecompressionBombError(f"one side is more than {LONGEST_SIDES} times as long as the other")
        yield image


def open_images(paths: Sequence[Path], line: int) -> list[Image.Image]:
    """The images of the record on a line as RGB, in order.

    Raises ChipError where one is missing, damaged, absurdly large or no image at all, never a blank, and where all of
    them together are too large.
    """
    most, shown = IMAGES_AT_ONCE * most_pixels(), 0
    images = []
    for path in paths:
        try:
            with opened(path) as image:
                shown += image.width * image.height
                if shown > most:
                    raise ChipError(
                        f"record on line {line}: its images have more than {most:,} pixels together; --most-pixels "
                        "allows more"
                    )
                images.append(image.convert("RGB"))
        except DAMAGED as problem:
            raise ChipError(f"record on line {line}: {path} cannot be read as an image ({problem})") from problem
    return images


_OPENING = Lock()


@contextmanager
def _limit_of_pillow(most: int) -> Iterator[None]:
    """Pillow's own limit, which it has for the whole process, does not stand in the way of what was allowed; it is as
    it was on the way out, for whoever else opens images here, and one thread at a time changes it."""
    with _OPENING, warnings.catch_warnings():
        # What Pillow would only warn of has more than that.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max(before or 0, most)
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
