"""A subject withdraws: no version from then on holds them, no ingest brings them back, and what is left is told."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from emod import storage
from emod.corpora.mped import pseudonym
from emod.errors import DataError, RequestError
from emod.ingest import pipeline, plan_ingest, withdrawal
from emod.ingest.findings import sum_cleaning
from emod.ingest.report import report_url, write_report
from emod.ingest.withdrawal import entry_without, find_remains, purge, withdraw
from emod.shards import RecordingEntry, ShardStore, list_manifests, newest_manifest, publish, read_manifest
from emod.tracking import ensure_run, log_lineage
from tests.ingest.copies import SIGNAL, make_experiment, rows, run
from tests.shards.test_store import write_store

pytest_plugins = ["tests.shards.honouring_s3"]

JOB = Path(__file__).resolve().parents[2] / "jobs" / "remove_subject.py"


def one_each(sizes: Sequence[int], limit_bytes: int) -> list[list[int]]:
    """A shard for each recording, however small."""
    return [[index] for index in range(len(sizes))]


@pytest.fixture(scope="module")
def full_store(small_copies: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two corpora, two versions: DEAP with windows of 1 s, then both with windows of 2 s. Read only."""
    url = tmp_path_factory.mktemp("full") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_run", lambda items, task, cpus: [json.loads(json.dumps(task(i))) for i in items])
        patch.setattr(pipeline, "group_parts", one_each)
        run(make_experiment(url, {"deap": small_copies["deap"]}, signal=SIGNAL.model_copy(update={"window_s": 1.0})))
        run(make_experiment(url, small_copies))
    return url


@pytest.fixture
def store(full_store: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(full_store, tmp_path / "store"))


@pytest.fixture(params=["path", "honouring", "overwriting"])
def store_url(request: pytest.FixtureRequest, store: Path, tmp_path: Path) -> Iterator[str]:
    """The same store on a disk, and on both kinds of S3 server."""
    if request.param == "path":
        yield str(store)
        return
    if request.param == "honouring":
        url = f"{request.getfixturevalue('honouring_s3')}/store"
    else:
        url = request.getfixturevalue("s3_server").url("withdrawal", tmp_path.name)
    for path in storage.list_files(str(store)):
        storage.upload(str(store / path), storage.join(url, path))
    yield url


@pytest.fixture(autouse=True)
def nowhere_to_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLFLOW_TRACKING_URI", "EMOD_RUNS", "EMOD_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EMOD_CACHE", str(tmp_path / "cache"))


Told = tuple[int, list[str], str]


@pytest.fixture
def remove(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """Runs the job in this process: its exit code, lines of output, what it said on stderr."""

    def job(*flags: str) -> Told:
        monkeypatch.setattr(sys, "argv", [str(JOB), *flags])
        capsys.readouterr()
        code = 0
        try:
            runpy.run_path(str(JOB), run_name="__main__")
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err

    return job


def subjects(url: str, corpus: str = "deap") -> set[str]:
    return set(ShardStore.open(url).metadata(corpus)["subject"].to_pylist())


def holding(store: Path, subject: str) -> set[str]:
    """Files of the store in which the subject's id stands, in window ids or anywhere else."""
    words = (f"/{subject}/".encode(), f'"{subject}"'.encode())
    found = set()
    for path in store.rglob("*"):
        if path.is_file() and (
            any(word in path.read_bytes() for word in words)
            or (path.suffix == ".parquet" and subject in ids_of_parquet(path))
        ):
            found.add(str(path.relative_to(store)))
    return found


def ids_of_parquet(path: Path) -> set[str]:
    return set(pq.read_table(path)["subject"].to_pylist())


def test_the_others_are_what_they_were(store_url: str) -> None:
    before = rows(store_url, "deap")
    old = newest_manifest(store_url)
    assert old is not None
    manifest = withdraw(store_url, "deap", ["s02"])
    assert (manifest.version, manifest.withdrawn, manifest.brought) == (3, {"deap": ("s02",)}, ("deap",))
    assert manifest == newest_manifest(store_url)
    assert ShardStore.open(store_url).verify() == []
    assert rows(store_url, "deap") == [row for row in before if row[0]["subject"] != "s02"]
    assert manifest.corpora["dasps"] == old.corpora["dasps"]
    entry, was = manifest.corpora["deap"], old.corpora["deap"]
    assert (entry.n_windows, entry.n_recordings, entry.n_subjects) == (12, 2, 2)
    assert entry.recordings == {key: one for key, one in was.recordings.items() if key != "s02_1"}
    assert [problem["code"] for problem in entry.problems] == ["left_out"]
    assert entry.cleaning["stages"] == {stage: 2 for stage in was.cleaning["stages"]}
    assert entry.quality is not None
    found = json.loads(storage.read_bytes(storage.join(store_url, entry.quality), at_most=2**20))["recordings"]
    assert list(found) == ["s01_1", "s03_1"]
    assert ShardStore(store_url, old).verify() == [], "the version before is still there, whole"


def test_shards_without_the_subject_are_kept(store: Path) -> None:
    old = newest_manifest(str(store))
    assert old is not None
    manifest = withdraw(str(store), "deap", ["s03"])
    was, now = old.corpora["deap"].shards, manifest.corpora["deap"].shards
    assert len(was) == 3
    assert now == was[:2], "each recording has a shard of its own here"


def test_done_twice_is_done_once(store_url: str) -> None:
    first = withdraw(store_url, "deap", ["s02", "s01"])
    before = storage.list_objects(store_url)
    assert withdraw(store_url, "deap", ["s01"]) == first
    assert withdraw(store_url, "deap", ["s01", "s02"]) == first
    assert storage.list_objects(store_url) == before
    assert subjects(store_url) == {"s03"}


def test_one_after_the_other_is_both_at_once(store: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(store, tmp_path / "other"))
    withdraw(str(store), "deap", ["s02"])
    one_by_one = withdraw(str(store), "deap", ["s01"])
    at_once = withdraw(str(other), "deap", ["s01", "s02"])
    assert one_by_one.withdrawn == at_once.withdrawn == {"deap": ("s01", "s02")}
    assert one_by_one.hash == at_once.hash


def test_no_ingest_brings_them_back(serial: None, store: Path, small_copies: dict[str, Path], tmp_path: Path) -> None:
    experiment = make_experiment(store, small_copies)
    manifest = withdraw(str(store), "deap", ["s02"])
    plans = {plan.corpus: plan for plan in plan_ingest(experiment)}
    assert plans["deap"].entry == manifest.corpora["deap"], "nothing else is computed again"
    assert [(problem["subject"], problem["code"]) for problem in plans["deap"].problems] == [("s02", "left_out")]
    assert run(experiment) == (manifest, [])

    anew = make_experiment(store, small_copies, signal=SIGNAL.model_copy(update={"window_s": 1.0}))
    later, notes = run(anew)
    assert later.version == 4
    assert later.withdrawn == {"deap": ("s02",)}
    assert subjects(str(store)) == {"s01", "s03"}
    assert not [note for note in notes if "s02" in note]
    assert [problem["subject"] for problem in later.corpora["deap"].problems] == ["s02"]
    assert "s02_1" not in later.corpora["deap"].recordings

    copy = Path(shutil.copytree(small_copies["deap"], tmp_path / "DEAP"))  # times of change survive
    (copy / "data_preprocessed_python" / "s02.dat").unlink()  # the laboratory removes the recording, too
    cleared = make_experiment(store, {**small_copies, "deap": copy}, signal=anew.signal)
    assert run(cleared) == (later, [])


def test_a_corpus_whose_last_subject_withdraws_is_gone(store: Path) -> None:
    manifest = withdraw(str(store), "deap", ["s01", "s02", "s03"])
    assert tuple(manifest.corpora) == ("dasps",)
    assert withdraw(str(store), "deap", ["s01"]) == manifest
    assert ShardStore.open(str(store)).corpora == ("dasps",)


def test_an_ingest_of_nobody_publishes_nothing(serial: None, store: Path, small_copies: dict[str, Path]) -> None:
    withdraw(str(store), "deap", ["s01", "s02", "s03"])
    with pytest.raises(DataError, match=r"corpus deap has no usable trial.*withdrew consent"):
        run(make_experiment(store, small_copies))
    assert len(list_manifests(str(store))) == 3


def test_an_entry_without_anybody_new_is_itself(store: Path) -> None:
    entry = read_manifest(str(store), list_manifests(str(store))[0]).corpora["deap"]
    assert entry_without(str(store), "deap", entry, {"s99"}) is entry


def test_every_file_that_holds_them_is_found_and_purged(
    serial: None, store: Path, small_copies: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of old versions, those that no version names, and finished recordings of an ingest that was killed."""
    other = tmp_path / "other"
    monkeypatch.setattr(pipeline, "group_parts", one_each)
    deap = {"deap": small_copies["deap"]}
    run(make_experiment(other, deap, signal=SIGNAL.model_copy(update={"window_s": 3.0})))
    (lost,) = (shard for shard in (other / "shards" / "deap").glob("00001-*.arrow"))
    shutil.copy(lost, store / "shards" / "deap")  # killed between its tensors and its metadata
    (store / "shards" / "deap" / "00002-00.arrow.1a2b3c4d.partial").write_bytes(b"half a shard, of whom?")
    staged = store / "staging" / "deap-00" / "s02_1-00.arrow"
    staged.parent.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_pack_corpus", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(make_experiment(tmp_path / "third", deap))
    for part in (tmp_path / "third" / "staging").rglob("*_1-*.arrow"):
        shutil.copy(part, staged.with_name(f"{part.name[:5]}-00.arrow"))
    (staged.parent / "alive").write_bytes(b"")

    withdraw(str(store), "deap", ["s02"])
    remains = find_remains(str(store), "deap", {"s02"})
    told = {*remains.files, *remains.manifests}
    newest = list_manifests(str(store))[0]
    # The newest version names the subject as one who withdrew, and holds nothing of theirs.
    assert told == (holding(store, "s02") | {"shards/deap/00002-00.arrow.1a2b3c4d.partial"}) - {newest}
    assert set(remains.manifests) == set(list_manifests(str(store))[1:])
    assert "staging/deap-00/s02_1-00.arrow" in told
    assert f"shards/deap/{lost.name}" in told

    purge(str(store), remains)
    assert holding(store, "s02") == {newest}
    assert list_manifests(str(store)) == [newest]
    assert ShardStore.open(str(store)).verify() == []
    assert (store / "staging" / "deap-00" / "s01_1-00.arrow").exists()
    again = find_remains(str(store), "deap", {"s02"})
    assert (again.files, again.manifests, again.copies) == ((), {}, ())


def test_copies_in_the_cache_are_found_and_purged(honouring_s3: str, store: Path, tmp_path: Path) -> None:
    url = f"{honouring_s3}/store"
    for path in storage.list_files(str(store)):
        storage.upload(str(store / path), storage.join(url, path))
    rows(url, "deap")
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_file()]) == 6
    withdraw(url, "deap", ["s02"])
    remains = find_remains(url, "deap", {"s02"})
    assert {Path(copy).suffix for copy in remains.copies} == {".arrow", ".parquet"}
    assert len(remains.copies) == 2
    purge(url, remains)
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_file()]) == 4
    assert subjects(url) == {"s01", "s03"}


def test_the_job_says_what_it_did_and_what_is_left(store_url: str, remove: Callable[..., Told]) -> None:
    flags = ("--store", store_url, "--corpus", "deap", "--subject", "s02")
    old_report = write_report(ShardStore.open(store_url))
    before = storage.list_objects(store_url)
    code, planned, err = remove(*flags, "--dry-run")
    assert (code, err) == (0, "")
    assert storage.list_objects(store_url) == before
    assert planned[0].startswith("deap s02: 6 windows in version 2 of ")
    assert planned[1] == "plan: a version without them"

    code, lines, err = remove(*flags)
    assert (code, err) == (0, "")
    assert lines[1] == "version 3: published, without them"
    assert lines[2].startswith("trained on them: unknown: no tracking server is named; set MLFLOW_TRACKING_URI")
    hashes = {version.hash_of(["deap"]) for version in find_remains(store_url, "deap", {"s02"}).manifests.values()}
    assert len(hashes) == 2
    assert all(known in lines[3] for known in hashes)
    left = [line.removeprefix("still holds them: ") for line in lines if line.startswith("still holds them: ")]
    assert left == [line.removeprefix("holds them: ") for line in planned if line.startswith("holds them: ")]
    # Two versions: a manifest, findings, and a shard of two files each.
    assert len([path for path in left if path.startswith("manifest-")]) == 2
    assert len([path for path in left if path.startswith("quality/")]) == 2
    assert len([path for path in left if path.startswith("shards/")]) == 4
    assert [storage.join(store_url, path) for path in left if path.startswith("reports/")] == [old_report]
    assert lines[-2] == f"report of version 3: {report_url(ShardStore.open(store_url))}"
    assert lines[-1].startswith("not touched: the recordings themselves")

    code, planned, err = remove(*flags, "--purge-unasked", "--dry-run")
    assert (code, err) == (0, "")
    assert planned[1] == "plan: no new version; they are out of it already"
    assert [line for line in planned if line.startswith("plan: removes 2 versions, 7 files, ")]
    assert [line.removeprefix("would remove: ") for line in planned if line.startswith("would remove: ")] == left
    code, lines, err = remove(*flags, "--purge-unasked")
    assert (code, err) == (0, "")
    assert lines[1] == "version 3: unchanged: they are out of it"
    assert any(line.startswith("purged: 2 versions, 7 files, ") for line in lines)
    assert [line.removeprefix("removed: ") for line in lines if line.startswith("removed: ")] == left
    assert not [line for line in lines if "holds them" in line]
    assert not storage.exists(old_report)
    code, lines, err = remove(*flags)
    assert (code, err) == (0, "")
    assert lines[2].startswith("trained on them: no version holds them, so nothing can be traced")
    assert not [line for line in lines if "still holds" in line]
    assert ShardStore.open(store_url).verify() == []
    assert subjects(store_url) == {"s01", "s03"}


def test_the_job_names_the_runs_that_learned_from_them(
    store: Path, tmp_path: Path, remove: Callable[..., Told]
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    uri = f"sqlite:///{runs / 'mlflow.db'}"
    client = MlflowClient(uri)
    first, second = (read_manifest(str(store), name) for name in reversed(list_manifests(str(store))))

    def track(name: str, digest: str, corpora: list[str], **tags: str) -> str:
        run_id = ensure_run(uri, "exp", name, {})
        log_lineage(client, run_id, store_url=str(store), manifest_hash=digest, simulated=True, corpora=corpora)
        for tag, value in tags.items():
            client.set_tag(run_id, f"emod.{tag}", value)
        return run_id

    both = ["dasps", "deap"]
    learned = {
        "old": track("old", first.hash_of(["deap"]), ["deap"]),
        "new": track("new", second.hash_of(both), both),
        "backbone": track(
            "backbone",
            second.hash_of(["dasps"]),
            ["dasps"],
            backbone_manifest=second.hash_of(both),
            backbone_corpora=",".join(both),
        ),
    }
    track("dasps-only", second.hash_of(["dasps"]), ["dasps"])
    track("another-store", "f" * 64, ["deap"])
    client.create_registered_model("emod")
    client.create_model_version("emod", source=str(tmp_path), run_id=learned["new"])
    flags = ("--store", str(store), "--corpus", "deap", "--subject", "s02", "--runs", str(runs))
    code, lines, _ = remove(*flags)
    assert code == 0
    said = {line for line in lines if line.startswith("trained on them: ")}
    assert said == {
        f"trained on them: run old ({learned['old']}) of experiment exp",
        f"trained on them: run new ({learned['new']}) of experiment exp: registered as emod version 1",
        f"trained on them: run backbone ({learned['backbone']}) of experiment exp",
    }
    # What is trained on the version without them is none of it.
    without = newest_manifest(str(store))
    assert without is not None
    track("after", without.hash_of(both), both)
    assert {line for line in remove(*flags)[1] if line.startswith("trained on them: ")} == said


def test_a_tracking_server_that_is_down_stops_nobody(
    store: Path, remove: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, lines, err = remove("--store", str(store), "--corpus", "deap", "--subject", "s02")
    assert (code, err) == (0, "")
    assert [
        line for line in lines if line.startswith("trained on them: unknown: MLflow at http://127.0.0.1:9 does not")
    ]
    assert subjects(str(store)) == {"s01", "s03"}


def test_nothing_is_purged_while_nobody_knows_what_learned_from_them(
    store: Path, tmp_path: Path, remove: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--store", str(store), "--corpus", "deap", "--subject", "s02", "--purge")
    before = storage.list_objects(str(store))
    code, _, err = remove(*flags, "--dry-run")
    assert (code, err.count("\n")) == (2, 1)
    assert storage.list_objects(str(store)) == before

    code, lines, err = remove(*flags)
    assert (code, err.count("\n")) == (2, 1)
    for word in ("nothing is purged", "set MLFLOW_TRACKING_URI", "ask everybody who trains models", "--purge-unasked"):
        assert word in err
    assert lines[1] == "version 3: published, without them"  # that needs no answer
    assert storage.list_objects(str(store)).keys() >= before.keys()
    assert [line for line in lines if line.startswith("still holds them: shards/")]

    database = tmp_path / "mlflow.db"
    uri = f"sqlite:///{database}"
    run_id = ensure_run(uri, "exp", "mine", {})
    old = read_manifest(str(store), list_manifests(str(store))[-1]).hash_of(["deap"])
    log_lineage(MlflowClient(uri), run_id, store_url=str(store), manifest_hash=old, simulated=True, corpora=["deap"])
    code, lines, err = remove(*flags, "--runs", str(tmp_path))
    assert (code, err) == (0, "")
    assert f"trained on them: run mine ({run_id}) of experiment exp" in lines
    assert len(list_manifests(str(store))) == 1


def test_who_stops_reading_does_not_stop_the_purge(store: Path) -> None:
    """As ``| head -1`` does."""
    command = [sys.executable, str(JOB), "--store", str(store), "--corpus", "deap", "--subject", "s02"]
    source = {**os.environ, "PYTHONPATH": str(JOB.parents[1] / "platform")}
    reader, writer = os.pipe()
    os.close(reader)  # gone before the first line
    with os.fdopen(writer, "wb") as out:
        done = subprocess.run([*command, "--purge-unasked"], stdout=out, stderr=subprocess.PIPE, text=True, env=source)
    assert (done.returncode, done.stderr) == (0, "")
    assert holding(store, "s02") == set(list_manifests(str(store)))
    assert len(list_manifests(str(store))) == 1


def test_what_was_done_before_a_failure_is_told(
    store: Path, remove: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str, remains: Any) -> None:
        raise RequestError("s3://lab: the store refuses to remove it; check rights")

    monkeypatch.setattr(withdrawal, "purge", refuse)
    flags = ("--store", str(store), "--corpus", "deap", "--subject", "s02", "--purge-unasked")
    code, lines, err = remove(*flags)
    assert (code, "check rights" in err) == (2, True)
    assert lines[1] == "version 3: published, without them"
    assert not [line for line in lines if line.startswith(("purged", "removed"))]


NAME = "Zhang Wei\u00e9"  # of a folder; nobody's


@pytest.fixture
def mped_store(tmp_path: Path) -> tuple[str, str]:
    """A store of MPED with two subjects, and the pseudonym of the one whose folder bears NAME."""
    known = pseudonym(NAME)
    entries = {f"{who}_1": RecordingEntry(subject=who, session="1", mark="x", n_windows=3) for who in (known, "m2")}
    write_store(str(tmp_path / "mped"), parts=((3,), (2,)), corpus="mped", subjects=(known, "m2"))
    (name,) = list_manifests(str(tmp_path / "mped"))
    old = read_manifest(str(tmp_path / "mped"), name)
    entry = old.corpora["mped"].model_copy(update={"recordings": entries, "cleaning": sum_cleaning([])})
    (tmp_path / "mped" / name).unlink()
    publish(str(tmp_path / "mped"), old.model_copy(update={"corpora": {"mped": entry}}))
    return str(tmp_path / "mped"), known


@pytest.mark.parametrize("given", ["name", "decomposed", "pseudonym"])
def test_of_mped_the_name_of_a_folder_is_enough_and_is_told_nowhere(
    mped_store: tuple[str, str], remove: Callable[..., Told], given: str
) -> None:
    url, known = mped_store
    subject = {"name": NAME, "decomposed": unicodedata.normalize("NFD", NAME), "pseudonym": known}[given]
    code, lines, err = remove("--store", url, "--corpus", "mped", "--subject", subject)
    assert (code, err) == (0, "")
    assert lines[0].startswith(f"mped {known}: 3 windows in version 1 of ")
    newest = newest_manifest(url)
    assert newest is not None
    assert newest.withdrawn == {"mped": (known,)}
    assert "Zhang" not in "".join(lines)
    assert not [path for path in Path(url).rglob("*") if path.is_file() and b"Zhang" in path.read_bytes()]


@pytest.mark.parametrize(
    "flags",
    [
        ("--subject", f"{NAME}x"),
        ("--subject", *NAME.split()),  # quotes forgotten
        (f"--s={NAME}",),
        ("--subject", f"{pseudonym(NAME)[:-1]}x"),
        ("--subject", f"m{int(pseudonym(NAME)[1:]) + 1:010d}"),  # somebody else's, however alike
        ("--subject", "m2", f"--Zhang={NAME}"),
    ],
)
def test_no_wrong_request_repeats_a_name(
    mped_store: tuple[str, str], remove: Callable[..., Told], flags: tuple[str, ...]
) -> None:
    code, lines, err = remove("--store", mped_store[0], "--corpus", "mped", *flags)
    assert (code, lines, err.count("\n")) == (2, [], 1)
    assert not [part for part in (*NAME.split(), "did you mean") if part in err]


def test_help_tells_what_an_id_of_mped_is(remove: Callable[..., Told]) -> None:
    code, lines, _ = remove("--help")
    assert code == 0
    assert "name of the person's folder" in " ".join(" ".join(lines).split())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--corpus", "deap", "--subject", "s2"), ("subject 's2'", "did you mean s02?", "s01, s02, s03")),
        (("--corpus", "deap", "--subject", "s01", "--subject", "s99"), ("subject 's99'",)),
        (("--corpus", "seed", "--subject", "1"), ("corpus 'seed'", "dasps, deap")),
        (("--subject", "s01"), ("--corpus", "--help")),
    ],
)
def test_a_wrong_request_changes_nothing(
    store: Path, remove: Callable[..., Told], flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    before = storage.list_objects(str(store))
    code, lines, err = remove("--store", str(store), *flags)
    assert (code, lines, err.count("\n")) == (2, [], 1)
    for word in words:
        assert word in err
    assert storage.list_objects(str(store)) == before


def test_no_store_is_a_wrong_request(tmp_path: Path, remove: Callable[..., Told], monkeypatch: Any) -> None:
    code, _, err = remove("--store", str(tmp_path / "none"), "--corpus", "deap", "--subject", "s01")
    assert (code, err.count("\n")) == (2, 1)
    assert "no shard store here" in err
    code, _, err = remove("--corpus", "deap", "--subject", "s01")
    assert (code, err.count("\n")) == (2, 1)
    assert "--store URL" in err
    assert "EMOD_STORE" in err
    monkeypatch.setenv("EMOD_STORE", str(tmp_path / "elsewhere"))
    code, _, err = remove("--corpus", "deap", "--subject", "s01")
    assert (code, "elsewhere: no shard store here" in err) == (2, True)
