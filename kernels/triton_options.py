"""How Triton kernels are launched: what every launch is told, and on which device."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

FUSION = {"enable_fp_fusion": True}
"""Said outright because Triton's default is changing, and the same inputs must give the same bytes."""


def beside(tensor: Tensor) -> AbstractContextManager[object]:
    """Makes a tensor's device the current one for a block: Triton launches on that, wherever the tensors are."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
