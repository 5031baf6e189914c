"""The fine-tuned network: a backbone, normalised features and the paper's "simple linear classifier".

Does not compute a loss and does not name classes. With two outputs it places windows on the plane as well. Shapes: B
windows, C electrodes, T samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from emod.model.electrodes import Electrode
from emod.model.emod import Emod
from emod.model.heads import PlaneHead


class EmodClassifier(nn.Module):
    """Attention-pooled embedding -> BatchNorm -> dropout -> Linear.

    The normalisation is a project decision. Windows of one montage share most of their embedding, the differences are
    some 3 % of it, and a bare linear layer on that hardly learned: on simulated SEED-IV with a strong effect, 8 epochs
    left its training loss at chance (1.38), with BatchNorm it came to 0.6.

    The backbone's projection head takes no part: its parameters get no gradient.
    """

    def __init__(self, backbone: Emod, n_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Sequential(
            nn.BatchNorm1d(backbone.config.width),
            nn.Dropout(backbone.config.pool_dropout),
            nn.Linear(backbone.config.width, n_classes),
        )

    def forward(self, eeg: Tensor, channels: Sequence[Electrode], sfreq_hz: float) -> Tensor:
        """(B, C, T) windows, arguments as ``Emod.tokens`` -> (B, K) logits."""
        logits: Tensor = self.head(self.backbone.embed(eeg, channels, sfreq_hz))
        return logits

    def plane_head(self) -> PlaneHead:
        """The head in evaluation mode as one linear layer, of a network with two outputs: valence and arousal."""
        norm, _, linear = self.head
        assert isinstance(norm, nn.BatchNorm1d)
        assert isinstance(linear, nn.Linear)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        folded = PlaneHead(linear.in_features)
        with torch.no_grad():
            folded.weight.copy_(linear.weight * gain)
            folded.bias.copy_(linear.bias + linear.weight @ (norm.bias - gain * norm.running_mean))
        return folded.eval()
