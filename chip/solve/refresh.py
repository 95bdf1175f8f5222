"""`--refresh N`: the retained keys of a few records, taken again at every site through what has been edited so far.

The statistics are those of the unedited model. A sample of the retained records, drawn by seed, says instead what a
site is given after the sites before it have been edited (docs/mathematics.md, "Refreshing").
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from chip.collect import SecondMoments, answer_counts, answer_inputs, encode_all, part_of
from chip.collect.grouping import EncodedGroup
from chip.errors import ChipError
from chip.models.sites import Site
from chip.solve.held import by_node
from chip.solve.metric import Metric, weighted_metric
from chip.solve.problem import Problem


@dataclass(frozen=True)
class Stratum:
    """Retained records of one kind, by position, and those drawn to stand for all of them."""

    records: tuple[int, ...]
    drawn: tuple[int, ...]

    @property
    def weight(self) -> float:
        """How many records each drawn one stands for."""
        return len(self.records) / max(len(self.drawn), 1)


def draw_strata(problem: Problem) -> list[Stratum]:
    """The comparison records first, then the other siblings, and the rest; of those that the statistics count.

    As many of each are drawn as is its share, at least one, and from all nodes once before from any twice. Raises
    ChipError where there are to be fewer records than strata.
    """
    split, count = problem.split, problem.settings.refresh
    comparison = set(split.comparison)
    others = [[i for i in part if i not in comparison] for part in (split.siblings, (*split.shared, *split.rest))]
    strata = [problem.among_counted(part) for part in (sorted(comparison), *others)]
    filled = sum(map(bool, strata))
    if count < filled:
        raise ChipError(
            f"--refresh {count} is too few: the retained records are of {filled} kinds; draw at least {filled}"
        )
    draw = random.Random(problem.settings.seed)
    drawn = shares([len(one) for one in strata], count)
    return [
        Stratum(one, tuple(sorted(by_node(problem, one, draw)[:size]))) for one, size in zip(strata, drawn, strict=True)
    ]


class Refresher:
    """The drawn records, encoded once, whose keys give a site's metric as the model is when it is asked for."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._strata = draw_strata(problem)

    @cached_property
    def _encoded(self) -> Sequence[EncodedGroup]:
        positions = [position for one in self._strata for position in one.drawn]
        return encode_all(self._problem.loaded, self._problem.records(positions))

    def metric(self, site: Site, total: SecondMoments, like: Tensor) -> Metric:
        """The site's metric from the sample's keys, an exact moment or a sketch as `total` is."""
        problem, settings = self._problem, self._problem.settings
        rows = answer_inputs(problem.loaded, self._encoded, [site], problem.batch_tokens, problem.notice)[site.name]
        weights = torch.tensor([one.weight for one in self._strata for _ in one.drawn], dtype=rows.dtype)
        tokens = torch.tensor(answer_counts(self._encoded))
        each = weights.repeat_interleave(tokens).to(rows.device)
        compared = int(tokens[: len(self._strata[0].drawn)].sum())
        retain = part_of(total, rows * (each / each.mean()).sqrt()[:, None])
        comparison = part_of(total, rows[:compared])
        return weighted_metric(retain, comparison, settings.sibling_weight, settings.own_ridge, like)


def shares(sizes: Sequence[int], count: int) -> list[int]:
    """How many of each size are drawn: one each, and the others in proportion, the largest remainders first."""
    if count >= sum(sizes):
        return list(sizes)
    shares = [min(size, 1) for size in sizes]
    while sum(shares) < count:
        open_ones = [one for one, size in enumerate(sizes) if shares[one] < size]
        shares[max(open_ones, key=lambda one: sizes[one] * count / sum(sizes) - shares[one])] += 1
    return shares
