"""Numbers drawn by seed in 64 bits, and what is equal to a formula on them."""

import torch
from torch import Tensor

from chip.collect import Moments

EPS = torch.finfo(torch.float64).eps


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def sums(rows: Tensor) -> Moments:
    return Moments(rows.T @ rows, rows.sum(0), len(rows))


def ridged(moment: Tensor, ridge: float) -> Tensor:
    return moment + ridge * moment.trace() / len(moment) * torch.eye(len(moment)).to(moment)


def near(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    """Equal in shape, in dtype, and in value but for a share of the expected norm."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert float((found - expected).norm()) <= tolerance * float(expected.norm())
