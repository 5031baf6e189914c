"""EMOD's equations in plain PyTorch, one operation after the other: the reference of tests and of speed.

Frozen: written before anything was made fast, and imports nothing of the platform. It runs in the precision of its
parameters, so the same lines are the float64 reference of exactness and the float32 rival of the bench. Parameters
have the platform's names, so one's state dictionary loads into the other.

Shapes: B windows, C electrodes, T samples, L points of a branch's axis, N tokens, D width, H heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """The paper's network unless said otherwise."""

    width: int = 128
    layers: int = 3
    heads: int = 16
    feed_forward: int = 512
    kernel: int = 25
    groups: int = 4
    token_rate_hz: float = 5.0
    max_offset: int = 49
    dropout: float = 0.1
    pool_dropout: float = 0.25
    projection_width: int = 128
    projection_hidden: int = 512
    electrodes: int = 1


class Branch(nn.Module):
    """Convolution, GroupNorm, GELU, then the mean of each of N spans (EMOD eq. 1 or 2)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, sizes.width, (1, sizes.kernel), padding="same")
        self.norm = nn.GroupNorm(sizes.groups, sizes.width)

    def forward(self, x: Tensor, n_tokens: int) -> Tensor:
        """(B, C, L) -> (B, D, C, N)."""
        features = F.gelu(self.norm(self.convolution(x[:, None])))
        return F.adaptive_avg_pool2d(features, (x.shape[1], n_tokens))


class Encoder(nn.Module):
    """Temporal tokens, spectral tokens, electrodes (EMOD eq. 1-2)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.temporal = Branch(sizes)
        self.spectral = Branch(sizes)
        self.fusion = nn.Linear(2 * sizes.width, sizes.width)
        self.electrodes = nn.Module()
        self.electrodes.table = nn.Embedding(sizes.electrodes, sizes.width)

    def forward(self, eeg: Tensor, sites: Tensor, n_tokens: int) -> Tensor:
        """(B, C, T) and (C,) rows of the electrode table -> (B, C, N, D)."""
        spectrum = torch.fft.rfft(eeg, norm="forward").real
        both = torch.cat([self.temporal(eeg, n_tokens), self.spectral(spectrum, n_tokens)], dim=1)
        fused = F.gelu(self.fusion(both.permute(0, 2, 3, 1)))
        return fused + self.electrodes.table(sites)[None, :, None, :]


class Attention(nn.Module):
    """Multi-head attention by hand: logits, plus R(i - j) on the time axis, softmax, weighted sum."""

    def __init__(self, sizes: Sizes, *, temporal: bool) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.max_offset = sizes.max_offset
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width)
        self.output = nn.Linear(sizes.width, sizes.width)
        self.offset_bias = nn.Parameter(torch.zeros(sizes.heads, 2 * sizes.max_offset + 1)) if temporal else None

    def forward(self, x: Tensor) -> Tensor:
        """(sequences, L, D) -> (sequences, L, D)."""
        count, length, width = x.shape
        q, k, v = self.qkv(x).view(count, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-1, -2) / math.sqrt(width // self.heads)
        if self.offset_bias is not None:
            position = torch.arange(length, device=x.device)
            offset = (position[:, None] - position[None, :]).clamp(-self.max_offset, self.max_offset)
            logits = logits + self.offset_bias[:, offset + self.max_offset]
        mixed = logits.softmax(dim=-1) @ v
        return self.output(mixed.transpose(1, 2).reshape(count, length, width))


class Layer(nn.Module):
    """Pre-norm: over electrodes, over tokens, feed-forward (EMOD eq. 3)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.spatial_norm = nn.LayerNorm(sizes.width)
        self.spatial = Attention(sizes, temporal=False)
        self.temporal_norm = nn.LayerNorm(sizes.width)
        self.temporal = Attention(sizes, temporal=True)
        self.feed_forward_norm = nn.LayerNorm(sizes.width)
        self.feed_forward = nn.Sequential(
            nn.Linear(sizes.width, sizes.feed_forward),
            nn.GELU(),
            nn.Dropout(sizes.dropout),
            nn.Linear(sizes.feed_forward, sizes.width),
        )
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, C, N, D) -> (B, C, N, D)."""
        b, c, n, d = tokens.shape
        by_moment = self.spatial_norm(tokens).transpose(1, 2).reshape(b * n, c, d)
        mixed = self.spatial(by_moment).view(b, n, c, d).transpose(1, 2)
        tokens = tokens + self.dropout(mixed)
        by_electrode = self.temporal_norm(tokens).reshape(b * c, n, d)
        tokens = tokens + self.dropout(self.temporal(by_electrode).view(b, c, n, d))
        return tokens + self.dropout(self.feed_forward(self.feed_forward_norm(tokens)))


class Pool(nn.Module):
    """Softmax-weighted mean over electrodes, then over tokens; dropout on the weights."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.electrode_score = nn.Linear(sizes.width, 1, bias=False)
        self.token_score = nn.Linear(sizes.width, 1, bias=False)
        self.dropout = nn.Dropout(sizes.pool_dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, C, N, D) -> (B, D)."""
        by_token = (self.dropout(self.electrode_score(tokens).softmax(dim=1)) * tokens).sum(dim=1)
        return (self.dropout(self.token_score(by_token).softmax(dim=1)) * by_token).sum(dim=1)


class Projection(nn.Module):
    """Linear, BatchNorm over the rows of each corpus, GELU, Linear, L2 norm. Training only: no running statistics."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.expand = nn.Linear(sizes.width, sizes.projection_hidden, bias=False)
        self.norm = nn.BatchNorm1d(sizes.projection_hidden)
        self.contract = nn.Linear(sizes.projection_hidden, sizes.projection_width)

    def forward(self, embeddings: list[Tensor]) -> Tensor:
        """Embeddings of each corpus -> unit rows of all, in the same order."""
        parts = []
        for embedding in embeddings:
            hidden = self.expand(embedding)
            centred = hidden - hidden.mean(dim=0)
            normed = centred / torch.sqrt((centred**2).mean(dim=0) + self.norm.eps)
            parts.append(self.contract(F.gelu(normed * self.norm.weight + self.norm.bias)))
        z = torch.cat(parts)
        return z / torch.linalg.vector_norm(z, dim=1, keepdim=True)


class EagerEmod(nn.Module):
    """The whole network. One forward pass for each corpus, as the authors' code has it."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.encoder = Encoder(sizes)
        self.transformer = nn.Sequential(*(Layer(sizes) for _ in range(sizes.layers)))
        self.pool = Pool(sizes)
        self.projection = Projection(sizes)

    def tokens(self, eeg: Tensor, sites: Tensor, sfreq_hz: float) -> Tensor:
        """(B, C, T) -> (B, C, N, D)."""
        n_tokens = max(1, math.floor(self.sizes.token_rate_hz * eeg.shape[2] / sfreq_hz + 1e-9))
        return self.transformer(self.encoder(eeg, sites, n_tokens))

    def embed(self, eeg: Tensor, sites: Tensor, sfreq_hz: float) -> Tensor:
        """(B, C, T) -> (B, D)."""
        return self.pool(self.tokens(eeg, sites, sfreq_hz))

    def forward(self, corpora: list[tuple[Tensor, Tensor, float]]) -> Tensor:
        """Windows, electrode rows and rate of each corpus -> unit rows of all."""
        return self.projection([self.embed(*corpus) for corpus in corpora])


def contrastive_loss(z: Tensor, va: Tensor, temperature: float = 0.07, d_max: float = 5.0) -> Tensor:
    """EMOD eq. 5-6: (B, P) unit rows and (B, 2) points -> mean over anchors."""
    weights = (1 - torch.linalg.vector_norm(va[:, None] - va[None, :], dim=-1) / d_max).clamp(min=0)
    others = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    weights = weights * others
    similarity = torch.exp(z @ z.T / temperature) * others
    log_share = torch.log(similarity / similarity.sum(dim=1, keepdim=True) + (~others))
    total = weights.sum(dim=1)
    return (-(weights * log_share).sum(dim=1) / torch.where(total > 0, total, 1.0)).mean()
