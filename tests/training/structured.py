"""Windows with structure, in memory, and steps of pretraining on them.

Each subject has a rhythm and a topography of its own; strength follows valence and arousal; the background is coloured
noise. Labels lie at few points, so that many pairs weigh exactly 0, some by lying exactly `D_MAX` apart, and many
distances tie. The point (4, -4) is that of no other corpus and 5 or more from every other point: without a second
window of it in a batch, its anchor has no positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from emod.catalog import EmodConfig, PretrainSettings
from emod.shards import Manifest, ShardStore
from emod.training.pretrainer import PretrainCorpus, Pretrainer

D_MAX = 5.0
SUBJECTS = 3
WINDOWS = 24
PLANE = ((-3, -3), (-1, -3), (4, -4), (-3, 0), (0, 0), (-1, -1), (4, 1), (-3, 3), (0, 3), (3, 2), (3, 3), (-3, 4))

# corpus -> electrodes, rate, samples, points. Two share a montage in another order; one has a single electrode.
CORPORA: dict[str, tuple[tuple[str, ...], float, int, tuple[tuple[float, float], ...]]] = {
    "deap": (("Fp1", "F3", "C3", "O1"), 20.0, 40, PLANE),
    "dreamer": (("O1", "C3", "Fp1", "F3"), 20.0, 40, ((0, 0), (3, 2), (2, 1), (-2, 1), (-1, 1), (-1, 2), (0, 2))),
    "mdme": (("Cz",), 16.0, 25, ((0, 0), (3, 2))),
    "seed_iv": (("Fp2", "F4", "C4", "P4", "O2"), 25.0, 75, ((0, 0), (-1, 1), (-1, 2), (3, 2))),
}
SIZES: dict[str, Any] = {
    "width": 8,
    "layers": 1,
    "heads": 2,
    "feed_forward": 16,
    "kernel": 5,
    "groups": 2,
    "max_offset": 4,
    "projection_width": 8,
    "projection_hidden": 16,
}


class StructuredStore(ShardStore):
    """The corpora above in the precision asked for; single precision holds every value."""

    def __init__(self, dtype: npt.DTypeLike = np.float32) -> None:
        super().__init__("memory", Manifest(version=1, emod_version="0", settings={}, corpora={}))
        self.selected = {}
        self._windows = {}
        for number, (name, (channels, sfreq_hz, samples, points)) in enumerate(CORPORA.items()):
            va = np.array([points[i % len(points)] for i in range(WINDOWS)], dtype=dtype)
            self._windows[name] = _signals(va.astype(np.float64), len(channels), samples, sfreq_hz, number).astype(
                dtype
            )
            self.selected[name] = PretrainCorpus(np.arange(WINDOWS), va, channels, sfreq_hz)

    def windows(self, corpus: str, rows: npt.ArrayLike, **kind: Any) -> npt.NDArray[Any]:
        return self._windows[corpus][np.asarray(rows)]


def _signals(
    va: npt.NDArray[np.float64], electrodes: int, samples: int, sfreq_hz: float, seed: int
) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    time_s = np.arange(samples) / sfreq_hz
    noise = rng.standard_normal((len(va), electrodes, samples + 20))
    background = np.stack([noise[..., i : i + samples] * 0.8**i for i in range(20)]).sum(axis=0)
    topography = rng.uniform(0.5, 2, (SUBJECTS, electrodes, 1))
    signals = []
    for index, (valence, arousal) in enumerate(va):
        subject = index // (len(va) // SUBJECTS)
        own = np.sin(2 * np.pi * (1 + 0.4 * subject) * time_s)
        label = (valence + 4) * np.sin(2 * np.pi * 3 * time_s) + (arousal + 4) * np.sin(2 * np.pi * 5 * time_s)
        signals.append(topography[subject] * (own + label / 4) + 0.3 * background[index])
    return np.stack(signals).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """Choices of a run that its world size must not show in."""

    objective: str = "soft_va"
    statistics: str = "corpus"
    dropout: float = 0.2

    def pretrainer(
        self, dtype: torch.dtype, group: dist.ProcessGroup | None = None, **settings: Any
    ) -> tuple[Pretrainer, StructuredStore]:
        config = EmodConfig(
            **SIZES, projection_statistics=self.statistics, dropout=self.dropout, pool_dropout=self.dropout
        )
        store = StructuredStore(np.float64 if dtype == torch.float64 else np.float32)
        plain = {"objective": self.objective, "epochs": 1, "steps_per_epoch": 3, "rounds": 1, "d_max": D_MAX}
        chosen = PretrainSettings(**(plain | settings))
        pretrainer = Pretrainer(store, store.selected, config, chosen, seed=5, device=torch.device("cpu"), group=group)
        pretrainer.model.to(dtype)
        return pretrainer, store


CASES = {
    "soft_va": Case(),
    "soft_va without dropout": Case(dropout=0.0),
    "soft_va, statistics of the batch": Case(statistics="batch"),
    "hard_va": Case("hard_va"),
    "augment": Case("augment"),
}
# Weights that stay as they are make each step a batch of its own for one network.
STILL = {"learning_rate": 1e-30, "final_learning_rate": 0.0, "weight_decay": 0.0, "clip_norm": 1e9}
KINDS: dict[str, tuple[torch.dtype, dict[str, float]]] = {
    "double, learning": (torch.float64, {"learning_rate": 5e-3}),
    "double, still": (torch.float64, STILL),
    "single, still": (torch.float32, STILL),
}
# size -> cases. Ten are more ranks than a corpus has windows in a batch, so that some parts of it are empty.
GROUPS: dict[int, tuple[str, ...]] = {
    1: ("soft_va",),
    2: tuple(CASES),
    3: tuple(CASES),
    8: ("soft_va", "soft_va, statistics of the batch", "augment"),
    10: ("soft_va",),
}


def gradient(model: torch.nn.Module) -> Tensor:
    """Of all parameters, by name, as one vector."""
    parts = []
    for _, parameter in sorted(model.named_parameters()):
        assert parameter.grad is not None
        parts.append(parameter.grad.flatten())
    return torch.cat(parts)


def take_steps(case: str, kind: str, group: dist.ProcessGroup | None) -> dict[str, Any]:
    """Three steps: what each told, its gradient, and the weights and buffers after all."""
    dtype, settings = KINDS[kind]
    pretrainer, _ = CASES[case].pretrainer(dtype, group, **settings)
    told, gradients = [], []
    for report in pretrainer.steps():
        told.append((report.loss, report.gradient_norm, report.anchors_alone, report.n_windows))
        gradients.append(gradient(pretrainer.model).clone())
    return {"told": told, "gradients": torch.stack(gradients), "state": pretrainer.model.state_dict()}


def run_rank(rank: int, world_size: int, folder: str) -> None:
    """All cases on groups of the first ranks; every rank must help to make every group."""
    for size, cases in GROUPS.items():
        group = dist.new_group(list(range(size)))
        if rank < size:
            assert isinstance(group, dist.ProcessGroup)
            kinds = ("double, learning", "single, still")
            found = {(case, kind): take_steps(case, kind, group) for case in cases for kind in kinds}
            torch.save(found, f"{folder}/{size}-{rank}.pt")
