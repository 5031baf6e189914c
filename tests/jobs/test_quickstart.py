"""The whole main job, small: from recordings in a real S3 bucket to a registered model that another process loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

REPOSITORY = Path(__file__).resolve().parents[2]

SMALL = (
    "simulate.deap.subjects=3",
    "simulate.deap.trials=6",
    "simulate.seed_iv.subjects=4",
    "simulate.seed_iv.trials=8",
    "pretrain.steps_per_epoch=4",
    "pretrain.checkpoint_every_steps=2",
    "finetune.epochs=2",
)

# Runs where `emod` is not on the path: the registered model brings its own code.
LOAD = """
import sys, json, numpy as np, mlflow
assert not any("platform" in entry for entry in sys.path), sys.path
model = mlflow.pyfunc.load_model("models:/emod@candidate")
rng = np.random.default_rng(0)
signal = rng.normal(0, 10, (2, 3, 400)).astype("float32")
answer = model.predict({"signal": signal, "channels": np.array(["Fp1", "Cz", "O2"])}, params={"sfreq_hz": 200.0})
print(json.dumps({
    "columns": list(answer.columns),
    "rows": len(answer),
    "p": float(answer.filter(like="p_").iloc[0].sum()),
    "finite": bool(np.isfinite(answer["valence"]).all()),
}))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, s3_server: Any) -> dict[str, Any]:
    """One small run with recordings, shards and checkpoints on s3://, and MLflow in a sqlite file."""
    out = tmp_path_factory.mktemp("quickstart")
    uri = f"sqlite:///{out}/mlflow.db"
    addresses = {
        "store": s3_server.url("main-job", "shards"),
        "runs": s3_server.url("main-job", "runs"),
        "data.deap": s3_server.url("main-job", "deap"),
        "data.seed_iv": s3_server.url("main-job", "seed_iv"),
    }
    overrides = [*SMALL, *(f"addresses.{key}={url}" for key, url in addresses.items())]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "EMOD_CACHE": str(out / "cache")}
    command = [sys.executable, str(REPOSITORY / "jobs" / "quickstart.py"), "--out", str(out)]
    command += [flag for override in overrides for flag in ("--set", override)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=out, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return {"out": out, "uri": uri, "stdout": done.stdout, "stderr": done.stderr, "server": s3_server}


def test_everything_lies_in_the_bucket(finished: dict[str, Any]) -> None:
    folder = finished["server"].path("main-job")
    assert len(list(folder.glob("shards/manifest-000001*.json"))) == 1
    assert sorted(path.name for path in folder.glob("shards/shards/*")) == ["deap", "seed_iv"]
    assert not [path for path in folder.glob("shards/staging/**/*") if path.is_file()]
    assert (folder / "runs" / "quickstart-pretrain" / "model" / "provenance.json").is_file()
    assert not [path for path in folder.rglob("*") if path.suffix in {".pkl", ".pt", ".bin", ".pickle"}]


def test_pretraining_left_the_held_out_subjects_out(finished: dict[str, Any]) -> None:
    folder = finished["server"].path("main-job", "runs", "quickstart-pretrain", "model")
    seen = json.loads((folder / "provenance.json").read_text())["seen"]
    assert seen["deap"] == ["s01", "s02", "s03"]
    client = MlflowClient(finished["uri"])
    (run,) = [run for run in search(client) if run.info.run_name == "quickstart-finetune-emotion"]
    split = json.loads(Path(client.download_artifacts(run.info.run_id, "split.json")).read_text())
    held_out = {key.removeprefix("seed_iv/") for role in ("validation", "test") for key in split["subjects"][role]}
    assert held_out
    assert not held_out & set(seen["seed_iv"])


def test_runs_say_what_they_were(finished: dict[str, Any]) -> None:
    client = MlflowClient(finished["uri"])
    runs = {run.info.run_name: run for run in search(client)}
    pretrain, finetune = runs["quickstart-pretrain"], runs["quickstart-finetune-emotion"]
    assert [point.step for point in client.get_metric_history(pretrain.info.run_id, "loss")] == [1, 2, 3, 4]
    assert {"learning_rate", "windows_per_s", "data_wait_share", "memory_mb"} <= set(pretrain.data.metrics)
    assert {"test/balanced_accuracy", "test/kappa", "test/weighted_f1"} <= set(finetune.data.metrics)
    for run in (pretrain, finetune):
        assert run.info.status == "FINISHED"
        assert run.data.tags["emod.simulated"] == "true"
        assert len(run.data.tags["emod.manifest"]) == 64
        assert run.inputs.dataset_inputs[0].dataset.digest == run.data.tags["emod.manifest"][:36]


def test_the_registered_model_loads_where_this_repository_is_not(finished: dict[str, Any], tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    # -P and an empty folder: neither the script's folder nor the current one is on the path.
    editable = "import sys; sys.path = [entry for entry in sys.path if not entry.rstrip('/').endswith('platform')]\n"
    done = subprocess.run(
        [sys.executable, "-P", "-c", editable + LOAD],
        capture_output=True,
        text=True,
        env={**environment, "MLFLOW_TRACKING_URI": finished["uri"]},
        cwd=tmp_path,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert answer["rows"] == 2
    assert answer["p"] == pytest.approx(1.0, abs=1e-5)
    assert answer["finite"]
    assert {"valence", "arousal", "p_fear", "p_happy", "p_neutral", "p_sad", "embedding", "flags"} == set(
        answer["columns"]
    )


def test_the_pictures_are_there(finished: dict[str, Any]) -> None:
    pictures = {path.name: path.read_bytes() for path in (finished["out"] / "pictures").iterdir()}
    assert set(pictures) == {
        "alpha.png", "cleaning.png", "confusion-emotion.png", "loss.png", "plane.png", "results.png"
    }  # fmt: skip
    assert all(data.startswith(b"\x89PNG") for data in pictures.values())


def test_the_terminal_says_that_it_was_simulated(finished: dict[str, Any]) -> None:
    assert "SIMULATED recordings" in finished["stdout"]
    assert "models:/emod@candidate" in finished["stdout"]
    assert "Traceback" not in finished["stderr"]


def search(client: MlflowClient) -> list[Any]:
    return list(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]))
