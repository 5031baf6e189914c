"""What a step is fed is a function of (windows, seed, step): neither the workers nor the pace of reading change it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from emod.catalog import EmodConfig, PretrainSettings
from emod.shards import ShardStore
from emod.training.pretrainer import Pretrainer, select_windows

CORPORA = ("dasps", "deap", "seed_iv")


def new_pretrainer(store: ShardStore, config: EmodConfig, objective: Any = "soft_va") -> Pretrainer:
    settings = PretrainSettings(epochs=1, steps_per_epoch=6, rounds=1, learning_rate=5e-3, objective=objective)
    corpora = select_windows(store, CORPORA, {"deap": frozenset({"s2"})})
    return Pretrainer(store, corpora, config, settings, seed=3, device=torch.device("cpu"))


@pytest.mark.parametrize("objective", ["soft_va", "augment"])
def test_parts_of_all_workers_are_the_batch_of_one(store: ShardStore, tiny: EmodConfig, objective: str) -> None:
    """Windows, points, keys of chance and pairs, to the bit; each view of an augmented window too."""
    pretrainer = new_pretrainer(store, tiny, objective)
    for step in (0, 1, 5):
        whole = {part.corpus: part for part in pretrainer._read(step)}
        for world_size in (2, 3, 5, 9):
            found: dict[str, list[Any]] = {name: [] for name in CORPORA}
            for rank in range(world_size):
                worker = new_pretrainer(store, tiny, objective)
                worker._rank, worker._world_size = rank, world_size
                for part in worker._read(step):
                    found[part.corpus].append(part)
            for name, parts in found.items():
                for field in ("windows", "va", "keys", "pairs"):
                    views = [torch.chunk(getattr(part, field), 2 if objective == "augment" else 1) for part in parts]
                    together = torch.cat([torch.cat(view) for view in zip(*views, strict=True)])
                    assert torch.equal(together, getattr(whole[name], field)), (step, world_size, name, field)


class Unsteady(ShardStore):
    """A store that now answers at once, and now late."""

    def __init__(self, store: ShardStore, pauses_s: npt.NDArray[np.float64]) -> None:
        super().__init__(store.url, store.manifest)
        self.pauses_s = iter(pauses_s.tolist())

    def windows(self, corpus: str, rows: npt.ArrayLike, **kind: Any) -> npt.NDArray[np.float32]:
        time.sleep(next(self.pauses_s, 0.0))
        return super().windows(corpus, rows, **kind)


def test_the_pace_of_reading_changes_no_bit(store: ShardStore, tiny: EmodConfig) -> None:
    """The reader late, the step late, and both in no order."""
    rng = np.random.default_rng(0)
    late = rng.choice([0.0, 0.05], 30)
    runs = []
    for reading_s, stepping_s in ((late * 0, late * 0), (late, late * 0), (late * 0, late), (late, late[::-1])):
        pretrainer = new_pretrainer(Unsteady(store, reading_s), tiny)
        losses = []
        for report, pause_s in zip(pretrainer.steps(), stepping_s, strict=False):
            losses.append(report.loss)
            time.sleep(pause_s)
        runs.append((losses, pretrainer.model.state_dict()))
    losses, weights = runs[0]
    assert len(set(losses)) == 6
    for found, state in runs[1:]:
        assert found == losses
        assert all(torch.equal(state[name], weight) for name, weight in weights.items())
