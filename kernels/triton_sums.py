"""Triton kernels of `sums`: every program owns what it writes, and adds in an order that the shapes alone decide.

No atomics: the same inputs give the same bytes. Offsets are 64-bit, since activations may have more than 2³¹ entries.
"""

import torch
import triton
import triton.language as tl
from chip.kernels.triton_options import FUSION, beside
from torch import Tensor

_TOKENS_A_PROGRAM = 512
"""Long rows are cut into pieces of this many tokens, so that one packed row can fill a device; a second step adds the
pieces up."""

_ELEMENTWISE = 4
"""Up to this many sums a row are multiplied out; more go through a matrix product."""

_SIXTEEN_BITS = (torch.bfloat16, torch.float16)


def pooled_sums(activations: Tensor, weights: Tensor, real: Tensor | None) -> Tensor:
    """As `chip.kernels.pooled_sums`."""
    pieces = _pieces(activations, weights, real)
    return pieces[0] if len(pieces) == 1 else pieces.sum(0)


def node_sums(pooled: Tensor, touched: Tensor, belongs: Tensor, total: Tensor, absolute: Tensor) -> None:
    """As `chip.kernels.node_sums`."""
    shares = torch.ones(len(pooled), 1, dtype=total.dtype, device=total.device)
    _add_to_nodes(pooled.contiguous()[None, :, None], shares, touched, belongs, total, absolute)


def pooled_node_sums(
    activations: Tensor,
    weights: Tensor,
    real: Tensor | None,
    shares: Tensor,
    touched: Tensor,
    belongs: Tensor,
    total: Tensor,
    absolute: Tensor,
) -> None:
    """As `chip.kernels.pooled_node_sums`."""
    _add_to_nodes(_pieces(activations, weights, real), shares.contiguous(), touched, belongs, total, absolute)


def second_moment(rows: Tensor, outer: Tensor, total: Tensor, chosen: Tensor | None) -> None:
    """As `chip.kernels.second_moment`."""
    inputs = rows.shape[1]
    tokens = len(rows) if chosen is None else len(chosen)
    tile = 64 if inputs > 32 else 32
    tiles = triton.cdiv(inputs, tile)
    with beside(outer):
        _second_moment_kernel[(tiles, tiles)](
            rows,
            rows if chosen is None else chosen.contiguous(),
            outer,
            total,
            tokens,
            inputs,
            *rows.stride(),
            *outer.stride(),
            total.stride(0),
            CHOSEN=chosen is not None,
            EXACT=rows.dtype in _SIXTEEN_BITS and outer.dtype == torch.float32,
            TILE=tile,
            TOKENS=32,
            num_warps=4,
            **FUSION,
        )


def _pieces(activations: Tensor, weights: Tensor, real: Tensor | None) -> Tensor:
    """The sums over each piece of the rows, (pieces, B, K, D)."""
    batch, tokens, outputs = activations.shape
    sums = weights.shape[1]
    pieces = max(1, triton.cdiv(tokens, _TOKENS_A_PROGRAM))
    dtype = torch.promote_types(activations.dtype, torch.float32)
    found = torch.empty(pieces, batch, sums, outputs, dtype=dtype, device=activations.device)
    if not found.numel():
        return found
    block = triton.next_power_of_2(sums) if sums <= _ELEMENTWISE else min(64, max(16, triton.next_power_of_2(sums)))
    numbers = torch.uint8 if weights.dtype == torch.bool else weights.dtype
    blanked = activations if real is None else real.view(torch.uint8)
    width = 128
    with beside(activations):
        _pooled_kernel[(triton.cdiv(outputs, width), pieces * triton.cdiv(sums, block), batch)](
            activations,
            weights.view(numbers),
            blanked,
            found,
            tokens,
            outputs,
            sums,
            pieces,
            *activations.stride(),
            *weights.stride(),
            *((0, 0) if real is None else real.stride()),
            PADDED=real is not None,
            PRODUCT=sums > _ELEMENTWISE,
            EXACT=weights.dtype == torch.bool and activations.dtype in _SIXTEEN_BITS,
            PIECE=_TOKENS_A_PROGRAM,
            TOKENS=32 if sums > _ELEMENTWISE else 16,
            OUTPUTS=width,
            SUMS=block,
            STAGES=4,
            num_warps=4,
            **FUSION,
        )
    return found


def _add_to_nodes(
    pieces: Tensor, shares: Tensor, touched: Tensor, belongs: Tensor, total: Tensor, absolute: Tensor
) -> None:
    count, rows, sums, outputs = pieces.shape
    if not len(touched) or not outputs:
        return
    width = 128
    with beside(total):
        _node_kernel[(triton.cdiv(outputs, width), len(touched))](
            pieces,
            shares,
            touched.contiguous(),
            belongs.to(torch.uint8).contiguous(),
            total,
            absolute,
            count,
            rows,
            sums,
            outputs,
            *total.stride(),
            *absolute.stride(),
            OUTPUTS=width,
            num_warps=1,
            **FUSION,
        )


@triton.jit
def _pooled_kernel(
    activations,
    weights,
    real,
    found,
    tokens,
    outputs,
    sums,
    pieces,
    activation_row,
    activation_token,
    activation_output,
    weight_row,
    weight_sum,
    weight_token,
    real_row,
    real_token,
    PADDED: tl.constexpr,
    PRODUCT: tl.constexpr,
    EXACT: tl.constexpr,
    PIECE: tl.constexpr,
    TOKENS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    SUMS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One program adds up one piece of one row: a tile of tokens by outputs is read once for all SUMS sums."""
    row = tl.program_id(2).to(tl.int64)
    piece = tl.program_id(1) % pieces
    which = (tl.program_id(1) // pieces) * SUMS + tl.arange(0, SUMS)
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    across = output.to(tl.int64) * activation_output
    dtype = found.dtype.element_ty
    added = tl.zeros((SUMS, OUTPUTS), dtype) if PRODUCT else tl.zeros((SUMS, TOKENS, OUTPUTS), dtype)
    first = piece * PIECE
    for start in tl.range(first, tl.minimum(first + PIECE, tokens), TOKENS, num_stages=STAGES):
        token = start + tl.arange(0, TOKENS)
        there = token < tokens
        weight = tl.load(
            weights + row * weight_row + which[:, None].to(tl.int64) * weight_sum + token[None, :] * weight_token,
            mask=(which[:, None] < sums) & there[None, :],
            other=0,
        ).to(dtype)
        tile = tl.load(
            activations + row * activation_row + token[:, None].to(tl.int64) * activation_token + across[None, :],
            mask=there[:, None] & (output[None, :] < outputs),
            other=0.0,
        )
        if PADDED:
            # Loaded all the same: waiting to know what is padding would cost more than reading it.
            counts = tl.load(real + row * real_row + token * real_token, mask=there, other=0) != 0
            tile = tl.where(counts[:, None], tile, 0.0)
        tile = tile.to(dtype)
        if PRODUCT:
            # 16-bit numbers and truth values are exact in tf32, so that its products are exact too.
            added += tl.dot(weight, tile, input_precision="tf32" if EXACT else "ieee", out_dtype=dtype)
        else:
            added += weight[:, :, None] * tile[None, :, :]
    result = added if PRODUCT else tl.sum(added, 1)
    place = ((piece.to(tl.int64) * tl.num_programs(2) + row) * sums + which[:, None]) * outputs + output[None, :]
    tl.store(found + place, result, mask=(which[:, None] < sums) & (output[None, :] < outputs))


@triton.jit
def _node_kernel(
    pieces,
    shares,
    touched,
    belongs,
    total,
    absolute,
    count,
    rows,
    sums,
    outputs,
    total_node,
    total_output,
    absolute_node,
    absolute_output,
    OUTPUTS: tl.constexpr,
):
    """One program adds up the rows of one node, in their order: a = Σ share · sum, then Σa and Σ|a|."""
    node = tl.load(touched + tl.program_id(1)).to(tl.int64)
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    inside = output < outputs
    dtype = total.dtype.element_ty
    plain = tl.zeros((OUTPUTS,), dtype)
    positive = tl.zeros((OUTPUTS,), dtype)
    for row in range(rows):
        if tl.load(belongs + tl.program_id(1).to(tl.int64) * rows + row) != 0:
            pooled = tl.zeros((OUTPUTS,), dtype)
            for one in range(sums):
                added = tl.zeros((OUTPUTS,), dtype)
                for piece in range(count):
                    place = ((tl.cast(piece, tl.int64) * rows + row) * sums + one) * outputs
                    added += tl.load(pieces + place + output, mask=inside, other=0.0).to(dtype)
                pooled += tl.load(shares + row * sums + one).to(dtype) * added
            plain += pooled
            positive += tl.abs(pooled)
    here = total + node * total_node + output * total_output
    tl.store(here, tl.load(here, mask=inside, other=0.0) + plain, mask=inside)
    here = absolute + node * absolute_node + output * absolute_output
    tl.store(here, tl.load(here, mask=inside, other=0.0) + positive, mask=inside)


@triton.jit
def _second_moment_kernel(
    rows,
    chosen,
    outer,
    total,
    tokens,
    inputs,
    row_token,
    row_input,
    outer_first,
    outer_second,
    total_input,
    CHOSEN: tl.constexpr,
    EXACT: tl.constexpr,
    TILE: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """One program computes one tile on or above the diagonal and adds it there and, mirrored, below."""
    if tl.program_id(1) >= tl.program_id(0):
        across = tl.program_id(0) * TILE + tl.arange(0, TILE)
        down = tl.program_id(1) * TILE + tl.arange(0, TILE)
        dtype = outer.dtype.element_ty
        added = tl.zeros((TILE, TILE), dtype)
        summed = tl.zeros((TOKENS, TILE), dtype)
        for start in range(0, tokens, TOKENS):
            token = start + tl.arange(0, TOKENS)
            there = token < tokens
            place = tl.load(chosen + token, mask=there, other=0) if CHOSEN else token
            place = rows + place[:, None].to(tl.int64) * row_token
            first = tl.load(
                place + across[None, :] * row_input, mask=there[:, None] & (across[None, :] < inputs), other=0.0
            ).to(dtype)
            second = tl.load(
                place + down[None, :] * row_input, mask=there[:, None] & (down[None, :] < inputs), other=0.0
            ).to(dtype)
            # 16-bit numbers are exact in tf32, so that their products are exact too.
            added += tl.dot(tl.trans(first), second, input_precision="tf32" if EXACT else "ieee", out_dtype=dtype)
            summed += first
        inside = (across[:, None] < inputs) & (down[None, :] < inputs)
        above = outer + across[:, None].to(tl.int64) * outer_first + down[None, :] * outer_second
        tl.store(above, tl.load(above, mask=inside, other=0.0) + added, mask=inside)
        if tl.program_id(1) > tl.program_id(0):
            below = outer + across[:, None] * outer_second + down[None, :].to(tl.int64) * outer_first
            tl.store(below, tl.load(below, mask=inside, other=0.0) + added, mask=inside)
        else:
            sums = total + across * total_input
            tl.store(sums, tl.load(sums, mask=across < inputs, other=0.0) + tl.sum(summed, 0), mask=across < inputs)
