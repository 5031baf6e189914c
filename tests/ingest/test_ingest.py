"""Ingest on a real Ray: what it computes, what it leaves alone, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mne
import numpy as np
import numpy.typing as npt
import pytest
import ray
import s3fs
import scipy.io

from emod import storage
from emod.affect import va_region
from emod.catalog import Experiment, SimulateSettings, load_corpus
from emod.catalog.experiment import IngestSettings
from emod.corpora import simulate_corpus
from emod.corpora.array_pickle import dump_arrays
from emod.errors import DataError, RequestError
from emod.ingest import ingest, pipeline, plan_ingest
from emod.shards import METADATA, Manifest, ShardStore, newest_manifest
from emod.simulation import BrainSimulator, TagSignal
from tests.ingest.copies import SIGNAL, contents, make_experiment, run, tree

SIMULATE = {
    "deap": SimulateSettings(subjects=3, trials=4, time_scale=0.2),  # 12 s
    "seed_iv": SimulateSettings(subjects=2, sessions=2, trials=3, time_scale=0.05),  # 7 s and one sample
}
WINDOWS = {"deap": 3 * 4 * 6, "seed_iv": 2 * 2 * 3 * 3}


def one_line(caught: pytest.ExceptionInfo[BaseException], *words: str) -> None:
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@dataclass(frozen=True)
class Done:
    """Two simulated corpora, and the store of one ingest after the other."""

    roots: dict[str, Path]
    store: Path
    manifests: tuple[Manifest, Manifest]
    notes: list[str]

    def experiment(self) -> Experiment:
        return make_experiment(self.store, dict(self.roots))


@pytest.fixture(scope="module")
def done(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Read only; a test that changes something takes a copy."""
    base = tmp_path_factory.mktemp("ingest")
    roots = {name: base / name for name in SIMULATE}
    for name, settings in SIMULATE.items():
        simulate_corpus(name, str(roots[name]), settings, BrainSimulator(settings.brain))
    first, notes = run(make_experiment(base / "store", {"deap": roots["deap"]}))
    second, more = run(make_experiment(base / "store", {"seed_iv": roots["seed_iv"]}))
    return Done(roots, base / "store", (first, second), notes + more)


@pytest.fixture
def deap(done: Done, tmp_path: Path) -> Path:
    """A copy of the simulated DEAP that a test may damage."""
    return Path(shutil.copytree(done.roots["deap"], tmp_path / "DEAP"))


def test_store_grows_corpus_by_corpus(done: Done) -> None:
    first, second = done.manifests
    assert (first.version, tuple(first.corpora)) == (1, ("deap",))
    assert (second.version, tuple(second.corpora)) == (2, ("deap", "seed_iv"))
    assert second.corpora["deap"] == first.corpora["deap"]
    assert newest_manifest(str(done.store)) == second
    assert sorted(note.partition(":")[0] for note in done.notes) == [
        *(f"deap s0{subject}_1" for subject in (1, 2, 3)),
        *(f"seed_iv {subject}_{session}" for subject in (1, 2) for session in (1, 2)),
    ]


def test_manifest_is_complete_and_the_store_whole(done: Done) -> None:
    manifest = done.manifests[1]
    assert manifest.settings == SIGNAL.model_dump(mode="json")
    counts = {"deap": (3, 3, 128.0, 32), "seed_iv": (4, 2, 200.0, 62)}
    for name, entry in manifest.corpora.items():
        assert (entry.n_recordings, entry.n_subjects, entry.sfreq_hz, len(entry.channels)) == counts[name]
        assert entry.n_windows == WINDOWS[name]
        assert entry.simulated
        assert entry.window_s == 2.0
        assert entry.problems == ()
        assert entry.cleaning["stages"] == {"band_pass": counts[name][0], "average_reference": counts[name][0]}
        assert entry.cleaning["removed"] == {}
        assert len(entry.shards) == 2  # of at most 1 MiB
        assert all(shard.tensors_bytes < 1.1 * 2**20 for shard in entry.shards)
    store = ShardStore.open(str(done.store))
    assert store.verify() == []
    named = {path for e in manifest.corpora.values() for shard in e.shards for path in (shard.tensors, shard.metadata)}
    named |= {entry.quality for entry in manifest.corpora.values() if entry.quality}
    # A local disk gives a name once, so a version is a name. No part is left, and no half file.
    assert set(tree(done.store)) == named | {one.file_name(exclusive=True) for one in done.manifests}


def stored_trials(root: Path, name: str) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.float64], int]]:
    """Trials straight from the owners' files, in order: what the metadata must say, microvolt, samples of rest."""
    if name == "deap":
        for path in sorted((root / "data_preprocessed_python").glob("s*.dat")):
            with path.open("rb") as stream:
                arrays = pickle.load(stream, encoding="latin1")
            for row, (signal_uv, label) in enumerate(zip(arrays["data"], arrays["labels"], strict=True)):
                says = {"subject": path.stem, "session": "1", "trial": str(row + 1), "stimulus": str(row + 1)}
                says |= {"rating_valence": label[0], "rating_arousal": label[1], "emotion": None}
                says |= {"valence": label[0] - 5, "arousal": label[1] - 5, "label_kind": "rating"}  # 1..9 -> -4..4
                yield says | {"source": str(path)}, signal_uv[:32], 3 * 128
        return
    words = {"neutral": (0, 0), "sad": (-1, 1), "fear": (-1, 2), "happy": (3, 2)}  # table released with EMOD
    emotions = load_corpus("seed_iv").trial_emotions
    assert emotions is not None
    for subject in ("1", "2"):
        for session in ("1", "2"):
            (path,) = (root / "eeg_raw_data" / session).glob(f"{subject}_*.mat")
            arrays = scipy.io.loadmat(path)
            for row in range(3):
                (signal_uv,) = (value for key, value in arrays.items() if key.endswith(f"_eeg{row + 1}"))
                emotion = emotions[session][row]
                valence, arousal = words[emotion]
                says = {"subject": subject, "session": session, "trial": str(row + 1)}
                says |= {"stimulus": f"s{session}c{row + 1:02d}", "emotion": emotion, "label_kind": "emotion"}
                says |= {"valence": valence, "arousal": arousal, "rating_valence": None, "rating_arousal": None}
                says |= {"source": str(path)}
                yield says, signal_uv.astype(np.float64), 0


@pytest.mark.parametrize("name", ["deap", "seed_iv"])
def test_windows_are_what_the_paper_says(done: Done, name: str) -> None:
    """By hand from the owners' files: 0.3-49 Hz per trial, average reference, windows, one robust scale, 20 at most."""
    store = ShardStore.open(str(done.store))
    metadata = store.metadata(name)
    assert metadata.schema.equals(METADATA)
    rows = metadata.to_pylist()
    assert [row["corpus"] for row in rows] == [name] * WINDOWS[name]
    windows = store.windows(name, range(len(rows)))
    microvolt = store.windows(name, range(len(rows)), unit="uv")
    sfreq_hz, at = store.sfreq_hz(name), 0
    length = round(2 * sfreq_hz)
    for says, signal_uv, rest in stored_trials(done.roots[name], name):
        centred = signal_uv - signal_uv.mean(axis=1, keepdims=True)
        clean = mne.filter.filter_data(centred, sfreq_hz, 0.3, 49.0, h_trans_bandwidth=1.0, verbose="error")
        clean -= clean.mean(axis=0)
        for index, start in enumerate(range(rest, signal_uv.shape[1] - length + 1, length)):
            row = rows[at]
            assert {key: row[key] for key in says} == pytest.approx(says)
            assert row["start_s"] == pytest.approx(2.0 * index)
            assert row["window_id"] == "/".join((name, says["subject"], says["session"], says["trial"], str(index)))
            assert row["va_region"] == va_region(row["valence"], row["arousal"])
            window = clean[:, start : start + length]
            scale = 1.4826022 * np.median(np.abs(window - np.median(window)))
            assert row["scale_uv"] == pytest.approx(scale, rel=1e-6)
            expected = np.clip(window / scale, -20, 20)
            np.testing.assert_allclose(windows[at], expected, rtol=2**-10, atol=2e-7)  # float16
            np.testing.assert_allclose(microvolt[at], expected * scale, rtol=2**-10, atol=1e-5)
            at += 1
    assert at == len(rows)
    assert len({row["window_id"] for row in rows}) == len(rows)


def test_nothing_changed_nothing_written(done: Done) -> None:
    before = tree(done.store)
    plans = plan_ingest(done.experiment())
    assert [plan.entry for plan in plans] == [done.manifests[1].corpora[name] for name in done.roots]
    manifest, notes = run(done.experiment())
    assert manifest == done.manifests[1]
    assert notes == []
    assert tree(done.store) == before


def test_changed_labels_and_changed_settings_make_versions(done: Done, tmp_path: Path) -> None:
    roots = {name: Path(shutil.copytree(root, tmp_path / name)) for name, root in done.roots.items()}
    store = tmp_path / "store"
    experiment = make_experiment(store, dict(roots))
    first, _ = run(experiment)
    deap_files = tree(store / "shards" / "deap")

    readme = roots["seed_iv"] / "ReadMe.txt"
    readme.write_text(readme.read_text().replace("session2_label = [2,", "session2_label = [3,"))
    second, notes = run(experiment)
    assert second.version == 2
    assert second.hash != first.hash
    assert second.corpora["deap"] == first.corpora["deap"]
    assert tree(store / "shards" / "deap") == deap_files
    assert not [note for note in notes if note.startswith("deap")]
    rows = ShardStore.open(str(store)).metadata("seed_iv").to_pylist()
    emotions = {(row["session"], row["trial"]): row["emotion"] for row in rows}
    assert emotions["2", "1"] == "happy"
    assert emotions["1", "1"] == "sad"
    assert [problem["code"] for problem in second.corpora["seed_iv"].problems] == ["label_disagreement"]

    other = SIGNAL.model_copy(update={"window_s": 3.0})
    with pytest.raises(RequestError) as caught:  # not part of the store by one rule, part by another
        run(make_experiment(store, {"deap": roots["deap"]}, signal=other))
    one_line(caught, "seed_iv", "other signal settings", "signal.window_s is 2.0 there and 3.0 here;")
    with pytest.raises(RequestError):  # the plan says so already
        plan_ingest(make_experiment(store, {"deap": roots["deap"]}, signal=other))
    third, _ = run(make_experiment(store, dict(roots), signal=other))
    assert third.version == 3
    assert {name: entry.n_windows for name, entry in third.corpora.items()} == {"deap": 3 * 4 * 4, "seed_iv": 4 * 3 * 2}
    assert ShardStore.open(str(store)).windows("deap", [0]).shape == (1, 32, 384)


KILLED = """
import os, signal, sys
import ray
from emod.catalog import Experiment
from emod.ingest import ingest, plan_ingest

ray.init(address=sys.argv[1], log_to_driver=False)
experiment = Experiment.model_validate_json(sys.argv[2])
ingest(experiment, plan_ingest(experiment), lambda note: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_killed_ingest_is_finished_by_the_next(done: Done, tmp_path: Path) -> None:
    """SIGKILL at the first recording done; what was computed is kept, and the result is that of an undisturbed run."""
    settings = SimulateSettings(subjects=10, trials=4, time_scale=0.2)
    root = tmp_path / "DEAP"
    simulate_corpus("deap", str(root), settings, TagSignal())
    one_by_one = IngestSettings(shard_mb=1, cpus_per_recording=2.0)
    experiment = make_experiment(tmp_path / "store", {"deap": root}, ingest=one_by_one)
    (plan,) = plan_ingest(experiment)
    staging = Path(pipeline._staging(str(tmp_path / "store"), plan))

    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", KILLED, address, experiment.model_dump_json()]
    source = str(Path(__file__).parents[2] / "platform")
    environment = os.environ | {"PYTHONPATH": source}
    victim = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert victim.returncode == -signal.SIGKILL, victim.stderr
    assert newest_manifest(str(tmp_path / "store")) is None
    for _ in range(600):  # a worker of the dead driver finishes or dies with it
        if ray.available_resources().get("CPU", 0.0) == 2.0:
            break
        time.sleep(0.05)

    kept = tree(staging)
    parts = {name for name in kept if name.endswith(".arrow")}
    assert 1 <= len(parts) < 10, "killed too late to prove anything"
    last = plan.references[-1].key
    (staging / f"{last}-{plan.marks[last]}.arrow.1a2b3c4d.partial").write_bytes(b"half")
    seen: list[dict[str, tuple[int, int]]] = []
    notes: list[str] = []

    def listen(note: str) -> None:
        notes.append(note)
        seen.append(tree(staging))

    resumed = ingest(experiment, plan_ingest(experiment), listen)
    finished = {note.split()[1].rstrip(":") for note in notes if note.endswith("finished before")}
    assert {f"{key}-{plan.marks[key]}.arrow" for key in finished} == parts
    assert len(notes) == 10
    assert {name: seen[-1][name] for name in parts} == {name: kept[name] for name in parts}  # not written again
    assert not staging.exists()

    undisturbed, _ = run(make_experiment(tmp_path / "other", {"deap": root}))
    assert resumed.hash == undisturbed.hash
    assert resumed.corpora == undisturbed.corpora
    assert contents(tmp_path / "store") == contents(tmp_path / "other")
    assert ShardStore.open(str(tmp_path / "store")).verify() == []


def test_bucket_in_bucket_out(done: Done, s3_server: Any, tmp_path: Path) -> None:
    """Simulated into S3, read from it by workers, stored in it, read back: the same windows as on a disk."""
    roots = {name: s3_server.url("ingest", name) for name in SIMULATE}
    for name, settings in SIMULATE.items():
        simulate_corpus(name, roots[name], settings, BrainSimulator(settings.brain))
    experiment = make_experiment(s3_server.url("ingest", "store/"), dict(roots))
    manifest, _ = run(experiment)
    remote = ShardStore.open(s3_server.url("ingest", "store"), cache=str(tmp_path / "cache"))
    assert remote.manifest == manifest
    assert remote.verify() == []
    local = ShardStore.open(str(done.store))
    for name in SIMULATE:
        rows = range(WINDOWS[name])
        np.testing.assert_array_equal(remote.windows(name, rows), local.windows(name, rows))
        assert remote.metadata(name).drop("source").equals(local.metadata(name).drop("source"))
        assert all(url.startswith(f"{roots[name]}/") for url in remote.metadata(name)["source"].to_pylist())
    assert not s3_server.path("ingest", "store", "staging").exists()
    before = tree(s3_server.path("ingest", "store"))
    assert run(experiment) == (manifest, [])
    assert tree(s3_server.path("ingest", "store")) == before


def spoil(root: Path) -> None:
    """A truncated object, a trial with NaN, a label off the scale, and an object that is no recording."""
    folder = root / "data_preprocessed_python"
    path = folder / "s02.dat"
    path.write_bytes(path.read_bytes()[:-1000])
    path = folder / "s01.dat"
    with path.open("rb") as stream:
        arrays = pickle.load(stream, encoding="latin1")
    arrays["data"][1, 5, 700:703] = np.nan
    arrays["labels"][3, 0] = 9.7
    path.write_bytes(b"".join(dump_arrays(arrays)))
    (folder / "s99.dat").write_bytes(b"whose?")


def test_bad_objects_are_listed_and_the_good_ones_kept(done: Done, deap: Path, tmp_path: Path) -> None:
    spoil(deap)
    entry = run(make_experiment(tmp_path / "store", {"deap": deap}))[0].corpora["deap"]
    found = {(os.path.basename(p["source"] or ""), p["trial"], p["code"]) for p in entry.problems}
    assert found >= {
        ("s99.dat", None, "unexpected_object"),
        ("s02.dat", None, "unreadable"),
        ("s01.dat", "2", "not_finite"),
        ("s01.dat", "4", "label"),
    }
    assert {source for source, _, _ in found} == {"s99.dat", "s02.dat", "s01.dat"}
    assert (entry.n_recordings, entry.n_subjects, entry.n_windows) == (2, 2, 2 * 6 + 4 * 6)
    store, whole = ShardStore.open(str(tmp_path / "store")), ShardStore.open(str(done.store))
    assert store.verify() == []
    ids = store.metadata("deap")["window_id"].to_pylist()
    rows = [row for row, name in enumerate(whole.metadata("deap")["window_id"].to_pylist()) if name in set(ids)]
    np.testing.assert_array_equal(store.windows("deap", range(36)), whole.windows("deap", rows))
    assert {name.split("/")[3] for name in ids if "/s01/" in name} == {"1", "3"}

    strict = make_experiment(tmp_path / "store", {"deap": deap}, ingest=IngestSettings(strict=True))
    with pytest.raises(DataError) as caught:  # what is in the store already has problems
        run(strict)
    one_line(caught, "s99.dat")
    (deap / "data_preprocessed_python" / "s99.dat").unlink()
    lenient = make_experiment(tmp_path / "store", {"deap": deap})
    version = run(lenient)[0].version
    with pytest.raises(DataError) as caught:
        run(make_experiment(tmp_path / "store", {"deap": deap}, ingest=IngestSettings(strict=True, shard_mb=1)))
    one_line(caught, ".dat", "[")
    assert len(list((tmp_path / "store").glob("manifest-*"))) == version


def test_strict_stops_in_a_worker_with_one_line(deap: Path, tmp_path: Path) -> None:
    path = deap / "data_preprocessed_python" / "s02.dat"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError) as caught:
        run(make_experiment(tmp_path / "store", {"deap": deap}, ingest=IngestSettings(strict=True)))
    one_line(caught, "s02.dat", "[unreadable]")
    assert newest_manifest(str(tmp_path / "store")) is None


def test_corpus_without_a_usable_trial_is_named(deap: Path, tmp_path: Path) -> None:
    for path in (deap / "data_preprocessed_python").glob("s*.dat"):
        path.write_bytes(b"\x80\x02 no pickle")
    with pytest.raises(DataError) as caught:
        run(make_experiment(tmp_path / "store", {"deap": deap}))
    one_line(caught, str(deap), "corpus deap has no usable trial", ".dat")
    assert newest_manifest(str(tmp_path / "store")) is None
    with pytest.raises(RequestError):
        ShardStore.open(str(tmp_path / "store"))


def test_windows_longer_than_every_trial_leave_nothing(deap: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        run(make_experiment(tmp_path / "store", {"deap": deap}, signal=SIGNAL.model_copy(update={"window_s": 30.0})))
    one_line(caught, "no usable trial", "12.00 s hold no window of 30 s")
    assert not list((tmp_path / "store").glob("manifest-*"))


def test_missing_root_is_a_wrong_request(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(RequestError) as caught:
            plan_ingest(make_experiment(tmp_path / "store", {"deap": root}))
        one_line(caught, str(root), "give the top folder of deap")
    with pytest.raises(RequestError, match=r"addresses\.data\.deap is not given"):
        plan_ingest(make_experiment(tmp_path / "store", {"deap": ""}))


@pytest.mark.parametrize("where", ["data", "store"])
def test_unreachable_bucket_is_one_line(
    where: str, tmp_path: Path, s3_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Port 9 of loopback: nobody listens. botocore's own patience is cut short by its own variable."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    places: dict[str, str] = {"data": str(tmp_path), "store": str(tmp_path / "store")} | {where: "s3://far-away/x"}
    with pytest.raises(RequestError) as caught:
        plan_ingest(make_experiment(places["store"], {"deap": places["data"]}))
    s3fs.S3FileSystem.clear_instance_cache()
    one_line(caught, "s3://far-away/x", "127.0.0.1:9", "check address, credentials and network")


@pytest.mark.parametrize("cpus", [0.5, 2.0])
def test_each_recording_is_a_task_that_reserves_its_cpus(ray_cluster: None, cpus: float) -> None:
    """So no more are decoded at once than CPUs allow, however many wait, and one task never holds two."""

    def task(item: int) -> dict[str, Any]:
        context = ray.get_runtime_context()
        return {"item": item, "task": context.get_task_id(), "cpus": context.get_assigned_resources()["CPU"]}

    rows = list(pipeline._run(list(range(6)), task, cpus))
    assert sorted(row["item"] for row in rows) == list(range(6))
    assert {row["cpus"] for row in rows} == {cpus}
    assert len({row["task"] for row in rows}) == 6


def test_a_recording_that_is_to_have_more_cpus_than_a_node_is_refused(
    done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray would wait for ever. The session's has one node of two CPUs."""
    wants = IngestSettings(shard_mb=1, cpus_per_recording=4.0)
    experiment = make_experiment(tmp_path / "store", {"deap": done.roots["deap"]}, ingest=wants)
    waited: list[float] = []
    monkeypatch.setattr(pipeline, "_run", lambda items, task, cpus: waited.append(cpus) or iter(()))
    with pytest.raises(RequestError) as caught:
        run(experiment)
    one_line(caught, "ingest.cpus_per_recording is 4", "has 2 CPU")
    assert not (tmp_path / "store").exists()
    assert waited == []

    # A cluster that is somebody's may grow; one of two such nodes has no room either.
    two = [{**node, "NodeID": number} for number in range(2) for node in ray.nodes()]
    monkeypatch.setattr(ray, "nodes", lambda: two)
    with pytest.raises(RequestError):
        pipeline.check_cpus(experiment)
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    capsys.readouterr()
    pipeline.check_cpus(experiment)
    assert "has 2 CPU; waiting for it to grow" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [RequestError, DataError])
def test_error_of_a_worker_keeps_its_class_and_its_line(ray_cluster: None, kind: type[Exception]) -> None:
    def task(item: int) -> dict[str, Any]:
        if item == 2:
            raise kind("s3://bucket/x: no; do this")
        return {"item": item}

    with pytest.raises(kind) as caught:
        list(pipeline._run([0, 1, 2, 3], task, 1.0))
    assert type(caught.value) is kind
    assert str(caught.value) == "s3://bucket/x: no; do this"


def test_plan_travels_small(done: Done) -> None:
    """What a task carries to a worker is references, never samples."""
    experiment = done.experiment()
    for plan in plan_ingest(experiment):
        task = pipeline._RecordingTask(plan, experiment, "staging")
        assert len(ray.cloudpickle.dumps((task, plan.references))) < 64 * 1024
        assert json.loads(json.dumps([ref.key for ref in plan.references]))


def test_task_lets_go_of_its_recording(done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has done one recording holds nothing of it while it decodes the next."""
    experiment = make_experiment(tmp_path / "store", {"deap": done.roots["deap"]})
    (plan,) = plan_ingest(experiment)
    task = pipeline._RecordingTask(plan, experiment, str(tmp_path / "staging"))
    read, alive = task._corpus.read, []

    def watch(ref: Any) -> Any:
        assert not [1 for held in alive if held() is not None], "an earlier recording is still held"
        recording = read(ref)
        alive.append(weakref.ref(recording.eeg_uv))
        return recording

    monkeypatch.setattr(task._corpus, "read", watch)
    for ref in plan.references:
        result = task(ref)
        assert len(json.dumps(result)) < 1000
    assert len(alive) == 3
    expected = {f"{key}-{mark}.arrow" for key, mark in plan.marks.items()}
    assert storage.list_files(str(tmp_path / "staging")).keys() == expected
