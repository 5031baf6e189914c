"""Spectra in microvolt squared per Hz, and an alpha peak that is a peak, not a slope."""

from __future__ import annotations

import numpy as np
import pytest

from emod.evaluation import alpha_peak_hz, alpha_prominence_db, power_spectrum


def slope_noise(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Noise whose power falls with frequency, as that of the EEG does."""
    spectrum = np.fft.rfft(rng.normal(size=samples))
    return np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 1), samples) * samples / 50


def test_power_is_microvolt_squared_per_hz_and_weighted_by_length() -> None:
    sfreq_hz = 128.0
    rng = np.random.default_rng(0)
    long, short = rng.normal(0, 3, (2, 128 * 300)), rng.normal(0, 1, (2, 128 * 100))
    hz, density = power_spectrum([long, short, np.full((2, 100), 1e6)], sfreq_hz)  # the last is shorter than a segment
    power = density.sum(axis=1) * (hz[1] - hz[0])
    assert power == pytest.approx([(9 * 300 + 1 * 100) / 400] * 2, rel=0.05)
    with pytest.raises(ValueError, match="segment"):
        power_spectrum([short[:, :100]], sfreq_hz)


@pytest.mark.parametrize("alpha_hz", [8.5, 10.0, 12.0])
def test_alpha_peak_is_found_on_a_falling_spectrum_and_only_where_it_is(alpha_hz: float) -> None:
    rng = np.random.default_rng(1)
    sfreq_hz, seconds = 200.0, 120
    t = np.arange(int(sfreq_hz * seconds)) / sfreq_hz
    background = slope_noise(rng, len(t))
    signal = np.stack([background, background + 2 * background.std() * np.sin(2 * np.pi * alpha_hz * t)])
    hz, density = power_spectrum([signal], sfreq_hz)
    assert alpha_peak_hz(hz, density)[1] == pytest.approx(alpha_hz, abs=0.25)
    prominence = alpha_prominence_db(hz, density)
    assert prominence[1] > prominence[0] + 10


def test_no_peak_is_nan_and_zero() -> None:
    hz = np.arange(0, 64, 0.25)
    falling = 1 / np.maximum(hz, 0.25) ** 2
    beta = falling + np.exp(-((hz - 18) ** 2))
    flat = np.zeros_like(hz)
    assert np.isnan(alpha_peak_hz(hz, np.stack([falling, beta, flat]))).all()
    assert alpha_prominence_db(hz, np.stack([falling, beta, flat])).tolist() == [0, 0, 0]
