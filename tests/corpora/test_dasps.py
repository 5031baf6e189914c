"""DASPS: segments and situations, the ratings table, and objects that point elsewhere."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from emod.catalog import SimulateSettings
from emod.corpora import CorpusError, Problem, open_corpus, simulate_corpus
from emod.simulation import TagSignal


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One subject, four segments of two seconds: two situations."""
    settings = SimulateSettings(subjects=1, trials=4, time_scale=2 / 15)
    simulate_corpus("dasps", str(tmp_path / "dasps"), settings, TagSignal())
    return tmp_path / "dasps"


def replace(root: Path, name: str, value: Any) -> None:
    with h5py.File(root / "S01preprocessed.mat", "r+") as file:
        del file["data"]
        file[name] = value


def samples(root: Path) -> np.ndarray[Any, Any]:
    with h5py.File(root / "S01preprocessed.mat", "r") as file:
        values: np.ndarray[Any, Any] = file["data"][()]
        return values


def read(root: Path) -> tuple[list[str], list[Problem]]:
    corpus = open_corpus("dasps", root)
    return [trial.trial for trial in corpus.trials()], corpus.problems


def test_both_halves_of_a_situation_share_stimulus_and_rating(root: Path) -> None:
    one, two, three, four = open_corpus("dasps", root, strict=True).trials()
    assert [t.stimulus for t in (one, two, three, four)] == ["situation1", "situation1", "situation2", "situation2"]
    assert one.rating == two.rating
    assert three.rating == four.rating
    with (root / "sam_ratings.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["valence"]) for row in rows] == [t.rating["valence"] for t in (one, three) if t.rating]
    assert [float(row["arousal"]) for row in rows] == [t.rating["arousal"] for t in (one, three) if t.rating]


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("other", np.zeros((4, 256, 14), "f4"), "missing"),
        ("data", np.zeros((4, 256, 14), "f8"), "dtype"),
        ("data", np.zeros((14, 256, 4), "f4"), "shape"),
        ("data", np.zeros((4, 255, 14), "f4"), "shape"),
        ("data", np.zeros((5, 256, 14), "f4"), "shape"),
        ("data", h5py.SoftLink("/elsewhere"), "missing"),
        ("data", h5py.ExternalLink("/etc/passwd", "/data"), "missing"),
    ],
)
def test_object_that_could_be_misread_is_refused(root: Path, name: str, value: Any, code: str) -> None:
    replace(root, name, value)
    trials, (problem,) = read(root)
    assert trials == []
    assert (problem.subject, problem.trial, problem.code) == ("S01", None, code)


def test_samples_of_another_file_are_not_read(root: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(samples(root).tobytes())
    with h5py.File(root / "S01preprocessed.mat", "r+") as file:
        del file["data"]
        file.create_dataset("data", (4, 256, 14), "f4", external=[(str(secret), 0, secret.stat().st_size)])
    assert [(problem.code, "another file" in problem.message) for problem in read(root)[1]] == [("unreadable", True)]

    with h5py.File(root / "S01preprocessed.mat", "r+") as file:
        del file["data"]
        layout = h5py.VirtualLayout((4, 256, 14), "f4")
        layout[:] = h5py.VirtualSource(str(secret), "data", (4, 256, 14))
        file.create_virtual_dataset("data", layout)
    assert [(problem.code, "another file" in problem.message) for problem in read(root)[1]] == [("unreadable", True)]


def test_declared_shape_reserves_no_memory(root: Path) -> None:
    with h5py.File(root / "S01preprocessed.mat", "r+") as file:
        del file["data"]
        file.create_dataset("data", (2**30, 2**10, 14), "f4", chunks=(1, 96, 14))
    assert [problem.code for problem in read(root)[1]] == ["shape"]


def test_truncation_anywhere_is_a_problem_not_a_crash(root: Path) -> None:
    path = root / "S01preprocessed.mat"
    content = path.read_bytes()
    for length in range(0, len(content), 3001):
        path.write_bytes(content[:length])
        trials, (problem,) = read(root)
        assert trials == []
        assert problem.code == "unreadable"


@pytest.mark.parametrize(("value", "code"), [(np.nan, "not_finite"), (np.inf, "not_finite")])
def test_segment_that_is_not_finite_is_left_out(root: Path, value: float, code: str) -> None:
    data = samples(root)
    data[1, 5, 3] = value
    replace(root, "data", data)
    trials, (problem,) = read(root)
    assert trials == ["1", "3", "4"]
    assert (problem.trial, problem.code) == ("2", code)
    assert "FC5 sample 5" in problem.message


def test_segment_with_a_flat_electrode_is_kept_and_said(root: Path) -> None:
    data = samples(root)
    data[3, :, 13] = 0
    replace(root, "data", data)
    trials, (problem,) = read(root)
    assert trials == ["1", "2", "3", "4"]
    assert (problem.trial, problem.code) == ("4", "flat")
    assert "AF4" in problem.message


@pytest.mark.parametrize(
    "row", ["S01,2,0,5", "S01,2,5,10", "S01,2,nan,5", "S01,2,,5", "S01,2,5", "S01,2,low,5", "S02,2,5,5"]
)
def test_rating_that_cannot_be_used_costs_both_halves(root: Path, row: str) -> None:
    lines = (root / "sam_ratings.csv").read_text().splitlines()
    (root / "sam_ratings.csv").write_text("\n".join([*lines[:2], row]))
    trials, problems = read(root)
    assert trials == ["1", "2"]
    assert [(problem.trial, problem.code) for problem in problems] == [("3", "label"), ("4", "label")]


def test_rating_given_twice_is_no_rating(root: Path) -> None:
    with (root / "sam_ratings.csv").open("a") as stream:
        stream.write("S01,1,5,5\n")
    trials, problems = read(root)
    assert trials == ["3", "4"]
    assert {problem.code for problem in problems} == {"label"}


@pytest.mark.parametrize("content", [None, b"", b"subject,situation,valence\nS01,1,5\n", b"\xff\xfe\x00"])
def test_without_ratings_nothing_can_be_used(root: Path, content: bytes | None) -> None:
    if content is None:
        (root / "sam_ratings.csv").unlink()
    else:
        (root / "sam_ratings.csv").write_bytes(content)
    with pytest.raises(CorpusError, match=r"sam_ratings\.csv") as caught:
        open_corpus("dasps", root).references()
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_columns_are_found_by_name_and_byte_order_mark_is_skipped(root: Path) -> None:
    before = [trial.rating for trial in open_corpus("dasps", root).trials()]
    with (root / "sam_ratings.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    lines = ["Arousal,Valence,Situation,Subject"]
    lines += [f"{row['arousal']},{row['valence']},{row['situation']},{row['subject']}" for row in rows]
    (root / "sam_ratings.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    assert [trial.rating for trial in open_corpus("dasps", root, strict=True).trials()] == before
