"""The chain of ``emod.signal.clean`` for windows at serving time, in torch and without MNE; ICA is off.

A window is filtered as one piece, so near its ends, and where it is shorter than the filter (11 s for 0.3 Hz), it sees
mirrored signal where the recording would have given real one. Given the same window, both chains agree to rounding.

Shapes: B windows, C electrodes, T samples.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.signal
import torch
from torch import Tensor

from emod.catalog.signal import SignalSettings
from emod.signal.window import MAD_TO_SD

__all__ = ["band_taps", "clean_windows", "normalise_windows"]

# Width of a Hamming window's main lobe: taps times transition over sampling rate.
HAMMING_WIDTH = 3.3


def band_taps(settings: SignalSettings, sfreq_hz: float) -> npt.NDArray[np.float64]:
    """Taps of the zero-phase FIR filter, equal to those of mne.filter.create_filter with its ``firwin`` design.

    Returns:
        (odd number of taps,): a low-pass at the upper edge less a low-pass at the lower one; each as long as its own
        transition demands.

    Raises:
        ValueError: If the lower edge is at or above the Nyquist frequency.
    """
    low_hz, high_hz = settings.pass_band_hz(sfreq_hz)
    low_transition_hz = min(max(0.25 * low_hz, 2.0), low_hz)
    edges = [(low_hz - low_transition_hz / 2, low_transition_hz, -1.0)]
    if high_hz is not None:
        edges.append((high_hz + settings.top_transition_hz / 2, settings.top_transition_hz, 1.0))
    n_taps = math.ceil(HAMMING_WIDTH / min(width for _, width, _ in edges) * sfreq_hz) | 1
    taps = np.zeros(n_taps)
    if high_hz is None:
        taps[n_taps // 2] = 1.0
    for cutoff_hz, width_hz, sign in edges:
        n_own = round(HAMMING_WIDTH / width_hz * sfreq_hz) | 1
        offset = (n_taps - n_own) // 2
        taps[offset : n_taps - offset] += sign * scipy.signal.firwin(n_own, cutoff_hz, window="hamming", fs=sfreq_hz)
    return taps


def clean_windows(eeg_uv: Tensor, sfreq_hz: float, settings: SignalSettings) -> Tensor:
    """Remove the mean of each electrode, band-pass and average-reference raw windows.

    Args:
        eeg_uv: (B, C, T), microvolt, any floating type; computed in float64.
        sfreq_hz: Sampling rate.
        settings: As at ingest; ``settings.ica`` is not used.

    Returns:
        (B, C, T) float64, microvolt: what ``clean_recording`` gives for each window as a recording of one piece.

    Raises:
        ValueError: If the shape is not (B, C, T), or the lower edge is at or above the Nyquist frequency.
    """
    if eeg_uv.ndim != 3 or eeg_uv.shape[-1] == 0:
        raise ValueError(f"eeg_uv has shape {tuple(eeg_uv.shape)}: it must be (B, C, T)")
    cleaned_uv = eeg_uv.to(torch.float64)
    if settings.band_pass:
        cleaned_uv = _filter(cleaned_uv - cleaned_uv.mean(dim=-1, keepdim=True), settings, sfreq_hz)
    if settings.reference == "average":
        cleaned_uv = cleaned_uv - cleaned_uv.mean(dim=-2, keepdim=True)
    return cleaned_uv


def normalise_windows(eeg_uv: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """``emod.signal.window.normalise`` for tensors.

    Returns:
        (B, C, T) float32 in [-clip, clip], and (B,) float64 scales in microvolt; a flat window has scale 0 and is
        zeros.

    Raises:
        ValueError: If a value is not finite.
    """
    if not torch.isfinite(eeg_uv).all():
        raise ValueError("eeg_uv holds a value that is not finite: leave this window out")
    flat = eeg_uv.to(torch.float64).flatten(start_dim=-2)
    scale_uv = MAD_TO_SD * _median((flat - _median(flat)).abs()).squeeze(-1)
    divisor = torch.where(scale_uv > 0, scale_uv, torch.inf)[..., None, None]
    return (eeg_uv / divisor).clamp(-clip, clip).to(torch.float32), scale_uv


def _median(x: Tensor) -> Tensor:
    """(..., 1): the median along the last axis, the mean of the two middle values where their number is even.

    torch.median takes the lower of the two, and sorting takes ten times as long.
    """
    n = x.shape[-1]
    upper_half = x.topk(n // 2 + 1, dim=-1, sorted=False).values
    n_middle = 2 - n % 2
    return upper_half.topk(n_middle, dim=-1, largest=False).values.sum(dim=-1, keepdim=True) / n_middle


def _filter(x: Tensor, settings: SignalSettings, sfreq_hz: float) -> Tensor:
    """Zero-phase FIR along the last axis, with the padding mne.filter calls ``reflect_limited``.

    Edges are extended by point reflection as far as the signal goes, then by zeros.
    """
    n_taps, n_samples = _taps(settings, sfreq_hz).size, x.shape[-1]
    n_edge = min(n_taps, n_samples) - 1
    left = 2 * x[..., :1] - x[..., 1 : n_edge + 1].flip(-1)
    right = 2 * x[..., -1:] - x[..., n_samples - 1 - n_edge : n_samples - 1].flip(-1)
    extended = torch.cat([left, x, right], dim=-1)
    n_fft = scipy.fft.next_fast_len(extended.shape[-1] + n_taps - 1, real=True)
    response = torch.from_numpy(_response(settings, sfreq_hz, n_fft)).to(x.device)
    product = torch.fft.rfft(extended, n_fft) * response
    first = n_edge + n_taps // 2
    filtered: Tensor = torch.fft.irfft(product, n_fft)
    return filtered[..., first : first + n_samples]


# A served model meets one rate and one length after the other; their design takes longer than their use. As arrays,
# since a tensor made under torch.inference_mode stays marked by it.
@functools.lru_cache(maxsize=64)
def _taps(settings: SignalSettings, sfreq_hz: float) -> npt.NDArray[np.float64]:
    return band_taps(settings, sfreq_hz)


@functools.lru_cache(maxsize=64)
def _response(settings: SignalSettings, sfreq_hz: float, n_fft: int) -> npt.NDArray[np.complex128]:
    response: npt.NDArray[np.complex128] = scipy.fft.rfft(_taps(settings, sfreq_hz), n_fft)
    return response
