"""Doctor: a complete copy passes, each gap is named as what it is, and known gaps are no faults."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from emod import storage
from emod.catalog import SimulateSettings, load_corpus
from emod.catalog.corpus import BidsLayout, Missing
from emod.corpora import READERS, Corpus, RecordingHeader, open_corpus, simulate_corpus
from emod.corpora.doctor import Diagnosis, Finding, Look, compare, examine, numbers
from emod.errors import DataError, RequestError
from emod.simulation import RecordingPlan, SignalSource, TagSignal
from tests.golden.deap import pickle_as_python2

LABORATORY = BidsLayout(task="films", labels="events", valence="v", arousal="a", stimulus="film")


class Louder:
    """The tags, times a factor: another unit."""

    def __init__(self, factor: float) -> None:
        self._factor = factor

    def record(self, plan: RecordingPlan) -> list[Any]:
        return [self._factor * piece_uv for piece_uv in TagSignal().record(plan)]


def simulate(name: str, root: Path, source: SignalSource | None = None, **settings: Any) -> Path:
    simulate_corpus(name, str(root), SimulateSettings(**{"time_scale": 0.03, **settings}), source or TagSignal())
    return root


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small copies: three subjects of DEAP and of DASPS, four of SEED-IV. Read only."""
    folder = tmp_path_factory.mktemp("copies")
    return {
        "deap": simulate("deap", folder / "deap", subjects=3, trials=4),
        "dasps": simulate("dasps", folder / "dasps", subjects=3, time_scale=0.2),
        "seed_iv": simulate("seed_iv", folder / "seed_iv", subjects=4, trials=3, time_scale=0.05),
    }


@pytest.fixture
def root_of(copies: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy that may be damaged."""
    return lambda name: Path(shutil.copytree(copies[name], tmp_path / name))


def faults(diagnosis: Diagnosis) -> list[Finding]:
    assert diagnosis.complete == (not any(finding.level == "fault" for finding in diagnosis.findings))
    assert diagnosis.verdict.startswith("complete: " if diagnosis.complete else "NOT complete: ")
    return [finding for finding in diagnosis.findings if finding.level == "fault"]


def only_fault(diagnosis: Diagnosis) -> Finding:
    (fault,) = faults(diagnosis)
    assert fault.cure, "it says what to do"
    assert not diagnosis.complete
    states = {check.topic: check.state for check in diagnosis.checks}
    assert states[fault.topic] == "fault"
    return fault


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", sorted(READERS))
def test_complete_copy_of_any_corpus_is_complete(name: str, full: bool, tmp_path: Path) -> None:
    time_scale = 3 / load_corpus(name).longest_trial_s
    simulate(name, tmp_path / "copy", subjects=2, trials=2, sessions=1, time_scale=time_scale)
    diagnosis = examine(open_corpus(name, tmp_path / "copy"), full=full, jobs=1)
    assert faults(diagnosis) == []
    assert diagnosis.simulated
    assert "nobody was recorded" in diagnosis.origin
    assert diagnosis.examined == ("samples" if full else "headers")
    by_topic = {check.topic: check for check in diagnosis.checks}
    assert by_topic["subjects"].found == by_topic["subjects"].published == "2"
    assert by_topic["trials"].found == by_topic["trials"].published
    assert diagnosis.uncertain == load_corpus(name).uncertain


@pytest.mark.parametrize("name", sorted(READERS))
def test_subject_that_is_gone_is_named_whatever_the_corpus(name: str, tmp_path: Path) -> None:
    time_scale = 3 / load_corpus(name).longest_trial_s
    root = simulate(name, tmp_path / "copy", subjects=2, trials=2, sessions=1, time_scale=time_scale)
    first, *_, last = open_corpus(name, root).references()
    for url in last.urls:
        Path(url).unlink()
    if first.urls == last.urls:  # all subjects lie in one object
        with pytest.raises(RequestError, match="give the top folder"):
            examine(open_corpus(name, root))
        return
    diagnosis = examine(open_corpus(name, root))
    assert ("subjects", "missing", last.subject) in {(f.topic, f.code, f.subject) for f in faults(diagnosis)}


def test_copy_without_a_marker_must_be_the_whole_corpus(root_of: Callable[[str], Path]) -> None:
    root = root_of("seed_iv")
    (root / "SIMULATED.json").unlink()
    diagnosis = examine(open_corpus("seed_iv", root))
    assert not diagnosis.simulated
    by_topic = {check.topic: check for check in diagnosis.checks}
    assert (by_topic["subjects"].published, by_topic["subjects"].found) == ("15", "4")
    assert (by_topic["sessions"].published, by_topic["trials"].published) == ("45", "1,080")
    assert {f.subject for f in faults(diagnosis) if f.topic == "subjects"} == {str(n) for n in range(5, 16)}


def test_session_that_is_gone_is_named(root_of: Callable[[str], Path]) -> None:
    root = root_of("seed_iv")
    (path,) = (root / "eeg_raw_data" / "2").glob("3_*.mat")
    path.unlink()
    fault = only_fault(examine(open_corpus("seed_iv", root)))
    assert (fault.topic, fault.code, fault.subject, fault.session) == ("sessions", "missing", "3", "2")


def test_trial_that_is_gone_is_named(root_of: Callable[[str], Path]) -> None:
    root = root_of("seed_iv")
    (path,) = (root / "eeg_raw_data" / "1").glob("2_*.mat")
    variables = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith("__")}
    variables.pop(next(name for name in variables if name.endswith("_eeg3")))
    scipy.io.savemat(path, variables)
    fault = only_fault(examine(open_corpus("seed_iv", root)))
    assert (fault.topic, fault.code, fault.subject, fault.session, fault.trial) == ("trials", "missing", "2", "1", "3")


def test_resampled_recording_is_a_wrong_rate(root_of: Callable[[str], Path]) -> None:
    """The rate is in no SEED-IV object: every clip of one subject has half of its samples."""
    root = root_of("seed_iv")
    (path,) = (root / "eeg_raw_data" / "1").glob("2_*.mat")
    values = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith("__")}
    scipy.io.savemat(path, {name: np.ascontiguousarray(value[:, ::2]) for name, value in values.items()})
    found = [fault for fault in faults(examine(open_corpus("seed_iv", root))) if fault.topic == "seconds"]
    assert {(fault.subject, fault.session, fault.trial) for fault in found} == {("2", "1", str(n)) for n in (1, 2, 3)}

    # The same on a real copy, whose lengths nobody published: the other subjects tell.
    (root / "SIMULATED.json").unlink()
    found = [f for f in faults(examine(open_corpus("seed_iv", root))) if "other subjects" in f.what]
    assert {(fault.subject, fault.session, fault.trial) for fault in found} == {("2", "1", str(n)) for n in (1, 2, 3)}


def test_wrong_rate_of_a_published_length_is_named(root_of: Callable[[str], Path]) -> None:
    root = root_of("dasps")
    with h5py.File(root / "S02preprocessed.mat", "r+") as file:
        half = file["data"][:, ::2]
        del file["data"]
        file["data"] = half
    fault = only_fault(examine(open_corpus("dasps", root)))
    assert (fault.topic, fault.code, fault.subject) == ("readable", "shape", "S02")
    assert str(half.shape) in fault.what


@pytest.mark.parametrize("full", [False, True])
def test_truncated_object_is_named(root_of: Callable[[str], Path], full: bool) -> None:
    root = root_of("deap")
    path = root / "data_preprocessed_python" / "s02.dat"
    path.write_bytes(path.read_bytes()[:-5000])
    fault = only_fault(examine(open_corpus("deap", root), full=full, jobs=1))
    assert (fault.topic, fault.code, fault.subject, fault.source) == ("readable", "unreadable", "s02", str(path))


def test_renamed_folder_is_named(root_of: Callable[[str], Path]) -> None:
    root = root_of("deap")
    (root / "data_preprocessed_python").rename(root / "data")
    with pytest.raises(RequestError, match="holds no data_preprocessed_python/"):
        examine(open_corpus("deap", root))


@pytest.mark.parametrize("name", ["deap", "dasps", "seed_iv"])
def test_folder_above_or_below_the_right_one_is_named(root_of: Callable[[str], Path], name: str) -> None:
    root = root_of(name)
    beside = root.parent / "a"
    beside.mkdir()
    for folder in (root.parent, root / "empty", beside):
        folder.mkdir(exist_ok=True)
        if folder == beside:  # its neighbour is no guess that is cheap
            with pytest.raises(RequestError, match=r"expected .* below it"):
                examine(open_corpus(name, folder))
            continue
        with pytest.raises(RequestError) as caught:
            examine(open_corpus(name, folder))
        assert str(caught.value) == f"{folder}: holds nothing of {name}, but {root} does; give that"


def test_search_for_the_right_folder_is_short(root_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emod.corpora.doctor._MAX_ENTRIES", 4)
    with pytest.raises(RequestError, match="below it"):
        examine(open_corpus("deap", root_of("deap").parent))


def test_file_is_no_folder(copies: dict[str, Path]) -> None:
    file = copies["deap"] / "data_preprocessed_python" / "s01.dat"
    with pytest.raises(RequestError, match=r"s01\.dat: a file; give the top folder of deap"):
        examine(open_corpus("deap", file))


def test_one_person_under_two_names_is_named(root_of: Callable[[str], Path]) -> None:
    root = root_of("deap")
    folder = root / "data_preprocessed_python"
    shutil.copy(folder / "s01.dat", folder / "s03.dat")
    diagnosis = examine(open_corpus("deap", root))
    (fault,) = [fault for fault in faults(diagnosis) if fault.code == "duplicate"]
    assert (fault.topic, fault.subject) == ("objects", "s03")
    assert "s01" in fault.what
    assert {fault.subject for fault in faults(diagnosis) if fault.topic == "labels"} == {"s03"}  # the table knows too


def test_recordings_in_one_object_are_no_duplicates(copies: dict[str, Path]) -> None:
    corpus = open_corpus("deap", copies["deap"])
    refs = [dataclasses.replace(ref, source="DREAMER.mat") for ref in corpus.references()]
    looks = [Look(ref, corpus_header(corpus), (), "equal") for ref in refs]
    assert [f for f in compared(corpus, looks).findings if f.code == "duplicate"] == []


def test_swapped_table_is_named(root_of: Callable[[str], Path]) -> None:
    root = root_of("deap")
    table = root / "metadata_csv" / "participant_ratings.csv"
    table.write_text(table.read_text().replace("Valence,Arousal", "Arousal,Valence"))
    diagnosis = examine(open_corpus("deap", root))
    assert {(fault.topic, fault.code) for fault in faults(diagnosis)} == {("labels", "label_disagreement")}
    assert {fault.subject for fault in faults(diagnosis)} == {"s01", "s02", "s03"}


def test_tables_are_looked_for(root_of: Callable[[str], Path]) -> None:
    root = root_of("deap")
    assert examine(open_corpus("deap", root)).tables == {"metadata_csv/participant_ratings.csv": "there"}
    (root / "metadata_csv" / "participant_ratings.csv").unlink()
    diagnosis = examine(open_corpus("deap", root))
    assert diagnosis.tables == {"metadata_csv/participant_ratings.csv": "absent"}
    assert diagnosis.complete  # the objects hold the ratings too
    assert [(f.level, f.topic) for f in diagnosis.findings] == [("notice", "labels")]
    (labels,) = [check for check in diagnosis.checks if check.topic == "labels"]
    assert (labels.published, labels.found) == ("participant_ratings.csv", "participant_ratings.csv missing")


@pytest.mark.parametrize("content", [None, "subject;situation;valence;arousal\nS01;1;5;5\n"])
def test_table_without_which_nothing_can_be_used_is_the_only_fault(
    root_of: Callable[[str], Path], content: str | None
) -> None:
    """The recordings are there: nobody is told to copy them."""
    root = root_of("dasps")
    table = root / "sam_ratings.csv"
    table.unlink() if content is None else table.write_text(content)
    diagnosis = examine(open_corpus("dasps", root))
    fault = only_fault(diagnosis)
    assert (fault.topic, fault.source) == ("labels", str(table))
    assert fault.code == ("missing" if content is None else "label_table")
    assert content is None or "separated by ';'" in fault.what
    assert diagnosis.findings == (fault,)
    by_topic = {check.topic: check for check in diagnosis.checks}
    found = "sam_ratings.csv missing" if content is None else "sam_ratings.csv: cannot be used"
    assert (by_topic.pop("labels").found, diagnosis.verdict) == (
        found,
        f"NOT complete: labels {found}; recordings not looked at",
    )
    assert {(check.found, check.state) for check in by_topic.values()} == {("not looked at", "unknown")}


def test_only_decoding_finds_a_lost_electrode(root_of: Callable[[str], Path]) -> None:
    root = root_of("dasps")
    with h5py.File(root / "S03preprocessed.mat", "r+") as file:
        file["data"][4, :, 2] = 0
    assert examine(open_corpus("dasps", root)).complete
    fault = only_fault(examine(open_corpus("dasps", root), full=True, jobs=1))
    assert (fault.topic, fault.code, fault.subject, fault.trial) == ("trials", "flat", "S03", "5")


@pytest.mark.parametrize(("factor", "unit"), [(1e-6, "volts"), (1e-3, "millivolts"), (1e3, "nanovolts or counts")])
@pytest.mark.parametrize("name", ["deap", "mdme", "faced"])
def test_only_decoding_finds_another_unit(name: str, factor: float, unit: str, tmp_path: Path) -> None:
    time_scale = 3 / load_corpus(name).longest_trial_s
    size: Any = {"subjects": 2, "trials": 2, "sessions": 1, "time_scale": time_scale}
    root = simulate(name, tmp_path / "copy", Louder(factor), **size)
    assert examine(open_corpus(name, root)).complete
    diagnosis = examine(open_corpus(name, root), full=True, jobs=1)
    found = faults(diagnosis)
    assert [(fault.topic, fault.code, fault.trial) for fault in found] == [("amplitude", "amplitude", None)] * 2
    assert len({fault.subject for fault in found}) == 2
    assert all(fault.cure.startswith(f"perhaps {unit}: ") for fault in found)
    assert diagnosis.verdict == "NOT complete: amplitude odd in 2 recordings"


def test_one_trial_of_another_unit_is_named(root_of: Callable[[str], Path]) -> None:
    root = root_of("dasps")
    with h5py.File(root / "S03preprocessed.mat", "r+") as file:
        file["data"][4:6] *= 1e-6  # the two halves of situation 3
    found = faults(examine(open_corpus("dasps", root), full=True, jobs=1))
    assert [(fault.topic, fault.subject) for fault in found] == [("amplitude", "S03")]
    assert "2 of 12 trials (5, 6)" in found[0].what


def test_off_scale_rating_is_found_in_headers(root_of: Callable[[str], Path]) -> None:
    root = root_of("dasps")
    with (root / "sam_ratings.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    rows[1][2] = "11"
    (root / "sam_ratings.csv").write_text("\n".join(",".join(row) for row in rows))
    found = faults(examine(open_corpus("dasps", root)))
    assert {(fault.code, fault.subject, fault.trial) for fault in found} == {
        ("label", "S01", "1"),
        ("label", "S01", "2"),
    }


def test_off_scale_label_of_deap_is_found_in_headers(root_of: Callable[[str], Path]) -> None:
    root = root_of("deap")
    path = root / "data_preprocessed_python" / "s02.dat"
    labels = np.full((4, 4), 5.0)
    labels[2, 0] = 0.0
    path.write_bytes(pickle_as_python2({"labels": labels, "data": np.random.default_rng(0).normal(size=(4, 40, 640))}))
    (root / "metadata_csv" / "participant_ratings.csv").unlink()
    found = faults(examine(open_corpus("deap", root)))
    assert [(fault.code, fault.subject, fault.trial) for fault in found] == [("label", "s02", "3")]


@pytest.mark.parametrize("missing_root", [True, False])
def test_wrong_requests_are_not_examined(copies: dict[str, Path], missing_root: bool, tmp_path: Path) -> None:
    with pytest.raises(RequestError):
        examine(open_corpus("deap", tmp_path / "nowhere" if missing_root else copies["dasps"]))


def test_store_that_refuses_one_object_does_not_hide_the_rest(
    copies: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = open_corpus("deap", copies["deap"])
    peek = corpus.peek

    def refuse(ref: Any) -> RecordingHeader:
        if ref.subject == "s02":
            raise RequestError("the store refuses")
        return peek(ref)

    monkeypatch.setattr(corpus, "peek", refuse)
    fault = only_fault(examine(corpus))
    assert (fault.topic, fault.subject) == ("readable", "s02")


def test_dead_process_is_said(copies: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures.process import BrokenProcessPool

    class Dying:
        def __enter__(self) -> Dying:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def map(self, *work: object) -> Any:
            raise BrokenProcessPool

    monkeypatch.setattr("emod.corpora.doctor._pool", lambda jobs, processes: Dying())
    with pytest.raises(DataError, match="--jobs 1"):
        examine(open_corpus("deap", copies["deap"]), full=True)


def test_several_recordings_at_a_time_say_the_same(copies: dict[str, Path]) -> None:
    told = []
    one = examine(open_corpus("deap", copies["deap"]), full=True, jobs=1)
    two = examine(open_corpus("deap", copies["deap"]), full=True, jobs=2, on_recording=told.append)
    assert one == two
    assert [look.ref.subject for look in told] == ["s01", "s02", "s03"]


def test_json_holds_all_of_it(copies: dict[str, Path]) -> None:
    diagnosis = examine(open_corpus("seed_iv", copies["seed_iv"]))
    assert Diagnosis.model_validate_json(diagnosis.model_dump_json()) == diagnosis
    assert {(seen.subject, seen.session, seen.trials) for seen in diagnosis.recordings} == {
        (str(subject), str(session), 3) for subject in range(1, 5) for session in range(1, 4)
    }
    assert all(field.description for name, field in Finding.model_fields.items() if name in ("level", "topic", "code"))


def test_names_of_files_cannot_act_on_a_terminal(root_of: Callable[[str], Path]) -> None:
    root = root_of("deap")
    (root / "data_preprocessed_python" / "\x1b[2J\udcff.dat").write_bytes(b"x")
    fault = only_fault(examine(open_corpus("deap", root)))
    assert fault.code == "unexpected_object"
    assert fault.source is not None
    assert fault.source.isprintable()
    fault.model_dump_json()


def test_numbers_are_told_in_short() -> None:
    assert numbers(["s10", "s01", "s02", "s03", "s03"]) == "s01-s03, s10"
    assert numbers(["12", "2", "1"]) == "1-2, 12"
    assert numbers(["abc", "abd"]) == "abc, abd"


# compare() on what was seen, with catalogs that the three corpora above do not need.


def with_catalog(root: Path, **changes: Any) -> Corpus:
    corpus = open_corpus("deap", root)
    corpus.__dict__["catalog"] = load_corpus("deap").model_copy(update=changes)
    return corpus


def corpus_header(corpus: Corpus, *, without: tuple[int, ...] = (), **changes: Any) -> RecordingHeader:
    trial_s = {str(n): 60.0 for n in range(1, 41) if n not in without}
    return dataclasses.replace(RecordingHeader(32, 128.0, trial_s), **changes)


def compared(corpus: Corpus, looks: list[Look]) -> Diagnosis:
    plans = READERS["deap"]("nowhere").plan_recordings(SimulateSettings(subjects=32))
    return compare(corpus, None, plans, looks, [], tables={}, full=False)


def all_looks(corpus: Corpus, changed: dict[str, RecordingHeader] | None = None, size: int = 103_000_000) -> list[Look]:
    template = open_corpus("deap", corpus.root).references()[0]
    names = [f"s{n:02d}" for n in range(1, 33)]
    headers = {name: corpus_header(corpus) for name in names} | (changed or {})
    refs = {
        name: dataclasses.replace(template, subject=name, source=storage.join(corpus.root, name), size_bytes=size)
        for name in headers
    }
    return [Look(refs[name], headers[name], (), name) for name in headers]


def test_known_gaps_are_named_and_no_fault(copies: dict[str, Path]) -> None:
    gap = Missing(subject=7, session="1", trials=(39, 40), count=2, why="lost by the recorder")
    corpus = with_catalog(copies["deap"], missing=(gap,))
    diagnosis = compared(corpus, all_looks(corpus, {"s07": corpus_header(corpus, without=(39, 40))}))
    (known,) = diagnosis.findings
    assert (known.level, known.subject, known.code) == ("known", "s07", "left_out")
    assert "39-40" in known.what
    assert "lost by the recorder" in known.what
    assert diagnosis.complete
    assert {c.topic: c.published for c in diagnosis.checks}["trials"] == "1,278"

    # One more than the owner lacks is a fault, and so is the same gap of somebody else.
    one_more = compared(corpus, all_looks(corpus, {"s07": corpus_header(corpus, without=(38, 39, 40))}))
    assert [(f.subject, f.trial) for f in one_more.findings if f.level == "fault"] == [("s07", "38")]
    other = compared(corpus, all_looks(corpus, {"s08": corpus_header(corpus, without=(39,))}))
    assert [(f.level, f.subject, f.trial) for f in other.findings if f.level != "known"] == [
        ("fault", "s08", "39"),
        ("notice", "s07", "39"),
        ("notice", "s07", "40"),
    ]


def test_gap_of_which_only_the_number_is_known(copies: dict[str, Path]) -> None:
    corpus = with_catalog(copies["deap"], missing=(Missing(subject=9, session="1", count=6, why="damaged"),))
    six = corpus_header(corpus, without=tuple(range(1, 7)))
    assert compared(corpus, all_looks(corpus, {"s09": six})).complete
    seven = corpus_header(corpus, without=tuple(range(1, 8)))
    fault = only_fault(compared(corpus, all_looks(corpus, {"s09": seven})))
    assert (fault.topic, fault.subject) == ("trials", "s09")
    assert "33 of at least 34" in fault.what


def test_subject_without_any_published_trial_is_not_asked_for(copies: dict[str, Path]) -> None:
    corpus = with_catalog(copies["deap"], missing=(Missing(subject=12, session="1", count=40, why="nothing usable"),))
    looks = [look for look in all_looks(corpus) if look.ref.subject != "s12"]
    assert compared(corpus, looks).complete


@pytest.mark.parametrize(
    ("changes", "topic"),
    [
        ({"channels": 31}, "channels"),
        ({"sfreq_hz": 512.0}, "rate"),
        ({"trial_s": {str(n): 60.0 if n != 3 else 59.0 for n in range(1, 41)}}, "seconds"),
    ],
)
def test_what_a_header_says_is_compared(copies: dict[str, Path], changes: dict[str, Any], topic: str) -> None:
    corpus = open_corpus("deap", copies["deap"])
    fault = only_fault(compared(corpus, all_looks(corpus, {"s04": corpus_header(corpus, **changes)})))
    assert (fault.topic, fault.subject) == (topic, "s04")


def test_sizes_are_compared(copies: dict[str, Path]) -> None:
    corpus = with_catalog(copies["deap"], object_mb=(100.0, 110.0))
    assert compared(corpus, all_looks(corpus)).complete
    found = faults(compared(corpus, all_looks(corpus, size=99_000_000)))
    assert {fault.topic for fault in found} == {"size"}
    assert "99 MB" in found[0].what


def test_ids_that_hide_names_are_counted(copies: dict[str, Path]) -> None:
    corpus = open_corpus("deap", copies["deap"])
    looks = all_looks(corpus)
    hidden = [
        dataclasses.replace(look, ref=dataclasses.replace(look.ref, subject=f"x{n:04x}f"))
        for n, look in enumerate(looks)
    ]
    assert compared(corpus, hidden).complete
    assert [fault.topic for fault in faults(compared(corpus, hidden[:-1]))] == ["subjects"]


def test_subjects_and_sessions_of_a_laboratory_are_counted(copies: dict[str, Path]) -> None:
    """BIDS: ids are the laboratory's own, also of sessions."""
    bids = load_corpus("deap").model_copy(update={"bids": LABORATORY})
    corpus = open_corpus("deap", copies["deap"])
    corpus.__dict__["catalog"] = bids
    looks = [
        dataclasses.replace(look, ref=dataclasses.replace(look.ref, subject=subject, session="pre"))
        for look, subject in zip(all_looks(corpus), ["s01", *(f"A{n}" for n in range(31))], strict=True)
    ]
    assert compared(corpus, looks).complete
    fault = only_fault(compared(corpus, looks[:-1]))
    assert (fault.topic, fault.code) == ("subjects", "missing")


@pytest.mark.parametrize("ids", [[f"s{n:02d}" for n in range(1, 33)], [f"s{n}" for n in range(5, 37)]])
@pytest.mark.parametrize("gone", [(0,), (2,), (0, 1), (31,), tuple(range(31))])
def test_any_subject_of_a_laboratory_that_is_gone_is_missed(
    copies: dict[str, Path], ids: list[str], gone: tuple[int, ...]
) -> None:
    """Also where the ids that are left are those that were expected of others, wholly or in part."""
    corpus = open_corpus("deap", copies["deap"])
    corpus.__dict__["catalog"] = load_corpus("deap").model_copy(update={"bids": LABORATORY})
    looks = [
        dataclasses.replace(look, ref=dataclasses.replace(look.ref, subject=subject))
        for n, (look, subject) in enumerate(zip(all_looks(corpus), ids, strict=True))
        if n not in gone
    ]
    diagnosis = compared(corpus, looks)
    by_topic = {check.topic: check for check in diagnosis.checks}
    assert (by_topic["subjects"].published, by_topic["sessions"].published) == ("32", "32")
    missing = [fault.subject for fault in faults(diagnosis)]
    assert {fault.topic for fault in faults(diagnosis)} == {"subjects"}
    assert len(set(missing)) == len(missing) == len(gone)
    if ids[0] == "s01":
        assert missing == [ids[n] for n in gone]  # all ids are the expected ones, so the right one is named


@pytest.mark.parametrize("session", ["1", "2"])
def test_session_that_is_gone_from_all_subjects_of_a_laboratory_is_missed(
    copies: dict[str, Path], session: str
) -> None:
    corpus = open_corpus("seed_iv", copies["seed_iv"])
    corpus.__dict__["catalog"] = load_corpus("seed_iv").model_copy(update={"bids": LABORATORY, "sessions": 2})
    plans = READERS["seed_iv"]("nowhere").plan_recordings(
        SimulateSettings(subjects=3, sessions=2, trials=3, time_scale=0.05)
    )
    refs = [ref for ref in corpus.references() if ref.subject != "4" and ref.session in ("1", "2")]
    looks = [Look(ref, corpus.peek(ref), (), ref.source) for ref in refs if ref.session != session]
    assert len(looks) == 3
    diagnosis = compare(corpus, corpus.simulated, plans, looks, [], tables={}, full=False)
    found = faults(diagnosis)
    assert {(fault.topic, fault.subject, fault.session) for fault in found} == {
        ("sessions", subject, session) for subject in "123"
    }
    assert {check.topic: check.published for check in diagnosis.checks}["sessions"] == "6"


def test_alternative_that_the_catalog_calls_uncertain_is_no_fault(copies: dict[str, Path]) -> None:
    corpus = open_corpus("deap", copies["deap"])
    looks = all_looks(corpus)
    problem = looks[3].ref.problem("layout", "protocol 1, not 2; kept, tell us")
    looks[3] = dataclasses.replace(looks[3], problems=(problem,))
    diagnosis = compared(corpus, looks)
    assert diagnosis.complete
    (finding,) = diagnosis.findings
    assert (finding.level, finding.topic, finding.what, finding.cure) == (
        "notice",
        "layout",
        "protocol 1, not 2",
        "kept, tell us",
    )
