"""What a site's metric is made of: the total, the target's share to take off it, and the comparison to add once more.

Parts of few tokens are kept as they are, T × d numbers in the model's own dtype, and only larger ones as sums.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chip.collect import Moments, SecondMoments, Sketch, answer_inputs, collect_parts, encode_all, part_of, without
from chip.models.sites import Site
from chip.solve.bases import MetricBases, SharedMetric, rounds
from chip.solve.metric import DenseMetric, Metric, held, weighted_metric
from chip.solve.problem import Problem

Part = Tensor | SecondMoments
"""Rows (T, d), or their sums."""

_RECORDS_AT_ONCE = 64
"""Records whose rows are taken together: their encodings, images among them, are in memory at once."""

_WORST_IN_32_BITS = 1e5
"""How much of one direction, in ridges, may be the target's, to be taken off a factor in 32 bits: more is rounding."""


@dataclass(frozen=True)
class Retained:
    """One site's share of a request. `target` is what the total counts of it; `comparison` is None where that is all
    that is retained. At a sketched site both are sketches."""

    site: str
    total: SecondMoments
    target: Part
    comparison: Part | None

    @property
    def count(self) -> int:
        """Tokens that are retained."""
        return self.total.count - _count(self.target)

    @property
    def mean(self) -> Tensor:
        """The mean retained key, (d,)."""
        target = self.target.double().sum(0).cpu() if isinstance(self.target, Tensor) else self.target.total
        return (self.total.total - target) / max(self.count, 1)


def metric_of(
    one: Retained, keys: int, sibling_weight: float, ridge: float, like: Tensor, bases: MetricBases | None = None
) -> Metric:
    """The metric for `keys` target keys, in the dtype and on the device of `like`.

    Sketched where the total is. Otherwise factorised directly, unless there are bases to share and counting operations
    says that correcting one is cheaper than d³/3. Without a ridge nothing bounds what a correction would round away, so
    it is direct. Raises ChipError where the metric is singular.
    """
    if isinstance(one.total, Sketch):
        retain = without(one.total, _sums(one.total, one.target))
        comparison = retain if one.comparison is None else _sums(one.total, one.comparison)
        return weighted_metric(retain, comparison, sibling_weight, ridge, like)
    shared = None if bases is None else _shared(one, one.total, keys, sibling_weight, ridge, like, bases)
    return _direct(one, one.total, sibling_weight, ridge, like) if shared is None else shared


def _direct(one: Retained, total: Moments, sibling_weight: float, ridge: float, like: Tensor) -> DenseMetric:
    moment = _take(held(total.outer, like, copy=True), one.target, -1.0).div_(max(one.count, 1))
    if one.comparison is None:
        moment *= 1 + sibling_weight
    elif sibling_weight:
        _take(moment, one.comparison, sibling_weight / max(_count(one.comparison), 1))
    return DenseMetric(moment, ridge, like)


def _shared(
    one: Retained, total: Moments, keys: int, sibling_weight: float, ridge: float, like: Tensor, bases: MetricBases
) -> SharedMetric | None:
    """A metric on a shared base, or None where one of its own is cheaper or sounder."""
    target, compared = one.target, one.comparison
    if not isinstance(target, Tensor) or not (compared is None or isinstance(compared, Tensor)) or ridge <= 0:
        return None
    weight = 1 / max(one.count, 1)
    if compared is None:
        weight *= 1 + sibling_weight
    taken = target.to(like) * weight**0.5
    if compared is None or not sibling_weight:
        added = taken[:0]
    else:
        added = compared.to(like) * (sibling_weight / max(len(compared), 1)) ** 0.5
    inputs, whole = len(total.outer), float(total.outer.trace())
    own = ridge / inputs * (weight * whole - _energy(taken) + _energy(added))
    relative = ridge if compared is None else ridge * (1 + sibling_weight)
    times = rounds(relative * weight * whole / inputs, own, like.dtype)
    if not shared_is_cheaper(inputs, keys, len(added) + len(taken), times):
        return None
    if like.dtype != torch.float64 and float((taken @ taken.T).norm()) > _WORST_IN_32_BITS * own:
        return None
    base = bases.base(one.site, total, relative, like)
    return SharedMetric(base, weight * max(total.count, 1), added, taken, own)


def shared_is_cheaper(inputs: int, keys: int, rows: int, times: int) -> bool:
    """Whether correcting a factor that is there takes fewer operations than making one, d inputs and T keys.

    Direct: d³/3, and 2 d² for each of the rows that the moment is formed from and for each key. Corrected: d² and
    2 d r for each of r rows, once; for each key 2 d² + 4 d r, as many times as conjugate gradients take.
    """
    direct = inputs**3 / 3 + 2 * inputs**2 * (rows + keys)
    corrected = inputs**2 * rows + 2 * inputs * rows**2 + times * keys * (2 * inputs**2 + 4 * inputs * rows)
    return keys <= inputs and corrected < direct


def retained_answers(problem: Problem, sites: Sequence[Site]) -> dict[str, Retained]:
    """What each site's metric is made of: passes over the target's and the comparison's records, unedited model.

    A part of fewer tokens than a site has inputs is kept as rows there: how many it has is reckoned from what a record
    had on average when the total was counted. Where retained keys are refreshed, no comparison is run.
    """
    split, totals = problem.split, {site.name: problem.statistics.answer[site.name] for site in sites}
    compared = problem.among_counted(split.comparison)
    needless = problem.settings.refresh or compared == problem.among_counted(split.retain)
    target = _parts(problem, sites, totals, problem.among_counted(split.target), "running the target's records")
    comparison = {} if needless else _parts(problem, sites, totals, compared, "running the comparison records")
    return {name: Retained(name, total, target[name], comparison.get(name)) for name, total in totals.items()}


def _parts(
    problem: Problem,
    sites: Sequence[Site],
    totals: Mapping[str, SecondMoments],
    positions: Sequence[int],
    doing: str,
) -> dict[str, Part]:
    records, counted = problem.records(positions), max(len(problem.counted), 1)
    few = [
        site
        for site in sites
        if isinstance(total := totals[site.name], Moments) and total.count * len(records) < len(total.total) * counted
    ]
    parts: dict[str, Part] = dict(_rows(problem, few, positions, doing)) if few else {}
    summed = {name: total for name, total in totals.items() if name not in parts}
    if summed:
        parts.update(
            collect_parts(
                problem.loaded,
                records,
                summed,
                batch_tokens=problem.batch_tokens,
                track=problem.track,
                doing=doing,
                notice=problem.notice,
            )
        )
    return parts


def _rows(problem: Problem, sites: Sequence[Site], positions: Sequence[int], doing: str) -> dict[str, Tensor]:
    """What enters each site at the answer tokens of the records, (T, d), on the CPU, as the model computed it."""
    blocks = [positions[start : start + _RECORDS_AT_ONCE] for start in range(0, len(positions), _RECORDS_AT_ONCE)]
    found: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    for block in problem.track(blocks, doing):
        encoded = encode_all(problem.loaded, problem.records(block))
        rows = answer_inputs(problem.loaded, encoded, sites, problem.batch_tokens, problem.notice)
        for name, one in rows.items():
            found[name].append(one.to("cpu", problem.loaded.dtype))
    inputs = {site.name: site.widths(problem.loaded.model)[0] for site in sites}
    return {
        name: torch.cat([torch.zeros(0, inputs[name], dtype=problem.loaded.dtype), *rows])
        for name, rows in found.items()
    }


def _sums(total: SecondMoments, part: Part) -> SecondMoments:
    return part_of(total, part) if isinstance(part, Tensor) else part


def _count(part: Part) -> int:
    return len(part) if isinstance(part, Tensor) else part.count


def _energy(rows: Tensor) -> float:
    return float(rows.square().sum())


def _take(moment: Tensor, part: Part, weight: float) -> Tensor:
    """Add weight · Σxxᵀ of a part to a moment, in place."""
    if isinstance(part, Tensor):
        rows = part.to(moment)
        return moment.addmm_(rows.T, rows, alpha=weight)
    if not isinstance(part, Moments):
        raise TypeError("an exact moment and a sketch cannot be added")
    return moment.add_(part.outer.to(moment), alpha=weight)
