"""Controls that see no EEG, against counts made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emod.evaluation.controls import CONTROLS, control_probabilities, shuffle_labels


def names(*values: str) -> np.ndarray:
    return np.array(values, dtype=object)


TRAIN = [0, 0, 1, 1, 1, 1]
CLIPS = (names("a", "a", "b", "b", "b", "b"), names("a", "b", "new"))
SUBJECTS = (names("p", "q", "p", "q", "p", "q"), names("p", "new", "q"))


def test_majority_is_certain_of_the_commonest_class() -> None:
    found = control_probabilities("majority class", TRAIN, n_classes=3, clips=CLIPS, subjects=SUBJECTS)
    assert found.tolist() == [[0, 1, 0]] * 3


def test_the_clips_labels_are_counted_per_clip() -> None:
    """Clip a: two windows of class 0 and one shared by the prior (1/3, 2/3); a clip never seen gets the prior."""
    found = control_probabilities("clip's labels", TRAIN, n_classes=2, clips=CLIPS, subjects=SUBJECTS)
    assert found == pytest.approx(
        np.array([[(2 + 1 / 3) / 3, (2 / 3) / 3], [(1 / 3) / 5, (4 + 2 / 3) / 5], [1 / 3, 2 / 3]])
    )


def test_the_participants_labels_are_counted_per_person() -> None:
    found = control_probabilities("participant's labels", TRAIN, n_classes=2, clips=CLIPS, subjects=SUBJECTS)
    known = [(1 + 1 / 3) / 4, (2 + 2 / 3) / 4]
    assert found == pytest.approx(np.array([known, [1 / 3, 2 / 3], known]))


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc"), st.sampled_from("pq")), min_size=1, max_size=30))
def test_rows_are_probabilities(rows: list[tuple[int, str, str]]) -> None:
    codes, clips, subjects = (list(column) for column in zip(*rows, strict=True))
    for control in CONTROLS:
        found = control_probabilities(
            control,
            codes,
            n_classes=4,
            clips=(names(*clips), names("a", "z")),
            subjects=(names(*subjects), names("z", "p")),
        )
        assert found.shape == (2, 4)
        assert found.sum(axis=1) == pytest.approx(1)
        assert (found >= 0).all()


class TestShuffled:
    TRIALS = np.array(
        [f"deap/{subject}/1/{trial}" for subject in ("p", "q") for trial in range(20) for _ in range(3)], dtype=object
    )

    def test_whole_trials_keep_together_and_a_person_keeps_their_labels(self) -> None:
        codes = np.repeat(np.random.default_rng(0).integers(0, 4, 40), 3)
        dealt = shuffle_labels(codes, self.TRIALS, np.arange(120), seed=0)
        assert (dealt.reshape(40, 3) == dealt.reshape(40, 3)[:, :1]).all()
        assert (dealt != codes).mean() > 0.4
        for own in (slice(0, 60), slice(60, 120)):
            assert np.bincount(dealt[own]).tolist() == np.bincount(codes[own]).tolist()

    def test_other_rows_are_left_alone_and_the_seed_decides(self) -> None:
        codes = np.repeat(np.random.default_rng(0).integers(0, 4, 40), 3)
        rows = np.arange(60)
        dealt = shuffle_labels(codes, self.TRIALS, rows, seed=0)
        assert (dealt[60:] == codes[60:]).all()
        assert (dealt == shuffle_labels(codes, self.TRIALS, rows, seed=0)).all()
        assert (dealt != shuffle_labels(codes, self.TRIALS, rows, seed=1)).any()
