"""A migrated sqlite database made once and copied, a small network, and the card that goes with it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient

from emod.catalog import SignalSettings
from emod.model import Emod, EmodClassifier, EmodConfig, PlaneHead
from emod.tracking import TrainedCorpus, TrainedOn

CHANNELS = ("Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2")
SFREQ_HZ = 128.0


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    database = tmp_path_factory.mktemp("template") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture
def uri(migrated_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh database; the current folder is elsewhere, empty, and must stay so."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "runs").mkdir()
    shutil.copy(migrated_database, tmp_path / "runs" / "mlflow.db")
    return f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"


@pytest.fixture(scope="session")
def classifier() -> EmodClassifier:
    torch.manual_seed(0)
    config = EmodConfig(
        width=16, layers=1, heads=4, feed_forward=32, kernel=5, projection_width=8, projection_hidden=16
    )
    return EmodClassifier(Emod(config), 3).eval()


@pytest.fixture(scope="session")
def plane() -> PlaneHead:
    torch.manual_seed(1)
    return PlaneHead(16).eval()


@pytest.fixture(scope="session")
def trained_on() -> TrainedOn:
    deap = TrainedCorpus(channels=CHANNELS, sfreq_hz=SFREQ_HZ, licence="academic use")
    return TrainedOn(manifest="ab" * 32, simulated=True, corpora={"deap": deap})


@pytest.fixture(scope="session")
def settings() -> SignalSettings:
    return SignalSettings(window_s=2.0)


@pytest.fixture(scope="session")
def eeg_uv() -> npt.NDArray[np.float32]:
    """Pink-ish noise of 10 microvolt on each electrode, with an offset and a common part that cleaning must remove."""
    rng = np.random.default_rng(3)
    walk = rng.normal(size=(40, len(CHANNELS), 256)).cumsum(axis=-1)
    noise = rng.normal(size=walk.shape)
    offset = rng.normal(0, 200, size=(40, len(CHANNELS), 1))
    return (walk + 8 * noise + 5 * rng.normal(size=(40, 1, 256)) + offset).astype(np.float32)
