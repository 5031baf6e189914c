"""DREAMER: one subject at a time out of one file, fields by name, and what is wrong with it is said."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from emod.catalog import SimulateSettings
from emod.corpora import CorpusError, Problem, mat5_walk, open_corpus, simulate_corpus
from emod.errors import RequestError
from emod.simulation import TagSignal


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three subjects, three films of two seconds. Read only."""
    root = tmp_path_factory.mktemp("dreamer") / "copy"
    simulate_corpus("dreamer", str(root), SimulateSettings(subjects=3, trials=3, time_scale=0.01), TagSignal())
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    for name in ("DREAMER.mat", "SIMULATED.json"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    return tmp_path


def struct_of(root: Path) -> Any:
    return scipy.io.loadmat(root / "DREAMER.mat")["DREAMER"]


def save(root: Path, dreamer: Any, compress: bool = True, **others: Any) -> None:
    scipy.io.savemat(root / "DREAMER.mat", {"DREAMER": dreamer, **others}, do_compression=compress)


def cells_of(dreamer: Any, subject: int, half: str) -> Any:
    return dreamer[0, 0]["Data"][0, subject]["EEG"][0, 0][half][0, 0]


def read(root: Path) -> tuple[list[tuple[str, str]], list[Problem]]:
    corpus = open_corpus("dreamer", root)
    return [(trial.subject, trial.trial) for trial in corpus.trials()], corpus.problems


ALL = [(str(subject), str(trial)) for subject in (1, 2, 3) for trial in (1, 2, 3)]


def without(subject: str, *trials: str) -> list[tuple[str, str]]:
    return [key for key in ALL if key[0] != subject or (trials and key[1] not in trials)]


def test_simulated_copy_leaves_no_parts_and_scipy_reads_it(made: Path) -> None:
    assert sorted(path.name for path in made.iterdir()) == ["DREAMER.mat", "SIMULATED.json"]
    dreamer = struct_of(made)
    assert dreamer.dtype.names[0] == "Data"
    for recording in open_corpus("dreamer", made, strict=True).recordings():
        for span in recording.spans:
            k, subject = int(span.trial) - 1, int(recording.subject) - 1
            stored = cells_of(dreamer, subject, "stimuli")[k, 0].T
            np.testing.assert_array_equal(recording.eeg_uv[:, span.start : span.stop], stored)
            assert span.baseline is not None
            rest = cells_of(dreamer, subject, "baseline")[k, 0].T
            np.testing.assert_array_equal(recording.eeg_uv[:, slice(*span.baseline)], rest)
            assert rest.shape == (14, 7808)
            score = dreamer[0, 0]["Data"][0, subject]["ScoreValence"][0, 0]
            assert score.dtype == np.uint8
            assert span.valence == 2 * (float(score[k, 0]) - 3)


def test_offset_and_step_are_as_stored(made: Path) -> None:
    for trial in open_corpus("dreamer", made).trials():
        assert trial.eeg_uv.mean() > 4000
        steps = trial.eeg_uv / 0.51
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)


@pytest.mark.parametrize("compress", [False, True])
def test_any_order_of_fields_compressed_or_not(root: Path, compress: bool) -> None:
    before = [trial.eeg_uv for trial in open_corpus("dreamer", root).trials()]
    dreamer = struct_of(root)[0, 0]
    data = dreamer["Data"]
    for s in range(3):
        subject = data[0, s][0, 0]
        eeg = {"other": 7.0} | {half: subject["EEG"][0, 0][half] for half in ("stimuli", "baseline")}
        data[0, s] = {name: subject[name] for name in reversed(subject.dtype.names)} | {"EEG": eeg}
    turned = {name: dreamer[name] for name in reversed(dreamer.dtype.names)}
    save(root, turned, compress=compress, other=np.ones((3, 3)))
    after = [trial.eeg_uv for trial in open_corpus("dreamer", root, strict=True).trials()]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_subject_is_read_without_loading_the_others(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = open_corpus("dreamer", made)
    refs = corpus.references()
    loaded: list[int] = []
    load = mat5_walk.Walker.load

    def watched(self: Any, matrix: Any, *, at_most: int) -> Any:
        loaded.append(matrix.count)
        return load(self, matrix, at_most=at_most)

    monkeypatch.setattr(mat5_walk.Walker, "load", watched)
    corpus.read(refs[2])
    assert sorted(loaded) == [3, 3, *[256 * 14] * 3, *[7808 * 14] * 3]
    loaded.clear()
    assert corpus.peek(refs[1]).trial_s == {"1": 2.0, "2": 2.0, "3": 2.0}
    assert loaded == [3, 3]


@pytest.mark.parametrize(
    ("half", "value", "code"),
    [
        ("stimuli", np.ones((256, 13)), "shape"),
        ("stimuli", np.ones((14, 256)), "shape"),
        ("stimuli", np.ones((100, 14)), "shape"),
        ("stimuli", np.ones((128 * 601, 14)), "shape"),
        ("stimuli", np.ones((256, 7, 2)), "shape"),
        ("stimuli", np.empty((0, 0)), "missing"),
        ("baseline", np.empty((0, 14)), "missing"),
        ("baseline", np.ones((7808, 15)), "shape"),
        ("baseline", np.ones((7808, 14)) * 1j, "dtype"),
        ("stimuli", "text", "dtype"),
        ("stimuli", np.array([[1, "a"]], dtype=object), "dtype"),
        ("stimuli", {"field": np.ones((256, 14))}, "dtype"),
        ("stimuli", np.full((256, 14), np.nan), "not_finite"),
    ],
)
def test_trial_that_cannot_be_used_is_listed(root: Path, half: str, value: Any, code: str) -> None:
    dreamer = struct_of(root)
    cells_of(dreamer, 1, half)[1, 0] = value
    save(root, dreamer)
    found, (problem,) = read(root)
    assert found == without("2", "2")
    assert (problem.subject, problem.trial, problem.code) == ("2", "2", code)
    corpus = open_corpus("dreamer", root)
    header = corpus.peek(corpus.references()[1])
    if code != "not_finite":  # samples are not looked at
        assert header.problems == (problem,)
        assert list(header.trial_s) == ["1", "3"]


@pytest.mark.parametrize(("half", "samples"), [("baseline", 7807), ("baseline", 7680), ("stimuli", 255)])
def test_length_that_is_not_as_published_is_kept_and_said(root: Path, half: str, samples: int) -> None:
    dreamer = struct_of(root)
    cells_of(dreamer, 0, half)[2, 0] = cells_of(dreamer, 0, half)[2, 0][:samples]
    save(root, dreamer)
    found, (problem,) = read(root)
    assert found == ALL
    assert (problem.subject, problem.trial, problem.code) == ("1", "3", "length")
    trial = list(open_corpus("dreamer", root).trials())[2]
    assert trial.baseline_uv is not None
    assert samples in (trial.eeg_uv.shape[1], trial.baseline_uv.shape[1])


@pytest.mark.parametrize("score", [0, 6, 255, np.nan])
@pytest.mark.parametrize("axis", ["ScoreValence", "ScoreArousal"])
def test_score_off_the_scale_is_left_out(root: Path, axis: str, score: float) -> None:
    dreamer = struct_of(root)
    scores = dreamer[0, 0]["Data"][0, 2][axis][0, 0].astype(float)
    scores[0, 0] = score
    dreamer[0, 0]["Data"][0, 2][axis][0, 0] = scores
    save(root, dreamer)
    found, (problem,) = read(root)
    assert found == without("3", "1")
    assert (problem.subject, problem.trial, problem.code) == ("3", "1", "label")
    corpus = open_corpus("dreamer", root)
    assert corpus.peek(corpus.references()[2]).problems == (problem,)


@pytest.mark.parametrize("value", [np.ones((2, 1), np.uint8), "text", {"field": 1.0}, np.empty((0, 0))])
def test_scores_that_are_too_few_or_no_numbers_cost_their_trials(root: Path, value: Any) -> None:
    dreamer = struct_of(root)
    dreamer[0, 0]["Data"][0, 0]["ScoreArousal"][0, 0] = value
    save(root, dreamer)
    found, problems = read(root)
    lost = [(problem.subject, problem.trial) for problem in problems]
    assert {problem.code for problem in problems} == {"label"}
    assert sorted(found + lost) == ALL
    assert ("1", "3") in lost


def test_scores_are_not_unsigned_when_placed(made: Path) -> None:
    places = {trial.valence for trial in open_corpus("dreamer", made).trials()}
    places |= {trial.arousal for trial in open_corpus("dreamer", made).trials()}
    assert min(places) < 0
    assert max(places) <= 4


class TestElectrodes:
    """EEG_Electrodes ships in the file: it wins over the built-in order."""

    def rename(self, root: Path, names: list[Any]) -> None:
        dreamer = struct_of(root)
        cells = np.empty((1, len(names)), dtype=object)
        cells[0] = names
        dreamer[0, 0]["EEG_Electrodes"] = cells
        save(root, dreamer)

    def test_another_order_is_put_right_and_said(self, root: Path) -> None:
        before = list(open_corpus("dreamer", root).trials())
        names = list(before[0].channels)
        self.rename(root, [names[2], *names[:2], *names[3:]])
        corpus = open_corpus("dreamer", root)
        after = list(corpus.trials())
        (problem,) = corpus.problems
        assert problem.code == "layout"
        assert "F3, AF3, F7, FC5" in problem.message
        for one, other in zip(before, after, strict=True):
            assert other.channels == one.channels
            for half in ("eeg_uv", "baseline_uv"):
                np.testing.assert_array_equal(getattr(other, half)[[2, 0, 1]], getattr(one, half)[[0, 1, 2]])
                np.testing.assert_array_equal(getattr(other, half)[3:], getattr(one, half)[3:])

    def test_other_electrodes_are_refused(self, root: Path) -> None:
        names = list(open_corpus("dreamer", root).channels)
        self.rename(root, ["Cz", *names[1:]])
        found, problems = read(root)
        assert found == []
        assert [(problem.subject, problem.code) for problem in problems] == [(n, "shape") for n in ("1", "2", "3")]

    @pytest.mark.parametrize("names", [["?"] * 14, [np.ones((2, 2))] * 14, ["x" * 40] * 14])
    def test_names_that_mean_nothing_leave_the_published_order(self, root: Path, names: list[Any]) -> None:
        self.rename(root, names)
        found, problems = read(root)
        assert found in (ALL, [])
        assert found == [] or [problem.code for problem in problems] == ["layout"]
        assert problems

    def test_absence_is_said(self, root: Path) -> None:
        dreamer = struct_of(root)[0, 0]
        save(root, {name: dreamer[name] for name in dreamer.dtype.names if name != "EEG_Electrodes"})
        found, (problem,) = read(root)
        assert found == ALL
        assert (problem.subject, problem.code) == (None, "layout")


@pytest.mark.parametrize(
    ("name", "value", "codes"),
    [
        ("noOfSubjects", 23.0, ["layout"]),
        ("noOfVideoSequences", 18.0, ["layout"]),
        ("noOfVideoSequences", "three", []),
        ("EEG_SamplingRate", 256.0, ["shape"] * 3),
        ("EEG_SamplingRate", "fast", ["layout"]),
        ("Data", np.array([[1, "a"]], dtype=object)[:, :1], ["layout", "unreadable"]),
        ("Data", 7.0, ["unreadable"]),
    ],
)
def test_facts_of_the_file_are_compared(root: Path, name: str, value: Any, codes: list[str]) -> None:
    dreamer = struct_of(root)
    dreamer[0, 0][name] = value
    save(root, dreamer)
    _, problems = read(root)
    assert [problem.code for problem in problems] == codes


def test_subject_that_is_something_else_is_listed_and_the_others_kept(made: Path, root: Path) -> None:
    for value in (np.ones((3, 3)), "text", {"EEG": 1.0}, {"EEG": {"stimuli": 1.0}}, {"Age": "3"}):
        dreamer = struct_of(made)
        dreamer[0, 0]["Data"][0, 1] = value
        save(root, dreamer)
        found, problems = read(root)
        assert found == without("2")
        assert {problem.subject for problem in problems} == {"2"}
        assert {problem.code for problem in problems} <= {"unreadable", "missing"}


def test_trials_beyond_the_expected_and_missing_ones(root: Path) -> None:
    dreamer = struct_of(root)
    for half in ("baseline", "stimuli"):
        eeg = dreamer[0, 0]["Data"][0, 0]["EEG"][0, 0]
        eeg[half][0, 0] = eeg[half][0, 0][:2]
        eeg = dreamer[0, 0]["Data"][0, 1]["EEG"][0, 0]
        eeg[half][0, 0] = np.concatenate([eeg[half][0, 0], eeg[half][0, 0][:1]])
    save(root, dreamer)
    found, problems = read(root)
    assert found == without("1", "3")
    assert [(problem.subject, problem.trial, problem.code) for problem in problems] == [
        ("1", "3", "missing"),
        ("2", None, "unexpected_object"),
    ]
    assert "EEG.baseline has 4, EEG.stimuli has 4, expected 3" in problems[1].message
    corpus = open_corpus("dreamer", root)
    assert corpus.peek(corpus.references()[1]).problems == (problems[1],)


@pytest.mark.parametrize("name", ["ScoreValence", "ScoreArousal"])
def test_scores_beyond_the_expected_are_said(root: Path, name: str) -> None:
    dreamer = struct_of(root)
    dreamer[0, 0]["Data"][0, 1][name][0, 0] = np.ones((5, 1), np.uint8)
    save(root, dreamer)
    found, (problem,) = read(root)
    assert found == ALL
    assert (problem.subject, problem.code) == ("2", "unexpected_object")
    assert f"{name} has 5, expected 3" in problem.message


def test_more_subjects_than_published_are_refused(root: Path) -> None:
    dreamer = struct_of(root)
    cells = np.empty((1, 24), dtype=object)
    for s in range(24):
        cells[0, s] = 0.0
    dreamer[0, 0]["Data"] = cells
    save(root, dreamer)
    found, (problem,) = read(root)
    assert found == []
    assert problem.code == "shape"


@pytest.mark.parametrize("compress", [False, True])
def test_cut_anywhere_keeps_the_subjects_before(root: Path, compress: bool) -> None:
    dreamer = struct_of(root)
    save(root, dreamer, compress)
    content = (root / "DREAMER.mat").read_bytes()
    numbers = set()
    for length in [*range(0, 400, 29), *range(400, len(content), len(content) // 23), len(content) - 1]:
        (root / "DREAMER.mat").write_bytes(content[:length])
        found, problems = read(root)
        whole = len({subject for subject, _ in found})
        assert found == ALL[: 3 * whole]
        assert problems
        if whole == 3:
            assert {(problem.subject, problem.code) for problem in problems} == {(None, "layout")}
        elif whole:
            assert [problem.subject for problem in problems] == ["1", "2", "3"][whole:]
        assert {problem.code for problem in problems} <= {"unreadable", "layout"}
        numbers.add(whole)
    assert numbers == {0, 1, 2, 3}


def test_one_wrong_byte_anywhere_casts_doubt_on_all(root: Path) -> None:
    """The checksum is at the end, so it is known only after the walk which subjects to trust: none."""
    content = (root / "DREAMER.mat").read_bytes()
    for place in range(136, len(content), len(content) // 11):
        changed = bytearray(content)
        changed[place] ^= 1
        if inflated(changed) == inflated(content):
            continue  # a bit that deflate does not use
        (root / "DREAMER.mat").write_bytes(bytes(changed))
        found, problems = read(root)
        assert found == []
        assert {problem.code for problem in problems} == {"unreadable"}


def inflated(content: bytes) -> bytes | None:
    try:
        return zlib.decompress(content[136:])
    except zlib.error:
        return None


def test_bomb_is_refused_without_inflating_it(root: Path) -> None:
    """A struct that declares more than MATLAB 5 can hold is not walked."""
    head = struct.pack("<II", 14, 2**32 - 8) + struct.pack("<IIIIIIii", 6, 8, 2, 0, 5, 8, 1, 1)
    raw = zlib.compress(head + struct.pack("<II", 1, 7) + b"DREAMER\x00" + bytes(100_000_000), 9)
    header = (root / "DREAMER.mat").read_bytes()[:128]
    (root / "DREAMER.mat").write_bytes(header + struct.pack("<II", 15, len(raw)) + raw)
    found, (problem,) = read(root)
    assert found == []
    assert problem.code == "unreadable"
    assert str(2**31) in problem.message


@pytest.mark.parametrize(
    "content", [b"", b"MATLAB 5.0", b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM", bytes(10_000)]
)
def test_other_files_are_unreadable(root: Path, content: bytes) -> None:
    (root / "DREAMER.mat").write_bytes(content)
    found, (problem,) = read(root)
    assert found == []
    assert (problem.source, problem.code) == (str(root / "DREAMER.mat"), "unreadable")
    assert "\n" not in problem.message
    with pytest.raises(CorpusError):
        open_corpus("dreamer", root, strict=True).references()


def test_hdf5_and_a_file_without_the_struct_are_unreadable(root: Path) -> None:
    scipy.io.savemat(root / "DREAMER.mat", {"other": np.ones((2, 2))})
    assert "no variable DREAMER" in read(root)[1][0].message
    with h5py.File(root / "DREAMER.mat", "w") as file:
        file["DREAMER"] = 1
    assert [problem.code for problem in read(root)[1]] == ["unreadable"]


def test_a_changed_file_is_walked_again(root: Path) -> None:
    assert read(root) == (ALL, [])
    dreamer = struct_of(root)
    cells_of(dreamer, 0, "stimuli")[0, 0] = cells_of(dreamer, 0, "stimuli")[1, 0]
    save(root, dreamer)
    first, second, *_ = open_corpus("dreamer", root).trials()
    np.testing.assert_array_equal(first.eeg_uv, second.eeg_uv)


def test_folder_too_deep_names_the_cure(root: Path) -> None:
    with pytest.raises(RequestError, match="give the top folder"):
        open_corpus("dreamer", root / "DREAMER.mat").references()


_BUILD = """
import sys
from emod.catalog import SimulateSettings
from emod.corpora import simulate_corpus
from emod.simulation import TagSignal
simulate_corpus("dreamer", sys.argv[1], SimulateSettings(subjects=23), TagSignal())
"""
_READ = """
import re, sys, time
from emod.corpora import open_corpus
corpus = open_corpus("dreamer", sys.argv[1], strict=True)
started, sizes, trials = time.perf_counter(), [], 0
for recording in corpus.recordings():
    sizes.append(recording.eeg_uv.size * 8)
    trials += len(recording.spans)
    del recording
read = time.perf_counter() - started
# Not ru_maxrss, which begins at the peak of whoever started this process.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
started = time.perf_counter()
refs = corpus.references()
seconds = [sum(corpus.peek(ref).trial_s.values()) for ref in refs]
print(peak, max(sizes), len(sizes), trials, round(read, 1), round(time.perf_counter() - started, 1), seconds[-1])
"""


@pytest.fixture
def children() -> dict[str, str]:
    """An environment in which a child finds the platform."""
    source = str(Path(__file__).parents[2] / "platform")
    return os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}


@pytest.mark.long
def test_full_size_file_is_read_one_subject_at_a_time_in_little_memory(
    tmp_path: Path, children: dict[str, str]
) -> None:
    """23 subjects x 18 films of 199 s: two gigabytes inflated, one subject 67 MB."""
    url = str(tmp_path / "copy")
    subprocess.run([sys.executable, "-c", _BUILD, url], check=True, env=children)
    size = (tmp_path / "copy" / "DREAMER.mat").stat().st_size
    done = subprocess.run([sys.executable, "-c", _READ, url], check=True, env=children, capture_output=True, text=True)
    peak, decoded, subjects, trials, read_s, peek_s, seconds = map(float, done.stdout.split())
    print(f"{size / 1e6:.0f} MB; decoded {decoded / 1e6:.0f} MB a subject; peak {peak / 1e6:.0f} MB")
    print(f"read {read_s} s, headers {peek_s} s")
    assert (subjects, trials, seconds) == (23, 414, 18 * 199)
    assert peak < 3 * decoded + 600e6
