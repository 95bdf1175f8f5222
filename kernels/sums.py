"""Sums over tokens: of activations by record, and second moments of chosen tokens."""

import torch
from torch import Tensor


def pooled_sums(activations: Tensor, weights: Tensor, real: Tensor | None = None) -> Tensor:
    """Weighted sums over the tokens of each row: (B, K, D), in float32, or float64 where the activations are.

    activations: (B, S, D), any floating type. weights: (B, K, S), any type; K sums a row. real: (B, S), the tokens
    that are no padding, or None where all are: padding may hold anything, NaN among it, and 0 · NaN is NaN, so that
    it is blanked, not only weighted with nothing.
    """
    dtype = torch.promote_types(activations.dtype, torch.float32)
    activations = activations.to(dtype)
    if real is not None:
        activations = activations.masked_fill(~real[..., None], 0)
    return torch.bmm(weights.to(dtype), activations)


def node_sums(pooled: Tensor, touched: Tensor, belongs: Tensor, total: Tensor, absolute: Tensor) -> None:
    """Add pooled activations (R, D), and their absolute values, to the sums of the nodes that they belong to.

    touched: (U,), distinct indices into `total` and `absolute`, (N, D) each, which are added to in place and whose
    dtype the arithmetic is done in. belongs: (U, R) of zeros and ones. A product has a fixed order of additions where
    a scatter has none: the same inputs give the same bytes.
    """
    pooled, belongs = pooled.to(total.dtype), belongs.to(total.dtype)
    total[touched] += belongs @ pooled
    absolute[touched] += belongs @ pooled.abs()


def second_moment(rows: Tensor, outer: Tensor, total: Tensor) -> None:
    """Add Σxxᵀ and Σx of rows (T, d) to `outer` (d, d) and `total` (d,), in place, in whose dtype it is done."""
    rows = rows.to(outer.dtype)
    outer.addmm_(rows.T, rows)
    total += rows.sum(0)
