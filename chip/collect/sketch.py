"""Second moments that are too large to keep: rows sketched as they pass, with the error known.

A site of d inputs needs d² numbers for an exact second moment, 1.4 GB in float32 for the 18,944 inputs of a 7B model's
down_proj. Frequent Directions (Ghashami, Liberty, Phillips and Woodruff, *Frequent Directions: Simple and Deterministic
Matrix Sketching*, SIAM J. Comput. 45(5), 2016) keeps ℓ rows B instead of all the rows X, such that in every direction
0 ≤ XᵀX − BᵀB ≤ residual. What that means for an edit is derived, and measured, in docs/mathematics.md.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from chip.collect.state import State
from chip.collect.team import Team
from chip.errors import ChipError

_SHARE_PUT_BACK = 0.75
"""How much of the residual the directions of a sketch's rows get back: between the half that bounds the error best and
the whole that the longest rows lost. Measured in docs/mathematics.md."""

_COLUMNS_AT_ONCE = 4096
"""How many columns of a Gram matrix's rows are widened at a time: a second copy of them all would be as large again."""


@dataclass(frozen=True)
class Sketch:
    """What stands for Σxxᵀ where that is too large to keep: rows B (at most ℓ, d), orthogonal, the longest first.

    total: Σx (d,); count: the number of rows x; energy: Σ‖x‖², exact. In every direction
    −excess ≤ Σxxᵀ − BᵀB ≤ residual, up to rounding. A sketch of a stream has no excess; `downdated` gives one.
    """

    rows: Tensor
    total: Tensor
    count: int
    residual: float
    energy: float
    excess: float = 0.0

    @property
    def mean(self) -> Tensor:
        return self.total / max(self.count, 1)

    def to(self, device: torch.device) -> "Sketch":
        return replace(self, rows=self.rows.to(device), total=self.total.to(device))

    @property
    def levels(self) -> tuple[float, float]:
        """What BᵀB lacks, put back evenly: so much in the directions of the rows, and so much in all others.

        The energy that the rows lack is known exactly, so together they make the trace exact, and with it the ridge
        that is in proportion to it. The rows get a share of the residual, since all lose when anything is taken off;
        the rest of the energy is spread over the other directions, and over all where they would get more than the
        rows. Robust Frequent Directions (Luo et al., JMLR 20, 2019) puts half the residual back everywhere, which
        halves the bound but makes the many directions that lost next to nothing too dear (docs/mathematics.md).
        """
        count, inputs = self.rows.shape
        missing = max(self.energy - _energy(self.rows), 0.0)
        even = missing / max(inputs, 1)
        inside = _SHARE_PUT_BACK * self.residual
        if not count or count >= inputs or inside <= even:
            return even, even
        inside = min(inside, missing / count)
        return inside, (missing - count * inside) / (inputs - count)

    @property
    def completed(self) -> tuple[Tensor, float]:
        """Rows C (k, d) and a level c such that CᵀC + c · I stands for Σxxᵀ, what was lost put back."""
        inside, outside = self.levels
        if inside <= outside:
            return self.rows, outside
        lengths = self.rows.norm(dim=1, keepdim=True).clamp(min=torch.finfo(self.rows.dtype).tiny)
        return self.rows / lengths * (lengths.square() + inside - outside).sqrt(), outside

    @property
    def error(self) -> float:
        """An upper bound on ‖Σxxᵀ − (CᵀC + c · I)‖₂ for what `completed` gives, up to rounding."""
        inside, outside = self.levels
        return max(self.excess + inside, self.residual - outside, 0.0)


class FrequentDirections:
    """Accumulates rows (T, d) in a buffer of 2ℓ × d; `sketch()` yields what stands for their second moment.

    Each time the buffer is full it is turned to its principal axes, and the (ℓ+1)-th squared length is taken off all
    of them: at most ℓ rows are left, and what was taken off is added to the residual. Since that takes at least ℓ+1
    times as much off the energy, residual ≤ (‖X‖² − ‖B‖²) / (ℓ+1), and likewise residual ≤ ‖X − X_k‖² / (ℓ+1−k) for
    the best approximation X_k of any rank k ≤ ℓ (Theorem 1.1 there): with ℓ at least the rank, nothing is lost.
    The same rows in the same order give the same rows B byte for byte, whatever batches they come in.
    """

    def __init__(self, inputs: int, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        if rows < 1:
            raise ValueError(f"a sketch has at least one row, not {rows}")
        self.limit = rows
        self._buffer = torch.zeros(2 * rows, inputs, dtype=dtype, device=device)
        self._filled = 0
        self._total = torch.zeros(inputs, dtype=dtype, device=device)
        self._count, self._residual, self._excess, self._energy = 0, 0.0, 0.0, 0.0

    def add(self, rows: Tensor) -> None:
        """Add rows (T, d), of any floating type. Raises ChipError, with nothing added, where one is not finite."""
        rows = rows.to(self._buffer)
        energy = _energy(rows)
        if not math.isfinite(energy):
            raise ChipError("an activation is not finite, or too large to be squared; try --dtype float32")
        self._push(rows)
        self._total += rows.sum(0)
        self._count += len(rows)
        self._energy += energy

    def merge(self, other: Sketch) -> None:
        """Add all that another sketch stands for. The bounds stay true: the residuals add up."""
        self._push(other.rows.to(self._buffer))
        self._total += other.total.to(self._total)
        self._count += other.count
        self._energy += other.energy
        self._residual += other.residual
        self._excess += other.excess

    def sketch(self) -> Sketch:
        """What has been added so far; going on afterwards is as if it had not been asked for."""
        rows, removed = _shrunk(self._buffer[: self._filled], self.limit)
        return Sketch(rows, self._total.clone(), self._count, self._residual + removed, self._energy, self._excess)

    @property
    def device(self) -> torch.device:
        return self._buffer.device

    def combine(self, team: Team) -> None:
        """Add what all processes have, pair by pair, where the first of them is; the others' are used up."""
        for partner, receives in team.partners():
            mine = self.sketch()
            rows = mine.rows.new_zeros(self.limit, mine.rows.shape[1])
            numbers = torch.zeros(4, dtype=widest(self.device), device=self.device)
            if receives:
                total = torch.zeros_like(mine.total)
                team.receive(partner, rows, total, numbers)
                count, residual, energy, excess = numbers.tolist()
                self.merge(Sketch(rows[rows.any(1)], total, int(count), residual, energy, excess))
            else:
                rows[: len(mine.rows)] = mine.rows
                numbers += numbers.new_tensor([mine.count, mine.residual, mine.energy, mine.excess])
                team.send(partner, rows, mine.total, numbers)

    def result(self) -> Sketch:
        """What has been added so far, on the CPU."""
        return self.sketch().to(torch.device("cpu"))

    def state(self) -> State:
        """All there is to know, as copies on the CPU: `restore` goes on from it bit for bit."""
        tensors = {"rows": self._buffer[: self._filled], "total": self._total}
        numbers = {
            "limit": self.limit,
            "count": self._count,
            "residual": self._residual,
            "excess": self._excess,
            "energy": self._energy,
        }
        return State({name: one.clone().cpu() for name, one in tensors.items()}, numbers)

    @classmethod
    def restore(cls, state: State, device: torch.device) -> Self:
        """Go on from a state. Raises ChipError where it is not one."""
        try:
            rows, total, numbers = state.tensors["rows"], state.tensors["total"], state.numbers
            one = cls(rows.shape[1], int(numbers["limit"]), rows.dtype, device)
            one._push(rows.to(device))
            one._total.copy_(total)
            one._count = int(numbers["count"])
            one._residual, one._excess, one._energy = (float(numbers[n]) for n in ("residual", "excess", "energy"))
        except (KeyError, IndexError, RuntimeError, ValueError) as problem:
            raise ChipError(f"this is no state of a sketch, or it is damaged ({problem})") from problem
        return one

    def _push(self, rows: Tensor) -> None:
        while len(rows):
            if self._filled == len(self._buffer):
                kept, removed = _shrunk(self._buffer, self.limit)
                self._buffer[: len(kept)] = kept
                self._filled = len(kept)
                self._residual += removed
            taken = rows[: len(self._buffer) - self._filled]
            self._buffer[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            rows = rows[len(taken) :]


def sketch_of(rows: Tensor, limit: int) -> Sketch:
    """The sketch of rows (T, d) that are at hand, of at most `limit` rows; exact where it need not be shorter."""
    directions = FrequentDirections(rows.shape[1], limit, rows.dtype, rows.device)
    directions.add(rows)
    return directions.sketch()


def downdated(total: Sketch, part: Sketch) -> Sketch:
    """The sketch of what is left of `total` without `part`, of at most as many rows as the total's.

    BᵀB − PᵀP, with P the part's rows, has no more positive eigenvalues than B has rows; it is taken apart in the span
    of both, from a matrix as small as their number, and the negative eigenvalues are set to zero. They are at most the
    total's residual, for what is left has none. In every direction what is left lies at most the total's residual
    above the result, and at most the part's residual and the largest eigenvalue set to zero (the `excess`) below it.
    Where both sketches are exact so is the result, up to rounding.
    """
    part_rows = part.rows.to(total.rows)
    stacked = torch.cat([total.rows, part_rows])
    squares, axes = principal_axes(stacked)
    signs = torch.ones_like(squares)
    signs[len(total.rows) :] = -1
    # With stacked = U √Λ Qᵀ, BᵀB − PᵀP = Q (√Λ UᵀJU √Λ) Qᵀ, J the signs: nothing is divided by a Λ of rounding noise.
    kept = squares > torch.finfo(squares.dtype).eps * len(squares) * squares.sum()
    lengths, axes = squares[kept].sqrt(), axes[:, kept]
    inner = (axes.T * signs) @ axes * lengths[:, None] * lengths
    values, vectors = torch.linalg.eigh((inner + inner.T) / 2)
    positive = values > 0
    turned = ((axes / lengths) @ (vectors[:, positive] * values[positive].sqrt())).flip(1)
    clipped = max(float(-values.min()), 0.0) if len(values) else 0.0
    return Sketch(
        (turned.T.to(stacked) @ stacked)[: len(total.rows)],
        total.total - part.total.to(total.total),
        total.count - part.count,
        total.residual,
        max(total.energy - part.energy, 0.0),
        total.excess + part.residual + clipped,
    )


def principal_axes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Squared singular values (n,), falling and never negative, and left singular vectors (n, n) of rows (n, d).

    From the n × n Gram matrix, in 64 bits where the device has them: O(n² d + n³), never anything d wide but the rows.
    The vectors are orthogonal to rounding, so axes.T @ rows has the rows' second moment however small a value is.
    """
    gram = torch.zeros(len(rows), len(rows), dtype=widest(rows.device), device=rows.device)
    for columns in rows.split(_COLUMNS_AT_ONCE, dim=1):
        wide = columns.to(gram)
        gram.addmm_(wide, wide.T)
    values, vectors = torch.linalg.eigh(gram)
    return values.flip(0).clamp(min=0), vectors.flip(1)


def _shrunk(rows: Tensor, limit: int) -> tuple[Tensor, float]:
    """Rows along their principal axes, at most `limit` of them, and what was taken off every squared length for it."""
    squares, axes = principal_axes(rows)
    removed = float(squares[limit]) if len(squares) > limit else 0.0
    kept = squares[:limit] > removed
    squares, axes = squares[:limit][kept], axes[:, :limit][:, kept]
    scaled = axes * (1 - removed / squares).sqrt()
    return scaled.T.to(rows) @ rows, removed


def _energy(rows: Tensor) -> float:
    return float(rows.to(widest(rows.device)).square().sum())


def widest(device: torch.device) -> torch.dtype:
    """64 bits, which Apple's accelerators alone do not have."""
    return torch.float32 if device.type == "mps" else torch.float64
