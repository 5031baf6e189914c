"""A recording whose truth is known: brain, blinks and muscle bursts, each kept apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from emod.signal.montage import positions

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Planted:
    """(C, T) microvolt each; the recording is their sum."""

    channels: tuple[str, ...]
    sfreq_hz: float
    brain_uv: Array
    blinks_uv: Array
    muscle_uv: Array

    @property
    def recording_uv(self) -> Array:
        return self.brain_uv + self.blinks_uv + self.muscle_uv


def _coloured(rng: np.random.Generator, n: int, sfreq_hz: float, slope: float, low_hz: float, high_hz: float) -> Array:
    frequency = np.fft.rfftfreq(n, 1 / sfreq_hz)
    inside = (frequency >= low_hz) & (frequency <= high_hz)
    gain = np.where(inside, np.maximum(frequency, 1e-9) ** (slope / 2), 0.0)
    spectrum = gain * (rng.standard_normal(gain.size) + 1j * rng.standard_normal(gain.size))
    signal: Array = np.fft.irfft(spectrum, n)
    return signal / signal.std()


def _plant(channels: tuple[str, ...], sfreq_hz: float, seconds: float, seed: int) -> Planted:
    rng = np.random.default_rng(seed)
    n = int(seconds * sfreq_hz)
    time_s = np.arange(n) / sfreq_hz
    places = positions(channels)

    def seen_from(place: Array, width: float) -> Array:
        return np.exp((places @ place - 1) / width)

    brain_uv = 0.5 * rng.standard_normal((len(channels), n))
    for _ in range(40):
        place = rng.standard_normal(3)
        place[2] = abs(place[2])
        gain_uv = 3 * rng.choice([-1, 1]) * seen_from(place / np.linalg.norm(place), 0.3)
        brain_uv += np.outer(gain_uv, _coloured(rng, n, sfreq_hz, -1.2, 0.5, sfreq_hz))
    brain_uv += np.outer(8 * seen_from(positions(["Oz"])[0], 0.25), _coloured(rng, n, sfreq_hz, 0, 9, 11))

    eyes = positions(["Fpz"])[0] + [0, 0.3, -0.5]
    gain_uv = seen_from(eyes / np.linalg.norm(eyes), 0.3)
    lids = np.zeros(n)
    for at_s in np.arange(1, seconds - 1, 3) + rng.uniform(-0.8, 0.8, len(np.arange(1, seconds - 1, 3))):
        lids += np.exp(-(((time_s - at_s) / 0.1) ** 2))
    blinks_uv = np.outer(120 * gain_uv / gain_uv.max(), lids)

    muscle_uv = np.zeros_like(brain_uv)
    for site in ("T7", "T8"):
        tense = np.zeros(n)
        for at_s in np.arange(2, seconds - 2, 5) + rng.uniform(-1, 1, len(np.arange(2, seconds - 2, 5))):
            tense[int(at_s * sfreq_hz) : int((at_s + 1) * sfreq_hz)] = 1
        burst = tense * _coloured(rng, n, sfreq_hz, 0.3, 20, sfreq_hz / 2)
        muscle_uv += np.outer(20 * seen_from(positions([site])[0], 0.08), burst)
    return Planted(channels, sfreq_hz, brain_uv, blinks_uv, muscle_uv)


@pytest.fixture(scope="session")
def plant() -> Callable[..., Planted]:
    """A maker: plant(channels, sfreq_hz, seconds, seed)."""
    return _plant


@pytest.fixture(scope="session")
def planted() -> Planted:
    """80 s of 16 electrodes at 128 Hz."""
    channels = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 C4 T8 P7 Pz P8 O1 O2"
    return _plant(tuple(channels.split()), 128.0, 80.0, seed=7)
