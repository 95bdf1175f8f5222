"""A change of one stored tensor: low-rank wherever it can be, added row by row, and derivable anew on other weights."""

import math
from dataclasses import dataclass

import numpy as np

from chip.errors import ChipError
from chip.models.stored import Array


@dataclass(frozen=True)
class Projected:
    """How a change that projects outputs off is derived from other weights: `W[rows]` loses `Qᵀ Q W[rows]`.

    basis: Q (r, k), orthonormal rows. rows: (k,), the outputs (all where None). transposed: whether the tensor is
    stored as Wᵀ, inputs first.
    """

    basis: Array
    rows: Array | None = None
    transposed: bool = False


@dataclass(frozen=True)
class Redirected:
    """How a change that sends keys elsewhere is derived from other weights W': it gains `(P − W' Xᵀ) B`, so that what
    the keys are sent to stays where it was.

    keys: X (r, d). outputs: P = W Xᵀ (D, r) of the weights W that the change was solved on. B (r, d), the metric's
    answer to the keys, is the change's own right factor. transposed: as in `Projected`.
    """

    keys: Array
    outputs: Array
    transposed: bool = False


@dataclass(frozen=True)
class Change:
    """A change of one stored tensor, seen as a matrix (D, d); a vector is seen as (D, 1).

    The rows `rows` (all of them where it is None) gain `left @ right`, with left (k, r) and right (r, d), both
    float32. `right` is None where the change is dense: then `left` (k, d) is the whole of it. `parameter` is the
    tensor's name in the module tree, for adapters; `derivation` is how it comes about on other weights, where that is
    known.
    """

    tensor: str
    left: Array
    right: Array | None
    rows: Array | None = None
    parameter: str = ""
    derivation: Projected | Redirected | None = None

    @property
    def rank_bound(self) -> int:
        shapes = self.left.shape if self.right is None else (*self.left.shape, *self.right.shape)
        return min(int(size) for size in shapes)

    @property
    def width(self) -> int:
        """The inputs d that it changes."""
        return int((self.left if self.right is None else self.right).shape[1])

    def delta(self) -> Array:
        """The change of the chosen rows, (k, d), in float64."""
        return self._product(self.left)

    def added(self, block: Array, start: int = 0) -> Array:
        """Rows `start` and following of the tensor (n, d) with the change added, in float64.

        So that the sum, once it is rounded, is the same on every machine: products differ from one to the next in their
        last digits, which only 64 bits keep far from those that are stored.
        """
        total = block.astype(np.float64)
        if self.rows is None:
            total += self._product(self.left[start : start + len(block)])
        else:
            inside = np.flatnonzero((self.rows >= start) & (self.rows < start + len(block)))
            total[self.rows[inside] - start] += self._product(self.left[inside])
        return total

    def _product(self, left: Array) -> Array:
        exact = left.astype(np.float64)
        return exact if self.right is None else exact @ self.right.astype(np.float64)

    def refuse_misfit(self, shape: tuple[int, ...]) -> None:
        """Raise ChipError where it does not fit a tensor of that shape."""
        if not shape or not self._fits(shape[0], math.prod(shape[1:])):
            raise ChipError(f"the edit of {self.tensor} does not fit its shape {shape}: it is of another model")

    def _fits(self, outputs: int, inputs: int) -> bool:
        if self.width != inputs:
            return False
        if self.rows is None:
            return len(self.left) == outputs
        return len(self.left) == len(self.rows) and bool(np.all((self.rows >= 0) & (self.rows < outputs)))
