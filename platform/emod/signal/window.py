"""Windows of a trial, and the one number each window is divided by.

The scale is one per window, over all electrodes together: a scale per electrode would erase the asymmetries that carry
emotion. Nothing here filters, and nothing is subtracted: a window times its scale is the microvolt signal again.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FLAT_SCALE_UV", "MAD_TO_SD", "normalise", "robust_scale_uv", "window_length", "window_starts"]

# Below this robust scale a window is flat: rounding noise. EEG in volts taken for microvolts has some 1e-6.
FLAT_SCALE_UV = 1e-9

# Standard deviation of a Gaussian over its median absolute deviation: 1 / Phi^-1(3/4).
MAD_TO_SD = 1.4826022185056018


def window_length(window_s: float, sfreq_hz: float) -> int:
    """Samples of a window: the nearest whole number, halves upwards.

    Raises:
        ValueError: If that is no sample at all.
    """
    samples = math.floor(window_s * sfreq_hz + 0.5)
    if samples < 1:
        raise ValueError(f"a window of {window_s:g} s holds no sample at {sfreq_hz:g} Hz: use a longer window_s")
    return samples


def window_starts(start: int, stop: int, window_samples: int) -> list[int]:
    """First samples of the complete, non-overlapping windows inside the span [start, stop).

    What is left at the end, shorter than a window, is not used.

    Raises:
        ValueError: If ``window_samples`` is not positive.
    """
    if window_samples < 1:
        raise ValueError(f"window_samples is {window_samples}: it must be at least 1")
    return list(range(start, stop - window_samples + 1, window_samples))


def robust_scale_uv(window_uv: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Median absolute deviation about the median, over all electrodes and samples together, as a standard deviation.

    Args:
        window_uv: (..., C, T), microvolt.

    Returns:
        (...), microvolt, >= 0; the factor 1.4826 makes it the standard deviation of a Gaussian signal. Zero means that
        more than half of the values are equal: a flat window, which the caller rejects.

    Raises:
        ValueError: If a value is not finite.
    """
    if not np.isfinite(window_uv).all():
        raise ValueError("window_uv holds a value that is not finite: reject or repair the recording first")
    flat = np.asarray(window_uv, dtype=np.float64).reshape(*window_uv.shape[:-2], -1)
    deviation = np.abs(flat - np.median(flat, axis=-1, keepdims=True))
    return np.asarray(MAD_TO_SD * np.median(deviation, axis=-1))


def normalise(
    window_uv: npt.NDArray[np.floating[Any]], clip: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """A window divided by its robust scale and clipped; times the scale it is microvolt again, up to clipping.

    Args:
        window_uv: (..., C, T), microvolt.
        clip: Largest magnitude of the result, in robust scales, > 0.

    Returns:
        (..., C, T) float32 in [-clip, clip], and the scales (...) in microvolt. A flat window has scale 0 and comes
        back as zeros.

    Raises:
        ValueError: If a value is not finite.
    """
    scale_uv = robust_scale_uv(window_uv)
    divisor = np.where(scale_uv > 0, scale_uv, np.inf)[..., np.newaxis, np.newaxis]
    return np.clip(window_uv / divisor, -clip, clip).astype(np.float32), scale_uv
