"""Raw windows -> tokens: the triple-domain encoder (time, spectrum, electrode) of EMOD eq. 1-2.

Does not normalise the signal and does not look at labels. Shapes: B windows, C electrodes, T samples, L points of a
branch's axis (samples or frequencies), N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emod.catalog.model import EmodConfig
from emod.model.electrodes import Electrode, ElectrodeEmbedding, check_electrodes
from emod.model.pooled_convolution import fold_norm, pooled_convolution, takes


class ConvolutionBranch(nn.Module):
    """Convolution along one axis, GroupNorm, GELU, then the mean of each of N spans (EMOD eq. 1 or 2)."""

    def __init__(self, config: EmodConfig) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, config.width, (1, config.kernel), padding="same")
        self.norm = nn.GroupNorm(config.groups, config.width)

    def forward(self, x: Tensor, n_tokens: int) -> Tensor:
        """Encode every electrode with the same filters.

        GroupNorm takes its statistics over all electrodes and points of a window, so electrodes keep their relative
        amplitudes. Span i covers floor(i L / N) .. ceil((i + 1) L / N).

        Args:
            x: (B, C, L).
            n_tokens: N >= 1; may exceed L, spans then repeat points.

        Returns:
            (B, C, N, D).
        """
        if not takes(x, self.convolution.out_channels, n_tokens):  # asked what an answer owes to the signal, say
            features = F.gelu(self.norm(self.convolution(x.unsqueeze(1))))
            return F.adaptive_avg_pool2d(features, (x.shape[1], n_tokens)).permute(0, 2, 3, 1)
        weight, bias = self.convolution.weight[:, 0, 0], self.convolution.bias
        assert bias is not None
        norm = self.norm
        folded = fold_norm(x, weight, bias, norm.weight, norm.bias, norm.num_groups, norm.eps)
        return pooled_convolution(x, *folded, n_tokens)


class TripleDomainEncoder(nn.Module):
    """Tokens of a window from its samples, its spectrum and the names of its electrodes (EMOD eq. 1-2)."""

    def __init__(self, config: EmodConfig) -> None:
        super().__init__()
        self.temporal = ConvolutionBranch(config) if config.without != "temporal_tokens" else None
        self.spectral = ConvolutionBranch(config) if config.without != "spectral_tokens" else None
        domains = (self.temporal is not None) + (self.spectral is not None)
        self.fusion = nn.Linear(domains * config.width, config.width)
        self.electrodes = ElectrodeEmbedding(config.width) if config.without != "electrode_embedding" else None

    def forward(self, eeg: Tensor, channels: Sequence[Electrode], n_tokens: int) -> Tensor:
        """Encode a batch of windows that share electrodes.

        The spectral half of token i is the i-th N-th of the spectrum, not a moment. The spectrum is the real part of
        the FFT divided by T, as in the authors' code.

        Args:
            eeg: (B, C, T), T >= 1.
            channels: C electrodes, as `ElectrodeEmbedding` takes them.
            n_tokens: N >= 1.

        Returns:
            (B, C, N, D).
        """
        domains = []
        if self.temporal is not None:
            domains.append(self.temporal(eeg, n_tokens))
        if self.spectral is not None:
            domains.append(self.spectral(torch.fft.rfft(eeg, norm="forward").real, n_tokens))
        tokens = F.gelu(self.fusion(torch.cat(domains, dim=-1)))
        if self.electrodes is None:
            check_electrodes(channels)  # unknown electrodes are refused all the same
            return tokens
        site: Tensor = self.electrodes(channels)
        return tokens + site.unsqueeze(1)
