"""Registering a trained model: an MLflow pyfunc as code, safetensors and JSON, in the model registry under an alias.

It goes through a plain ``MlflowClient``. It does not decide which version is good: ``candidate`` is where it stops.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

import emod
from emod.catalog.serving import ServingSettings
from emod.catalog.signal import SignalSettings
from emod.model import Emod, EmodClassifier, PlaneHead
from emod.tracking.card import describe_model
from emod.tracking.servable import ModelCard, TrainedOn, save_servable

__all__ = ["register_model"]

# All that emod.tracking.served imports, directly or through emod; no Ray, no MNE.
ROOMS = frozenset({"catalog", "model", "signal", "tracking"})
REQUIREMENTS = ("mlflow", "numpy", "scipy", "pandas", "torch", "pydantic", "PyYAML", "safetensors", "fsspec")


def register_model(
    *,
    uri: str,
    run_id: str,
    model: Emod | EmodClassifier,
    plane: PlaneHead | None,
    classes: Sequence[str] | None,
    settings: SignalSettings,
    trained_on: TrainedOn,
    serving: ServingSettings | None = None,
    results: Sequence[str] = (),
    name: str = "emod",
    alias: str = "candidate",
) -> str:
    """Log a model under its run and register it as a new version, to which the alias moves.

    Args:
        uri: From ``tracking_uri``.
        run_id: The run that trained it.
        model: A backbone, or the whole fine-tuned classifier.
        plane: Fitted on the embeddings of this very backbone.
        classes: Names in the order of the classifier's outputs; None for a bare backbone.
        settings: Of the ingest that made the training windows.
        trained_on: Store, corpora, electrodes, rates, licences; whether anything was simulated.
        serving: What it answers to input that it was not made for; None: the defaults.
        results: What came out on the test windows, for its card.
        name: Of the registered model, made if need be.
        alias: Moves to the new version.

    Returns:
        The version's number.

    Raises:
        ValueError: If ``classes`` are not one per output of the classifier.
        MlflowException: If MLflow refuses.
    """
    client = MlflowClient(tracking_uri=uri)
    with tempfile.TemporaryDirectory() as scratch:
        weights, packed = Path(scratch, "emod"), Path(scratch, "pyfunc")
        card = save_servable(
            weights, model, plane, classes=classes, settings=settings, trained_on=trained_on, serving=serving
        )
        width = (model.backbone if isinstance(model, EmodClassifier) else model).config.width
        tags = _tags(card)
        logged = client.create_logged_model(
            client.get_run(run_id).info.experiment_id, name=name, source_run_id=run_id, tags=tags
        )
        try:
            _pack(packed, weights, card, Model(run_id=run_id, model_id=logged.model_id, model_uuid=logged.model_id))
            client.log_model_artifacts(logged.model_id, str(packed))
        except BaseException:
            client.finalize_logged_model(logged.model_id, "FAILED")
            raise
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    registered = client.create_model_version(
        name,
        # Not models:/<id>: a database store looks that up through the global tracking URI instead of this client's.
        source=logged.artifact_location,
        run_id=run_id,
        tags=tags,
        description=describe_model(card, width=width, results=results),
        model_id=logged.model_id,
    )
    # The link from the model's page to the registry, which mlflow.register_model sets too.
    link = json.dumps([{"name": name, "version": registered.version}])
    client.set_logged_model_tags(logged.model_id, {MLFLOW_MODEL_VERSIONS: link})
    client.set_registered_model_alias(name, alias, registered.version)
    return str(registered.version)


def _pack(packed: Path, weights: Path, card: ModelCard, about: Model) -> None:
    """Write the pyfunc's folder: code by file, weights as artefacts, requirements pinned, signature by hand."""
    # The list below is complete; a check would ask a package index, which a closed site does not have.
    os.environ.setdefault("MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK", "true")
    package = Path(emod.__file__).parent
    others = [room.name for room in package.iterdir() if room.is_dir() and room.name not in ROOMS]
    code = weights.with_name("code") / package.name
    shutil.copytree(package, code, ignore=lambda folder, _: others if folder == str(package) else ["__pycache__"])
    mlflow.pyfunc.save_model(
        path=str(packed),
        python_model=str(Path(__file__).with_name("served.py")),
        artifacts={"emod": str(weights)},
        code_paths=[str(code)],
        signature=_signature(card),
        input_example=_input_example(card),
        # A local build such as 2.13.0+cpu is in no index.
        pip_requirements=[f"{package}=={version(package).partition('+')[0]}" for package in REQUIREMENTS],
        mlflow_model=about,
    )


def _signature(card: ModelCard) -> ModelSignature:
    """MLflow infers fixed sizes from an example; here every size is free."""
    inputs = [TensorSpec(np.dtype("float32"), (-1, -1, -1), "signal"), TensorSpec(np.dtype("str"), (-1,), "channels")]
    numbers = ["valence", "arousal", *(f"p_{name}" for name in card.classes)]
    outputs = [ColSpec(DataType.double, name) for name in numbers]
    outputs += [ColSpec(Array(DataType.double), "embedding"), ColSpec(DataType.string, "flags")]
    params = [ParamSpec("sfreq_hz", DataType.double, 0.0), ParamSpec("cleaned", DataType.boolean, False)]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs), params=ParamSchema(params))


def _input_example(card: ModelCard) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two windows of one second of noise, on the electrodes and at the rate of the first corpus."""
    corpus = card.trained_on.corpora[min(card.trained_on.corpora)]
    noise_uv = np.random.default_rng(0).normal(0, 10, (2, len(corpus.channels), round(corpus.sfreq_hz))).round(1)
    inputs = {"signal": noise_uv.astype(np.float32), "channels": np.array(corpus.channels)}
    return inputs, {"sfreq_hz": corpus.sfreq_hz, "cleaned": False}


def _tags(card: ModelCard) -> dict[str, str]:
    return {
        "emod.version": card.emod_version,
        "emod.manifest": card.trained_on.manifest,
        "emod.simulated": "true" if card.trained_on.simulated else "false",
        "emod.corpora": ",".join(sorted(card.trained_on.corpora)),
        "emod.classes": ",".join(card.classes),
        "emod.plane_head": "true" if card.plane else "false",
        "emod.serving": card.serving.model_dump_json(),
    }
