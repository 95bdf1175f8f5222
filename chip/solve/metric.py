"""The metric of the oblique projection: the ridged second moment A = M + λ · tr(M)/d · I, factorised once a site.

`DenseMetric` holds M as a (d, d) matrix; `LowRankMetric` as a few rows and a level, where the moments were sketched,
and never forms anything (d, d). Both answer the same questions.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from chip.collect import Moments, SecondMoments, Sketch
from chip.collect.sketch import principal_axes
from chip.errors import ChipError

_SINGULAR = "the retained inputs do not span this site, so the metric is singular; give a larger --ridge"


class Metric(Protocol):
    """What a solver asks of A and of M, for columns (d, n) or rows (n, d).

    `error` bounds ‖M − M'‖₂, M' being the true moment: nothing where M is exact.
    """

    error: float

    def solve(self, columns: Tensor) -> Tensor:
        """A⁻¹ times columns (d, n)."""
        ...

    def whiten(self, columns: Tensor) -> Tensor:
        """L⁻¹ times columns (d, n), where A = L Lᵀ."""
        ...

    def unwhiten(self, columns: Tensor) -> Tensor:
        """L⁻ᵀ times columns (d, n)."""
        ...

    def moment_of(self, columns: Tensor) -> Tensor:
        """CᵀMC, (n, n), for columns C (d, n)."""
        ...

    def energy(self, rows: Tensor) -> Tensor:
        """tr(B M Bᵀ) for rows B (n, d)."""
        ...


class DenseMetric:
    """A from M = moment (d, d), by Cholesky. Raises ChipError where A is singular."""

    def __init__(self, moment: Tensor, ridge: float) -> None:
        self.moment, self.error = moment, 0.0
        size = moment.shape[0]
        ridged = moment + ridge * moment.trace() / size * torch.eye(size, dtype=moment.dtype, device=moment.device)
        factor, failed = torch.linalg.cholesky_ex(ridged)
        if failed:
            raise ChipError(_SINGULAR)
        self._factor = factor

    def solve(self, columns: Tensor) -> Tensor:
        return torch.cholesky_solve(columns, self._factor)

    def whiten(self, columns: Tensor) -> Tensor:
        solved: Tensor = torch.linalg.solve_triangular(self._factor, columns, upper=False)
        return solved

    def unwhiten(self, columns: Tensor) -> Tensor:
        solved: Tensor = torch.linalg.solve_triangular(self._factor.T, columns, upper=True)
        return solved

    def moment_of(self, columns: Tensor) -> Tensor:
        return columns.T @ self.moment @ columns

    def energy(self, rows: Tensor) -> Tensor:
        return ((rows @ self.moment) * rows).sum()


class LowRankMetric:
    """A from M = FᵀF + level · I with rows F (k, d): O(d k²) once, O(d k) a column, nothing (d, d).

    With FᵀF = Q S Qᵀ and ρ = level + λ · tr(M)/d, the `floor` of A, A acts as S + ρ on the span of Q and as ρ on all
    that is orthogonal to it (the Woodbury identity, turned to its axes), so a column is split in two; and twice, since
    what is left after once still holds rounding noise of Q, which 1/ρ would blow up. L is the symmetric square root.
    Raises ChipError where A is singular.
    """

    def __init__(self, rows: Tensor, level: float, ridge: float, error: float = 0.0) -> None:
        inputs, self.error, self._level = rows.shape[1], error, level
        squares, axes = principal_axes(rows)
        # Only what is rounding noise of the factorisation itself is dropped: in 32 bits much below λ's share matters.
        kept = squares > torch.finfo(squares.dtype).eps * len(squares) * squares.sum()
        squares, axes = squares[kept], axes[:, kept]
        basis = rows.to(axes).T @ (axes / squares.sqrt())
        self.floor = level + ridge * (float(squares.sum()) / inputs + level)
        self._squares, self._basis = squares.to(rows)[:, None], basis.to(rows)
        spans = basis.shape[1] == inputs
        if self.floor <= 0 and not spans:
            raise ChipError(_SINGULAR)
        self._outside = 0.0 if spans else 1 / self.floor

    def solve(self, columns: Tensor) -> Tensor:
        inside, outside = self._split(columns)
        return self._basis @ (inside / (self._squares + self.floor)) + outside * self._outside

    def whiten(self, columns: Tensor) -> Tensor:
        inside, outside = self._split(columns)
        return self._basis @ (inside / (self._squares + self.floor).sqrt()) + outside * math.sqrt(self._outside)

    def unwhiten(self, columns: Tensor) -> Tensor:
        return self.whiten(columns)

    def moment_of(self, columns: Tensor) -> Tensor:
        inside = self._basis.T @ columns
        moment: Tensor = inside.T @ (self._squares * inside) + self._level * (columns.T @ columns)
        return moment

    def energy(self, rows: Tensor) -> Tensor:
        inside = self._squares * (self._basis.T @ rows.T).square()
        total: Tensor = inside.sum() + self._level * rows.square().sum()
        return total

    def _split(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates (k, n) along the basis, and what is orthogonal to it (d, n)."""
        inside = self._basis.T @ columns
        outside = columns - self._basis @ inside
        again = self._basis.T @ outside
        return inside + again, outside - self._basis @ again


def weighted_metric(
    retain: SecondMoments, comparison: SecondMoments, sibling_weight: float, ridge: float, like: Tensor
) -> Metric:
    """The metric of M = retain's mean xxᵀ + w · the comparison's, both in one form, for tensors like `like`."""
    match retain, comparison:
        case Moments(), Moments():
            return DenseMetric((retain.second_moment + sibling_weight * comparison.second_moment).to(like), ridge)
        case Sketch(), Sketch():
            shares = [(retain, 1.0), (comparison, sibling_weight)]
            if comparison is retain:
                shares = [(retain, 1.0 + sibling_weight)]
            return _low_rank(shares, ridge, like)
    raise TypeError("an exact moment and a sketch cannot be added")


def _low_rank(shares: list[tuple[Sketch, float]], ridge: float, like: Tensor) -> LowRankMetric:
    rows, level, error = [], 0.0, 0.0
    for sketch, weight in shares:
        completed, one_level = sketch.completed
        share = weight / max(sketch.count, 1)
        rows.append(completed.to(like) * share**0.5)
        level += share * one_level
        error += share * sketch.error
    return LowRankMetric(torch.cat(rows), level, ridge, error)
