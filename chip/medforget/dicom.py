"""The pixels of a DICOM file as one looks at them: rescaled, windowed, and bright where the film is dense.

The order is the standard's (PS3.3 C.7.6.3, C.11.1, C.11.2): stored values, modality LUT, VOI LUT or window, photometric
interpretation. Needs pydicom (extra `dicom`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from chip.errors import ChipError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Array = npt.NDArray[Any]

FAILURES = (AttributeError, ValueError, RuntimeError, KeyError, TypeError, IndexError, EOFError)
"""What pydicom raises of files that do not decode, beside OSError: of values that are damaged or missing, of transfer
syntaxes that no installed library knows."""

_WINDOWS_BEYOND = 8
"""Widths from a window's centre at which every window function has reached its ends."""


def read_pixels(path: Path, most_pixels: int) -> Array:
    """The first frame of a DICOM file: uint8, (rows, columns), or (rows, columns, 3) where it is in colour.

    Raises ChipError where pydicom is missing, Pillow's DecompressionBombError where an image has more than
    `most_pixels`, and, where it does not decode, what pydicom raises (FAILURES).
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
        from pydicom.filereader import read_file_meta_info
        from pydicom.pixels.utils import pixel_array
        from pydicom.uid import DeflatedExplicitVRLittleEndian
    except ImportError as problem:
        raise ChipError(
            f"{path} is a DICOM file, which needs pydicom: pip install 'chip-unlearning[dicom]'"
        ) from problem
    try:
        if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            # pydicom would inflate all of it, to whatever size, before its pixels could be counted.
            raise ValueError("it is deflated as a whole")
        dataset = pydicom.dcmread(path)
    except InvalidDicomError as problem:
        raise ValueError("it is no DICOM file") from problem
    if "PixelData" not in dataset:
        raise ValueError("it holds no pixels")
    if int(dataset.Rows) * int(dataset.Columns) > most_pixels:
        raise Image.DecompressionBombError(f"it has more than {most_pixels:,} pixels")
    stored = pixel_array(dataset, index=0)
    return _colour(dataset, stored) if _is_colour(dataset) else _grey(dataset, stored)


def _is_colour(dataset: "Dataset") -> bool:
    return not str(dataset.PhotometricInterpretation).startswith("MONOCHROME")


def _colour(dataset: "Dataset", stored: Array) -> Array:
    """RGB as decoded, which YBR has become on the way; a palette's colours looked up."""
    from pydicom.pixels.processing import apply_color_lut

    top = float(2 ** int(dataset.BitsStored) - 1)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
        top = float(np.iinfo(stored.dtype).max)
    return _bytes(stored[..., :3] / top)


def _grey(dataset: "Dataset", stored: Array) -> Array:
    from pydicom.pixels.processing import apply_modality_lut

    values = np.asarray(apply_modality_lut(stored, dataset))
    padding = _padding(dataset, stored)
    if dataset.get("VOILUTSequence"):
        bright = _looked_up(dataset.VOILUTSequence[0], values)
    elif _first(dataset, "WindowCenter") is not None and _first(dataset, "WindowWidth") is not None:
        bright = _windowed(dataset, values)
    else:
        bright = _stretched(values, padding)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        bright = 1 - bright
    bright[padding] = 0
    return _bytes(bright)


def _windowed(dataset: "Dataset", values: Array) -> Array:
    """Values through the first window, between 0 where its function begins and 1 where it ends: linear, linear exact or
    sigmoid."""
    from pydicom.pixels.processing import apply_windowing

    centre, width = float(_first(dataset, "WindowCenter")), float(_first(dataset, "WindowWidth"))
    beyond = np.array([centre - _WINDOWS_BEYOND * width, centre + _WINDOWS_BEYOND * width])
    low, high = apply_windowing(beyond, dataset)
    return np.asarray((apply_windowing(values, dataset) - low) / (high - low))


def _looked_up(table: "Dataset", values: Array) -> Array:
    """Values by a VOI LUT; those below and above it take its first and its last entry (PS3.3 C.11.2.1.1).

    pydicom's own indexes tables of 8 bits with 8 bits, which is wrong where they have more than 256 entries.
    """
    length, first, bits = (int(one) for one in table.LUTDescriptor)
    entries = table.LUTData
    if isinstance(entries, bytes):
        entries = np.frombuffer(entries, dtype="<u2" if len(entries) >= 2 * (length or 1 << 16) else "u1")
    places = np.clip(np.round(values).astype(np.int64) - first, 0, len(entries) - 1)
    return np.asarray(np.asarray(entries, dtype=np.float64)[places] / (2**bits - 1))


def _stretched(values: Array, padding: Array) -> Array:
    """Without a window: from the least value to the greatest, padding aside."""
    seen = values[~padding].astype(np.float64)
    if not seen.size or seen.max() == seen.min():
        return np.zeros(values.shape)
    return np.asarray(np.clip((values - seen.min()) / (seen.max() - seen.min()), 0, 1))


def _padding(dataset: "Dataset", stored: Array) -> Array:
    """Which pixels only fill the rectangle (PS3.3 C.7.5.1.1.2)."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    limit = dataset.get("PixelPaddingRangeLimit", value)
    return np.asarray((stored >= min(value, limit)) & (stored <= max(value, limit)))


def _first(dataset: "Dataset", name: str) -> Any:
    """A value, or the first of several; None where there is none."""
    value = dataset.get(name)
    if isinstance(value, Sequence):
        return value[0] if len(value) else None
    return value


def _bytes(bright: Array) -> Array:
    return np.round(np.clip(bright, 0, 1) * 255).astype(np.uint8)
