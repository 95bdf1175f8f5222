"""Compiles every Triton kernel for a GPU that need not be there, and prints what it takes, one JSON object a line.

    python tests/compile_kernels.py [CAPABILITY, 90 by default]

Launches are intercepted where Triton would compile and start them, so that what is compiled is what the launchers ask
for. A process of its own, since kernels that are interpreted can no longer be compiled.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from chip.kernels import triton_projection, triton_subspace, triton_sums
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.uint8: "*u8",
}
OPTIONS = ("num_warps", "enable_fp_fusion")


def build(capability: int) -> Callable[..., None]:
    """What stands in for a launch: compiles the kernel and prints its name, constants and resources."""

    def run(kernel: JITFunction[Any], *given: Any, grid: Any, warmup: bool, **named: Any) -> None:
        options = {name: named.pop(name) for name in OPTIONS}
        signature: dict[str, str] = dict.fromkeys(named, "constexpr")
        hints: dict[tuple[int, ...], list[list[Any]]] = {}
        # What Triton itself takes for granted of a launch: integers of 1, and what can be divided by 16.
        for place, (name, one) in enumerate(zip(kernel.arg_names, given, strict=False)):
            signature[name] = TYPES[one.dtype] if isinstance(one, torch.Tensor) else "constexpr" if one == 1 else "i32"
            if isinstance(one, torch.Tensor) or one % 16 == 0:
                hints[(place,)] = [["tt.divisibility", 16]]
            if signature[name] == "constexpr":
                named[name] = one
        source = ASTSource(kernel, {name: signature[name] for name in kernel.arg_names}, named, hints)
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        told = {
            "kernel": kernel.__name__,
            "constants": named,
            **resources(made.asm["cubin"]),
            "shared": made.metadata.shared,
        }
        print(json.dumps(told), flush=True)  # noqa: T201

    return run


def resources(cubin: bytes) -> dict[str, int]:
    """Registers a thread, and bytes of its own memory that registers spill into."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "kernel.cubin"
        path.write_bytes(cubin)
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        said = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    assert found, said
    return {"registers": int(found[1]), "stack": int(found[2])}


def launch_all() -> None:
    """Every kernel, at the sizes and types that differ most."""
    for rows in (16, 128):
        triton_subspace.subspace(torch.zeros(2, rows, 160), None)
    real = torch.ones(2, 608, dtype=torch.bool)
    for dtype, sums in ((torch.bfloat16, 2), (torch.bfloat16, 64), (torch.float32, 64), (torch.float64, 1)):
        weights = torch.zeros(2, sums, 608, dtype=torch.bool)
        triton_sums.pooled_sums(torch.zeros(2, 608, 256, dtype=dtype), weights, real if sums > 1 else None)
    totals, belongs = torch.zeros(3, 256), torch.zeros(1, 2, dtype=torch.bool)
    triton_sums.node_sums(torch.zeros(2, 256), torch.tensor([1]), belongs, totals, totals.clone())
    for dtype, rank, chosen in ((torch.bfloat16, 4, torch.arange(5)), (torch.float64, 128, None)):
        total = torch.zeros(128, dtype=torch.promote_types(dtype, torch.float32))
        triton_sums.second_moment(torch.zeros(9, 128, dtype=dtype), total.repeat(128, 1), total, chosen)
        triton_projection.project_rows_(torch.zeros(200, 128, dtype=dtype), torch.arange(150), torch.zeros(rank, 150))


if __name__ == "__main__":
    assert "TRITON_INTERPRET" not in os.environ
    JITFunction.run = build(int(sys.argv[1]) if len(sys.argv) > 1 else 90)  # type: ignore[method-assign]
    launch_all()
