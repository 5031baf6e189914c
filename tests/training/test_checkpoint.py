"""A checkpoint gives back the network, the optimiser and the position, to the bit, and holds no pickle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from emod.catalog import EmodConfig
from emod.errors import DataError
from emod.model import Emod
from emod.training.checkpoint import load_checkpoint, read_position, save_checkpoint

CHANNELS = ("Fp1", "Cz", "O2")


def new_pair(config: EmodConfig, seed: int) -> tuple[Emod, torch.optim.AdamW]:
    torch.manual_seed(seed)
    model = Emod(config)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)


def train(model: Emod, optimiser: torch.optim.Optimizer, steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    model.train()
    for _ in range(steps):
        loss = model(torch.randn(5, 3, 40), CHANNELS, 20.0)[:, 0].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def test_what_was_saved_is_loaded(tiny: EmodConfig, tmp_path: Path) -> None:
    model, optimiser = new_pair(tiny, 0)
    train(model, optimiser, 3, seed=1)
    position = {"next_step": 3, "best_kappa": 0.1 + 0.2, "note": "ü"}
    save_checkpoint(tmp_path, model, tiny, optimiser, position)

    other, its = new_pair(tiny, 5)
    train(other, its, 1, seed=6)  # what it has must not stay
    assert load_checkpoint(tmp_path, other, its) == position == read_position(tmp_path)
    wanted, found = optimiser.state_dict(), its.state_dict()
    assert found["param_groups"] == wanted["param_groups"]
    assert found["state"].keys() == wanted["state"].keys()
    for parameter, state in wanted["state"].items():
        assert found["state"][parameter].keys() == state.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for name, value in state.items():
            assert found["state"][parameter][name].dtype == value.dtype
            assert torch.equal(found["state"][parameter][name], value), (parameter, name)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name

    # And it goes on as if nothing had been.
    train(model, optimiser, 2, seed=8)
    train(other, its, 2, seed=8)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_parameters_without_a_gradient_have_no_state(tiny: EmodConfig, tmp_path: Path) -> None:
    """The projection of a fine-tuned backbone is never stepped; state of the others must not slip onto it."""
    model, optimiser = new_pair(tiny, 0)
    model.encoder.requires_grad_(False)
    train(model, optimiser, 2, seed=1)
    save_checkpoint(tmp_path, model, tiny, optimiser, {})
    other, its = new_pair(tiny, 5)
    load_checkpoint(tmp_path, other, its)
    idle = {id(parameter) for parameter in other.encoder.parameters()}
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        if id(theirs) in idle:
            assert not its.state.get(theirs)
        else:
            assert torch.equal(its.state[theirs]["exp_avg"], optimiser.state[mine]["exp_avg"])


def test_before_the_first_step_there_is_nothing_to_remember(tiny: EmodConfig, tmp_path: Path) -> None:
    model, optimiser = new_pair(tiny, 0)
    save_checkpoint(tmp_path, model, tiny, optimiser, {"next_step": 0})
    other, its = new_pair(tiny, 5)
    assert load_checkpoint(tmp_path, other, its) == {"next_step": 0}
    assert its.state_dict()["state"] == {}


def test_nothing_is_pickled(tiny: EmodConfig, tmp_path: Path) -> None:
    """Every file is JSON, or safetensors: a length, a JSON header of that length, and nothing but tensors after it."""
    model, optimiser = new_pair(tiny, 0)
    train(model, optimiser, 1, seed=1)
    save_checkpoint(tmp_path, model, tiny, optimiser, {"next_step": 1})
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"model.safetensors", "model.json", "optimiser.safetensors", "position.json"}
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        if path.suffix == ".json":
            json.loads(content)
            continue
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        assert max(ends) == len(content) - 8 - length


def test_another_network_is_refused(tiny: EmodConfig, tmp_path: Path) -> None:
    model, optimiser = new_pair(tiny, 0)
    save_checkpoint(tmp_path, model, tiny, optimiser, {})
    wider, its = new_pair(tiny.model_copy(update={"feed_forward": 24}), 0)
    with pytest.raises(DataError, match="needs"):
        load_checkpoint(tmp_path, wider, its)
