"""What an evaluation IS: the methods that are compared on one question, over every fold and several seeds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from emod.catalog.strict import Strict

__all__ = ["EvaluateSettings", "MethodLabel"]

MethodLabel = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_. -]+$")]


class EvaluateSettings(Strict):
    """Methods compared under finetune's protocol and targets, everything else equal, beside controls that see no EEG.

    Every method is trained on each fold, once a seed; a seed draws weights and batches, folds stay what they are. The
    first method is what the others are held against.
    """

    run_name: str = Field(default="emod-evaluate", description="the same name resumes the same evaluation")
    methods: dict[MethodLabel, tuple[str, ...]] = Field(
        default={"EMOD": ()},
        min_length=1,
        description='what differs, as for --set: {EEGNet: ["finetune.method=eegnet"]}',
    )
    seeds: int = Field(default=5, ge=1, description="repetitions, counted on from seed")
    cpus_per_training: float = Field(default=1.0, gt=0, description="CPUs, and threads, of each")
    gpu: bool = Field(default=False, description="true: each training needs a GPU")
