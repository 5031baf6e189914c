"""What a corpus IS, as its owner publishes it: layout facts, labels, licence, how to obtain it.

Nothing here says where somebody's copy lies; that is an address and belongs to the run.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from emod.catalog.strict import Strict

__all__ = ["BidsLayout", "CleaningStage", "CorpusCatalog", "EmotionWord", "Missing", "Place", "RatingScale"]

CleaningStage = Literal["band_pass", "ocular", "muscle", "average_reference"]


def _listed(value: Any) -> Any:
    """One number stands for a list of it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Seconds = Annotated[tuple[float, ...], BeforeValidator(_listed)]


class RatingScale(Strict):
    """End points of the scale on which participants rated, on the corpus' own numbers."""

    minimum: float
    maximum: float

    @model_validator(mode="after")
    def _ordered(self) -> RatingScale:
        if self.maximum <= self.minimum:
            raise ValueError(f"maximum {self.maximum} must exceed minimum {self.minimum}")
        return self


class EmotionWord(Strict):
    """One row of the word table: where one corpus' emotion word lies on the plane, and who says so."""

    corpus: str
    emotion: str = Field(pattern="^[a-z]+$")
    valence: float = Field(ge=-4, le=4)
    arousal: float = Field(ge=-4, le=4)
    source: str


class Missing(Strict):
    """What a published copy does not hold, or its owner says not to use."""

    subject: int
    session: str = "1"
    trials: tuple[int, ...] = Field(default=(), description="as the owner numbers them; empty where that is not known")
    count: int = Field(gt=0, description="how many trials are missing")
    why: str

    @model_validator(mode="after")
    def _counted(self) -> Missing:
        if self.trials and len(self.trials) != self.count:
            raise ValueError(f"count {self.count} differs from the {len(self.trials)} trials listed")
        return self


class Place(Strict):
    """A point of the plane."""

    valence: float = Field(ge=-4, le=4)
    arousal: float = Field(ge=-4, le=4)


class BidsLayout(Strict):
    """Where recordings and labels of a corpus lie that is kept in BIDS-EEG: no reader of its own is needed then."""

    task: str = Field(pattern="^[A-Za-z0-9+]+$", description="recordings of other tasks are passed over")
    labels: Literal["events", "participants"] = Field(
        description="events: a row of events.tsv is a trial; participants: a whole recording is one trial"
    )
    rows: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="column of events.tsv -> values that make a row a trial, * and ? allowed; every column must match",
    )
    valence: str | None = Field(default=None, description="column with the rating")
    arousal: str | None = Field(default=None, description="column with the rating")
    emotion: str | None = Field(default=None, description="column with the emotion word")
    stimulus: str | None = Field(default=None, description="column with the clip; participants: the task without one")

    @model_validator(mode="after")
    def _complete(self) -> BidsLayout:
        if (self.valence is None) != (self.arousal is None):
            raise ValueError("valence and arousal belong together; name both columns or neither")
        if (self.emotion is None) == (self.valence is None):
            raise ValueError("name the columns valence and arousal, or the column emotion, and not both")
        if self.labels == "events" and self.stimulus is None:
            raise ValueError("stimulus is missing; name the column of events.tsv that says which clip was shown")
        if self.labels == "participants" and self.rows:
            raise ValueError("rows chooses rows of events.tsv, and labels is participants; remove one of them")
        return self


class CorpusCatalog(Strict):
    """Facts of one corpus. Every count is the owner's, not that of somebody's copy."""

    name: str = Field(pattern="^[a-z0-9_]+$", description="the name users type")
    title: str
    citation: str
    doi: str | None = None
    homepage: str
    laboratory: str | None = Field(
        default=None, description="who recorded it; corpora of one laboratory may share people, whom nobody lists"
    )
    licence: str
    access: str = Field(description="how a laboratory obtains a copy")
    uncertain: tuple[str, ...] = Field(
        default=(), description="facts no public source settles; doctor and readers watch these"
    )

    subjects: int = Field(gt=0)
    subject_ids: tuple[int, ...] | None = Field(
        default=None, description="numbers in the owner's subject ids, rising; None: 1 to subjects"
    )
    sessions: int = Field(gt=0, description="per subject")
    trials: int = Field(gt=0, description="per session")
    missing: tuple[Missing, ...] = ()
    object_mb: tuple[float, float] | None = Field(
        default=None, description="least and greatest size of one recording's object that is plausible, in 10^6 bytes"
    )
    channels: tuple[str, ...] = Field(min_length=1, description="EEG electrodes in file order, as the owner names them")
    channels_otherwise: tuple[str, ...] | None = Field(
        default=None, description="the same electrodes in the order that a second source gives, where none settles it"
    )
    sfreq_hz: float = Field(gt=0, description="as stored")
    ingest_hz: float = Field(
        gt=0, description="rate at which windows are cut; equal to sfreq_hz where nothing is resampled"
    )
    mains_hz: Literal[50, 60]
    baseline_s: float = Field(ge=0, description="rest before each trial that the files hold")
    trial_s: Seconds | dict[str, Seconds] = Field(
        description="seconds of each trial, or one number for all; by session where sessions differ"
    )
    trial_s_exact: bool = Field(default=True, description="false where trial_s is a typical length the simulator uses")

    trial_start_s: dict[str, tuple[float, ...]] | None = Field(
        default=None, description="session -> start of each trial in a recording stored without cuts, in seconds"
    )

    label_kind: Literal["rating", "emotion"]
    rating_scale: RatingScale | None = None
    trial_emotions: dict[str, tuple[str, ...]] | None = Field(
        default=None, description="session -> emotion word of each trial, in the owner's order"
    )

    bids: BidsLayout | None = Field(default=None, description="for a corpus in BIDS-EEG, read without code of its own")
    words: dict[str, Place] | None = Field(
        default=None, description="emotion word -> place on the plane, where there is bids; others: emotion_words.yaml"
    )

    stages_done: tuple[CleaningStage, ...] = Field(description="what the owner already did to the published signal")
    band_hz: tuple[float, float] | None = Field(default=None, description="the owner's pass band, if there is one")

    @model_validator(mode="after")
    def _consistent(self) -> CorpusCatalog:
        if self.ingest_hz > self.sfreq_hz:
            raise ValueError(
                f"ingest_hz {self.ingest_hz:g} exceeds sfreq_hz {self.sfreq_hz:g}, and a higher rate holds nothing "
                f"more; give at most {self.sfreq_hz:g}"
            )
        if (self.label_kind == "rating") != (self.rating_scale is not None):
            raise ValueError("rating_scale must be given exactly when label_kind is rating")
        if self.bids is not None:
            self._check_bids(self.bids)
        elif self.words is not None:
            raise ValueError("words goes with bids only; other corpora have rows in emotion_words.yaml")
        elif (self.label_kind == "emotion") != (self.trial_emotions is not None):
            raise ValueError("trial_emotions must be given exactly when label_kind is emotion")
        if self.trial_emotions is not None:
            for session, words in self.trial_emotions.items():
                if len(words) != self.trials:
                    raise ValueError(
                        f"trial_emotions of session {session} has {len(words)} words for {self.trials} trials"
                    )
        for lengths in self.trial_s.values() if isinstance(self.trial_s, dict) else (self.trial_s,):
            if len(lengths) not in (1, self.trials):
                raise ValueError(f"trial_s has {len(lengths)} lengths; give 1 or {self.trials}")
        if self.subject_ids is not None and (
            len(self.subject_ids) != self.subjects or list(self.subject_ids) != sorted(set(self.subject_ids))
        ):
            raise ValueError(f"subject_ids has {len(self.subject_ids)} numbers; give {self.subjects}, rising")
        if self.channels_otherwise is not None and sorted(self.channels_otherwise) != sorted(self.channels):
            raise ValueError("channels_otherwise must hold the electrodes of channels in another order")
        if ("band_pass" in self.stages_done) != (self.band_hz is not None):
            raise ValueError("band_hz must be given exactly when stages_done holds band_pass")
        return self

    def _check_bids(self, bids: BidsLayout) -> None:
        """What the recordings say themselves cannot be said here, and what they do not say must be."""
        said = ("subject_ids", "missing", "channels_otherwise", "trial_start_s", "trial_emotions")
        if idle := [name for name in said if getattr(self, name)]:
            raise ValueError(f"{idle[0]} means nothing for a corpus in BIDS, whose tables say it; remove it")
        if (self.label_kind == "emotion") != (bids.emotion is not None):
            columns = "bids.emotion" if self.label_kind == "emotion" else "bids.valence and bids.arousal"
            raise ValueError(f"label_kind is {self.label_kind}; name {columns}")
        if (self.label_kind == "emotion") != (self.words is not None):
            raise ValueError("words must be given exactly when label_kind is emotion")
        if other := [word for word in self.words or {} if word != word.strip().lower() or not word]:
            raise ValueError(f"words has {other[0]!r}; write it in lower case, however the table spells it")
        if isinstance(self.trial_s, dict) or len(self.trial_s) != 1:
            raise ValueError("trial_s has several lengths; give the one for events without a duration")
        if bids.labels == "participants" and (self.trials, self.baseline_s) != (1, 0):
            raise ValueError("labels is participants: a recording is one trial; set trials to 1 and baseline_s to 0")

    @property
    def subject_numbers(self) -> tuple[int, ...]:
        """The number in each subject's id, in rising order."""
        return self.subject_ids or tuple(range(1, self.subjects + 1))

    @property
    def longest_trial_s(self) -> float:
        """The longest published stimulus, in seconds."""
        tables = list(self.trial_s.values()) if isinstance(self.trial_s, dict) else [self.trial_s]
        return max(max(lengths) for lengths in tables)

    def seconds_of(self, trial_index: int, session: str = "1") -> float:
        """Published stimulus length of a trial, in seconds; ``trial_index`` counts from 0 within its session."""
        lengths: tuple[float, ...] = self.trial_s[session] if isinstance(self.trial_s, dict) else self.trial_s
        return lengths[trial_index if len(lengths) > 1 else 0]
