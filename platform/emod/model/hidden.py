"""The second half of a feed-forward part in one pass: GELU, dropout, the linear map back.

Plain modules keep two more tensors of its hidden width, four times a token's, than the gradient needs.
Shapes: R tokens, F hidden features, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["contract_hidden"]

# Tokens in flight: with 512 hidden features some megabytes, which caches hold.
_TOKENS = 2048


def contract_hidden(hidden: Tensor, keep: Tensor | None, scale: float, weight: Tensor, bias: Tensor) -> Tensor:
    """(scale * keep * GELU(hidden)) @ weight.T + bias, keeping only its arguments for the backward pass.

    Args:
        hidden: (..., F) before GELU.
        keep: Which values stay, booleans of the same shape; None for all.
        scale: Of what stays.
        weight: (D, F).
        bias: (D,).

    Returns:
        (..., D).
    """
    if hidden.device.type != "cpu":  # where caches are no matter, and autocast chooses the precision
        active = torch.nn.functional.gelu(hidden)
        return torch.nn.functional.linear(active if keep is None else active * keep * scale, weight, bias)
    out: Tensor = _Contract.apply(hidden, keep, scale, weight, bias)  # type: ignore[no-untyped-call]
    return out


class _Contract(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, keep: Tensor | None, scale: float, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, keep, weight)
        ctx.scale = scale
        out = hidden.new_empty(*hidden.shape[:-1], len(bias))
        rows = out.view(-1, len(bias))
        for where, before, stays in _blocks(hidden, keep):
            torch.addmm(bias, _active(before, stays, scale), weight.T, out=rows[where])
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, Tensor, Tensor]:
        hidden, keep, weight = ctx.saved_tensors
        grad = grad_outputs[0].reshape(-1, len(weight))
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        rows = grad_hidden.view(-1, hidden.shape[-1])
        for where, before, stays in _blocks(hidden, keep):
            grad_weight.addmm_(grad[where].T, _active(before, stays, ctx.scale))
            slope = grad[where] @ weight
            if stays is not None:
                slope = torch.ops.aten.native_dropout_backward(slope, stays, ctx.scale)
            torch.ops.aten.gelu_backward(slope, before, grad_input=rows[where])
        return grad_hidden, None, None, grad_weight, grad.sum(dim=0)


def _active(before: Tensor, stays: Tensor | None, scale: float) -> Tensor:
    active = torch.nn.functional.gelu(before)
    return active if stays is None else torch.ops.aten.native_dropout_backward(active, stays, scale)


def _blocks(hidden: Tensor, keep: Tensor | None) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    rows = hidden.view(-1, hidden.shape[-1])
    stays = None if keep is None else keep.view(rows.shape)
    for first in range(0, len(rows), _TOKENS):
        where = slice(first, first + _TOKENS)
        yield where, rows[where], None if stays is None else stays[where]
