"""Checkpoints with fp8 weights, laid out as publishers lay them out: codes in e4m3, and scales that multiply them."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

LARGEST = 448.0


@dataclass(frozen=True)
class Layout:
    """How a publisher stores fp8. block: rows and columns that share a scale, None for all of them."""

    suffix: str
    block: tuple[int | None, int | None]
    scale: tuple[int, ...] | None = None
    dtype: torch.dtype = torch.float32
    config: Any = None


def _compressed(strategy: str) -> dict[str, Any]:
    weights = {"type": "float", "num_bits": 8, "strategy": strategy, "symmetric": True}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"group_0": group}}


LAYOUTS = {
    "deepseek": Layout("_scale_inv", (16, 16), config={"quant_method": "fp8", "weight_block_size": [16, 16]}),
    "power of two": Layout(
        "_scale_inv",
        (16, 16),
        dtype=torch.float8_e8m0fnu,
        config={"quant_method": "fp8", "weight_block_size": [16, 16], "scale_fmt": "ue8m0"},
    ),
    "per tensor": Layout("_scale_inv", (None, None), (), config={"quant_method": "fp8", "weight_block_size": None}),
    "autofp8": Layout("_scale", (None, None), (1,), config={"quant_method": "fp8", "activation_scheme": "dynamic"}),
    "fbgemm": Layout("_scale", (1, None), config={"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}),
    "compressed channel": Layout("_scale", (1, None), dtype=torch.bfloat16, config=_compressed("channel")),
    "compressed tensor": Layout("_scale", (None, None), (1,), dtype=torch.bfloat16, config=_compressed("tensor")),
    "compressed block": Layout("_scale", (16, 32), config=_compressed("block")),
}


def quantise(directory: Path, layout: Layout) -> Path:
    """Store the linear layers of a one-file checkpoint as fp8, in place."""
    path = directory / "model.safetensors"
    stored: dict[str, Tensor] = {}
    for name, value in load_file(path).items():
        if value.dim() == 2 and "proj" in name and "vision" not in name:
            codes, scale = quantised(value, layout)
            stored |= {name: codes, f"{name}{layout.suffix}": scale}
        else:
            stored[name] = value
    save_file(stored, path, {"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "quantization_config": layout.config}))
    return directory


def quantised(value: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Codes and scales of a weight whose sizes are multiples of the block's."""
    height, width = value.shape
    rows, columns = layout.block[0] or height, layout.block[1] or width
    tiles = value.double().reshape(height // rows, rows, width // columns, columns)
    scale = tiles.abs().amax((1, 3)) / LARGEST
    if layout.dtype == torch.float8_e8m0fnu:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    scale = scale.to(layout.dtype)
    bounded = (tiles / scale.double()[:, None, :, None]).clamp(-LARGEST, LARGEST)
    codes = bounded.to(torch.float8_e4m3fn).reshape(height, width)
    return codes, scale if layout.scale is None else scale.reshape(layout.scale or ())


def dequantised(codes: Tensor, scale: Tensor) -> Tensor:
    """The weight that codes and scales stand for, as torch computes it: an independent reading."""
    height, width = codes.shape
    grid = scale.float().reshape(scale.shape if scale.dim() == 2 else (math.prod(scale.shape), 1))
    spread = grid.repeat_interleave(height // grid.shape[0], 0).repeat_interleave(width // grid.shape[1], 1)
    return codes.float() * spread
