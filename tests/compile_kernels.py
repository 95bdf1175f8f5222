"""Compiles every Triton kernel for a GPU that need not be there, and prints what it takes, one JSON object a line.

    python tests/compile_kernels.py [CAPABILITY, such as 90]

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
        values = dict(zip(kernel.arg_names, given, strict=False)) | named
        signature = {
            name: "constexpr" if name in named else TYPES[one.dtype] if isinstance(one, torch.Tensor) else "i32"
            for name, one in values.items()
        }
        made = triton.compile(
            ASTSource(kernel, signature, constexprs=named), target=GPUTarget("cuda", capability, 32), options=options
        )
        told = {"kernel": kernel.__name__, **named, **resources(made.asm["cubin"]), "shared": made.metadata.shared}
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
    """Every kernel once for each of the forms it takes."""
    for rows in (16, 32, 64, 128):
        triton_subspace.subspace(torch.zeros(1, rows, 100), None)
    real = torch.ones(2, 600, dtype=torch.bool)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        activations = torch.zeros(2, 600, 200, dtype=dtype)
        for sums in (2, 64):
            triton_sums.pooled_sums(activations, torch.zeros(2, sums, 600, dtype=torch.bool), real)
    sums, belongs = torch.zeros(3, 200), torch.zeros(1, 2, dtype=torch.bool)
    triton_sums.node_sums(torch.zeros(2, 200), torch.tensor([1]), belongs, sums, sums.clone())
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        rows, sums = torch.zeros(9, 100, dtype=dtype), torch.zeros(100, dtype=torch.promote_types(dtype, torch.float32))
        triton_sums.second_moment(rows, sums.repeat(100, 1), sums, torch.arange(5))
        for rank in (4, 128):
            weight = torch.zeros(200, 100, dtype=dtype)
            triton_projection.project_rows_(weight, torch.arange(150), torch.zeros(rank, 150))


if __name__ == "__main__":
    assert "TRITON_INTERPRET" not in os.environ
    JITFunction.run = build(int(sys.argv[1]) if len(sys.argv) > 1 else 90)  # type: ignore[method-assign]
    launch_all()
