"""Orthogonal projection (CHIP, Wu et al., arXiv 2512.09867): the outputs that the target raises are projected off.

Per site: choose the neurons whose mean activation rises most on the target, stack the directions in which the
target's parts differ from what they are compared with, and remove their span from the rows of the weight and the bias.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from chip.collect.statistics import PooledSums
from chip.hierarchy import NodePath, comparison_sets, is_under
from chip.kernels import batched_subspace

_NO_DIRECTION = 1e-5
"""A difference smaller than this share of the two norms together is rounding noise, not a direction."""

_NUMBERS_AT_ONCE = 2**25
"""A call of more directions than this many numbers, a quarter of a GiB, is divided."""


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

    >>> select_neurons(torch.tensor([1.0, 5.0, 2.0, 5.0]), torch.tensor([0.0, 1.0, 2.0, 1.0]), top_k=50)
    tensor([1, 3])
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
        part, comparison = (_mean(sums, [reached[i] for i in side], neurons) for side in (one.part, one.comparison))
        difference = part - comparison
        if difference.norm() > _NO_DIRECTION * (part.norm() + comparison.norm()):
            found.append(difference / difference.norm())
    return torch.stack(found) if found else torch.zeros(0, len(neurons), dtype=torch.float64)


def solve_requests(
    pooled: Mapping[str, PooledSums],
    nodes: Sequence[NodePath],
    requests: Sequence[Sequence[NodePath]],
    top_k: float,
    variance: float,
) -> list[dict[str, Projection | None]]:
    """The projections of many requests, each the targets of one edit, at many sites: by site name, request by request.

    None where the target does not reach a site or differs in nothing there. The stacks of directions go through one
    call of `batched_subspace` for each number of neurons: rows of zeros fill up those that have fewer, at little cost,
    while filling up columns would multiply the work (an MLP is several times as wide as a projector). What would be
    larger than a quarter of a GiB is divided.
    """
    found: list[dict[str, Projection | None]] = [dict.fromkeys(pooled) for _ in requests]
    whole = {name: sums.absolute.double().sum(0) for name, sums in pooled.items()}
    waiting: dict[int, list[_Stack]] = {}
    for number, targets in enumerate(requests):
        inside = torch.tensor([any(is_under(node, target) for target in targets) for node in nodes])
        for name, sums in pooled.items():
            neurons = _neurons(sums, whole[name], inside, top_k)
            if neurons is None or not len(rows := directions(sums, nodes, targets, neurons)):
                continue
            alike = waiting.setdefault(len(neurons), [])
            alike.append(_Stack(number, name, neurons, rows))
            if _numbers(alike) >= _NUMBERS_AT_ONCE:
                _project(waiting.pop(len(neurons)), variance, found)
    for alike in waiting.values():
        _project(alike, variance, found)
    return found


def solve_site(
    sums: PooledSums, nodes: Sequence[NodePath], targets: Sequence[NodePath], top_k: float, variance: float
) -> Projection | None:
    """The projection of one request at one site, or None where the target does not reach it or differs in nothing."""
    return solve_requests({"": sums}, nodes, [targets], top_k, variance)[0][""]


@dataclass(frozen=True)
class _Stack:
    """Directions (m, k) on neurons (k,), for one request at one site."""

    request: int
    site: str
    neurons: Tensor
    rows: Tensor


def _neurons(sums: PooledSums, whole: Tensor, inside: Tensor, top_k: float) -> Tensor | None:
    """The neurons of a target, whose nodes are `inside`; None where it, or what is retained, does not reach the site.

    whole: (D,), Σ|a| over all nodes, so that a request reads its own nodes alone.
    """
    count = sums.count[inside].sum()
    left = sums.count.sum() - count
    if not (count and left):
        return None
    target = sums.absolute[inside].double().sum(0)
    return select_neurons(target / count, (whole - target) / left, top_k)


def _numbers(alike: Sequence[_Stack]) -> int:
    """How many numbers a call on stacks of one width takes, filled up."""
    return len(alike) * max(len(one.rows) for one in alike) * len(alike[0].neurons)


def _project(alike: Sequence[_Stack], variance: float, found: list[dict[str, Projection | None]]) -> None:
    bases, _, ranks = batched_subspace(pad_sequence([one.rows for one in alike], batch_first=True), variance)
    for one, basis, rank in zip(alike, bases, ranks.tolist(), strict=True):
        found[one.request][one.site] = Projection(one.neurons, basis[:rank].clone())


def _mean(sums: PooledSums, nodes: Sequence[int], neurons: Tensor) -> Tensor:
    places = torch.tensor(nodes)
    return sums.total[places[:, None], neurons].double().sum(0) / sums.count[places].sum()
