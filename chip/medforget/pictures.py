"""Opens the images of an export, JPG, PNG and DICOM alike, as pictures of 8 bits a channel."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from chip.allowed import MOST_PIXELS
from chip.errors import ChipError
from chip.images import DAMAGED, opened
from chip.medforget import kinds
from chip.medforget.dicom import FAILURES, read_pixels
from chip.medforget.export import Picture, Problems

_DICOM_MARK_AT = 128
_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_GREY_MODES = ("1", "L", "LA")
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I")


def open_picture(path: Path) -> Image.Image:
    """An image in grey (`L`) or colour (`RGB`), upright: JPG and PNG, of 16 bits scaled by their full range, and DICOM.

    Raises ChipError, naming the file, where it is missing, does not decode, is of another format or has more than
    MOST_PIXELS; and, for a DICOM file, where pydicom is missing.
    """
    try:
        if _is_dicom(path):
            return Image.fromarray(read_pixels(path, MOST_PIXELS))
        return _picture(path)
    except _TOO_LARGE as problem:
        raise ChipError(f"{path} has more than {MOST_PIXELS:,} pixels: no radiograph does; take it out") from problem
    except (*DAMAGED, *FAILURES) as problem:
        reason = (str(problem) or problem.__class__.__name__).splitlines()[0]
        raise ChipError(f"{path} does not decode as an image ({reason}); put it right or take it out") from problem


def picture_or_none(picture: Picture, problems: Problems, where: str) -> Image.Image | None:
    """A study's image, opened; None, and counted as `where`, where it does not decode or has more than MOST_PIXELS.

    Raises ChipError where no DICOM file can be read at all, because pydicom is missing.
    """
    try:
        return open_picture(picture.path)
    except ChipError as problem:
        if isinstance(problem.__cause__, ImportError):
            raise
        large = isinstance(problem.__cause__, _TOO_LARGE)
        problems.add(kinds.LARGE_IMAGE if large else kinds.UNREADABLE_IMAGE, where)
        return None


def _is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its content, or by its name where it has no preamble."""
    with path.open("rb") as handle:
        head = handle.read(_DICOM_MARK_AT + 4)
    return head[_DICOM_MARK_AT:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom")


def _picture(path: Path) -> Image.Image:
    with opened(path, ("JPEG", "PNG")) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode in _DEEP_MODES:
            deep = np.asarray(upright).astype(np.float64)
            return Image.fromarray(np.round(np.clip(deep / 65535, 0, 1) * 255).astype(np.uint8))
        return upright.convert("L" if upright.mode in _GREY_MODES else "RGB")
