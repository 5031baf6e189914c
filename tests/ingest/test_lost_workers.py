"""Workers and nodes that die under an ingest: what they were at is done elsewhere, once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from emod.catalog import SimulateSettings
from emod.catalog.experiment import IngestSettings
from emod.catalog.signal import IcaSettings, SignalSettings
from emod.corpora import RecordingRef
from emod.errors import DataError
from emod.ingest import pipeline
from emod.shards import ShardStore
from tests.ingest.copies import make_experiment, rows, run, simulate
from tests.nodes import ROOT, run_driver


def serially(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pipeline, "_run", lambda items, task, cpus: [json.loads(json.dumps(task(i))) for i in items])


@pytest.mark.long
def test_a_node_that_is_lost_in_the_middle(tmp_path: Path) -> None:
    """SIGKILL of a raylet while a recording of its node is inside ICA."""
    copy = simulate("deap", tmp_path / "DEAP", SimulateSettings(subjects=4, trials=3, time_scale=0.1))
    experiment = make_experiment(
        tmp_path / "store", {"deap": copy}, signal=SignalSettings(window_s=2.0, ica=IcaSettings(n_components=8))
    )
    (tmp_path / "experiment.json").write_text(experiment.model_dump_json())
    told = run_driver("ingest/lost_node.py", tmp_path / "experiment.json", tmp_path, timeout_s=300)
    (killed,) = told["killed"]
    assert any("preprocessing/ica.py:fit" in frame for frame in killed["stack"])
    assert told["alive"] == 2, "the head and the other node"
    assert sorted(told["notes"]) == [f"deap s0{subject}_1: 9 windows" for subject in (1, 2, 3, 4)]
    with pytest.MonkeyPatch.context() as patch:
        serially(patch)
        run(make_experiment(tmp_path / "other", {"deap": copy}, signal=experiment.signal))
    assert rows(tmp_path / "store", "deap") == rows(tmp_path / "other", "deap")
    assert ShardStore.open(str(tmp_path / "store")).verify() == []


def test_a_worker_that_dies_is_replaced(ray_cluster: None, small_copies: dict[str, Path], tmp_path: Path) -> None:
    """SIGKILL of the process that is at a recording; the recording is done by another, and so is its part."""
    pids = tmp_path / "pids"
    pids.mkdir()

    def task(item: int) -> dict[str, Any]:
        mine = pids / f"{item}-{os.getpid()}"
        mine.touch()
        if item == 1 and len(list(pids.glob("1-*"))) == 1:
            time.sleep(60)
        return {"item": item, "attempt": pipeline._attempt()}

    def kill() -> None:
        while not (found := list(pids.glob("1-*"))):
            time.sleep(0.02)
        os.kill(int(found[0].name.partition("-")[2]), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    done = sorted((row["item"], row["attempt"]) for row in pipeline._run([0, 1, 2], task, 1.0))
    assert done == [(0, 0), (1, 1), (2, 0)]


def test_a_recording_that_kills_its_readers_is_given_up(
    ray_cluster: None, small_copies: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that crashes a library, or takes all memory, ends neither in a loop nor the other recordings."""
    experiment = make_experiment(tmp_path / "store", {"deap": small_copies["deap"]})
    most = 2

    class Deadly(pipeline._RecordingTask):
        def __call__(self, ref: RecordingRef) -> dict[str, Any]:
            pipeline._MOST_ATTEMPTS = most  # of the worker's own copy of the module
            if ref.subject == "s02" and pipeline._attempt() < most:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(ref)

    monkeypatch.setattr(pipeline, "_RecordingTask", Deadly)
    manifest, _ = run(experiment)
    entry = manifest.corpora["deap"]
    (problem,) = entry.problems
    assert (problem["subject"], problem["code"]) == ("s02", "unreadable")
    assert "2 workers died over it" in (problem["message"] or "")
    assert {key: one.n_windows for key, one in entry.recordings.items()} == {"s01_1": 6, "s02_1": 0, "s03_1": 6}


def test_what_is_wrong_with_the_data_is_not_tried_again(ray_cluster: None, tmp_path: Path) -> None:
    def task(item: int) -> dict[str, Any]:
        with (tmp_path / "attempts").open("a") as attempts:
            attempts.write("x")
        raise DataError("s01.dat: bad; copy it again")

    with pytest.raises(DataError, match=r"s01\.dat: bad"):
        list(pipeline._run([0], task, 1.0))
    time.sleep(1)
    assert (tmp_path / "attempts").read_text() == "x"


def test_a_part_that_is_there_is_not_made_again(
    small_copies: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task whose answer was lost with its node runs again; its work was not lost."""
    experiment = make_experiment(
        tmp_path / "store", {"deap": small_copies["deap"]}, ingest=IngestSettings(shard_mb=1, strict=True)
    )
    (plan,) = pipeline.plan_ingest(experiment)
    task = pipeline._RecordingTask(plan, experiment, str(tmp_path / "staging"))
    first = task(plan.references[0])
    monkeypatch.setattr(task._corpus, "read", lambda ref: 1 / 0)
    assert task(plan.references[0]) == first


def test_a_worker_of_an_ingest_does_without_torch() -> None:
    """It would cost each of them 200 MB and two seconds."""
    code = "import sys, emod.ingest; print({'torch', 'mlflow'} & set(sys.modules))"
    source = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=source, check=True)
    assert done.stdout.strip() == "set()"


def test_a_result_is_told_as_soon_as_it_is_there(ray_cluster: None, tmp_path: Path) -> None:
    """Recordings take minutes to hours; a bar that is one behind says nothing of the last."""
    seen = tmp_path / "seen"

    def task(item: int) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while item and not seen.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return {"item": item, "first was told": seen.exists()}

    told = []
    for row in pipeline._run([0, 1], task, 1.0):
        told.append(row)
        seen.touch()
    assert told[-1] == {"item": 1, "first was told": True}
