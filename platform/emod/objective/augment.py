"""Views of a window for instance discrimination (the paper's Augment), as its released code draws them.

Half of the time a window stays as it is; else one of three is drawn: Gaussian noise of a tenth of its standard
deviation, its electrodes in another order together with their names, or a span of a fifth of it set to zero. The
second changes nothing for this network, which knows electrodes by name, so it is left out: two windows in three stay
as they are. What a window gets is a function of its key alone.

Shapes: B windows, C electrodes, T samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from emod.model.dropout import GOLDEN, mix

__all__ = ["augment"]

NOISE_SD = 0.1
MASKED_SHARE = 0.2
_KINDS = 6  # of which three are none, and one is the order of electrodes
_NOISE, _MASK = 4, 5


def augment(windows: Tensor, keys: Tensor) -> Tensor:
    """One view of each window.

    Args:
        windows: (B, C, T).
        keys: (B,) int64.

    Returns:
        (B, C, T), new memory.
    """
    views = windows.clone()
    length = windows.shape[2]
    masked = round(MASKED_SHARE * length)
    for view, draw in zip(views, _words(keys, 2).tolist(), strict=True):
        kind = (draw[0] % 2**64) % _KINDS
        if kind == _NOISE:
            view += NOISE_SD * view.std(correction=0) * _gaussian(draw[1], view.numel()).view(view.shape).to(view)
        elif kind == _MASK:
            start = (draw[1] % 2**64) % (length - masked + 1)
            view[:, start : start + masked] = 0
    return views


def _words(keys: Tensor, count: int) -> Tensor:
    """(B, count) int64 words of each key's stream."""
    return mix(keys[:, None] + torch.arange(1, count + 1, device=keys.device) * GOLDEN)


def _gaussian(key: int, values: int) -> Tensor:
    """(values,) float32 standard normal, after Box and Muller (1958)."""
    words = _words(torch.tensor([key]), -(-values // 2))[0]
    uniform = (words.view(torch.int32).double() + 2**31 + 0.5) / 2**32  # inside 0 .. 1
    radius, angle = uniform.view(-1, 2).unbind(1)
    radius, angle = torch.sqrt(-2 * torch.log(radius)), 2 * math.pi * angle
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)])[:values].float()
