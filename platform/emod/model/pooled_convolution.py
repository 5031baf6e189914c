"""Convolution, GroupNorm, GELU and the mean of each token's span in one pass, without the activation between them.

The activation of a window of 62 x 2000 has 16 million values. Nothing needs them all at once:

- GroupNorm's statistics of a convolution with K taps follow from two moments of the input's patches, their mean and
  their K x K second moment, so normalisation folds into the filters, window by window (`fold_norm`).
- What is left, filter, GELU and mean, is done for a few thousand points at a time, and again in the backward pass
  (`_Pooled`).

Shapes: B windows, C electrodes, L points of a branch's axis, N tokens, D filters, K taps, S points of the longest span.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["fold_norm", "pooled_convolution", "takes", "token_spans"]

_LONGEST_SPAN = 256

# Values in flight, patches and filtered: a megabyte, 2048 points of the paper's 25 taps and 128 filters.
_VALUES = 2048 * (26 + 128)


def takes(x: Tensor, filters: int, n_tokens: int) -> bool:
    """Whether `pooled_convolution` does: it gives the signal no gradient, and Triton wants powers of two, and spans
    that fit into a block (200 points at 1000 Hz and five tokens a second)."""
    power_of_two = filters >= 16 and filters & (filters - 1) == 0
    fits = x.shape[2] <= (_LONGEST_SPAN - 1) * n_tokens
    return not x.requires_grad and (x.device.type == "cpu" or (x.is_cuda and power_of_two and fits))


def token_spans(n_points: int, n_tokens: int) -> tuple[Tensor, Tensor]:
    """First point and length of each token's span: floor(i L / N) .. ceil((i + 1) L / N); two (N,) integer tensors."""
    token = torch.arange(n_tokens)
    start = token * n_points // n_tokens
    return start, -(-(token + 1) * n_points // n_tokens) - start


def fold_norm(
    x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, offset: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor]:
    """The filters that give the group-normalised convolution of each window directly.

    With patches p of x (zeros beyond the ends), the convolution is y_d = w_d . p + b_d, so over all electrodes and
    points mean(y_d) = w_d . m + b_d and mean(y_d^2) = w_d' M w_d + 2 b_d w_d . m + b_d^2 where m = mean(p) and
    M = mean(p p').

    Args:
        x: (B, C, L).
        weight: (D, K).
        bias: (D,).
        gain: (D,) of the norm.
        offset: (D,) of the norm.
        groups: Of the norm, a divisor of D.
        eps: Of the norm.

    Returns:
        (B, D, K) filters and (B, D) biases, in the dtype of x.
    """
    taps = weight.shape[1]
    # A variance as a difference of means wants the digits; these tensors are small.
    first, second = _patch_moments(_pad(x, taps).double(), taps)
    w, b = weight.double(), bias.double()
    level = first @ w.T  # (B, D): w_d . m
    power = torch.einsum("dk,bkj,dj->bd", w, second, w) + (2 * level + b) * b
    level = level + b
    mean = level.view(len(x), groups, -1).mean(dim=2)
    variance = power.view(len(x), groups, -1).mean(dim=2) - mean**2
    width = weight.shape[0] // groups
    scale = gain.double() * torch.rsqrt(variance.clamp(min=0) + eps).repeat_interleave(width, dim=1)
    shift = scale * (b - mean.repeat_interleave(width, dim=1)) + offset.double()
    return (scale[:, :, None] * w).to(x.dtype), shift.to(x.dtype)


def pooled_convolution(x: Tensor, weight: Tensor, bias: Tensor, n_tokens: int) -> Tensor:
    """Mean over each token's span of GELU(filters * x): one pass, differentiable in the filters only.

    Args:
        x: (B, C, L); no gradient flows to it.
        weight: (B, D, K), each window's own filters.
        bias: (B, D).
        n_tokens: N >= 1; may exceed L, spans then repeat points.

    Returns:
        (B, C, N, D).
    """
    taps, n_points = weight.shape[2], x.shape[2]
    start, length = token_spans(n_points, n_tokens)
    if x.is_cuda:
        from emod.model.pooled_kernel import PooledKernel  # Triton comes with PyTorch for GPUs only

        products = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else torch.float32
        out: Tensor = PooledKernel.apply(  # type: ignore[no-untyped-call]
            _pad(x, taps), weight, bias, start.to(x.device), length.to(x.device), int(length.max()), products
        )
        return out
    span = int(length.max())
    # Row j of the strips holds the j-th point of every token's span, so taps and points are both slices of rows.
    point = (start + torch.arange(span + taps - 1)[:, None]).clamp(max=n_points + taps - 2)
    strips = _pad(x, taps)[:, :, point.to(x.device)].transpose(1, 2).contiguous()  # (B, S + K - 1, C, N)
    pooled: Tensor = _Pooled.apply(strips, weight, bias, length.to(x.device))  # type: ignore[no-untyped-call]
    return pooled


def _pad(x: Tensor, taps: int) -> Tensor:
    return F.pad(x, ((taps - 1) // 2, taps // 2))


@torch.no_grad()
def _patch_moments(padded: Tensor, taps: int) -> tuple[Tensor, Tensor]:
    """(B, K) means and (B, K, K) second moments of all patches of each window, from P padded points.

    Moving both taps by one point drops the product at one end and takes in one at the other, so that all K x K sums
    follow from those of the first tap with every tap, and from the K - 1 points at either end.
    """
    n_points = padded.shape[2] - taps + 1
    count = padded.shape[1] * n_points
    head, tail = padded[:, :, : taps - 1], padded[:, :, n_points:]
    change = F.pad((tail - head).sum(dim=1), (1, 0)).cumsum(dim=1)
    means = (padded[:, :, :n_points].sum(dim=(1, 2))[:, None] + change) / count

    size = -(-(padded.shape[2] + taps) // 256) * 256  # no lag wraps around; a length whose transform is fast
    spectrum = torch.fft.rfft(padded, n=size)
    first = torch.fft.rfft(padded[:, :, :n_points], n=size)
    from_first = torch.fft.irfft((first.conj() * spectrum).sum(dim=1), n=size)[:, :taps]  # (B, K): lag d

    change = tail.transpose(1, 2) @ tail - head.transpose(1, 2) @ head  # (B, K - 1, K - 1)
    tap = torch.arange(taps, device=padded.device)
    lag, least = (tap[:, None] - tap).abs(), torch.minimum(tap[:, None], tap)
    along = F.pad(change, (0, taps, 0, 1))  # row t, column t + d; zeros where there is no such pair
    by_lag = along[:, tap, tap + tap[:, None]]  # (B, lag, t)
    before = F.pad(by_lag, (1, 0)).cumsum(dim=2)  # (B, lag, i): all moves up to tap i
    return means, (from_first[:, lag] + before[:, lag, least]) / count


class _Pooled(torch.autograd.Function):
    """GELU of filtered strips, averaged over rows; the backward pass filters them again."""

    @staticmethod
    def forward(ctx: Any, strips: Tensor, weight: Tensor, bias: Tensor, length: Tensor) -> Tensor:
        ctx.save_for_backward(strips, weight, bias, length)
        filters = _filters(weight, bias)
        windows, _, electrodes, tokens = strips.shape
        out = strips.new_zeros(windows, electrodes, tokens, weight.shape[1])
        for window, where, patches, overhang in _blocks(strips, weight, length):
            active = patches.flatten(1).T @ filters[window]
            torch.ops.aten.gelu_(active)
            active = active.view(patches.shape[1], -1, active.shape[1])
            summed = active.sum(dim=0)
            if overhang is not None:
                summed -= active[-1] * overhang
            out[window, where] += summed.view(-1, tokens, summed.shape[1])
        return out.div_(length[:, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor, Tensor, None]:
        strips, weight, bias, length = ctx.saved_tensors
        filters = _filters(weight, bias)
        grad = grad_outputs[0] / length[:, None]
        grad_filters = torch.zeros_like(filters)
        for window, where, patches, overhang in _blocks(strips, weight, length):
            before = (patches.flatten(1).T @ filters[window]).view(patches.shape[1], -1, weight.shape[1])
            incoming = grad[window, where].reshape(before.shape[1:]).expand_as(before)
            slope = torch.ops.aten.gelu_backward(incoming, before)
            if overhang is not None:
                slope[-1] *= 1 - overhang
            grad_filters[window].addmm_(patches.flatten(1), slope.flatten(0, 1))
        grad_filters = grad_filters.transpose(1, 2)
        return None, grad_filters[:, :, :-1], grad_filters[:, :, -1], None


def _filters(weight: Tensor, bias: Tensor) -> Tensor:
    """(B, K + 1, D): the last tap meets a row of ones."""
    return torch.cat([weight, bias[:, :, None]], dim=2).transpose(1, 2).contiguous()


def _blocks(strips: Tensor, weight: Tensor, length: Tensor) -> Any:
    """(window, electrodes, (K + 1, rows, c, N) patches, overhang) of blocks of strips that caches hold.

    Spans differ by a point; ``overhang`` (c N, 1) is 1 where the block's last row is beyond a token's span, else None.
    """
    windows, rows, electrodes, tokens = strips.shape
    _, filters, taps = weight.shape
    span = rows - taps + 1
    points = _VALUES // (taps + 1 + filters)
    height = min(electrodes, max(1, points // (tokens * span)))
    depth = min(span, max(1, points // (tokens * height)))
    beyond = (length < span).to(strips.dtype)
    uneven = bool(beyond.any())
    for window in range(windows):
        for top in range(0, electrodes, height):
            where = slice(top, min(electrodes, top + height))
            n_electrodes = where.stop - top
            for first in range(0, span, depth):
                last = min(span, first + depth)
                patches = strips.new_ones(taps + 1, last - first, n_electrodes, tokens)
                view = strips[window, first : last + taps - 1, where].unfold(0, taps, 1)
                patches[:taps] = view.permute(3, 0, 1, 2)
                overhang = beyond.repeat(n_electrodes)[:, None] if uneven and last == span else None
                yield window, where, patches, overhang
