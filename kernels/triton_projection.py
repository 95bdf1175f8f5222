"""The Triton kernel of `projection`: a program owns some columns of the weight, and reads the chosen rows twice."""

import torch
import triton
import triton.language as tl
from chip.kernels.triton_options import FUSION, beside
from torch import Tensor


def project_rows_(weight: Tensor, rows: Tensor, basis: Tensor) -> None:
    """As `chip.kernels.project_rows_`."""
    rank, count = basis.shape
    columns = weight.shape[1]
    width, size = 32, max(16, triton.next_power_of_2(rank))
    dtype = torch.promote_types(weight.dtype, torch.float32)
    with beside(weight):
        _project_kernel[(triton.cdiv(columns, width),)](
            weight,
            rows.contiguous(),
            basis.to(dtype).contiguous(),
            rank,
            count,
            columns,
            *weight.stride(),
            RANK=size,
            ROWS=32 if size <= 32 else 16,
            COLUMNS=width,
            num_warps=4 if size <= 32 else 8,
            **FUSION,
        )


@triton.jit
def _project_kernel(
    weight,
    rows,
    basis,
    rank,
    count,
    columns,
    weight_row,
    weight_column,
    RANK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program takes some columns: their parts along the basis, then each chosen row less its share of them."""
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    direction = tl.arange(0, RANK)
    dtype = basis.dtype.element_ty
    parts = tl.zeros((RANK, COLUMNS), dtype)
    for start in range(0, count, ROWS):
        row = start + tl.arange(0, ROWS)
        there = row < count
        place = tl.load(rows + row, mask=there, other=0).to(tl.int64)
        tile = tl.load(
            weight + place[:, None] * weight_row + column[None, :] * weight_column,
            mask=there[:, None] & (column[None, :] < columns),
            other=0.0,
        ).to(dtype)
        part = tl.load(
            basis + direction[:, None] * count + row[None, :],
            mask=(direction[:, None] < rank) & there[None, :],
            other=0.0,
        )
        parts += tl.dot(part, tile, input_precision="ieee", out_dtype=dtype)
    for start in range(0, count, ROWS):
        row = start + tl.arange(0, ROWS)
        there = row < count
        place = tl.load(rows + row, mask=there, other=0).to(tl.int64)
        here = weight + place[:, None] * weight_row + column[None, :] * weight_column
        inside = there[:, None] & (column[None, :] < columns)
        part = tl.load(
            basis + direction[None, :] * count + row[:, None],
            mask=(direction[None, :] < rank) & there[:, None],
            other=0.0,
        )
        tile = tl.load(here, mask=inside, other=0.0).to(dtype)
        tile -= tl.dot(part, parts, input_precision="ieee", out_dtype=dtype)
        tl.store(here, tile.to(weight.dtype.element_ty), mask=inside)
