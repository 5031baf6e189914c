"""Epochs of fine-tuning a classifier on one corpus. It knows no Ray.

Shapes: n windows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from emod.catalog import FinetuneSettings
from emod.errors import DataError
from emod.evaluation import Scores, Split, Target, score
from emod.model import Emod, EmodClassifier
from emod.shards import ShardStore

__all__ = ["EpochReport", "Finetuner", "new_classifier", "predict"]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EpochReport:
    """What one pass over the training windows did: their mean loss, and the scores of the validation windows."""

    loss: float
    validation: Scores


class Finetuner:
    """Classifier, optimiser and schedule; remembers the epoch with the best validation kappa. Never sees a test window.

    Args:
        backbone: Where it starts; a copy is trained.
        store: Where the windows are.
        settings: Which corpus, and the schedule.
        target: Classes of its windows.
        split: Which of them train and which choose the epoch.
        seed: Of the head's weights, of the order of windows and of dropout.
        device: Where to compute.

    Attributes:
        classifier: As the last epoch left it.
        best: Its weights after the best epoch.
        best_epoch: Counted from 1; 0 before the first.
        best_kappa: Validation kappa of that epoch.
        next_epoch: Counted from 0.
    """

    def __init__(
        self,
        backbone: Emod,
        store: ShardStore,
        settings: FinetuneSettings,
        target: Target,
        split: Split,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self._store, self._settings, self._target, self._split = store, settings, target, split
        self._seed, self._device = seed, device
        torch.manual_seed(seed)
        self.classifier = new_classifier(backbone, target, settings).to(device)
        self.optimiser = _new_optimiser(self.classifier, settings)
        self.best: dict[str, Tensor] = copy.deepcopy(self.classifier.state_dict())
        self.best_epoch, self.best_kappa, self.next_epoch = 0, -2.0, 0

    def epochs(self) -> Iterator[EpochReport]:
        """Runs from ``next_epoch`` to the last.

        Raises:
            DataError: If the gradient is not finite.
        """
        while self.next_epoch < self._settings.epochs:
            loss = self.train_epoch(self._split.train)
            rows = self._split.validation
            predicted = predict(self.classifier, self._store, self._settings.corpus, rows, self._settings.batch)
            scores = score(self._target.codes[rows], predicted, self._target.classes)
            self.next_epoch += 1
            # Of equal epochs the later one, which has seen more: small validation sets tie at zero for a while.
            if scores.kappa >= self.best_kappa:
                self.best = copy.deepcopy(self.classifier.state_dict())
                self.best_epoch, self.best_kappa = self.next_epoch, scores.kappa
            yield EpochReport(loss, scores)

    def train_epoch(self, rows: Rows) -> float:
        """One pass over these windows in an order that depends on (seed, next_epoch) alone; returns the mean loss."""
        settings, epoch = self._settings, self.next_epoch
        generator = np.random.default_rng([self._seed, epoch])
        torch.manual_seed(int(generator.integers(2**63)))
        order = generator.permutation(rows)
        batches = [part for part in np.array_split(order, max(1, round(len(order) / settings.batch))) if part.size]
        channels, sfreq_hz = self._store.channels(settings.corpus), self._store.sfreq_hz(settings.corpus)
        total_steps = settings.epochs * len(batches)
        self.classifier.train()
        losses = []
        for number, part in enumerate(batches):
            done = (epoch * len(batches) + number) / total_steps
            for group, share in zip(self.optimiser.param_groups, (1.0, settings.backbone_rate), strict=True):
                last = settings.final_learning_rate * share
                group["lr"] = last + (settings.learning_rate * share - last) * (1 + float(np.cos(np.pi * done))) / 2
            windows = torch.from_numpy(self._store.windows(settings.corpus, part)).to(self._device)
            codes = torch.from_numpy(self._target.codes[part]).to(self._device)
            logits = self.classifier(windows, channels, sfreq_hz)
            loss = F.cross_entropy(logits, codes, label_smoothing=settings.label_smoothing)
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(self.classifier.parameters(), settings.clip_norm)
            if not torch.isfinite(norm):
                raise DataError(
                    f"epoch {epoch + 1}: the gradient is not finite; lower finetune.learning_rate, or check the store "
                    "with ShardStore.verify()"
                )
            self.optimiser.step()
            losses.append(loss.item())
        return float(np.mean(losses))

    def best_classifier(self) -> EmodClassifier:
        """A copy of the classifier as the best epoch left it, in evaluation mode, on the CPU."""
        kept = copy.deepcopy(self.classifier)
        kept.load_state_dict(self.best)
        return kept.eval().cpu()


def new_classifier(backbone: Emod, target: Target, settings: FinetuneSettings) -> EmodClassifier:
    """A classifier on a copy of the backbone, with fine-tuning's own dropout."""
    config = backbone.config.model_copy(update={"dropout": settings.dropout})
    fresh = Emod(config)
    fresh.load_state_dict(backbone.state_dict())
    return EmodClassifier(fresh, len(target.classes))


def predict(classifier: EmodClassifier, store: ShardStore, corpus: str, rows: Rows, batch: int) -> Rows:
    """(n,) class codes of the windows given, in their order. Leaves the classifier in evaluation mode."""
    classifier.eval()
    device = next(classifier.parameters()).device
    codes = []
    for first in range(0, len(rows), batch):
        windows = torch.from_numpy(store.windows(corpus, rows[first : first + batch])).to(device)
        with torch.inference_mode():
            logits = classifier(windows, store.channels(corpus), store.sfreq_hz(corpus))
        codes.append(logits.argmax(dim=1).cpu().numpy())
    return np.concatenate(codes)


def _new_optimiser(classifier: EmodClassifier, settings: FinetuneSettings) -> torch.optim.Adam:
    """The head at the full rate, the backbone at its share of it. The projection head takes no part."""
    idle = {id(parameter) for parameter in classifier.backbone.projection.parameters()}
    backbone = [parameter for parameter in classifier.backbone.parameters() if id(parameter) not in idle]
    for parameter in classifier.backbone.parameters():
        parameter.requires_grad_(settings.backbone_rate > 0 and id(parameter) not in idle)
    return torch.optim.Adam(
        [
            {"params": classifier.head.parameters(), "lr": settings.learning_rate},
            {"params": backbone, "lr": settings.learning_rate * settings.backbone_rate},
        ],
        weight_decay=settings.weight_decay,
    )
