"""The metric of the oblique projection: the ridged second moment A = M + λ · tr(M)/d · I, factorised once a site.

`DenseMetric` holds M as a (d, d) matrix; `LowRankMetric` as a few rows and a level, where the moments were sketched,
and never forms anything (d, d). Both answer the same questions.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from chip.collect import Moments, SecondMoments, Sketch
from chip.collect.sketch import principal_axes, widest
from chip.errors import ChipError

_SINGULAR = "the retained inputs do not span this site, so the metric is singular; give a larger --ridge"

_ROWS_AT_ONCE = 4096
"""How many rows of a moment are brought to another dtype at a time: a second copy of it all would be as large again."""


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
    """A from M = moment (d, d), by Cholesky, d³/3 operations. Raises ChipError where A is singular.

    The factor has the dtype and device of `like`, and the moment its own, so that 32 bits can be refined with it.
    """

    def __init__(self, moment: Tensor, ridge: float, like: Tensor | None = None) -> None:
        like = moment if like is None else like
        self.moment, self.error = held(moment, like), 0.0
        ridged = moment.to(like, copy=True)
        self._ridge = ridge * float(moment.trace()) / len(moment)
        ridged.diagonal().add_(self._ridge)
        self._factor = cholesky(ridged)

    def solve(self, columns: Tensor) -> Tensor:
        return refined(self._solve, lambda solved: product(self.moment, solved) + self._ridge * solved, columns)

    def whiten(self, columns: Tensor) -> Tensor:
        solved: Tensor = torch.linalg.solve_triangular(self._factor, columns, upper=False)
        return solved

    def unwhiten(self, columns: Tensor) -> Tensor:
        solved: Tensor = torch.linalg.solve_triangular(self._factor.T, columns, upper=True)
        return solved

    def moment_of(self, columns: Tensor) -> Tensor:
        return columns.T @ product(self.moment, columns)

    def energy(self, rows: Tensor) -> Tensor:
        return (product(self.moment, rows.T) * rows.T).sum()

    def _solve(self, columns: Tensor) -> Tensor:
        return self.unwhiten(self.whiten(columns))


class LowRankMetric:
    """A from M = FᵀF + level · I with rows F (k, d): O(d k²) once, O(d k) a column, nothing (d, d).

    With FᵀF = Q S Qᵀ and ρ = level + λ · tr(M)/d, the `floor` of A, A acts as S + ρ on the span of Q and as ρ on all
    that is orthogonal to it (the Woodbury identity, turned to its axes), so a column is split in two; and twice, since
    what is left after once still holds rounding noise of Q, which 1/ρ would blow up. L is the symmetric square root.
    Raises ChipError where A is singular.
    """

    def __init__(self, rows: Tensor, level: float, ridge: float, error: float = 0.0) -> None:
        inputs, self.error, self._level, self._rows = rows.shape[1], error, level, rows
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
        return refined(self._solve, self._applied, columns)

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

    def _solve(self, columns: Tensor) -> Tensor:
        inside, outside = self._split(columns)
        return self._basis @ (inside / (self._squares + self.floor)) + outside * self._outside

    def _applied(self, columns: Tensor) -> Tensor:
        rows = self._rows.to(columns)
        return rows.T @ (rows @ columns) + self.floor * columns

    def _split(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates (k, n) along the basis, and what is orthogonal to it (d, n)."""
        inside = self._basis.T @ columns
        outside = columns - self._basis @ inside
        again = self._basis.T @ outside
        return inside + again, outside - self._basis @ again


def cholesky(matrix: Tensor) -> Tensor:
    """The lower Cholesky factor of a symmetric matrix (d, d), in whose memory it is made. Raises ChipError where it is
    singular: what is left of an input once the others are known may not be what it is rounded to."""
    squares, failed = matrix.diagonal().clone(), torch.zeros((), dtype=torch.int32, device=matrix.device)
    # By columns, as LAPACK has them; the matrix is symmetric, so that is its transpose.
    factor = matrix.mT
    torch.linalg.cholesky_ex(factor, out=(factor, failed))
    if failed or not (factor.diagonal().square() > torch.finfo(matrix.dtype).eps * squares).all():
        raise ChipError(_SINGULAR)
    return factor


def held(moment: Tensor, like: Tensor, *, copy: bool = False) -> Tensor:
    """A moment on the device of `like`, in its own dtype where the device has that."""
    dtype = widest(like.device) if moment.dtype == torch.float64 else moment.dtype
    return moment.to(like.device, dtype, copy=copy)


def product(matrix: Tensor, columns: Tensor) -> Tensor:
    """A matrix (d, d) times columns (d, n), in the columns' dtype."""
    if matrix.dtype == columns.dtype:
        return matrix @ columns
    return torch.cat([rows.to(columns) @ columns for rows in matrix.split(_ROWS_AT_ONCE)])


def refined(solve: Callable[[Tensor], Tensor], apply: Callable[[Tensor], Tensor], columns: Tensor) -> Tensor:
    """What `solve` finds, and in 32 bits one step of refinement: what `apply` says in 64 bits that it lacks, solved."""
    found = solve(columns)
    if columns.dtype == torch.float64:
        return found
    wide = widest(columns.device)
    lacking = columns.to(wide) - apply(found.to(wide))
    return found + solve(lacking.to(columns))


def weighted_metric(
    retain: SecondMoments, comparison: SecondMoments, sibling_weight: float, ridge: float, like: Tensor
) -> Metric:
    """The metric of M = retain's mean xxᵀ + w · the comparison's, both in one form, for tensors like `like`."""
    match retain, comparison:
        case Moments(), Moments():
            return DenseMetric(retain.second_moment + sibling_weight * comparison.second_moment, ridge, like)
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
