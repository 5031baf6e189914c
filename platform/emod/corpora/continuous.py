"""Recordings stored without cuts: marks where trials lie in the signal and leaves the rest of it in place.

It knows no file format, and cleans nothing: a trial with constant electrodes is kept and reported, as in
``cut_trials``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emod.corpora.contract import Corpus, CorpusError, Eeg, Problem, Recording, RecordingRef, TrialSpan
from emod.corpora.flat_electrodes import NO_SIGNAL, constant_rows, report_flat

__all__ = ["TrialMark", "mark_trials"]


@dataclass(frozen=True)
class TrialMark:
    """Where one trial lies in a recording, and its label.

    Attributes:
        trial: Trial id within the session.
        stimulus: The clip.
        start: First sample of the stimulus.
        stop: One past its last sample.
        baseline: Span of the rest before it, or None.
        rating: On the corpus' scale, or None.
        emotion: The corpus' word, or None; one of the two is given.
    """

    trial: str
    stimulus: str
    start: int
    stop: int
    baseline: tuple[int, int] | None = None
    rating: Mapping[str, float] | None = None
    emotion: str | None = None


def mark_trials(
    corpus: Corpus, ref: RecordingRef, eeg_uv: Eeg, marks: Sequence[TrialMark], problems: Sequence[Problem]
) -> Recording:
    """A recording with those of its trials that can be used, in the order given.

    Args:
        corpus: Whose scale, words, electrodes and rate hold.
        ref: The recording.
        eeg_uv: (C, T) microvolt as stored, one continuous stretch. Values that are not finite are set to 0, in place:
            a trial that holds one is left out, and a filter must not spread it over the others.
        marks: Its trials.
        problems: Found so far; the recording gets these and the ones found here.

    Raises:
        CorpusError: If no trial can be used.
    """
    problems = list(problems)
    finite = np.ones(eeg_uv.shape[1], bool)
    for row in eeg_uv:
        finite &= np.isfinite(row)
    spans: list[TrialSpan] = []
    flat: dict[str, list[int]] = {}
    for mark in marks:
        try:
            place = (
                corpus.place_emotion(mark.emotion or "") if mark.rating is None else corpus.place_rating(mark.rating)
            )
        except ValueError as error:
            problems.append(ref.problem("label", f"{error}; correct the label or copy it again", mark.trial))
            continue
        begin = mark.start if mark.baseline is None else min(mark.start, mark.baseline[0])
        if not 0 <= begin < mark.stop <= eeg_uv.shape[1] or mark.start >= mark.stop:
            message = f"samples {begin}..{mark.stop} of {eeg_uv.shape[1]} stored; copy the owner's object again"
            problems.append(ref.problem("shape", message, mark.trial))
            continue
        if lost := int(np.count_nonzero(~finite[begin : mark.stop])):
            message = f"{lost} samples are NaN or infinite; copy the owner's object again"
            problems.append(ref.problem("not_finite", message, mark.trial))
            continue
        rows = constant_rows(eeg_uv[:, begin : mark.stop])
        if len(rows) == len(eeg_uv):
            problems.append(ref.problem("flat", f"{NO_SIGNAL}; copy the owner's object again", mark.trial))
            continue
        if rows:
            flat[mark.trial] = rows
        label = (mark.rating, mark.emotion, *place)
        spans.append(TrialSpan(mark.trial, mark.stimulus, mark.start, mark.stop, mark.baseline, *label))
    problems += report_flat(ref, corpus.channels, flat)
    if not spans:
        raise CorpusError(*(problems or [ref.problem("missing", "it holds no trial; copy the owner's object again")]))
    if not finite.all():
        eeg_uv[:, ~finite] = np.nan_to_num(eeg_uv[:, ~finite], nan=0.0, posinf=0.0, neginf=0.0)
    return Recording(
        corpus=corpus.name,
        subject=ref.subject,
        session=ref.session,
        source=ref.source,
        eeg_uv=eeg_uv,
        channels=corpus.channels,
        sfreq_hz=corpus.catalog.sfreq_hz,
        pieces=((0, eeg_uv.shape[1]),),
        spans=tuple(spans),
        problems=tuple(problems),
    )
