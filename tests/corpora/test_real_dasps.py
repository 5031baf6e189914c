"""The real DASPS recordings, where EMOD_DASPS says they lie: what is known of them from elsewhere."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.signal

from emod.corpora import Trial, open_corpus
from tests.golden import dasps as golden

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def root() -> Path:
    folder = os.environ.get("EMOD_DASPS")
    if not folder:
        pytest.fail("EMOD_DASPS is not set: give the folder that holds S01preprocessed.mat and sam_ratings.csv")
    return Path(folder)


@pytest.fixture(scope="module")
def trials(root: Path) -> list[Trial]:
    return list(open_corpus("dasps", root, strict=True).trials())


def test_all_of_it_is_read(trials: list[Trial]) -> None:
    assert len(trials) == 276
    assert sorted({trial.subject for trial in trials}) == [f"S{n:02d}" for n in range(1, 24)]
    assert {trial.eeg_uv.shape for trial in trials} == {(14, 1920)}
    assert {trial.baseline_uv is None for trial in trials} == {True}


def test_labels_are_those_of_the_table(root: Path, trials: list[Trial]) -> None:
    with (root / "sam_ratings.csv").open(newline="") as stream:
        table = {
            (row["subject"], int(row["situation"])): {axis: float(row[axis]) for axis in ("valence", "arousal")}
            for row in csv.DictReader(stream)
        }
    assert len(table) == 138
    for trial in trials:
        assert trial.rating == table[trial.subject, (int(trial.trial) + 1) // 2]
        assert (trial.valence, trial.arousal) == (trial.rating["valence"] - 5, trial.rating["arousal"] - 5)
    assert max(trial.rating["valence"] for trial in trials if trial.rating) <= 7


def test_amplitudes_are_microvolt(trials: list[Trial]) -> None:
    spread = np.array([np.median(trial.eeg_uv.std(axis=1)) for trial in trials])
    assert 5 < np.median(spread) < 15


def test_alpha_is_where_alpha_is(trials: list[Trial]) -> None:
    """The mean spectrum peaks between 9 and 12.2 Hz, most at the back of the head: rows are the named electrodes."""
    spectra = []
    for trial in trials:
        hz, power = scipy.signal.welch(trial.eeg_uv, trial.sfreq_hz, nperseg=512)
        spectra.append(np.log(power))
    mean = np.mean(spectra, axis=0)
    channels = trials[0].channels
    searched = (hz >= 7) & (hz <= 14)
    flanks = mean[:, ((hz >= 6) & (hz < 7)) | ((hz > 13) & (hz <= 14))].mean(axis=1)
    height = {name: mean[row, searched].max() - flanks[row] for row, name in enumerate(channels)}
    best = sorted(height, key=height.__getitem__, reverse=True)[:3]
    assert set(best) <= {"O1", "O2", "P7", "P8"}, height
    for name in ("O1", "O2", "P8"):
        peak_hz = hz[searched][mean[channels.index(name), searched].argmax()]
        assert 9 <= peak_hz <= 12.2, name


def test_objects_are_built_like_the_golden_ones(root: Path, tmp_path: Path) -> None:
    golden.build(tmp_path)
    (ours,) = {str(golden.inspect(tmp_path)[f"S0{n}preprocessed.mat"]) for n in (1, 2)}
    theirs = {str(value) for name, value in golden.inspect(root).items() if name.endswith(".mat")}
    assert theirs == {ours}
