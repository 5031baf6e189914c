"""Epochs of fine-tuning one network on one fold. It knows no Ray, and is given no test window.

Shapes: n windows, K outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn

from emod.catalog import FinetuneSettings
from emod.errors import DataError
from emod.evaluation import PlaneScores, Scores, Split, Target, score, score_plane
from emod.model import EmodClassifier
from emod.shards import WindowPool
from emod.training.networks import outputs_of, parameter_groups

__all__ = ["EpochReport", "Finetuner", "TrainingRows", "predict"]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """What of a split a training may know: it cannot look at a test window."""

    train: Rows
    validation: Rows

    @classmethod
    def of(cls, split: Split) -> TrainingRows:
        """Of a split, two of its roles."""
        return cls(split.train, split.validation)


@dataclass(frozen=True)
class EpochReport:
    """What one pass over the training windows did: their mean loss, and the scores of the validation windows."""

    loss: float
    validation: Scores | PlaneScores

    @property
    def criterion(self) -> float:
        """By what the best epoch is chosen: Cohen's kappa, or the mean concordance of both axes."""
        return self.validation.mean_ccc if isinstance(self.validation, PlaneScores) else self.validation.kappa

    def figures(self) -> dict[str, float]:
        """The validation scores worth a curve."""
        found = self.validation
        if isinstance(found, PlaneScores):
            return {"ccc_valence": found.valence.ccc, "ccc_arousal": found.arousal.ccc, "ccc": found.mean_ccc}
        return {
            "kappa": found.kappa,
            "balanced_accuracy": found.balanced_accuracy,
            "weighted_f1": found.weighted_f1,
        }

    def worded(self) -> str:
        """The criterion in a word and a number."""
        return f"{'ccc' if isinstance(self.validation, PlaneScores) else 'kappa'} {self.criterion:.3f}"


class Finetuner:
    """Network, optimiser and schedule; remembers the epoch with the best validation score.

    Args:
        network: What is trained, in place; the caller draws its weights.
        pool: Where the windows are.
        settings: The schedule.
        target: Classes or points of the pool's windows.
        rows: Which of them train and which choose the epoch.
        seed: Of the order of windows and of dropout.
        device: Where to compute.

    Attributes:
        network: As the last epoch left it.
        best: Its weights after the best epoch.
        best_epoch: Counted from 1; 0 before the first.
        best_score: Validation score of that epoch.
        better_epoch: The last one that was better than all before it; what patience counts from.
        next_epoch: Counted from 0.
    """

    def __init__(
        self,
        network: nn.Module,
        pool: WindowPool,
        settings: FinetuneSettings,
        target: Target,
        rows: TrainingRows,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self._pool, self._settings, self._target, self._rows = pool, settings, target, rows
        self._seed, self._device = seed, device
        self.network = network.to(device)
        groups = parameter_groups(network, settings)
        self._shares = [group["share"] for group in groups]
        self.optimiser = torch.optim.Adam(
            [{"params": group["params"]} for group in groups],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        self._weights = self._class_weights()
        self.best: dict[str, Tensor] = copy.deepcopy(network.state_dict())
        self.best_epoch, self.best_score, self.better_epoch, self.next_epoch = 0, -2.0, 0, 0

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done, or patience is at its end."""
        patience = self._settings.patience
        waited = self.next_epoch - self.better_epoch
        return self.next_epoch >= self._settings.epochs or (patience is not None and 0 < patience <= waited)

    def epochs(self) -> Iterator[EpochReport]:
        """Runs from ``next_epoch`` until it is finished.

        Raises:
            DataError: If the gradient is not finite.
        """
        while not self.finished:
            loss = self.train_epoch(self._rows.train)
            report = EpochReport(loss, self._validate())
            self.next_epoch += 1
            # Of equal epochs the later one, which has seen more: small validation sets tie at zero for a while.
            if report.criterion > self.best_score:
                self.better_epoch = self.next_epoch
            if report.criterion >= self.best_score:
                self.best = copy.deepcopy(self.network.state_dict())
                self.best_epoch, self.best_score = self.next_epoch, report.criterion
            yield report

    def train_epoch(self, rows: Rows) -> float:
        """One pass over these windows in an order that depends on (seed, next_epoch) alone; returns the mean loss."""
        epoch = self.next_epoch
        settings = self._settings.at(epoch + 1)
        generator = np.random.default_rng([self._seed, epoch])
        torch.manual_seed(int(generator.integers(2**63)))
        order = generator.permutation(rows)
        batches = [part for part in np.array_split(order, max(1, round(len(order) / settings.batch))) if part.size]
        total_steps = settings.epochs * len(batches)
        self.network.train()
        if isinstance(self.network, EmodClassifier) and not settings.backbone_rate:
            self.network.backbone.eval()  # a linear probe reads one embedding of a window, not one with dropout
        losses = []
        for number, part in enumerate(batches):
            done = (epoch * len(batches) + number) / total_steps
            for group, share in zip(self.optimiser.param_groups, self._shares, strict=True):
                last = settings.final_learning_rate * share
                group["lr"] = last + (settings.learning_rate * share - last) * (1 + float(np.cos(np.pi * done))) / 2
                group["weight_decay"] = settings.weight_decay
            outputs = outputs_of(self.network, self._pool, part, self._device)
            loss = self._loss(outputs, part, settings.label_smoothing)
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip_norm)
            if not torch.isfinite(norm):
                raise DataError(
                    f"epoch {epoch + 1}: the gradient is not finite; lower finetune.learning_rate, or check the store "
                    "with ShardStore.verify()"
                )
            self.optimiser.step()
            losses.append(loss.item())
        return float(np.mean(losses))

    def best_network(self) -> nn.Module:
        """A copy of the network as the best epoch left it, in evaluation mode, on the CPU."""
        kept = copy.deepcopy(self.network)
        kept.load_state_dict(self.best)
        return kept.eval().cpu()

    def _loss(self, outputs: Tensor, rows: Rows, label_smoothing: float) -> Tensor:
        if self._target.points is not None:
            return F.mse_loss(outputs, torch.from_numpy(self._target.points[rows]).to(outputs))
        codes = torch.from_numpy(self._target.codes[rows]).to(self._device)
        return F.cross_entropy(outputs, codes, weight=self._weights, label_smoothing=label_smoothing)

    def _class_weights(self) -> Tensor | None:
        if self._settings.class_weights == "none" or self._target.points is not None:
            return None
        codes = self._target.codes[self._rows.train]
        weights = np.ones(len(self._target.classes))
        present = np.unique(codes)  # a class that does not train has no weight to find
        weights[present] = compute_class_weight("balanced", classes=present, y=codes)
        return torch.from_numpy(weights).to(self._device, torch.float32)

    def _validate(self) -> Scores | PlaneScores:
        rows = self._rows.validation
        predicted = predict(self.network, self._pool, self._target, rows, self._settings.batch)
        if self._target.points is not None:
            return score_plane(self._target.points[rows], predicted)
        return score(self._target.codes[rows], predicted.argmax(axis=1), self._target.classes)


def predict(network: nn.Module, pool: WindowPool, target: Target, rows: Rows, batch: int) -> npt.NDArray[np.float32]:
    """Probabilities (n, K) of the classes, or points (n, 2), of the windows given, in their order.

    Leaves the network in evaluation mode.
    """
    network.eval()
    device = next(network.parameters()).device
    found = []
    for first in range(0, len(rows), batch):
        with torch.inference_mode():
            outputs = outputs_of(network, pool, rows[first : first + batch], device)
            found.append((outputs if target.points is not None else outputs.softmax(dim=1)).cpu().numpy())
    return np.concatenate(found)
