"""Power spectra of recordings and the alpha peak: a physiological check that needs no label.

Not a feature extractor for classifiers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.signal import find_peaks, welch

__all__ = ["ALPHA_HZ", "alpha_peak_hz", "alpha_prominence_db", "power_spectrum"]

# Klimesch 1999 puts the alpha band of adults at 8-13 Hz.
ALPHA_HZ = (8.0, 13.0)

Floats = npt.NDArray[np.float64]


def power_spectrum(
    pieces_uv: Iterable[npt.NDArray[np.floating[Any]]], sfreq_hz: float, *, segment_s: float = 4.0
) -> tuple[Floats, Floats]:
    """Welch spectrum of each electrode, averaged over pieces by their length.

    Args:
        pieces_uv: (C, T) microvolt each, continuous in time, the same electrodes.
        sfreq_hz: Sampling rate.
        segment_s: Length of Welch's segments (Hann, half overlapping); the resolution is its inverse. Pieces shorter
            than one segment are left out.

    Returns:
        (F,) frequencies in Hz and (C, F) power density in microvolt squared per Hz.

    Raises:
        ValueError: If no piece holds a segment.
    """
    samples = round(segment_s * sfreq_hz)
    total: Floats | None = None
    weight = 0
    frequencies: Floats = np.empty(0)
    for piece in pieces_uv:
        if piece.shape[-1] < samples:
            continue
        frequencies, density = welch(np.asarray(piece, dtype=np.float64), fs=sfreq_hz, nperseg=samples)
        share = piece.shape[-1] * density
        total = share if total is None else total + share
        weight += piece.shape[-1]
    if total is None:
        raise ValueError(
            f"no piece is as long as one segment of {segment_s:g} s: give longer pieces or a shorter segment_s"
        )
    return frequencies, total / weight


def alpha_peak_hz(frequencies_hz: Floats, density: Floats) -> Floats:
    """Frequency of the most prominent local maximum of the log spectrum in 8-13 Hz; NaN where there is none.

    Args:
        frequencies_hz: (F,).
        density: (C, F) power density.

    Returns:
        (C,) Hz.
    """
    return _alpha_peak(frequencies_hz, density)[:, 0]


def alpha_prominence_db(frequencies_hz: Floats, density: Floats) -> Floats:
    """How far the alpha peak stands above the higher of its two flanking minima, in dB; 0 where there is no peak.

    Args:
        frequencies_hz: (F,).
        density: (C, F) power density.

    Returns:
        (C,) dB.
    """
    return np.nan_to_num(_alpha_peak(frequencies_hz, density)[:, 1])


def _alpha_peak(frequencies_hz: Floats, density: Floats) -> Floats:
    """(C, 2): frequency and prominence of each electrode's alpha peak, NaN where there is none."""
    # Flanks are sought in 4-20 Hz, or the prominence would be measured against the ends of the spectrum.
    near = (frequencies_hz >= 4) & (frequencies_hz <= 20)
    hz = frequencies_hz[near]
    found = np.full((len(density), 2), np.nan)
    for electrode, levels in enumerate(10 * np.log10(np.maximum(density[:, near], np.finfo(float).tiny))):
        places, about = find_peaks(levels, prominence=0)
        inside = (hz[places] >= ALPHA_HZ[0]) & (hz[places] <= ALPHA_HZ[1])
        if inside.any():
            best = int(np.argmax(np.where(inside, about["prominences"], -np.inf)))
            found[electrode] = hz[places[best]], about["prominences"][best]
    return found
