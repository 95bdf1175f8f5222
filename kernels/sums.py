"""Sums over tokens: pooled activations per node, and second moments of the tokens that a mask picks."""

import torch
from einops import einsum
from torch import Tensor


def pooled_sums(
    activations: Tensor,
    image: Tensor,
    text: Tensor,
    nodes: Tensor,
    alpha: float,
    total: Tensor,
    absolute: Tensor,
) -> Tensor:
    """Add each row's pooled activation, and its absolute value, to the sums of the node that the row belongs to.

    activations: (B, S, D), any floating type. image, text: (B, S) masks without common positions. nodes: (B,) indices
    into `total` and `absolute`, (N, D) each, which are added to in place and whose dtype the arithmetic is done in.
    The pooled activation of a row is `alpha * mean over image + (1 - alpha) * mean over text`; where one of the masks
    is empty it is the mean over the other. Padding is what neither mask holds, and never enters.

    Returns the pooled activations, (B, D), in the dtype of `total`.
    """
    dtype = total.dtype
    images, texts = image.sum(1, keepdim=True), text.sum(1, keepdim=True)
    share = torch.full_like(images, alpha, dtype=dtype).masked_fill(images == 0, 0).masked_fill(texts == 0, 1)
    weights = share * image.to(dtype) / images.clamp(min=1) + (1 - share) * text.to(dtype) / texts.clamp(min=1)
    # Padding may hold anything, NaN among it, and 0 · NaN is NaN: it is blanked, not only weighted with nothing.
    real = activations.to(dtype).masked_fill(~(image | text)[..., None], 0)
    pooled = einsum(weights, real, "row token, row token output -> row output")
    total.index_add_(0, nodes, pooled)
    absolute.index_add_(0, nodes, pooled.abs())
    return pooled


def second_moment(activations: Tensor, mask: Tensor, outer: Tensor, total: Tensor) -> int:
    """Add the uncentred second moment and the sum of the tokens that `mask` picks; returns how many there were.

    activations: (..., d), any floating type; mask: the same shape without its last axis. outer: (d, d) and total:
    (d,), added to in place, in whose dtype the arithmetic is done.
    """
    picked = activations[mask].to(outer.dtype)
    outer.addmm_(picked.T, picked)
    total += picked.sum(0)
    return int(picked.shape[0])
