"""SEED: sessions by date, labels and electrodes by the tables that ship, lengths by the table of clips."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from emod.catalog import SignalSettings, SimulateSettings
from emod.corpora import CorpusError, Problem, open_corpus, simulate_corpus
from emod.ingest.recording import make_windows
from emod.simulation import TagSignal
from tests.golden.seed import CHANNELS, write_channel_sheet

ALL = [str(n) for n in range(1, 16)]
PUBLISHED = [1, 0, -1, -1, 0, 1, -1, 0, 1, 1, 0, -1, 0, 1, -1]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One subject, session 1, all trials, of two or three seconds and a sample."""
    settings = SimulateSettings(subjects=1, sessions=1, time_scale=0.01)
    simulate_corpus("seed", str(tmp_path / "seed"), settings, TagSignal())
    return tmp_path / "seed"


def object_of(root: Path) -> Path:
    (path,) = (root / "Preprocessed_EEG").glob("1_*.mat")
    return path


def variables(root: Path) -> dict[str, Any]:
    return {name: value for name, value in scipy.io.loadmat(object_of(root)).items() if not name.startswith("__")}


def replace(root: Path, **changes: Any) -> None:
    kept = {name: value for name, value in (variables(root) | changes).items() if value is not None}
    scipy.io.savemat(object_of(root), kept)


def read(root: Path) -> tuple[list[str], list[Problem]]:
    corpus = open_corpus("seed", root)
    return [trial.trial for trial in corpus.trials()], corpus.problems


def emotions(root: Path) -> tuple[list[str | None], list[Problem]]:
    corpus = open_corpus("seed", root)
    return [trial.emotion for trial in corpus.trials()], corpus.problems


class TestSessions:
    """Nothing but its date tells a session."""

    def sessions(self, root: Path) -> list[tuple[str, str, str]]:
        refs = open_corpus("seed", root).references()
        return [(ref.subject, ref.session, Path(ref.source).name) for ref in refs]

    def test_order_of_dates_not_of_listing_or_text(self, root: Path) -> None:
        folder = object_of(root).parent
        (root / "SIMULATED.json").unlink()
        object_of(root).rename(folder / "1_20131030.mat")
        for name in ("10_20140101.mat", "2_20140404.mat", "10_20131231.mat", "2_20140419.mat", "2_20140413.mat"):
            (folder / name).write_bytes((folder / "1_20131030.mat").read_bytes())
        assert self.sessions(root) == [
            ("1", "1", "1_20131030.mat"),
            ("2", "1", "2_20140404.mat"),
            ("2", "2", "2_20140413.mat"),
            ("2", "3", "2_20140419.mat"),
            ("10", "1", "10_20131231.mat"),
            ("10", "2", "10_20140101.mat"),
        ]

    def test_fourth_date_is_listed(self, root: Path) -> None:
        folder = object_of(root).parent
        for name in ("1_20300101.mat", "1_20320101.mat", "1_20310101.mat"):
            (folder / name).write_bytes((folder / "1_20130702.mat").read_bytes())
        (root / "SIMULATED.json").unlink()
        corpus = open_corpus("seed", root)
        assert [ref.session for ref in corpus.references()] == ["1", "2", "3"]
        (problem,) = corpus.problems
        assert (problem.source, problem.subject, problem.code) == (
            str(folder / "1_20320101.mat"),
            "1",
            "unexpected_object",
        )

    def test_object_that_cannot_be_used_keeps_its_place(self, root: Path) -> None:
        folder = object_of(root).parent
        later = folder / "1_20300101.mat"
        (folder / "1_20130702.mat").rename(later)
        (folder / "1_20130702.mat").symlink_to("nothing")
        os.link(later, folder / "1_20310101.mat")  # the same object twice is no third session
        corpus = open_corpus("seed", root)
        (root / "SIMULATED.json").unlink()
        assert [(ref.session, ref.source) for ref in corpus.references()] == [("2", str(later))]
        assert sorted(problem.code for problem in corpus.problems) == ["duplicate", "layout", "unreadable"]

    def test_date_that_is_not_there_is_said(self, root: Path) -> None:
        folder = object_of(root).parent
        (root / "SIMULATED.json").unlink()
        for name in ("1_20300101.mat", "1_20310101.mat", "2_20130801.mat", "2_20130815.mat"):
            (folder / name).write_bytes((folder / "1_20130702.mat").read_bytes())
        corpus = open_corpus("seed", root)
        assert [(ref.subject, ref.session) for ref in corpus.references()] == [
            *(("1", session) for session in "123"),
            *(("2", session) for session in "12"),
        ]
        (problem,) = corpus.problems
        assert (problem.source, problem.subject, problem.trial, problem.code) == (str(folder), "2", None, "layout")
        assert problem.message.startswith("2 of 3 dates")
        (folder / "2_20130829.mat").symlink_to("nothing")  # fails, but holds its place
        corpus.references()
        assert [problem.code for problem in corpus.problems] == ["unreadable"]

    def test_fewer_simulated_sessions_are_all_there_are(self, root: Path) -> None:
        corpus = open_corpus("seed", root)
        corpus.references()
        assert corpus.problems == []


class TestLabels:
    """label.mat ships with the corpus and wins."""

    def write(self, root: Path, **content: Any) -> None:
        scipy.io.savemat(root / "Preprocessed_EEG" / "label.mat", content)

    def test_disagreement_is_listed_and_the_file_wins(self, root: Path) -> None:
        published, _ = emotions(root)
        assert published[:3] == ["positive", "neutral", "negative"]
        self.write(root, label=np.array([[1, -1, *PUBLISHED[2:]]]))
        found, (problem,) = emotions(root)
        assert found == ["positive", "negative", *published[2:]]
        assert problem.code == "label_disagreement"
        assert "trials [2]" in problem.message
        trial = list(open_corpus("seed", root).trials())[1]
        assert (trial.valence, trial.arousal) == (-1, 1.5)

    @pytest.mark.parametrize("dtype", ["i1", "i2", "f8"])
    def test_type_and_direction_of_the_row_do_not_matter(self, root: Path, dtype: str) -> None:
        published, _ = emotions(root)
        self.write(root, label=np.array(PUBLISHED, dtype)[:, None])
        assert emotions(root) == (published, [])

    @pytest.mark.parametrize(
        "label", [PUBLISHED[:-1], [*PUBLISHED, 0], [n + 1 for n in PUBLISHED], [0.5, *PUBLISHED[1:]], "text"]
    )
    def test_table_that_cannot_be_used_is_listed(self, root: Path, label: Any) -> None:
        published, _ = emotions(root)
        self.write(root, label=label)
        found, (problem,) = emotions(root)
        assert found == published
        assert problem.code == "label_table"

    def test_absence_is_fine(self, root: Path) -> None:
        (root / "Preprocessed_EEG" / "label.mat").unlink()
        assert read(root) == (ALL, [])

    def test_link_out_of_the_copy_is_listed_not_read(self, root: Path, tmp_path: Path) -> None:
        scipy.io.savemat(tmp_path / "mine.mat", {"label": np.zeros(15)})
        (root / "Preprocessed_EEG" / "label.mat").unlink()
        (root / "Preprocessed_EEG" / "label.mat").symlink_to(tmp_path / "mine.mat")
        found, (problem,) = emotions(root)
        assert found[0] == "positive"
        assert problem.code == "unexpected_object"

    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
    def test_pipe_or_folder_instead_is_listed_not_read(self, root: Path, make: Any) -> None:
        (root / "Preprocessed_EEG" / "label.mat").unlink()
        make(root / "Preprocessed_EEG" / "label.mat")
        found, (problem,) = emotions(root)
        assert found[0] == "positive"
        assert problem.code == "unreadable"


def test_labels_inside_an_object_are_tolerated(root: Path) -> None:
    """Older pages of the owner speak of a sixteenth array."""
    replace(root, label=np.array([PUBLISHED]))
    assert read(root) == (ALL, [])


def test_length_that_differs_from_the_table_of_clips_is_kept_and_said(root: Path) -> None:
    signal = variables(root)["djc_eeg2"]
    for changed in (signal[:, :-1], signal[:, 200:]):
        replace(root, djc_eeg2=changed)
        trials, (problem,) = read(root)
        assert trials == ALL
        assert (problem.trial, problem.code) == ("2", "length")
        assert f"{changed.shape[1]} samples, 401 by the published 2 s" in problem.message
        header = open_corpus("seed", root).peek(open_corpus("seed", root).references()[0])
        assert header.problems == (problem,)


def test_published_lengths_are_told_apart_by_clip(root: Path) -> None:
    (root / "SIMULATED.json").unlink()
    _, problems = read(root)
    assert problems.pop(0).code == "layout"  # one date of three
    assert [problem.code for problem in problems] == ["length"] * 15
    assert "47001 by the published 235 s" in problems[0].message
    assert "53001 by the published 265 s" in problems[8].message


def test_rows_in_the_order_of_the_workbook_are_put_in_the_published_one(root: Path) -> None:
    published = [trial.eeg_uv for trial in open_corpus("seed", root).trials()]
    replace(root, **{name: value[::-1] for name, value in variables(root).items()})
    (root / "Channel Order.xlsx").unlink()
    write_channel_sheet(root / "channel-order.xlsx", list(CHANNELS[::-1]))
    corpus = open_corpus("seed", root)
    for before, trial in zip(published, corpus.trials(), strict=True):
        np.testing.assert_array_equal(before, trial.eeg_uv)
    assert [problem.code for problem in corpus.problems] == ["layout"]
    with pytest.raises(CorpusError, match="layout"):
        open_corpus("seed", root, strict=True).references()


@pytest.mark.parametrize("change", [{}, {"liuqiujun_eeg5": np.ones((61, 401))}, {"zhangsan_eeg16": np.ones((62, 401))}])
def test_initials_stay_in_the_reader(root: Path, change: dict[str, Any]) -> None:
    content = {name.replace("djc_", "liuqiujun_"): value for name, value in variables(root).items()}
    scipy.io.savemat(object_of(root), content | change)
    (root / "SIMULATED.json").unlink()  # then no clip has its published length
    corpus = open_corpus("seed", root)
    said: list[Any] = []
    for ref in corpus.references():
        with contextlib.suppress(CorpusError):
            said.append(corpus.peek(ref))
    for recording in corpus.recordings():
        windows = make_windows(recording, corpus.catalog, SignalSettings(window_s=0.5))
        said += [recording.spans, windows.rows, windows.problems, windows.cleaning]
    assert len(corpus.problems) > 1
    said += [*map(str, corpus.problems), corpus.problems]
    assert not re.search("liuqiujun|zhangsan", repr(said))


@pytest.mark.parametrize(
    ("change", "code", "trial"),
    [
        ({"djc_eeg3": None}, "missing", "3"),
        ({"djc_eeg4": np.ones((61, 401))}, "shape", "4"),
        ({"djc_eeg4": np.ones((401, 62))}, "shape", "4"),
        ({"djc_eeg5": "text"}, "dtype", "5"),
        ({"djc_eeg6": np.full((62, 601), np.nan)}, "not_finite", "6"),
        ({"djc_eeg16": np.ones((62, 401))}, "unexpected_object", "16"),
        ({"djc_eeg0": np.ones((62, 401))}, "unexpected_object", "0"),
    ],
)
def test_trial_that_cannot_be_used_is_listed(root: Path, change: dict[str, Any], code: str, trial: str) -> None:
    replace(root, **change)
    trials, problems = read(root)
    assert trials == [n for n in ALL if n != trial]
    assert {(problem.trial, problem.code) for problem in problems} - {(trial, "length")} == {(trial, code)}


def test_storage_order_means_nothing(root: Path) -> None:
    before = [trial.eeg_uv for trial in open_corpus("seed", root).trials()]
    scipy.io.savemat(object_of(root), dict(sorted(variables(root).items())))  # 1, 10, 11, ...
    for ordered, trial in zip(before, open_corpus("seed", root, strict=True).trials(), strict=True):
        np.testing.assert_array_equal(ordered, trial.eeg_uv)


def test_headers_are_told_without_samples(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = open_corpus("seed", root)
    (ref,) = corpus.references()
    expected = {span.trial: (span.stop - span.start) / 200 for span in corpus.read(ref).spans}
    monkeypatch.setattr("emod.corpora.mat5.load_variable", None)
    assert corpus.peek(ref).trial_s == expected
