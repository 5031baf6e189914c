"""One recording -> cleaned, normalised windows with their metadata. It writes nothing and knows no Ray."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from emod.affect import va_region
from emod.catalog import CorpusCatalog, SignalSettings
from emod.corpora import Problem, Recording
from emod.signal import FLAT_SCALE_UV, normalise, window_length, window_starts
from emod.signal.clean import clean_recording

__all__ = ["RecordingWindows", "make_windows"]


@dataclass(frozen=True)
class RecordingWindows:
    """The windows of one recording, ready for a part file.

    Attributes:
        windows: (n, C, T) float16, normalised.
        rows: n metadata rows (columns of ``emod.shards.METADATA``).
        problems: Trials and windows that could not be used.
        cleaning: What the stages did, for people.
    """

    windows: npt.NDArray[np.float16]
    rows: list[dict[str, Any]]
    problems: tuple[Problem, ...]
    cleaning: dict[str, Any]


def make_windows(recording: Recording, catalog: CorpusCatalog, settings: SignalSettings) -> RecordingWindows:
    """Cleans a recording as a whole, cuts its trials into windows and normalises each.

    A trial shorter than a window and a flat window are listed as problems, not stored.
    """
    cleaned = clean_recording(
        recording.eeg_uv,
        recording.pieces,
        recording.channels,
        recording.sfreq_hz,
        settings,
        stages_done=catalog.stages_done,
        resample_hz=None if catalog.ingest_hz == recording.sfreq_hz else catalog.ingest_hz,
    )
    length = window_length(settings.window_s, cleaned.sfreq_hz)
    problems = list(recording.problems)
    windows: list[npt.NDArray[np.float16]] = []
    rows: list[dict[str, Any]] = []
    for span in recording.spans:
        start, stop = cleaned.locate(span.start, span.stop)
        starts = window_starts(start, stop, length)
        if not starts:
            seconds = (stop - start) / cleaned.sfreq_hz
            message = f"{seconds:.2f} s hold no window of {settings.window_s:g} s; lower signal.window_s to use it"
            problems.append(Problem(recording.source, recording.subject, span.trial, "short", message))
        for index, first in enumerate(starts):
            window, scale = normalise(cleaned.eeg_uv[:, first : first + length], settings.clip)
            start_s = (first - start) / cleaned.sfreq_hz
            if scale < FLAT_SCALE_UV:
                message = f"the window at {start_s:g} s is flat after cleaning; check the electrodes"
                problems.append(Problem(recording.source, recording.subject, span.trial, "flat", message))
                continue
            windows.append(window.astype(np.float16))
            rows.append(
                {
                    "window_id": "/".join(
                        (recording.corpus, recording.subject, recording.session, span.trial, str(index))
                    ),
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
                    "scale_uv": float(scale),
                    "source": recording.source,
                }
            )
    shape = (len(windows), len(recording.channels), length)
    return RecordingWindows(
        windows=np.stack(windows) if windows else np.empty(shape, dtype=np.float16),
        rows=rows,
        problems=tuple(problems),
        cleaning={
            "stages": list(cleaned.report.stages),
            "notes": list(cleaned.report.notes),
            "removed": dict(Counter(component.kind for component in cleaned.report.removed)),
        },
    )
