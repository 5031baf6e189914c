"""What a study IS: the arms that are compared, on what recordings, over how many seeds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from emod.catalog.strict import Strict

__all__ = ["AS_IT_IS", "StudySettings"]

AS_IT_IS = "as-it-is"


class StudySettings(Strict):
    """Pretraining compared between arms by what fine-tuning makes of it, everything else equal.

    Each arm is pretrained on all corpora but finetune.corpus, then fine-tuned on that one, once a seed.
    A seed draws weights, batches and who is held out; all arms share it.
    """

    run_name: str = Field(default="emod-study", description="the same name resumes the same study")
    arms: dict[Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_.+ -]+$")], tuple[str, ...]] = Field(
        min_length=2, description='what differs, as for --set: {SoftVA: ["pretrain.objective=soft_va"]}'
    )
    effects: tuple[Literal["none", "weak", "medium", "strong"], ...] = Field(
        default=(),
        description="sizes of the simulated emotion, each with copies of its own below the addresses given; "
        "without any, the corpora are taken as they are",
    )
    seeds: int = Field(default=5, ge=1, description="repetitions, counted on from seed")

    @property
    def worlds(self) -> tuple[str, ...]:
        """What every arm is trained on, one after the other: the effects, or the recordings as they are."""
        return self.effects or (AS_IT_IS,)
