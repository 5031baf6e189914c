"""Dropout whose choice is a function of a key for each window, so that neither workers nor what ran before change it.

A window's key is drawn from torch's generator, or given by whoever wants a step repeated bit for bit. Each place
of the network mixes its number into the key; bits come from SplitMix64 (Steele, Lea and Flood 2014), a counter through a
mixing function, the same on every device and for any split of the batch. Sixteen bits a value: p is met to 1 / 65536.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["GOLDEN", "WindowDropout", "draw_keys", "keep_mask", "mix"]

GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


def mix(counter: Tensor) -> Tensor:
    """SplitMix64's output function of int64 counters, in place; returns its argument."""
    # Torch shifts signs in; the masks make the shifts those of unsigned numbers.
    counter ^= (counter >> 30).bitwise_and_(2**34 - 1)
    counter *= _FIRST
    counter ^= (counter >> 27).bitwise_and_(2**37 - 1)
    counter *= _SECOND
    counter ^= (counter >> 31).bitwise_and_(2**33 - 1)
    return counter


def draw_keys(windows: int, device: torch.device) -> Tensor:
    """(windows,) int64 from torch's generator of the CPU."""
    return torch.randint(-(2**63), 2**63 - 1, (windows,)).to(device)


def keep_mask(keys: Tensor, values: int, p: float) -> Tensor:
    """Which of the values of each window stay.

    Args:
        keys: (B,) int64.
        values: In a window.
        p: Share that is dropped, in [0, 1).

    Returns:
        (B, values) booleans.
    """
    words = torch.arange(1, math.ceil(values / 4) + 1, device=keys.device) * GOLDEN
    least = round(p * 2**16) - 2**15
    if keys.device.type != "cpu":
        return mix(keys[:, None] + words).view(torch.int16)[:, :values] >= least
    keep = torch.empty(len(keys), values, dtype=torch.bool)
    for key, row in zip(keys.tolist(), keep, strict=True):  # one at a time stays in the caches
        torch.ge(mix(words + key).view(torch.int16)[:values], least, out=row)
    return keep


class WindowDropout(nn.Module):
    """Drops values and scales the rest by 1 / (1 - p), in training only.

    Args:
        p: In [0, 1).
        place: Number of this place in the network; each draws its own bits.
    """

    def __init__(self, p: float, place: int) -> None:
        super().__init__()
        self.p = p
        self.place = place

    @property
    def scale(self) -> float:
        """Of the values that stay."""
        return 1 / (1 - round(self.p * 2**16) / 2**16)

    def keep(self, x: Tensor, keys: Tensor | None) -> Tensor | None:
        """Which values of (B, ...) stay, booleans of its shape; None for all."""
        if not self.training or self.p == 0:
            return None
        assert keys is not None, "training draws keys"
        own = mix(keys + (self.place * GOLDEN + 2**63) % 2**64 - 2**63)
        return keep_mask(own, x[0].numel(), self.p).view(x.shape)

    def forward(self, x: Tensor, keys: Tensor | None) -> Tensor:
        """(B, ...) and (B,) keys, which may be absent in evaluation -> (B, ...)."""
        keep = self.keep(x, keys)
        return x if keep is None else _Drop.apply(x, keep, self.scale)  # type: ignore[no-untyped-call]


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        ctx.save_for_backward(keep)
        dropped: Tensor = torch.ops.aten.native_dropout_backward(x, keep, scale)  # x * keep * scale in one pass
        return dropped

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return torch.ops.aten.native_dropout_backward(grad_outputs[0], keep, ctx.scale), None, None
