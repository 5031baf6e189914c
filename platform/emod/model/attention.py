"""The axial transformer: attention over electrodes, then over tokens, then feed-forward (EMOD eq. 3).

There is no attention between different electrodes at different times; it arises from the two axes in turn.
Dropout acts on the output of each residual branch and on the feed-forward's hidden units, as in the authors' code,
not on attention probabilities. Shapes: B windows, C electrodes, N tokens, L items attended over, D width, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emod.catalog.model import EmodConfig


class AxialAttention(nn.Module):
    """Multi-head self-attention along the last but one axis; all axes before it are batch.

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
        """Mix the L items of every sequence; (..., L, D) -> (..., L, D)."""
        length, width = x.shape[-2:]
        q, k, v = self.qkv(x).view(-1, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self._bias(length))
        output: Tensor = self.output(mixed.transpose(1, 2).reshape(x.shape))
        return output

    def _bias(self, length: int) -> Tensor | None:
        """(H, L, L) additive logits, or None on an axis without order."""
        if self.max_offset is None:
            return None
        position = torch.arange(length, device=self.offset_bias.device)
        offset = (position[:, None] - position).clamp(-self.max_offset, self.max_offset)
        return self.offset_bias[:, offset + self.max_offset]


class AxialLayer(nn.Module):
    """One pre-norm layer: over electrodes at each token, over tokens at each electrode, feed-forward (EMOD eq. 3)."""

    def __init__(self, config: EmodConfig) -> None:
        super().__init__()
        self.spatial_norm = nn.LayerNorm(config.width)
        self.spatial = AxialAttention(config.width, config.heads)
        self.temporal_norm = nn.LayerNorm(config.width)
        self.temporal = AxialAttention(config.width, config.heads, config.max_offset)
        self.feed_forward_norm = nn.LayerNorm(config.width)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.width, config.feed_forward),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.feed_forward, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, C, N, D) -> (B, C, N, D)."""
        by_moment = self.spatial_norm(tokens).transpose(1, 2)
        tokens = tokens + self.dropout(self.spatial(by_moment)).transpose(1, 2)
        tokens = tokens + self.dropout(self.temporal(self.temporal_norm(tokens)))
        tokens = tokens + self.dropout(self.feed_forward(self.feed_forward_norm(tokens)))
        return tokens
