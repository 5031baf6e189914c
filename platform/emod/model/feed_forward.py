"""The feed-forward part in one pass: linear map, GELU, dropout, linear map back.

Plain modules make every tensor of the hidden width, four times a token's, at full length, and keep three of them; here
a few hundred tokens go through at a time, which caches hold, and one is kept.
Shapes: R tokens, F hidden features, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["feed_forward", "feed_forward_plain"]

# Tokens in flight: with 512 hidden features a megabyte.
_TOKENS = 512


def feed_forward(x: Tensor, expand: nn.Linear, contract: nn.Linear, keep: Tensor | None, scale: float) -> Tensor:
    """contract(scale * keep * GELU(expand(x))), without scale where all stay.

    Args:
        x: (..., D).
        expand: D -> F.
        contract: F -> D.
        keep: (..., F), 1 for hidden values that stay and 0 for others; None for all.
        scale: Of what stays where some do not.

    Returns:
        (..., D).
    """
    if x.device.type != "cpu":  # where caches are no matter
        return feed_forward_plain(x, expand, contract, keep, scale)
    scale = 1.0 if keep is None else scale
    weights = expand.weight, expand.bias, contract.weight, contract.bias
    learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *weights))
    out: Tensor = _FeedForward.apply(x, keep, scale, learns, *weights)  # type: ignore[no-untyped-call]
    return out


def feed_forward_plain(x: Tensor, expand: nn.Linear, contract: nn.Linear, keep: Tensor | None, scale: float) -> Tensor:
    """`feed_forward` by plain modules, in autocast's precision."""
    active = F.gelu(expand(x))
    projected: Tensor = contract(active if keep is None else active * keep * scale)
    return projected


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, keep: Tensor | None, scale: float, learns: bool, weight: Tensor, shift: Tensor,
        out_weight: Tensor, out_shift: Tensor,
    ) -> Tensor:  # fmt: skip
        rows = x.reshape(-1, x.shape[-1])
        keep = None if keep is None else keep.view(len(rows), -1)
        hidden = rows.new_empty(len(rows), len(weight)) if learns else None
        out = rows.new_empty(len(rows), len(out_weight))
        for where in _blocks(len(rows)):
            before = torch.addmm(shift, rows[where], weight.T, out=None if hidden is None else hidden[where])
            torch.addmm(out_shift, _active(before, keep, where), out_weight.T, alpha=scale, out=out[where])
        ctx.save_for_backward(rows, hidden, keep, weight, out_weight)
        ctx.scale = scale
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        rows, hidden, keep, weight, out_weight = ctx.saved_tensors
        grad = grad_outputs[0].reshape(len(rows), -1)
        grad_rows, grad_shift = torch.empty_like(rows), weight.new_zeros(len(weight))
        grad_weight, grad_out_weight = torch.zeros_like(weight), torch.zeros_like(out_weight)
        scaled = ctx.scale * out_weight
        for where in _blocks(len(rows)):
            grad_out_weight.addmm_(grad[where].T, _active(hidden[where], keep, where), alpha=ctx.scale)
            slope = grad[where] @ scaled
            if keep is not None:
                slope *= keep[where]
            torch.ops.aten.gelu_backward(slope, hidden[where], grad_input=slope)
            torch.mm(slope, weight, out=grad_rows[where])
            grad_weight.addmm_(slope.T, rows[where])
            grad_shift += slope.sum(dim=0)
        grad_x = grad_rows.view(*grad_outputs[0].shape[:-1], -1)
        return grad_x, None, None, None, grad_weight, grad_shift, grad_out_weight, grad.sum(dim=0)


def _active(before: Tensor, keep: Tensor | None, where: slice) -> Tensor:
    active = F.gelu(before)
    return active if keep is None else active.mul_(keep[where])


def _blocks(rows: int) -> Iterator[slice]:
    for first in range(0, rows, _TOKENS):
        yield slice(first, first + _TOKENS)
