"""A recording of one session, cleaned as a whole: band-pass, bad electrodes, average reference, ICA.

Filters act on each piece that is continuous in time; ICA is fitted once, on all pieces together. Trials are cut
afterwards, by the caller. Bad electrodes are not searched for here: what to interpolate is a `Repair` of
``emod.signal.quality``.

Shapes: C electrodes, T samples of the recording, T' samples after resampling.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mne
import numpy as np
import numpy.typing as npt

from emod.catalog.signal import IcaSettings, SignalSettings
from emod.signal.montage import canonical_names, positions
from emod.signal.quality import HEAD_RADIUS_M, Repair, spline_weights

__all__ = ["STAGES", "Cleaned", "CleaningReport", "RemovedComponent", "clean_recording"]

STAGES = frozenset({"band_pass", "ocular", "muscle", "average_reference"})
Artefact = Literal["ocular", "muscle"]
Span = tuple[int, int]

# ICA of n signals wants some 20 n^2 samples (Onton and Makeig 2006) and electrodes enough to unmix.
SAMPLES_PER_SQUARED_SIGNAL = 20
FEWEST_ELECTRODES = 8
MOST_ITERATIONS = 500
# mne's find_bads_muscle sums its focus and smoothness terms over electrodes and pairs of them, with constants chosen on
# caps of 64. On small caps both terms say "muscle" to everything, so there only its spectral slope is used.
FEWEST_ELECTRODES_FOR_TOPOGRAPHY = 48
CHUNK_S = 60.0
# Long enough to hold blinks and slow eye movements whole, short enough to spread over a recording.
SECTION_S = 10.0
SAMPLES_FILTERED_AT_ONCE = 2**22

# The first pair present stands for vertical (mean) and horizontal (difference) eye movements.
VERTICAL_PAIRS = (("Fp1", "Fp2"), ("AF3", "AF4"), ("AF7", "AF8"))
HORIZONTAL_PAIRS = (("F7", "F8"), ("AF7", "AF8"), ("F9", "F10"))


@dataclass(frozen=True)
class RemovedComponent:
    """One independent component that was taken out, and why."""

    index: int
    kind: Artefact
    score: float


@dataclass(frozen=True)
class CleaningReport:
    """What was done to a recording."""

    stages: tuple[str, ...]
    """Applied, in order: band_pass or high_pass, resample, interpolate, average_reference, ica."""
    n_components: int | None
    """Components fitted, or None without ICA."""
    removed: tuple[RemovedComponent, ...]
    notes: tuple[str, ...]
    """What a reader of the result should know: why ICA did not run, pieces shorter than the filter, and the like."""


@dataclass(frozen=True)
class Cleaned:
    """A cleaned recording and where its samples went."""

    eeg_uv: npt.NDArray[np.float64]
    """(C, T'), microvolt."""
    pieces: tuple[tuple[int, int], ...]
    """(start, stop) of each piece in ``eeg_uv``."""
    sfreq_hz: float
    report: CleaningReport
    pieces_before: tuple[tuple[int, int], ...]
    sfreq_before_hz: float

    def locate(self, start: int, stop: int) -> tuple[int, int]:
        """Where a span of the recording lies after resampling.

        Raises:
            ValueError: If no single piece holds the span.
        """
        return _locate(start, stop, self.pieces_before, self.pieces, self.sfreq_hz / self.sfreq_before_hz)


def clean_recording(
    eeg_uv: npt.NDArray[np.floating[Any]],
    pieces: Sequence[tuple[int, int]],
    channels: Sequence[str],
    sfreq_hz: float,
    settings: SignalSettings,
    *,
    stages_done: Collection[str] = frozenset(),
    resample_hz: float | None = None,
    repair: Repair | None = None,
) -> Cleaned:
    """Band-pass, resample, repair, re-reference and remove ocular and muscle components of one recording.

    Each piece loses its mean per electrode and is filtered by itself (zero-phase FIR, Hamming window, edges mirrored as
    in mne.filter.filter_data), so nothing leaks from piece to piece. Where the Nyquist frequency does not reach the end
    of the upper transition, the filter is a high-pass. Bad electrodes are interpolated before the average over all
    electrodes given, which one of them would spoil; ICA is fitted on a decimated copy high-passed at 1 Hz, without
    rejected stretches, and applied to this signal, which stays average-referenced, since every component is. Of a long
    recording the copy holds sections spread evenly over it. ``eeg_uv`` is not modified; beyond it the filtered
    recording is held once, and while ICA runs some four times the size of its copy.

    Args:
        eeg_uv: (C, T), microvolt.
        pieces: (start, stop) of the stretches continuous in time; in order, they cover 0..T without gap.
        channels: C electrode names.
        sfreq_hz: Sampling rate.
        settings: Stages and their parameters.
        stages_done: What the owner did before publishing, out of ``STAGES``. Kinds of components removed then are not
            searched for again. The filter and the reference are repeated, whatever was done: owners' bands differ from
            ours, and a second average reference changes nothing.
        resample_hz: The rate wanted, or None to keep the rate.
        repair: What to interpolate and to leave out of the fit; None: nothing. It must not be hopeless.

    Returns:
        The cleaned signal, its pieces and a report.

    Raises:
        ValueError: If shapes, pieces, names or stages do not fit, or a value is not finite.
    """
    names = canonical_names(channels)
    spans = tuple((int(start), int(stop)) for start, stop in pieces)
    _check(eeg_uv, spans, names, sfreq_hz, stages_done, resample_hz)
    new_hz = float(sfreq_hz if resample_hz is None else resample_hz)

    stages: list[str] = []
    notes: list[str] = []
    low_hz, high_hz = settings.pass_band_hz(sfreq_hz) if settings.band_pass else (None, None)
    if low_hz is not None:
        stages.append("band_pass" if high_hz is not None else "high_pass")
        n_short = sum(stop - start < _taps_s(low_hz) * sfreq_hz for start, stop in spans)
        if n_short:
            notes.append(f"{n_short} of {len(spans)} pieces are shorter than the filter's {_taps_s(low_hz):.1f} s")
    if new_hz != sfreq_hz:
        stages.append("resample")

    lengths = [max(round(new_hz / sfreq_hz * (stop - start)), 1) for start, stop in spans]
    bounds = np.cumsum([0, *lengths])
    new_spans = tuple((int(start), int(stop)) for start, stop in itertools.pairwise(bounds))
    cleaned_uv = np.empty((len(names), int(bounds[-1])))
    for (start, stop), (new_start, new_stop) in zip(spans, new_spans, strict=True):
        for rows in _row_blocks(len(names), stop - start):
            part_uv = eeg_uv[rows, start:stop].astype(np.float64)
            if low_hz is not None:
                # The stop band is 53 dB down, too little for offsets of millivolts; short pieces see part of it only.
                part_uv -= part_uv.mean(axis=1, keepdims=True)
                part_uv = mne.filter.filter_data(
                    part_uv,
                    sfreq_hz,
                    low_hz,
                    high_hz,
                    h_trans_bandwidth=settings.top_transition_hz,
                    copy=False,
                    verbose="error",
                )
            if new_hz != sfreq_hz:
                part_uv = mne.filter.resample(part_uv, up=new_hz, down=sfreq_hz, verbose="error")
            cleaned_uv[rows, new_start:new_stop] = part_uv

    fit_spans = new_spans
    n_interpolated = 0
    if repair is not None:
        assert repair.hopeless is None
        fit_spans = _repair(cleaned_uv, repair, names, spans, new_spans, new_hz / sfreq_hz)
        n_interpolated = int(repair.interpolated.all(axis=1).sum())
        if repair.interpolated.any():
            stages.append("interpolate")

    if settings.reference == "average":
        cleaned_uv -= cleaned_uv.mean(axis=0)
        stages.append("average_reference")

    n_components: int | None = None
    removed: tuple[RemovedComponent, ...] = ()
    kinds = _kinds_sought(settings.ica, stages_done)
    if kinds:
        n_components, removed, ica_notes = _remove_artefacts(
            cleaned_uv, fit_spans, names, new_hz, settings.ica, kinds, rank=len(names) - 1 - n_interpolated
        )
        notes.extend(ica_notes)
        if n_components is not None:
            stages.append("ica")
    elif settings.ica.enabled:
        notes.append("ICA skipped: the owner removed the artefacts already")

    return Cleaned(
        eeg_uv=cleaned_uv,
        pieces=new_spans,
        sfreq_hz=new_hz,
        report=CleaningReport(tuple(stages), n_components, removed, tuple(notes)),
        pieces_before=spans,
        sfreq_before_hz=float(sfreq_hz),
    )


def _locate(start: int, stop: int, before: Sequence[Span], after: Sequence[Span], ratio: float) -> Span:
    for (old_start, old_stop), (new_start, new_stop) in zip(before, after, strict=True):
        if old_start <= start <= stop <= old_stop:
            first, last = (min(new_start + round((at - old_start) * ratio), new_stop) for at in (start, stop))
            return first, last
    raise ValueError(f"span {start}..{stop} is not inside one piece of {list(before)}")


def _repair(
    eeg_uv: npt.NDArray[np.float64],
    repair: Repair,
    names: tuple[str, ...],
    before: tuple[Span, ...],
    after: tuple[Span, ...],
    ratio: float,
) -> tuple[Span, ...]:
    """Interpolate electrodes in place; returns what is left for a fit when rejected stretches are taken out."""
    good: list[Span] = []
    ends = {stop for _, stop in after}
    for stretch in repair.stretches:
        start, stop = _locate(stretch.start, stretch.stop, before, after, ratio)
        if stretch.interpolated:
            bad = list(stretch.interpolated)
            others = [row for row in range(len(names)) if row not in stretch.interpolated]
            weights = spline_weights(tuple(names[row] for row in others), tuple(names[row] for row in bad))
            chunk = max(1, SAMPLES_FILTERED_AT_ONCE // len(names))
            for first in range(start, stop, chunk):
                part = slice(first, min(first + chunk, stop))
                eeg_uv[bad, part] = weights @ eeg_uv[others, part]
        if stretch.rejected or start == stop:
            continue
        if good and good[-1][1] == start and start not in ends:
            good[-1] = (good[-1][0], stop)
        else:
            good.append((start, stop))
    return tuple(good)


def _check(
    eeg_uv: npt.NDArray[np.floating[Any]],
    spans: tuple[tuple[int, int], ...],
    names: tuple[str, ...],
    sfreq_hz: float,
    stages_done: Collection[str],
    resample_hz: float | None,
) -> None:
    if eeg_uv.ndim != 2 or eeg_uv.shape[0] != len(names):
        raise ValueError(f"eeg_uv has shape {eeg_uv.shape} for {len(names)} channels: it must be (C, T)")
    if not spans or any(start >= stop for start, stop in spans):
        raise ValueError(f"pieces {list(spans)} must be one or more (start, stop) with start < stop")
    edges = [0, *(stop for _, stop in spans)]
    if edges[-1] != eeg_uv.shape[1] or any(start != edge for (start, _), edge in zip(spans, edges, strict=False)):
        raise ValueError(f"pieces {list(spans)} must cover 0..{eeg_uv.shape[1]} in order, without gap or overlap")
    if unknown := set(stages_done) - STAGES:
        raise ValueError(f"stages_done holds {sorted(unknown)}: known stages are {sorted(STAGES)}")
    for word, rate_hz in (("sfreq_hz", sfreq_hz), ("resample_hz", resample_hz)):
        if rate_hz is not None and not (math.isfinite(rate_hz) and rate_hz > 0):
            raise ValueError(f"{word} is {rate_hz}: it must be a positive number")
    for name, row in zip(names, eeg_uv, strict=True):
        if not np.isfinite(row).all():
            raise ValueError(f"electrode {name} holds a value that is not finite: repair or skip this recording")


def _taps_s(low_hz: float) -> float:
    """Length of the FIR filter, set by its narrower, lower transition (3.3 over its width, Hamming)."""
    return 3.3 / min(max(0.25 * low_hz, 2.0), low_hz)


def _kinds_sought(ica: IcaSettings, stages_done: Collection[str]) -> tuple[Artefact, ...]:
    wanted: tuple[tuple[Artefact, bool], ...] = (("ocular", ica.ocular), ("muscle", ica.muscle))
    return tuple(kind for kind, sought in wanted if ica.enabled and sought and kind not in stages_done)


def _remove_artefacts(
    eeg_uv: npt.NDArray[np.float64],
    spans: tuple[tuple[int, int], ...],
    names: tuple[str, ...],
    sfreq_hz: float,
    settings: IcaSettings,
    kinds: tuple[Artefact, ...],
    rank: int,
) -> tuple[int | None, tuple[RemovedComponent, ...], list[str]]:
    """Fit ICA once, on ``spans``, and take the components found out of the whole of ``eeg_uv``, in place."""
    if len(names) < FEWEST_ELECTRODES:
        return None, (), [f"ICA skipped: {len(names)} electrodes, fewer than {FEWEST_ELECTRODES}"]
    step = max(1, math.floor(sfreq_hz / settings.fit_hz))
    fit_hz = sfreq_hz / step
    n_components = None if settings.n_components is None else min(settings.n_components, rank)
    # A fixed number of components unmixes that many principal components, whatever the number of electrodes.
    n_needed = SAMPLES_PER_SQUARED_SIGNAL * (n_components or len(names)) ** 2
    n_samples = sum(stop - start for start, stop in spans) // step
    if n_samples < n_needed:
        return None, (), [f"ICA skipped: {n_samples} samples, {n_needed} needed at {fit_hz:g} Hz"]

    n_wanted = round(settings.fit_minutes * 60 * settings.fit_hz)
    raw = _fit_copy(eeg_uv, spans, names, sfreq_hz, step, settings.high_pass_hz, n_wanted)
    ica = mne.preprocessing.ICA(
        n_components=n_components or settings.variance,
        method=settings.method,
        # Extended, not orthogonal: sub-Gaussian sources such as alpha are separated too.
        fit_params={"ortho": False, "extended": True} if settings.method == "picard" else None,
        max_iter=MOST_ITERATIONS,
        random_state=settings.seed,
        verbose="error",
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say of convergence goes into the notes below
            ica.fit(raw, picks="eeg", verbose="error")
    except (RuntimeError, ValueError, np.linalg.LinAlgError) as error:
        return None, (), [f"ICA skipped: it could not be fitted ({str(error).splitlines()[0]})"]
    notes = [f"ICA did not converge in {MOST_ITERATIONS} iterations"] if ica.n_iter_ >= MOST_ITERATIONS else []

    found: dict[int, RemovedComponent] = {}
    if "ocular" in kinds:
        if "eog" in raw:
            for index, score in _ocular(ica, raw, settings.ocular_correlation):
                found[index] = RemovedComponent(index, "ocular", score)
        else:
            notes.append("ocular components not searched for: no frontal pair of electrodes")
    if "muscle" in kinds:
        for index, score in _muscle(ica, raw, settings.muscle_score):
            found.setdefault(index, RemovedComponent(index, "muscle", score))
    if found:
        _apply(ica, eeg_uv, names, sfreq_hz, sorted(found))
    return int(ica.n_components_), tuple(found[index] for index in sorted(found)), notes


def _fit_copy(
    eeg_uv: npt.NDArray[np.float64],
    spans: tuple[tuple[int, int], ...],
    names: tuple[str, ...],
    sfreq_hz: float,
    step: int,
    high_pass_hz: float,
    n_wanted: int,
) -> mne.io.RawArray:
    """Each piece high-passed and decimated, with the eye movements the frontal electrodes show as further channels.

    Where that is more than ``n_wanted`` samples, sections of each piece are kept, spread evenly over the recording.
    """
    nyquist_hz = sfreq_hz / step / 2
    top = {"h_freq": 0.9 * nyquist_hz, "h_trans_bandwidth": 0.1 * nyquist_hz} if step > 1 else {"h_freq": None}
    pairs = []
    for eye_name, candidates, sign in (("vertical", VERTICAL_PAIRS, 1), ("horizontal", HORIZONTAL_PAIRS, -1)):
        pair = next((pair for pair in candidates if set(pair) <= set(names)), None)
        if pair is not None:
            pairs.append((eye_name, names.index(pair[0]), names.index(pair[1]), sign))

    sections = _spread_sections([len(range(start, stop, step)) for start, stop in spans], sfreq_hz / step, n_wanted)
    copy_v = np.empty((len(names) + len(pairs), sum(stop - start for kept in sections for start, stop in kept)))
    end = 0
    for (start, stop), kept in zip(spans, sections, strict=True):
        if not kept:
            continue
        columns = np.concatenate([np.arange(first, last) for first, last in kept])
        begin, end = end, end + len(columns)
        for rows in _row_blocks(len(names), stop - start):
            part_uv = mne.filter.filter_data(eeg_uv[rows, start:stop], sfreq_hz, high_pass_hz, verbose="error", **top)
            copy_v[rows, begin:end] = part_uv[:, columns * step] * 1e-6
    for row, (_, left, right, sign) in enumerate(pairs, start=len(names)):
        copy_v[row] = (copy_v[left] + sign * copy_v[right]) / 2
    return _to_raw(copy_v, names, sfreq_hz / step, eye_names=[pair[0] for pair in pairs])


def _spread_sections(lengths: Sequence[int], sfreq_hz: float, n_wanted: int) -> list[list[tuple[int, int]]]:
    """Of pieces of these lengths, the (start, stop) to keep in each: everything, or at most ``n_wanted`` samples."""
    bounds = [
        np.linspace(0, length, max(1, math.ceil(length / (SECTION_S * sfreq_hz))) + 1).round().astype(int).tolist()
        for length in lengths
    ]
    sections = [(piece, pair) for piece, edges in enumerate(bounds) for pair in itertools.pairwise(edges)]
    if sum(lengths) > n_wanted:
        n_kept = max(1, math.floor(len(sections) * n_wanted / sum(lengths)))
        sections = [sections[index] for index in np.linspace(0, len(sections) - 1, n_kept).round().astype(int)]
    return [[pair for owner, pair in sections if owner == piece] for piece in range(len(lengths))]


def _row_blocks(n_rows: int, n_samples: int) -> list[slice]:
    """All electrodes, in blocks of which the filter's own copies stay small beside a long recording."""
    n_block = max(1, SAMPLES_FILTERED_AT_ONCE // n_samples)
    return [slice(first, min(first + n_block, n_rows)) for first in range(0, n_rows, n_block)]


def _to_raw(
    data_v: npt.NDArray[np.float64], names: tuple[str, ...], sfreq_hz: float, eye_names: Sequence[str] = ()
) -> mne.io.RawArray:
    """An MNE recording of electrodes and eye channels, with places if the cap is large enough to use them."""
    info = mne.create_info([*names, *eye_names], sfreq_hz, ["eeg"] * len(names) + ["eog"] * len(eye_names))
    raw = mne.io.RawArray(data_v, info, verbose="error")
    if len(names) >= FEWEST_ELECTRODES_FOR_TOPOGRAPHY:
        places = dict(zip(names, HEAD_RADIUS_M * positions(names), strict=True))
        raw.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"), verbose="error")
    return raw


def _ocular(ica: mne.preprocessing.ICA, raw: mne.io.RawArray, correlation: float) -> list[tuple[int, float]]:
    found, scores = ica.find_bads_eog(raw, measure="correlation", threshold=correlation, verbose="error")
    strongest = np.abs(np.atleast_2d(scores)).max(axis=0)
    return [(int(index), float(strongest[index])) for index in found]


def _muscle(ica: mne.preprocessing.ICA, raw: mne.io.RawArray, threshold: float) -> list[tuple[int, float]]:
    top_hz = min(45.0, 0.9 * raw.info["sfreq"] / 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # small caps are given no places, on purpose
        found, scores = ica.find_bads_muscle(
            raw, threshold=threshold, h_freq=top_hz, sphere=HEAD_RADIUS_M, verbose="error"
        )
    return [(int(index), float(scores[index])) for index in found]


def _apply(
    ica: mne.preprocessing.ICA, eeg_uv: npt.NDArray[np.float64], names: tuple[str, ...], sfreq_hz: float, out: list[int]
) -> None:
    """Take components ``out`` from ``eeg_uv``, in place and in chunks: removal is linear and has no memory in time."""
    chunk = max(1, int(CHUNK_S * sfreq_hz))
    for start in range(0, eeg_uv.shape[1], chunk):
        raw = _to_raw(eeg_uv[:, start : start + chunk] * 1e-6, names, sfreq_hz)
        eeg_uv[:, start : start + chunk] = ica.apply(raw, exclude=out, verbose="error").get_data() * 1e6
