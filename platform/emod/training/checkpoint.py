"""The state of a training run in a folder: weights, optimiser, position. Nothing in it is pickled.

model.safetensors, model.json   the network (emod.model)
optimiser.safetensors           moments of every parameter
position.json                   the next step and whatever else the loop must remember
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from emod.catalog import EmodConfig
from emod.model import load_weights, save_weights

__all__ = ["load_checkpoint", "read_position", "save_checkpoint"]

_OPTIMISER = "optimiser.safetensors"
_POSITION = "position.json"


def save_checkpoint(
    folder: Path, model: torch.nn.Module, config: EmodConfig, optimiser: torch.optim.Optimizer, position: dict[str, Any]
) -> None:
    """Writes a run's state; ``position`` is JSON-able."""
    save_weights(folder, model, config)
    moments = {
        f"{parameter}.{name}": value.contiguous()
        for parameter, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
    }
    save_file(moments, folder / _OPTIMISER)
    (folder / _POSITION).write_text(json.dumps(position), encoding="utf-8")


def load_checkpoint(folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Restores what `save_checkpoint` wrote, in place, and returns the position."""
    load_weights(folder, model)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in load_file(folder / _OPTIMISER).items():
        parameter, _, name = key.partition(".")
        state.setdefault(int(parameter), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return read_position(folder)


def read_position(folder: Path) -> dict[str, Any]:
    """The position alone."""
    position: dict[str, Any] = json.loads((folder / _POSITION).read_text(encoding="utf-8"))
    return position
