"""One recording -> cleaned, normalised windows with their metadata. It writes nothing and knows no Ray."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from emod.affect import va_region
from emod.catalog import CorpusCatalog, SignalSettings
from emod.corpora import Problem, Recording, TrialSpan
from emod.corpora.amplitude import doubt_amplitude
from emod.signal import FLAT_SCALE_UV, normalise, window_length, window_starts
from emod.signal.clean import Cleaned, clean_recording
from emod.signal.quality import (
    RANGE_PERCENTILES,
    Repair,
    Spectrum,
    inspect_recording,
    line_left_db,
    line_noise_db,
    measure_spectrum,
    plan_repair,
    spectrum_db,
)

__all__ = ["RecordingWindows", "make_windows"]


@dataclass(frozen=True)
class RecordingWindows:
    """The windows of one recording, ready for a part file.

    Attributes:
        windows: (n, C, T) float16, normalised.
        rows: n metadata rows (columns of ``emod.shards.METADATA``).
        problems: Trials and windows that could not be used.
        cleaning: What the stages did, for people.
        quality: What the recording is like, for people; JSON. ``electrodes``: for ``flat``, ``noisy`` and
            ``interpolated`` electrode -> share of the seconds, for ``saturated`` of the samples. ``line_noise_db``:
            median electrode before and after, and the loudest one (null where the rate does not reach mains).
            ``range_uv`` and ``spectrum_db``: before and after (null where nothing is two seconds long).
            ``components``: fitted, and removed with their scores. ``windows``: kept, and rejected by code.
            ``clipped_share``: of the windows kept. ``seconds``: as stored.
    """

    windows: npt.NDArray[np.float16]
    rows: list[dict[str, Any]]
    problems: tuple[Problem, ...]
    cleaning: dict[str, Any]
    quality: dict[str, Any]


def make_windows(recording: Recording, catalog: CorpusCatalog, settings: SignalSettings) -> RecordingWindows:
    """Cleans a recording as a whole, cuts its trials into windows and normalises each.

    A trial shorter than a window and the windows of a trial that are flat, or that ``settings.quality`` rejects, are
    listed as problems, not stored. A recording that it rejects is not cleaned. Amplitudes that are no microvolts are
    listed too: what quality rejects then has a cause.
    """
    if (odd := doubt_amplitude(recording)) is not None:
        recording = replace(recording, problems=(*recording.problems, odd))
    channels, source, subject = recording.channels, recording.source, recording.subject
    inspection = inspect_recording(recording.eeg_uv, recording.pieces, channels, recording.sfreq_hz, settings.quality)
    repair = plan_repair(inspection, channels, catalog.mains_hz, settings.quality)
    if repair.hopeless is not None:
        return _reject_recording(recording, catalog, settings, repair, *repair.hopeless)
    cleaned = clean_recording(
        recording.eeg_uv,
        recording.pieces,
        channels,
        recording.sfreq_hz,
        settings,
        stages_done=catalog.stages_done,
        resample_hz=None if catalog.ingest_hz == recording.sfreq_hz else catalog.ingest_hz,
        repair=repair,
    )
    length = window_length(settings.window_s, cleaned.sfreq_hz)
    stored_per_sample = cleaned.sfreq_before_hz / cleaned.sfreq_hz
    problems = list(recording.problems)
    windows: list[npt.NDArray[np.float16]] = []
    rows: list[dict[str, Any]] = []
    rejected: Counter[str] = Counter()
    for span in recording.spans:
        start, stop = cleaned.locate(span.start, span.stop)
        starts = window_starts(start, stop, length)
        if not starts:
            seconds = (stop - start) / cleaned.sfreq_hz
            message = (
                f"{seconds:.2f} s hold no window of {settings.window_s:g} s; to use it: --set signal.window_s=SECONDS"
            )
            problems.append(Problem(source, subject, span.trial, "short", message))
        left_out: dict[str, list[float]] = {}
        for index, first in enumerate(starts):
            window_uv = cleaned.eeg_uv[:, first : first + length]
            window, scale = normalise(window_uv, settings.clip)
            start_s = (first - start) / cleaned.sfreq_hz
            stored = span.start + round((first - start) * stored_per_sample)
            too_bad, n_interpolated, saturated_share = repair.look_at(
                stored, min(stored + round(length * stored_per_sample), span.stop)
            )
            peak_uv = max(float(window_uv.max()), -float(window_uv.min()))
            beyond = peak_uv > settings.clip * scale
            measured = {
                "scale_uv": float(scale),
                "peak_uv": peak_uv,
                "clipped_share": float((np.abs(window) >= settings.clip).mean()) if beyond else 0.0,
                "saturated_share": saturated_share,
                "n_interpolated": n_interpolated,
            }
            if (code := _fault(measured, settings, too_bad=too_bad)) is not None:
                left_out.setdefault(code, []).append(start_s)
                continue
            windows.append(window.astype(np.float16))
            rows.append(_row(recording, catalog, span, index, start_s) | measured)
        for code, at_s in left_out.items():
            rejected[code] += len(at_s)
            seconds_words = ", ".join(f"{second:g}" for second in at_s[:5]) + (", ..." if len(at_s) > 5 else "")
            message = f"{len(at_s)} of {len(starts)} windows, at {seconds_words} s: {_why(code, settings)}"
            problems.append(Problem(source, subject, span.trial, code, message))
    return RecordingWindows(
        windows=np.stack(windows) if windows else np.empty((0, len(channels), length), dtype=np.float16),
        rows=rows,
        problems=tuple(problems),
        cleaning={
            "stages": list(cleaned.report.stages),
            "notes": list(cleaned.report.notes),
            "removed": dict(Counter(component.kind for component in cleaned.report.removed)),
        },
        quality=_describe(recording, catalog, repair, cleaned)
        | {
            "windows": {"kept": len(rows), "rejected": dict(rejected)},
            "clipped_share": float(np.mean([row["clipped_share"] for row in rows])) if rows else 0.0,
        },
    )


def _row(recording: Recording, catalog: CorpusCatalog, span: TrialSpan, index: int, start_s: float) -> dict[str, Any]:
    """The metadata of a window, but for what was measured in it."""
    return {
        "window_id": "/".join((recording.corpus, recording.subject, recording.session, span.trial, str(index))),
        "corpus": recording.corpus,
        "subject": recording.subject,
        "session": recording.session,
        "trial": span.trial,
        "stimulus": span.stimulus,
        "start_s": start_s,
        "valence": span.valence,
        "arousal": span.arousal,
        "rating_valence": None if span.rating is None else span.rating["valence"],
        "rating_arousal": None if span.rating is None else span.rating["arousal"],
        "emotion": span.emotion,
        "label_kind": catalog.label_kind,
        "va_region": int(va_region(span.valence, span.arousal)),
        "source": recording.source,
    }


def _fault(measured: dict[str, Any], settings: SignalSettings, *, too_bad: bool) -> str | None:
    """Code of what makes a window useless, or None."""
    quality = settings.quality
    if measured["scale_uv"] < FLAT_SCALE_UV:
        return "flat"
    if too_bad:
        return "bad_electrodes"
    if quality.saturated == "reject" and measured["saturated_share"] > quality.saturated_share:
        return "saturated"
    if quality.gross == "reject" and measured["peak_uv"] > quality.peak_uv:
        return "gross"
    if quality.clipped == "reject" and measured["clipped_share"] > quality.clipped_share:
        return "clipped"
    return None


def _why(code: str, settings: SignalSettings) -> str:
    """What is wrong with a rejected window or recording, and the cure."""
    quality = settings.quality
    return {
        "flat": "flat after cleaning; check the electrodes",
        "bad_electrodes": f"more than {quality.most_interpolated:.0%} of the electrodes are flat or noisy there; "
        "check the cap, or raise the share: --set signal.quality.most_interpolated=SHARE",
        "saturated": f"more than {quality.saturated_share:.1%} of the samples lie at the recorder's rail; lower the "
        "recorder's gain, or use them: --set signal.quality.saturated=keep",
        "gross": f"above {quality.peak_uv:g} uV after cleaning; look at the trial, or raise the "
        "limit: --set signal.quality.peak_uv=MICROVOLT",
        "clipped": f"more than {quality.clipped_share:.1%} of the values exceed {settings.clip:g} robust scales; look "
        "at the trial, or use them: --set signal.quality.clipped=keep",
        "line_noise": "record away from mains, or use it: --set signal.quality.line_noise=keep",
    }[code]


def _reject_recording(
    recording: Recording, catalog: CorpusCatalog, settings: SignalSettings, repair: Repair, code: str, what: str
) -> RecordingWindows:
    stored_length = settings.window_s * recording.sfreq_hz
    n_windows = sum(int((span.stop - span.start) / stored_length) for span in recording.spans)
    message = f"none of its {n_windows} windows is used: {what}; {_why(code, settings).rpartition('; ')[2]}"
    shape = (0, len(recording.channels), window_length(settings.window_s, catalog.ingest_hz))
    return RecordingWindows(
        windows=np.empty(shape, dtype=np.float16),
        rows=[],
        problems=(*recording.problems, Problem(recording.source, recording.subject, None, code, message)),
        cleaning={"stages": [], "notes": ["not cleaned: the recording was rejected"], "removed": {}},
        quality=_describe(recording, catalog, repair, None)
        | {"windows": {"kept": 0, "rejected": {code: n_windows}}, "clipped_share": 0.0},
    )


def _describe(recording: Recording, catalog: CorpusCatalog, repair: Repair, cleaned: Cleaned | None) -> dict[str, Any]:
    """What `RecordingWindows.quality` says of the recording, but for its windows."""
    channels = recording.channels
    inspection = repair.inspection
    lengths = inspection.blocks[:, 1] - inspection.blocks[:, 0]
    seconds = lengths.sum() / recording.sfreq_hz
    shares = {
        "flat": inspection.flat @ lengths / lengths.sum(),
        "noisy": inspection.noisy @ lengths / lengths.sum(),
        "interpolated": repair.interpolated @ lengths / lengths.sum(),
        "saturated": inspection.rails.sum(axis=1) / lengths.sum(),
    }
    before = inspection.spectrum
    after = None if cleaned is None else measure_spectrum(cleaned.eeg_uv, cleaned.pieces, cleaned.sfreq_hz)
    return {
        "seconds": round(float(seconds), 2),
        "electrodes": {
            what: {name: round(float(share), 6) for name, share in zip(channels, values, strict=True) if share > 0}
            for what, values in shares.items()
        },
        "line_noise_db": _line_noise(before, after, channels, catalog.mains_hz),
        "range_uv": {
            "percentiles": list(RANGE_PERCENTILES),
            "before": None if before is None else before.range_uv.round(2).tolist(),
            "after": None if after is None else after.range_uv.round(2).tolist(),
        },
        "spectrum_db": {
            "before": _spectrum(before, channels),
            "after": _spectrum(after, channels),
        },
        "components": {
            "fitted": None if cleaned is None else cleaned.report.n_components,
            "removed": []
            if cleaned is None
            else [{"kind": one.kind, "score": round(one.score, 3)} for one in cleaned.report.removed],
        },
    }


def _line_noise(
    before: Spectrum | None, after: Spectrum | None, channels: tuple[str, ...], mains_hz: float
) -> dict[str, Any] | None:
    found = None if before is None else line_noise_db(before, mains_hz)
    if found is None:
        return None
    left = None if after is None else line_left_db(after, mains_hz)
    return {
        "before": round(float(np.median(found)), 2),
        "after": None if left is None else round(float(np.median(left)), 2),
        "loudest": channels[int(found.argmax())],
        "loudest_db": round(float(found.max()), 2),
    }


def _spectrum(spectrum: Spectrum | None, channels: tuple[str, ...]) -> dict[str, list[float]] | None:
    if spectrum is None:
        return None
    hz, levels = spectrum_db(spectrum, channels)
    return {"hz": hz.tolist(), **{name: level.round(1).tolist() for name, level in levels.items()}}
