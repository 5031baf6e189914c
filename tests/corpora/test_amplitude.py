"""Amplitudes: one number for a signal, and a wrong unit is told with its cure."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest

from emod.corpora import Recording, TrialSpan
from emod.corpora.amplitude import doubt_amplitude, typical_uv

RATE = 128.0


def noise(sd_uv: float = 10.0, electrodes: int = 8, seconds: int = 20) -> npt.NDArray[np.float64]:
    return np.random.default_rng(0).normal(0, sd_uv, (electrodes, round(seconds * RATE)))


def recording(*trials_uv: npt.NDArray[np.float64]) -> Recording:
    bounds = np.cumsum([0, *(trial.shape[1] for trial in trials_uv)]).tolist()
    spans = tuple(
        TrialSpan(str(n), "clip", start, stop, None, None, "happy", 0.0, 0.0)
        for n, (start, stop) in enumerate(itertools.pairwise(bounds), start=1)
    )
    eeg_uv = np.concatenate(trials_uv, axis=1)
    return Recording("deap", "s01", "1", "s01.dat", eeg_uv, ("Cz",) * 8, RATE, ((0, bounds[-1]),), spans)


@pytest.mark.parametrize("sd_uv", [1e-6, 3.0, 4e4])
def test_noise_has_its_standard_deviation(sd_uv: float) -> None:
    assert typical_uv(noise(sd_uv), RATE) == pytest.approx(sd_uv, rel=0.05)


def test_offsets_drifts_and_steps_do_not_count() -> None:
    """An unreferenced electrode drifts by far more than EEG within a minute, and each piece begins elsewhere."""
    eeg_uv = noise() + np.linspace(-2e4, 2e4, 8)[:, np.newaxis]
    eeg_uv += np.linspace(0, 200, eeg_uv.shape[1])
    eeg_uv[:, 1000:] -= 30_000
    assert typical_uv(eeg_uv, RATE) == pytest.approx(10, rel=0.3)


def test_bad_electrodes_do_not_decide() -> None:
    eeg_uv = noise()
    eeg_uv[:4] = 0.0  # half of them: the median of all would be nothing
    eeg_uv[4] = np.nan
    eeg_uv[5, ::7] = np.inf
    assert typical_uv(eeg_uv, RATE) == pytest.approx(10, rel=0.1)
    eeg_uv = noise()
    eeg_uv[:3] *= 1e5
    assert typical_uv(eeg_uv, RATE) == pytest.approx(10, rel=0.6)


@pytest.mark.filterwarnings("error")
def test_nothing_that_moves_is_no_number() -> None:
    for value in (1.0, np.nan, np.inf):
        assert typical_uv(np.full((8, 1000), value), RATE) is None
    assert typical_uv(np.empty((8, 0)), RATE) is None
    assert typical_uv(np.zeros((8, 1)), RATE) is None
    assert typical_uv(noise()[:, :50], RATE) == pytest.approx(10, rel=0.3)  # less than a stretch


def test_integers_and_single_precision_will_do() -> None:
    for dtype in (np.int16, np.float32):
        assert typical_uv(noise(30.0).astype(dtype), RATE) == pytest.approx(30, rel=0.1)


def test_a_long_signal_is_not_copied() -> None:
    eeg_uv = noise(seconds=2000)
    before = eeg_uv.copy()
    tracemalloc.start()
    typical_uv(eeg_uv, RATE)
    assert tracemalloc.get_traced_memory()[1] < eeg_uv.nbytes / 50
    tracemalloc.stop()
    np.testing.assert_array_equal(eeg_uv, before)


@pytest.mark.parametrize(
    ("factor", "cure"),
    [
        (1e-6, "perhaps volts: multiply by 1e6"),
        (1e-3, "perhaps millivolts: multiply by 1e3"),
        (1e3, "perhaps nanovolts or counts: divide by 1e3"),
        (1e8, "no unit explains it"),
        (1e-12, "no unit explains it"),
    ],
)
@pytest.mark.parametrize("sd_uv", [2.5, 60.0])
def test_unit_is_guessed_of_quiet_and_of_restless_heads(sd_uv: float, factor: float, cure: str) -> None:
    assert doubt_amplitude(recording(noise(sd_uv), noise(sd_uv))) is None
    doubt = doubt_amplitude(recording(noise(sd_uv * factor), noise(sd_uv * factor)))
    assert doubt is not None
    assert (doubt.source, doubt.subject, doubt.trial, doubt.code) == ("s01.dat", "s01", None, "amplitude")
    assert cure in doubt.message
    assert "trials" not in doubt.message
    assert "\n" not in doubt.message


def test_one_trial_of_another_unit_is_named() -> None:
    doubt = doubt_amplitude(recording(noise(), noise(1e-5), noise()))
    assert doubt is not None
    assert doubt.trial == "2"
    assert "1e-05 uV in 1 of 3 trials (2)" in doubt.message


def test_trial_without_any_signal_is_left_to_others() -> None:
    assert doubt_amplitude(recording(noise(), 0 * noise())) is None
