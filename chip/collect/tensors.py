"""Tensors in a private file with a JSON header: written whole or not at all, and its header read by itself."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from chip.errors import ChipError
from chip.files import private_file

UNREADABLE = (
    *(OSError, safetensors.SafetensorError, RecursionError),
    *(LookupError, ValueError, TypeError, AttributeError),
)
"""What reading such a file raises that is none: the first of what is no safetensors file, or whose header is nested
without end, the others of a header and tensors that have another form than chip's, which are taken apart as if they had
it."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a safetensors file, mode 0600, with `header` as the metadata `chip`. Raises ChipError where that fails."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        with private_file(path) as partial:
            save_file(contiguous, partial, {"chip": json.dumps(header, ensure_ascii=False)})
    except safetensors.SafetensorError as problem:
        raise ChipError(f"{path} could not be written ({problem}); nothing of it was left behind") from problem


def read_header(path: Path) -> dict[str, Any]:
    """The header of a file that `write_tensors` wrote. What is wrong with any other is for the caller to tell."""
    with safetensors.safe_open(path, framework="pt") as handle:
        header: dict[str, Any] = json.loads((handle.metadata() or {})["chip"])
    return header
