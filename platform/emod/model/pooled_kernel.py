"""`pooled_convolution` on a GPU, in Triton: filter, GELU and mean of each token's span, without the activation.

One program takes a few tokens of one electrode: their points, padded to a block, are filtered by one product of
matrices, activated, and averaged by another whose second factor says which point belongs to which token. The backward
pass filters again. Products run in the given precision (autocast's on a GPU) and are summed in float32.

It runs on a CPU too where TRITON_INTERPRET=1 is set before Triton is imported: `make test-triton`.
Shapes: B windows, C electrodes, P padded points, N tokens, D filters, K taps.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["PooledKernel"]

_POINTS = 128  # of a block
_TOKENS = 16  # the least side of a product
_TILES = 16  # blocks whose gradients one program of the backward pass sums


@triton.jit
def _patches(x_ptr, start_ptr, electrode, first, n_points, n_tokens, span, per_block, taps,
             BLOCK: tl.constexpr, TAPS: tl.constexpr):  # fmt: skip
    """(TAPS, BLOCK) points under each tap, the row after the last tap ones; and each point's token and place in it."""
    point = tl.arange(0, BLOCK)
    token, place = point // span, point % span
    inside = (token < per_block) & (first + token < n_tokens)
    start = tl.load(start_ptr + first + token, mask=inside, other=0)
    tap = tl.arange(0, TAPS)
    at = start[None, :] + place[None, :] + tap[:, None]
    mask = inside[None, :] & (tap[:, None] < taps) & (at < n_points)
    values = tl.load(x_ptr + electrode * n_points + at, mask=mask, other=0.0)
    return tl.where(tap[:, None] == taps, 1.0, values), token, place, inside


@triton.jit
def _membership(length_ptr, token, place, inside, first, BLOCK: tl.constexpr, TOKENS: tl.constexpr):
    """(BLOCK, TOKENS): one over the token's length where the point belongs to it."""
    length = tl.load(length_ptr + first + token, mask=inside, other=1)
    belongs = inside & (place < length)
    column = tl.arange(0, TOKENS)
    return tl.where(belongs[:, None] & (token[:, None] == column[None, :]), 1.0 / length[:, None], 0.0)


@triton.jit
def _forward(x_ptr, filter_ptr, start_ptr, length_ptr, out_ptr, n_electrodes, n_points, n_tokens, span, per_block, taps,
             FILTERS: tl.constexpr, BLOCK: tl.constexpr, TAPS: tl.constexpr, TOKENS: tl.constexpr,
             PRECISION: tl.constexpr, PRODUCTS: tl.constexpr):  # fmt: skip
    # In 64 bits, as everything computed from it: thousands of windows have more than 2**31 values.
    electrode, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * per_block
    window = electrode // n_electrodes
    patches, token, place, inside = _patches(
        x_ptr, start_ptr, electrode, first, n_points, n_tokens, span, per_block, taps, BLOCK, TAPS
    )
    feature, tap = tl.arange(0, FILTERS), tl.arange(0, TAPS)
    filters = tl.load(filter_ptr + (window * FILTERS + feature[:, None]) * TAPS + tap[None, :])
    before = tl.dot(filters.to(PRODUCTS), patches.to(PRODUCTS), input_precision=PRECISION)
    active = 0.5 * before * (1.0 + tl.erf(before * 0.7071067811865476))
    member = _membership(length_ptr, token, place, inside, first, BLOCK, TOKENS)
    pooled = tl.dot(active.to(PRODUCTS), member.to(PRODUCTS), input_precision=PRECISION)  # (FILTERS, TOKENS)
    column = tl.arange(0, TOKENS)
    there = (column < per_block) & (first + column < n_tokens)
    at = (electrode * n_tokens + first + column[None, :]) * FILTERS + feature[:, None]
    tl.store(out_ptr + at, pooled, mask=there[None, :])


@triton.jit
def _backward(x_ptr, filter_ptr, start_ptr, length_ptr, grad_ptr, out_ptr, n_electrodes, n_points, n_tokens, span,
              per_block, taps, n_blocks, n_programs,
              FILTERS: tl.constexpr, BLOCK: tl.constexpr, TAPS: tl.constexpr, TOKENS: tl.constexpr, TILES: tl.constexpr,
              PRECISION: tl.constexpr, PRODUCTS: tl.constexpr):  # fmt: skip
    window, program = tl.program_id(0).to(tl.int64), tl.program_id(1)
    feature, tap, column = tl.arange(0, FILTERS), tl.arange(0, TAPS), tl.arange(0, TOKENS)
    filters = tl.load(filter_ptr + (window * FILTERS + feature[:, None]) * TAPS + tap[None, :]).to(PRODUCTS)
    total = tl.zeros((FILTERS, TAPS), dtype=tl.float32)
    for tile in range(TILES):
        number = program * TILES + tile
        electrode = window * n_electrodes + number // n_blocks
        first = (number % n_blocks) * per_block
        # Beyond the last electrode no token is inside, and all that follows is zero.
        limit = tl.where(number < n_electrodes * n_blocks, n_tokens, 0)
        patches, token, place, inside = _patches(
            x_ptr, start_ptr, electrode, first, n_points, limit, span, per_block, taps, BLOCK, TAPS
        )
        before = tl.dot(filters, patches.to(PRODUCTS), input_precision=PRECISION)
        there = (column < per_block) & (first + column < limit)
        at = (electrode * n_tokens + first + column[None, :]) * FILTERS + feature[:, None]
        grad = tl.load(grad_ptr + at, mask=there[None, :], other=0.0)  # (FILTERS, TOKENS)
        member = _membership(length_ptr, token, place, inside, first, BLOCK, TOKENS)
        incoming = tl.dot(grad.to(PRODUCTS), tl.trans(member).to(PRODUCTS), input_precision=PRECISION)
        normal = 0.5 * (1.0 + tl.erf(before * 0.7071067811865476))
        slope = incoming * (normal + before * 0.3989422804014327 * tl.exp(-0.5 * before * before))
        total += tl.dot(slope.to(PRODUCTS), tl.trans(patches).to(PRODUCTS), input_precision=PRECISION)
    at = ((window * n_programs + program) * FILTERS + feature[:, None]) * TAPS + tap[None, :]
    tl.store(out_ptr + at, total)


class PooledKernel(torch.autograd.Function):
    """(B, C, P) padded signal, (B, D, K) filters, (B, D) biases, (N,) starts and lengths, longest -> (B, C, N, D).

    D is a power of two of at least 16, as Triton's blocks are. Sums of gradients have a fixed order.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, padded: Tensor, weight: Tensor, bias: Tensor, start: Tensor, length: Tensor, span: int,
        products: torch.dtype,
    ) -> Tensor:  # fmt: skip
        windows, electrodes, points = padded.shape
        _, width, taps = weight.shape
        filters = torch.zeros(windows, width, _block(taps + 1), device=padded.device)
        filters[:, :, :taps], filters[:, :, taps] = weight, bias
        tokens = len(start)
        block, per_block = _cut(span)
        out = torch.empty(windows, electrodes, tokens, width, device=padded.device)
        grid = (windows * electrodes, triton.cdiv(tokens, per_block))
        padded, start, length = padded.float().contiguous(), start.int(), length.int()
        _forward[grid](
            padded, filters, start, length, out, electrodes, points, tokens, span, per_block, taps,
            FILTERS=width, BLOCK=block, TAPS=filters.shape[2], TOKENS=_TOKENS, **_precision(products),
        )  # fmt: skip
        ctx.save_for_backward(padded, filters, start, length)
        ctx.taps, ctx.products, ctx.span = taps, products, span
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor, Tensor, None, None, None, None]:  # noqa: D102
        padded, filters, start, length = ctx.saved_tensors
        windows, electrodes, points = padded.shape
        _, width, rows = filters.shape
        tokens, taps = len(start), ctx.taps
        block, per_block = _cut(ctx.span)
        blocks = triton.cdiv(tokens, per_block)
        programs = triton.cdiv(electrodes * blocks, _TILES)
        parts = torch.empty(windows, programs, width, rows, device=padded.device)
        grad = grad_outputs[0].float().contiguous()
        _backward[(windows, programs)](
            padded, filters, start, length, grad, parts, electrodes, points, tokens, ctx.span, per_block, taps, blocks,
            programs, FILTERS=width, BLOCK=block, TAPS=rows, TOKENS=_TOKENS, TILES=_TILES, **_precision(ctx.products),
        )  # fmt: skip
        total = parts.sum(dim=1)
        return None, total[:, :, :taps], total[:, :, taps], None, None, None, None


def _block(least: int) -> int:
    return max(16, int(triton.next_power_of_2(least)))


def _cut(span: int) -> tuple[int, int]:
    """Points of a block, and how many tokens of that span fit into it."""
    block = max(_POINTS, _block(span))
    return block, min(_TOKENS, block // span)


def _precision(products: torch.dtype) -> dict[str, Any]:
    kinds = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
    return {"PRECISION": "ieee", "PRODUCTS": kinds[products]}
