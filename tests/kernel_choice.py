"""What the tests of kernels share: numbers drawn by seed, on the device and with the kernels that a test asks for."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

both = pytest.mark.parametrize("kernels", ["torch", "triton"])
"""Runs a test with the twins, and with the Triton kernels: on a GPU where there is one, else interpreted."""


@contextmanager
def using(kernels: str) -> Iterator[torch.device]:
    """CHIP_KERNELS for a block, and the device to put tensors on; for hypothesis, which no fixture can serve."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "CHIP_KERNELS", kernels)
        yield torch.device("cuda" if kernels == "triton" and torch.cuda.is_available() else "cpu")


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)
