"""The contract of every corpus: list its recordings, read one, cut it into trials, simulate it.

A recording is one session of one subject as stored. It is what filters and ICA act on; trials are cut from it.
A reader says what it found: what cannot be used becomes a `Problem`, never a silent gap. No cleaning happens here.
The simulating half plans recordings and writes them in the owner's layout; what they contain comes from a
`emod.simulation.SignalSource`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from emod.affect import place_emotion, place_rating
from emod.catalog import CorpusCatalog, load_corpus, load_emotion_words
from emod.catalog.experiment import SimulateSettings
from emod.corpora.marker import SimulatedMarker, read_marker, scaled_seconds
from emod.errors import DataError, RequestError
from emod.signal import canonical_names
from emod.simulation import Passage, RecordingPlan

__all__ = [
    "Corpus",
    "CorpusError",
    "Problem",
    "Recording",
    "RecordingHeader",
    "RecordingRef",
    "Trial",
    "TrialSpan",
]

Eeg = npt.NDArray[np.floating[Any]]


class CorpusError(DataError):
    """Something in a corpus cannot be used; raised at once where ``strict`` is set, listed elsewhere.

    Args:
        problem: What stands in the message.
        others: What else was found on the way, where one object has several problems.
    """

    def __init__(self, problem: Problem, *others: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem
        self.problems = (problem, *others)

    def __reduce__(self) -> tuple[type[CorpusError], tuple[Problem, ...]]:
        """Pickles with its problems: readers run in workers."""
        return type(self), self.problems


@dataclass(frozen=True)
class Problem:
    """One thing that was skipped or is doubtful, and why.

    Attributes:
        source: URL of the object.
        subject: The corpus' own subject id, or None where it is not known.
        trial: The trial, or None where the whole object is meant.
        code: A stable word for machines. Skipped: ``unreadable``, ``missing``, ``dtype``, ``shape``, ``label``,
            ``not_finite``, ``unexpected_object``, ``duplicate``. Kept, but look: ``flat`` (some electrodes),
            ``label_disagreement``, ``label_table``, ``length``, ``amplitude`` (no EEG in microvolt), ``layout`` (an
            alternative that the catalog calls uncertain), ``disputed`` (other tools leave it out). ``left_out``: the
            owner says not to use it. Ingest adds ``short`` and what quality settings reject: ``bad_electrodes``,
            ``saturated``, ``gross``, ``clipped``, ``line_noise``.
        message: One line for people, with the value found and the cure.
    """

    source: str
    subject: str | None
    trial: str | None
    code: str
    message: str

    @property
    def known(self) -> bool:
        """True where nothing is wrong with this copy: its owner published it so. ``strict`` does not stop at it."""
        return self.code in ("left_out", "disputed")

    def __str__(self) -> str:
        """One line: where, what, and the code."""
        where = [self.source, self.subject and f"subject {self.subject}", self.trial and f"trial {self.trial}"]
        return f"{', '.join(part for part in where if part)}: {self.message} [{self.code}]"


@dataclass(frozen=True)
class RecordingRef:
    """Where one recording lies: cheap to list, small to send to a worker.

    Attributes:
        corpus: Lower-case name.
        subject: The corpus' own subject id.
        session: Session id; "1" where a corpus has one.
        source: URL of the object that holds it, for people to read: never a participant's name.
        size_bytes: Size of the objects that hold it.
        objects: URLs of these objects, where they are several or ``source`` cannot be opened. They may hold a name:
            they stay out of shards, logs and messages.
    """

    corpus: str
    subject: str
    session: str
    source: str
    size_bytes: int
    objects: tuple[str, ...] = field(default=(), repr=False)

    @property
    def urls(self) -> tuple[str, ...]:
        """The objects to open."""
        return self.objects or (self.source,)

    @property
    def key(self) -> str:
        """Unique within its corpus, and fit for a file name."""
        return f"{self.subject}_{self.session}"

    def problem(self, code: str, message: str, trial: str | None = None) -> Problem:
        """A problem of this recording, or of one trial of it."""
        return Problem(self.source, self.subject, trial, code, message)


@dataclass(frozen=True)
class TrialSpan:
    """One trial inside a recording: sample spans, labels as given, labels on the plane.

    Attributes:
        trial: Trial id within the session, counted as the owner does.
        stimulus: The clip, shared by all subjects who saw it.
        start: First sample of the stimulus part.
        stop: One past its last sample.
        baseline: Span of the rest before it, or None.
        rating: {"valence": x, "arousal": y} on the corpus' own scale, or None.
        emotion: The corpus' own word in lower case, or None.
        valence: Plane coordinate in [-4, 4].
        arousal: Plane coordinate in [-4, 4].
        source: URL of its object, where that is not the recording's.
    """

    trial: str
    stimulus: str
    start: int
    stop: int
    baseline: tuple[int, int] | None
    rating: Mapping[str, float] | None
    emotion: str | None
    valence: float
    arousal: float
    source: str | None = None


@dataclass(frozen=True, eq=False)
class Recording:
    """One session of one subject, decoded.

    Attributes:
        eeg_uv: (C, T) microvolt as stored, EEG electrodes only.
        channels: (C,) canonical names.
        sfreq_hz: Rate as stored.
        pieces: Sample spans that are continuous in time and together cover ``eeg_uv``: one for a whole recording,
            one a trial for corpora that ship cut trials.
        spans: The trials that can be used.
        problems: The trials that cannot.
    """

    corpus: str
    subject: str
    session: str
    source: str
    eeg_uv: Eeg
    channels: tuple[str, ...]
    sfreq_hz: float
    pieces: tuple[tuple[int, int], ...]
    spans: tuple[TrialSpan, ...]
    problems: tuple[Problem, ...] = ()

    def cut(self, span: TrialSpan) -> Trial:
        """One of its trials; the samples are views, not copies."""
        return Trial(
            eeg_uv=self.eeg_uv[:, span.start : span.stop],
            baseline_uv=None if span.baseline is None else self.eeg_uv[:, slice(*span.baseline)],
            channels=self.channels,
            sfreq_hz=self.sfreq_hz,
            corpus=self.corpus,
            subject=self.subject,
            session=self.session,
            trial=span.trial,
            stimulus=span.stimulus,
            rating=span.rating,
            emotion=span.emotion,
            valence=span.valence,
            arousal=span.arousal,
            source=span.source or self.source,
        )


@dataclass(frozen=True)
class RecordingHeader:
    """What one recording says it holds, without its samples.

    Attributes:
        channels: EEG electrodes stored, also where their number is wrong.
        sfreq_hz: Rate as stored, or the catalog's where the object does not say.
        trial_s: Trial id -> seconds of its stimulus, of the trials that look usable.
        problems: What can be told without decoding.
    """

    channels: int
    sfreq_hz: float
    trial_s: Mapping[str, float]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, eq=False)
class Trial:
    """One trial, cut from its recording: unfiltered, the stimulus part, with labels (see `TrialSpan`).

    Attributes:
        eeg_uv: (C, T) microvolt as stored.
        baseline_uv: (C, T0) microvolt or None.
    """

    eeg_uv: Eeg
    baseline_uv: Eeg | None
    channels: tuple[str, ...]
    sfreq_hz: float
    corpus: str
    subject: str
    session: str
    trial: str
    stimulus: str
    rating: Mapping[str, float] | None
    emotion: str | None
    valence: float
    arousal: float
    source: str


@dataclass
class Corpus(ABC):
    """A copy of one corpus. Subclasses read and simulate one published layout each.

    Attributes:
        root: URL of the corpus' top folder.
        strict: Raise `CorpusError` at the first problem instead of listing it.
        problems: What was skipped or is doubtful. Starts anew with each listing and each iteration.
    """

    root: str
    strict: bool = False
    problems: list[Problem] = field(default_factory=list)

    name = ""
    """Lower-case name; set by each subclass."""

    has_pseudonyms = False
    """Whether subjects are called otherwise outside than in the copy, which tells their names."""

    @staticmethod
    def subject_id(given: str) -> str:
        """What a subject is called outside the copy, by that id or by what the copy calls them."""
        return given

    @cached_property
    def catalog(self) -> CorpusCatalog:
        """The corpus' published facts."""
        return load_corpus(self.name)

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """Canonical electrode names in file order."""
        return canonical_names(self.catalog.channels)

    @cached_property
    def simulated(self) -> SimulatedMarker | None:
        """What the simulator left in this copy, or None if nobody says it is simulated.

        Raises:
            RequestError: If it is a simulated copy of another corpus.
        """
        marker = read_marker(self.root)
        if marker is not None and marker.corpus != self.name:
            raise RequestError(f"{self.root}: a simulated copy of {marker.corpus}, not {self.name}; open it as that")
        return marker

    @property
    def trials_expected(self) -> int:
        """Trials per session that this copy should hold: the owner's number, or what was simulated."""
        return self.simulated.trials if self.simulated else self.catalog.trials

    def seconds_expected(self, trial_index: int, session: str = "1") -> float:
        """Stimulus length of a trial in this copy; ``trial_index`` counts from 0 within its session."""
        time_scale = self.simulated.time_scale if self.simulated else 1.0
        return scaled_seconds(self.catalog.seconds_of(trial_index, session), time_scale)

    def references(self) -> list[RecordingRef]:
        """Lists the recordings of this copy, by subject then session, without decoding any.

        Objects that look like data but belong to no recording, and doubtful label tables, go to ``problems``.

        Raises:
            RequestError: If the folder is not there, or holds nothing of this corpus.
            CorpusError: If a table without which nothing can be used is missing or unreadable.
        """
        self.problems = []
        refs, problems = self._inventory()
        for problem in problems:
            self._report(problem)
        return refs

    @abstractmethod
    def _inventory(self) -> tuple[list[RecordingRef], list[Problem]]:
        """What `references` returns and what it reports."""

    @abstractmethod
    def read(self, ref: RecordingRef) -> Recording:
        """Decodes one recording. Bad trials are left out, of the signal too, and listed in its ``problems``.

        Raises:
            CorpusError: If nothing of the object can be used.
        """

    def peek(self, ref: RecordingRef) -> RecordingHeader:
        """What a recording says it holds. Readers whose objects have headers do without decoding the rest.

        Raises:
            CorpusError: If nothing of the object can be used.
        """
        recording = self.read(ref)
        return RecordingHeader(
            channels=len(recording.channels),
            sfreq_hz=recording.sfreq_hz,
            trial_s={span.trial: (span.stop - span.start) / recording.sfreq_hz for span in recording.spans},
            problems=recording.problems,
        )

    def plan_recordings(self, settings: SimulateSettings) -> list[RecordingPlan]:
        """What a simulated copy is to contain: the first subjects, sessions and trials of the published corpus.

        Raises:
            RequestError: If more is asked for than the corpus has.
        """
        asked = {"subjects": settings.subjects, "sessions": settings.sessions, "trials": settings.trials}
        for what, count in asked.items():
            if count is not None and count > (published := getattr(self.catalog, what)):
                raise RequestError(f"simulate.{what} = {count}: {self.name} has {published}; ask for at most that")
        return [
            self._plan_recording(settings, subject, session)
            for subject in self.catalog.subject_numbers[: settings.subjects]
            for session in range(1, (settings.sessions or self.catalog.sessions) + 1)
        ]

    @abstractmethod
    def _plan_recording(self, settings: SimulateSettings, subject: int, session: int) -> RecordingPlan:
        """One recording of `plan_recordings`: the number in the subject's id, and the session counted from 1."""

    def _fill_plan(self, subject: str, session: str, pieces: Sequence[tuple[Passage, ...]]) -> RecordingPlan:
        """A plan whose recorder and cleaning are those of the catalog."""
        done = self.catalog.stages_done
        return RecordingPlan(
            corpus=self.name,
            subject=subject,
            session=session,
            channels=self.channels,
            sfreq_hz=self.catalog.sfreq_hz,
            mains_hz=self.catalog.mains_hz,
            pieces=tuple(pieces),
            artefacts="ocular" not in done,
            band_hz=self.catalog.band_hz,
            average_reference="average_reference" in done,
        )

    @abstractmethod
    def write_recording(self, plan: RecordingPlan, pieces_uv: list[npt.NDArray[np.float64]]) -> None:
        """Writes one planned recording below ``root`` in its owner's layout.

        Args:
            plan: One of `plan_recordings`.
            pieces_uv: One (C, T) microvolt array per piece of the plan. The writer may empty the list to free memory.
        """

    @abstractmethod
    def write_tables(self, plans: list[RecordingPlan]) -> None:
        """Writes the label tables that ship beside the recordings."""

    def recordings(self) -> Iterator[Recording]:
        """Every recording that can be read, one in memory at a time; the rest goes to ``problems``."""
        for ref in self.references():
            try:
                recording = self.read(ref)
            except CorpusError as error:
                for problem in error.problems:
                    self._report(problem)
                continue
            for problem in recording.problems:
                self._report(problem)
            yield recording
            del recording  # the next one is decoded only after this one is gone

    def trials(self) -> Iterator[Trial]:
        """Every trial that can be used, cut from its recording (contract of ``open_corpus``)."""
        for recording in self.recordings():
            for span in recording.spans:
                yield recording.cut(span)
            del recording  # as in `recordings`

    def place_rating(self, rating: Mapping[str, float]) -> tuple[float, float]:
        """(valence, arousal) on the plane of a rating on this corpus' scale; ValueError outside the scale."""
        scale = self.catalog.rating_scale
        assert scale is not None, f"{self.name} has no rating scale"
        valence, arousal = (place_rating(rating[axis], scale.minimum, scale.maximum) for axis in ("valence", "arousal"))
        return valence, arousal

    def place_emotion(self, emotion: str) -> tuple[float, float]:
        """(valence, arousal) on the plane of one of this corpus' emotion words; ValueError if unknown."""
        table = {row.emotion: (row.valence, row.arousal) for row in load_emotion_words() if row.corpus == self.name}
        return place_emotion(emotion, table)

    def _report(self, problem: Problem) -> None:
        if self.strict and not problem.known:
            raise CorpusError(problem)
        self.problems.append(problem)
