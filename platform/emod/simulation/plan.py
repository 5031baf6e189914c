"""What a simulated recording is to contain, and who can make one.

A reader's ``simulate`` describes each recording of its corpus as a `RecordingPlan`, asks a `SignalSource` for the
microvolts and writes them in its owner's layout. Nothing here makes a signal or touches a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Passage", "RecordingPlan", "SignalSource", "passage_samples", "piece_samples"]


@dataclass(frozen=True)
class Passage:
    """A stretch of time in which the subject's state does not change: one stimulus, one baseline, one rest.

    Attributes:
        duration_s: Length, > 0.
        trial: Name of the trial it belongs to, or None between trials. A baseline carries its trial's name.
        stimulus: Name of the clip, or None at rest.
        valence: State on the plane, in [-4, 4]; None at rest. A stimulus whose rating the owner lost still has one:
            the brain was somewhere.
        arousal: As ``valence``; both are given or neither is.

    Raises:
        ValueError: If the duration is not positive, only one coordinate is given, or one is off the plane.
    """

    duration_s: float
    trial: str | None = None
    stimulus: str | None = None
    valence: float | None = None
    arousal: float | None = None

    def __post_init__(self) -> None:
        """Refuse a passage that means nothing."""
        if not self.duration_s > 0:
            raise ValueError(f"passage of trial {self.trial}: duration_s is {self.duration_s}; give a positive length")
        if (self.valence is None) != (self.arousal is None):
            raise ValueError(f"passage of trial {self.trial}: give valence and arousal together, or neither (rest)")
        for name, value in (("valence", self.valence), ("arousal", self.arousal)):
            if value is not None and not -4.0 <= value <= 4.0:
                raise ValueError(f"passage of trial {self.trial}: {name} is {value}; the plane is [-4, 4]")

    @property
    def rest(self) -> bool:
        """True for baseline, lead-in and rest: no emotion is being evoked."""
        return self.valence is None


@dataclass(frozen=True)
class RecordingPlan:
    """One session of one subject as it is to be stored.

    Attributes:
        corpus: Lower-case corpus name. The same subject number in two corpora is two people.
        subject: As the reader will report it.
        session: As the reader will report it.
        channels: Canonical EEG electrode names in file order.
        sfreq_hz: Sampling rate of the stored signal.
        mains_hz: Mains frequency of the country of recording, 50 or 60.
        pieces: Stretches continuous in time, each a run of passages; between two pieces time is lost.
        artefacts: False for a corpus cleaned by its owner: no blinks, muscle, mains or drift.
        band_hz: Band the owner left in the signal, or None for everything up to the recorder's limit.
        average_reference: True if the owner re-referenced to the average of all stored electrodes.
    """

    corpus: str
    subject: str
    session: str
    channels: tuple[str, ...]
    sfreq_hz: float
    mains_hz: float
    pieces: tuple[tuple[Passage, ...], ...]
    artefacts: bool = True
    band_hz: tuple[float, float] | None = None
    average_reference: bool = False


class SignalSource(Protocol):
    """Whatever can fill a `RecordingPlan` with microvolts."""

    def record(self, plan: RecordingPlan) -> list[npt.NDArray[np.float64]]:
        """One (C, T) microvolt array per piece, T = `piece_samples`, rows in the order of ``plan.channels``."""
        ...


def passage_samples(passage: Passage, sfreq_hz: float) -> int:
    """Number of samples of one passage, rounded to the nearest."""
    return round(passage.duration_s * sfreq_hz)


def piece_samples(piece: Sequence[Passage], sfreq_hz: float) -> int:
    """Number of samples of one piece: the sum over its passages, each rounded on its own."""
    return sum(passage_samples(passage, sfreq_hz) for passage in piece)
