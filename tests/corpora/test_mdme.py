"""MDME: clips by the id row, rest left out, ratings by clip, and an order of rows that the blinks may contradict."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from emod.catalog import SimulateSettings, SimulationSettings, load_corpus
from emod.corpora import CorpusError, Problem, mdme, open_corpus, simulate_corpus
from emod.signal import canonical_names
from emod.simulation import BrainSimulator, TagSignal

# as the headset streams them
OTHERWISE = [
    "P3",
    "C3",
    "F3",
    "Fz",
    "F4",
    "C4",
    "P4",
    "Cz",
    "Fp1",
    "Fp2",
    "T7",
    "P7",
    "O1",
    "O2",
    "F7",
    "F8",
    "P8",
    "T8",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Subjects 1 and 2, four clips of two seconds. Read only."""
    root = tmp_path_factory.mktemp("mdme") / "copy"
    simulate_corpus("mdme", str(root), SimulateSettings(subjects=2, trials=4, time_scale=0.01), TagSignal())
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """Subject 1 of it, to be damaged."""
    (tmp_path / "SIMULATED.json").write_bytes((made / "SIMULATED.json").read_bytes())
    (tmp_path / "1" / "1").mkdir(parents=True)
    for path in ("1/datas.mat", "1/1/Arousal_Valence.csv"):
        (tmp_path / path).write_bytes((made / path).read_bytes())
    return tmp_path


def variables(root: Path) -> dict[str, Any]:
    return {name: value for name, value in scipy.io.loadmat(root / "1" / "datas.mat").items() if name[0] != "_"}


def replace(root: Path, compress: bool = True, **changes: Any) -> None:
    kept = {name: value for name, value in (variables(root) | changes).items() if value is not None}
    scipy.io.savemat(root / "1" / "datas.mat", kept, do_compression=compress)


def read(root: Path) -> tuple[list[str], list[Problem]]:
    """Trials and what was found but for the resting state."""
    corpus = open_corpus("mdme", root)
    found = [trial.trial for trial in corpus.trials()]
    return found, [problem for problem in corpus.problems if not problem.known]


def rest_of(eeg: Any) -> Any:
    return eeg[:, eeg[18] == 40]


ALL = ["0", "1", "2", "3"]


def test_clips_are_those_of_the_id_row(root: Path) -> None:
    stored = variables(root)["eeg_datas"]
    assert stored.dtype == np.float32
    assert stored[18, 0] == 40
    for trial in open_corpus("mdme", root, strict=True).trials():
        assert trial.eeg_uv.dtype == np.float32
        np.testing.assert_array_equal(trial.eeg_uv, stored[:18, stored[18] == int(trial.trial)])
        assert trial.channels[10:12] == ("T7", "T8")


def test_rest_is_known_and_its_absence_is_fine(root: Path) -> None:
    corpus = open_corpus("mdme", root)
    before = [trial.eeg_uv for trial in corpus.trials()]
    assert [(problem.trial, problem.code) for problem in corpus.problems] == [("40", "left_out")]
    (recording,) = corpus.recordings()
    assert recording.eeg_uv.shape[1] == 4 * 600
    stored = variables(root)["eeg_datas"]
    without = stored[:, stored[18] != 40]
    for eeg in (without, np.concatenate([without, rest_of(stored)], axis=1), without[:, ::-1][:, ::-1]):
        replace(root, eeg_datas=eeg)
        for one, other in zip(before, open_corpus("mdme", root, strict=True).trials(), strict=True):
            np.testing.assert_array_equal(one, other.eeg_uv)
    replace(root, eeg_datas=without)
    corpus = open_corpus("mdme", root)
    assert len(list(corpus.trials())) == 4
    assert corpus.problems == []


def test_order_of_clips_in_the_file_means_nothing(root: Path) -> None:
    stored = variables(root)["eeg_datas"]
    before = [trial.eeg_uv for trial in open_corpus("mdme", root).trials()]
    parts = [stored[:, stored[18] == clip] for clip in (2, 40, 0, 3, 1)]
    replace(root, eeg_datas=np.concatenate(parts, axis=1))
    corpus = open_corpus("mdme", root, strict=True)
    for one, other in zip(before, corpus.trials(), strict=True):
        np.testing.assert_array_equal(one, other.eeg_uv)


@pytest.mark.parametrize(
    ("place", "value", "lost", "codes"),
    [
        (slice(1000, 1001), 7.5, ["0"], ["label", "label"]),  # a stretch that is no clip, and a clip in two stretches
        (slice(1000, 1001), 33, ["0"], ["label", "label"]),
        (slice(1000, 1001), np.nan, ["0"], ["label", "label"]),
        (slice(1000, 1001), -1, ["0"], ["label", "label"]),
        (slice(1000, 1001), 3, ["0", "3"], ["label", "label"]),
        (slice(600, 1200), 31, ["0"], ["label", "missing"]),
        (slice(600, 1000), 1, ["0", "1"], ["shape", "label"]),
        (slice(600, 1200), 40, ["0"], ["missing"]),
        (slice(600, 601), np.inf, [], ["label", "length"]),
        (slice(600, 1300), 0, [], ["length", "length"]),
    ],
)
def test_ids_that_cannot_be_are_listed(
    root: Path, place: slice, value: float, lost: list[str], codes: list[str]
) -> None:
    eeg = variables(root)["eeg_datas"]
    eeg[18, place] = value
    replace(root, eeg_datas=eeg)
    found, problems = read(root)
    assert found == [trial for trial in ALL if trial not in lost]
    assert [problem.code for problem in problems] == codes


def test_id_row_without_a_clip_is_refused(root: Path) -> None:
    for value in (np.nan, 40.0, 99.0):
        eeg = variables(root)["eeg_datas"]
        eeg[18] = value
        replace(root, eeg_datas=eeg)
        found, problems = read(root)
        assert found == []
        assert {problem.code for problem in problems} <= {"label", "missing"}


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "missing"),
        (np.ones((18, 3000), "f4"), "shape"),
        (np.ones((20, 3000), "f4"), "shape"),
        (np.ones((3000, 19), "f4"), "shape"),
        (np.ones((19, 100), "f4"), "shape"),
        (np.ones((19, 0), "f4"), "shape"),
        (np.ones((19, 300, 2), "f4"), "shape"),
        (np.ones((19, 3000), "i2"), "dtype"),
        (np.ones((19, 3000), "c8"), "dtype"),
        ("text", "dtype"),
        ({"field": 1.0}, "dtype"),
        (np.array([[1, "a"]], dtype=object), "dtype"),
    ],
)
def test_object_that_could_be_misread_is_refused(root: Path, value: Any, code: str) -> None:
    replace(root, eeg_datas=value)
    found, (problem,) = read(root)
    assert found == []
    assert (problem.subject, problem.trial, problem.code) == ("1", None, code)


def test_double_and_uncompressed_are_read(root: Path) -> None:
    before = [trial.eeg_uv for trial in open_corpus("mdme", root).trials()]
    replace(root, compress=False, eeg_datas=variables(root)["eeg_datas"].astype(np.float64), dis_label=None)
    for one, other in zip(before, open_corpus("mdme", root, strict=True).trials(), strict=True):
        np.testing.assert_array_equal(one, other.eeg_uv)


def test_trial_that_is_not_finite_is_left_out(root: Path) -> None:
    eeg = variables(root)["eeg_datas"]
    eeg[5, 1300] = np.nan
    eeg[3, 100] = np.inf  # in the rest, which nobody reads
    replace(root, eeg_datas=eeg)
    found, (problem,) = read(root)
    assert found == ["0", "2", "3"]
    assert (problem.trial, problem.code) == ("1", "not_finite")
    assert "F7 sample 100" in problem.message


class TestRatings:
    """Arousal_Valence.csv has no heading: clip, arousal, valence, dominance."""

    def write(self, root: Path, text: str | bytes) -> None:
        path = root / "1" / "1" / "Arousal_Valence.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def test_columns_are_in_the_owners_order(self, root: Path) -> None:
        self.write(root, "3,1,9,5\n0,2,8,5\r\n\n2,3.0,7,5\n1,4,6,5")
        ratings = {trial.trial: trial.rating for trial in open_corpus("mdme", root, strict=True).trials()}
        assert ratings == {
            "0": {"arousal": 2, "valence": 8},
            "1": {"arousal": 4, "valence": 6},
            "2": {"arousal": 3, "valence": 7},
            "3": {"arousal": 1, "valence": 9},
        }

    @pytest.mark.parametrize(
        ("text", "lost"),
        [
            ("0,2,8,5\n1,2,8,5\n2,2,8,5\n", ["3"]),
            ("0,2,8,5\n1,2,8,5\n2,2,8,5\n3,2,8,5\n1,2,8,5\n", ["1"]),
            ("0,2,8,5\n1,0,8,5\n2,2,10,5\n3,nan,8,5\n", ["1", "2", "3"]),
            ("\ufeff0,2,8,5\n1,2,8,5\n2,2,8,5\n3,2,8,5\n40,1,1,1\n", []),
        ],
    )
    def test_rating_that_is_not_one_costs_its_trial(self, root: Path, text: str, lost: list[str]) -> None:
        self.write(root, text)
        found, problems = read(root)
        assert found == [trial for trial in ALL if trial not in lost]
        assert sorted((problem.trial, problem.code) for problem in problems) == [(trial, "label") for trial in lost]

    @pytest.mark.parametrize("row", ["3,2,8", "3,two,8,5", "3,2,8,5,1", "3.5,2,8,5", "inf,2,8,5", "nan,2,8,5", ",,,"])
    def test_row_that_is_no_row_is_listed(self, root: Path, row: str) -> None:
        self.write(root, f"0,2,8,5\n1,2,8,5\n2,2,8,5\n{row}\n")
        found, problems = read(root)
        assert found == ["0", "1", "2"]
        assert [problem.code for problem in problems] == ["label_table", "label"]
        assert "[4]" in problems[0].message

    @pytest.mark.parametrize(
        "text",
        [
            "clip,valence,arousal,dominance\n0,2,8,5\n",
            "id,arousal,valence,dominance\n0,2,8,5\n",
            b"\xff\xfe\x00",
            '"0,1',
            "0" * 100_000,
        ],
    )
    def test_table_that_may_mean_anything_is_refused(self, root: Path, text: str | bytes) -> None:
        self.write(root, text)
        found, (problem,) = read(root)
        assert found == []
        assert (problem.subject, problem.code) == ("1", "label_table")
        assert problem.source.endswith("1/1/Arousal_Valence.csv")
        assert "\n" not in problem.message

    def test_absence_costs_the_recording(self, root: Path) -> None:
        (root / "1" / "1" / "Arousal_Valence.csv").unlink()
        found, (problem,) = read(root)
        assert found == []
        assert problem.code == "missing"
        with pytest.raises(CorpusError):
            list(open_corpus("mdme", root, strict=True).trials())


class TestOrderOfRows:
    """Two orders are in circulation; only the blinks can tell."""

    def simulate(self, root: Path, seed: int, **changes: Any) -> None:
        brain = SimulationSettings(seed=seed, **changes)
        settings = SimulateSettings(subjects=1, trials=6, brain=brain)
        simulate_corpus("mdme", str(root), settings, BrainSimulator(brain))

    def turn(self, root: Path) -> None:
        """Stores the rows as the headset streams them."""
        catalog = load_corpus("mdme")
        eeg = variables(root)["eeg_datas"]
        names = canonical_names(catalog.channels)
        replace(root, eeg_datas=np.concatenate([eeg[[names.index(name) for name in OTHERWISE]], eeg[18:]]))

    def test_the_catalog_names_both(self) -> None:
        catalog = load_corpus("mdme")
        assert catalog.channels_otherwise is not None
        assert list(canonical_names(catalog.channels_otherwise)) == OTHERWISE

    @pytest.mark.parametrize("seed", range(3))
    def test_blinks_in_the_other_places_are_said_and_nothing_is_moved(self, tmp_path: Path, seed: int) -> None:
        self.simulate(tmp_path, seed)
        assert read(tmp_path)[1] == []
        self.turn(tmp_path)
        found, (problem,) = read(tmp_path)
        assert len(found) == 6
        assert (problem.subject, problem.trial, problem.code) == ("1", None, "layout")
        assert "rows [8, 9]" in problem.message
        stored = variables(tmp_path)["eeg_datas"]
        for trial in open_corpus("mdme", tmp_path).trials():
            assert trial.channels[:2] == ("Fp1", "Fp2")
            np.testing.assert_array_equal(trial.eeg_uv, stored[:18, stored[18] == int(trial.trial)])

    def test_without_blinks_nothing_is_said(self, tmp_path: Path) -> None:
        self.simulate(tmp_path, 5, blinks_per_minute=0.0)
        assert read(tmp_path)[1] == []
        self.turn(tmp_path)
        assert read(tmp_path)[1] == []
        eeg = variables(tmp_path)["eeg_datas"]
        eeg[8:10] *= 3  # larger, but steadily so
        replace(tmp_path, eeg_datas=eeg)
        assert read(tmp_path)[1] == []

    def test_one_electrode_that_pops_says_nothing(self, root: Path) -> None:
        """Nor does what is not finite."""
        eeg = variables(root)["eeg_datas"]
        eeg[8, 700:720] += 5000
        eeg[9, 300] = np.nan
        replace(root, eeg_datas=eeg)
        assert read(root) == (ALL, [])


def test_duplicated_and_unpublished_subjects_are_listed(root: Path) -> None:
    for folder in ("01", "3", "81"):
        (root / folder / folder).mkdir(parents=True)
        (root / folder / "datas.mat").write_bytes((root / "1" / "datas.mat").read_bytes())
    _, problems = read(root)
    codes = {problem.source.split("/")[-2]: problem.code for problem in problems}
    assert {codes["3"], codes["81"]} == {"unexpected_object"}
    assert len(open_corpus("mdme", root).references()) == 1
    assert sorted(codes.values()).count("duplicate") == 1


def test_subjects_are_in_order_of_their_numbers(root: Path) -> None:
    for folder in ("10", "2"):
        (root / folder).mkdir()
        (root / folder / "datas.mat").write_bytes((root / "1" / "datas.mat").read_bytes())
    assert [ref.subject for ref in open_corpus("mdme", root).references()] == ["1", "2", "10"]
    plans = open_corpus("mdme", "nowhere").plan_recordings(SimulateSettings(subjects=73))
    numbers = [int(plan.subject) for plan in plans]
    assert numbers == [n for n in range(1, 81) if n not in (3, 4, 13, 16, 17, 27, 31)]


@pytest.mark.parametrize("compress", [False, True])
def test_truncation_anywhere_is_a_problem_not_a_crash(root: Path, compress: bool) -> None:
    replace(root, compress=compress)
    content = (root / "1" / "datas.mat").read_bytes()
    for length in [*range(0, 300, 29), *range(300, len(content), len(content) // 19), len(content) - 1]:
        (root / "1" / "datas.mat").write_bytes(content[:length])
        found, (problem,) = read(root)
        assert found == []
        assert problem.code in ("unreadable", "missing")  # missing: cut between two variables


def test_bytes_changed_anywhere_are_problems_not_crashes(root: Path) -> None:
    replace(root, compress=False)
    content = (root / "1" / "datas.mat").read_bytes()
    rng = np.random.default_rng(0)
    head = content.index(b"eeg_datas") - 60
    for _ in range(150):
        changed = bytearray(content)
        changed[head + int(rng.integers(100))] = int(rng.integers(256))
        (root / "1" / "datas.mat").write_bytes(bytes(changed))
        read(root)


def test_declared_sizes_reserve_no_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = variables(root)["eeg_datas"].shape[1]
    replace(root, compress=False)
    content = (root / "1" / "datas.mat").read_bytes()
    shape = struct.pack("<ii", 19, samples)
    for claimed in (2**30, 300 * 7201):
        (root / "1" / "datas.mat").write_bytes(content.replace(shape, struct.pack("<ii", 19, claimed)))
        assert [problem.code for problem in read(root)[1]] == ["shape"]
    (root / "1" / "datas.mat").write_bytes(content.replace(shape, struct.pack("<ii", 19, samples + 300)))
    assert [problem.code for problem in read(root)[1]] == ["unreadable"]
    monkeypatch.setattr(mdme, "_MAX_OBJECT", 1000)
    assert [problem.code for problem in read(root)[1]] == ["shape"]
