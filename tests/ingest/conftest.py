"""What the tests of ingest share: small copies, made once, and tasks that run without Ray."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from emod.ingest import pipeline
from tests.ingest.copies import simulate


@pytest.fixture
def serial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks run in this process, one after the other, and find whatever the test has put in their way."""

    def run(items: Sequence[Any], task: Callable[[Any], dict[str, Any]], num_cpus: float) -> Iterator[dict[str, Any]]:
        for item in items:
            yield json.loads(json.dumps(task(item)))

    monkeypatch.setattr(pipeline, "_run", run)


@pytest.fixture(scope="session")
def small_copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Simulated DEAP and DASPS; read only."""
    base = tmp_path_factory.mktemp("copies")
    return {name: simulate(name, base / name) for name in ("deap", "dasps")}


@pytest.fixture
def deap_copy(small_copies: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the simulated DEAP that a test may damage."""
    return Path(shutil.copytree(small_copies["deap"], tmp_path / "DEAP"))
