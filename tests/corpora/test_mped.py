"""MPED: which recordings are trials, which rows are electrodes, and a name that must not be seen."""

from __future__ import annotations

import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import scipy.io

from emod import storage
from emod.catalog import SignalSettings, SimulateSettings, load_corpus
from emod.corpora import CorpusError, Problem, RecordingRef, open_corpus, simulate_corpus
from emod.corpora.mped import pseudonym
from emod.errors import DataError, RequestError
from emod.ingest.recording import make_windows
from emod.simulation import TagSignal
from tests.golden.mped import CODES

NAME = "Ottilie Beispiel"
USED = ["2", "3", "4", "5", "6", "7", "8", "10", "11", "12", "14", "15", "16", "17"]
LEFT_OUT = ["1", "9", "13"]
TOP = "raw_EEG_signals"


def recorded(number: int, rows: int = 64) -> Any:
    """One second that tells its recording and row."""
    noise = np.random.default_rng(number).normal(0, 10, (rows, 1000))  # the first rows of more are the same
    return 1000.0 * number + np.arange(1, rows + 1)[:, None] + noise


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One person, session 1."""
    (tmp_path / "copy" / TOP / NAME).mkdir(parents=True)
    write(tmp_path / "copy", content())
    codes = np.array([[int(code) for code in CODES.split()]], np.uint8)
    scipy.io.savemat(tmp_path / "copy" / TOP / "raw_EEG_Label.mat", {"eeg_label": codes})
    return tmp_path / "copy"


def content(rows: int = 64) -> dict[str, Any]:
    return {f"raw_eeg{n}": recorded(n, rows) for n in range(1, 18)}


def write(root: Path, variables: dict[str, Any], half: str = "d") -> None:
    kept = {name: value for name, value in variables.items() if value is not None}
    scipy.io.savemat(root / TOP / NAME / f"{NAME}_{half}.mat", kept)


def read(root: Path) -> tuple[list[str], list[Problem]]:
    """Trials, and problems other than what the owner leaves out."""
    corpus = open_corpus("mped", root)
    return [trial.trial for trial in corpus.trials()], [each for each in corpus.problems if not each.known]


def test_rest_and_unused_recordings_are_known_not_yielded(root: Path) -> None:
    corpus = open_corpus("mped", root, strict=True)  # what its owner published so stops nothing
    trials = list(corpus.trials())
    assert [trial.trial for trial in trials] == USED
    assert [(problem.trial, problem.code) for problem in corpus.problems] == [(n, "left_out") for n in LEFT_OUT]
    assert [trial.emotion for trial in trials[:3]] == ["joy", "neutral", "angry"]
    (ref,) = corpus.references()
    assert [problem.trial for problem in corpus.peek(ref).problems] == LEFT_OUT


def test_rest_that_is_not_there_is_not_missed(root: Path) -> None:
    write(root, content() | {"raw_eeg1": None})
    corpus = open_corpus("mped", root)
    assert [trial.trial for trial in corpus.trials()] == USED
    assert [problem.trial for problem in corpus.problems] == ["9", "13"]


def test_mastoids_are_no_electrodes(root: Path) -> None:
    trial = next(iter(open_corpus("mped", root).trials()))
    kept = [row for row in range(1, 65) if row not in (33, 43)]  # M1 after T8, M2 after TP8
    np.testing.assert_array_equal(trial.eeg_uv, recorded(2)[[row - 1 for row in kept]])
    by_name = dict(zip(trial.channels, kept, strict=True))
    assert [by_name[name] for name in ("Fp1", "T8", "TP7", "TP8", "P7", "O2", "CB2")] == [1, 32, 34, 42, 44, 63, 64]


@pytest.mark.parametrize("rows", [65, 66, 68, 128])
def test_more_rows_are_taken_for_the_cap_and_said_once(root: Path, rows: int) -> None:
    before = [trial.eeg_uv for trial in open_corpus("mped", root).trials()]
    write(root, content(rows))
    corpus = open_corpus("mped", root)
    for expected, trial in zip(before, corpus.trials(), strict=True):
        np.testing.assert_array_equal(expected, trial.eeg_uv)
    (problem,) = (each for each in corpus.problems if not each.known)
    assert (problem.trial, problem.code) == (None, "layout")
    assert f"{rows} rows" in problem.message


def test_sixty_two_rows_are_the_electrodes_and_said(root: Path) -> None:
    write(root, content(62))
    corpus = open_corpus("mped", root)
    trial = next(iter(corpus.trials()))
    np.testing.assert_array_equal(trial.eeg_uv, recorded(2, 62))
    assert [each.code for each in read(root)[1]] == ["layout"]


@pytest.mark.parametrize("rows", [1, 61, 63, 129])
def test_other_numbers_of_rows_are_refused(root: Path, rows: int) -> None:
    write(root, content() | {"raw_eeg5": recorded(5, rows)})
    trials, (problem,) = read(root)
    assert trials == [n for n in USED if n != "5"]
    assert (problem.trial, problem.code) == ("5", "shape")


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("raw_eeg7", None, "missing"),
        ("raw_eeg7", "text", "dtype"),
        ("raw_eeg7", np.ones((64, 1000)), "flat"),
        ("raw_eeg18", recorded(18), "unexpected_object"),
        ("raw_eeg35", recorded(35), "unexpected_object"),
    ],
)
def test_recording_that_cannot_be_used_is_listed(root: Path, name: str, value: Any, code: str) -> None:
    write(root, content() | {name: value})
    trials, (problem,) = read(root)
    number = name.removeprefix("raw_eeg")
    assert trials == [n for n in USED if n != number]
    assert (problem.trial, problem.code) == (number, code)


class TestLabels:
    """raw_EEG_Label.mat ships with the corpus and wins."""

    def write(self, root: Path, label: Any, name: str = "eeg_label") -> None:
        scipy.io.savemat(root / TOP / "raw_EEG_Label.mat", {name: label})

    def codes(self, **changes: int) -> list[int]:
        codes = [int(code) for code in CODES.split()]
        for place, code in changes.items():
            codes[int(place[1:]) - 1] = code
        return codes

    def test_disagreement_is_listed_and_the_file_wins(self, root: Path) -> None:
        self.write(root, np.array(self.codes(n2=7, n3=8, n9=4))[:, None])
        corpus = open_corpus("mped", root)
        trials = {trial.trial: trial for trial in corpus.trials()}
        assert list(trials) == ["2", *USED[2:7], "9", *USED[7:]]
        assert (trials["2"].emotion, trials["2"].valence) == ("sadness", -1)
        assert trials["9"].emotion == "angry"
        assert [problem.trial for problem in corpus.problems if problem.known] == ["1", "3", "13"]
        (problem,) = (each for each in corpus.problems if not each.known)
        assert problem.code == "label_disagreement"
        assert "[2, 3, 9]" in problem.message

    @pytest.mark.parametrize("count", [0, 30, 35])
    def test_list_of_another_length_is_not_used(self, root: Path, count: int) -> None:
        """The list of 30, without the 8s, belongs to the features: read as one of 34 it mislabels 21 of 28 trials."""
        short = [code for code in self.codes() if code != 8]
        self.write(root, np.array([(short + [0] * 5)[:count]]))
        trials, (problem,) = read(root)
        assert trials == USED
        assert problem.code == "label_table"

    @pytest.mark.parametrize("label", ["text", np.full((1, 34), 9), np.full((1, 34), 1.5)])
    def test_table_that_cannot_be_used_is_listed(self, root: Path, label: Any) -> None:
        self.write(root, label)
        trials, (problem,) = read(root)
        assert trials == USED
        assert (problem.source, problem.code) == (str(root / TOP / "raw_EEG_Label.mat"), "label_table")

    def test_absence_is_fine(self, root: Path) -> None:
        (root / TOP / "raw_EEG_Label.mat").unlink()
        assert read(root) == (USED, [])

    def test_pipe_is_listed_not_read(self, root: Path) -> None:
        (root / TOP / "raw_EEG_Label.mat").unlink()
        os.mkfifo(root / TOP / "raw_EEG_Label.mat")
        trials, (problem,) = read(root)
        assert (trials, problem.code) == (USED, "unreadable")


class TestPseudonym:
    """Subjects are called the same wherever they are, and nobody else is."""

    def test_depends_on_the_name_only(self, root: Path) -> None:
        (ref,) = open_corpus("mped", root).references()
        assert re.fullmatch(r"m\d{10}", ref.subject)
        for other in ("Anna", "Zora"):
            shutil.copytree(root / TOP / NAME, root / TOP / other)
            os.rename(root / TOP / other / f"{NAME}_d.mat", root / TOP / other / f"{other}_d.mat")
        refs = open_corpus("mped", root).references()
        assert ref.subject in {each.subject for each in refs}
        assert len({each.subject for each in refs}) == 3
        assert {each.subject for each in refs} == {pseudonym(name) for name in ("Anna", "Zora", NAME)}
        assert [each.subject for each in refs] == sorted(each.subject for each in refs)

    def test_spelling_of_accents_does_not_matter(self) -> None:
        assert pseudonym("Jos\u00e9") == pseudonym("Jose\u0301") != pseudonym("Jose")

    def test_is_what_it_was(self) -> None:
        """Stores of different days must agree on who is who: changing this loses them."""
        assert [pseudonym(name) for name in ("nobody", "invented_person_01")] == ["m9929975149", "m4181691405"]


class TestNameIsNotSeen:
    """Folders bear names; what leaves the reader does not."""

    SECRETS = (NAME, "Ottilie", "Beispiel", "Ottilie%20Beispiel")

    def check(self, *things: Any) -> None:
        for thing in things:
            for text in (str(thing), repr(thing)):
                assert not [secret for secret in self.SECRETS if secret.lower() in text.lower()]

    def check_error(self, error: BaseException | None) -> None:
        """Neither the error nor what hangs on it."""
        while error is not None:
            self.check(error, error.args, vars(error), getattr(error, "filename", None))
            error = error.__cause__ or error.__context__

    @pytest.fixture
    def ref(self, root: Path) -> RecordingRef:
        (ref,) = open_corpus("mped", root).references()
        return ref

    def test_in_references_trials_and_windows(self, root: Path, ref: RecordingRef) -> None:
        assert NAME in ref.urls[0]
        assert ref.source == f"{root}/{TOP}/{ref.subject}/{ref.subject}_d.mat"
        corpus = open_corpus("mped", root)
        recording = corpus.read(ref)
        self.check(ref, ref.source, ref.key, ref.problem("x", "y"), corpus.peek(ref), recording.spans)
        self.check(recording.source, recording.subject, recording.problems)
        for trial in corpus.trials():
            self.check(trial.subject, trial.source, trial.stimulus, trial.trial)
        windows = make_windows(recording, load_corpus("mped"), SignalSettings(window_s=0.5))
        assert windows.rows
        self.check(windows.rows, windows.problems, windows.cleaning)
        self.check(pickle.dumps(windows.rows))

    @pytest.mark.parametrize(
        "variables",
        [
            content(70) | {"raw_eeg3": None, "raw_eeg4": "text", "raw_eeg99": "text"},
            {"x": "text"},
            {f"OttilieBeispiel_raw_eeg{n}": recorded(n) for n in (1, 2)},
            content() | {"raw_eeg2": None, "Ottilie": "text", "Beispiel_raw_eeg2": recorded(2)},
        ],
    )
    def test_in_problems_of_recordings(self, root: Path, variables: dict[str, Any]) -> None:
        write(root, variables)
        corpus = open_corpus("mped", root)
        (ref,) = corpus.references()
        try:
            told = corpus.peek(ref).problems
        except CorpusError as error:
            told = error.problems
        list(corpus.recordings())
        problems = [each for each in corpus.problems if not each.known]
        assert problems
        self.check(*problems, *told)

    def test_in_problems_of_the_labels(self, root: Path) -> None:
        scipy.io.savemat(root / TOP / "raw_EEG_Label.mat", {"Ottilie": 1.0, "Beispiel": np.ones(34)})
        trials, (problem,) = read(root)
        assert (trials, problem.code) == (USED, "label_table")
        assert "variables: 2, none is called eeg_label" in problem.message
        self.check(problem)

    @pytest.mark.parametrize("damage", [b"", b"text", b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + bytes(99)])
    def test_in_problems_of_damage(self, root: Path, ref: RecordingRef, damage: bytes) -> None:
        Path(ref.urls[0]).write_bytes(damage)
        for action in (open_corpus("mped", root).read, open_corpus("mped", root).peek):
            with pytest.raises(CorpusError) as caught:
                action(ref)
            assert caught.value.problem.source == ref.source
            self.check_error(caught.value)
        with pytest.raises(CorpusError) as caught:
            list(open_corpus("mped", root, strict=True).trials())
        self.check_error(caught.value)

    def test_in_problems_of_the_inventory(self, root: Path, tmp_path: Path) -> None:
        folder = root / TOP / NAME
        original = folder / f"{NAME}_d.mat"
        strays = [
            folder / f"copy of {NAME}_d.mat",
            folder / "Beispiel, Ottilie.mat",
            folder / "old" / f"{NAME}_d.mat",
            root / TOP / f"{NAME}_d.mat",
            root / TOP / "Ottilie" / f"{NAME}_dd.mat",
        ]
        for stray in strays:
            stray.parent.mkdir(exist_ok=True)
            shutil.copy(original, stray)
        (folder / f"{NAME}_dd.mat").symlink_to(original)
        shutil.copy(original, tmp_path / f"{NAME}_d.mat")
        for place, target in (("one", tmp_path / f"{NAME}_d.mat"), ("two", tmp_path / f"no {NAME}"), ("three", folder)):
            (root / TOP / f"{NAME} {place}").mkdir()
            (root / TOP / f"{NAME} {place}" / f"{NAME} {place}_d.mat").symlink_to(target)
        (root / TOP / f"{NAME} loop").symlink_to(folder)
        corpus = open_corpus("mped", root)
        (ref,) = corpus.references()
        assert ref.subject == pseudonym(NAME)
        codes = sorted(problem.code for problem in corpus.problems)
        assert codes.count("unexpected_object") >= len(strays) + 1
        assert {"duplicate", "unreadable"} <= set(codes)
        self.check(*corpus.problems)
        assert {problem.source for problem in corpus.problems} >= {str(root / TOP), f"{root}/{TOP}/{ref.subject}"}

    @pytest.mark.parametrize(
        "fault",
        [
            lambda url: RequestError(f"{url}: the store refuses to read it; check rights"),
            lambda url: DataError(f"{url}: gone"),
            lambda url: RequestError(f"s3: no key {NAME}_d.mat"),
            lambda url: FileNotFoundError(2, "No such file or directory", url),
            lambda url: OSError(5, "Input/output error", url),
            lambda url: OSError(f"cannot read {url}"),
            lambda url: ConnectionError(f"GET {url.replace(' ', '%20')}"),
            lambda url: TimeoutError(f"GET {url}"),
            lambda url: RuntimeError(f"GET {url}"),
            lambda url: KeyError(url),
        ],
    )
    def test_in_faults_of_the_store(
        self, root: Path, ref: RecordingRef, fault: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unplugged(url: str) -> Any:
            try:
                raise KeyError(url)
            except KeyError as error:
                raise fault(url) from error

        corpus = open_corpus("mped", root)
        corpus.references()  # reads the labels
        monkeypatch.setattr(storage, "open_binary", unplugged)
        for action in (corpus.read, corpus.peek):
            with pytest.raises((RequestError, DataError, OSError)) as caught:
                action(ref)
            self.check_error(caught.value)
            assert not isinstance(caught.value, CorpusError)  # the object is not to blame
            original = fault("x")
            if isinstance(original, RequestError | DataError | OSError):
                assert type(caught.value) is type(original)
                assert getattr(caught.value, "errno", None) == getattr(original, "errno", None)

    def test_in_an_object_that_went_away(self, root: Path, ref: RecordingRef) -> None:
        Path(ref.urls[0]).unlink()
        for action in (open_corpus("mped", root).read, open_corpus("mped", root).peek):
            with pytest.raises(RequestError, match=ref.subject) as caught:
                action(ref)
            self.check_error(caught.value)

    def test_in_a_folder_without_recordings(self, root: Path, ref: RecordingRef) -> None:
        Path(ref.urls[0]).rename(Path(ref.urls[0]).with_name(f"{NAME}.mat"))
        with pytest.raises(RequestError, match="top folder") as caught:
            open_corpus("mped", root).references()
        self.check_error(caught.value)


def test_through_another_store(root: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(root), "/mped-names", recursive=True)
    try:
        (ref,) = open_corpus("mped", "memory://mped-names").references()
        assert ref.subject == pseudonym(NAME)
        assert ref.source.startswith(f"memory://mped-names/{TOP}/m")
        assert [trial.trial for trial in open_corpus("mped", "memory://mped-names").trials()] == USED
    finally:
        memory.rm("/mped-names", recursive=True)


def test_second_half_is_the_second_session(root: Path) -> None:
    write(root, {f"raw_eeg{n}": recorded(n) for n in range(18, 35)}, "dd")
    corpus = open_corpus("mped", root, strict=True)
    assert [ref.session for ref in corpus.references()] == ["1", "2"]
    trials = [(trial.session, int(trial.trial), trial.emotion) for trial in corpus.trials()]
    assert [number for session, number, _ in trials if session == "2"] == [*range(19, 25), *range(26, 34)]
    assert trials[14:17] == [("2", 19, "neutral"), ("2", 20, "fear"), ("2", 21, "disgust")]


def test_simulated_part_holds_what_it_says(tmp_path: Path) -> None:
    settings = SimulateSettings(subjects=2, sessions=1, trials=8, time_scale=0.01)
    simulate_corpus("mped", str(tmp_path / "copy"), settings, TagSignal())
    folders = sorted(path.name for path in (tmp_path / "copy" / TOP).iterdir() if path.is_dir())
    assert folders == ["invented_person_01", "invented_person_02"]
    corpus = open_corpus("mped", tmp_path / "copy", strict=True)
    assert [trial.trial for trial in corpus.trials()] == USED[:8] * 2
    assert [problem.trial for problem in corpus.problems] == ["1", "9"] * 2
