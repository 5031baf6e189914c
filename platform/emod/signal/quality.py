"""How good a recording is, and which of it can be repaired: electrodes, rails, line noise, spectra, amplitudes.

It measures and decides; nothing is changed here. ``emod.signal.clean`` carries the `Repair` out. Blinks and muscle
bursts are no fault of an electrode and are left to ICA: an electrode is called noisy only where it is loud and either
unlike what its neighbours predict (both after Bigdely-Shamlo et al. 2015, the PREP pipeline) or so much louder than
they are that no source in the head does it: a wrong gain leaves the correlation as it is.

Shapes: C electrodes, T samples, B blocks of about one second, F frequencies, K segments of two seconds.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mne
import numpy as np
import numpy.typing as npt
import scipy.signal

from emod.catalog.signal import QualitySettings
from emod.signal.montage import canonical_names, positions
from emod.signal.window import MAD_TO_SD

__all__ = [
    "RANGE_PERCENTILES",
    "REGIONS",
    "Inspection",
    "Repair",
    "Spectrum",
    "Stretch",
    "inspect_recording",
    "line_left_db",
    "line_noise_db",
    "measure_spectrum",
    "plan_repair",
    "spectrum_db",
    "spline_weights",
]

BLOCK_S = 1.0
# Noise is judged over a section: long enough for a median, short enough to follow an electrode that comes loose.
SECTION_S = 30.0
SEGMENT_S = 2.0
SEGMENTS_PER_SECTION = 3
NOISE_BAND_HZ = (1.0, 45.0)
# Least robust standard deviation of log10 amplitude among the electrodes. Few or alike electrodes have less by
# chance; with it, z = 5 means at least 3.2 times the median electrode.
LEAST_SPREAD = 0.1
FEWEST_ELECTRODES = 4
# Of its nearest electrodes the middle one is an electrode's measure of gain, so that of two faulty ones side by side
# each is found; three or more in a cluster may hide each other. `QualitySettings.noisy_gain` is 10, since the smaller
# of the two ratios (to the median electrode, to the middle one beside) is at most 4.4 in a section of real DASPS, 2.6
# in the twelve simulated corpora and 2.5 for blinks of half a millivolt. Times 25, every electrode of the simulated
# corpora exceeds it, and of DASPS 96 % (times 50: 99 %; the others were all but silent).
NEAREST = 3
# A signal stays at its extreme for so long only at a rail; slow peaks of coarsely quantised EEG stay there for less.
RAIL_S, RAIL_SAMPLES = 0.01, 3
MOST_OF_THE_TIME = 0.5
# A window is touched by a block if it holds so much of it: resampling moves edges by a sample.
TOUCHED = 0.05
SPECTRUM_HZ, SPECTRUM_STEP_HZ = 70.0, 0.5
RANGE_PERCENTILES = (5, 25, 50, 75, 95)
HEAD_RADIUS_M = 0.095
# Borders on the unit sphere's y axis, which points to the nose: F and P lie outside, FC, C, T and CP between.
REGIONS: dict[str, tuple[float, float]] = {
    "frontal": (0.5, 2.0),
    "central": (-0.5, 0.5),
    "posterior": (-2.0, -0.5),
}
QUIETEST = 1e-20  # microvolt squared per Hz: keeps a logarithm finite

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Span = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Power of a recording, from two-second segments spread over it.

    Attributes:
        hz: (F,).
        density: (C, F) microvolt squared per Hz; the mean over segments.
        range_uv: Percentiles `RANGE_PERCENTILES` of an electrode's peak-to-peak range within two seconds.
    """

    hz: Floats
    density: Floats
    range_uv: Floats


@dataclass(frozen=True, eq=False)
class Inspection:
    """What a recording shows before anything is done to it.

    Attributes:
        blocks: (B, 2) first and past-the-last sample of blocks of about one second that tile the pieces.
        piece_of: (B,) the piece each block lies in.
        flat: (C, B).
        noisy: (C, B); decided by sections of up to 30 s.
        rails: (C, B) samples of each block that lie at the recorder's rail.
        spectrum: Before cleaning; None where no piece is two seconds long.
    """

    blocks: npt.NDArray[np.int64]
    piece_of: npt.NDArray[np.int64]
    flat: Flags
    noisy: Flags
    rails: npt.NDArray[np.int64]
    spectrum: Spectrum | None


@dataclass(frozen=True)
class Stretch:
    """A span within one piece that is treated alike."""

    start: int
    stop: int
    interpolated: tuple[int, ...]
    rejected: bool


@dataclass(frozen=True, eq=False)
class Repair:
    """What is to be done with a recording.

    Attributes:
        interpolated: (C, B) electrodes replaced by what the others predict.
        rejected: (B,) blocks whose windows are left out.
        hopeless: (code, words) if nothing of the recording is to be used, else None.
    """

    inspection: Inspection
    interpolated: Flags
    rejected: Flags
    hopeless: tuple[str, str] | None

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """Runs of blocks treated alike, in order; they cover the recording and none crosses the end of a piece."""
        blocks, pieces = self.inspection.blocks, self.inspection.piece_of
        keys = [
            (int(pieces[at]), tuple(np.flatnonzero(self.interpolated[:, at]).tolist()), bool(self.rejected[at]))
            for at in range(len(blocks))
        ]
        found = []
        for (_, bad, rejected), run in itertools.groupby(range(len(blocks)), key=keys.__getitem__):
            run_blocks = list(run)
            found.append(Stretch(int(blocks[run_blocks[0], 0]), int(blocks[run_blocks[-1], 1]), bad, rejected))
        return tuple(found)

    def look_at(self, start: int, stop: int) -> tuple[bool, int, float]:
        """What happens to samples start..stop of the recording as stored.

        Returns:
            Whether they hold a rejected block; how many electrodes are interpolated in some of it; the share of the
            samples of the others that lie at the recorder's rail.
        """
        edges = self.inspection.blocks
        near = slice(
            int(np.searchsorted(edges[:, 1], start, side="right")), int(np.searchsorted(edges[:, 0], stop, side="left"))
        )
        inside = np.minimum(edges[near, 1], stop) - np.maximum(edges[near, 0], start)
        part = inside / (edges[near, 1] - edges[near, 0])
        touched = part > TOUCHED
        bad = self.interpolated[:, near]
        at_rail = (np.where(bad, 0, self.inspection.rails[:, near]) * part).sum()
        n_bad = int(bad[:, touched].any(axis=1).sum())
        return bool(self.rejected[near][touched].any()), n_bad, float(at_rail / ((stop - start) * len(bad)))


def inspect_recording(
    eeg_uv: npt.NDArray[np.floating[Any]],
    pieces: Sequence[Span],
    channels: Sequence[str],
    sfreq_hz: float,
    settings: QualitySettings,
) -> Inspection:
    """Looks at a recording as stored. Beyond it, some sections of 30 s are held.

    Args:
        eeg_uv: (C, T) finite values, microvolt.
        pieces: Stretches continuous in time; in order, they cover 0..T.
        channels: C electrode names.
        sfreq_hz: Sampling rate.
        settings: What counts as flat and as noisy.
    """
    names = canonical_names(channels)
    blocks, piece_of, sections = _tile(pieces, sfreq_hz)
    shape = (len(names), len(blocks))
    flat = np.zeros(shape, dtype=bool)
    for at, (start, stop) in enumerate(blocks):
        flat[:, at] = np.ptp(eeg_uv[:, start:stop], axis=1) < settings.flat_uv

    noisy = np.zeros(shape, dtype=bool)
    sampled = []
    for first, last in sections:
        segments = _segments(eeg_uv, blocks[first][0], blocks[last - 1][1], sfreq_hz, SEGMENTS_PER_SECTION)
        if len(segments):
            hz, density = _periodograms(segments, sfreq_hz)
            sampled.append((density.mean(axis=0), np.ptp(segments, axis=2), last - first))
            live = flat[:, first:last].mean(axis=1) < MOST_OF_THE_TIME
            noisy[_find_noisy(segments, hz, density, live, names, sfreq_hz, settings), first:last] = True
    return Inspection(
        blocks=np.array(blocks),
        piece_of=np.array(piece_of),
        flat=flat,
        noisy=noisy & ~flat,
        rails=_count_rails(eeg_uv, pieces, blocks, sfreq_hz),
        spectrum=_sum_spectrum(hz, sampled) if sampled else None,
    )


def measure_spectrum(eeg_uv: npt.NDArray[np.floating[Any]], pieces: Sequence[Span], sfreq_hz: float) -> Spectrum | None:
    """The spectrum of a recording, cleaned or not; None where no piece is two seconds long.

    Args:
        eeg_uv: (C, T) microvolt.
        pieces: Stretches continuous in time.
        sfreq_hz: Sampling rate.
    """
    blocks, _, sections = _tile(pieces, sfreq_hz)
    sampled = []
    for first, last in sections:
        segments = _segments(eeg_uv, blocks[first][0], blocks[last - 1][1], sfreq_hz, 1)
        if len(segments):
            hz, density = _periodograms(segments, sfreq_hz)
            sampled.append((density.mean(axis=0), np.ptp(segments, axis=2), last - first))
    return _sum_spectrum(hz, sampled) if sampled else None


def plan_repair(inspection: Inspection, channels: Sequence[str], mains_hz: float, settings: QualitySettings) -> Repair:
    """Which electrodes to interpolate when, and what to leave out.

    An electrode bad in more than half of the recording is bad throughout. Around a flat stretch one second more is
    interpolated on either side: that is where it comes off and back.
    """
    flat, noisy = inspection.flat, inspection.noisy
    n_electrodes = len(flat)
    bad = np.zeros_like(flat)
    refused = np.zeros_like(flat)
    for found, action in ((flat, settings.flat), (noisy, settings.noisy)):
        if action == "interpolate":
            bad |= found
        elif action == "reject":
            refused |= found
    for which in (bad, refused):
        which[which.mean(axis=1) > MOST_OF_THE_TIME] = True
    most = math.floor(settings.most_interpolated * n_electrodes + 1e-9)
    rejected = refused.any(axis=0) | (bad.sum(axis=0) > most)

    wider = bad.copy()
    same_piece = inspection.piece_of[1:] == inspection.piece_of[:-1]
    came_off = bad & flat
    wider[:, 1:] |= came_off[:, :-1] & same_piece
    wider[:, :-1] |= came_off[:, 1:] & same_piece
    interpolated = np.where(wider.sum(axis=0) <= most, wider, bad) & ~rejected

    hopeless = None
    if rejected.all():
        throughout = np.flatnonzero(((bad | refused).mean(axis=1)) > MOST_OF_THE_TIME)
        named = ", ".join(channels[index] for index in throughout[:8]) + (", ..." if len(throughout) > 8 else "")
        what = f"{len(throughout)} of {n_electrodes} electrodes are flat or noisy most of the time ({named})"
        hopeless = ("bad_electrodes", what if len(throughout) else "too many electrodes are bad at every moment")
    elif settings.line_noise == "reject" and inspection.spectrum is not None:
        line_db = line_noise_db(inspection.spectrum, mains_hz)
        if line_db is not None and np.median(line_db) > settings.line_noise_db:
            hopeless = ("line_noise", f"{mains_hz:g} Hz stands {np.median(line_db):.1f} dB above its neighbourhood")
    return Repair(inspection, interpolated, rejected, hopeless)


def line_noise_db(spectrum: Spectrum, mains_hz: float) -> Floats | None:
    """How far mains stands above its neighbourhood, 2 to 5 Hz away on both sides: dB for each electrode, (C,).

    The mean level of the two sides is taken, since a spectrum that falls steadily is no line. None where the sampling
    rate does not reach mains.
    """
    return _line_db(spectrum, mains_hz, [(mains_hz - 5, mains_hz - 2), (mains_hz + 2, mains_hz + 5)], about_hz=0.5)


def line_left_db(spectrum: Spectrum, mains_hz: float) -> Floats | None:
    """The same of a cleaned recording, over its level at 40-45 Hz: a filter's edge runs through the neighbourhood."""
    return _line_db(spectrum, mains_hz, [(40.0, 45.0)], about_hz=0.0)


def spectrum_db(spectrum: Spectrum, channels: Sequence[str]) -> tuple[Floats, dict[str, Floats]]:
    """The median electrode's spectrum of the whole head and of three regions, every 0.5 Hz up to 70 Hz.

    Returns:
        (F,) Hz, and region (``all``, `REGIONS`) -> (F,) dB re 1 microvolt squared per Hz; regions without an electrode
        are not there.
    """
    top = min(SPECTRUM_HZ, float(spectrum.hz[-1]))
    hz = np.arange(SPECTRUM_STEP_HZ, top + 1e-9, SPECTRUM_STEP_HZ)
    front = positions(channels)[:, 1]
    rows = {"all": np.ones(len(front), dtype=bool)} | {
        name: (front >= low) & (front < high) for name, (low, high) in REGIONS.items()
    }
    levels = 10 * np.log10(np.maximum(spectrum.density, QUIETEST))
    return hz, {
        name: np.interp(hz, spectrum.hz, np.median(levels[chosen], axis=0))
        for name, chosen in rows.items()
        if chosen.any()
    }


@functools.lru_cache(maxsize=256)
def spline_weights(sources: tuple[str, ...], targets: tuple[str, ...]) -> Floats:
    """What the electrodes ``sources`` predict at ``targets``: MNE's spherical splines (Perrin et al. 1989).

    Returns:
        (targets, sources): times the sources' signals, they give the targets'. Rows sum to 1, so a common reference
        passes unchanged.
    """
    names = [*sources, *targets]
    info = mne.create_info(names, 1.0, "eeg")
    places = dict(zip(names, HEAD_RADIUS_M * positions(names), strict=True))
    info.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"), verbose="error")
    # A column for each source alone: interpolation is linear, so what comes out are its weights.
    units = mne.io.RawArray(np.eye(len(names))[:, : len(sources)], info, verbose="error")
    units.info["bads"] = list(targets)
    units.interpolate_bads(origin=(0.0, 0.0, 0.0), method={"eeg": "spline"}, verbose="error")
    weights: Floats = units.get_data()[len(sources) :]
    weights.setflags(write=False)
    return weights


def _tile(pieces: Sequence[Span], sfreq_hz: float) -> tuple[list[Span], list[int], list[Span]]:
    """Blocks of about a second, the piece of each, and sections as spans of block numbers."""
    samples = max(1, round(BLOCK_S * sfreq_hz))
    blocks: list[Span] = []
    piece_of: list[int] = []
    sections: list[Span] = []
    for number, (start, stop) in enumerate(pieces):
        n_blocks = max(1, (stop - start) // samples)
        edges = [*(start + samples * at for at in range(n_blocks)), stop]
        bounds = np.linspace(0, n_blocks, math.ceil(n_blocks * BLOCK_S / SECTION_S) + 1).round().astype(int)
        sections += [(len(blocks) + int(a), len(blocks) + int(b)) for a, b in itertools.pairwise(bounds)]
        blocks += itertools.pairwise(edges)
        piece_of += [number] * n_blocks
    return blocks, piece_of, sections


def _segments(eeg_uv: npt.NDArray[np.floating[Any]], start: int, stop: int, sfreq_hz: float, most: int) -> Floats32:
    """(K, C, two seconds) about their means, spread evenly; K = 0 where the section is shorter."""
    samples = round(SEGMENT_S * sfreq_hz)
    starts = np.linspace(start, stop - samples, min(most, (stop - start) // samples)).astype(int)
    found = np.empty((len(starts), len(eeg_uv), samples), dtype=np.float32)
    for number, at in enumerate(starts):
        part = eeg_uv[:, at : at + samples]
        found[number] = part - part.mean(axis=1, keepdims=True)
    return found


def _periodograms(segments: Floats32, sfreq_hz: float) -> tuple[Floats, Floats32]:
    hz, density = scipy.signal.periodogram(segments, sfreq_hz, window="hann", detrend=False)
    return hz, density


def _sum_spectrum(hz: Floats, sampled: list[tuple[Floats32, Floats32, int]]) -> Spectrum:
    weights = [seconds for _, _, seconds in sampled]
    return Spectrum(
        hz=hz,
        density=np.average([density for density, _, _ in sampled], axis=0, weights=weights),
        range_uv=np.percentile(np.concatenate([ptp for _, ptp, _ in sampled]), RANGE_PERCENTILES),
    )


def _find_noisy(
    segments: Floats32,
    hz: Floats,
    density: Floats32,
    live: Flags,
    names: tuple[str, ...],
    sfreq_hz: float,
    settings: QualitySettings,
) -> list[int]:
    """Electrodes of one section that are loud, and unlike their neighbours or far louder than they are."""
    if live.sum() < FEWEST_ELECTRODES:
        return []
    band = (hz >= NOISE_BAND_HZ[0]) & (hz <= NOISE_BAND_HZ[1])
    power = np.median(density[:, :, band].sum(axis=2), axis=0)
    level = np.log10(np.maximum(power, QUIETEST)) / 2
    middle = np.median(level[live])
    spread = MAD_TO_SD * np.median(np.abs(level[live] - middle))
    far_louder = np.zeros_like(live)
    for index in np.flatnonzero(live & (level - middle > math.log10(settings.noisy_gain))).tolist():
        far_louder[index] = _gain(level, index, live, names) > settings.noisy_gain
    loud = far_louder | (live & (level - middle > settings.noisy_z * max(spread, LEAST_SPREAD)))
    return [
        index
        for index in np.flatnonzero(loud).tolist()
        if far_louder[index]
        or _likeness(segments, index, live, loud, names, sfreq_hz, band) < settings.noisy_correlation
    ]


def _gain(level: Floats, index: int, live: Flags, names: tuple[str, ...]) -> float:
    """How many times as loud an electrode is as the middle one of its nearest: a blink is loud in these, too."""
    places = positions(names)
    near = [at for at in np.argsort(-(places @ places[index]), kind="stable") if live[at] and at != index][:NEAREST]
    return float(10 ** (level[index] - np.median(level[near])))


def _likeness(
    segments: Floats32, index: int, live: Flags, loud: Flags, names: tuple[str, ...], sfreq_hz: float, band: Flags
) -> float:
    """Correlation of an electrode with what the others predict for it, at 1-45 Hz; its sign does not matter.

    The larger of two: predicted from all others, since a blink is loud at all frontal electrodes, and from those that
    are not loud, since two noisy electrodes spoil the prediction for a good one beside them.
    """
    best = 0.0
    for others in (live, live & ~loud):
        chosen = np.flatnonzero(others & (np.arange(len(names)) != index))
        if len(chosen) < FEWEST_ELECTRODES - 1:
            continue
        weights = spline_weights(tuple(names[other] for other in chosen), (names[index],))
        pair = segments[:, index], np.einsum("s,kst->kt", weights[0], segments[:, chosen])
        cross, own, predicted = (
            scipy.signal.csd(a, b, sfreq_hz, nperseg=segments.shape[2], detrend=False)[1][:, band].sum().real
            for a, b in (pair, pair[:1] * 2, pair[1:] * 2)
        )
        best = max(best, abs(float(cross)) / math.sqrt(max(float(own * predicted), QUIETEST)))
    return best


def _count_rails(
    eeg_uv: npt.NDArray[np.floating[Any]], pieces: Sequence[Span], blocks: list[Span], sfreq_hz: float
) -> npt.NDArray[np.int64]:
    """(C, B) samples in runs at an electrode's own largest or smallest value of the piece."""
    least = max(RAIL_SAMPLES, math.ceil(RAIL_S * sfreq_hz))
    starts = np.array([start for start, _ in blocks])
    counts = np.zeros((len(eeg_uv), len(blocks)), dtype=np.int64)
    for start, stop in pieces:
        for row, signal in enumerate(eeg_uv[:, start:stop]):
            low, high = signal.min(), signal.max()
            if low == high:
                continue  # flat, which is counted as such
            for rail in (low, high):
                at = np.flatnonzero(signal == rail)
                if len(at) < least:
                    continue
                breaks = np.flatnonzero(np.diff(at) > 1) + 1
                lengths = np.diff([0, *breaks, len(at)])
                held = at[np.repeat(lengths >= least, lengths)]
                counts[row] += np.bincount(
                    np.searchsorted(starts, held + start, side="right") - 1, minlength=len(blocks)
                )
    return counts


def _line_db(
    spectrum: Spectrum, mains_hz: float, beside_hz: list[tuple[float, float]], about_hz: float
) -> Floats | None:
    hz = spectrum.hz
    if mains_hz + about_hz > hz[-1]:
        return None
    level = 10 * np.log10(np.maximum(spectrum.density, QUIETEST))
    sides = [(hz >= low) & (hz <= high) for low, high in beside_hz]
    beside = [np.median(level[:, side], axis=1) for side in sides if side.any()]
    nearest = hz[np.abs(hz - mains_hz).argmin()]
    return np.asarray(level[:, np.abs(hz - nearest) <= about_hz].max(axis=1) - np.mean(beside, axis=0))
