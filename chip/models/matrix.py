"""A stored tensor as the numbers that it means: read as values, written back as bytes, however the file encodes them.

Most tensors hold their values as they are. An fp8 weight (e4m3) holds codes, and another tensor the scales that they
are multiplied by, one for the whole weight, for each row or for each block: https://arxiv.org/abs/2412.19437, section
3.3, and what transformers, compressed-tensors and FBGEMM publish, all of which multiply, whatever the scale is called.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np

from chip.errors import ChipError
from chip.models.stored import DTYPES, E4M3, SCALE_DTYPES, Array, StoredTensor, is_finite, rounded

_MOST_ROWS = 128
_LARGEST = 448.0
"""The largest number that e4m3 holds."""


@dataclass(frozen=True)
class Piece:
    """Bytes that belong at `start` of the file of `tensor`; they lie within that tensor."""

    tensor: StoredTensor
    start: int
    data: bytes


@dataclass(frozen=True)
class RoundingError:
    """What storing cost: sums of squares of what was stored less what was meant, of what was meant, and of the change.

    Errors of several tensors, or blocks of one, are added.
    """

    off: float = 0.0
    meant: float = 0.0
    change: float = 0.0

    @property
    def relative(self) -> float:
        """Frobenius norm of the error, relative to what was meant."""
        return math.sqrt(self.off / self.meant) if self.meant else 0.0

    @property
    def of_change(self) -> float:
        """The same relative to the change itself: above 1, more was rounded than was changed."""
        return math.sqrt(self.off / self.change) if self.change else 0.0

    @property
    def described(self) -> str:
        """The same as a sentence."""
        return (
            f"fp8 holds what was meant to a relative error of {self.relative:.1%}, {self.of_change:.1%} of the "
            "size of the change"
        )

    def __add__(self, other: "RoundingError") -> "RoundingError":
        return RoundingError(self.off + other.off, self.meant + other.meant, self.change + other.change)


class Matrix(ABC):
    """The values of one tensor (D, d); a vector is (D, 1). Wherever a tensor is stored more than once, all are written.

    What is to be written is shown to `fitted` first, block by block, and then encoded by the matrix that it returns.
    """

    @property
    @abstractmethod
    def tensors(self) -> tuple[StoredTensor, ...]:
        """The stored tensors whose bytes writing may change; the first is the one that bears the name."""

    @abstractmethod
    def at(self, place: Callable[[StoredTensor], StoredTensor]) -> Self:
        """The same with one copy of each tensor, where `place` says."""

    @property
    def name(self) -> str:
        return self.tensors[0].name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensors[0].shape

    @property
    def dtype(self) -> str:
        """What the values are stored as, by its name in safetensors."""
        return self.tensors[0].dtype

    def blocks(self) -> Iterator[tuple[int, int]]:
        """First row and last of blocks that are worth being worked on at once."""
        return self.tensors[0].blocks()

    @abstractmethod
    def read_rows(self, start: int, stop: int) -> Array:
        """The values of some rows (n, d): in the tensor's own dtype, of fp8 in float32."""

    def read(self) -> Array:
        """All values, in the tensor's own shape."""
        return self.read_rows(0, self.shape[0] if self.shape else 1).reshape(self.shape)

    def digest(self) -> str:
        """SHA-256 of the bytes that its values are read from."""
        return self.combined({one.name: one.digest() for one in self.tensors})

    @abstractmethod
    def digests(self, written: str) -> dict[str, str]:
        """The digests of its tensors by name, once encoded rows of that digest were written to the first of them."""

    @abstractmethod
    def combined(self, digests: Mapping[str, str]) -> str:
        """Its own digest from those of its tensors."""

    def fitted(self, edited: Iterable[tuple[int, Array]]) -> Self:
        """The matrix that can hold new values: pairs of a first row and the rows (n, d) that it begins, in float64.

        Raises ChipError where none can.
        """
        return self

    @abstractmethod
    def rounded(self, rows: Array, start: int) -> Array:
        """What is read back once `rows` (n, d), float64, are written to `start` and following; rounded once.

        Raises ChipError where a value is too large to be stored, or not finite.
        """

    @abstractmethod
    def encode(self, rows: Array, start: int) -> list[Piece]:
        """What to write so that these rows are read back as `rounded` says; raises ChipError as that does."""

    def rounding_error(self, rows: Array, start: int) -> RoundingError:
        """What storing these rows in place of those that are there would cost."""
        meant = rows.astype(np.float64)
        off, change = (meant - one for one in (self.rounded(rows, start), self.read_rows(start, start + len(rows))))
        return RoundingError(_squares(off), _squares(meant), _squares(change))


@dataclass(frozen=True)
class Plain(Matrix):
    """Values that are stored as they are. copies: where, equal to each other; the first is read."""

    copies: tuple[StoredTensor, ...]

    @property
    def tensors(self) -> tuple[StoredTensor, ...]:
        return self.copies

    def at(self, place: Callable[[StoredTensor], StoredTensor]) -> Self:
        return replace(self, copies=(place(self.copies[0]),))

    def read_rows(self, start: int, stop: int) -> Array:
        return self.copies[0].read_rows(start, stop)

    def digests(self, written: str) -> dict[str, str]:
        return {self.name: written}

    def combined(self, digests: Mapping[str, str]) -> str:
        return digests[self.name]

    def rounded(self, rows: Array, start: int) -> Array:
        values = rounded(rows, DTYPES[self.dtype])
        if not is_finite(values):
            raise _overflow(self)
        return values

    def encode(self, rows: Array, start: int) -> list[Piece]:
        data = self.rounded(rows, start).tobytes()
        return [Piece(one, one.start + start * one.row_bytes, data) for one in self.copies]


@dataclass(frozen=True)
class Scaled(Matrix):
    """An fp8 weight: codes (D, d) in e4m3, each multiplied by its scale, in float32.

    codes, scales: where they are stored; of each, all copies. block: rows and columns that share a scale. grown: the
    scales to be written (R, C), in their own dtype; None where they stay as they are.

    A scale grows only where a value would not fit, to the smallest number of its dtype that lets it; so whatever keeps
    its value and its scale keeps its bytes.
    """

    codes: tuple[StoredTensor, ...]
    scales: tuple[StoredTensor, ...]
    block: tuple[int, int]
    grown: Array | None = field(default=None, compare=False)

    @property
    def tensors(self) -> tuple[StoredTensor, ...]:
        return self.codes + self.scales

    def at(self, place: Callable[[StoredTensor], StoredTensor]) -> Self:
        return replace(self, codes=(place(self.codes[0]),), scales=(place(self.scales[0]),))

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Rows that share a scale lie in one block, but where they are very many."""
        return self.codes[0].blocks(min(self.block[0], _MOST_ROWS))

    def read_rows(self, start: int, stop: int) -> Array:
        codes = self.codes[0].read_rows(start, stop)
        return codes.astype(np.float32) * self._spread(self._stored, start, stop)

    def digests(self, written: str) -> dict[str, str]:
        return {self.name: written, self.scales[0].name: hashlib.sha256(self._scales.tobytes()).hexdigest()}

    def combined(self, digests: Mapping[str, str]) -> str:
        both = f"{digests[self.name]}{digests[self.scales[0].name]}"
        return hashlib.sha256(both.encode()).hexdigest()

    def fitted(self, edited: Iterable[tuple[int, Array]]) -> Self:
        peaks = np.zeros(self._stored.shape)
        edges = np.arange(0, self.shape[1], self.block[1])
        for start, rows in edited:
            of_rows = np.maximum.reduceat(np.abs(rows), edges, axis=1)
            np.maximum.at(peaks, np.arange(start, start + len(rows)) // self.block[0], of_rows)
        scales = self._scales
        fits = np.isfinite(rounded(_quotient(peaks, scales.astype(np.float64)), E4M3)) | (peaks == 0)
        grown = np.where(fits, scales, _rounded_up(peaks / _LARGEST, scales.dtype))
        if not (np.isfinite(peaks).all() and np.isfinite(grown.astype(np.float64)).all()):
            raise _overflow(self)
        return replace(self, grown=None if fits.all() and self.grown is None else grown)

    def rounded(self, rows: Array, start: int) -> Array:
        codes = self._encoded(rows, start)
        return codes.astype(np.float32) * self._spread(self._scales, start, start + len(rows))

    def encode(self, rows: Array, start: int) -> list[Piece]:
        data = self._encoded(rows, start).tobytes()
        pieces = [Piece(one, one.start + start * one.row_bytes, data) for one in self.codes]
        if not len(rows):
            return pieces
        first, last = start // self.block[0], (start + len(rows) - 1) // self.block[0] + 1
        offset, data = first * self._scales[0].nbytes, self._scales[first:last].tobytes()
        return [*pieces, *(Piece(one, one.start + offset, data) for one in self.scales)]

    @cached_property
    def _stored(self) -> Array:
        """The scales as they are stored, (R, C); as they were, where this matrix is written over itself."""
        rows, columns = (-(-size // step) for size, step in zip(self.shape, self.block, strict=True))
        scales = self.scales[0].read().reshape(rows, columns)
        values = scales.astype(np.float64)
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ChipError(
                f"{self.scales[0].name} in {self.scales[0].file} holds scales that are negative or no numbers"
            )
        return scales

    @property
    def _scales(self) -> Array:
        return self._stored if self.grown is None else self.grown

    def _spread(self, scales: Array, start: int, stop: int) -> Array:
        """The scale of every value of some rows, float32 (n, d)."""
        rows, columns = np.arange(start, stop) // self.block[0], np.arange(self.shape[1]) // self.block[1]
        return scales.astype(np.float32)[rows[:, None], columns]

    def _encoded(self, rows: Array, start: int) -> Array:
        stop = start + len(rows)
        old = self.codes[0].read_rows(start, stop)
        before, after = (self._spread(scales, start, stop) for scales in (self._stored, self._scales))
        same = (rows == old.astype(np.float32) * before) & (before == after)
        codes = np.where(same, old, rounded(_quotient(rows, after.astype(np.float64)), E4M3))
        if not np.isfinite(codes.astype(np.float32)).all():
            raise _overflow(self)
        return codes


def scaled(
    codes: tuple[StoredTensor, ...], scales: tuple[StoredTensor, ...], declared: tuple[int, int] | None
) -> Scaled:
    """An fp8 weight with its scales. declared: rows and columns of a block, where the config says.

    Raises ChipError where the scales' shape or dtype is none that is known.
    """
    weight, scale = codes[0], scales[0]
    block = _block(weight.shape, scale.shape, declared) if len(weight.shape) == 2 and 0 not in weight.shape else None
    if block is None or scale.dtype not in SCALE_DTYPES:
        raise ChipError(
            f"{scale.name} {scale.shape}, {scale.dtype}, is no scale that chip knows for {weight.name} {weight.shape}; "
            "convert the model to bf16 first"
        )
    return Scaled(codes, scales, block)


def _block(weight: tuple[int, ...], scale: tuple[int, ...], declared: tuple[int, int] | None) -> tuple[int, int] | None:
    """Rows and columns that share a scale: all, a row, or a block; None where the shapes tell nothing."""
    height, width = weight
    if math.prod(scale) == 1:
        return height, width
    if scale in ((height,), (height, 1)):
        return 1, width
    if len(scale) != 2 or 0 in scale:
        return None
    if declared is not None and scale == (-(-height // declared[0]), -(-width // declared[1])):
        return declared
    return (height // scale[0], width // scale[1]) if height % scale[0] == 0 and width % scale[1] == 0 else None


def _quotient(values: Array, scales: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # a scale of zero holds nothing but zeros
        return np.asarray(values / scales)


def _rounded_up(values: Array, dtype: np.dtype[np.generic]) -> Array:
    """The smallest numbers of a dtype that are not below positive values; bits of positive numbers count upwards."""
    nearest = rounded(values, dtype)
    bits = nearest.view(f"u{dtype.itemsize}")
    return np.asarray((bits + (nearest.astype(np.float64) < values).astype(bits.dtype)).view(dtype))


def _squares(values: Array) -> float:
    flat = values.astype(np.float64).ravel()
    return float(flat @ flat)


def _overflow(matrix: Matrix) -> ChipError:
    return ChipError(f"the edit of {matrix.name} overflows {matrix.dtype}; nothing was written")
