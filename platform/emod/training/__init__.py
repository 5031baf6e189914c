"""Ray Train: pretraining, fine-tuning, checkpoints. Importing it loads torch, ray.train and mlflow."""

from emod.training.finetune import Finetuned, finetune, fit_plane_head, score_test_subjects
from emod.training.pretrain import (
    Pretrained,
    count_steps,
    draws_per_region,
    held_out_subjects,
    load_pretrained,
    pretrain,
)

__all__ = [
    "Finetuned",
    "Pretrained",
    "count_steps",
    "draws_per_region",
    "finetune",
    "fit_plane_head",
    "held_out_subjects",
    "load_pretrained",
    "pretrain",
    "score_test_subjects",
]
