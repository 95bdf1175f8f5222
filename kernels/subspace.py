"""Subspaces: an orthonormal basis for the rows of a small wide matrix, cut off at a share of its energy."""

import torch
from chip.kernels.dispatch import runs_triton
from torch import Tensor

_MOST_ROWS = 128


def batched_subspace(rows: Tensor, variance: float, counts: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Right singular vectors, singular values and ranks of many small wide matrices.

    rows: (..., m, k), finite. Matrices may be ragged: `counts` (...), integers, says how many leading rows each has,
    whatever the others hold; without it rows of zeros fill up, as columns of zeros always do. variance: the share of
    the squared singular values to keep, in (0, 1]. Returns bases (..., min(m, k), k) with orthonormal rows by falling
    singular value, the singular values (..., min(m, k)), and ranks (...): the fewest leading directions that hold
    `variance` of the energy, 0 for a matrix of zeros. Only the leading `rank` rows of a basis are meant to be used.

    The twin is an SVD, in the dtype of `rows`, at least float32. The Triton kernels (`triton_subspace` argues their
    accuracy) work in float32 on float32, bfloat16 or float16 rows, m ≤ 128: rows that are kept are orthonormal to 1e-5,
    and span what a float64 SVD's do to 1e-3 wherever the spectrum has a gap.

    Two directions that are alike cost one axis, and two that are not cost two:

    >>> alike, apart = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), torch.eye(2, 3)
    >>> batched_subspace(torch.stack([alike, apart]), variance=0.95)[2]
    tensor([1, 2])
    """
    if counts is not None:
        live = torch.arange(rows.shape[-2], device=rows.device) < counts.to(rows.device)[..., None]
    if runs_triton("batched_subspace", rows, _outside(rows)):
        from chip.kernels import triton_subspace

        flat = None if counts is None else live.sum(-1, dtype=torch.int32).flatten()
        bases, values = triton_subspace.subspace(rows.reshape(-1, *rows.shape[-2:]), flat)
        bases = bases.unflatten(0, rows.shape[:-2]) if rows.dim() > 2 else bases[0]
        values = values.unflatten(0, rows.shape[:-2]) if rows.dim() > 2 else values[0]
    else:
        if counts is not None:
            rows = rows.masked_fill(~live[..., None], 0)
        values, bases = _svd(rows.to(torch.promote_types(rows.dtype, torch.float32)))
    return bases, values, _ranks(values, variance)


def _svd(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values and right singular vectors, by way of a QR: as stable, and several times as fast."""
    if rows.shape[-2] >= rows.shape[-1]:
        _, values, bases = torch.linalg.svd(rows, full_matrices=False)
        return values, bases
    directions, triangle = torch.linalg.qr(rows.mT)
    _, values, turned = torch.linalg.svd(triangle.mT)
    return values, turned @ directions.mT


def _outside(rows: Tensor) -> str | None:
    if rows.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"{rows.dtype} rows".removeprefix("torch.")
    return f"more than {_MOST_ROWS} rows" if rows.shape[-2] > _MOST_ROWS else None


def _ranks(values: Tensor, variance: float) -> Tensor:
    energy = values.square().cumsum(-1)
    total = energy[..., -1:]
    ranks = (energy < variance * total).sum(-1) + 1
    return torch.where(total.squeeze(-1) > 0, ranks.clamp(max=values.shape[-1]), 0)
