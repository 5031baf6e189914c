"""What an ablation IS: arms of pretraining or of the network, each judged on the same benchmarks."""

from __future__ import annotations

from pydantic import Field

from emod.catalog.evaluate import MethodLabel
from emod.catalog.strict import Strict

__all__ = ["AblationSettings"]


class AblationSettings(Strict):
    """The paper's Table 3 and Figure 3: each arm pretrained, then fine-tuned on every benchmark, the rest equal.

    Arms are pretrained on pretrain.corpora and evaluated under the settings of `evaluate`, whose methods they become;
    the first arm is what the others are held against. Each benchmark has a store of its own below addresses.store,
    pretraining too.
    """

    run_name: str = Field(default="emod-ablation", description="the same name resumes the same ablation")
    arms: dict[MethodLabel, tuple[str, ...]] = Field(
        min_length=2,
        description="what differs in model, pretrain or finetune, as for --set: "
        '{EMOD-HardVA: ["pretrain.objective=hard_va"]}; under the paper\'s names they stand beside its figures',
    )
    benchmarks: dict[MethodLabel, tuple[str, ...]] = Field(
        min_length=1,
        description="what differs in signal or finetune: "
        '{SEED: ["finetune.corpus=seed", "finetune.split.protocol=seed_paper", "signal.window_s=5"]}',
    )
    pretrain_each_seed: bool = Field(
        default=False,
        description="true: each seed of an arm starts from a pretraining of its own; false: all from one",
    )
