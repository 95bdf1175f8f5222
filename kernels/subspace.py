"""Subspaces: an orthonormal basis for the rows of a small wide matrix, cut off at a share of its energy."""

import torch
from torch import Tensor


def batched_subspace(rows: Tensor, variance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Right singular vectors, singular values and ranks of many small wide matrices.

    rows: (..., m, k); rows of zeros may fill up matrices that have fewer. variance: the share of the squared singular
    values to keep, in (0, 1]. Returns bases (..., min(m, k), k) with orthonormal rows by falling singular value, the
    singular values (..., min(m, k)), and ranks (...): the fewest leading directions that hold `variance` of the
    energy, 0 for a matrix of zeros. Only the leading `rank` rows of a basis are meant to be used.
    """
    _, values, bases = torch.linalg.svd(rows, full_matrices=False)
    energy = values.square().cumsum(-1)
    total = energy[..., -1:]
    ranks = (energy < variance * total).sum(-1) + 1
    ranks = torch.where(total.squeeze(-1) > 0, ranks.clamp(max=values.shape[-1]), 0)
    return bases, values, ranks
