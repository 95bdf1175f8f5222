"""One safetensors file: which tensor lies at which bytes, and reading and rounding them. Imports no torch.

The format is eight bytes of header length (little endian), a JSON header, and the tensors' bytes, one behind the other
(https://github.com/huggingface/safetensors#format). Whatever the reference implementation refuses is refused here too:
a file that two readers understand differently would be edited in one of them only.
"""

import hashlib
import json
import math
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from chip.errors import ChipError
from chip.files import read_small, without_repetition

Array = np.ndarray[Any, Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""The floating types that can be edited as they are; others are carried along untouched."""

E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
SCALE_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}
"""What the scales of an fp8 weight are stored as."""

_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Every dtype that safetensors knows, with the bits of a number."""

_READABLE = {**DTYPES, **SCALE_DTYPES, "F8_E4M3": E4M3}

_THROUGH_FLOAT32 = {E4M3, SCALE_DTYPES["F8_E8M0"]}
_MAXIMUM_HEADER_BYTES = 100_000_000
_LARGEST_SIZE = 1 << 63
_READ_BYTES = 1 << 22
_BLOCK_NUMBERS = 1 << 19
"""How many numbers of a tensor are worked on at once: 4 MiB of float64."""

_ROUNDED_AT_ONCE = 1 << 15
"""How many are rounded at once: what stays near the processor."""

_DROPPED = np.uint64(53 - 8)
"""The bits of a float64 that bfloat16, which has 8 significant ones, does not keep."""

_BFLOAT16_EXPONENT = 0x7F80
_UNDER_HALF = np.uint64((1 << 44) - 1)
_SMALLEST_NORMAL = 2.0**-126
_ROUNDS_SMALL = 1.5 * 2.0 ** (52 - 133)
"""Numbers of this size are 2⁻¹³³ apart in float64, as bfloat16's below the smallest normal one are."""


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: `start` and `stop` are byte offsets in the file itself."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    def read(self) -> Array:
        """The tensor as an array of its own dtype, read from disk."""
        return self._read(self.start, self.stop).reshape(self.shape)

    def read_rows(self, start: int, stop: int) -> Array:
        """Rows `start` to `stop` of the tensor seen as a matrix (D, d); a vector is seen as (D, 1)."""
        step = self.row_bytes
        return self._read(self.start + start * step, self.start + stop * step).reshape(stop - start, -1)

    def raw(self, size: int = _READ_BYTES) -> Iterator[bytes]:
        """Its bytes, at most `size` of them at a time."""
        left = self.stop - self.start
        with self.file.open("rb") as handle:
            handle.seek(self.start)
            while left:
                if not (block := handle.read(min(left, size))):
                    raise ChipError(f"{self.file} became shorter while it was read")
                yield block
                left -= len(block)

    def digest(self) -> str:
        """SHA-256 of its bytes."""
        total = hashlib.sha256()
        for block in self.raw():
            total.update(block)
        return total.hexdigest()

    def blocks(self, rows: int = 1) -> Iterator[tuple[int, int]]:
        """Its rows in blocks of about `_BLOCK_NUMBERS` numbers, a multiple of `rows` each: first row and last."""
        count = self.shape[0] if self.shape else 0
        width = max(1, math.prod(self.shape[1:]))
        step = max(1, _BLOCK_NUMBERS // width // rows) * rows
        yield from ((start, min(start + step, count)) for start in range(0, count, step))

    @property
    def row_bytes(self) -> int:
        """Bytes that a row takes: all that has the same first index."""
        return (self.stop - self.start) // max(1, self.shape[0] if self.shape else 1)

    def _read(self, start: int, stop: int) -> Array:
        if self.dtype not in _READABLE:
            raise ChipError(f"{self.name} is stored as {self.dtype}, which chip cannot edit; convert it to bf16 first")
        with self.file.open("rb") as handle:
            handle.seek(start)
            data = handle.read(stop - start)
        if len(data) != stop - start:
            raise ChipError(f"{self.file} became shorter while it was read; nothing was written")
        return np.frombuffer(data, dtype=_READABLE[self.dtype])


def rounded(values: Array, dtype: np.dtype[Any]) -> Array:
    """float64 values rounded once, to nearest even; what is too large becomes infinite, for the caller to see."""
    with np.errstate(over="ignore"):
        if dtype in _THROUGH_FLOAT32:
            return _through_float32(values).astype(dtype)
        if dtype != DTYPES["BF16"]:
            return values.astype(dtype)
        found = np.empty(values.shape, np.uint16)
        given, taken = np.ascontiguousarray(values).reshape(-1), found.reshape(-1)
        for start in range(0, given.size, _ROUNDED_AT_ONCE):
            stop = start + _ROUNDED_AT_ONCE
            taken[start:stop] = _bfloat16_bits(given[start:stop])
        return found.view(dtype)


def _bfloat16_bits(values: Array) -> Array:
    """float64 values (n,) as bfloat16 bits. NumPy would go by float32, which rounds twice.

    Bits are rounded as an integer is: half a unit less one is added, and one where the last bit that stays is odd.
    Below the smallest normal number the unit no longer shrinks; there a sum with a large constant rounds to it.
    """
    bits = values.view(np.uint64)
    kept = bits >> _DROPPED
    kept &= np.uint64(1)
    kept += bits
    kept += _UNDER_HALF
    kept &= ~(2 * _UNDER_HALF + np.uint64(1))
    found = _upper_half(kept.view(np.float64))
    exponents = found & np.uint16(_BFLOAT16_EXPONENT)
    if not exponents.all() or (exponents == _BFLOAT16_EXPONENT).any():
        magnitude = np.abs(values)
        small = np.copysign((magnitude + _ROUNDS_SMALL) - _ROUNDS_SMALL, values)
        odd = np.where(
            magnitude < _SMALLEST_NORMAL, small, np.where(np.isfinite(values), kept.view(np.float64), values)
        )
        return _upper_half(odd)
    return found


def _upper_half(values: Array) -> Array:
    """The upper 16 bits of float64 values as float32, (n,)."""
    return (values.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def is_finite(values: Array) -> bool:
    """Whether all values are numbers: of bfloat16, which NumPy looks at one by one, by their bits."""
    if values.dtype != DTYPES["BF16"]:
        return bool(np.isfinite(values).all())
    exponents = values.view(np.uint16) & np.uint16(_BFLOAT16_EXPONENT)
    return not (exponents == _BFLOAT16_EXPONENT).any()


def _through_float32(values: Array) -> Array:
    """float64 values as float32 ones that are rounded like them: NumPy reaches fp8 that way, and would round twice.

    Rounding to odd keeps what the second rounding has to know (Boldo and Melquiond, "Emulation of FMA and correctly
    rounded sums", 2008).
    """
    nearest = values.astype(np.float32)
    toward_zero = np.where(np.abs(nearest) > np.abs(values), np.nextafter(nearest, np.float32(0)), nearest)
    bits = toward_zero.astype(np.float32).view(np.uint32)
    odd = np.where(toward_zero != values, bits | np.uint32(1), bits)
    return np.where(np.isfinite(nearest), odd.view(np.float32), nearest)


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself: its metadata, its tensors in the order of the header, and where the
    header ends."""

    metadata: dict[str, str]
    tensors: tuple[StoredTensor, ...]
    end: int


def read_header(path: Path) -> Header:
    """The header of one safetensors file, with offsets checked against the file.

    Raises ChipError where it is damaged, or where the reference implementation would not read it either."""
    try:
        found = path.stat()
    except OSError as problem:
        raise ChipError(f"{path} cannot be read ({problem.strerror})") from problem
    if not stat.S_ISREG(found.st_mode):
        raise ChipError(f"{path} is no regular file")
    size = found.st_size
    with path.open("rb") as handle:
        start = handle.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(size - 8, _MAXIMUM_HEADER_BYTES):
            raise ChipError(f"{path} is no safetensors file, or it is truncated")
        header_bytes = handle.read(length)
    try:
        header = json.loads(header_bytes, object_pairs_hook=without_repetition)
        metadata = header.pop("__metadata__", None)
        metadata = {} if metadata is None else metadata
        if not all(isinstance(one, str) for one in metadata.values()):
            raise ValueError("its metadata are not texts")
        if b"\\u" in header_bytes:
            json.dumps([header, metadata], ensure_ascii=False).encode()  # half a surrogate pair is no text
        tensors = [_entry(path, name, entry, 8 + length) for name, entry in header.items()]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as problem:
        raise ChipError(f"{path} has a damaged safetensors header: {problem}") from problem
    end = 8 + length
    for tensor in sorted(tensors, key=lambda one: (one.start, one.stop)):
        _refuse_nonsense(tensor)
        if tensor.stop > size:
            raise ChipError(f"{path} is truncated: {tensor.name} ends beyond the end of the file")
        if tensor.start < end:
            raise ChipError(f"{path} has a damaged safetensors header: {tensor.name} overlaps with another tensor")
        if tensor.start > end:
            raise ChipError(f"{path} has a damaged safetensors header: nobody owns the bytes before {tensor.name}")
        end = tensor.stop
    if end != size:
        raise ChipError(f"{path} has a damaged safetensors header: nobody owns the bytes at its end")
    return Header(metadata, tuple(tensors), 8 + length)


def header_digest(path: Path) -> str:
    """SHA-256 of a file's header, length and all, byte for byte."""
    with path.open("rb") as handle:
        start = handle.read(8)
        return hashlib.sha256(start + handle.read(struct.unpack("<Q", start)[0])).hexdigest()


def _entry(path: Path, name: str, entry: dict[str, Any], data: int) -> StoredTensor:
    """A tensor as the header describes it; `data` is where the tensors' bytes begin."""
    start, stop = entry["data_offsets"]
    if not isinstance(entry["shape"], list) or type(start) is not int or type(stop) is not int:
        raise ValueError(f"{name} has no shape or no place")
    return StoredTensor(name, path, entry["dtype"], tuple(entry["shape"]), data + start, data + stop)


def _refuse_nonsense(tensor: StoredTensor) -> None:
    """Raise ChipError where an entry says what no tensor is."""
    sizes = (*tensor.shape, tensor.start, tensor.stop)
    known = isinstance(tensor.dtype, str) and tensor.dtype in _BITS
    sane = known and all(type(size) is int and 0 <= size < _LARGEST_SIZE for size in sizes)
    if not sane or tensor.start > tensor.stop:
        raise ChipError(f"{tensor.file} has a damaged safetensors header: the entry of {tensor.name} makes no sense")
    if math.prod(tensor.shape) * _BITS[tensor.dtype] != 8 * (tensor.stop - tensor.start):
        raise ChipError(f"{tensor.file}: the bytes of {tensor.name} do not fit its shape")


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises ChipError where it is none, or cannot be read."""
    try:
        return json.loads(read_small(path))
    except (OSError, ValueError, RecursionError) as problem:
        raise ChipError(f"{path} is not JSON: {problem}") from problem
