"""The ground floor: the few sums and projections that everything else is made of, as plain torch.

Each function here is the specification of its kernel; a faster version must give what these give.
"""

from chip.kernels.subspace import batched_subspace
from chip.kernels.sums import node_sums, pooled_sums, second_moment

__all__ = ["batched_subspace", "node_sums", "pooled_sums", "second_moment"]
