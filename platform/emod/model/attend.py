"""Multi-head self-attention of many short sequences: softmax(q k' / sqrt(W) + bias) v between its two linear maps.

On a GPU this is PyTorch's fused attention. On a CPU that one is slower than plain products for heads as narrow as
EMOD's (8 wide): such products spend their time in memory. There one head at a time is done for as many sequences as
caches hold, and queries, keys and values are computed with features outside and tokens inside, the layout in which
the products of a head have their long side inside (three times as fast) and nothing is copied.

Shapes: S sequences, L items attended over, D width, H heads, W width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["attend", "attend_fused"]

# Logits in flight: a megabyte.
_LOGITS = 2**18
# PyTorch's softmax takes shorter rows one value at a time, which is twenty times slower.
_LANES = 16


def attend(x: Tensor, qkv: nn.Linear, output: nn.Linear, heads: int, bias: Tensor | None) -> Tensor:
    """Attends over the L items of every sequence.

    Args:
        x: (S, L, D).
        qkv: D -> 3 D: queries, keys and values, each head after head.
        output: D -> D.
        heads: H, a divisor of D.
        bias: (H, L, L) added to the logits, or None.

    Returns:
        (S, L, D).
    """
    if x.device.type != "cpu":
        return attend_fused(x, qkv, output, heads, bias)
    weights = qkv.weight, qkv.bias, output.weight, output.bias
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *weights, bias))
    out: Tensor = _AttendInCache.apply(x, *weights, bias, heads, learns)  # type: ignore[no-untyped-call]
    return out


def attend_fused(x: Tensor, qkv: nn.Linear, output: nn.Linear, heads: int, bias: Tensor | None) -> Tensor:
    """`attend` by PyTorch's fused attention, in autocast's precision."""
    q, k, v = qkv(x).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # (3, S, H, L, W)
    mask = None if bias is None else bias.to(q.dtype)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    projected: Tensor = output(mixed.transpose(1, 2).flatten(2))
    return projected


class _AttendInCache(torch.autograd.Function):
    """Keeps queries, keys, values, probabilities and what the heads gave for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, shift: Tensor, out_weight: Tensor, out_shift: Tensor, bias: Tensor | None,
        heads: int, learns: bool,
    ) -> Tensor:  # fmt: skip
        count, length, width = x.shape
        rows = x.reshape(-1, width)
        scale = _scale(weight, heads)
        qkv = torch.addmm((scale * shift)[:, None], scale[:, None] * weight, rows.T)  # (3 D, S L)
        q, k, v = _by_head(qkv, 3 * heads, count).chunk(3)
        mixed = torch.empty_like(qkv[:width])
        mixed_by_head = _by_head(mixed, heads, count)
        kept = x.new_empty(heads, count, length, length) if learns else None
        for head, where in _blocks(heads, count, length):
            logits = torch.bmm(q[head, where].transpose(1, 2), k[head, where])
            if bias is not None:
                logits += bias[head]
            p = _softmax(logits, None if kept is None else kept[head, where])
            mixed_by_head[head, where] = torch.bmm(v[head, where], p.transpose(1, 2))
        ctx.save_for_backward(rows, weight, out_weight, qkv, mixed, kept)
        ctx.heads, ctx.has_bias = heads, bias is not None
        return torch.addmm(out_shift, mixed.T, out_weight.T).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, out_weight, qkv, mixed, kept = ctx.saved_tensors
        heads, count, length, _ = kept.shape
        q, k, v = _by_head(qkv, 3 * heads, count).chunk(3)
        grad = grad_outputs[0].reshape(rows.shape)
        grad_mixed = _by_head(out_weight.T @ grad.T, heads, count)
        grad_qkv = torch.empty_like(qkv)
        grad_q, grad_k, grad_v = _by_head(grad_qkv, 3 * heads, count).chunk(3)
        grad_bias = rows.new_zeros(heads, length, length) if ctx.has_bias else None
        for head, where in _blocks(heads, count, length):
            p, g = kept[head, where], grad_mixed[head, where]
            slope = _softmax_backward(torch.bmm(g.transpose(1, 2), v[head, where]), p)
            if grad_bias is not None:
                grad_bias[head] += slope.sum(dim=0)
            grad_q[head, where] = torch.bmm(k[head, where], slope.transpose(1, 2))
            grad_k[head, where] = torch.bmm(q[head, where], slope)
            grad_v[head, where] = torch.bmm(g, p)
        scale = _scale(weight, heads)
        return (
            (grad_qkv.T @ (scale[:, None] * weight)).view(count, length, -1),
            scale[:, None] * (grad_qkv @ rows),
            scale * grad_qkv.sum(dim=1),
            (mixed @ grad).T,
            grad.sum(dim=0),
            grad_bias,
            None,
            None,
        )


def _scale(weight: Tensor, heads: int) -> Tensor:
    """(3 D,): one over sqrt(W) for queries, one for keys and values."""
    width = weight.shape[1]
    scale = weight.new_ones(3 * width)
    scale[:width] = math.sqrt(heads / width)
    return scale


def _by_head(features: Tensor, heads: int, count: int) -> Tensor:
    """(H W, S L) -> (H, S, W, L), a view."""
    return features.view(heads, features.shape[0] // heads, count, -1).transpose(1, 2)


def _blocks(heads: int, count: int, length: int) -> Iterator[tuple[int, slice]]:
    """Head by head, ranges of sequences few enough for the caches."""
    step = max(1, _LOGITS // length**2)
    for head in range(heads):
        for first in range(0, count, step):
            yield head, slice(first, first + step)


def _softmax(logits: Tensor, out: Tensor | None) -> Tensor:
    """Over the last axis, in place where ``out`` is None."""
    out = logits if out is None else out
    if logits.shape[-1] >= _LANES:
        return torch.softmax(logits, -1, out=out)
    torch.sub(logits, logits.amax(dim=-1, keepdim=True), out=out).exp_()
    return out.div_(out.sum(dim=-1, keepdim=True))


def _softmax_backward(grad: Tensor, p: Tensor) -> Tensor:
    """Gradient of the logits from that of the probabilities."""
    if p.shape[-1] >= _LANES:
        return torch._softmax_backward_data(grad, p, -1, p.dtype)
    slope = grad * p
    return torch.addcmul(slope, p, slope.sum(dim=-1, keepdim=True), value=-1, out=slope)
