"""AMIGOS: cells by number, arousal before valence, gaps that its owner left and gaps that this copy has."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from emod.catalog import SimulateSettings
from emod.corpora import CorpusError, Problem, amigos, mat5_walk, open_corpus, simulate_corpus
from emod.corpora.amigos import Amigos
from emod.simulation import TagSignal

SETTINGS = SimulateSettings(subjects=32, time_scale=0.001)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One subject, twenty videos of two seconds. Read only."""
    root = tmp_path_factory.mktemp("amigos") / "copy"
    simulate_corpus("amigos", str(root), SimulateSettings(subjects=1, time_scale=0.001), TagSignal())
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    (tmp_path / "data_preprocessed").mkdir()
    object_of(tmp_path).write_bytes(object_of(made).read_bytes())
    return tmp_path


def object_of(root: Path, subject: int = 1) -> Path:
    return root / "data_preprocessed" / f"Data_Preprocessed_P{subject:02d}.mat"


def variables(root: Path) -> dict[str, Any]:
    return {name: value for name, value in scipy.io.loadmat(object_of(root)).items() if not name.startswith("__")}


def replace(root: Path, compress: bool = True, **changes: Any) -> None:
    kept = {name: value for name, value in (variables(root) | changes).items() if value is not None}
    scipy.io.savemat(object_of(root), kept, do_compression=compress)


def put(root: Path, name: str, trial: int, value: Any) -> None:
    cells = variables(root)[name]
    cells[0, trial - 1] = value
    replace(root, **{name: cells})


def read(root: Path) -> tuple[list[str], list[Problem]]:
    corpus = open_corpus("amigos", root)
    return [trial.trial for trial in corpus.trials()], corpus.problems


def peeked(root: Path) -> tuple[list[str], list[Problem]]:
    corpus = open_corpus("amigos", root)
    header = corpus.peek(corpus.references()[0])
    return list(header.trial_s), list(header.problems)


def write_subject(root: Path, subject: int) -> None:
    """One subject of many, simulated alone."""
    corpus = Amigos(str(root))
    (plan,) = (plan for plan in corpus.plan_recordings(SETTINGS) if plan.subject == f"P{subject:02d}")
    corpus.write_recording(plan, TagSignal().record(plan))


ALL = [str(n) for n in range(1, 21)]


def without(*trials: str) -> list[str]:
    return [trial for trial in ALL if trial not in trials]


def test_values_are_those_of_the_object(root: Path) -> None:
    stored = variables(root)
    for trial in open_corpus("amigos", root, strict=True).trials():
        row = int(trial.trial) - 1
        assert stored["joined_data"][0, row].shape[1] == 17
        np.testing.assert_array_equal(trial.eeg_uv, stored["joined_data"][0, row][640:, :14].T)
        np.testing.assert_array_equal(trial.baseline_uv, stored["joined_data"][0, row][:640, :14].T)
        arousal, valence = stored["labels_selfassessment"][0, row][0, :2]
        assert trial.rating == {"valence": valence, "arousal": arousal}
        assert trial.stimulus == stored["VideoIDs"][0, row].item()
    assert peeked(root) == (ALL, [])


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (np.ones((1000, 14)), "shape"),
        (np.ones((1000, 18)), "shape"),
        (np.ones((17, 1000)), "shape"),
        (np.ones((700, 17)), "shape"),
        (np.ones((1000, 17, 2)), "shape"),
        (np.empty((0, 0)), "missing"),
        (np.empty((0, 17)), "missing"),
        (np.ones((1000, 17)) * 1j, "dtype"),
        ("text", "dtype"),
        (np.array([[np.ones((1000, 17)), "nested"]], dtype=object), "dtype"),
        ({"field": np.ones((1000, 17))}, "dtype"),
        (np.full((1000, 17), np.nan), "not_finite"),
        (np.ones((1000, 17)), "flat"),
    ],
)
def test_recording_that_cannot_be_used_is_listed(root: Path, value: Any, code: str) -> None:
    put(root, "joined_data", 7, value)
    found, (problem,) = read(root)
    assert found == without("7")
    assert (problem.subject, problem.trial, problem.code) == ("P01", "7", code)
    if code not in ("not_finite", "flat"):  # samples are not looked at
        assert peeked(root) == (found, [problem])


@pytest.mark.parametrize(
    "value",
    [
        np.empty((0, 0)),
        np.empty((1, 0)),
        np.full((1, 5), 5.0),
        np.full((12, 1), 5.0),
        np.full((1, 12), np.nan),
        np.full((1, 12), 9.5),
        np.array([[5, 0.5, *[1] * 10]]),
        np.array([[0.5, 5, *[1] * 10]]),
        "text",
        np.array([["a", 1]], dtype=object),
    ],
)
def test_rating_that_cannot_be_used_costs_its_trial(root: Path, value: Any) -> None:
    put(root, "labels_selfassessment", 20, value)
    found, (problem,) = read(root)
    assert found == without("20")
    assert (problem.trial, problem.code) == ("20", "label")
    assert peeked(root) == (found, [problem])


def test_other_columns_do_not_matter(root: Path) -> None:
    stored = variables(root)
    for cell in stored["joined_data"][0]:
        cell[:, 14:] = np.nan
    for cell in stored["labels_selfassessment"][0]:
        cell[:, 2:] = 99
    replace(root, **(stored | {"labels_ext_annotation": None}))
    assert read(root) == (ALL, [])


def test_sixteen_columns_are_kept_and_said_once(root: Path) -> None:
    before = [trial.eeg_uv for trial in open_corpus("amigos", root).trials()]
    cells = variables(root)["joined_data"]
    for row in (2, 3):
        cells[0, row] = cells[0, row][:, :16]
    replace(root, joined_data=cells)
    found, (problem,) = read(root)
    assert found == ALL
    assert (problem.trial, problem.code) == (None, "layout")
    assert "[3, 4]" in problem.message
    for one, other in zip(before, open_corpus("amigos", root).trials(), strict=True):
        np.testing.assert_array_equal(one, other.eeg_uv)


@pytest.mark.parametrize("subject", [8, 28])
def test_long_videos_that_nobody_saw_are_known(tmp_path: Path, subject: int) -> None:
    write_subject(tmp_path, subject)
    stored = scipy.io.loadmat(object_of(tmp_path, subject))
    assert [cell.shape for cell in stored["joined_data"][0, 16:]] == [(0, 0)] * 4
    corpus = open_corpus("amigos", tmp_path, strict=True)
    assert [trial.trial for trial in corpus.trials()] == ALL[:16]
    assert [(problem.trial, problem.code) for problem in corpus.problems] == [(n, "left_out") for n in ALL[16:]]
    assert list(corpus.peek(corpus.references()[0]).trial_s) == ALL[:16]


def test_long_videos_that_one_rated_or_not_are_used_or_known(tmp_path: Path) -> None:
    write_subject(tmp_path, 32)
    stored = scipy.io.loadmat(object_of(tmp_path, 32))
    assert [cell.shape[1] for cell in stored["joined_data"][0]] == [17] * 20
    corpus = open_corpus("amigos", tmp_path, strict=True)
    assert [trial.trial for trial in corpus.trials()] == ALL[:16]
    assert {problem.code for problem in corpus.problems} == {"left_out"}
    for cell in range(16, 20):
        stored["labels_selfassessment"][0, cell] = np.full((1, 12), 5.0)
    scipy.io.savemat(object_of(tmp_path, 32), {name: value for name, value in stored.items() if name[0] != "_"})
    corpus = open_corpus("amigos", tmp_path, strict=True)
    assert [trial.trial for trial in corpus.trials()] == ALL
    assert corpus.problems == []


SKIPPED_ELSEWHERE = (9, 12, 21, 22, 23, 24, 33)


def test_participants_that_other_tools_skip_are_kept_and_said(tmp_path: Path) -> None:
    corpus = Amigos(str(tmp_path))
    plans = corpus.plan_recordings(SimulateSettings(subjects=40, trials=1, time_scale=0.001))
    for plan in plans:
        corpus.write_recording(plan, TagSignal().record(plan))
    trials = {trial.subject for trial in corpus.trials()}
    assert len(trials) == 40
    said = [problem for problem in corpus.problems if problem.trial is None]
    assert [problem.subject for problem in said] == [f"P{subject:02d}" for subject in SKIPPED_ELSEWHERE]
    assert {problem.code for problem in said} == {"disputed"}
    assert said[0].message.startswith("other tools leave P09 out for invalid data; kept")
    assert said[0] in corpus.peek(corpus.references()[8]).problems
    listed = ", ".join(map(str, SKIPPED_ELSEWHERE[:-1]))
    assert any(f"participants {listed} and 33" in line for line in corpus.catalog.uncertain)


def test_simulated_participants_are_not_suspected(tmp_path: Path) -> None:
    simulate_corpus(
        "amigos", str(tmp_path / "copy"), SimulateSettings(subjects=9, trials=1, time_scale=0.001), TagSignal()
    )
    assert read(tmp_path / "copy") == (["1"] * 9, [])


def test_participant_of_whom_nothing_is_kept_is_not_said_to_be(tmp_path: Path) -> None:
    write_subject(tmp_path, 9)
    stored = scipy.io.loadmat(object_of(tmp_path, 9))
    stored["labels_selfassessment"] = np.full((1, 20), None)
    for cell in range(20):
        stored["labels_selfassessment"][0, cell] = np.empty((1, 0))
    scipy.io.savemat(object_of(tmp_path, 9), {name: value for name, value in stored.items() if name[0] != "_"})
    found, problems = read(tmp_path)
    assert found == []
    assert {problem.code for problem in problems} == {"label"}


class TestVideoIds:
    """VideoIDs names the clips."""

    def test_numbers_are_taken_as_well_as_text(self, root: Path) -> None:
        before = [trial.stimulus for trial in open_corpus("amigos", root).trials()]
        cells = variables(root)["VideoIDs"]
        for row in range(16):
            cells[0, row] = float(cells[0, row].item())
        replace(root, VideoIDs=cells)
        assert [trial.stimulus for trial in open_corpus("amigos", root, strict=True).trials()] == before
        assert before[:4] == ["10", "13", "138", "18"]

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "../../x",
            "9" * 30,
            np.nan,
            np.inf,
            -4.0,
            4.5,
            np.ones((2, 2)),
            np.array(["a", "b"]),
            {"a": 1.0},
            np.empty((0, 0)),
        ],
    )
    def test_what_is_no_id_costs_its_trial(self, root: Path, value: Any) -> None:
        put(root, "VideoIDs", 5, value)
        found, (problem,) = read(root)
        assert found == without("5")
        assert (problem.trial, problem.code) == ("5", "label")

    def test_one_clip_twice_costs_both(self, root: Path) -> None:
        put(root, "VideoIDs", 5, "138")
        found, problems = read(root)
        assert found == without("3", "5")
        assert {problem.code for problem in problems} == {"label"}


@pytest.mark.parametrize("name", ["joined_data", "labels_selfassessment", "VideoIDs"])
def test_variable_that_is_missing_or_something_else_refuses_the_object(root: Path, name: str) -> None:
    cells = variables(root)[name]
    for value, code in (
        (None, "missing"),
        (np.ones((1, 20)), "shape"),
        (cells[:, :16], "shape"),
        (np.concatenate([cells, cells], axis=1), "shape"),
        (cells.reshape(4, 5), "shape"),
    ):
        before = object_of(root).read_bytes()
        replace(root, **{name: value})
        found, (problem,) = read(root)
        assert found == []
        assert (problem.trial, problem.code) == (None, code)
        object_of(root).write_bytes(before)


@pytest.mark.parametrize("compress", [False, True])
def test_column_of_cells_and_any_order_of_variables_are_read(root: Path, compress: bool) -> None:
    stored = {name: value.T for name, value in reversed(variables(root).items())}
    scipy.io.savemat(object_of(root), stored, do_compression=compress)
    assert read(root) == (ALL, [])


def test_single_downloads_and_a_second_copy(root: Path) -> None:
    folder = root / "data_preprocessed" / "Data_Preprocessed_P01"
    folder.mkdir()
    second = folder / object_of(root).name
    second.write_bytes(object_of(root).read_bytes())
    found, (problem,) = read(root)
    assert found == ALL
    assert problem.code == "duplicate"
    assert {problem.source, open_corpus("amigos", root).references()[0].source} == {str(object_of(root)), str(second)}
    object_of(root).unlink()
    assert read(root) == (ALL, [])


def test_subject_that_was_never_published_is_listed(root: Path) -> None:
    object_of(root, 41).write_bytes(object_of(root).read_bytes())
    found, (problem,) = read(root)
    assert found == ALL
    assert problem.code == "unexpected_object"


def test_cells_beyond_the_trials_of_a_shortened_copy(made: Path, tmp_path: Path) -> None:
    settings = SimulateSettings(subjects=1, trials=3, time_scale=0.001)
    simulate_corpus("amigos", str(tmp_path / "copy"), settings, TagSignal())
    assert read(tmp_path / "copy") == (["1", "2", "3"], [])
    object_of(tmp_path / "copy").write_bytes(object_of(made).read_bytes())
    found, problems = read(tmp_path / "copy")
    assert found == ["1", "2", "3"]
    assert [(problem.trial, problem.code) for problem in problems] == [(n, "unexpected_object") for n in ALL[3:]]


@pytest.mark.parametrize("compress", [False, True])
def test_truncation_anywhere_is_a_problem_not_a_crash(root: Path, compress: bool) -> None:
    replace(root, compress=compress)
    content = object_of(root).read_bytes()
    for length in [*range(0, 400, 37), *range(400, len(content), len(content) // 19), len(content) - 1]:
        object_of(root).write_bytes(content[:length])
        found, (problem,) = read(root)
        assert found == []
        assert problem.code in ("unreadable", "missing")  # missing: cut between two variables


def test_checksum_of_a_compressed_variable_is_compared(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it lies in a block of its own, behind everything that is needed."""
    monkeypatch.setattr(mat5_walk, "_BLOCK", 8)
    cells = variables(root)["joined_data"]
    for row in range(1, 20):
        cells[0, row] = np.empty((0, 0))
    replace(root, joined_data=cells)
    assert read(root)[0] == ["1"]
    content = object_of(root).read_bytes()
    place, refused = 128, []
    while place < len(content):
        place += 8 + struct.unpack("<I", content[place + 4 : place + 8])[0]
        changed = bytearray(content)
        changed[place - 1] ^= 1  # the last byte of a variable is the last of its checksum
        object_of(root).write_bytes(bytes(changed))
        refused.append("unreadable" in {problem.code for problem in read(root)[1]})
    assert sorted(refused) == [False, True, True, True]  # the annotations are not read


def test_bytes_changed_anywhere_are_problems_not_crashes(root: Path) -> None:
    replace(root, compress=False)
    content = object_of(root).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        changed = bytearray(content)
        head = content.index(b"joined_data") if rng.random() < 0.5 else content.index(b"labels_self")
        changed[head + int(rng.integers(400))] = int(rng.integers(256))
        object_of(root).write_bytes(bytes(changed))
        read(root)


def test_declared_sizes_reserve_no_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = variables(root)
    samples = stored["joined_data"][0, 8].shape[0]
    replace(root, compress=False)
    content = object_of(root).read_bytes()
    shape = struct.pack("<ii", samples, 17)
    cells = content.index(b"joined_data")
    place = content.index(shape, cells)
    object_of(root).write_bytes(content[:place] + struct.pack("<ii", 2**30, 17) + content[place + 8 :])
    found, (problem,) = read(root)
    assert found == without("1")
    assert (problem.trial, problem.code) == ("1", "shape")
    object_of(root).write_bytes(content[:place] + struct.pack("<ii", samples + 99, 17) + content[place + 8 :])
    assert [problem.code for problem in read(root)[1]] == ["unreadable"]

    monkeypatch.setattr(amigos, "_MAX_OBJECT", 1000)
    monkeypatch.setattr(mat5_walk, "variables", None)  # nothing is opened
    assert [problem.code for problem in read(root)[1]] == ["shape"]


def test_other_containers_are_unreadable(root: Path) -> None:
    for content in (b"", b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(1000), bytes(5000)):
        object_of(root).write_bytes(content)
        found, (problem,) = read(root)
        assert found == []
        assert problem.code == "unreadable"
        with pytest.raises(CorpusError):
            list(open_corpus("amigos", root, strict=True).trials())


def test_simulated_object_has_the_published_annotations(made: Path) -> None:
    stored = scipy.io.loadmat(io.BytesIO(object_of(made).read_bytes()))
    assert {cell.shape[1] for cell in stored["labels_ext_annotation"][0]} == {3}
    assert all(cell[0, 5:].sum() == 1 for cell in stored["labels_selfassessment"][0])
    plans = Amigos("nowhere").plan_recordings(SimulateSettings(subjects=8))
    assert [len(plan.pieces) for plan in plans] == [20] * 7 + [16]
    assert plans[0].band_hz == (4, 45)
