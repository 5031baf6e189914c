"""What decides which windows train, choose and test."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from emod.catalog.strict import Strict

__all__ = ["Acceptable", "ProtocolName", "SplitSettings"]

ProtocolName = Literal[
    "subjects",
    "leave_one_subject_out",
    "subject_folds",
    "clips",
    "subjects_and_clips",
    "within_subject",
    "few_shot",
    "cross_corpus",
    "faced_paper",
    "seed_v_paper",
    "seed_paper",
    "file",
]

# Windows in two roles are a mistake whoever says otherwise; these are what people publish with.
Acceptable = Literal["clips", "ica", "pretraining", "pretraining-clips", "sessions", "subjects"]


class SplitSettings(Strict):
    """A protocol and its numbers. Shares are of subjects or clips, whichever the protocol keeps apart."""

    protocol: ProtocolName = Field(default="subjects", description="the rule; README.md says what each asks")
    validation: float = Field(default=0.15, gt=0, lt=1, description="share that chooses the epoch")
    test: float = Field(default=0.25, gt=0, lt=1, description="share that is scored; unused where folds take turns")
    seed: int = Field(default=0, ge=0, description="of the draw")
    folds: int = Field(default=5, ge=2, description="subject_folds: how many")
    shots: int = Field(default=10, ge=1, description="few_shot: labelled windows per class of a new subject")
    train_corpora: tuple[str, ...] = Field(
        default=(), description="cross_corpus: what is learned from; finetune's corpus is tested on"
    )
    file: str | None = Field(default=None, description="file: a split as jobs/evaluate.py writes it, any URL")
    fold: int = Field(default=1, ge=1, description="which fold jobs/finetune.py trains; jobs/evaluate.py trains all")
    accept: tuple[Acceptable, ...] = Field(
        default=(),
        description="leaks that the audit finds and you accept: they head the report, and bar the model from champion",
    )

    @model_validator(mode="after")
    def _fits(self) -> SplitSettings:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} + test {self.test} leave no subject to train on")
        needs = {"train_corpora": "cross_corpus", "file": "file"}
        for field, protocol in needs.items():
            if bool(getattr(self, field)) != (self.protocol == protocol):
                raise ValueError(
                    f"{field} belongs to protocol {protocol}, and protocol is {self.protocol}; give both or neither"
                )
        for field, protocol in {"folds": "subject_folds", "shots": "few_shot"}.items():
            if self.protocol != protocol and getattr(self, field) != type(self).model_fields[field].default:
                raise ValueError(
                    f"{field} belongs to protocol {protocol}, and protocol is {self.protocol}; leave it out"
                )
        return self
