"""Attention along one axis of a grid of tokens: softmax(q k' / sqrt(d) + bias) v.

On a GPU this is PyTorch's fused attention. On a CPU that one is slower than three plain products for heads as narrow
as EMOD's (8 wide), and those spend most of their time in memory; so there it is done for a few sequences at a time,
which caches hold, in the layout whose products have their long side inside (three times as fast for these shapes).

Shapes: O outer and I inner sequences, L items attended over, H heads, W width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attend"]

# Logits in flight: with 16 heads of 62 items, eight sequences or two megabytes.
_LOGITS = 2**19


def attend(qkv: Tensor, bias: Tensor | None) -> Tensor:
    """Attends over the L items of every one of the O x I sequences.

    Args:
        qkv: (O, L, I, 3, H, W) queries, keys and values.
        bias: (H, L, L) added to the logits, or None.

    Returns:
        (O, L, I, H, W).
    """
    if qkv.device.type == "cpu":
        out: Tensor = _AttendInCache.apply(qkv, bias)  # type: ignore[no-untyped-call]
        return out
    outer, length, inner, _, heads, width = qkv.shape
    q, k, v = qkv.permute(3, 0, 2, 4, 1, 5).flatten(1, 2)  # (3, O I, H, L, W)
    mask = None if bias is None else bias.to(q.dtype)
    mixed: Tensor = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return mixed.view(outer, inner, heads, length, width).permute(0, 3, 1, 2, 4)


class _AttendInCache(torch.autograd.Function):
    """A few sequences at a time; keeps the probabilities for the backward pass."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor | None) -> Tensor:
        outer, length, inner, _, heads, width = qkv.shape
        out = qkv.new_empty(outer, length, inner, heads, width)
        kept = qkv.new_empty(outer, inner, heads, length, length) if any(ctx.needs_input_grad) else None
        for where in _blocks(qkv):
            q, k, v = _heads(qkv, where)
            p = _probabilities(q, k, bias)
            if kept is not None:
                kept[where] = p.view(kept[where].shape)
            _place(out, where, torch.bmm(v, p.transpose(1, 2)))
        ctx.save_for_backward(qkv, kept)
        ctx.has_bias = bias is not None
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        qkv, kept = ctx.saved_tensors
        (grad,) = grad_outputs
        heads, width, length = qkv.shape[4], qkv.shape[5], qkv.shape[1]
        grad_qkv = torch.empty_like(qkv)
        grad_bias = qkv.new_zeros(heads, length, length) if ctx.has_bias else None
        for where in _blocks(qkv):
            q, k, v = _heads(qkv, where)
            p = kept[where].reshape(-1, length, length)
            g = _sequences(grad, where).reshape(-1, width, length)
            grad_p = torch.bmm(g.transpose(1, 2), v)
            slope = torch._softmax_backward_data(grad_p, p, -1, p.dtype)
            if grad_bias is not None:
                grad_bias += slope.view(-1, heads, length, length).sum(dim=0)
            for part, value in enumerate(
                (
                    torch.bmm(k, slope.transpose(1, 2)) / math.sqrt(width),
                    torch.bmm(q, slope),  # q is scaled already
                    torch.bmm(g, p),
                )
            ):
                _place(grad_qkv[:, :, :, part], where, value)
        return grad_qkv, grad_bias


def _blocks(qkv: Tensor) -> Iterator[tuple[slice, slice]]:
    """Ranges of outer and inner sequences, together few enough for the caches."""
    outer, length, inner, _, heads, _ = qkv.shape
    sequences = max(1, _LOGITS // (heads * length * length))
    tall, wide = max(1, sequences // inner), min(inner, sequences)
    for o in range(0, outer, tall):
        for i in range(0, inner, wide):
            yield slice(o, o + tall), slice(i, i + wide)


def _sequences(grid: Tensor, where: tuple[slice, slice]) -> Tensor:
    """(O, L, I, ..., H, W) of a block -> (o, i, ..., H, W, L): one sequence after the other."""
    block = grid[where[0], :, where[1]]
    return block.transpose(1, 2).movedim(2, -1)


def _heads(qkv: Tensor, where: tuple[slice, slice]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, divided by sqrt(W), keys and values of a block, each (o i H, W, L)."""
    width, length = qkv.shape[5], qkv.shape[1]
    q, k, v = _sequences(qkv, where).unbind(2)
    shape = (-1, width, length)
    return (q / math.sqrt(width)).reshape(shape), k.reshape(shape), v.reshape(shape)


def _probabilities(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """(o i H, L, L)."""
    logits = torch.bmm(q.transpose(1, 2), k)
    if bias is not None:
        logits.view(-1, *bias.shape).add_(bias)
    return torch._softmax(logits, -1, False)


def _place(grid: Tensor, where: tuple[slice, slice], block: Tensor) -> None:
    """(o i H, W, L) into the block of an (O, L, I, H, W) grid."""
    place = grid[where[0], :, where[1]]
    o, length, i, heads, width = place.shape
    place.copy_(block.view(o, i, heads, width, length).permute(0, 4, 1, 2, 3))
