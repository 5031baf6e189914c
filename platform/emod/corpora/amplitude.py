"""Whether decoded samples can be EEG in microvolt. A wrong unit changes no shape, count or label: only this tells.

It changes nothing and knows no corpus. A factor below about 50 stays unseen: heads, caps and bands differ by as much.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from emod.corpora.contract import Eeg, Problem, Recording
from emod.signal import MAD_TO_SD

__all__ = ["doubt_amplitude", "typical_uv"]

# EEG on the scalp has some 2 to 100 uV in the sense of `typical_uv`: trials of the real DASPS 2.4 to 17, of the
# simulated corpora 4 to 25. A unit taken for the next one is a factor of 1000, so the bounds lie half way to it.
_LEAST_UV, _MOST_UV = 0.5, 500.0
_USUAL_UV = 12.0
_STRETCH_S = 2.0  # short, as an electrode without a high-pass drifts by more than EEG within a trial
_STRETCHES = 6
_NAMED = 8
_UNIT_OF_POWER = {
    2: "volts: multiply by 1e6",
    1: "millivolts: multiply by 1e3",
    -1: "nanovolts or counts: divide by 1e3",
}


def typical_uv(eeg_uv: Eeg, sfreq_hz: float) -> float | None:
    """Robust standard deviation of an electrode within two seconds: median over electrodes and some stretches.

    Args:
        eeg_uv: (C, T); offsets, drifts, constant electrodes, and some that are not finite do not matter.
        sfreq_hz: Sampling rate.

    Returns:
        In the unit of ``eeg_uv``, or None where nothing moves.
    """
    samples = eeg_uv.shape[1]
    length = max(1, min(samples, round(_STRETCH_S * sfreq_hz)))
    scales: list[npt.NDArray[np.float64]] = []
    for start in np.linspace(0, samples - length, min(_STRETCHES, samples // length)).astype(int):
        stretch = np.asarray(eeg_uv[:, start : start + length], dtype=np.float64)
        stretch = stretch[np.isfinite(stretch).all(axis=1)]
        deviation = np.abs(stretch - np.median(stretch, axis=1, keepdims=True))
        scales.append(MAD_TO_SD * np.median(deviation, axis=1))
    found = np.concatenate(scales) if scales else np.empty(0)
    moving = found[found > 0]
    return float(np.median(moving)) if len(moving) else None


def doubt_amplitude(recording: Recording) -> Problem | None:
    """Says which trials of a recording cannot be microvolt, and of which unit they look; None where all can.

    The problem is one for the whole recording, and has the code ``dtype``; the trials are kept.
    """
    odd: dict[str, float] = {}
    for span in recording.spans:
        found_uv = typical_uv(recording.eeg_uv[:, span.start : span.stop], recording.sfreq_hz)
        if found_uv is not None and not _LEAST_UV <= found_uv <= _MOST_UV:
            odd[span.trial] = found_uv
    if not odd:
        return None
    # One digit, so that recordings with the same fault say the same.
    typical = float(np.median(list(odd.values())))
    unit = _UNIT_OF_POWER.get(round(math.log10(_USUAL_UV / typical) / 3))
    named = ", ".join(list(odd)[:_NAMED]) + (", ..." if len(odd) > _NAMED else "")
    where = "" if len(odd) == len(recording.spans) else f" in {len(odd)} of {len(recording.spans)} trials ({named})"
    cure = f"perhaps {unit}" if unit else "no unit explains it, look at the signal"
    what = f"electrodes vary by about {typical:.1g} uV{where}, EEG by {_LEAST_UV:g} to {_MOST_UV:g}: not microvolt"
    message = f"{what}; {cure}, or copy the owner's object again"
    trial = next(iter(odd)) if len(odd) == 1 else None
    return Problem(recording.source, recording.subject, trial, "amplitude", message)
