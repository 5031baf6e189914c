"""A model of the registry, fetched from where it lies: weights, card, and which version of which name it is.

Through a plain ``MlflowClient``; no code of the version is executed, as `mlflow.pyfunc.load_model` would.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from emod.catalog import Experiment
from emod.errors import DataError, RequestError
from emod.storage import exists, is_local, join, redact
from emod.tracking.runs import check_reachable, tracking_uri
from emod.tracking.servable import Servable, load_servable

__all__ = ["Registered", "fetch_registered", "find_version", "registry_uri"]

_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@dataclass(frozen=True, eq=False)
class Registered:
    """One version of a registered model.

    Attributes:
        name: Of the registered model.
        version: Its number, also where an alias was asked for.
        servable: On the CPU.
        weights: SHA-256 of its file of weights, hex: what ``sha256sum model.safetensors`` says.
    """

    name: str
    version: str
    servable: Servable
    weights: str


def registry_uri(experiment: Experiment) -> str:
    """MLflow's URI where models are registered already: $MLFLOW_TRACKING_URI, else the database of the runs.

    Raises:
        RequestError: If neither is there, or nobody answers.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        runs = experiment.addresses.runs_url()
        if is_local(runs) and not exists(join(runs, "mlflow.db")):
            raise RequestError(
                f"addresses.runs = {runs}: no MLflow database there; give the folder of the runs that registered the "
                "model, or set MLFLOW_TRACKING_URI"
            )
        uri = tracking_uri(runs)
    check_reachable(uri)
    return uri


def find_version(uri: str, wanted: str, *, field: str) -> ModelVersion:
    """What the registry knows of the version that ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` names now.

    Raises:
        RequestError: If it names none, or MLflow refuses.
    """
    found = _REGISTERED.fullmatch(wanted)
    if found is None:
        raise RequestError(f"{field} = {wanted}: give models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, number = found["name"], found["alias"], found["version"]
    client = MlflowClient(uri)
    try:
        return client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
    except MlflowException as error:
        raise _refused(uri, wanted, field, error) from None


def _refused(uri: str, wanted: str, field: str, error: MlflowException) -> RequestError:
    return RequestError(
        f"{field} = {wanted}: {' '.join(str(error).split())} ({redact(uri)}); register it, or name another"
    )


def fetch_registered(uri: str, wanted: str, *, field: str) -> Registered:
    """The version that ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` names now.

    Args:
        uri: From ``tracking_uri``.
        wanted: As above.
        field: What it was asked for with; stands in messages.

    Raises:
        RequestError: If it names none, or MLflow refuses.
        DataError: If what is registered is damaged.
    """
    version = find_version(uri, wanted, field=field)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar a file, above this project's lines
    try:
        with tempfile.TemporaryDirectory(prefix="emod-model-") as scratch:
            folder = mlflow.artifacts.download_artifacts(
                artifact_uri=f"{version.source}/artifacts/emod", dst_path=scratch, tracking_uri=uri
            )
            servable = load_servable(Path(folder))
            with Path(folder, "model.safetensors").open("rb") as stream:
                weights = hashlib.file_digest(stream, "sha256").hexdigest()
    except MlflowException as error:
        raise _refused(uri, wanted, field, error) from None
    except DataError as error:
        raise DataError(f"{version.name} version {version.version}: {error}") from None
    return Registered(str(version.name), str(version.version), servable, weights)
