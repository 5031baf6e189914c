"""A small registered model, a store that fits it, and the experiment that embeds one with the other."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from emod.catalog import EmodConfig, Experiment, SignalSettings
from emod.catalog.load import validate
from emod.catalog.signal import IcaSettings
from emod.model import Emod, EmodClassifier, PlaneHead
from emod.shards import ShardStore
from emod.tracking import Registered, TrainedCorpus, TrainedOn, ensure_run, fetch_registered, register_model
from tests.jobs.conftest import job, no_ray
from tests.training.conftest import _one_thread
from tests.training.tiny_store import SHAPES, TINY, write_tiny_store

__all__ = ["_one_thread", "job", "no_ray"]

CLASSES = ("happy", "sad", "fear")
SIGNAL = SignalSettings(window_s=2.0, ica=IcaSettings(enabled=False))


@dataclass(frozen=True)
class Registry:
    """Where models are: a folder of runs with MLflow's database."""

    runs: str
    uri: str

    def register(self, seed: int) -> None:
        """Another version, of weights drawn with this seed."""
        torch.manual_seed(seed)
        model = EmodClassifier(Emod(EmodConfig(**TINY)), len(CLASSES)).eval()
        register_model(
            uri=self.uri,
            run_id=ensure_run(self.uri, "tests", "tuned", {}),
            model=model,
            plane=PlaneHead(model.backbone.config.width).eval(),
            classes=CLASSES,
            settings=SIGNAL,
            trained_on=TrainedOn(
                manifest="ab" * 32,
                simulated=True,
                corpora={"deap": TrainedCorpus(channels=SHAPES["deap"][0], sfreq_hz=SHAPES["deap"][1], licence="x")},
            ),
        )

    def fetch(self, wanted: str = "models:/emod/1") -> Registered:
        return fetch_registered(self.uri, wanted, field="--model")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """With two versions of one name; the newer one is the candidate."""
    runs = tmp_path_factory.mktemp("registry")
    made = Registry(str(runs), f"sqlite:///{runs / 'mlflow.db'}")
    made.register(0)
    made.register(1)
    return made


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    """72 windows of each of three corpora, in two shards each."""
    url = str(tmp_path_factory.mktemp("store"))
    write_tiny_store(url, settings=SIGNAL.model_dump(mode="json"))
    return ShardStore.open(url)


@pytest.fixture(scope="session")
def make_experiment(store: ShardStore, registry: Registry) -> Callable[..., Experiment]:
    def make(**sections: Any) -> Experiment:
        raw = {
            "name": "tests",
            "description": "tiny",
            "corpora": ["deap", "seed_iv"],
            "addresses": {"store": store.url, "runs": registry.runs},
            "embed": {"batch": 16, "windows_per_object": 25},
        }
        return validate(Experiment, raw | sections, origin="test")

    return make
