"""The edit itself: for each tensor a small change, low-rank wherever it can be, apart from where the weights live.

An edit file is a safetensors file of the factors with a JSON header; docs/formats.md describes it. It holds nothing
that names what was forgotten, yet whoever has it and the base model can read the target's traces from it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import load_file, save

from chip.errors import ChipError
from chip.files import write_private
from chip.models.checkpoint import DTYPES

FORMAT = "chip-edit-1"
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Change:
    """A change of one stored tensor, seen as a matrix (D, d); a vector is seen as (D, 1).

    The rows `rows` (all of them where it is None) gain `left @ right`, with left (k, r) and right (r, d), both
    float32. `right` is None where the change is dense: then `left` (k, d) is the whole of it.
    """

    tensor: str
    left: Array
    right: Array | None
    rows: Array | None = None

    @property
    def rank_bound(self) -> int:
        shapes = self.left.shape if self.right is None else (*self.left.shape, *self.right.shape)
        return min(int(size) for size in shapes)

    def delta(self) -> Array:
        """The change of the chosen rows, (k, d), in float64."""
        left = self.left.astype(np.float64)
        return left if self.right is None else left @ self.right.astype(np.float64)

    def apply(self, values: Array) -> Array:
        """The changed tensor, in the dtype and shape of `values`: computed in 64 bits and rounded once.

        Raises ChipError where the change is of another shape."""
        matrix = values.reshape(values.shape[0], -1)
        rows = np.arange(len(matrix)) if self.rows is None else self.rows
        shape = (self.left.shape[0], (self.left if self.right is None else self.right).shape[1])
        if shape != (len(rows), matrix.shape[1]):
            raise ChipError(f"the edit of {self.tensor} does not fit its shape {values.shape}: it is of another model")
        changed = matrix.copy()
        with np.errstate(over="ignore"):  # what overflows is refused by whoever writes it
            changed[rows] = _rounded(matrix[rows].astype(np.float64) + self.delta(), values.dtype)
        return changed.reshape(values.shape)


def _rounded(values: Array, dtype: np.dtype[Any]) -> Array:
    """float64 values rounded once, to nearest even.

    NumPy reaches bfloat16 through float32, which would round twice; rounding to odd on the way keeps what the second
    rounding has to know (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
    """
    if dtype != DTYPES["BF16"]:
        return values.astype(dtype)
    nearest = values.astype(np.float32)
    toward_zero = np.where(np.abs(nearest) > np.abs(values), np.nextafter(nearest, np.float32(0)), nearest)
    bits = toward_zero.astype(np.float32).view(np.uint32)
    odd = np.where(toward_zero != values, bits | np.uint32(1), bits)
    return np.where(np.isfinite(nearest), odd.view(np.float32), nearest).astype(dtype)


@dataclass(frozen=True)
class Edit:
    """Changes and how they came about: method, settings, and the digests of the tensors that they were solved on."""

    method: str
    settings: Mapping[str, Any]
    changes: tuple[Change, ...]
    base: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [change.tensor for change in self.changes]
        if len(set(names)) != len(names):
            raise ChipError("an edit changes the same tensor twice")


def save_edit(edit: Edit, path: Path) -> None:
    """Write an edit file, mode 0600."""
    tensors: dict[str, Array] = {}
    for change in edit.changes:
        parts = {"left": change.left, "right": change.right, "rows": change.rows}
        tensors |= {f"{change.tensor}/{part}": np.ascontiguousarray(v) for part, v in parts.items() if v is not None}
    header = {"format": FORMAT, "method": edit.method, "settings": dict(edit.settings), "base": dict(edit.base)}
    write_private(path, save(tensors, {"chip": json.dumps(header, sort_keys=True)}))


def load_edit(path: Path) -> Edit:
    """Read an edit file. Raises ChipError where it is none, or is damaged."""
    try:
        with safetensors.safe_open(path, framework="numpy") as handle:
            header = json.loads((handle.metadata() or {})["chip"])
        if header["format"] != FORMAT:
            raise ChipError(f"{path} has the format {header['format']!r}; this version of chip reads {FORMAT}")
        tensors = load_file(path)
        names = [key.removesuffix("/left") for key in tensors if key.endswith("/left")]
        changes = [
            Change(name, tensors[f"{name}/left"], tensors.get(f"{name}/right"), tensors.get(f"{name}/rows"))
            for name in names
        ]
        return Edit(header["method"], header["settings"], tuple(changes), header["base"])
    except (OSError, safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError) as problem:
        raise ChipError(f"{path} is no edit file that chip wrote, or it is damaged ({problem})") from problem
