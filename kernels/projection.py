"""The projection itself: what lies in a subspace is taken off some rows of a weight, in place."""

import torch
from chip.kernels.dispatch import runs_triton
from torch import Tensor

_MOST_DIRECTIONS = 128


def project_rows_(weight: Tensor, rows: Tensor, basis: Tensor) -> None:
    """`W[S] −= Q (Qᵀ W[S])`, in place: the chosen rows lose what of their columns lies in the span of the basis.

    weight: W (D, d), float64, float32, bfloat16 or float16. rows: S (k,), distinct indices into its rows. basis: Qᵀ
    (r, k) with orthonormal rows, of any floating type. The arithmetic is in float32, or float64 where the weight is,
    and its result is rounded once. The Triton kernel holds for r ≤ 128.

    >>> weight = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> project_rows_(weight, rows=torch.tensor([0, 2]), basis=torch.tensor([[1.0, 0.0]]))
    >>> weight
    tensor([[0., 0.],
            [3., 4.],
            [5., 6.]])
    """
    if not basis.numel() or not weight.numel():
        return
    outside = f"more than {_MOST_DIRECTIONS} directions" if len(basis) > _MOST_DIRECTIONS else None
    if runs_triton("project_rows_", weight, outside):
        from chip.kernels import triton_projection

        triton_projection.project_rows_(weight, rows, basis)
        return
    dtype = torch.promote_types(weight.dtype, torch.float32)
    chosen, basis = weight[rows].to(dtype), basis.to(dtype)
    weight[rows] = (chosen - basis.T @ (basis @ chosen)).to(weight.dtype)
