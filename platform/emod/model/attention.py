"""The axial transformer: attention over electrodes, then over tokens, then feed-forward (EMOD eq. 3).

There is no attention between different electrodes at different times; it arises from the two axes in turn.
Dropout acts on the output of each residual branch and on the feed-forward's hidden units, as in the authors' code,
not on attention probabilities. Shapes: B windows, C electrodes, N tokens, S sequences of
L items attended over, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from emod.catalog.model import EmodConfig
from emod.model.attend import attend
from emod.model.dropout import WindowDropout
from emod.model.feed_forward import feed_forward

# Where a layer drops values: hidden units, and the output of each of its three branches.
PLACES = 4


class AxialAttention(nn.Module):
    """Multi-head self-attention over the items of each sequence.

    Args:
        width: D.
        heads: H, a divisor of D.
        max_offset: If given, logits of head h gain the learned bias R[h, clip(i - j, -max_offset, max_offset)] for
            query i and key j, so any length works. The paper writes R(i - j); one bias per head and offset is a
            project decision (the authors' code multiplies R with the query). R starts at zero: no preference.
    """

    def __init__(self, width: int, heads: int, max_offset: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.max_offset = max_offset
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        if max_offset is not None:
            self.offset_bias = nn.Parameter(torch.zeros(heads, 2 * max_offset + 1))

    def forward(self, x: Tensor) -> Tensor:
        """Mix the L items of every sequence; (S, L, D) -> (S, L, D)."""
        return attend(x, self.qkv, self.output, self.heads, self._bias(x.shape[1]))

    def _bias(self, length: int) -> Tensor | None:
        """(H, L, L) additive logits, or None on an axis without order."""
        if self.max_offset is None:
            return None
        position = torch.arange(length, device=self.offset_bias.device)
        offset = (position[:, None] - position).clamp(-self.max_offset, self.max_offset)
        return self.offset_bias[:, offset + self.max_offset]


class AxialLayer(nn.Module):
    """One pre-norm layer: over electrodes at each token, over tokens at each electrode, feed-forward (EMOD eq. 3)."""

    def __init__(self, config: EmodConfig, number: int = 0) -> None:
        super().__init__()
        spatial, temporal = config.without != "spatial_attention", config.without != "temporal_attention"
        max_offset = config.max_offset if config.without != "relative_encoding" else None
        self.spatial_norm = nn.LayerNorm(config.width) if spatial else None
        self.spatial = AxialAttention(config.width, config.heads) if spatial else None
        self.temporal_norm = nn.LayerNorm(config.width) if temporal else None
        self.temporal = AxialAttention(config.width, config.heads, max_offset) if temporal else None
        self.feed_forward_norm = nn.LayerNorm(config.width)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.width, config.feed_forward),
            nn.GELU(),
            WindowDropout(config.dropout, PLACES * number),
            nn.Linear(config.feed_forward, config.width),
        )
        self.dropouts = nn.ModuleList(WindowDropout(config.dropout, PLACES * number + i) for i in range(1, PLACES))

    def forward(self, tokens: Tensor, keys: Tensor | None = None) -> Tensor:
        """(B, C, N, D) and, in training, (B,) keys of the windows -> (B, C, N, D)."""
        drop_spatial, drop_temporal, drop_last = cast("Iterable[WindowDropout]", self.dropouts)
        expand, _, drop_hidden, contract = self.feed_forward
        assert isinstance(expand, nn.Linear)
        assert isinstance(contract, nn.Linear)
        assert isinstance(drop_hidden, WindowDropout)
        if self.spatial is not None and self.spatial_norm is not None:
            by_moment = self.spatial_norm(tokens).transpose(1, 2)
            mixed = self.spatial(by_moment.flatten(0, 1)).view(by_moment.shape).transpose(1, 2)
            tokens = drop_spatial.add(tokens, mixed, keys)
        if self.temporal is not None and self.temporal_norm is not None:
            by_electrode = self.temporal_norm(tokens).flatten(0, 1)
            tokens = drop_temporal.add(tokens, self.temporal(by_electrode).view(tokens.shape), keys)
        keep = drop_hidden.keep((*tokens.shape[:-1], expand.out_features), keys)
        fed = feed_forward(self.feed_forward_norm(tokens), expand, contract, keep, drop_hidden.scale)
        out: Tensor = drop_last.add(tokens, fed, keys)
        return out
