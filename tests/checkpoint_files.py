"""Looking at checkpoints as files: digests of directories, raw tensors, headers, and what an edit changed."""

import hashlib
import os
import stat
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from chip.edit import Change
from chip.models.stored import rounded


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory, by relative name."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def stored_tensors(directory: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by its stored name, as torch reads it."""
    found: dict[str, Tensor] = {}
    for shard in sorted(directory.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as handle:
            found |= {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    return found


def changed_tensors(before: Path, after: Path) -> set[str]:
    """Names of tensors whose bytes differ; the two checkpoints must hold the same names, shapes and dtypes."""
    old, new = stored_tensors(before), stored_tensors(after)
    assert list(old) == list(new)
    assert all(old[name].shape == new[name].shape and old[name].dtype == new[name].dtype for name in old)
    return {name for name in old if not torch.equal(as_bytes(old[name]), as_bytes(new[name]))}


def as_bytes(tensor: Tensor) -> Tensor:
    """A tensor's bytes, so that minus zero and zero differ and NaN equals itself."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def header_bytes(path: Path) -> bytes:
    """The length and the JSON header of a safetensors file."""
    with path.open("rb") as handle:
        start = handle.read(8)
        return start + handle.read(struct.unpack("<Q", start)[0])


def mode(path: Path) -> int:
    """A file's permission bits."""
    return stat.S_IMODE(os.stat(path).st_mode)


def changed_values(change: Change, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the writer makes of a whole tensor."""
    matrix = values.reshape(len(values), -1)
    return rounded(change.added(matrix), values.dtype).reshape(values.shape)
