"""What a run IS: every choice that changes a result, in one frozen model.

Addresses (where data, shards and runs lie) may stand here or in the environment; secrets never stand here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Literal, get_args, overload

from pydantic import Field, ValidationError, field_validator, model_validator

from emod.catalog.ablation import AblationSettings
from emod.catalog.embed import EmbedSettings
from emod.catalog.evaluate import EvaluateSettings
from emod.catalog.model import EmodConfig
from emod.catalog.promote import PromoteSettings
from emod.catalog.serving import ServingSettings
from emod.catalog.signal import SignalSettings
from emod.catalog.simulation import SimulationSettings
from emod.catalog.split import SplitSettings
from emod.catalog.strict import Strict
from emod.catalog.study import StudySettings
from emod.catalog.sweep import SweepSettings
from emod.catalog.wording import one_line
from emod.errors import RequestError

__all__ = [
    "Addresses",
    "Experiment",
    "FinetuneSettings",
    "IngestSettings",
    "MethodName",
    "PretrainSettings",
    "SimulateSettings",
    "TargetName",
    "TunableName",
    "with_values",
]


class Addresses(Strict):
    """Where things lie; any URL fsspec reads. What is absent here comes from the environment."""

    data: dict[str, str] = Field(default_factory=dict, description="corpus -> its top folder; else $EMOD_DATA/<corpus>")
    store: str | None = Field(default=None, description="the shard store; else $EMOD_STORE")
    runs: str | None = Field(default=None, description="Ray Train's storage path; else $EMOD_RUNS")

    def resolve(self, corpora: tuple[str, ...]) -> Addresses:
        """Fills in what the environment gives and makes local paths absolute: workers share neither with the driver."""
        base = os.environ.get("EMOD_DATA")
        given = {name: f"{base.rstrip('/')}/{name}" for name in corpora} if base else {}
        return Addresses(
            data={name: _absolute(url) for name, url in {**given, **self.data}.items()},
            store=_absolute(self.store or os.environ.get("EMOD_STORE")),
            runs=_absolute(self.runs or os.environ.get("EMOD_RUNS")),
        )

    def root_of(self, corpus: str) -> str:
        """Top folder of a corpus, or RequestError naming both places where it can be given."""
        return self._given(self.data.get(corpus), f"data.{corpus}", "EMOD_DATA")

    def store_url(self) -> str:
        """The shard store's URL, or RequestError naming both places where it can be given."""
        return self._given(self.store, "store", "EMOD_STORE")

    def runs_url(self) -> str:
        """Ray Train's storage path, or RequestError naming both places where it can be given."""
        return self._given(self.runs, "runs", "EMOD_RUNS")

    @staticmethod
    def _given(url: str | None, field: str, variable: str) -> str:
        if not url:
            raise RequestError(f"addresses.{field} is not given: use --set addresses.{field}=URL or set {variable}")
        return url


@overload
def _absolute(url: str) -> str: ...
@overload
def _absolute(url: None) -> None: ...
@overload
def _absolute(url: str | None) -> str | None: ...
def _absolute(url: str | None) -> str | None:
    return url if url is None or "://" in url else os.path.abspath(url)


def _absolute_paths(settings: FinetuneSettings) -> FinetuneSettings:
    """Workers stand in folders of their own."""
    backbone, split = settings.backbone, settings.split
    if backbone is not None and backbone != "none" and not backbone.startswith("models:"):
        backbone = _absolute(backbone)
    split = split.model_copy(update={"file": _absolute(split.file)})
    rival = _absolute(settings.rival_weights)
    return settings.model_copy(update={"backbone": backbone, "split": split, "rival_weights": rival})


class SimulateSettings(Strict):
    """A simulated copy of a corpus: how many subjects and how much of each session."""

    subjects: int = Field(default=8, ge=1, description="the first ones")
    sessions: int | None = Field(default=None, ge=1, description="of each subject, the first ones; null: as published")
    trials: int | None = Field(default=None, ge=1, description="per session, the first ones; null: as published")
    time_scale: float = Field(default=1.0, gt=0, le=1, description="clips last this fraction of the published length")
    brain: SimulationSettings = Field(default_factory=SimulationSettings)


class IngestSettings(Strict):
    """How recordings become shards."""

    shard_mb: int = Field(default=256, ge=1, le=512, description="upper size of a shard; published stores use 64-512")
    strict: bool = Field(default=False, description="stop at the first problem instead of listing it")
    cpus_per_recording: float = Field(
        default=1.0, gt=0, description="CPUs that Ray sets aside for each recording at work"
    )


class PretrainSettings(Strict):
    """Contrastive pretraining; the defaults are the paper's (EMOD, section Experiments)."""

    run_name: str = Field(default="emod-pretrain", description="the same name resumes the same run")
    corpora: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="what is learned from; null: all corpora of the experiment"
    )
    objective: Literal["soft_va", "hard_va", "augment", "scratch"] = Field(
        default="soft_va",
        description="which pairs attract: by distance on the plane, of one region, two views of one window; "
        "scratch: no step is taken",
    )
    epochs: int = Field(default=100, ge=1, description="passes over the data")
    steps_per_epoch: int | None = Field(default=None, ge=1, description="null: (windows // corpora) // (9 rounds)")
    rounds: int = Field(default=4, ge=1, description="windows per corpus, batch and region (m)")
    empty_regions: Literal["round_robin", "nearest"] = Field(
        default="round_robin", description="which regions stand in for those of the plane that a corpus does not have"
    )
    learning_rate: float = Field(default=5e-4, gt=0, description="of the first step; it falls along a cosine")
    final_learning_rate: float = Field(
        default=1e-7, ge=0, description="where the cosine ends, one step after the last; at most learning_rate"
    )
    weight_decay: float = Field(default=1e-4, ge=0, description="of the optimiser")
    clip_norm: float = Field(default=3.0, gt=0, description="largest norm of a gradient; longer ones are shortened")
    temperature: float = Field(default=0.07, gt=0, description="of the contrastive loss")
    d_max: float = Field(default=5.0, gt=0, description="plane distance at and beyond which a pair is negative")
    workers: int | tuple[int, int] = Field(
        default=1, description="processes that share each batch; [least, most]: as many as there is room for"
    )
    gpu: bool = Field(default=False, description="true: each worker needs a GPU")
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of the backbone's products; bfloat16 (autocast) on GPUs only"
    )
    cpus_per_worker: float = Field(default=1.0, gt=0, description="CPUs that Ray sets aside for each")
    threads_per_worker: int = Field(default=1, ge=1, description="CPU threads of torch")
    checkpoint_every_steps: int = Field(
        default=100, ge=1, description="what a crash can cost, besides the steps taken while one is written"
    )
    watch_subjects: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of each corpus' subjects kept out of training to watch it on, at least one of three; "
        "finetune's corpus is watched on its validation subjects",
    )
    watch_every_steps: int | None = Field(
        default=None, ge=1, description="null: as often as costs about a hundredth of the steps"
    )
    max_failures: int = Field(default=3, ge=0, description="worker failures that Ray Train survives by itself")

    @field_validator("workers")
    @classmethod
    def _some_workers(cls, workers: int | tuple[int, int]) -> int | tuple[int, int]:
        least, most = (workers, workers) if isinstance(workers, int) else workers
        if not 1 <= least <= most:
            raise ValueError("give a number from 1 up, or the least and the most, as in [1, 4]")
        return workers

    @model_validator(mode="after")
    def _can_be(self) -> PretrainSettings:
        _check_fall(self.learning_rate, self.final_learning_rate)
        if self.precision == "bfloat16" and not self.gpu:
            raise ValueError("precision bfloat16 is for GPUs: set gpu to true, or precision to float32")
        return self


def _check_fall(first: float, final: float) -> None:
    if final > first:
        raise ValueError(f"final_learning_rate {final:g} is above learning_rate {first:g}; a cosine falls")


TargetName = Literal["emotion", "valence", "arousal", "quadrant", "plane"]

MethodName = Literal[
    "emod",
    "eegnet",
    "eegconformer",
    "contrawr",
    "tsception",
    "biot",
    "labram",
    "cbramod",
    "differential_entropy",
]

# What a sweep may vary: how a training goes, never what it is asked.
TunableName = Literal[
    "batch",
    "learning_rate",
    "backbone_rate",
    "layer_rate",
    "final_learning_rate",
    "weight_decay",
    "clip_norm",
    "label_smoothing",
    "class_weights",
    "patience",
    "dropout",
]

# What may change on the way, since the optimiser's state goes on with any value of it.
ChangeableName = Literal["learning_rate", "weight_decay", "clip_norm", "label_smoothing"]


class FinetuneSettings(Strict):
    """Fine-tuning on classes or on the plane; the defaults are the paper's, one optimiser for every objective."""

    run_name: str = Field(default="emod-finetune", description="the same name resumes the same run")
    corpus: str = Field(description="the corpus whose classes are learned")
    targets: tuple[TargetName, ...] = Field(
        default=("emotion",),
        min_length=1,
        description="emotion: the corpus' words; valence, arousal: low / high; quadrant: both; plane: the point itself",
    )
    threshold: Literal["midpoint", "median"] | float = Field(
        default="midpoint",
        description="low / high boundary: 0 of the plane, the training windows' median, or a number on the plane",
    )
    ties: Literal["low", "high", "drop"] = Field(default="low", description="what a rating exactly at the boundary is")
    method: MethodName = Field(
        default="emod",
        description="what is trained: this project's network, a rival from braindecode, or "
        "differential entropy of the bands with logistic regression",
    )
    split: SplitSettings = Field(default_factory=SplitSettings)
    backbone: str | None = Field(
        default=None,
        description="where method emod starts: a folder with model.json and model.safetensors, models:/NAME@ALIAS, "
        "models:/NAME/VERSION, or none for fresh weights; {seed} in it is the training's; null: the finished run "
        "pretrain.run_name",
    )
    rival_weights: str | None = Field(
        default=None,
        description="where a rival starts: a .safetensors file with weights under braindecode's names, such as those "
        "that its authors publish; null: fresh weights",
    )
    epochs: int = Field(default=100, ge=1, description="passes over the training windows")
    batch: int = Field(default=64, ge=2, description="windows")
    learning_rate: float = Field(default=1e-3, gt=0, description="of the head's first step; it falls along a cosine")
    backbone_rate: float = Field(
        default=0.5, ge=0, le=1, description="the backbone's rate over the head's; 0 freezes it"
    )
    layer_rate: float = Field(
        default=1.0, gt=0, le=1, description="each layer's rate over that of the layer above it, from the last one down"
    )
    final_learning_rate: float = Field(
        default=1e-6, ge=0, description="where the head's cosine ends, one step after the last; at most learning_rate"
    )
    weight_decay: float = Field(default=1e-4, ge=0, description="of the optimiser")
    clip_norm: float = Field(default=1.0, gt=0, description="largest norm of a gradient; longer ones are shortened")
    label_smoothing: float = Field(default=0.1, ge=0, lt=1, description="of the cross-entropy")
    class_weights: Literal["none", "balanced"] = Field(
        default="none", description="balanced: a window counts by the rarity of its class among those that train"
    )
    patience: int | None = Field(
        default=None, ge=1, description="stop after so many epochs without a better validation score; null: never"
    )
    dropout: float = Field(default=0.25, ge=0, le=0.99, description="of the backbone, in place of model.dropout")
    from_epoch: dict[int, dict[ChangeableName, float]] = Field(
        default_factory=dict,
        description="settings that change on the way: {6: {learning_rate: 2.0e-4}} from the sixth epoch on; what a "
        "population's best trial went through",
    )
    gpu: bool = Field(default=False, description="true: each worker needs a GPU")
    cpus_per_worker: float = Field(default=1.0, gt=0, description="CPUs that Ray sets aside for each")
    threads_per_worker: int = Field(default=1, ge=1, description="CPU threads of torch")
    max_failures: int = Field(default=3, ge=0, description="worker failures that Ray Train survives by itself")

    def at(self, epoch: int) -> FinetuneSettings:
        """The settings of an epoch, counted from 1."""
        changes: dict[str, Any] = {
            name: value
            for first, changed in sorted(self.from_epoch.items())
            if first <= epoch
            for name, value in changed.items()
        }
        return self.model_copy(update=changes) if changes else self

    @model_validator(mode="after")
    def _changes_can_be(self) -> FinetuneSettings:
        for first, changed in self.from_epoch.items():
            if not 1 < first <= self.epochs:
                raise ValueError(f"from_epoch.{first}: changes come from epoch 2 to {self.epochs}")
            with_values(self.model_copy(update={"from_epoch": {}}), changed, place=f"from_epoch.{first}")
        return self

    @model_validator(mode="after")
    def _falls(self) -> FinetuneSettings:
        _check_fall(self.learning_rate, self.final_learning_rate)
        if self.rival_weights is not None and self.method in ("emod", "differential_entropy"):
            raise ValueError(f"rival_weights are for rivals; method is {self.method}, leave them out")
        if self.corpus in self.split.train_corpora:
            raise ValueError(f"split.train_corpora names {self.corpus}, which corpus says to test on; take one of them")
        return self

    @property
    def corpora(self) -> tuple[str, ...]:
        """Whose windows train, choose or test: the corpus, and what a cross-corpus split learns from."""
        return (self.corpus, *self.split.train_corpora)


def with_values(settings: FinetuneSettings, values: Mapping[Any, Any], *, place: str) -> FinetuneSettings:
    """The settings with other values, checked.

    Raises:
        ValueError: If they cannot be; it names the place and the value.
    """
    try:
        # In JSON mode, which takes a whole number for a float and lists for tuples.
        return FinetuneSettings.model_validate_json(json.dumps({**settings.model_dump(mode="json"), **values}))
    except ValidationError as error:
        raise ValueError(one_line(error, FinetuneSettings, origin=place, typed={})) from None


class Experiment(Strict):
    """One run, whole: what is read, how it is cleaned, what is learned from it."""

    name: str = Field(pattern="^[A-Za-z0-9_.-]+$", description="a tag of its runs in MLflow")
    description: str = Field(description="what the run is for")
    seed: int = Field(default=0, ge=0, description="of weights, batches and dropout")
    corpora: tuple[str, ...] = Field(min_length=1, description="what is ingested and pretrained on")
    addresses: Addresses = Field(default_factory=Addresses)
    simulate: dict[str, SimulateSettings] = Field(
        default_factory=dict, description="corpus -> its simulated copy; used by quickstart and studies"
    )
    signal: SignalSettings = Field(default_factory=SignalSettings)
    ingest: IngestSettings = Field(default_factory=IngestSettings)
    model: EmodConfig = Field(default_factory=EmodConfig)
    pretrain: PretrainSettings = Field(default_factory=PretrainSettings)
    finetune: FinetuneSettings | None = Field(default=None, description="without this group nothing is fine-tuned")
    serving: ServingSettings = Field(default_factory=ServingSettings)
    study: StudySettings | None = Field(default=None, description="what jobs/study.py compares")
    evaluate: EvaluateSettings | None = Field(default=None, description="what jobs/evaluate.py compares")
    ablation: AblationSettings | None = Field(default=None, description="what jobs/ablate.py compares")
    embed: EmbedSettings = Field(default_factory=EmbedSettings)
    promote: PromoteSettings = Field(default_factory=PromoteSettings)
    sweep: SweepSettings | None = Field(default=None, description="what jobs/sweep.py varies")

    def resolve(self) -> Experiment:
        """The experiment with addresses filled in and local paths absolute."""
        return self.model_copy(update={"addresses": self.addresses.resolve(self.corpora)}).resolve_paths()

    def resolve_paths(self) -> Experiment:
        """The experiment with fine-tuning's local paths absolute."""
        if self.finetune is None:
            return self
        return self.model_copy(update={"finetune": _absolute_paths(self.finetune)})

    @property
    def pretrained_on(self) -> tuple[str, ...]:
        """The corpora that pretraining learns from."""
        return self.pretrain.corpora or self.corpora

    @model_validator(mode="after")
    def _known_corpora(self) -> Experiment:
        if unknown := sorted(set(self.pretrained_on) - set(self.corpora)):
            raise ValueError(f"pretrain.corpora {unknown[0]!r} is not among corpora {list(self.corpora)}")
        if len(set(self.corpora)) != len(self.corpora):
            raise ValueError(f"corpora {list(self.corpora)} names a corpus twice")
        if self.finetune is not None and (absent := set(self.finetune.corpora) - set(self.corpora)):
            raise ValueError(f"finetune.corpus {min(absent)!r} is not among corpora {list(self.corpora)}")
        return self

    @model_validator(mode="after")
    def _space_can_be(self) -> Experiment:
        if self.sweep is None or self.finetune is None:
            return self
        tunable = get_args(ChangeableName if self.sweep.search == "population" else TunableName)
        for name, dimension in self.sweep.space.items():
            if name not in tunable:
                under = ", of a population" if self.sweep.search == "population" else ""
                raise ValueError(f"sweep.space.{name} is not what a sweep can vary{under}; it can {', '.join(tunable)}")
            asked = {"low": (dimension.low,), "high": (dimension.high,)}
            for field, values in ({"choices": dimension.choices} if dimension.choices else asked).items():
                for value in values:
                    with_values(self.finetune, {name: value}, place=f"{field} of sweep.space")
        return self
