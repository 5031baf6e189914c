"""What tests of training have, on a store that says how its windows were cleaned."""

from __future__ import annotations

from pathlib import Path

import pytest

from emod.catalog import SignalSettings
from tests.training.conftest import _one_thread, make_experiment, migrated_database, new_runs, store
from tests.training.tiny_store import write_tiny_store

__all__ = ["_one_thread", "make_experiment", "migrated_database", "new_runs", "store"]


@pytest.fixture(scope="session")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url: Path = tmp_path_factory.mktemp("store")
    write_tiny_store(str(url), settings=SignalSettings().model_dump(mode="json"))
    return str(url)
