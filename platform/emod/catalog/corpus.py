"""What a corpus IS, as its owner publishes it: layout facts, labels, licence, how to obtain it.

Nothing here says where somebody's copy lies; that is an address and belongs to the run.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from emod.catalog.strict import Strict

__all__ = ["CleaningStage", "CorpusCatalog", "EmotionWord", "RatingScale"]

CleaningStage = Literal["band_pass", "ocular", "muscle", "average_reference"]


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


class CorpusCatalog(Strict):
    """Facts of one corpus. Every count is the owner's, not that of somebody's copy."""

    name: str = Field(pattern="^[a-z0-9_]+$", description="the name users type")
    title: str
    citation: str
    doi: str | None = None
    homepage: str
    licence: str
    access: str = Field(description="how a laboratory obtains a copy")
    uncertain: tuple[str, ...] = Field(
        default=(), description="facts no public source settles; doctor and readers watch these"
    )

    subjects: int = Field(gt=0)
    sessions: int = Field(gt=0, description="per subject")
    trials: int = Field(gt=0, description="per session")
    channels: tuple[str, ...] = Field(min_length=1, description="EEG electrodes in file order, as the owner names them")
    sfreq_hz: float = Field(gt=0, description="as stored")
    ingest_hz: float = Field(
        gt=0, description="rate at which windows are cut; equal to sfreq_hz where nothing is resampled"
    )
    mains_hz: Literal[50, 60]
    baseline_s: float = Field(ge=0, description="rest before each trial that the files hold")
    trial_s: tuple[float, ...] = Field(min_length=1, description="seconds of each trial, or one number for all")
    trial_s_exact: bool = Field(default=True, description="false where trial_s is a typical length the simulator uses")

    label_kind: Literal["rating", "emotion"]
    rating_scale: RatingScale | None = None
    trial_emotions: dict[str, tuple[str, ...]] | None = Field(
        default=None, description="session -> emotion word of each trial, in the owner's order"
    )

    stages_done: tuple[CleaningStage, ...] = Field(description="what the owner already did to the published signal")
    band_hz: tuple[float, float] | None = Field(default=None, description="the owner's pass band, if there is one")

    @model_validator(mode="after")
    def _consistent(self) -> CorpusCatalog:
        if (self.label_kind == "rating") != (self.rating_scale is not None):
            raise ValueError("rating_scale must be given exactly when label_kind is rating")
        if (self.label_kind == "emotion") != (self.trial_emotions is not None):
            raise ValueError("trial_emotions must be given exactly when label_kind is emotion")
        if self.trial_emotions is not None:
            for session, words in self.trial_emotions.items():
                if len(words) != self.trials:
                    raise ValueError(
                        f"trial_emotions of session {session} has {len(words)} words for {self.trials} trials"
                    )
        if len(self.trial_s) not in (1, self.trials):
            raise ValueError(f"trial_s has {len(self.trial_s)} lengths; give 1 or {self.trials}")
        if ("band_pass" in self.stages_done) != (self.band_hz is not None):
            raise ValueError("band_hz must be given exactly when stages_done holds band_pass")
        return self

    def seconds_of(self, trial_index: int) -> float:
        """Published stimulus length of a trial, in seconds; ``trial_index`` counts from 0."""
        return self.trial_s[trial_index if len(self.trial_s) > 1 else 0]
