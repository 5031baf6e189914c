"""Experiments on the tiny store, MLflow databases that are already migrated, and one run on a real cluster."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient

from emod.catalog import EmodConfig, Experiment
from emod.catalog.load import validate
from emod.evaluating import Evaluated, evaluate_methods
from emod.shards import ShardStore
from emod.tracking import ensure_run
from emod.training import pretrain
from tests.training.tiny_store import METHODS, SHAPES_64, TINY, PretrainRun, write_tiny_store


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums in one order, and two cores left for Ray's workers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("store"))
    write_tiny_store(url)
    return url


@pytest.fixture
def store(store_url: str) -> ShardStore:
    opened = ShardStore.open(store_url)
    assert opened.verify() == []
    return opened


@pytest.fixture(scope="session")
def tiny() -> EmodConfig:
    """With dropout, so that resuming has randomness to get right."""
    return EmodConfig(**TINY)


@pytest.fixture(scope="session")
def make_experiment(store_url: str) -> Callable[..., Experiment]:
    """An experiment on the store: runs folder, then sections to change."""

    def make(runs: Path | str, **sections: Any) -> Experiment:
        raw = {
            "name": "tests",
            "description": "tiny",
            "corpora": ["deap", "seed_iv"],
            "addresses": {"store": store_url, "runs": str(runs)},
            "model": TINY,
        }
        return validate(Experiment, raw | sections, origin="test")

    return make


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    database = tmp_path_factory.mktemp("template") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture(scope="session")
def new_runs(migrated_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], tuple[Path, str]]:
    """Makes a fresh runs folder with its MLflow database: (folder, MLflow's URI)."""

    def make() -> tuple[Path, str]:
        folder = tmp_path_factory.mktemp("runs")
        shutil.copy(migrated_database, folder / "mlflow.db")
        return folder, f"sqlite:///{folder / 'mlflow.db'}"

    return make


@pytest.fixture(scope="session")
def make_pretrain_experiment(make_experiment: Callable[..., Experiment]) -> Callable[..., Experiment]:
    """Two workers, twelve steps, a checkpoint at each third; seed_iv's validation and test subjects stay unseen."""

    def make(runs: Path, *, finetune: dict[str, Any] | None = None, **changes: Any) -> Experiment:
        pretrain = {
            "run_name": "backbone",
            "epochs": 2,
            "steps_per_epoch": 6,
            "rounds": 1,
            "learning_rate": 5.0e-3,
            "workers": 2,
            "checkpoint_every_steps": 3,
            "watch_every_steps": 5,
            "max_failures": 1,
        }
        tune = {
            "run_name": "tuned",
            "corpus": "seed_iv",
            "split": {"validation": 0.34, "test": 0.34},
            "epochs": 4,
            "batch": 8,
            "learning_rate": 1.0e-2,
            "dropout": 0.1,
            "max_failures": 1,
        }
        return make_experiment(runs, pretrain=pretrain | changes, finetune=tune | (finetune or {}))

    return make


@pytest.fixture(scope="session")
def pretrain_run(
    ray_cluster: None,
    store_url: str,
    make_pretrain_experiment: Callable[..., Experiment],
    new_runs: Callable[[], tuple[Path, str]],
) -> PretrainRun:
    runs, uri = new_runs()
    experiment = make_pretrain_experiment(runs)
    run_id = ensure_run(uri, "tests", "backbone", {})
    pretrained = pretrain(experiment, ShardStore.open(store_url), tracking=(uri, run_id), advance=lambda *told: None)
    return PretrainRun(experiment, uri, run_id, pretrained)


@pytest.fixture(scope="module")
def evaluation_store(
    tmp_path_factory: pytest.TempPathFactory, make_experiment: Callable[..., Experiment]
) -> ShardStore:
    url = str(tmp_path_factory.mktemp("evaluated"))
    write_tiny_store(url, SHAPES_64, make_experiment("unused").signal.model_dump(mode="json"))
    return ShardStore.open(url)


@pytest.fixture(scope="module")
def evaluated(
    ray_cluster: None,
    evaluation_store: ShardStore,
    make_experiment: Callable[..., Experiment],
    new_runs: Callable[[], tuple[Path, str]],
) -> Evaluated:
    runs, _ = new_runs()
    tune = {
        "corpus": "seed_iv",
        "targets": ["emotion", "plane"],
        "split": {"protocol": "subject_folds", "folds": 3, "validation": 0.3},
        "epochs": 2,
        "batch": 8,
        "learning_rate": 1e-2,
    }
    experiment = make_experiment(
        runs,
        corpora=["seed_iv"],
        addresses={"store": evaluation_store.url, "runs": str(runs)},
        finetune=tune,
        evaluate={"methods": METHODS, "seeds": 2},
    )
    return evaluate_methods(experiment, evaluation_store)
