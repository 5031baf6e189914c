"""Ray Train: pretraining, fine-tuning, checkpoints. Importing it loads torch, ray.train and mlflow."""

from emod.training.backbone import load_backbone
from emod.training.finetune import (
    Finetuned,
    answer_test_windows,
    audit_finetuning,
    claim_finetuning,
    finetune,
    fit_plane_head,
    score_test_windows,
    training_rows,
)
from emod.training.pretrain import (
    Pretrained,
    claim_pretraining,
    count_steps,
    draws_per_region,
    held_out_subjects,
    load_pretrained,
    plan_pretraining,
    pretrain,
    trained_corpus,
)

__all__ = [
    "Finetuned",
    "Pretrained",
    "answer_test_windows",
    "audit_finetuning",
    "claim_finetuning",
    "claim_pretraining",
    "count_steps",
    "draws_per_region",
    "finetune",
    "fit_plane_head",
    "held_out_subjects",
    "load_backbone",
    "load_pretrained",
    "plan_pretraining",
    "pretrain",
    "score_test_windows",
    "trained_corpus",
    "training_rows",
]
