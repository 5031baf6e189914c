"""What sits on the backbone: attention pooling, the projection the loss sees, the valence-arousal head.

Nothing here gathers across ranks: the projection takes whatever rows it is given as its batch.
Shapes: B windows, C electrodes, N tokens, D width, P projection width, G groups.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emod.catalog.model import EmodConfig
from emod.model.dropout import WindowDropout


class AttentionPool(nn.Module):
    """Tokens -> one vector: softmax-weighted mean over electrodes at each token, then over tokens.

    Dropout acts on the weights, which are not rescaled to sum to one (the authors' code). The scores have no bias:
    softmax would ignore it.
    """

    def __init__(self, width: int, dropout: float, place: int = 0) -> None:
        super().__init__()
        self.electrode_score = nn.Linear(width, 1, bias=False)
        self.token_score = nn.Linear(width, 1, bias=False)
        self.dropouts = nn.ModuleList(WindowDropout(dropout, place + i) for i in range(2))

    def forward(self, tokens: Tensor, keys: Tensor | None = None) -> Tensor:
        """(B, C, N, D) and, in training, (B,) keys of the windows -> (B, D)."""
        for score, drop in zip((self.electrode_score, self.token_score), self.dropouts, strict=True):
            tokens = (drop(score(tokens).softmax(dim=1), keys) * tokens).sum(dim=1)
        return tokens


class GroupedBatchNorm(nn.BatchNorm1d):
    """BatchNorm whose training statistics are those of each row's own group.

    Per step the running statistics take the mean over groups of the groups' means and of their unbiased variances, so
    they do not depend on the order of rows or groups. They alone are used in evaluation.
    """

    def forward(self, input: Tensor, groups: Tensor | None = None) -> Tensor:
        """Normalise rows.

        Args:
            input: (B, D).
            groups: (B,) integer ids, >= 0; None is one group, i.e. plain BatchNorm. In training every group holds at
                least two rows.

        Returns:
            (B, D), row order kept.

        Raises:
            ValueError: In training, if a group is a single row.
        """
        if not self.training:
            return super().forward(input)
        if groups is None:
            groups = torch.zeros(len(input), dtype=torch.long, device=input.device)
        order = groups.argsort(stable=True)
        members = torch.split(input[order], [n for n in groups.bincount().tolist() if n > 0])
        if any(len(rows) < 2 for rows in members):
            raise ValueError("a group is a single row: batch statistics need more than 1 value")
        normalised = torch.cat([self._normalise(rows) for rows in members])
        self._track(torch.stack([rows.detach().mean(dim=0) for rows in members]).mean(dim=0), self.running_mean)
        self._track(torch.stack([rows.detach().var(dim=0) for rows in members]).mean(dim=0), self.running_var)
        return normalised[order.argsort()]

    def _normalise(self, rows: Tensor) -> Tensor:
        # Embeddings of one corpus share most of their value. There F.batch_norm loses digits: in single precision
        # the whole network's gradient was up to four times as far from the exact one.
        centred = rows - rows.mean(dim=0)
        normalised: Tensor = centred * torch.rsqrt(centred.square().mean(dim=0) + self.eps) * self.weight + self.bias
        return normalised

    def _track(self, statistic: Tensor, running: Tensor | None) -> None:
        assert running is not None
        assert self.momentum is not None
        running.lerp_(statistic.to(running.dtype), self.momentum)


class ProjectionHead(nn.Module):
    """Embeddings -> unit rows for the contrastive loss: Linear, BatchNorm, GELU, Linear, L2 norm.

    The authors' code runs it once per corpus and per GPU. Here its statistics are over the rows it is given (the
    global batch in training), per corpus or over all of them as ``projection_statistics`` says (project decision).
    """

    def __init__(self, config: EmodConfig) -> None:
        super().__init__()
        self.per_group = config.projection_statistics == "corpus"
        self.expand = nn.Linear(config.width, config.projection_hidden, bias=False)
        self.norm = GroupedBatchNorm(config.projection_hidden)
        self.contract = nn.Linear(config.projection_hidden, config.projection_width)

    def forward(self, embedding: Tensor, groups: Tensor | None = None) -> Tensor:
        """(B, D) and optional (B,) corpus ids -> (B, P) rows of length one."""
        hidden = self.norm(self.expand(embedding), groups if self.per_group else None)
        return F.normalize(self.contract(F.gelu(hidden)), dim=-1)


class PlaneHead(nn.Linear):
    """Embedding (B, D) -> (B, 2) valence and arousal in plane units; linear, so not confined to [-4, 4]."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 2)
