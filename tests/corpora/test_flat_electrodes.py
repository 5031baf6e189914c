"""Trials with electrodes that stand still, cut by their owner or marked in a recording: kept and reported."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from emod.corpora import CorpusError, Recording, RecordingRef
from emod.corpora.continuous import TrialMark, mark_trials
from emod.corpora.cut_trials import CutTrial, join_trials
from emod.corpora.deap import Deap

CORPUS = Deap(root="nowhere")
REF = RecordingRef("deap", "s01", "1", "nowhere/s01.dat", 0)
RATING = {"valence": 5.0, "arousal": 5.0}
N = 4


def trials_uv() -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.normal(0, 10, (len(CORPUS.channels), 50)) for _ in range(N)]


def cut(trials: list[Any]) -> Recording:
    cuts = [CutTrial(str(at + 1), "clip", eeg_uv, rating=RATING) for at, eeg_uv in enumerate(trials)]
    return join_trials(CORPUS, REF, cuts, [])


def marked(trials: list[Any]) -> Recording:
    marks = [
        TrialMark(str(at + 1), "clip", 50 * at + 10, 50 * at + 50, (50 * at, 50 * at + 10), RATING) for at in range(N)
    ]
    return mark_trials(CORPUS, REF, np.concatenate(trials, axis=1), marks, [])


both = pytest.mark.parametrize("make", [cut, marked])


@both
def test_moving_electrodes_are_no_problem(make: Any) -> None:
    recording = make(trials_uv())
    assert [span.trial for span in recording.spans] == ["1", "2", "3", "4"]
    assert recording.problems == ()


@both
def test_trials_with_constant_electrodes_are_kept_and_reported_once(make: Any) -> None:
    trials = trials_uv()
    trials[1][[3, 7]] = 4.0
    trials[3][[3]] = -4.0
    trials[0][5, :49] = 0.0  # it moves at the end
    recording = make(trials)
    assert [span.trial for span in recording.spans] == ["1", "2", "3", "4"]
    (problem,) = recording.problems
    assert (problem.code, problem.trial) == ("flat", None)
    names = f"{CORPUS.channels[3]}, {CORPUS.channels[7]}"
    assert f"constant electrodes: {names}, in 2 trials (2, 4); kept" in problem.message
    np.testing.assert_array_equal(recording.eeg_uv, np.concatenate(trials, axis=1))


@both
def test_a_single_trial_is_named(make: Any) -> None:
    trials = trials_uv()
    trials[2][:31] = 1.0
    (problem,) = make(trials).problems
    assert (problem.code, problem.trial) == ("flat", "3")
    assert f"{CORPUS.channels[7]}, ..." in problem.message


@both
def test_a_trial_without_any_moving_electrode_is_left_out(make: Any) -> None:
    trials = trials_uv()
    trials[2][:] = np.arange(32.0)[:, None]
    recording = make(trials)
    assert [span.trial for span in recording.spans] == ["1", "2", "4"]
    (problem,) = recording.problems
    assert (problem.code, problem.trial) == ("flat", "3")
    assert "every electrode is constant" in problem.message
    with pytest.raises(CorpusError, match="every electrode is constant"):
        make([np.zeros((32, 50)) for _ in range(N)])
