"""FACED: one array a subject, the clip's number is its emotion, and the list of clips that were rated."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from emod.catalog import SimulateSettings, load_corpus
from emod.corpora import CorpusError, Problem, open_corpus, simulate_corpus
from emod.errors import RequestError
from emod.simulation import TagSignal
from tests.golden.faced import LABELS

CLIPS = 5
ALL = [str(n) for n in range(1, CLIPS + 1)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One subject, five clips of two seconds."""
    settings = SimulateSettings(subjects=1, trials=CLIPS, time_scale=2 / 30)
    simulate_corpus("faced", str(tmp_path / "faced"), settings, TagSignal())
    return tmp_path / "faced"


def data(root: Path) -> Any:
    return pickle.loads((root / "Processed_data" / "sub000.pkl").read_bytes())


def replace(root: Path, value: Any, protocol: int = 4) -> None:
    (root / "Processed_data" / "sub000.pkl").write_bytes(pickle.dumps(value, protocol=protocol))


def read(root: Path) -> tuple[list[str], list[Problem]]:
    corpus = open_corpus("faced", root)
    return [trial.trial for trial in corpus.trials()], corpus.problems


def test_samples_are_the_scalp_rows_of_the_array(root: Path) -> None:
    stored = data(root)
    assert stored.shape == (CLIPS, 32, 500)
    for row, trial in enumerate(open_corpus("faced", root, strict=True).trials()):
        np.testing.assert_array_equal(trial.eeg_uv, stored[row, :30])
        assert trial.channels[-1] == "O2"
        assert not {"A1", "A2"} & set(trial.channels)


def test_clip_names_the_emotion() -> None:
    """The owner's table, transcribed a second time: three clips each, four neutral ones."""
    words = load_corpus("faced").trial_emotions
    assert words is not None
    assert list(words["1"]) == [LABELS[clip][0] for clip in range(1, 29)]
    assert load_corpus("faced").subject_numbers == tuple(range(123))


@pytest.mark.parametrize("protocol", range(6))
def test_any_protocol_is_read(root: Path, protocol: int) -> None:
    stored = data(root)
    for array in (stored, np.asfortranarray(stored)):
        replace(root, array, protocol)
        corpus = open_corpus("faced", root, strict=True)
        for row, trial in enumerate(corpus.trials()):
            np.testing.assert_array_equal(trial.eeg_uv, stored[row, :30])
        (ref,) = corpus.references()
        assert corpus.peek(ref).trial_s == dict.fromkeys(ALL, 2.0)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (np.zeros((CLIPS, 32, 500), "f4"), "dtype"),
        (np.zeros((CLIPS, 32, 500), ">f8"), "dtype"),
        (np.zeros((CLIPS, 30, 500)), "shape"),  # without ears it is another layout
        (np.zeros((CLIPS, 62, 500)), "shape"),
        (np.zeros((32, CLIPS, 500)), "shape"),
        (np.zeros((CLIPS, 32, 499)), "shape"),
        (np.zeros((CLIPS, 500, 32)), "shape"),
        (np.zeros((CLIPS - 1, 32, 500)), "shape"),
        (np.zeros((CLIPS, 32 * 500)), "shape"),
        ({"data": np.zeros((CLIPS, 32, 500))}, "unreadable"),
        ([np.zeros((32, 500))] * CLIPS, "unreadable"),
        (np.full((CLIPS, 32, 500), "x", object), "unreadable"),
    ],
)
def test_object_that_could_be_misread_is_refused(root: Path, value: Any, code: str) -> None:
    replace(root, value)
    trials, (problem,) = read(root)
    assert trials == []
    assert (problem.subject, problem.trial, problem.code) == ("sub000", None, code)
    corpus = open_corpus("faced", root)
    (ref,) = corpus.references()
    with pytest.raises(CorpusError) as caught:
        corpus.peek(ref)
    assert caught.value.problems == (problem,)


def test_clip_that_is_not_finite_is_left_out_and_one_with_a_flat_electrode_kept(root: Path) -> None:
    stored = data(root)
    stored[1, 5, 100] = np.nan
    stored[3, 29] = 7.5
    stored[4, 30:] = np.nan  # the ears do not matter
    replace(root, stored)
    trials, problems = read(root)
    assert trials == ["1", "3", "4", "5"]
    assert [(problem.trial, problem.code) for problem in problems] == [("2", "not_finite"), ("4", "flat")]
    assert "F7 sample 100" in problems[0].message
    assert "constant electrodes: O2, in 1 trials (4)" in problems[1].message


def test_command_in_a_pickle_is_listed_not_run(root: Path, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/proof",)

    for protocol in range(6):
        replace(root, Attack(), protocol)
        trials, (problem,) = read(root)
        assert trials == []
        assert problem.code == "unreadable"
        assert "posix.system" in problem.message
    assert not (tmp_path / "proof").exists()


def test_object_larger_than_any_of_this_corpus_is_not_opened(root: Path) -> None:
    with (root / "Processed_data" / "sub000.pkl").open("r+b") as stream:
        stream.truncate(2**32)
    tracemalloc.start()
    try:
        trials, (problem,) = read(root)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert trials == []
    assert problem.code == "shape"
    assert peak < 16 * 2**20


def test_header_needs_no_samples(root: Path) -> None:
    stored = data(root)
    replace(root, stored, 5)
    path = root / "Processed_data" / "sub000.pkl"
    content = bytearray(path.read_bytes())
    content[-20_000:-1000] = b"\xff" * 19_000  # samples turn into NaN, nothing else does
    path.write_bytes(bytes(content))
    corpus = open_corpus("faced", root)
    (ref,) = corpus.references()
    header = corpus.peek(ref)
    assert (header.channels, header.sfreq_hz, header.problems) == (30, 250.0, ())
    assert header.trial_s == dict.fromkeys(ALL, 2.0)
    assert [problem.code for problem in corpus.read(ref).problems] == ["not_finite"]


def test_subject_that_was_never_published_is_listed(root: Path) -> None:
    folder = root / "Processed_data"
    (folder / "sub123.pkl").write_bytes((folder / "sub000.pkl").read_bytes())
    trials, (problem,) = read(root)
    assert trials == ALL
    assert problem.code == "unexpected_object"


def test_subject_zero_is_the_first_and_the_last_is_122(tmp_path: Path) -> None:
    plans = open_corpus("faced", tmp_path).plan_recordings(SimulateSettings(subjects=123))
    assert [plan.subject for plan in plans] == [f"sub{n:03d}" for n in range(123)]


def test_folder_too_deep_names_the_cure(root: Path) -> None:
    with pytest.raises(RequestError, match=r"holds no Processed_data/.*give the top folder"):
        open_corpus("faced", root / "Processed_data").references()


class TestRemarks:
    """After_remarks.mat lists the clips that a subject rated; the label is the clip's emotion whatever it says."""

    def path(self, root: Path) -> Path:
        return root / "Data" / "sub000" / "After_remarks.mat"

    def write(self, root: Path, clips: list[float], **changes: Any) -> None:
        remarks = np.empty((len(clips), 1), [("score", object), ("vid", object)])
        for row, clip in enumerate(clips):
            remarks[row, 0] = (np.zeros((1, 12)), np.array([[clip]]))
        scipy.io.savemat(self.path(root), {"After_remark": remarks, **changes})

    def test_what_is_written_lists_every_clip_in_another_order(self, root: Path) -> None:
        remarks = scipy.io.loadmat(self.path(root))["After_remark"]
        assert remarks.shape == (CLIPS, 1)
        clips = [int(vid.item()) for vid in remarks["vid"].flat]
        assert sorted(clips) == list(range(1, CLIPS + 1)) != clips
        for score, clip in zip(remarks["score"].flat, clips, strict=True):
            assert score.shape == (1, 12)
            emotion, valence, arousal = LABELS[clip]
            order = ("joy", "tenderness", "inspiration", "amusement", "anger", "disgust", "fear", "sadness")
            assert order[score[0, :8].argmax()] == emotion
            np.testing.assert_allclose(score[0, 8:10] / 7 * 8 - 4, [arousal, valence])

    def test_absence_is_fine(self, root: Path) -> None:
        self.path(root).unlink()
        assert read(root) == (ALL, [])

    def test_cell_of_structs_is_read_too(self, root: Path) -> None:
        cells = np.empty((1, CLIPS), object)
        for n in range(CLIPS):
            cells[0, n] = {"score": np.zeros(12), "vid": n + 1}
        scipy.io.savemat(self.path(root), {"After_remark": cells})
        assert read(root) == (ALL, [])
        cells[0, 0] = {"score": np.zeros(12), "vid": 2}
        scipy.io.savemat(self.path(root), {"After_remark": cells})
        assert [problem.code for problem in read(root)[1]] == ["label_table"]

    @pytest.mark.parametrize(
        ("clips", "said"),
        [
            ([1, 2, 3, 4], "[5] not at all"),
            ([1, 2, 3, 4, 4], "[4] twice, [5] not at all"),
            ([5, 4, 3, 2, 1, 3], "[3] twice"),
            ([0, 1, 2, 3, 4], "[5] not at all, [0] though unknown"),
            ([1, 2, 3, 4, 5, 29], "[29] though unknown"),
            ([], "not at all"),
        ],
    )
    def test_missing_and_repeated_clips_are_said_and_trials_kept(
        self, root: Path, clips: list[float], said: str
    ) -> None:
        before = [(trial.emotion, trial.valence, trial.arousal) for trial in open_corpus("faced", root).trials()]
        self.write(root, clips)
        corpus = open_corpus("faced", root)
        assert [(trial.emotion, trial.valence, trial.arousal) for trial in corpus.trials()] == before
        (problem,) = corpus.problems
        assert (problem.source, problem.subject, problem.code) == (str(self.path(root)), "sub000", "label_table")
        assert said in problem.message
        (ref,) = corpus.references()
        assert corpus.peek(ref).problems == (problem,)
        with pytest.raises(CorpusError):
            list(open_corpus("faced", root, strict=True).trials())

    @pytest.mark.parametrize(
        "content",
        [
            {"After_remark": np.arange(28.0)},
            {"After_remark": {"score": np.zeros(12)}},
            {"After_remark": {"vid": np.nan}},
            {"After_remark": {"vid": "1"}},
            {"After_remark": {"vid": np.arange(3.0)}},
            {"After_remark": {"vid": {"vid": 1.0}}},
            {"other": 1.0},
        ],
    )
    def test_other_content_is_listed_and_nothing_is_lost(self, root: Path, content: dict[str, Any]) -> None:
        scipy.io.savemat(self.path(root), content)
        trials, (problem,) = read(root)
        assert trials == ALL
        assert problem.code == "label_table"
        assert "\n" not in problem.message

    def test_damage_is_listed_and_nothing_is_lost(self, root: Path) -> None:
        content = self.path(root).read_bytes()
        large = b"\x00" * (2**20 + 1)
        for damaged in (b"", b"x", large, *(content[:n] for n in range(0, len(content), 97))):
            self.path(root).write_bytes(damaged)
            trials, problems = read(root)
            assert trials == ALL
            assert [problem.code for problem in problems] == ["label_table"]

    def test_link_that_leaves_the_copy_is_not_followed(self, root: Path, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere.mat"
        self.path(root).rename(elsewhere)
        self.path(root).symlink_to(elsewhere)
        trials, problems = read(root)
        assert trials == ALL
        assert {problem.code for problem in problems} == {"unexpected_object", "label_table"}
