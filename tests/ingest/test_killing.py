"""SIGKILL at chosen moments, each followed by a re-run: no window lost, none twice, the store whole at every moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from emod.catalog import Experiment, SimulateSettings
from emod.catalog.signal import IcaSettings, SignalSettings
from emod.ingest import pipeline
from emod.shards import ShardStore, list_manifests, newest_manifest
from tests.ingest.copies import make_experiment, rows, run, simulate
from tests.ingest.interrupted import MOMENTS

ROOT = Path(__file__).resolve().parents[2]
SIGNAL = SignalSettings(window_s=2.0, ica=IcaSettings(n_components=8))
COPY = SimulateSettings(subjects=8, trials=3, time_scale=0.1)  # 18 s a recording

# What the stack of the paused process must show.
INSIDE = {
    "ica": ("preprocessing/ica.py:fit", "ingest/pipeline.py:__call__"),
    "part": ("shards/writer.py:write_part", "ingest/pipeline.py:__call__"),
    "shard": ("shards/writer.py:_write_shard", "shards/writer.py:pack_shard"),
    "tensors without metadata": ("shards/writer.py:_write_shard",),
    "manifest": ("shards/versions.py:publish", "storage.py:create_bytes"),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate("deap", tmp_path_factory.mktemp("killing") / "DEAP", COPY)


@pytest.fixture(scope="module")
def undisturbed(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Rows of an ingest that nobody killed, computed in one process, without Ray."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_run", lambda items, task, cpus: [json.loads(json.dumps(task(i))) for i in items])
        manifest, _ = run(experiment_of(store, copy))
    entry = manifest.corpora["deap"]
    assert not [note for note in entry.cleaning["notes"] if "ICA" in note], "it was fitted in every recording"
    assert len(entry.shards) == 2
    return rows(store, "deap")


def experiment_of(store: Path, copy: Path) -> Experiment:
    return make_experiment(store, {"deap": copy}, signal=SIGNAL)


def start(experiment: Experiment, folder: Path, *moment: str) -> subprocess.Popen[str]:
    """An ingest with a Ray of its own, all of it in a process group of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.json").write_text(experiment.model_dump_json())
    source = os.pathsep.join((str(ROOT / "platform"), str(ROOT)))
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "tests" / "ingest" / "interrupted.py"),
            folder / "experiment.json",
            folder,
            *moment,
        ],
        env=environment | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill_at(moment: str, experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Kills the whole group once one of its processes pauses at the moment; what that process told of itself."""
    folder = folder / uuid.uuid4().hex  # workers of the one killed before may still be about to say where they are
    marker = folder / "reached.json"
    victim = start(experiment, folder, moment)
    try:
        for _ in range(2400):
            if marker.exists():
                break
            assert victim.poll() is None, f"ended before {moment}: {victim.communicate()}"
            time.sleep(0.05)
        else:
            pytest.fail(f"never came to {moment}")
        told: dict[str, Any] = json.loads(marker.read_text())
    finally:
        os.killpg(victim.pid, signal.SIGKILL)
        victim.communicate()
    assert victim.returncode == -signal.SIGKILL
    assert told["moment"] == moment
    for name in INSIDE.get(moment, ()):
        assert any(name in frame for frame in told["stack"]), f"{name} is not in {told['stack']}"
    return told


def finish(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """The same ingest, left alone."""
    done = start(experiment, folder)
    out, err = done.communicate(timeout=300)
    assert done.returncode == 0, err
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


def inside(told: dict[str, Any]) -> str:
    """The innermost functions that were running, outermost first, without this test's own."""
    frames = [frame for frame in told["stack"] if "tests/ingest" not in frame]
    return " > ".join("/".join(frame.split("/")[-2:]) for frame in frames[-3:])


def wait_until_gone(pid: int) -> None:
    """A worker outlives its driver by the moment in which it notices."""
    for _ in range(1200):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} outlives its cluster")


def assert_whole(store: Path, expected: list[Any]) -> None:
    assert rows(store, "deap") == expected
    assert ShardStore.open(str(store)).verify() == []
    assert len({row["window_id"] for row, _ in expected}) == len(expected)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_killed_in_ica_then_in_a_shard_then_before_the_manifest(
    serial: None, copy: Path, undisturbed: list[Any], tmp_path: Path
) -> None:
    """Three kills of one ingest, each followed by a re-run; the last of these is let through."""
    store = tmp_path / "store"
    experiment = experiment_of(store, copy)
    for moment in ("ica", "shard", "shards without manifest"):
        told = kill_at(moment, experiment, tmp_path / "driver")
        assert newest_manifest(str(store)) is None, "nothing is seen before all of it is there"
        print(f"killed at {moment}, in {inside(told)}")
    manifest, notes = run(experiment)
    assert manifest.version == 1
    assert [note.rpartition(": ")[2] for note in notes] == ["finished before"] * COPY.subjects
    assert_whole(store, undisturbed)
    assert [path.name for path in (store / "staging").glob("*/*.arrow")] == []


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment(copy: Path, undisturbed: list[Any], tmp_path: Path, moment: str) -> None:
    """Each kill twice: of the first version, and of a second one with changed settings over it."""
    store, folder = tmp_path / "store", tmp_path / "driver"
    experiment = experiment_of(store, copy)
    told = kill_at(moment, experiment, folder)
    published = moment == "manifest without clearing up"
    assert (newest_manifest(str(store)) is not None) == published
    if published:
        assert_whole(store, undisturbed)
    result = finish(experiment, folder)
    assert result["version"] == 1
    kept = sum(note.endswith("finished before") for note in result["notes"])
    print(f"killed at {moment}, in {inside(told)}; the re-run found {kept} recordings finished")
    assert_whole(store, undisturbed)
    assert len(list_manifests(str(store))) == 1

    changed = make_experiment(store, {"deap": copy}, signal=SIGNAL.model_copy(update={"window_s": 1.0}))
    kill_at(moment, changed, folder)
    if not published:
        assert_whole(store, undisturbed)  # the last complete version, to the end
    assert finish(changed, folder)["version"] == 2
    assert len(rows(store, "deap")) == 2 * len(undisturbed)
    assert ShardStore.open(str(store)).verify() == []
    wait_until_gone(told["pid"])


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("twin", [False, True])
def test_two_drivers_at_once(copy: Path, undisturbed: list[Any], tmp_path: Path, twin: bool) -> None:
    """Two processes, each with a Ray of its own, into one store: other corpora, or the very same one."""
    store = tmp_path / "store"
    mine = experiment_of(store, copy)
    if twin:
        theirs = mine
    else:
        dasps = simulate("dasps", tmp_path / "dasps", SimulateSettings(subjects=2, trials=2, time_scale=0.2))
        theirs = make_experiment(store, {"dasps": dasps}, signal=SIGNAL)
    drivers = [start(experiment, tmp_path / name) for name, experiment in (("a", mine), ("b", theirs))]
    for driver in drivers:
        _, err = driver.communicate(timeout=600)
        assert driver.returncode == 0, err
    assert_whole(store, undisturbed)
    newest = newest_manifest(str(store))
    assert newest is not None
    assert tuple(newest.corpora) == (("deap",) if twin else ("dasps", "deap"))
    assert newest.version == len(list_manifests(str(store))) == (1 if twin else 2)
