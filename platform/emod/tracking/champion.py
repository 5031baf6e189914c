"""Aliases of the registry that say which version people use: ``champion`` moves on, and back.

Which versions were champion, in order, is a tag of the registered model; what let one pass is a tag of the version.
"""

from __future__ import annotations

import json
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from emod.errors import RequestError

__all__ = ["CHAMPION", "champion_of", "champions", "crown", "roll_back"]

CHAMPION = "champion"

_HISTORY = "emod.champions"
_GATES = "emod.gates"


def champion_of(client: MlflowClient, name: str) -> str | None:
    """The version that the alias names, if any.

    Raises:
        RequestError: If no model of that name is registered.
    """
    try:
        found = dict(client.get_registered_model(name).aliases).get(CHAMPION)
    except MlflowException as error:
        raise RequestError(f"promote.name = {name}: no registered model ({' '.join(str(error).split())})") from None
    return None if found is None else str(found)  # a database gives a number, a server a word


def champions(client: MlflowClient, name: str) -> list[str]:
    """Every version that is or was champion, the newest last; one that was rolled back is not among them."""
    return list(json.loads(client.get_registered_model(name).tags.get(_HISTORY, "[]")))


def crown(client: MlflowClient, name: str, version: str, gates: list[dict[str, Any]]) -> None:
    """Moves ``champion`` to a version, and writes down what it passed."""
    client.set_model_version_tag(name, version, _GATES, json.dumps(gates))
    client.set_registered_model_tag(name, _HISTORY, json.dumps([*champions(client, name), version]))
    # Last: a crash before it leaves the champion that was.
    client.set_registered_model_alias(name, CHAMPION, version)


def roll_back(client: MlflowClient, name: str) -> tuple[str, str]:
    """Moves ``champion`` to the one before; returns (the version it left, the version it names now).

    Raises:
        RequestError: If there is none before, or it is no longer in the registry.
    """
    now = champion_of(client, name)
    history = champions(client, name)
    if now is None or len(history) < 2:
        raise RequestError(f"{name} has {'one' if now else 'no'} champion and none before it; nothing to go back to")
    before = history[-2]
    try:
        client.get_model_version(name, before)
    except MlflowException:
        raise RequestError(
            f"{name} version {before}, the champion before, is no longer registered; promote another"
        ) from None
    client.set_registered_model_alias(name, CHAMPION, before)
    client.set_registered_model_tag(name, _HISTORY, json.dumps(history[:-1]))
    client.set_model_version_tag(name, now, "emod.rolled_back", "true")
    return now, before
