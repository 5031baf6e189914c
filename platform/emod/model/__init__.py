"""The EMOD network: torch modules that know shapes and electrode names, not ranks, files or corpora."""

from __future__ import annotations

from emod.catalog.model import EmodConfig
from emod.model.classifier import EmodClassifier
from emod.model.emod import Emod, count_tokens
from emod.model.heads import AttentionPool, PlaneHead, ProjectionHead
from emod.model.weights import load_emod, load_weights, read_config, save_weights

__all__ = [
    "AttentionPool",
    "Emod",
    "EmodClassifier",
    "EmodConfig",
    "PlaneHead",
    "ProjectionHead",
    "count_tokens",
    "load_emod",
    "load_weights",
    "read_config",
    "save_weights",
]
