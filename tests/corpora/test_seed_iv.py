"""SEED-IV: variables by number, labels by the table that ships, damage by name."""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from emod.catalog import SignalSettings, SimulateSettings
from emod.corpora import CorpusError, Problem, open_corpus, simulate_corpus
from emod.corpora.mat5_walk import Walker
from emod.ingest.recording import make_windows
from emod.simulation import TagSignal
from tests.golden.seed import CHANNELS, write_channel_sheet


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One subject, session 1, twelve trials of two seconds and a sample."""
    settings = SimulateSettings(subjects=1, sessions=1, trials=12, time_scale=0.01)
    simulate_corpus("seed_iv", str(tmp_path / "seed_iv"), settings, TagSignal())
    return tmp_path / "seed_iv"


def object_of(root: Path) -> Path:
    (path,) = (root / "eeg_raw_data").rglob("*.mat")
    return path


def variables(root: Path) -> dict[str, Any]:
    return {name: value for name, value in scipy.io.loadmat(object_of(root)).items() if not name.startswith("__")}


def replace(root: Path, **changes: Any) -> None:
    kept = {name: value for name, value in (variables(root) | changes).items() if value is not None}
    scipy.io.savemat(object_of(root), kept)


def read(root: Path) -> tuple[list[str], list[Problem]]:
    corpus = open_corpus("seed_iv", root)
    return [trial.trial for trial in corpus.trials()], corpus.problems


ALL = [str(n) for n in range(1, 13)]


def without(*trials: str) -> list[str]:
    return [trial for trial in ALL if trial not in trials]


def test_storage_order_means_nothing(root: Path) -> None:
    ordered = [trial.eeg_uv for trial in open_corpus("seed_iv", root).trials()]
    content = variables(root)
    object_of(root).unlink()
    scipy.io.savemat(root / "eeg_raw_data" / "1" / "1_20160518.mat", dict(sorted(content.items(), reverse=True)))
    for before, after in zip(ordered, open_corpus("seed_iv", root, strict=True).trials(), strict=True):
        np.testing.assert_array_equal(before, after.eeg_uv)


@pytest.mark.parametrize("compress", [False, True])
def test_whole_numbers_and_compression_are_read_as_float64(root: Path, compress: bool) -> None:
    content = {name: np.round(value) for name, value in variables(root).items()}
    stored = {name: value.astype("i2") for name, value in content.items()}
    scipy.io.savemat(object_of(root), content, do_compression=compress)
    for trial in open_corpus("seed_iv", root, strict=True).trials():
        assert trial.eeg_uv.dtype == np.float64
        np.testing.assert_array_equal(trial.eeg_uv, stored[f"cz_eeg{trial.trial}"])


@pytest.mark.parametrize(
    ("change", "code", "trial"),
    [
        ({"cz_eeg3": None}, "missing", "3"),
        ({"cz_eeg4": np.ones((61, 401))}, "shape", "4"),
        ({"cz_eeg4": np.ones((401, 62))}, "shape", "4"),
        ({"cz_eeg4": np.ones((62, 3))}, "shape", "4"),
        ({"cz_eeg4": np.ones((62, 0))}, "shape", "4"),
        ({"cz_eeg4": np.ones((62, 401, 2))}, "shape", "4"),
        ({"cz_eeg5": "text"}, "dtype", "5"),
        ({"cz_eeg5": np.array([[1, "a"]], dtype=object)}, "dtype", "5"),
        ({"cz_eeg5": {"field": np.ones((62, 401))}}, "dtype", "5"),
        ({"cz_eeg5": np.ones((62, 401)) * 1j}, "dtype", "5"),
        ({"cz_eeg6": np.full((62, 401), np.nan)}, "not_finite", "6"),
        ({"cz_eeg7": np.ones((62, 401))}, "flat", "7"),
    ],
)
def test_trial_that_cannot_be_used_is_listed(root: Path, change: dict[str, Any], code: str, trial: str) -> None:
    replace(root, **change)
    trials, (problem,) = read(root)
    assert trials == without(trial)
    assert (problem.subject, problem.trial, problem.code) == ("1", trial, code)


def test_length_that_is_not_whole_seconds_and_one_is_kept_and_said(root: Path) -> None:
    signal = variables(root)["cz_eeg2"]
    replace(root, cz_eeg2=signal[:, :-1])
    trials, (problem,) = read(root)
    assert trials == ALL
    assert (problem.trial, problem.code) == ("2", "length")


def test_variable_beyond_the_last_trial_is_listed(root: Path) -> None:
    replace(root, cz_eeg25=np.ones((62, 401)))
    trials, (problem,) = read(root)
    assert trials == ALL
    assert (problem.trial, problem.code) == ("25", "unexpected_object")


@pytest.mark.parametrize("change", [{"ww_eeg1": np.ones((62, 401))}, {"cz_eeg3": None, "ww_eeg3": np.ones((62, 401))}])
def test_two_people_in_one_object_are_refused(root: Path, change: dict[str, Any]) -> None:
    replace(root, **change)
    trials, (problem,) = read(root)
    assert trials == []
    assert (problem.trial, problem.code) == (None, "shape")


def test_object_without_trials_says_what_it_lacks(root: Path) -> None:
    scipy.io.savemat(object_of(root), {"de_movingAve1": np.ones((62, 42, 5))})
    trials, (problem,) = read(root)
    assert trials == []
    assert problem.code == "missing"
    assert "variables: 1, none like <initials>_eeg1" in problem.message


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, None),
        ({"{}_eeg1": None}, "missing"),
        ({"{}_eeg2": np.ones((61, 401))}, "shape"),
        ({"{}_eeg3": "text"}, "dtype"),
        ({"{}_eeg4": np.ones((62, 400))}, "length"),
        ({"{}_eeg5": np.full((62, 401), np.nan)}, "not_finite"),
        ({"{}_eeg25": np.ones((62, 401))}, "unexpected_object"),
        ({"{}_eeg01": np.ones((62, 401))}, "shape"),
        ({"zhangsan_eeg13": np.ones((62, 401))}, "shape"),
        ({f"{{}}_eeg{n}": None for n in range(1, 13)} | {"{}": 1.0}, "missing"),
    ],
)
def test_initials_stay_in_the_reader(root: Path, change: dict[str, Any], code: str | None) -> None:
    content = {name.replace("cz_", "liuqiujun_"): value for name, value in variables(root).items()}
    content |= {name.format("liuqiujun"): value for name, value in change.items()}
    scipy.io.savemat(object_of(root), {name: value for name, value in content.items() if value is not None})
    corpus = open_corpus("seed_iv", root)
    said: list[Any] = []
    for ref in corpus.references():
        with contextlib.suppress(CorpusError):
            said.append(corpus.peek(ref))
    for recording in corpus.recordings():
        windows = make_windows(recording, corpus.catalog, SignalSettings(window_s=0.5))
        said += [recording.spans, windows.rows, windows.problems, windows.cleaning]
    assert code is None or code in {problem.code for problem in corpus.problems}
    assert said or corpus.problems
    said += [*map(str, corpus.problems), corpus.problems]
    assert not re.search("liuqiujun|zhangsan", repr(said))


def test_declared_size_reserves_no_memory(root: Path) -> None:
    """A header that claims a variable of 62 x 2 000 000 000 is refused on its word."""
    content = bytearray(object_of(root).read_bytes())
    place = content.index((62).to_bytes(4, "little") + (401).to_bytes(4, "little"))
    content[place + 4 : place + 8] = (2_000_000_000).to_bytes(4, "little")
    object_of(root).write_bytes(bytes(content))
    trials, (problem,) = read(root)
    assert trials == without("1")
    assert (problem.trial, problem.code) == ("1", "shape")


def test_other_matlab_container_is_unreadable(root: Path) -> None:
    with h5py.File(object_of(root), "w", userblock_size=512) as file:
        file["cz_eeg1"] = np.ones((401, 62))
    with object_of(root).open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    assert [problem.code for problem in read(root)[1]] == ["unreadable"]


def test_truncation_anywhere_is_a_problem_not_a_crash(root: Path) -> None:
    """Cut between two variables an object looks whole: then the variables that are gone are listed."""
    scipy.io.savemat(buffer := io.BytesIO(), {"cz_eeg1": np.arange(62 * 201.0).reshape(62, 201)}, do_compression=True)
    content = buffer.getvalue()
    for length in [*range(0, 200, 7), *range(200, len(content), 997)]:
        object_of(root).write_bytes(content[:length])
        trials, problems = read(root)
        assert trials == []
        assert {problem.code for problem in problems} <= {"unreadable", "missing"}
        assert problems


def test_faults_of_the_store_are_not_faults_of_the_object(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unplugged(*args: Any, **kwargs: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Walker, "enter", unplugged)
    corpus = open_corpus("seed_iv", root)
    with pytest.raises(OSError, match="Input/output error"):
        list(corpus.trials())


def test_rows_in_the_order_of_the_workbook_are_put_in_the_published_one(root: Path) -> None:
    published = [trial.eeg_uv for trial in open_corpus("seed_iv", root).trials()]
    order = np.random.default_rng(0).permutation(62)
    replace(root, **{name: value[order] for name, value in variables(root).items()})
    write_channel_sheet(root / "Channel Order.xlsx", [CHANNELS[row].upper() for row in order])
    corpus = open_corpus("seed_iv", root)
    for before, trial in zip(published, corpus.trials(), strict=True):
        np.testing.assert_array_equal(before, trial.eeg_uv)
        assert trial.channels == CHANNELS
    assert [problem.code for problem in corpus.problems] == ["layout"]


class TestReadMe:
    """ReadMe.txt ships with the corpus: its rows win over the built-in ones."""

    def edit(self, root: Path, old: str, new: str) -> None:
        text = (root / "ReadMe.txt").read_text()
        assert old in text
        (root / "ReadMe.txt").write_text(text.replace(old, new))

    def emotions(self, root: Path) -> tuple[list[str | None], list[Problem]]:
        corpus = open_corpus("seed_iv", root)
        return [trial.emotion for trial in corpus.trials()], corpus.problems

    def test_disagreement_is_listed_and_the_file_wins(self, root: Path) -> None:
        published, _ = self.emotions(root)
        self.edit(root, "session1_label = [1,2,3", "session1_label = [1,3,3")
        found, (problem,) = self.emotions(root)
        assert (published[1], found[1]) == ("fear", "happy")
        assert found[2:] == published[2:]
        assert problem.code == "label_disagreement"
        assert "trials [2]" in problem.message
        trial = list(open_corpus("seed_iv", root).trials())[1]
        assert (trial.valence, trial.arousal) == (3, 2)

    @pytest.mark.parametrize("row", ["[1,2,3]", "[1,2,4,0,2,0,0,1,0,1,2,1,1,1,2,3,2,2,3,3,0,3,0,3]", "?"])
    def test_row_that_cannot_be_used_is_listed(self, root: Path, row: str) -> None:
        published, _ = self.emotions(root)
        self.edit(root, "[1,2,3,0,2,0,0,1,0,1,2,1,1,1,2,3,2,2,3,3,0,3,0,3]", row)
        found, (problem,) = self.emotions(root)
        assert found == published
        assert problem.code == "label_table"

    def test_spaces_instead_of_commas_are_read(self, root: Path) -> None:
        text = (root / "ReadMe.txt").read_text().replace(",", " ").replace("_label", "_Label")
        (root / "ReadMe.txt").write_text(text)
        assert self.emotions(root)[1] == []

    def test_page_too_long_to_be_one_is_not_read(self, root: Path) -> None:
        os.truncate(root / "ReadMe.txt", 2**40)
        trials, (problem,) = read(root)
        assert trials == ALL
        assert problem.code == "label_table"

    def test_absence_is_fine(self, root: Path) -> None:
        (root / "ReadMe.txt").unlink()
        assert read(root) == (ALL, [])


def test_session_twice_is_listed(root: Path) -> None:
    path = object_of(root)
    second = path.with_name("1_20301231.mat")
    second.write_bytes(path.read_bytes())
    trials, (problem,) = read(root)
    assert trials == ALL
    assert (problem.source, problem.code) == (str(second), "duplicate")
    with pytest.raises(CorpusError):
        open_corpus("seed_iv", root, strict=True).references()
