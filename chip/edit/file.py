"""Edit files: one edit or several in their order, as safetensors with a JSON header; docs/formats.md describes them.

An edit file holds nothing that names what was forgotten, yet whoever has it and the base model can read the target's
traces from it: it is written with mode 0600 and belongs beside the data, not beside the release.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from chip.edit.change import Change, Projected, Redirected
from chip.edit.edit import Edit, arrays_of
from chip.errors import ChipError
from chip.files import write_private
from chip.models.stored import Array, Header, StoredTensor, read_header

FORMAT = "chip-edit-2"
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype(np.float32), "I64": np.dtype(np.int64)}
_LISTS = ("nodes", "after")
_DIGESTS = ("base", "edited")


def save_edits(edits: Sequence[Edit], path: Path) -> None:
    """Write an edit file, mode 0600: `edits` in the order in which they are applied."""
    tensors: dict[str, Array] = {}
    entries = []
    for number, edit in enumerate(edits):
        changes = []
        for place, change in enumerate(edit.changes):
            for name, part in arrays_of(change).items():
                tensors[f"{number}/{place}/{name}"] = np.ascontiguousarray(part)
            transposed = change.derivation is not None and change.derivation.transposed
            changes.append({"tensor": change.tensor, "parameter": change.parameter, "transposed": transposed})
        entries.append(
            {
                "method": edit.method,
                "settings": dict(edit.settings),
                "base": dict(edit.base),
                "edited": dict(edit.edited),
                "nodes": edit.nodes,
                "after": edit.after,
                "transferred": edit.transferred,
                "changes": changes,
            }
        )
    # The format first: by it the file is known as chip's, however much follows.
    header = {"format": FORMAT, "edits": entries}
    write_private(path, save(tensors, {"chip": json.dumps(header)}))


def load_edits(path: Path) -> tuple[Edit, ...]:
    """Read an edit file; its arrays stay on disk until they are used.

    Raises ChipError where it is none, is damaged, or holds what no edit may hold.
    """
    try:
        stored = _header(path)
        header = json.loads(stored.metadata["chip"])
        if header["format"] != FORMAT:
            raise ChipError(f"{path} has the format {header['format']!r}; this version of chip reads {FORMAT}")
        if not header["edits"]:
            raise ValueError("it holds no edit")
        arrays = {one.name: _mapped(one) for one in stored.tensors}
        return tuple(_edit(number, entry, arrays) for number, entry in enumerate(header["edits"]))
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as problem:
        raise ChipError(f"{path} is no edit file that chip wrote, or it is damaged ({problem})") from problem


def _header(path: Path) -> Header:
    try:
        return read_header(path)
    except ChipError as problem:
        raise ValueError(str(problem)) from problem


def load_edit(path: Path) -> Edit:
    """Read a file that holds one edit."""
    edits = load_edits(path)
    if len(edits) != 1:
        raise ChipError(f"{path} holds {len(edits)} edits where one was expected")
    return edits[0]


def _mapped(stored: StoredTensor) -> Array:
    dtype = _DTYPES[stored.dtype]
    if 0 in stored.shape:
        return np.zeros(stored.shape, dtype)
    if stored.stop - stored.start != dtype.itemsize * math.prod(stored.shape):
        raise ValueError(f"the bytes of {stored.name} do not fit its shape")
    mapped: Array = np.memmap(stored.file, dtype, "r", stored.start, stored.shape)
    return mapped


def _edit(number: int, entry: dict[str, Any], arrays: dict[str, Array]) -> Edit:
    for name in _LISTS:
        if not all(isinstance(one, str) for one in entry[name]):
            raise ValueError(f"{name} are not texts")
    for name in _DIGESTS:
        if not all(isinstance(one, str) for one in entry[name].values()):
            raise ValueError(f"the digests {name} are not texts")
    if not isinstance(entry["method"], str) or not isinstance(entry["settings"], dict):
        raise ValueError("method or settings are missing")
    changes = tuple(
        _change(one, {name: arrays.get(f"{number}/{place}/{name}") for name in _NAMES})
        for place, one in enumerate(entry["changes"])
    )
    return Edit(
        entry["method"],
        entry["settings"],
        changes,
        entry["base"],
        entry["edited"],
        tuple(entry["nodes"]),
        tuple(entry["after"]),
        entry["transferred"] is True,
    )


_NAMES = (
    "left",
    "right",
    "rows",
    "projected.basis",
    "projected.rows",
    "redirected.keys",
    "redirected.outputs",
)


def _change(entry: dict[str, Any], parts: dict[str, Array | None]) -> Change:
    tensor, parameter, transposed = entry["tensor"], entry["parameter"], entry["transposed"] is True
    if not isinstance(tensor, str) or not isinstance(parameter, str):
        raise ValueError("a change names no tensor")
    left, right, rows = _matrix(parts["left"]), _matrix(parts["right"]), _rows(parts["rows"])
    if left is None or (right is not None and left.shape[1] != right.shape[0]):
        raise ValueError(f"the factors of {tensor} do not fit each other")
    derivation: Projected | Redirected | None = None
    keys, outputs, projected = (
        _matrix(parts[name]) for name in ("redirected.keys", "redirected.outputs", "projected.basis")
    )
    if projected is not None:
        derivation = Projected(projected, _rows(parts["projected.rows"]), transposed)
    elif keys is not None and outputs is not None:
        derivation = Redirected(keys, outputs, transposed)
    return Change(tensor, left, right, rows, parameter, derivation)


def _matrix(part: Array | None) -> Array | None:
    if part is not None and (part.ndim != 2 or part.dtype != np.float32):
        raise ValueError("a factor is no matrix of 32-bit numbers")
    return part


def _rows(part: Array | None) -> Array | None:
    if part is None:
        return None
    if part.ndim != 1 or part.dtype != np.int64 or len(np.unique(part)) != len(part):
        raise ValueError("rows are not a list of different numbers")
    return np.asarray(part)
