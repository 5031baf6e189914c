"""Losses as pure functions of tensors, and the gather that makes them global."""

from __future__ import annotations

from emod.objective.augment import augment
from emod.objective.contrastive import contrastive_loss, same_id_weights, va_contrastive_loss, va_weights
from emod.objective.gather import gather_rows

__all__ = ["augment", "contrastive_loss", "gather_rows", "same_id_weights", "va_contrastive_loss", "va_weights"]
