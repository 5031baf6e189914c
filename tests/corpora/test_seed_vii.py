"""SEED-VII: four sessions in one object, emotions by the workbook that ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pytest
import scipy.io

from emod.catalog import SimulateSettings
from emod.corpora import Problem, open_corpus, simulate_corpus
from emod.simulation import TagSignal
from tests.golden.seed_vii import CHANNELS, CODES, WORDS

BOOK = "emotion_label_and_stimuli_order.xlsx"
ALL = [str(n) for n in range(1, 81)]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Variables of one subject, two seconds each."""
    root = tmp_path_factory.mktemp("seed_vii") / "copy"
    simulate_corpus("seed_vii", str(root), SimulateSettings(subjects=1, time_scale=0.01), TagSignal())
    content = scipy.io.loadmat(root / "EEG_preprocessed" / "1.mat")
    return {name: value for name, value in content.items() if not name.startswith("__")}


@pytest.fixture
def root(copy: dict[str, Any], tmp_path: Path) -> Path:
    """The same as a copy that nobody says is simulated, with the workbooks."""
    (tmp_path / "EEG_preprocessed").mkdir()
    write(tmp_path, copy)
    write_book(tmp_path, book())
    return tmp_path


def write(root: Path, content: dict[str, Any]) -> None:
    kept = {name: value for name, value in content.items() if value is not None}
    scipy.io.savemat(root / "EEG_preprocessed" / "1.mat", kept)


def book() -> list[list[Any]]:
    rows: list[list[Any]] = []
    for session in range(4):
        rows.append([f"Session {session + 1}", *range(20 * session + 1, 20 * session + 21)])
        rows.append(["", *(WORDS[code][0] for code in CODES[20 * session : 20 * session + 20])])
    return rows


def write_book(root: Path, rows: list[list[Any]], name: str = BOOK) -> None:
    workbook = openpyxl.Workbook()
    for row in rows:
        workbook.active.append(row)
    workbook.save(root / name)


def read(root: Path) -> tuple[list[str], list[Problem]]:
    corpus = open_corpus("seed_vii", root)
    return [trial.trial for trial in corpus.trials()], corpus.problems


def emotions(root: Path) -> tuple[dict[str, str | None], list[Problem]]:
    corpus = open_corpus("seed_vii", root)
    return {trial.trial: trial.emotion for trial in corpus.trials()}, corpus.problems


def test_four_recordings_of_one_object(root: Path, copy: dict[str, Any]) -> None:
    corpus = open_corpus("seed_vii", root, strict=True)
    refs = corpus.references()
    assert [(ref.subject, ref.session) for ref in refs] == [("1", "1"), ("1", "2"), ("1", "3"), ("1", "4")]
    assert {ref.source for ref in refs} == {str(root / "EEG_preprocessed" / "1.mat")}
    for ref in refs:
        recording = corpus.read(ref)
        first = 20 * (int(ref.session) - 1) + 1
        assert [span.trial for span in recording.spans] == [str(n) for n in range(first, first + 20)]
        assert [span.stimulus for span in recording.spans] == [span.trial for span in recording.spans]
        for span in recording.spans:
            np.testing.assert_array_equal(recording.cut(span).eeg_uv, copy[span.trial])


def test_storage_order_means_nothing(root: Path, copy: dict[str, Any]) -> None:
    for order in (sorted(copy), sorted(copy, key=int, reverse=True)):
        write(root, {name: copy[name] for name in order})
        for trial in open_corpus("seed_vii", root, strict=True).trials():
            np.testing.assert_array_equal(trial.eeg_uv, copy[trial.trial])


@pytest.mark.parametrize(
    ("trial", "value", "code"),
    [
        ("20", None, "missing"),
        ("21", np.ones((61, 400)), "shape"),
        ("41", "text", "dtype"),
        ("80", np.full((62, 400), np.inf), "not_finite"),
    ],
)
def test_trial_that_cannot_be_used_is_listed_once(
    root: Path, copy: dict[str, Any], trial: str, value: Any, code: str
) -> None:
    write(root, copy | {trial: value})
    trials, (problem,) = read(root)
    assert trials == [n for n in ALL if n != trial]
    assert (problem.subject, problem.trial, problem.code) == ("1", trial, code)


@pytest.mark.parametrize("trial", ["0", "81"])
def test_variable_that_no_session_has_is_listed_once(root: Path, copy: dict[str, Any], trial: str) -> None:
    write(root, copy | {trial: np.ones((62, 400))})
    trials, (problem,) = read(root)
    assert trials == ALL
    assert (problem.trial, problem.code) == (trial, "unexpected_object")


def test_other_variables_do_not_matter(root: Path, copy: dict[str, Any]) -> None:
    write(root, copy | {"info": "text", "eeg_1": np.ones((3, 3))})
    assert read(root) == (ALL, [])


def test_length_that_is_not_whole_seconds_is_kept_and_said(root: Path, copy: dict[str, Any]) -> None:
    write(root, copy | {"50": copy["50"][:, :-1]})
    trials, (problem,) = read(root)
    assert trials == ALL
    assert (problem.trial, problem.code) == ("50", "length")


def test_half_a_subject_is_missing_trials(root: Path, copy: dict[str, Any]) -> None:
    write(root, {name: value for name, value in copy.items() if int(name) <= 40})
    trials, problems = read(root)
    assert trials == ALL[:40]
    assert [problem.trial for problem in problems] == ALL[40:]
    assert {problem.code for problem in problems} == {"missing"}


class TestWorkbook:
    """Rows alternate: clip numbers, then emotions."""

    def test_disagreement_is_listed_and_the_file_wins(self, root: Path) -> None:
        published, nothing = emotions(root)
        assert nothing == []
        assert [published[n] for n in ("1", "20", "21", "41", "61", "80")] == [
            "happy",
            "happy",
            "anger",
            "happy",
            "disgust",
            "disgust",
        ]
        rows = book()
        rows[5][3] = "Fear"  # session 3, third place
        write_book(root, rows)
        found, (problem,) = emotions(root)
        assert published["43"] == "disgust"
        assert found == published | {"43": "fear"}
        assert problem.code == "label_disagreement"
        assert "session 3" in problem.message
        assert "[3]" in problem.message

    def test_rows_of_two_sessions_exchanged_are_noticed(self, root: Path) -> None:
        rows = book()
        write_book(root, rows[2:4] + rows[:2] + rows[4:])
        found, problems = emotions(root)
        assert found["1"] == "anger"
        assert {problem.code for problem in problems} == {"label_disagreement", "layout"}

    @pytest.mark.parametrize(
        "rows",
        [
            [],
            [["", "Happy"]],
            book()[1:],  # as if the first row were a heading
            [row[:-1] for row in book()],
            [[cell if cell != "Sad" else "Melancholy" for cell in row] for row in book()],
        ],
        ids=["empty", "one", "shifted", "short", "word"],
    )
    def test_table_that_cannot_be_used_is_listed(self, root: Path, rows: list[list[Any]]) -> None:
        published, _ = emotions(root)
        write_book(root, rows)
        found, problems = emotions(root)
        assert found == published
        assert {problem.code for problem in problems} == {"label_table"}

    def test_session_that_can_be_used_is(self, root: Path) -> None:
        rows = book()
        rows[1][1], rows[3][1] = "Sad", "?"
        write_book(root, rows)
        found, problems = emotions(root)
        assert (found["1"], found["21"]) == ("sad", "anger")
        assert [problem.code for problem in problems] == ["label_disagreement", "label_table"]

    @pytest.mark.parametrize("start", [1, 21])
    def test_clips_numbered_by_session_or_throughout_are_silent(self, root: Path, start: int) -> None:
        rows = book()
        rows[2][1:] = range(start, start + 20)
        write_book(root, rows)
        assert read(root) == (ALL, [])

    def test_clips_in_another_order_are_said(self, root: Path) -> None:
        rows = book()
        rows[2][1:3] = [22, 21]
        write_book(root, rows)
        trials, (problem,) = read(root)
        assert trials == ALL
        assert (problem.source, problem.code) == (str(root / BOOK), "layout")

    def test_unreadable_and_absent_table(self, root: Path) -> None:
        (root / BOOK).write_bytes(b"PK")
        trials, (problem,) = read(root)
        assert (trials, problem.code) == (ALL, "label_table")
        (root / BOOK).unlink()
        assert read(root) == (ALL, [])


def test_rows_in_the_order_of_the_workbook_are_put_in_the_published_one(root: Path, copy: dict[str, Any]) -> None:
    write(root, {name: np.roll(value, 1, axis=0) for name, value in copy.items()})
    write_book(root, [[name] for name in (CHANNELS[-1], *CHANNELS[:-1])], "Channel Order.xlsx")
    corpus = open_corpus("seed_vii", root)
    for trial in corpus.trials():
        np.testing.assert_array_equal(trial.eeg_uv, copy[trial.trial])
    assert [problem.code for problem in corpus.problems] == ["layout"]


def test_simulated_part_has_the_sessions_it_says(tmp_path: Path) -> None:
    settings = SimulateSettings(subjects=1, sessions=2, trials=3, time_scale=0.01)
    simulate_corpus("seed_vii", str(tmp_path / "copy"), settings, TagSignal())
    trials, problems = read(tmp_path / "copy")
    assert trials == ["1", "2", "3", "21", "22", "23"]
    assert problems == []
