"""The triple-domain encoder against EMOD eq. 1-2 written out as loops in float64."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from emod.catalog.model import EmodConfig
from emod.model.tokenizer import ConvolutionBranch, TripleDomainEncoder
from emod.signal.montage import ELECTRODES

Array = npt.NDArray[np.float64]
TINY = EmodConfig(width=4, heads=2, groups=2, kernel=5, layers=1, feed_forward=8)
gelu = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))


def naive_branch(branch: ConvolutionBranch, x: Array, n_tokens: int) -> Array:
    """(C, L) -> (C, N, D) by the definitions of convolution, GroupNorm, GELU and adaptive mean."""
    taps = branch.convolution.weight.detach().numpy()[:, 0, 0]
    bias = branch.convolution.bias.detach().numpy()  # type: ignore[union-attr]
    gain, shift = branch.norm.weight.detach().numpy(), branch.norm.bias.detach().numpy()
    (n_electrodes, length), (width, kernel) = x.shape, taps.shape
    features = np.zeros((width, n_electrodes, length))
    for d in range(width):
        for c in range(n_electrodes):
            for t in range(length):
                features[d, c, t] = bias[d]
                for k in range(kernel):
                    at = t + k - (kernel - 1) // 2
                    if 0 <= at < length:
                        features[d, c, t] += taps[d, k] * x[c, at]
    per_group = width // branch.norm.num_groups
    for first in range(0, width, per_group):
        group = features[first : first + per_group]
        features[first : first + per_group] = (group - group.mean()) / math.sqrt(group.var() + 1e-5)
    features = gelu(features * gain[:, None, None] + shift[:, None, None])
    tokens = np.zeros((n_electrodes, n_tokens, width))
    for i in range(n_tokens):
        begin, end = math.floor(i * length / n_tokens), math.ceil((i + 1) * length / n_tokens)
        tokens[:, i] = features[:, :, begin:end].mean(axis=2).T
    return tokens


def naive_spectrum(x: Array) -> Array:
    """Real part of the DFT over non-negative frequencies, divided by T."""
    n = x.shape[1]
    return np.stack([(x * np.cos(2 * np.pi * f * np.arange(n) / n)).sum(axis=1) / n for f in range(n // 2 + 1)], axis=1)


@pytest.mark.parametrize(("n_samples", "n_tokens"), [(23, 4), (20, 5), (3, 2), (1, 1), (4, 7)])
def test_equals_the_equations(n_samples: int, n_tokens: int) -> None:
    torch.manual_seed(0)
    encoder = TripleDomainEncoder(TINY).double()
    for parameter in encoder.parameters():  # norms start at gain 1 and shift 0, which would hide a mistake
        torch.nn.init.normal_(parameter)
    eeg = torch.randn(2, 3, n_samples, dtype=torch.float64)
    channels = ("Cz", "fp1", "T3")

    got = encoder(eeg, channels, n_tokens).detach().numpy()

    weight, bias = encoder.fusion.weight.detach().numpy(), encoder.fusion.bias.detach().numpy()
    table = encoder.electrodes.table.weight.detach().numpy()
    rows = [ELECTRODES.index(name) for name in ("Cz", "Fp1", "T7")]
    for window, tokens in zip(eeg.numpy(), got, strict=True):
        both = np.concatenate(
            [
                naive_branch(encoder.temporal, window, n_tokens),
                naive_branch(encoder.spectral, naive_spectrum(window), n_tokens),
            ],
            axis=-1,
        )
        wanted = gelu(both @ weight.T + bias) + table[rows][:, None]
        np.testing.assert_allclose(tokens, wanted, rtol=1e-10, atol=1e-10)


def test_spectral_tokens_order_frequencies() -> None:
    """A slow and a fast cosine light up the first and the last spectral token."""
    branch = ConvolutionBranch(TINY)
    torch.nn.init.constant_(branch.convolution.weight, 1.0)
    time = torch.arange(100) / 100
    eeg = torch.stack([torch.cos(2 * torch.pi * f * time) for f in (2, 48)])[:, None]
    strength = branch(torch.fft.rfft(eeg, norm="forward").real, 5)[:, 0, :, 0]
    assert strength.argmax(dim=1).tolist() == [0, 4]
