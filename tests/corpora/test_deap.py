"""DEAP: what is wrong with an object or a table is said, and nothing misaligned is read."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emod.catalog import SimulateSettings
from emod.corpora import CorpusError, Problem, open_corpus, simulate_corpus
from emod.errors import RequestError
from emod.simulation import TagSignal
from tests.golden.deap import pickle_as_python2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One subject, three trials of two seconds."""
    settings = SimulateSettings(subjects=1, trials=3, time_scale=2 / 60)
    simulate_corpus("deap", str(tmp_path / "deap"), settings, TagSignal())
    return tmp_path / "deap"


def arrays(root: Path) -> dict[str, Any]:
    with (root / "data_preprocessed_python" / "s01.dat").open("rb") as stream:
        return pickle.load(stream, encoding="latin1")


def replace(root: Path, **changes: Any) -> None:
    kept = {name: value for name, value in (arrays(root) | changes).items() if value is not None}
    (root / "data_preprocessed_python" / "s01.dat").write_bytes(pickle_as_python2(kept))


def read(root: Path) -> tuple[list[str], list[Problem]]:
    corpus = open_corpus("deap", root)
    return [trial.trial for trial in corpus.trials()], corpus.problems


def test_baseline_is_not_scaled_and_units_are_kept(root: Path) -> None:
    (first, *_) = open_corpus("deap", root, strict=True).trials()
    assert first.baseline_uv is not None
    assert first.baseline_uv.shape == (32, 384)
    assert first.eeg_uv.shape == (32, 256)
    stored = arrays(root)["data"]
    assert stored.shape == (3, 40, 384 + 256)
    np.testing.assert_array_equal(first.eeg_uv, stored[0, :32, 384:])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"data": None}, "missing"),
        ({"labels": None}, "missing"),
        ({"data": np.zeros((3, 40, 640), "f4")}, "dtype"),
        ({"labels": np.zeros((3, 4), "i8")}, "dtype"),
        ({"data": np.zeros((3, 32, 640))}, "shape"),
        ({"data": np.zeros((2, 40, 640))}, "shape"),
        ({"data": np.zeros((3, 40, 256))}, "shape"),
        ({"data": np.zeros((40, 3, 640))}, "shape"),
        ({"labels": np.full((2, 4), 5.0)}, "shape"),
        ({"labels": np.full((4, 3), 5.0)}, "shape"),
    ],
)
def test_object_that_could_be_misread_is_refused(root: Path, change: dict[str, Any], code: str) -> None:
    replace(root, **change)
    trials, (problem,) = read(root)
    assert trials == []
    assert (problem.subject, problem.trial, problem.code) == ("s01", None, code)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_trial_that_is_not_finite_is_left_out(root: Path, value: float) -> None:
    data = arrays(root)["data"]
    data[1, 7, 100] = value
    replace(root, data=data)
    trials, (problem,) = read(root)
    assert trials == ["1", "3"]
    assert (problem.trial, problem.code) == ("2", "not_finite")
    assert "T7 sample 100" in problem.message
    (recording,) = open_corpus("deap", root).recordings()
    assert np.isfinite(recording.eeg_uv).all()  # filters and ICA see the whole recording


def test_peripheral_rows_do_not_matter(root: Path) -> None:
    data = arrays(root)["data"]
    data[:, 32:] = np.nan
    replace(root, data=data)
    assert read(root) == (["1", "2", "3"], [])


def test_trial_with_a_flat_channel_is_kept_and_said(root: Path) -> None:
    data = arrays(root)["data"]
    data[2, 31] = 4.5
    replace(root, data=data)
    trials, (problem,) = read(root)
    assert trials == ["1", "2", "3"]
    assert (problem.trial, problem.code) == ("3", "flat")
    assert "constant electrodes: O2, in 1 trials (3)" in problem.message


@pytest.mark.parametrize("rating", [0.5, 9.5, np.nan])
@pytest.mark.parametrize("column", [0, 1])
def test_rating_off_the_scale_is_left_out(root: Path, rating: float, column: int) -> None:
    labels = arrays(root)["labels"]
    labels[0, column] = rating
    replace(root, labels=labels)
    trials, problems = read(root)
    assert trials == ["2", "3"]
    assert ("1", "label") in {(problem.trial, problem.code) for problem in problems}


def test_every_bad_trial_of_a_useless_object_is_listed(root: Path) -> None:
    replace(root, labels=np.full((3, 4), 10.0))
    (root / "metadata_csv" / "participant_ratings.csv").unlink()
    trials, problems = read(root)
    assert trials == []
    assert [(problem.trial, problem.code) for problem in problems] == [("1", "label"), ("2", "label"), ("3", "label")]


def test_command_in_a_pickle_is_listed_not_run(root: Path, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/proof",)

    (root / "data_preprocessed_python" / "s01.dat").write_bytes(pickle.dumps({"data": Attack()}, protocol=2))
    trials, (problem,) = read(root)
    assert trials == []
    assert problem.code == "unreadable"
    assert "posix.system" in problem.message
    assert not (tmp_path / "proof").exists()


class TestRatingsTable:
    """participant_ratings.csv ships beside the objects and is compared with their labels."""

    def edit(self, root: Path, old: str, new: str) -> None:
        table = root / "metadata_csv" / "participant_ratings.csv"
        text = table.read_text()
        assert old in text
        table.write_text(text.replace(old, new))

    def test_agreement_is_silent_and_absence_is_fine(self, root: Path) -> None:
        assert read(root)[1] == []
        (root / "metadata_csv" / "participant_ratings.csv").unlink()
        assert read(root) == (["1", "2", "3"], [])

    def test_swapped_columns_are_noticed(self, root: Path) -> None:
        self.edit(root, "Valence,Arousal", "Arousal,Valence")
        trials, problems = read(root)
        assert trials == ["1", "2", "3"]  # the object's own labels are used
        assert {problem.code for problem in problems} == {"label_disagreement"}
        assert {problem.trial for problem in problems} == {"1", "2", "3"}

    def test_presentation_order_taken_for_video_order_is_noticed(self, root: Path) -> None:
        self.edit(root, "Trial,Experiment_id", "Experiment_id,Trial")
        assert {problem.code for problem in read(root)[1]} == {"label_disagreement"}

    @pytest.mark.parametrize("cell", ["nan", "", "?"])
    def test_row_without_a_number_is_noticed(self, root: Path, cell: str) -> None:
        _, arousal = arrays(root)["labels"][0, :2]
        text = f"{arousal:.2f}".rstrip("0").rstrip(".")
        self.edit(root, f",{text},", f",{cell},")
        assert ("1", "label_disagreement") in {(problem.trial, problem.code) for problem in read(root)[1]}

    def test_row_that_is_not_there_is_noticed(self, root: Path) -> None:
        table = root / "metadata_csv" / "participant_ratings.csv"
        table.write_text("\n".join(table.read_text().splitlines()[:-1]))
        assert [problem.code for problem in read(root)[1]] == ["label_disagreement"]

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"a,b\n1,2\n", b'"', b"\x00"])
    def test_unreadable_table_is_listed_and_not_used(self, root: Path, content: bytes) -> None:
        (root / "metadata_csv" / "participant_ratings.csv").write_bytes(content)
        trials, (problem,) = read(root)
        assert trials == ["1", "2", "3"]
        assert problem.code == "label_table"
        with pytest.raises(CorpusError):
            open_corpus("deap", root, strict=True).references()

    def test_ids_that_are_no_numbers_are_listed(self, root: Path) -> None:
        self.edit(root, "\n1,", "\none,")
        assert [problem.code for problem in read(root)[1]] == ["label_table"]


def test_folder_too_deep_names_the_cure(root: Path) -> None:
    with pytest.raises(RequestError, match=r"holds no data_preprocessed_python/.*give the top folder"):
        open_corpus("deap", root / "data_preprocessed_python").references()


def test_what_macos_leaves_beside_a_copied_file_is_passed_over(root: Path) -> None:
    for folder in (root / "data_preprocessed_python", root / "__MACOSX", root):
        folder.mkdir(exist_ok=True)
        for name in ("._s01.dat", "._s02.dat", "._.DS_Store", ".DS_Store"):
            (folder / name).write_bytes(b"\x00\x05\x16\x07")
    assert read(root) == (["1", "2", "3"], [])
    assert open_corpus("deap", f"file://{root}").references() != []


def test_subject_that_was_never_published_is_listed(root: Path) -> None:
    folder = root / "data_preprocessed_python"
    (folder / "s33.dat").write_bytes((folder / "s01.dat").read_bytes())
    trials, (problem,) = read(root)
    assert trials == ["1", "2", "3"]
    assert problem.code == "unexpected_object"
