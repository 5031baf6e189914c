"""What a sweep IS: which settings of fine-tuning vary, how they are searched for, and when a trial is given up."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from emod.catalog.strict import Strict

__all__ = ["Dimension", "SweepSettings", "SweepValue"]

SweepValue = bool | int | float | str


class Dimension(Strict):
    """The values of one setting: a range with both ends, or choices; of a whole-number setting, whole numbers."""

    low: int | float | None = Field(default=None, description="lower end of a range, itself a value")
    high: int | float | None = Field(default=None, description="upper end of a range, itself a value")
    log: bool = Field(default=False, description="true: evenly over orders of magnitude")
    choices: tuple[SweepValue, ...] | None = Field(default=None, min_length=1, description="instead of a range")
    when: dict[str, tuple[SweepValue, ...]] = Field(
        default_factory=dict,
        description="varies only where these settings, which are choices above it, have one of these values; "
        "elsewhere it stays what the experiment says",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Dimension:
        if (self.low is None) != (self.high is None) or (self.low is None) == (self.choices is None):
            raise ValueError("give low and high, or choices")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and (self.low is None or self.low <= 0):
            raise ValueError("log is for a range above 0")
        return self


class SweepSettings(Strict):
    """Trials of fine-tuning, each with settings of its own, judged by the validation windows alone.

    A trial's score is that of its best epoch so far: Cohen's kappa, or the mean concordance on the plane.
    """

    run_name: str = Field(default="emod-sweep", description="the same name resumes the same sweep")
    space: dict[str, Dimension] = Field(min_length=1, description="a setting of finetune -> its values")
    search: Literal["random", "tpe", "population"] = Field(
        default="tpe",
        description="random: drawn alike; tpe: drawn where earlier trials did well (Optuna's TPE); population: drawn "
        "alike, then the worst take over the weights of the best and vary their settings (PBT)",
    )
    trials: int = Field(default=16, ge=1, description="how many; under population, how many at a time")
    stopping: Literal["asha", "none"] | None = Field(
        default=None,
        description="asha: a trial that is not among the best at a rung ends there; null: asha, and none under "
        "population, which ends no trial",
    )
    grace_epochs: int = Field(default=2, ge=1, description="asha: the first rung")
    reduction: int = Field(
        default=3, ge=2, description="asha: one of so many goes on from a rung, to one so many times as far"
    )
    interval_epochs: int = Field(default=5, ge=1, description="population: epochs between two takeovers")
    concurrent: int | None = Field(
        default=None, ge=1, description="trials at a time; null: as many as the cluster has CPUs, or GPUs, for"
    )

    @property
    def stops(self) -> bool:
        """Whether trials are given up early."""
        return self.stopping == "asha" or (self.stopping is None and self.search != "population")

    @model_validator(mode="after")
    def _fits(self) -> SweepSettings:
        if self.search == "population":
            if self.stopping == "asha":
                raise ValueError("population takes over the worst trials and ends none: set stopping to none")
            if conditional := [name for name, dimension in self.space.items() if dimension.when]:
                raise ValueError(f"space.{conditional[0]}.when: population varies every setting of every trial")
        seen: dict[str, Dimension] = {}
        for name, dimension in self.space.items():
            for other, values in dimension.when.items():
                choices = seen[other].choices if other in seen else None
                if choices is None:
                    raise ValueError(f"space.{name}.when: {other} is no choice that stands above it")
                if strange := set(values) - set(choices):
                    raise ValueError(f"space.{name}.when: {min(map(str, strange))} is no choice of {other}")
            seen[name] = dimension
        return self
