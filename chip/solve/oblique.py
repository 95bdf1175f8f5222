"""Oblique projection: the target's keys are sent to where an uninformed answer would send them.

Closed form of  min over Δ of  tr(Δ A Δᵀ) + β · mean over t of ‖W x_t + Δ x_t − y_t‖²,  where A is the ridged second
moment of the inputs that must keep their outputs. With G = X A⁻¹ Xᵀ + (T/β) I, R = Y − X Wᵀ and Z = A⁻¹ Xᵀ it is
ΔW = (G⁻¹ R)ᵀ Zᵀ, of rank at most T (derivation in docs/mathematics.md). For Y = 0 and β → ∞ it is W (I − Π) with Π
the A⁻¹-orthogonal projector onto the span of the keys: oblique in the plain metric, hence the name.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from chip.errors import ChipError
from chip.solve.metric import Metric

_LARGEST_FACTOR = 3.0
"""How far `beyond` goes at most: a site that keeps nothing near the keys would otherwise be thrown anywhere."""

_MOST_NUMBERS = 2**26
"""A change of full rank, with what it is derived from, may take so many numbers (256 MiB in an edit file); where it
would take more it is kept dense, and cannot be derived for other weights."""

_STRENGTHS = (1e-8, 1e12)
"""Between these the largest strength within a budget is looked for, by bisection of its logarithm."""


@dataclass(frozen=True)
class Solution:
    """A change of one weight (D, d) as left (D, r) and right (r, d), with the keys (r, d) that it is derived from.

    On other weights W' it gains `(W − W') keysᵀ right`: the same closed form, with the keys, the metric and the aims as
    they were. Where all that would take too much, right and keys are None and left is the whole change, (D, d).
    `distortion` is tr(Δ M Δᵀ) / tr(W M Wᵀ): the share of the kept outputs' energy that the change is predicted to
    alter. `strength` is the β that was used. `uncertainty` is how far the distortion may be off, in either direction,
    where M was sketched: ‖M − M'‖₂ · ‖Δ‖² / tr(W M Wᵀ), M' being the true moment.
    """

    left: Tensor
    right: Tensor | None
    keys: Tensor | None
    distortion: float
    strength: float
    uncertainty: float = 0.0

    @property
    def delta(self) -> Tensor:
        """The change itself, (D, d)."""
        return self.left if self.right is None else self.left @ self.right

    def enlarged(self, budget: float) -> "Solution":
        """The same change times the largest factor from 1 to 3 for which its distortion stays within `budget`.

        Scaling Δ by 1 + γ is solving for the aims y + γ (y − W x): the keys are sent beyond their aims, along the
        same line. A change that is over the budget already stays as it is.
        """
        factor = min(max((budget / self.distortion) ** 0.5, 1.0), _LARGEST_FACTOR) if self.distortion > 0 else 1.0
        return replace(
            self,
            left=self.left * factor,
            keys=None if self.keys is None else self.keys * factor,
            distortion=self.distortion * factor**2,
            uncertainty=self.uncertainty * factor**2,
        )


def solve_site(
    weight: Tensor, keys: Tensor, aims: Tensor, metric: Metric, *, strength: float | None, budget: float | None
) -> Solution:
    """The change of `weight` (D, d) that sends the keys X (T, d) towards the aims Y (T, D); all in one dtype.

    Works with a T × T matrix where there are fewer keys than inputs, and with a d × d one otherwise.
    `strength` is β; where `budget` is given instead, the largest β whose distortion stays within it is used.
    """
    values, basis, turn = _by_keys(keys, metric) if len(keys) <= keys.shape[1] else _by_inputs(keys, metric)
    residual = turn.T @ (aims - keys @ weight.T)
    inner = (residual @ residual.T) * metric.moment_of(basis)
    whole = metric.energy(weight)

    def distortion(beta: float) -> float:
        damped = 1 / (values + len(keys) / beta)
        return float(damped @ inner @ damped / whole)

    if budget is not None:
        strength = _largest_within(distortion, budget)
    if strength is None:
        raise ChipError("give a strength or a budget on the retained outputs")
    damped = values + len(keys) / strength
    left, right = residual.T / damped, basis.T
    uncertainty = metric.error * float(((left.T @ left) * (right @ right.T)).sum() / whole)
    if len(values) >= min(weight.shape) and 2 * len(values) * sum(weight.shape) > _MOST_NUMBERS:
        return Solution(left @ right, None, None, distortion(strength), strength, uncertainty)
    sent = (turn.T @ keys) / damped[:, None]
    return Solution(left, right, sent, distortion(strength), strength, uncertainty)


def _by_keys(keys: Tensor, metric: Metric) -> tuple[Tensor, Tensor, Tensor]:
    """Spectrum (r,), basis (d, r) and the turn (T, r) of keys and residual, from the T × T matrix X A⁻¹ Xᵀ = U Λ Uᵀ:
    Z U and U."""
    solved = metric.solve(keys.T)
    gram = keys @ solved
    values, vectors = _spectrum(gram)
    return values, solved @ vectors, vectors


def _by_inputs(keys: Tensor, metric: Metric) -> tuple[Tensor, Tensor, Tensor]:
    """The same change from a d × d matrix, for more keys than inputs: with A = L Lᵀ and L⁻¹ Xᵀ X L⁻ᵀ = V Λ Vᵀ, by the
    push-through identity, the basis is L⁻ᵀ V and the turn X L⁻ᵀ V."""
    whitened = metric.whiten(keys.T)
    values, vectors = _spectrum(whitened @ whitened.T)
    return values, metric.unwhiten(vectors), whitened.T @ vectors


def _spectrum(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues above rounding noise, and their vectors: what lies below would be divided by next to nothing."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    kept = values > torch.finfo(values.dtype).eps * len(values) * values[-1]
    return values[kept], vectors[:, kept]


def _largest_within(distortion: Callable[[float], float], budget: float) -> float:
    low, high = _STRENGTHS
    if distortion(high) <= budget:
        return high
    for _ in range(80):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if distortion(middle) <= budget else (low, middle)
    return low
