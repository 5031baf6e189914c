"""Aliases of the registry that say which version people use: ``champion`` moves on, and back.

Which versions were champion, in order, is a tag of the registered model; what let one pass is a tag of the version.
"""

from __future__ import annotations

import json
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from emod.errors import RequestError

__all__ = ["CHAMPION", "champion_of", "champions", "crown", "roll_back", "version_of"]

CHAMPION = "champion"

_HISTORY = "emod.champions"
_GATES = "emod.gates"
_ROLLED_BACK = "emod.rolled_back"


def champion_of(client: MlflowClient, name: str) -> str | None:
    """The version that the alias names, if any.

    Raises:
        RequestError: If no model of that name is registered.
    """
    try:
        return version_of(client, name, CHAMPION)
    except MlflowException as error:
        raise RequestError(f"promote.name = {name}: no registered model ({' '.join(str(error).split())})") from None


def version_of(client: MlflowClient, name: str, alias: str) -> str | None:
    """The version that an alias names, if any; MLflow refuses where there is no such model."""
    found = dict(client.get_registered_model(name).aliases).get(alias)
    return None if found is None else str(found)  # a database gives a number, a server a word


def champions(client: MlflowClient, name: str) -> list[str]:
    """Every version that is or was champion, the newest last; one that was rolled back is not among them."""
    return list(json.loads(client.get_registered_model(name).tags.get(_HISTORY, "[]")))


def crown(
    client: MlflowClient, name: str, version: str, gates: list[dict[str, Any]], *, instead_of: str | None
) -> None:
    """Moves ``champion`` to a version, and writes down what it passed.

    Args:
        client: Of the registry.
        name: Of the registered model.
        version: That passed.
        gates: What it passed.
        instead_of: The champion that it was held against.

    Raises:
        RequestError: If another one has become champion since.
    """
    now = champion_of(client, name)
    if now != instead_of:
        raise RequestError(f"{name} version {now} became champion meanwhile; ask again, to be held against it")
    client.set_model_version_tag(name, version, _GATES, json.dumps(gates))
    client.delete_model_version_tag(name, version, _ROLLED_BACK)
    # One that an earlier crash wrote down and did not crown is none; one that was set by hand is.
    client.set_registered_model_tag(name, _HISTORY, json.dumps([*_until(client, name, now), version]))
    # Last: a crash before it leaves the champion that was.
    client.set_registered_model_alias(name, CHAMPION, version)


def roll_back(client: MlflowClient, name: str, *, move: bool = True) -> tuple[str, str]:
    """Moves ``champion`` to the one before; returns (the version it left, the version it names now).

    Args:
        client: Of the registry.
        name: Of the registered model.
        move: False: only look.

    Raises:
        RequestError: If there is none before, or it is no longer in the registry.
    """
    now = champion_of(client, name)
    history = _until(client, name, now)
    if now is None or len(history) < 2:
        raise RequestError(f"{name} has {'one' if now else 'no'} champion and none before it; nothing to go back to")
    before = history[-2]
    try:
        client.get_model_version(name, before)
    except MlflowException:
        raise RequestError(
            f"{name} version {before}, the champion before, is no longer registered; promote another"
        ) from None
    if move:
        client.set_registered_model_alias(name, CHAMPION, before)
        client.set_registered_model_tag(name, _HISTORY, json.dumps(history[:-1]))
        client.set_model_version_tag(name, now, _ROLLED_BACK, "true")
    return now, before


def _until(client: MlflowClient, name: str, now: str | None) -> list[str]:
    """Every champion up to the one that the alias names."""
    known = champions(client, name)
    if now is None:
        return []
    if now not in known:
        return [*known, now]
    while known[-1] != now:
        known.pop()
    return known
