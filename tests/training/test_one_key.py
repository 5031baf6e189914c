"""Each objective of the paper's Table 3 and each ablation of its Figure 3 is one key, and trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from emod.catalog import EmodConfig, Experiment, PretrainSettings, load_experiment
from emod.catalog.model import Part
from emod.model import Emod
from emod.shards import ShardStore
from emod.training import load_pretrained, pretrain
from emod.training.pretrainer import Pretrainer
from tests.training.structured import StructuredStore

OBJECTIVES = ("soft_va", "hard_va", "augment", "scratch")
KEYS = [f"pretrain.objective={name}" for name in OBJECTIVES] + [f"model.without={part}" for part in get_args(Part)]


def differing(one: Any, other: Any, place: str = "") -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        return [found for key in one for found in differing(one[key], other[key], f"{place}.{key}".lstrip("."))]
    return [place] if one != other else []


def run(experiment: Experiment) -> tuple[list[float], dict[str, Tensor], dict[str, Tensor]]:
    """Losses of two steps of its network by its settings, and the weights before and after them."""
    store = StructuredStore()
    settings = experiment.pretrain.model_copy(update={"steps_per_epoch": 2, "rounds": 1, "epochs": 1})
    pretrainer = Pretrainer(store, store.selected, experiment.model, settings, seed=1, device=torch.device("cpu"))
    before = {name: value.clone() for name, value in pretrainer.model.state_dict().items()}
    return [report.loss for report in pretrainer.steps()], before, pretrainer.model.state_dict()


def test_there_are_four_and_six() -> None:
    assert set(get_args(PretrainSettings.model_fields["objective"].annotation)) == set(OBJECTIVES)
    assert len(get_args(Part)) == 6
    assert get_args(EmodConfig.model_fields["without"].annotation)[:-1] == (Part,)


@pytest.mark.parametrize("key", KEYS)
def test_one_key_and_nothing_else(key: str) -> None:
    plain, chosen = load_experiment("quickstart"), load_experiment("quickstart", [key])
    place, value = key.split("=")
    expected = [] if value == "soft_va" else [place]
    assert differing(plain.model_dump(), chosen.model_dump()) == expected

    losses, before, after = run(chosen)
    if value == "scratch":
        assert losses == []
        assert all(torch.equal(before[name], after[name]) for name in before)
        return
    assert len(losses) == 2
    assert torch.isfinite(torch.tensor(losses)).all()
    still = [name for name in before if torch.equal(before[name], after[name]) and "num_batches" not in name]
    assert still == [], "every part that is there is trained"
    whole = run(plain)
    assert (losses == whole[0]) == (value == "soft_va")
    if place == "pretrain.objective":  # another loss, the same network
        assert before.keys() == whole[1].keys()
        assert all(torch.equal(before[name], whole[1][name]) for name in before)


def test_scratch_hands_on_the_weights_that_training_starts_from(
    store: ShardStore, make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    experiment = make_experiment(tmp_path, pretrain={"objective": "scratch"})
    done = pretrain(experiment, store, tracking=("", ""), advance=lambda *told: None)
    torch.manual_seed(experiment.seed)
    fresh = Emod(experiment.model).state_dict()
    left = load_pretrained(str(tmp_path), experiment.pretrain.run_name)
    assert done.seen == left.seen == {}, "windows and labels of nobody"
    for name, value in fresh.items():
        assert torch.equal(left.model.state_dict()[name], value), name
