"""Sums over tokens: of activations by record and by node, and second moments of chosen tokens."""

import torch
from chip.kernels.dispatch import runs_triton
from torch import Tensor


def pooled_sums(activations: Tensor, weights: Tensor, real: Tensor | None = None) -> Tensor:
    """Weighted sums over the tokens of each row: (B, K, D), in float32, or float64 where the activations are.

    activations: (B, S, D), any floating type. weights: (B, K, S), any type; K sums a row. real: (B, S), the tokens
    that are no padding, or None where all are: padding may hold anything, NaN among it, and 0 · NaN is NaN, so that
    it is blanked, not only weighted with nothing. The Triton kernel reads the activations once for up to 64 sums.
    """
    if runs_triton("pooled_sums", activations):
        from chip.kernels import triton_sums

        return triton_sums.pooled_sums(activations, weights, real)
    dtype = torch.promote_types(activations.dtype, torch.float32)
    activations = activations.to(dtype)
    if real is not None:
        activations = activations.masked_fill(~real[..., None], 0)
    return torch.bmm(weights.to(dtype), activations)


def node_sums(pooled: Tensor, touched: Tensor, belongs: Tensor, total: Tensor, absolute: Tensor) -> None:
    """Add pooled activations (R, D), and their absolute values, to the sums of the nodes that they belong to.

    touched: (U,), distinct indices into `total` and `absolute`, (N, D) each, which are added to in place and whose
    dtype the arithmetic is done in. belongs: (U, R) of zeros and ones. A product has a fixed order of additions where
    a scatter has none, and so has the Triton kernel: the same inputs give the same bytes.
    """
    if runs_triton("node_sums", total):
        from chip.kernels import triton_sums

        triton_sums.node_sums(pooled, touched, belongs, total, absolute)
        return
    pooled, belongs = pooled.to(total.dtype), belongs.to(total.dtype)
    total[touched] += belongs @ pooled
    absolute[touched] += belongs @ pooled.abs()


def pooled_node_sums(
    activations: Tensor,
    weights: Tensor,
    real: Tensor | None,
    shares: Tensor,
    touched: Tensor,
    belongs: Tensor,
    total: Tensor,
    absolute: Tensor,
) -> None:
    """Add Σa and Σ|a| of the pooled activations a of a batch's records, one a row, to their nodes' sums.

    shares: (B, K), what each of a row's K sums counts for: a = Σ_K share · sum, such as α over the number of image
    tokens and 1 − α over that of the others. All else as in `pooled_sums` and `node_sums`, which this is one after
    the other. As Triton, the activations are read once and only their sums again, a 512th as many numbers: |a| can be
    told only when a row is summed up. The collector keeps the two apart: it counts a chunk when all of it has passed.
    """
    if runs_triton("pooled_node_sums", activations):
        from chip.kernels import triton_sums

        triton_sums.pooled_node_sums(activations, weights, real, shares, touched, belongs, total, absolute)
        return
    sums = pooled_sums(activations, weights, real).to(total.dtype)
    pooled = torch.bmm(shares.to(total.dtype)[:, None], sums).squeeze(1)
    node_sums(pooled, touched, belongs, total, absolute)


def second_moment(rows: Tensor, outer: Tensor, total: Tensor, chosen: Tensor | None = None) -> None:
    """Add Σxxᵀ and Σx of rows (T, d) to `outer` (d, d) and `total` (d,), in place, in whose dtype it is done.

    chosen: indices of the rows that count, all by default. The Triton kernel gathers them tile by tile, computes what
    lies on and above the diagonal and mirrors it. `auto` stays with the twin, a gather and a matrix product, until the
    kernel is measured to be faster.
    """
    if runs_triton("second_moment", outer, automatic=False):
        from chip.kernels import triton_sums

        triton_sums.second_moment(rows, outer, total, chosen)
        return
    rows = (rows if chosen is None else rows[chosen]).to(outer.dtype)
    outer.addmm_(rows.T, rows)
    total += rows.sum(0)
