"""Fine-tuning in this process, as its worker sets it up."""

from __future__ import annotations

import torch

from emod.catalog import FinetuneSettings, TargetName
from emod.evaluation import Split, Target, divide
from emod.model import Emod
from emod.shards import ShardStore, WindowPool
from emod.training.finetuner import Finetuner, TrainingRows
from emod.training.networks import new_network


def new_finetuner(
    backbone: Emod, store: ShardStore, settings: FinetuneSettings, *, seed: int = 0, target: TargetName = "emotion"
) -> tuple[Finetuner, Target, Split, WindowPool]:
    pool = WindowPool(store, settings.corpora)
    asked, whole = divide(pool.metadata, settings, target)
    split = whole.keep(asked.rows)
    torch.manual_seed(seed)
    network = new_network(settings, backbone, asked, pool)
    rows, device = TrainingRows.of(split), torch.device("cpu")
    return Finetuner(network, pool, settings, asked, rows, seed=seed, device=device), asked, split, pool
