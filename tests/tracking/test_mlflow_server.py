"""Runs and registry through a real MLflow server on loopback, artefacts proxied by it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import numpy.typing as npt
import pytest
from mlflow import MlflowClient

from emod.catalog import Experiment, SignalSettings
from emod.model import EmodClassifier, PlaneHead
from emod.tracking import MetricLog, TrainedOn, ensure_run, finish, log_experiment, log_lineage, register_model
from tests.servers import mlflow_server

CHANNELS = ("Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2")


@pytest.fixture
def server(migrated_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    shutil.copy(migrated_database, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with mlflow_server(tmp_path / "mlflow.db", tmp_path) as address:
        yield address


def test_a_run_and_its_model_through_a_server(
    server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    classifier: EmodClassifier,
    plane: PlaneHead,
    settings: SignalSettings,
    trained_on: TrainedOn,
    eeg_uv: npt.NDArray[np.float32],
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    client = MlflowClient(tracking_uri=server)
    run_id = ensure_run(server, "emod", "pretrain", {})
    experiment = Experiment(name="small", description="on a server", corpora=("deap",))
    log_experiment(client, run_id, experiment, world_size=1)
    log_lineage(client, run_id, store_url="s3://b/x", manifest_hash="ab" * 32, simulated=True, corpora=["deap"])
    for start in (0, 3):
        log = MetricLog(client, run_id)
        for step in range(start, start + 5):
            log.log(step, {"loss": float(step)})
        log.flush()
        finish(client, run_id, "FINISHED")
        assert ensure_run(server, "emod", "pretrain", {}) == run_id
        log_experiment(client, run_id, experiment, world_size=1)
    assert [metric.step for metric in client.get_metric_history(run_id, "loss")] == list(range(8))
    assert client.get_run(run_id).data.params["pretrain.epochs"] == "100"
    assert "name: small" in Path(client.download_artifacts(run_id, "experiment.yaml")).read_text()

    version = register_model(
        uri=server,
        run_id=run_id,
        model=classifier,
        plane=plane,
        classes=("sad", "neutral", "happy"),
        settings=settings,
        trained_on=trained_on,
    )
    assert version == "1"
    assert list((tmp_path / "bucket").rglob("model.safetensors"))

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    # Loading puts the model's own copy of emod, a few rooms only, first on sys.path; spawned processes inherit that.
    monkeypatch.setattr(sys, "path", [*sys.path])
    model = mlflow.pyfunc.load_model("models:/emod@candidate")
    frame = model.predict({"signal": eeg_uv[:2], "channels": np.array(CHANNELS)}, params={"sfreq_hz": 128.0})
    assert frame["p_happy"].between(0, 1).all()
    assert list((tmp_path / "elsewhere").iterdir()) == []
