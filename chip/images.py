"""Image files: the formats that are opened, how large an image may be, and what is raised of one that does not decode.

Pillow knows dozens of formats, some of which start programs (EPS starts Ghostscript); a data set has need of a few.
"""

import struct
import warnings
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from PIL import Image

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp"}
"""The formats that a data set may hold, by Pillow's name, and what their files are called."""
MOST_PIXELS = 80_000_000
"""The greatest image that is opened; a radiograph has at most some 25 million pixels."""
DAMAGED = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, IndexError, OverflowError, struct.error, zlib.error),
    Image.DecompressionBombError,
)
"""What Pillow raises of files that are damaged, of no format that is opened, or too large."""


@contextmanager
def opened(file: Path | IO[bytes], formats: Collection[str] = tuple(SUFFIXES)) -> Iterator[Image.Image]:
    """An image file of one of the formats, not decoded yet. Raises one of DAMAGED where it is none, or has more than
    MOST_PIXELS."""
    with warnings.catch_warnings():
        # What Pillow would only warn of has more than MOST_PIXELS.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(file, formats=tuple(formats))
    with image:
        if image.width * image.height > MOST_PIXELS:
            raise Image.DecompressionBombError(f"it has more than {MOST_PIXELS:,} pixels")
        yield image
