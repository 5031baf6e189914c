"""What is computed again and what is not: marks of recordings, the fingerprint of what treats them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import emod
from emod import storage
from emod.catalog import Addresses
from emod.catalog.experiment import IngestSettings
from emod.corpora import CorpusError, RecordingRef
from emod.errors import RequestError
from emod.ingest import IngestPlan, fingerprint, pipeline, plan_ingest
from emod.shards import ShardStore, newest_manifest
from tests.ingest.copies import SIGNAL, make_experiment, rows, run


def plan_of(store: Path | str, root: Path, **changes: Any) -> IngestPlan:
    (plan,) = plan_ingest(make_experiment(store, {"deap": root}, **changes))
    return plan


def recording(root: Path, subject: str) -> Path:
    return root / "data_preprocessed_python" / f"{subject}.dat"


class Killed(BaseException):
    """Ends an ingest as nothing it catches would."""


def kill_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next ingest ends when so many recordings are done."""
    real = pipeline._run

    def run_some(items: Any, task: Any, cpus: float) -> Any:
        monkeypatch.setattr(pipeline, "_run", real)
        for number, row in enumerate(real(items, task, cpus)):
            if number == count:
                raise Killed
            yield row

    monkeypatch.setattr(pipeline, "_run", run_some)


def test_a_recording_that_changes_changes_its_own_mark(deap_copy: Path, tmp_path: Path) -> None:
    before = plan_of(tmp_path / "store", deap_copy)
    os.utime(recording(deap_copy, "s02"), (0, 0))
    after = plan_of(tmp_path / "store", deap_copy)
    assert (after.treatment, after.fingerprint) == (before.treatment, before.fingerprint)
    assert {key for key in before.marks if before.marks[key] != after.marks[key]} == {"s02_1"}
    shutil.copy(recording(deap_copy, "s03"), recording(deap_copy, "s04"))
    more = plan_of(tmp_path / "store", deap_copy)
    assert more.fingerprint == after.fingerprint
    assert more.marks == {**after.marks, "s04_1": more.marks["s04_1"]}


def test_finished_recordings_outlive_a_change_of_another(
    serial: None, deap_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that was still growing when the ingest was killed."""
    experiment = make_experiment(tmp_path / "store", {"deap": deap_copy})
    late = recording(deap_copy, "s03").rename(tmp_path / "s03.dat")
    kill_after(1, monkeypatch)
    with pytest.raises(Killed):
        run(experiment)
    shutil.copy(late, recording(deap_copy, "s03"))
    os.utime(recording(deap_copy, "s02"), (0, 0))  # copied anew
    _, notes = run(experiment)
    assert notes == ["deap s01_1: finished before", "deap s02_1: 6 windows", "deap s03_1: 6 windows"]
    run(make_experiment(tmp_path / "other", {"deap": deap_copy}))
    assert rows(tmp_path / "store", "deap") == rows(tmp_path / "other", "deap")


@pytest.mark.parametrize("kind", ["tensors", "metadata", "quality"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_what_the_store_has_lost_is_made_again(
    serial: None, small_copies: dict[str, Path], tmp_path: Path, kind: str, damage: str
) -> None:
    """And nothing of other corpora; the version stays, as it comes out the same."""
    store = tmp_path / "store"
    experiment = make_experiment(store, small_copies)
    first, _ = run(experiment)
    entry = first.corpora["deap"]
    lost = store / str(entry.quality if kind == "quality" else getattr(entry.shards[0], kind))
    content = lost.read_bytes()
    lost.unlink()
    if damage == "cut":
        lost.write_bytes(content[:-100])
    plans = {plan.corpus: plan for plan in plan_ingest(experiment)}
    assert plans["deap"].damaged == (str(lost.relative_to(store)),)
    assert plans["deap"].entry is None
    assert plans["dasps"].entry is not None
    manifest, notes = run(experiment)
    assert [note.split()[0] for note in notes] == ["deap"] * 3
    assert manifest == first
    assert lost.read_bytes() == content
    assert ShardStore.open(str(store)).verify() == []
    assert run(experiment) == (first, [])


@pytest.mark.parametrize("what", ["window_s", "table", "catalog", "code of signal", "code of the reader"])
def test_changed_treatment_is_a_new_version_and_no_mixture(
    serial: None, deap_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    experiment = make_experiment(tmp_path / "store", {"deap": deap_copy})
    kill_after(2, monkeypatch)
    with pytest.raises(Killed):
        run(experiment)
    if what == "window_s":
        experiment = make_experiment(
            tmp_path / "store", {"deap": deap_copy}, signal=SIGNAL.model_copy(update={"window_s": 1.0})
        )
    elif what == "table":
        (deap_copy / "a-table.csv").write_text("1")
    elif what == "catalog":
        monkeypatch.setattr(fingerprint, "fingerprint", lambda model, exclude=(): type(model).__name__)
    else:
        name = "signal/window.py" if what == "code of signal" else "corpora/deap.py"
        read = Path.read_bytes
        changed = Path(emod.__file__).parent / name
        monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"# changed" if path == changed else b""))
    _, notes = run(experiment)
    assert not [note for note in notes if note.endswith("finished before")]
    if what == "window_s":
        assert {row["start_s"] % 1 for row, _ in rows(tmp_path / "store", "deap")} == {0.0}
        assert len(rows(tmp_path / "store", "deap")) == 3 * 2 * 6


@pytest.mark.parametrize(
    "name", ["corpora/seed_iv.py", "ingest/report.py", "ingest/withdrawal.py", "shards/store.py", "model/emod.py"]
)
def test_code_that_makes_no_window_of_this_corpus_does_not_count(
    deap_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = plan_of(tmp_path / "store", deap_copy)
    read, changed = Path.read_bytes, Path(emod.__file__).parent / name
    assert changed.is_file() or name == "ingest/report.py"
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"# changed" if path == changed else b""))
    assert plan_of(tmp_path / "store", deap_copy).fingerprint == before.fingerprint


@pytest.mark.parametrize("name", ["corpora/contract.py", "shards/writer.py", "ingest/recording.py"])
def test_shared_code_counts(deap_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = plan_of(tmp_path / "store", deap_copy)
    read, changed = Path.read_bytes, Path(emod.__file__).parent / name
    assert changed.is_file()
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"# changed" if path == changed else b""))
    assert plan_of(tmp_path / "store", deap_copy).treatment != before.treatment


def test_where_and_how_fast_it_is_computed_does_not_count(deap_copy: Path, tmp_path: Path) -> None:
    before = plan_of(tmp_path / "store", deap_copy)
    elsewhere = plan_of(
        tmp_path / "elsewhere", deap_copy, ingest=IngestSettings(shard_mb=1, cpus_per_recording=0.5, strict=True)
    )
    assert (elsewhere.fingerprint, elsewhere.marks) == (before.fingerprint, before.marks)
    packed = plan_of(tmp_path / "store", deap_copy, ingest=IngestSettings(shard_mb=2))
    assert packed.fingerprint != before.fingerprint
    assert packed.marks == before.marks, "recordings need not be computed again to be packed anew"


def test_a_store_below_the_recordings_is_none_of_their_tables(serial: None, deap_copy: Path) -> None:
    addresses = Addresses(
        data={"deap": str(deap_copy)}, store=f"{deap_copy}/derived/store", runs=f"file://{deap_copy}/runs"
    )
    experiment = make_experiment("", {"deap": deap_copy}, addresses=addresses)
    first, _ = run(experiment)
    (deap_copy / "runs").mkdir()
    (deap_copy / "runs" / "mlflow.db").write_bytes(b"grows")
    assert run(experiment) == (first, [])
    (deap_copy / "derived" / "notes.csv").write_text("s01,1")
    assert plan_ingest(experiment)[0].entry is None


def test_a_store_among_the_recordings_is_refused(deap_copy: Path) -> None:
    for store in (str(deap_copy), f"{deap_copy}/", f"file://{deap_copy}"):
        with pytest.raises(RequestError, match=r"also addresses\.data\.deap; give the store a folder of its own"):
            plan_of(store, deap_copy)


def test_a_dangling_object_is_one_problem_and_not_the_end(serial: None, deap_copy: Path, tmp_path: Path) -> None:
    path, elsewhere = recording(deap_copy, "s02"), tmp_path / "elsewhere.dat"
    path.rename(elsewhere)
    path.symlink_to(deap_copy / "nowhere.dat")
    experiment = make_experiment(tmp_path / "store", {"deap": deap_copy})
    entry = run(experiment)[0].corpora["deap"]
    assert [(problem["source"], problem["code"]) for problem in entry.problems] == [(str(path), "unreadable")]
    assert {row["subject"] for row, _ in rows(tmp_path / "store", "deap")} == {"s01", "s03"}
    assert run(experiment)[1] == [], "nothing has changed, so nothing is tried again"
    with pytest.raises(CorpusError, match="unreadable"):
        run(make_experiment(tmp_path / "strict", {"deap": deap_copy}, ingest=IngestSettings(strict=True)))

    elsewhere.rename(deap_copy / "nowhere.dat")  # it comes back
    again, notes = run(experiment)
    assert again.version == 2
    assert again.corpora["deap"].problems == ()
    assert len(notes) == 3


def test_an_object_that_vanishes_after_the_listing(serial: None, deap_copy: Path, tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path / "store", {"deap": deap_copy})
    plans = plan_ingest(experiment)
    recording(deap_copy, "s03").unlink()
    entry = pipeline.ingest(experiment, plans).corpora["deap"]
    assert [(problem["subject"], problem["code"]) for problem in entry.problems] == [("s03", "unreadable")]
    assert entry.recordings["s03_1"].n_windows == 0


NAME = "Somebody_Real_20140321"


def hidden(ref: RecordingRef, *objects: str) -> RecordingRef:
    return dataclasses.replace(ref, objects=objects)


def test_every_object_of_a_recording_counts(deap_copy: Path, tmp_path: Path) -> None:
    """And none of their names is in what a mark is made into, or in what is said when one cannot be asked about."""
    (tmp_path / NAME).mkdir()
    first, second = tmp_path / NAME / "a.bdf", tmp_path / NAME / "b.xml"
    first.write_bytes(b"1")
    experiment = make_experiment(tmp_path / "store", {"deap": deap_copy})
    corpus = pipeline.open_corpus("deap", str(deap_copy))
    ref = hidden(corpus.references()[0], str(first), str(second))

    def mark() -> str:
        return fingerprint.recording_marks(corpus, [ref], "t", {})[ref.key]

    absent = mark()
    second.write_bytes(b"2")
    there = mark()
    os.utime(second, (0, 0))
    assert len({absent, there, mark()}) == 3
    assert NAME not in repr(plan_ingest(experiment))


def test_no_name_is_told_when_the_store_fails(deap_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = make_experiment(tmp_path / "store", {"deap": deap_copy})
    (plan,) = plan_ingest(experiment)
    url = f"s3://bucket/{NAME}/{NAME}.mat"
    ref = hidden(plan.references[0], url)

    def refuse(asked: str) -> str:
        raise RequestError(f"{asked}: the store refuses to look up it (403 {asked}); check credentials and rights")

    monkeypatch.setattr(storage, "stamp", refuse)
    with pytest.raises(RequestError) as caught:
        fingerprint.recording_marks(pipeline.open_corpus("deap", str(deap_copy)), [ref], "t", {})
    assert NAME not in str(caught.value)
    assert ref.source in str(caught.value)

    task = pipeline._RecordingTask(plan, experiment, str(tmp_path / "staging"))
    for message in (f"{url}: cannot read it ([Errno 5] bucket/{NAME}/{NAME}.mat)", f"{NAME}.mat: no"):

        def fail(asked: RecordingRef, message: str = message) -> Any:
            raise RequestError(message)

        monkeypatch.setattr(task._corpus, "read", fail)
        with pytest.raises(RequestError) as caught:
            task(ref)
        assert NAME not in str(caught.value)
        assert ref.source in str(caught.value)


def test_what_was_found_in_each_recording_is_kept(serial: None, deap_copy: Path, tmp_path: Path) -> None:
    path = recording(deap_copy, "s02")
    path.write_bytes(path.read_bytes()[:-1000])
    store = tmp_path / "store"
    manifest, _ = run(make_experiment(store, {"deap": deap_copy}))
    quality = manifest.corpora["deap"].quality
    assert quality is not None
    found = json.loads((store / quality).read_text())["recordings"]
    assert list(found) == ["s01_1", "s02_1", "s03_1"]
    for key, one in found.items():
        assert (one["subject"], one["session"]) == (key[:3], "1")
    assert (found["s01_1"]["n_windows"], found["s02_1"]["n_windows"]) == (6, 0)
    assert [problem["code"] for problem in found["s02_1"]["problems"]] == ["unreadable"]
    assert found["s01_1"].keys() > found["s02_1"].keys(), "what was measured in it"
    assert found["s01_1"]["windows"]["kept"] == 6
    os.utime(path, (0, 0))
    later, _ = run(make_experiment(store, {"deap": deap_copy}))
    assert later.version == 2
    assert later.corpora["deap"].quality == quality, "named by its content"
    assert newest_manifest(str(store)) == later
