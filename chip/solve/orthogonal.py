"""Orthogonal projection (CHIP, Wu et al., arXiv 2512.09867): the outputs that the target raises are projected off.

Per site: choose the neurons whose mean activation rises most on the target, stack the directions in which the
target's parts differ from what they are compared with, and remove their span from the rows of the weight and the bias.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chip.collect.statistics import PooledSums
from chip.hierarchy import NodePath, comparison_sets, is_under
from chip.kernels import batched_subspace

_NO_DIRECTION = 1e-5
"""A difference smaller than this share of the two norms together is rounding noise, not a direction."""


@dataclass(frozen=True)
class Projection:
    """What is removed from one site: `neurons` (k,) output indices, and `basis` (r, k) with orthonormal rows."""

    neurons: Tensor
    basis: Tensor

    def factors(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Left (k, r) and right (r, d) of `−Q Qᵀ W[S]` for a weight (D, d), or a bias as (D, 1), in float64."""
        basis = self.basis.double()
        return -basis.T, basis @ matrix[self.neurons].double()


def select_neurons(target: Tensor, retain: Tensor, top_k: float) -> Tensor:
    """The outputs (k,) with the highest mean absolute activation on the target less that on the retained records.

    target, retain: (D,) means of |a|. k = max(1, ⌊D · top_k / 100⌋); ties go to the lower index.
    """
    keep = max(1, int(len(target) * top_k / 100))
    return torch.argsort(target - retain, descending=True, stable=True)[:keep]


def directions(sums: PooledSums, nodes: Sequence[NodePath], targets: Sequence[NodePath], neurons: Tensor) -> Tensor:
    """Unit vectors (m, k): each part's mean less its comparison's, on the chosen neurons; none where they are equal.

    Comparison sets are formed among the nodes whose records reach the site.
    """
    reached = sums.count.nonzero().flatten().tolist()
    found = []
    for one in comparison_sets([nodes[i] for i in reached], targets):
        part, comparison = (_mean(sums, [reached[i] for i in side])[neurons] for side in (one.part, one.comparison))
        difference = part - comparison
        if difference.norm() > _NO_DIRECTION * (part.norm() + comparison.norm()):
            found.append(difference / difference.norm())
    return torch.stack(found) if found else torch.zeros(0, len(neurons), dtype=torch.float64)


def solve_site(
    sums: PooledSums, nodes: Sequence[NodePath], targets: Sequence[NodePath], top_k: float, variance: float
) -> Projection | None:
    """The projection for one site, or None where the target does not reach it or differs in nothing."""
    inside = torch.tensor([any(is_under(node, target) for target in targets) for node in nodes])
    counts = sums.count[inside].sum(), sums.count[~inside].sum()
    if not all(counts):
        return None
    target, retain = (sums.absolute[m].double().sum(0) / n for m, n in zip((inside, ~inside), counts, strict=True))
    neurons = select_neurons(target, retain, top_k)
    rows = directions(sums, nodes, targets, neurons)
    if not len(rows):
        return None
    bases, _, rank = batched_subspace(rows, variance)
    return Projection(neurons, bases[: int(rank)])


def _mean(sums: PooledSums, nodes: Sequence[int]) -> Tensor:
    return sums.total[nodes].double().sum(0) / sums.count[nodes].sum()
