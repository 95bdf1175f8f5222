"""The ground floor: the few sums and projections that everything else is made of.

Each function is here as plain torch, the twin, which specifies it, and as Triton kernels that must give what the twin
gives; `dispatch` chooses between them by CHIP_KERNELS. Triton is imported by the first kernel that runs, if any does.
"""

from chip.kernels.projection import project_rows_
from chip.kernels.subspace import batched_subspace
from chip.kernels.sums import node_sums, pooled_node_sums, pooled_sums, second_moment

__all__ = ["batched_subspace", "node_sums", "pooled_node_sums", "pooled_sums", "project_rows_", "second_moment"]
