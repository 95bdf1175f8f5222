"""The choice between a Triton kernel and its torch twin, made from what is asked for before anything is computed."""

import os
from importlib.util import find_spec

from torch import Tensor

from chip.errors import UsageError

_CHOICES = ("auto", "triton", "torch")


def runs_triton(kernel: str, on: Tensor, outside: str | None = None, *, automatic: bool = True) -> bool:
    """Whether `kernel` runs as Triton on the device of `on`, by the environment variable CHIP_KERNELS.

    `auto`, the default: on a CUDA device, where triton is installed and the kernel holds for the input. `torch`: never.
    `triton`: always. outside: what of the input the Triton kernel does not hold for, such as "float64 rows"; None where
    it holds. automatic: False for a kernel that `triton` alone runs. Raises UsageError for any other value of
    CHIP_KERNELS, and where `triton` is asked for and cannot be had: nothing is swapped for something else in silence.
    """
    choice = os.environ.get("CHIP_KERNELS", "auto")
    if choice not in _CHOICES:
        raise UsageError(f"CHIP_KERNELS={choice} is unknown: use {', '.join(_CHOICES[:-1])} or {_CHOICES[-1]}")
    if choice == "torch":
        return False
    if choice == "auto":
        return automatic and on.is_cuda and outside is None and _installed()
    if not _installed():
        raise UsageError(
            "CHIP_KERNELS=triton needs triton, which is not installed: install it or use CHIP_KERNELS=auto"
        )
    if not on.is_cuda and not interpreted():
        raise UsageError(
            f"CHIP_KERNELS=triton needs tensors on a CUDA device, and these are on {on.device.type}: use "
            "CHIP_KERNELS=auto, or set TRITON_INTERPRET=1 to interpret the kernels"
        )
    if outside is not None:
        raise UsageError(f"CHIP_KERNELS=triton: {kernel} has no kernel for {outside}: use CHIP_KERNELS=auto")
    return True


def interpreted() -> bool:
    """Whether Triton's kernels are interpreted, on a CPU too; Triton reads it once, when it is first imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _installed() -> bool:
    return find_spec("triton") is not None
