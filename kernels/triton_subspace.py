"""The Triton kernels of `subspace`: four launches for any number of matrices; each matrix's eigenproblem stays on chip.

Gram and Jacobi; rows rotated by the eigenvectors; Gram and Jacobi of those; rows rotated again and divided by the
singular values. A float32 Gram squares the condition: directions below √ε · σ₁ drown in its rounding, 3e-4 of the
largest. But after the first rotation the rows are orthogonal up to ε · σ₁, and their Gram is a graded matrix each of
whose entries is right relative to its own row and column, and which Jacobi diagonalises to the same relative accuracy
(Demmel and Veselić, 1992), being the one-sided method in all but name. So the second half finds singular values and
directions as a backward stable float32 SVD does, and is the re-orthogonalisation as well. It needs no 64-bit units.
"""

import torch
import triton
import triton.language as tl
from chip.kernels.triton_options import FUSION, beside
from torch import Tensor

_SWEEPS = 24
"""Sweeps at most; up to eight were needed for 16 rows, and about ten for 128."""

_DIAGONALISING = {16: (64, 2), 32: (32, 4), 64: (32, 8), 128: (16, 16)}
_ROTATING = {16: (128, 4), 32: (64, 4), 64: (64, 4), 128: (64, 8)}
"""By padded rows, columns at a time and warps: as many as stay in registers."""


def subspace(rows: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Bases (N, min(m, k), k) and singular values (N, min(m, k)) of rows (N, m, k), in float32."""
    matrices, count, width = rows.shape
    rows = rows if rows.stride(-1) == 1 else rows.contiguous()
    turned = torch.empty(matrices, count, width, dtype=torch.float32, device=rows.device)
    values = torch.empty(matrices, count, dtype=torch.float32, device=rows.device)
    if turned.numel():
        if counts is None:
            counts = torch.full((matrices,), count, dtype=torch.int32, device=rows.device)
        size = max(16, triton.next_power_of_2(count))
        rotations = torch.empty(matrices, size, size, dtype=torch.float32, device=rows.device)
        scales = torch.empty(matrices, dtype=torch.float32, device=rows.device)
        for first, source in ((True, rows), (False, turned)):
            given = (source, counts, scales, rotations, values)
            sizes = (count, width, *source.stride())
            with beside(rows):
                columns, warps = _DIAGONALISING[size]
                _jacobi_kernel[(matrices,)](
                    *given, *sizes, FIRST=first, ROWS=size, COLUMNS=columns, SWEEPS=_SWEEPS, num_warps=warps, **FUSION
                )
                columns, warps = _ROTATING[size]
                _rotate_kernel[(matrices, triton.cdiv(width, columns))](
                    *given, turned, *sizes, FIRST=first, ROWS=size, COLUMNS=columns, num_warps=warps, **FUSION
                )
    return turned[:, : min(count, width)], values[:, : min(count, width)]


@triton.jit
def _jacobi_kernel(
    rows,
    counts,
    scales,
    rotations,
    values,
    count,
    width,
    matrix_stride,
    row_stride,
    column_stride,
    FIRST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SWEEPS: tl.constexpr,
):
    """One program takes one matrix: its Gram's eigenvectors, as the rows of `rotations`, by falling eigenvalue.

    First half: rows are divided by the largest entry, so that no square leaves float32's range, and an entry counts as
    zero beside the largest on the diagonal. Second half: beside its own row and column; then `values` are written.
    """
    matrix = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, ROWS)
    lane = tl.arange(0, COLUMNS)
    live = row < tl.load(counts + matrix)
    at = rows + matrix * matrix_stride + row[:, None].to(tl.int64) * row_stride
    scale = 1.0
    if FIRST:
        largest = tl.zeros((ROWS, COLUMNS), tl.float32)
        for start in range(0, width, COLUMNS):
            column = start + lane
            inside = live[:, None] & (column[None, :] < width)
            tile = tl.load(at + column[None, :] * column_stride, mask=inside, other=0.0).to(tl.float32)
            largest = tl.maximum(largest, tl.abs(tile))
        scale = 1.0 / tl.maximum(tl.max(tl.max(largest, 1), 0), 1e-37)
        tl.store(scales + matrix, scale)
    gram = tl.zeros((ROWS, ROWS), tl.float32)
    lost = tl.zeros((ROWS, ROWS), tl.float32)
    for start in range(0, width, COLUMNS):
        column = start + lane
        inside = live[:, None] & (column[None, :] < width)
        tile = tl.load(at + column[None, :] * column_stride, mask=inside, other=0.0).to(tl.float32) * scale
        # Compensated: a long sum keeps the accuracy of one block's.
        term = tl.dot(tile, tl.trans(tile), input_precision="ieee") - lost
        summed = gram + term
        lost = (summed - gram) - term
        gram = summed
    same = row[:, None] == row[None, :]
    vectors = tl.where(same, 1.0, 0.0)
    diagonal = tl.sum(tl.where(same, gram, 0.0), 1)
    floor = 1e-7 * tl.max(diagonal, 0)
    sweep = 0
    turned = tl.full((), 1, tl.int32)
    while (sweep < SWEEPS) & (turned > 0):
        turns = row < 0
        for step in range(1, ROWS):
            # Rows i and i xor step meet: every pair once a sweep, all pairs of a step at once.
            partner = row ^ step
            leads = row < partner
            meets = row[None, :] == partner[:, None]
            corner = tl.sum(tl.where(meets, gram, 0.0), 1)
            # Both of a pair must see the same number, which rounding may have made two.
            corner = tl.where(leads, corner, tl.gather(corner, partner, 0))
            other = tl.gather(diagonal, partner, 0)
            least = floor
            if not FIRST:
                least = 1e-7 * (tl.sqrt_rn(tl.maximum(diagonal, 0.0)) * tl.sqrt_rn(tl.maximum(other, 0.0)))
            turn = tl.abs(corner) > least
            # The tangent of the smaller angle that makes the corner zero, of opposite sign for the two of a pair.
            ratio = tl.div_rn(other - diagonal, tl.where(turn, 2.0 * corner, 1.0))
            toward = tl.where((ratio > 0.0) | (leads & (ratio == 0.0)), -1.0, 1.0)
            steep = tl.minimum(tl.abs(ratio), 1e18)
            tangent = tl.div_rn(toward, steep + tl.sqrt_rn(1.0 + steep * steep))
            tangent = tl.where(turn, tangent, 0.0)
            diagonal += tangent * corner
            cosine = tl.div_rn(1.0, tl.sqrt_rn(1.0 + tangent * tangent))
            sine = tangent * cosine
            # 1 − cosine, without the cancellation that would let thousands of turns stretch the vectors.
            shrink = tl.div_rn(sine * sine, 1.0 + cosine)
            turns = turns | turn
            across = tl.broadcast_to(partner[:, None], (ROWS, ROWS))
            gram += sine[:, None] * tl.gather(gram, across, 0) - shrink[:, None] * gram
            vectors += sine[:, None] * tl.gather(vectors, across, 0) - shrink[:, None] * vectors
            down = tl.broadcast_to(partner[None, :], (ROWS, ROWS))
            gram += sine[None, :] * tl.gather(gram, down, 1) - shrink[None, :] * gram
        turned = tl.max(turns.to(tl.int32), 0)
        sweep += 1
    # Rows that fill up come last, behind those that rounding has made less than nothing.
    energy = tl.where(live, tl.maximum(diagonal, 0.0), -1.0)
    ahead = (energy[None, :] > energy[:, None]) | ((energy[None, :] == energy[:, None]) & (row[None, :] < row[:, None]))
    place = tl.sum(ahead.to(tl.int32), 1)
    tl.store(rotations + matrix * ROWS * ROWS + place[:, None] * ROWS + row[None, :], vectors)
    if not FIRST:
        value = tl.sqrt(tl.maximum(energy, 0.0)) / tl.load(scales + matrix)
        tl.store(values + matrix * count + place, value, mask=place < count)


@triton.jit
def _rotate_kernel(
    rows,
    counts,
    scales,
    rotations,
    values,
    turned,
    count,
    width,
    matrix_stride,
    row_stride,
    column_stride,
    FIRST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program rotates some columns of one matrix, in place too: it has read them all before it writes any."""
    matrix = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, ROWS)
    column = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    live = tl.load(counts + matrix)
    scale = tl.load(scales + matrix)
    turned_tile = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, ROWS, 16):
        inner = start + tl.arange(0, 16)
        rotation = tl.load(rotations + matrix * ROWS * ROWS + row[:, None] * ROWS + inner[None, :])
        tile = tl.load(
            rows + matrix * matrix_stride + inner[:, None].to(tl.int64) * row_stride + column[None, :] * column_stride,
            mask=(inner[:, None] < live) & (column[None, :] < width),
            other=0.0,
        ).to(tl.float32)
        if FIRST:
            tile *= scale
        turned_tile += tl.dot(rotation, tile, input_precision="ieee")
    if not FIRST:
        length = tl.load(values + matrix * count + row, mask=row < count, other=0.0) * scale
        turned_tile = tl.where(length[:, None] > 0.0, turned_tile / tl.where(length > 0.0, length, 1.0)[:, None], 0.0)
    tl.store(
        turned + (matrix * count + row[:, None]) * width + column[None, :],
        turned_tile,
        mask=(row[:, None] < count) & (column[None, :] < width),
    )
