"""jobs/pretrain.py on a full disk and on a bad window: one line, exit code 3, and once mended the run goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from emod.catalog import load_experiment
from emod.model import Emod
from emod.shards import ShardStore
from emod.training import load_pretrained
from emod.training.checkpoint import fetch_newest, load_checkpoint
from tests.training.small_disk import enlarge, little_space
from tests.training.tiny_store import TINY, write_tiny_store

JOB = Path(__file__).resolve().parents[2] / "jobs" / "pretrain.py"
STEPS = 120

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def cleaned_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whose windows are cleaned as the shipped experiment says."""
    folder = tmp_path_factory.mktemp("stops") / "store"
    write_tiny_store(str(folder), settings=load_experiment("pretrain").signal.model_dump(mode="json"))
    return folder


def pretrain(store: Path, runs: Path, uri: str) -> subprocess.CompletedProcess[str]:
    overrides = [
        "corpora=[deap, seed_iv]",
        f"addresses.store={store}",
        f"addresses.runs={runs}",
        f"model={TINY}",
        "pretrain.rounds=1",
        "pretrain.epochs=1",
        f"pretrain.steps_per_epoch={STEPS}",
        "pretrain.checkpoint_every_steps=10",
        "pretrain.gpu=false",
        "pretrain.max_failures=3",
        "pretrain.watch_subjects=0.0",  # a window that is watched stops the run before its first step
    ]
    return subprocess.run(
        [sys.executable, str(JOB), *(f"--set={override}" for override in overrides)],
        env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        | {"PYTHONPATH": str(JOB.parents[1] / "platform"), "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": uri},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def assert_stopped(done: subprocess.CompletedProcess[str], *words: str) -> int:
    """One line after those of the progress, exit code 3; the step it names."""
    assert done.returncode == 3, done.stderr
    last = done.stderr.splitlines()[-1]
    for word in words:
        assert word in last
    assert "Traceback" not in done.stderr
    assert done.stderr.count("pretrain.py: ") == 1
    return int(last.partition("step ")[2].partition(":")[0])


def last_step(runs: Path, folder: Path) -> int:
    """Of the newest whole checkpoint, which must load."""
    folder.mkdir()
    assert fetch_newest(str(runs / "emod-pretrain" / "checkpoints"), folder) is not None
    model = Emod(load_experiment("pretrain", [f"model={TINY}"]).model)
    position = load_checkpoint(folder, model, torch.optim.AdamW(model.parameters()))
    step: int = position["next_step"]
    return step


def assert_one_run(uri: str) -> None:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("pretrain")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    for name in ("loss", "gradient_norm"):
        assert [p.step for p in client.get_metric_history(run.info.run_id, name)] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("full", ["checkpoints", "metrics"])
def test_a_full_disk(cleaned_store: Path, migrated_database: Path, tmp_path: Path, full: str) -> None:
    """Enlarged, it takes up the run where the last checkpoint is."""
    database = migrated_database.stat().st_size // 1024
    room = 150 if full == "checkpoints" else database + 150
    with little_space("disk", tmp_path / "small", kilobytes=room) as small:
        runs = small / "runs" if full == "checkpoints" else tmp_path / "runs"
        place = tmp_path if full == "checkpoints" else small
        shutil.copy(migrated_database, place / "mlflow.db")
        uri = f"sqlite:///{place / 'mlflow.db'}"
        what = "its checkpoint in" if full == "checkpoints" else f"metrics in MLflow at {uri}"
        stopped = assert_stopped(pretrain(cleaned_store, runs, uri), f"no space for {what}", "same command again")
        assert 0 < last_step(runs, tmp_path / "before") < stopped
        enlarge(small, kilobytes=8 * room)
        done = pretrain(cleaned_store, runs, uri)
        assert done.returncode == 0, done.stderr
        assert last_step(runs, tmp_path / "after") == STEPS
        load_pretrained(str(runs), "emod-pretrain")
        assert_one_run(uri)


def test_a_bad_window(cleaned_store: Path, migrated_database: Path, tmp_path: Path) -> None:
    """Mended in the store, the run ends as if nothing had been."""
    store, uri = tmp_path / "store", f"sqlite:///{tmp_path / 'mlflow.db'}"
    shutil.copytree(cleaned_store, store)
    shutil.copy(migrated_database, tmp_path / "mlflow.db")
    opened = ShardStore.open(str(store))
    shard = store / opened.manifest.corpora["seed_iv"].shards[1].tensors
    content = shard.read_bytes()
    samples = opened.windows("seed_iv", [60]).astype("<f2").tobytes()
    assert content.count(samples) == 1
    shard.write_bytes(content.replace(samples, b"\xff" * 8 + samples[8:]))
    window = opened.metadata("seed_iv")["window_id"][60].as_py()
    stopped = assert_stopped(pretrain(store, tmp_path / "runs", uri), f"corpus seed_iv: windows {window} hold values")
    if stopped > 10:
        assert last_step(tmp_path / "runs", tmp_path / "before") == (stopped - 1) // 10 * 10
    shard.write_bytes(content)
    done = pretrain(store, tmp_path / "runs", uri)
    assert done.returncode == 0, done.stderr
    assert_one_run(uri)
