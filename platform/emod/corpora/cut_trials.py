"""Recordings of corpora that ship cut trials: checks each trial and joins the good ones, one piece a trial.

It knows no file format, and cleans nothing: a trial with constant electrodes is kept and reported, since what to do
about an electrode is a setting of the run (``signal.quality``).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from emod.corpora.contract import Corpus, CorpusError, Eeg, Problem, Recording, RecordingRef, TrialSpan
from emod.corpora.flat_electrodes import NO_SIGNAL, constant_rows, report_flat

__all__ = ["CutTrial", "join_trials"]


@dataclass(frozen=True, eq=False)
class CutTrial:
    """One trial as its owner cut it.

    Attributes:
        trial: Trial id within the session.
        stimulus: The clip.
        eeg_uv: (C, T0 + T) microvolt as stored, EEG electrodes only.
        baseline_samples: T0; 0 where there is no baseline.
        rating: On the corpus' scale, or None.
        emotion: The corpus' word, or None; one of the two is given.
        tail_samples: Rest that follows the stimulus, part of ``eeg_uv``.
        source: URL of its object, where that is not the recording's.
    """

    trial: str
    stimulus: str
    eeg_uv: Eeg
    baseline_samples: int = 0
    rating: Mapping[str, float] | None = None
    emotion: str | None = None
    tail_samples: int = 0
    source: str | None = None


def join_trials(corpus: Corpus, ref: RecordingRef, trials: list[CutTrial], problems: list[Problem]) -> Recording:
    """A recording of the trials that can be used, in the order given.

    Args:
        corpus: Whose scale and words the labels use.
        ref: The recording.
        trials: Emptied while their samples are copied, so that a recording is not held twice.
        problems: Found so far; the recording gets these and the ones found here.

    Raises:
        CorpusError: If no trial can be used.
    """
    problems = list(problems)
    usable: list[tuple[CutTrial, tuple[float, float]]] = []
    flat: dict[str, list[int]] = {}
    while trials:
        cut = trials.pop(0)
        try:
            place = corpus.place_emotion(cut.emotion or "") if cut.rating is None else corpus.place_rating(cut.rating)
        except ValueError as error:
            problems.append(ref.problem("label", f"{error}; correct the label or copy it again", cut.trial))
            continue
        if fault := _signal_fault(cut.eeg_uv, corpus.channels):
            code, what = fault
            problems.append(ref.problem(code, f"{what}; copy the owner's object again", cut.trial))
            continue
        if rows := constant_rows(cut.eeg_uv):
            flat[cut.trial] = rows
        usable.append((cut, place))
    problems += report_flat(ref, corpus.channels, flat)
    if not usable:
        raise CorpusError(*(problems or [ref.problem("missing", "it holds no trial; copy the owner's object again")]))

    bounds = np.cumsum([0, *(cut.eeg_uv.shape[1] for cut, _ in usable)]).tolist()
    dtype = np.result_type(np.float32, *(cut.eeg_uv.dtype for cut, _ in usable))
    eeg_uv = np.empty((len(corpus.channels), bounds[-1]), dtype)
    spans = []
    for start, stop in itertools.pairwise(bounds):
        cut, (valence, arousal) = usable.pop(0)
        eeg_uv[:, start:stop] = cut.eeg_uv
        onset = start + cut.baseline_samples
        baseline = (start, onset) if cut.baseline_samples else None
        label = (cut.rating, cut.emotion, valence, arousal)
        spans.append(TrialSpan(cut.trial, cut.stimulus, onset, stop - cut.tail_samples, baseline, *label, cut.source))
    return Recording(
        corpus=corpus.name,
        subject=ref.subject,
        session=ref.session,
        source=ref.source,
        eeg_uv=eeg_uv,
        channels=corpus.channels,
        sfreq_hz=corpus.catalog.sfreq_hz,
        pieces=tuple(itertools.pairwise(bounds)),
        spans=tuple(spans),
        problems=tuple(problems),
    )


def _signal_fault(eeg_uv: Eeg, channels: tuple[str, ...]) -> tuple[str, str] | None:
    """(code, finding) of what makes a trial's signal useless, or None."""
    finite = np.isfinite(eeg_uv)
    if not finite.all():
        row, sample = np.argwhere(~finite)[0]
        lost = finite.size - np.count_nonzero(finite)
        return "not_finite", f"{lost} samples are NaN or infinite, the first at {channels[row]} sample {sample}"
    return ("flat", NO_SIGNAL) if len(constant_rows(eeg_uv)) == len(eeg_uv) else None
