"""Differential entropy against signals whose entropy is known, and the linear models on it."""

from __future__ import annotations

import numpy as np
import pytest

from emod.training.classical import BANDS_HZ, differential_entropy


def test_a_sine_has_the_entropy_of_its_variance() -> None:
    """Of amplitude a: variance a^2 / 2, in the band of its frequency and no other."""
    time_s = np.arange(4000) / 200.0
    for (name, (low, high)), amplitude in zip(BANDS_HZ.items(), (1.0, 2.0, 3.0, 4.0, 5.0), strict=True):
        sine = amplitude * np.sin(2 * np.pi * (low + high) / 2 * time_s)
        found = differential_entropy(sine[None, None], 200.0)[0]
        place = list(BANDS_HZ).index(name)
        assert found[place] == pytest.approx(0.5 * np.log(2 * np.pi * np.e * amplitude**2 / 2), abs=0.02)
        assert all(found[other] < found[place] - 3 for other in range(5) if other != place)


def test_electrodes_come_one_after_another_and_high_bands_need_a_rate() -> None:
    windows = np.random.default_rng(0).normal(size=(3, 2, 400))
    windows[:, 1] *= 10
    found = differential_entropy(windows, 200.0).reshape(3, 2, 5)
    assert (found[:, 1] - found[:, 0]).mean() == pytest.approx(np.log(10), abs=0.3)
    assert differential_entropy(windows, 80.0).shape == (3, 2 * 4)
    assert np.isfinite(differential_entropy(np.zeros((1, 2, 400)), 200.0)).all()
