"""The least change of one weight that gives tokens what they lack, in as few directions as hold nearly all it gains.

It minimises a quadratic form, and so does its truncation: of all changes of rank r the one that is kept comes nearest
to the minimum (docs/mathematics.md, "Counterparts").
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from chip.collect import Moments, SecondMoments, Sketch
from chip.collect.sketch import widest
from chip.solve.metric import DenseMetric, LowRankMetric

_HEAVIER = 4.0
"""How many times more a token that slips weighs in the next round."""


@dataclass(frozen=True)
class Weights:
    """How much each token counts: `retain` (N - T,) as in the metric of the oblique projection, `target` (T,) the
    strength shared out; `heavier` (N,) is what rounds have made of that."""

    retain: Tensor
    target: Tensor
    heavier: Tensor

    def raised(self, slipping: Tensor) -> "Weights":
        """The same with those that slip heavier still."""
        return Weights(self.retain, self.target, torch.where(slipping, self.heavier * _HEAVIER, self.heavier))


@dataclass(frozen=True)
class SiteChange:
    """A change of one weight (D, d): left (D, r), right (r, d), and the keys (r, d) that it is derived from on other
    weights, where it gains `(W − W') keysᵀ right`. `relative` is its norm by the weight's, `distortion` the share of
    the retained outputs' energy that it alters."""

    left: Tensor
    right: Tensor
    keys: Tensor
    relative: float
    distortion: float

    @property
    def delta(self) -> Tensor:
        """The change itself, (D, d)."""
        return self.left @ self.right

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    def to(self, device: str) -> "SiteChange":
        """The same on another device, in 32 bits."""
        left, right, keys = (one.to(device, torch.float32) for one in (self.left, self.right, self.keys))
        return replace(self, left=left, right=right, keys=keys)


def solve_site(
    weight: Tensor,
    keys: Tensor,
    lacking: Tensor,
    weights: Weights,
    unheld: SecondMoments | None,
    ridge: float,
    kept: float,
    moved: Tensor | None = None,
) -> SiteChange:
    """The change Δ of a weight (D, d) that solves, over tokens x (rows of `keys`, (N, d)) that lack r (N, D),

        min  tr((Δ + Δ₀) U (Δ + Δ₀)ᵀ) / n + Σ ω ‖Δ x − r‖² + λ tr(M)/d ‖Δ‖²,

    U the sum over the retained tokens that are not among the rows, n the number of all that are retained, M the
    second moment of what is retained, weighted as the metric of the oblique projection; of as few directions as hold
    the share `kept` of what it gains. Δ₀ is what earlier edits have `moved` the weight by, (D, d): what is not held is
    kept as it was before them. The first T tokens are the target's: what they are sent to is kept where it is on
    other weights.
    """
    retain, target = weights.retain.to(keys), weights.target.to(keys)
    omega = torch.cat([target, retain]) * weights.heavier.to(keys)
    held = keys[len(target) :] * retain.sqrt()[:, None]
    retained = len(retain) + (0 if unheld is None else unheld.count)
    weighted = keys * omega[:, None]
    rows, wanted = keys * omega.sqrt()[:, None], weighted.T @ lacking
    match unheld:
        case Sketch():
            completed, level = unheld.completed
            others = completed.to(keys) / retained**0.5
            level = level / retained
        case _:
            others, level = held[:0], 0.0
    outer = unheld.outer.to(keys) / retained if isinstance(unheld, Moments) else None
    if moved is not None:
        drawn = others.T @ (others @ moved.T) + level * moved.T
        wanted = wanted - (drawn if outer is None else drawn + outer @ moved.T)
    energy = held.square().sum() + others.square().sum() + level * keys.shape[1]
    if outer is not None:
        energy = energy + outer.trace()
    floor = ridge * float(energy) / keys.shape[1]
    if isinstance(unheld, Sketch):
        delta = LowRankMetric(torch.cat([rows, others]), level + floor, 0.0).solve(wanted).T
    else:
        moment = rows.T @ rows if outer is None else torch.addmm(outer, rows.T, rows)
        delta = DenseMetric(moment, floor * len(moment) / float(moment.trace())).solve(wanted).T
    left, right = _principal(delta, wanted, kept)
    sent = (right @ weighted[: len(target)].T) @ keys[: len(target)]
    delta = left @ right
    altered, whole = (
        _energy(matrix, held, others, outer) + level * float(matrix.square().sum()) for matrix in (delta, weight)
    )
    return SiteChange(left, right, sent, float(delta.norm() / weight.norm()), altered / whole)


def _principal(delta: Tensor, wanted: Tensor, kept: float) -> tuple[Tensor, Tensor]:
    """The fewest directions of Δ = wantedᵀ A⁻¹ (D, d) with the share `kept` of tr(Δ A Δᵀ): left (D, r), right (r, d).

    That trace is what Δ takes off the quadratic form it minimises, and dropping directions gives back what they hold of
    it. With Δ A Δᵀ = Δ wanted = V S² Vᵀ they are the first columns of V S, and the rows of S⁻¹ Vᵀ Δ, orthonormal in A.
    """
    wide = widest(delta.device)
    gain = delta.to(wide) @ wanted.to(wide)
    squares, axes = torch.linalg.eigh((gain + gain.T) / 2)
    squares, axes = squares.flip(0), axes.flip(1)
    squares = squares[squares > torch.finfo(delta.dtype).eps * len(squares) * squares[0]]
    rank = min(int((squares.cumsum(0) < kept * squares.sum()).sum()) + 1, len(squares))
    sizes, axes = squares[:rank].sqrt(), axes[:, :rank]
    return (axes * sizes).to(delta), ((axes / sizes).T @ delta.to(wide)).to(delta)


def _energy(matrix: Tensor, held: Tensor, others: Tensor, outer: Tensor | None) -> float:
    """tr(B M Bᵀ) for a matrix B (n, d), M from rows and, where there is one, a sum (d, d)."""
    energy = (held @ matrix.T).square().sum() + (others @ matrix.T).square().sum()
    if outer is not None:
        energy = energy + ((matrix @ outer) * matrix).sum()
    return float(energy)
