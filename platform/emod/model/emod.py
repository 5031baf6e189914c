"""The network: windows of any electrodes, length and sampling rate in; tokens, embedding and projection out.

It knows no ranks, no corpora and no labels. Shapes: B windows, C electrodes, T samples, N tokens, D width,
P projection width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from emod.catalog.model import EmodConfig
from emod.model.attention import PLACES, AxialLayer
from emod.model.dropout import draw_keys
from emod.model.electrodes import Electrode
from emod.model.heads import AttentionPool, ProjectionHead
from emod.model.in_parts import run_in_parts
from emod.model.tokenizer import TripleDomainEncoder

# Values of a layer that go through the network together on a CPU, a thousand tokens of the paper's width: with fewer
# the calls of operations would count.
_VALUES = 2**17


def count_tokens(n_samples: int, sfreq_hz: float, token_rate_hz: float = 5.0) -> int:
    """Number of tokens of a window: max(1, floor(token_rate_hz * n_samples / sfreq_hz)).

    Raises:
        ValueError: If ``sfreq_hz`` is not a positive number.
    """
    if not (math.isfinite(sfreq_hz) and sfreq_hz > 0):
        raise ValueError(f"sfreq_hz = {sfreq_hz}: give the sampling rate in Hz, above 0")
    # The margin: 18.4 * 375 / 100 is 69, but just below it in doubles.
    return max(1, math.floor(token_rate_hz * n_samples / sfreq_hz + 1e-9))


class Emod(nn.Module):
    """EEG windows -> tokens, embedding, projection (EMOD, AAAI 2026, arXiv 2511.05863).

    Reordering electrodes together with their names reorders ``tokens`` and leaves the other outputs unchanged.
    """

    def __init__(self, config: EmodConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = TripleDomainEncoder(config)
        self.transformer = nn.ModuleList(AxialLayer(config, number) for number in range(config.layers))
        self.pool = AttentionPool(config.width, config.pool_dropout, PLACES * config.layers)
        self.projection = ProjectionHead(config)

    def tokens(self, eeg: Tensor, channels: Sequence[Electrode], sfreq_hz: float, keys: Tensor | None = None) -> Tensor:
        """Run the backbone.

        Args:
            eeg: (B, C, T) floats, normalised; T >= 1, shorter than the kernel too.
            channels: C electrode names, shared by the batch; for an electrode without a row of its own, weights of
                names whose rows are added up (`emod.signal.montage.nearest_sites` gives such).
            sfreq_hz: Sampling rate of ``eeg``, > 0.
            keys: (B,) int64, what dropout draws each window's choices from, in training; None takes them from torch's
                generator.

        Returns:
            (B, C, N, D), N = ``count_tokens(T, sfreq_hz, config.token_rate_hz)``.

        Raises:
            ValueError: If ``eeg`` is empty, of another shape or not of the weights' precision, an electrode is unknown
                or given twice, the names are not one per electrode of ``eeg``, or ``sfreq_hz`` is not positive.
        """
        if eeg.ndim != 3 or 0 in eeg.shape:
            raise ValueError(
                f"eeg of shape {tuple(eeg.shape)}: give windows x electrodes x samples, at least one of each"
            )
        if eeg.dtype != self.encoder.fusion.weight.dtype:
            precision = str(self.encoder.fusion.weight.dtype).removeprefix("torch.")
            raise ValueError(f"eeg is {eeg.dtype}, the network {precision}: give eeg.to(torch.{precision})")
        if len(channels) != eeg.shape[1]:
            raise ValueError(f"channels: {len(channels)} names for {eeg.shape[1]} electrodes: give one name per row")
        n_tokens = count_tokens(eeg.shape[2], sfreq_hz, self.config.token_rate_hz)
        if keys is None and self.training:
            keys = draw_keys(len(eeg), eeg.device)
        tokens: Tensor = self.encoder(eeg, channels, n_tokens)
        for layer in self.transformer:
            tokens = layer(tokens, keys)
        return tokens

    def embed(self, eeg: Tensor, channels: Sequence[Electrode], sfreq_hz: float, keys: Tensor | None = None) -> Tensor:
        """Pool the tokens of each window; arguments as ``tokens``, returns (B, D) in the weights' precision.

        First derivatives only. On a CPU windows go through in parts, several at a time and without autocast, and hooks
        of modules see parts; for hooks, or gradients of what is inside, let ``eeg`` require a gradient, which keeps the
        batch whole.
        """
        if keys is None and self.training:
            keys = draw_keys(len(eeg), eeg.device)

        def embed_part(eeg: Tensor, keys: Tensor | None) -> Tensor:
            embedding: Tensor = self.pool(self.tokens(eeg, channels, sfreq_hz, keys), keys)
            return embedding.to(self.encoder.fusion.weight.dtype)  # autocast may leave it in another

        if eeg.device.type != "cpu" or eeg.requires_grad or eeg.ndim != 3 or 0 in eeg.shape:
            return embed_part(eeg, keys)
        n_tokens = eeg.shape[1] * count_tokens(eeg.shape[2], sfreq_hz, self.config.token_rate_hz)
        n_windows = max(1, _VALUES // (n_tokens * self.config.width))
        windows = torch.split(eeg, n_windows)
        own_keys = [None] * len(windows) if keys is None else torch.split(keys, n_windows)
        backbone = [p for part in (self.encoder, self.transformer, self.pool) for p in part.parameters()]
        return run_in_parts(embed_part, list(zip(windows, own_keys, strict=True)), backbone)

    def project(self, embedding: Tensor, groups: Tensor | None = None) -> Tensor:
        """Map embeddings to the sphere on which the contrastive loss compares them.

        In training its batch statistics are those of the rows given here; for statistics over all workers, gather
        the embeddings first.

        Args:
            embedding: (B, D).
            groups: (B,) integer corpus ids, >= 0, used in training if ``projection_statistics`` is "corpus"; None says
                that all rows are of one corpus.

        Returns:
            (B, P) rows of length one.

        Raises:
            ValueError: In training, if statistics would rest on a single row.
        """
        projection: Tensor = self.projection(embedding, groups)
        return projection

    def forward(self, eeg: Tensor, channels: Sequence[Electrode], sfreq_hz: float) -> Tensor:
        """``project(embed(...))`` of windows of one corpus: (B, C, T) -> (B, P) rows of length one."""
        return self.project(self.embed(eeg, channels, sfreq_hz))
