"""Weights on disk: a folder with ``model.safetensors`` and ``model.json``. Nothing is pickled.

``model.json`` holds the config and the electrode names behind the rows of the electrode dictionary, so weights made
with another dictionary are refused instead of being attached to the wrong electrodes. Optimiser state is not here.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from emod.catalog.model import EmodConfig
from emod.errors import DataError
from emod.model.emod import Emod
from emod.signal.montage import ELECTRODES

_TENSORS = "model.safetensors"
_DESCRIPTION = "model.json"


def save_weights(directory: Path, model: nn.Module, config: EmodConfig) -> None:
    """Write every parameter and buffer of ``model``, and the config that rebuilds its backbone.

    Args:
        directory: Created if need be; a model already in it is replaced.
        model: ``Emod``, ``EmodClassifier`` or any module.
        config: The backbone's config.
    """
    directory.mkdir(parents=True, exist_ok=True)
    description = {"config": config.model_dump(mode="json"), "electrodes": ELECTRODES}
    (directory / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, directory / _TENSORS)


def read_config(directory: Path) -> EmodConfig:
    """Read the backbone's config.

    Raises:
        DataError: If ``model.json`` is absent or damaged, or was written with another electrode dictionary.
    """
    path = directory / _DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        config = EmodConfig.model_validate(description["config"])
        electrodes = tuple(description["electrodes"])
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; name a folder written by save_weights") from None
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise DataError(f"{path}: config {field}: {error.errors()[0]['msg']}; save the model again") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a model description ({error!r}); save the model again") from None
    if electrodes != ELECTRODES:
        raise DataError(
            f"{path}: {len(electrodes)} electrode rows that are not this version's {len(ELECTRODES)}; "
            "load it with the version that wrote it"
        )
    return config


def load_weights(directory: Path, model: nn.Module) -> None:
    """Fill ``model`` in place with the tensors of ``directory``; all or nothing.

    Args:
        directory: Written by `save_weights`.
        model: An `Emod`, or a module that holds one; its dropout may be another than that of the weights.

    Raises:
        DataError: If the folder cannot be read, its network is described otherwise than that of ``model``, or its
            tensors are not exactly those of ``model``.
    """
    saved = read_config(directory)
    own = next(module.config for module in model.modules() if isinstance(module, Emod))
    for field in sorted(set(type(saved).model_fields) - {"dropout", "pool_dropout"}):
        if getattr(saved, field) != getattr(own, field):
            raise DataError(
                f"{directory}: weights of a network with {field} = {getattr(saved, field)}, this one has "
                f"{getattr(own, field)}; load them into the model they were saved from"
            )
    path = directory / _TENSORS
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; name a folder written by save_weights") from None
    except SafetensorError as error:
        raise DataError(f"{path}: damaged ({error}); fetch or save the model again") from None
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise DataError(
                f"{path}: tensor {name} is {found.get(name, 'absent')}, {type(model).__name__} needs "
                f"{wanted.get(name, 'none')}; load it into the model it was saved from"
            )
    model.load_state_dict(tensors)


def load_emod(directory: Path) -> Emod:
    """Rebuild an ``Emod`` from its folder, in evaluation mode, on the CPU.

    Raises:
        DataError: As ``load_weights``.
    """
    model = Emod(read_config(directory))
    load_weights(directory, model)
    return model.eval()
