"""Dropout whose choice is a function of a key for each window, so that neither workers nor what ran before change it.

A window's key is drawn from torch's generator, or given by whoever wants a step repeated bit for bit. Each place
of the network mixes its number into the key; bits come from SplitMix64 (Steele, Lea and Flood 2014), a counter through
a mixing function, the same on every device and for any split of the batch. Sixteen bits a value: p is met to 1 / 65536.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

__all__ = ["GOLDEN", "WindowDropout", "draw_keys", "keep_mask", "mix"]

GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64
_WORDS = 2**14  # at a time: 128 kB
_COUNTER = np.arange(1, _WORDS + 1, dtype=np.uint64) * np.uint64(GOLDEN % 2**64)


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
    least = round(p * 2**16) - 2**15
    if keys.device.type != "cpu":
        return _keep_at_once(keys, values, least)
    keep = torch.empty(len(keys), values, dtype=torch.bool)
    for key, row in zip(keys.tolist(), keep.numpy(), strict=True):
        _fill(row, key, least)
    return keep


def _keep_at_once(keys: Tensor, values: int, least: int) -> Tensor:
    """`keep_mask` on a device that has memory for all words at a time."""
    words = torch.arange(1, math.ceil(values / 4) + 1, device=keys.device) * GOLDEN
    return mix(keys[:, None] + words).view(torch.int16)[:, :values] >= least


def _fill(keep: npt.NDArray[np.bool_], key: int, least: int) -> None:
    """`keep_mask` of one window: a few words at a time, by NumPy, which has unsigned shifts and fast comparisons."""
    for first in range(0, len(keep), 4 * _WORDS):
        part = keep[first : first + 4 * _WORDS]
        z = _COUNTER[: math.ceil(len(part) / 4)] + np.uint64((key + first // 4 * GOLDEN) % 2**64)
        shifted = np.empty_like(z)
        for shift, factor in ((30, _FIRST), (27, _SECOND), (31, 1)):
            np.right_shift(z, np.uint64(shift), out=shifted)
            z ^= shifted
            if factor != 1:
                z *= np.uint64(factor % 2**64)
        np.greater_equal(z.view(np.int16)[: len(part)], np.int16(least), out=part)


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

    def keep(self, shape: Sequence[int], keys: Tensor | None) -> Tensor | None:
        """Which values of a tensor of this shape, windows first, stay: int8, 1 or 0; None for all."""
        if not self.training or self.p == 0:
            return None
        assert keys is not None, "training draws keys"
        own = mix(keys + (self.place * GOLDEN + 2**63) % 2**64 - 2**63)
        # As numbers: PyTorch multiplies by those three times as fast as by booleans.
        return keep_mask(own, math.prod(shape[1:]), self.p).view(torch.int8).view(*shape)

    def forward(self, x: Tensor, keys: Tensor | None) -> Tensor:
        """(B, ...) and (B,) keys, which may be absent in evaluation -> (B, ...)."""
        keep = self.keep(x.shape, keys)
        return x if keep is None else x * keep * self.scale

    def add(self, tokens: Tensor, x: Tensor, keys: Tensor | None) -> Tensor:
        """``tokens + self(x, keys)`` with a pass less over memory."""
        keep = self.keep(x.shape, keys)
        return tokens + x if keep is None else torch.add(tokens, x * keep, alpha=self.scale)
