"""One factorisation a site for many requests: the total's Cholesky factor, corrected for what a request adds and takes.

Each request has its own metric, A = (total less target)/n_r + w · comparison/n_c + ridge. All of them hold the same
total; the rest are as many rows as the request has tokens, and a ridge that is a little different. So the total is
factorised once, rows are corrected for by the Woodbury identity and the ridge by conjugate gradients
(docs/mathematics.md, "One factorisation for many requests").
"""

import hashlib
import math
from collections import OrderedDict
from functools import cached_property

import torch
from torch import Tensor

from chip.collect import Moments
from chip.solve.metric import DenseMetric, cholesky, held, product, refined

_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
"""Where conjugate gradients stop: the error of each column of A⁻¹C, relative, in the norm that A measures. In 32 bits
a step of refinement follows."""


class Base:
    """L of B = S/n + ρ I, S = Σxxᵀ of a site's total over n tokens and ρ = ridge · tr(S)/(n d): d³/3 operations, once.

    `ridge` is λ times the weight that M's parts have together, so that a request's own ridge is near. Holds d² numbers
    in the dtype and on the device of `like`, beside the total. Raises ChipError where B is singular.
    """

    def __init__(self, total: Moments, ridge: float, like: Tensor) -> None:
        self.total = total
        self._outer, self._count = held(total.outer, like), max(total.count, 1)
        matrix = self._outer.to(like, copy=True).div_(self._count)
        self.shift = ridge * float(matrix.trace()) / len(matrix)
        matrix.diagonal().add_(self.shift)
        self._factor = cholesky(matrix)
        self._energies: dict[bytes, Tensor] = {}

    @property
    def bytes(self) -> int:
        return self._factor.numel() * self._factor.element_size()

    def forward(self, columns: Tensor) -> Tensor:
        """L⁻¹ times columns (d, n)."""
        solved: Tensor = torch.linalg.solve_triangular(self._factor, columns, upper=False)
        return solved

    def backward(self, columns: Tensor) -> Tensor:
        """L⁻ᵀ times columns (d, n)."""
        solved: Tensor = torch.linalg.solve_triangular(self._factor.T, columns, upper=True)
        return solved

    def moment(self, columns: Tensor) -> Tensor:
        """S/n times columns (d, n), in their dtype."""
        return product(self._outer, columns).div_(self._count)

    def energy(self, rows: Tensor) -> Tensor:
        """tr(W S Wᵀ)/n for a weight (D, d), which takes D d² operations: known again where the weight is the same."""
        key = hashlib.sha256(rows.detach().cpu().contiguous().numpy().data).digest()
        if key not in self._energies:
            self._energies[key] = (self.moment(rows.T) * rows.T).sum()
        return self._energies[key]


class MetricBases:
    """The bases of one set of statistics, each made when its site is first asked for; those last used are kept.

    memory: bytes that the factors may take together; the one in use is kept in any case. A site takes d² numbers:
    2.9 GB in float64 for the 18,944 inputs of a 7B model's down_proj, half of that in float32 on an accelerator.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self._bases: OrderedDict[tuple[str, float, torch.dtype, torch.device], Base] = OrderedDict()

    def base(self, site: str, total: Moments, ridge: float, like: Tensor) -> Base:
        """The base of a site's total. Raises ChipError where it is singular, and ValueError where it is another total
        than the site had before."""
        key = (site, ridge, like.dtype, like.device)
        one = self._bases.get(key)
        if one is None:
            self._make_room(total.outer.numel() * like.element_size())
            one = self._bases[key] = Base(total, ridge, like)
        elif one.total.count != total.count or not torch.equal(one.total.total, total.total):
            raise ValueError(f"these bases belong to other statistics: {site} had another total")
        self._bases.move_to_end(key)
        return one

    def _make_room(self, needed: int) -> None:
        while self._bases and sum(one.bytes for one in self._bases.values()) + needed > self.memory:
            self._bases.popitem(last=False)


class SharedMetric:
    """A = scale · B + UᵀJU + excess · I from a base B, U the rows `added` and `taken` (r, d), J their signs 1 and −1.

    With P = scale · B + UᵀJU and V = L⁻¹Uᵀ/√scale, P⁻¹ = L⁻ᵀ (I − V (J + VᵀV)⁻¹ Vᵀ) L⁻¹ / scale: d² operations for
    each row, once, and 2 d² a column. J + VᵀV is solved by blocks, each positive definite: the rows that are added,
    then those that are taken. The excess of the ridge is left to conjugate gradients on A, preconditioned with P, whose
    condition is the ratio of the two ridges. `ridge` is A's own: A − M = ridge · I.
    """

    error = 0.0

    def __init__(self, base: Base, scale: float, added: Tensor, taken: Tensor, ridge: float) -> None:
        self._base, self._scale, self._ridge = base, scale, ridge
        self._excess = ridge - scale * base.shift
        self._parts = ((1, added), (-1, taken))
        self._added, self._taken = (base.forward(rows.T).div_(math.sqrt(scale)) for rows in (added, taken))
        self._inner = cholesky(_identity(added) + self._added.T @ self._added)
        cross = self._added.T @ self._taken
        self._cross = torch.cholesky_solve(cross, self._inner)
        self._outer = cholesky(_identity(taken) - self._taken.T @ self._taken + cross.T @ self._cross)

    def solve(self, columns: Tensor) -> Tensor:
        """A⁻¹ times columns (d, n), to the tolerance."""
        return refined(self._iterated, lambda solved: self._moment(solved) + self._ridge * solved, columns)

    def moment_of(self, columns: Tensor) -> Tensor:
        return columns.T @ self._moment(columns)

    def energy(self, rows: Tensor) -> Tensor:
        own = sum(sign * (part @ rows.T).square().sum() for sign, part in self._parts)
        return self._scale * self._base.energy(rows) + own

    def whiten(self, columns: Tensor) -> Tensor:
        """From a factor of A itself, which is made at the first call: only more keys than inputs ask for one."""
        return self._dense.whiten(columns)

    def unwhiten(self, columns: Tensor) -> Tensor:
        """As `whiten`."""
        return self._dense.unwhiten(columns)

    @cached_property
    def _dense(self) -> DenseMetric:
        moment = self._moment(_identity(self._parts[0][1].T))
        return DenseMetric(moment, self._ridge * len(moment) / float(moment.trace()))

    def _moment(self, columns: Tensor) -> Tensor:
        moment = self._base.moment(columns).mul_(self._scale)
        for sign, part in self._parts:
            rows = part.to(columns)
            moment += sign * (rows.T @ (rows @ columns))
        return moment

    def _preconditioned(self, columns: Tensor) -> Tensor:
        """P⁻¹ times columns (d, n)."""
        white = self._base.forward(columns)
        inside = self._added.T @ white
        taken = torch.cholesky_solve(self._taken.T @ white - self._cross.T @ inside, self._outer)
        added = torch.cholesky_solve(inside, self._inner) + self._cross @ taken
        white += self._taken @ taken - self._added @ added
        return self._base.backward(white).div_(self._scale)

    def _iterated(self, columns: Tensor) -> Tensor:
        """Conjugate gradients for each column, side by side; a step takes P⁻¹ alone, P times a direction being known.

        Every step lessens the error in the norm of A by f = (κ − 1)/(κ + 1) at least, and takes α r·z off its square:
        so what is left after it is at most f/√(1 − f²) · √(α r·z).
        """
        step = self._preconditioned(columns)
        if self._excess == 0:
            return step
        own, tolerance = self._scale * self._base.shift, _TOLERANCE[columns.dtype]
        left = _left_over(own, self._ridge)
        residual, direction, image = columns, step, columns
        worth = (residual * step).sum(0)
        found, gained = torch.zeros_like(columns), torch.zeros_like(worth)
        # Without rounding half as many steps are enough; and what is not finite is never solved, but ends.
        for _ in range(2 * rounds(own, self._ridge, columns.dtype)):
            moved = image + self._excess * direction
            length = _ratio(worth, (direction * moved).sum(0))
            found += length * direction
            gained += length * worth
            if bool((left * (length * worth).sqrt() <= tolerance * gained.sqrt()).all()):
                break
            residual = residual - length * moved
            step = self._preconditioned(residual)
            before, worth = worth, (residual * step).sum(0)
            share = _ratio(worth, before)
            direction, image = step + share * direction, residual + share * image
        return found


def rounds(own: float, ridge: float, dtype: torch.dtype) -> int:
    """How often `SharedMetric` applies P⁻¹ to a column, at most: conjugate gradients between two ridges."""
    condition = max(own, ridge) / min(own, ridge)
    rate = (math.sqrt(condition) - 1) / (math.sqrt(condition) + 1)
    return 1 if rate == 0 else 1 + math.ceil(math.log(_TOLERANCE[dtype] / 2) / math.log(rate))


def _left_over(own: float, ridge: float) -> float:
    condition = max(own, ridge) / min(own, ridge)
    share = (condition - 1) / (condition + 1)
    return share / math.sqrt(1 - share**2)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Element by element, and 0 for 0/0: a column that is solved moves no more."""
    return torch.where(below > 0, above / below, torch.zeros_like(above))


def _identity(rows: Tensor) -> Tensor:
    return torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
