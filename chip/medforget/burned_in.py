"""Text burned into the pixels of a radiograph, found by its looks: rows of small, thin strokes of high contrast.

A heuristic, and no reader. It says where something looks like a line of text, three signs or more; side markers of one
or two letters, an "L" or an "R", are no line and are passed over. docs/medforget.md gives what it finds and what it
takes for text that is none, as measured.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chip.errors import ChipError
from chip.images import opened

LONGEST = (1280, 640, 320)
"""Pixels of the longer side at which an image is looked at: signs of every size are small at one of them."""
SIGNS = 3
"""Signs in a row that make a line."""
LOW, HIGH = 4, 22
"""Pixels that a sign is high."""
STROKE = 5
"""Pixels that a stroke is thinner than."""
CONTRAST = 50.0
"""Grey levels, of 255, by which a stroke stands out from what is around it."""


@dataclass(frozen=True, slots=True)
class Box:
    """Where text seems to be, as shares of the image's width and height."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class _Sign:
    left: int
    top: int
    right: int
    bottom: int
    level: float

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left


def burned_in(image: Image.Image) -> tuple[Box, ...]:
    """The places of an image, of any mode, that look like lines of text; none where nothing does."""
    grey = _grey(image)
    for side in LONGEST:
        shrunk = _shrunk(grey, side)
        if side != LONGEST[0] and shrunk.shape == grey.shape:
            continue
        height, width = shrunk.shape
        # Text is lighter than what is around it, or on a label darker.
        for levels in (shrunk, 255.0 - shrunk):
            rows = list(_rows(_signs(levels)))
            if rows:
                return tuple(
                    Box(
                        min(one.left for one in row) / width,
                        min(one.top for one in row) / height,
                        max(one.right for one in row) / width,
                        max(one.bottom for one in row) / height,
                    )
                    for row in rows
                )
    return ()


def burned_in_file(content: bytes) -> tuple[Box, ...]:
    """The same of an image file's bytes; raises one of `chip.images.DAMAGED` where they do not decode."""
    with opened(BytesIO(content)) as image:
        return burned_in(image)


def _grey(image: Image.Image) -> NDArray[np.float32]:
    """Grey levels from 0 to 255, (height, width); deeper pixels are spread over that range."""
    if image.mode.startswith(("I", "F")):
        levels = np.asarray(image, dtype=np.float32)
        low, high = float(levels.min()), float(levels.max())
        return (levels - low) * np.float32(255 / max(high - low, 1e-6))
    return np.asarray(image.convert("L"), dtype=np.float32)


def _shrunk(levels: NDArray[np.float32], longest: int) -> NDArray[np.float32]:
    height, width = levels.shape
    scale = longest / max(height, width)
    if scale >= 1:
        return levels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    shrunk = Image.fromarray(levels).resize(size, Image.Resampling.BOX)
    return np.asarray(shrunk, dtype=np.float32)


def _signs(levels: NDArray[np.float32]) -> list[_Sign]:
    """The connected strokes that are small, thin and lighter than all that is near."""
    ndimage = _ndimage()
    standing_out = levels - ndimage.grey_opening(levels, size=(STROKE, STROKE))
    labels, _ = ndimage.label(standing_out > CONTRAST, structure=np.ones((3, 3)))
    signs = []
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        rows, columns = place
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if not (LOW <= height <= HIGH and width <= 1.6 * height):
            continue
        inside = labels[place] == number
        filled = float(inside.mean())
        if width >= 2 and not 0.15 <= filled <= 0.9:
            continue
        signs.append(_Sign(columns.start, rows.start, columns.stop, rows.stop, float(levels[place][inside].mean())))
    return signs


def _rows(signs: list[_Sign]) -> Iterator[list[_Sign]]:
    """Signs that stand side by side on one line, alike in height and in brightness."""
    left = sorted(signs, key=lambda one: (one.left, one.top))
    while left:
        row = [left.pop(0)]
        for one in list(left):
            if one.left - row[-1].right > 1.2 * row[-1].height:
                continue
            if _alike(row[-1], one):
                row.append(one)
                left.remove(one)
        if len(row) >= SIGNS:
            yield row


def _alike(one: _Sign, other: _Sign) -> bool:
    tall, small = max(one.height, other.height), min(one.height, other.height)
    return (
        other.left >= one.right - 1
        and abs(one.bottom - other.bottom) <= max(1.0, 0.15 * tall)
        and small >= 0.65 * tall
        and abs(one.level - other.level) <= 40
    )


def _ndimage() -> ModuleType:
    try:
        from scipy import ndimage
    except ImportError as problem:
        raise ChipError("burned-in text is found with scipy: pip install 'chip-unlearning[medforget]'") from problem
    module: ModuleType = ndimage
    return module
