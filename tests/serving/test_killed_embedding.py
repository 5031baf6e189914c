"""An embedding that is killed goes on where it was, and comes out as if nobody had touched it."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emod.catalog import Experiment
from emod.errors import DataError
from emod.shards import ShardStore
from tests.ingest.copies import contents
from tests.serving.conftest import Registry
from tests.serving.test_embed import run

# Its room exports a function of the same name.
embedding: Any = importlib.import_module("emod.serving.embed")

ROOT = Path(__file__).resolve().parents[2]
PIECES = 108  # two windows each


def start(out: Path, store: ShardStore, registry: Registry) -> subprocess.Popen[str]:
    """The job, with a Ray of its own, all of it in a process group of its own."""
    settings = {
        "addresses.store": store.url,
        "addresses.runs": registry.runs,
        "embed.batch": "16",
        "embed.windows_per_object": "2",
    }
    flags = [word for field, value in settings.items() for word in ("--set", f"{field}={value}")]
    environment = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "embed.py"), "--model", "models:/emod/1", "--out", str(out), *flags],
        env=environment | {"PYTHONPATH": str(ROOT / "platform"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def objects(out: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in out.glob("windows/*/*.parquet")}


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_killed_in_the_middle(store: ShardStore, registry: Registry, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    victim = start(out, store, registry)
    try:
        while len(objects(out)) < 5:
            assert victim.poll() is None, f"ended before it was killed: {victim.communicate()}"
            time.sleep(0.005)
    finally:
        os.killpg(victim.pid, signal.SIGKILL)
        victim.communicate()
    before = objects(out)
    assert 5 <= len(before) < PIECES
    assert not (out / "embedding.json").exists(), "nobody takes half of it for all"

    told = []
    for folder in (out, whole):
        process = start(folder, store, registry)
        said, complaints = process.communicate(timeout=600)
        assert process.returncode == 0, complaints
        told.append(said)
    after = objects(out)
    assert len(after) == PIECES
    kept = [path for path, when in before.items() if after[path] == when]
    assert len(kept) == len(before), "what was finished is not computed again"
    assert f"{PIECES - len(before)} objects computed" in told[0]
    assert f"{PIECES} objects computed" in told[1]
    first, second = contents(out), contents(whole)
    assert first.pop("claim.json") != second.pop("claim.json"), "each has an id of its own"
    assert first == second


@pytest.mark.long
def test_a_worker_that_dies_is_replaced_and_its_piece_done_again(
    ray_cluster: None,
    make_experiment: Callable[..., Experiment],
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Mortal(embedding._Embedder):
        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            if row["piece"] == 2 and not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(row)

    monkeypatch.setattr(embedding, "_Embedder", Mortal)
    embedded, _ = run(make_experiment(), registry, tmp_path / "out", ["deap"])
    assert (tmp_path / "died").exists()
    assert embedded.summary["windows"] == 72


@pytest.mark.long
def test_a_piece_that_kills_every_worker_ends_in_one_line(
    ray_cluster: None,
    make_experiment: Callable[..., Experiment],
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Deadly(embedding._Embedder):
        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(row)

    monkeypatch.setattr(embedding, "_Embedder", Deadly)
    monkeypatch.setattr(embedding, "_MOST_RETRIES", 1)
    with pytest.raises(DataError, match=r"2 workers died over one piece; check the memory .* embed\.batch"):
        run(make_experiment(), registry, tmp_path / "out", ["deap"])
