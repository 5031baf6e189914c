"""Register on a real sqlite MLflow, then load where neither this repository nor Ray nor MNE can be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from emod.catalog import ServingSettings, SignalSettings
from emod.model import EmodClassifier, PlaneHead
from emod.tracking import TrainedOn, ensure_run, load_servable, register_model
from emod.workflow import _registered_before

CHANNELS = ("Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2")
CLASSES = ("sad", "neutral", "happy")
ELSEWHERE = Path(__file__).with_name("load_elsewhere.py")


@pytest.fixture
def register(
    uri: str, classifier: EmodClassifier, plane: PlaneHead, settings: SignalSettings, trained_on: TrainedOn
) -> Any:
    run_id = ensure_run(uri, "emod", "finetune", {})

    def call(**changes: Any) -> tuple[str, str]:
        given: dict[str, Any] = {
            "model": classifier,
            "plane": plane,
            "classes": CLASSES,
            "settings": settings,
            "trained_on": trained_on,
        }
        return run_id, register_model(uri=uri, run_id=run_id, **(given | changes))

    return call


def artefacts(client: MlflowClient, version: str) -> Path:
    return Path(client.get_model_version("emod", version).source)


def test_a_registered_model_answers_in_a_bare_process(
    register: Any, uri: str, tmp_path: Path, eeg_uv: npt.NDArray[np.float32]
) -> None:
    _, version = register()
    client = MlflowClient(tracking_uri=uri)
    files = [path.relative_to(folder) for folder in [artefacts(client, version)] for path in folder.rglob("*")]
    kinds = {path.suffix for path in files if not str(path).startswith("code/")} - {""}
    assert kinds <= {".safetensors", ".json", ".py", ".txt", ".yaml"}, "no pickle in any disguise"
    assert {path.suffix for path in files if str(path).startswith("code/")} - {""} == {".py"}
    assert {path.parts[2] for path in files if str(path).startswith("code/emod/")} >= {"model", "signal", "tracking"}
    assert not [path for path in files if "ingest" in path.parts or "training" in path.parts]

    np.savez(tmp_path / "given.npz", signal=eeg_uv, channels=np.array(CHANNELS), sfreq_hz=128.0)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"MLFLOW_TRACKING_URI": uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "OMP_NUM_THREADS": "1"}
    bare = tmp_path / "bare"
    bare.mkdir()
    done = subprocess.run(
        [sys.executable, ELSEWHERE, "models:/emod@candidate", tmp_path / "given.npz", tmp_path / "out.json"],
        cwd=bare,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert Path(result["emod"]).is_relative_to(artefacts(client, version))
    assert result["blocked_loaded"] == []

    frame = load_servable(artefacts(client, version) / "artifacts" / "emod").predict(
        eeg_uv, CHANNELS, sfreq_hz=128.0, cleaned=False
    )
    assert list(result["frame"]) == ["valence", "arousal", "p_sad", "p_neutral", "p_happy", "embedding", "flags"]
    for name, values in result["frame"].items():
        if name == "flags":
            assert values == frame[name].to_list()
        else:
            np.testing.assert_allclose(np.array(values), np.stack(frame[name].to_list()), rtol=0, atol=1e-5)

    status, body = result["served"]
    assert status == 200
    np.testing.assert_allclose([row["valence"] for row in body["predictions"]], frame["valence"][:2], atol=1e-5)
    assert result["without_rate"][0] == 400
    assert result["without_rate"][1].startswith("sfreq_hz = 0: give the sampling rate")
    assert result["too_few_electrodes"][0] == 400
    assert result["too_few_electrodes"][1].startswith("channels holds 10 names, signal 9 electrodes")


def test_a_version_says_what_it_is_and_the_alias_moves(register: Any, uri: str, trained_on: TrainedOn) -> None:
    client = MlflowClient(tracking_uri=uri)
    run_id, first = register()
    real = TrainedOn(manifest="0" * 64, simulated=False, corpora=trained_on.corpora)
    _, second = register(trained_on=real, plane=None)
    assert (first, second) == ("1", "2")
    assert str(client.get_model_version_by_alias("emod", "candidate").version) == "2"

    simulated, measured = (client.get_model_version("emod", version) for version in (first, second))
    assert simulated.tags["emod.simulated"] == "true"
    assert simulated.tags["emod.manifest"] == "ab" * 32
    assert simulated.tags["emod.corpora"] == "deap"
    assert simulated.tags["emod.classes"] == "sad,neutral,happy"
    assert simulated.description.startswith("**Trained on simulated recordings")
    assert "Licence: academic use" in simulated.description
    assert "simulated" not in measured.description
    assert "valence" not in measured.description
    assert measured.tags["emod.simulated"] == "false"
    assert simulated.run_id == run_id

    folder = artefacts(client, first)
    logged = [client.get_logged_model(output.model_id) for output in client.get_run(run_id).outputs.model_outputs]
    assert [model.status for model in logged] == ["READY", "READY"]
    assert {Path(model.artifact_location) for model in logged} == {folder, artefacts(client, second)}
    links = [json.loads(model.tags["mlflow.modelVersions"]) for model in logged]
    # MLflow does not promise the order of a run's outputs.
    assert sorted((link["name"], str(link["version"])) for (link,) in links) == [("emod", "1"), ("emod", "2")]
    required = (folder / "requirements.txt").read_text()
    assert "ray" not in required
    assert "mne" not in required
    assert "torch==" in required
    assert "+" not in required
    about = yaml.safe_load((folder / "MLmodel").read_text())
    assert about["run_id"] == run_id
    assert {param["name"] for param in json.loads(about["signature"]["params"])} == {"sfreq_hz", "cleaned"}
    shapes = {spec["name"]: spec["tensor-spec"]["shape"] for spec in json.loads(about["signature"]["inputs"])}
    assert shapes == {"signal": [-1, -1, -1], "channels": [-1]}
    assert list(Path.cwd().iterdir()) == []


def test_a_repeated_run_registers_anew_under_other_serving_settings_alone(register: Any, uri: str) -> None:
    client = MlflowClient(tracking_uri=uri)
    near = ServingSettings(untrained_electrodes="nearest")
    run_id, version = register()
    assert _registered_before(client, "emod", run_id, ServingSettings(), "candidate") == version
    assert _registered_before(client, "emod", run_id, near, "candidate") is None
    _, second = register(serving=near)
    assert _registered_before(client, "emod", run_id, near, "candidate") == second
    assert _registered_before(client, "emod", run_id, ServingSettings(), "candidate") == version
    client.delete_model_version_tag("emod", version, "emod.serving")
    assert _registered_before(client, "emod", run_id, ServingSettings(), "candidate") == version, (
        "from before there were any"
    )
    assert load_servable(artefacts(client, second) / "artifacts" / "emod").card.serving == near


def test_an_upload_that_fails_leaves_no_version(register: Any, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: MlflowClient, model_id: str, local_dir: str) -> None:
        raise MlflowException("disk full")

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", refuse)
    with pytest.raises(MlflowException, match="disk full"):
        register()
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("emod")
    (logged,) = client.search_logged_models([experiment.experiment_id])
    assert logged.status == "FAILED"
    assert client.search_registered_models() == []
