"""What one pass over the records leaves behind: sums per node and site, which add up and subtract; sketches do not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from chip.collect.sketch import Sketch
from chip.hierarchy import NodePath


@dataclass(frozen=True)
class PooledSums:
    """Sums over each node's records: pooled activations (N, D), their absolute values (N, D), and counts (N,)."""

    total: Tensor
    absolute: Tensor
    count: Tensor

    @classmethod
    def zeros(cls, nodes: int, outputs: int, device: torch.device) -> Self:
        dtype = accumulator_dtype(device)
        return cls(
            torch.zeros(nodes, outputs, dtype=dtype, device=device),
            torch.zeros(nodes, outputs, dtype=dtype, device=device),
            torch.zeros(nodes, dtype=torch.int64, device=device),
        )


@dataclass(frozen=True)
class Moments:
    """Sums over tokens of a site's inputs: Σxxᵀ (d, d), Σx (d,), and the number of tokens."""

    outer: Tensor
    total: Tensor
    count: int

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.outer + other.outer, self.total + other.total, self.count + other.count)

    def __sub__(self, other: "Moments") -> "Moments":
        """Take back what was counted before; nothing else may be subtracted."""
        return Moments(self.outer - other.outer, self.total - other.total, self.count - other.count)

    @property
    def second_moment(self) -> Tensor:
        """The uncentred mean of xxᵀ, (d, d)."""
        return self.outer / max(self.count, 1)

    @property
    def mean(self) -> Tensor:
        return self.total / max(self.count, 1)


SecondMoments = Moments | Sketch
"""A site's second moment in one of its two forms: exact, or sketched where it would take too much memory."""


@dataclass(frozen=True)
class Wanted:
    """What a pass shall collect, by site name: pooled outputs, answer-token moments, image-token moments."""

    pooled: tuple[str, ...] = ()
    answer: tuple[str, ...] = ()
    image: tuple[str, ...] = ()

    def __or__(self, other: "Wanted") -> "Wanted":
        return Wanted(*(_union(a, b) for a, b in zip(self._fields(), other._fields(), strict=True)))

    def __le__(self, other: "Wanted") -> bool:
        return all(set(a) <= set(b) for a, b in zip(self._fields(), other._fields(), strict=True))

    def _fields(self) -> tuple[tuple[str, ...], ...]:
        return (self.pooled, self.answer, self.image)


@dataclass(frozen=True)
class Statistics:
    """Everything that was collected: sums per node in `pooled`, and over all records in `answer` and `image`.

    `nodes` are the paths that records sit on; a record counts at its own path only, so that parents are sums of
    children. Image moments count every distinct image once, whatever number of records show it. Second moments are
    exact or sketches, site by site.
    """

    nodes: tuple[NodePath, ...]
    alpha: float
    pooled: dict[str, PooledSums]
    answer: Mapping[str, SecondMoments]
    image: Mapping[str, SecondMoments]

    @property
    def wanted(self) -> Wanted:
        return Wanted(tuple(self.pooled), tuple(self.answer), tuple(self.image))


def accumulator_dtype(device: torch.device) -> torch.dtype:
    """64 bits on a CPU, where they are nearly free; 32 on an accelerator."""
    return torch.float64 if device.type == "cpu" else torch.float32


def _union(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))
