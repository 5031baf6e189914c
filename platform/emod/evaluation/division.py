"""Fine-tuning's question as one object: what is told apart, and which windows train, choose and test."""

from __future__ import annotations

import pyarrow as pa

from emod.catalog import FinetuneSettings, TargetName
from emod.errors import RequestError
from emod.evaluation.protocols import make_splits
from emod.evaluation.split import Split
from emod.evaluation.targets import Target, make_target

__all__ = ["divide", "divide_into_folds"]


def divide_into_folds(
    metadata: pa.Table, settings: FinetuneSettings, target_name: TargetName
) -> list[tuple[Target, Split]]:
    """Every fold of the protocol with its target. A split is over ALL windows: those without a class are in it.

    Args:
        metadata: Of finetune's corpus; for the protocol cross_corpus, of those it learns from too.
        settings: The protocol and the target's rule.
        target_name: What is told apart.

    Raises:
        RequestError, DataError: As `make_target` and `make_splits`.
    """
    codes = None
    if settings.split.protocol == "few_shot":
        if settings.threshold == "median":
            raise RequestError(
                "finetune.threshold = median: few_shot chooses windows by class before anybody trains; use midpoint or "
                "a number"
            )
        # Shots of the plane are spread over its quadrants.
        asked = "quadrant" if target_name == "plane" else target_name
        codes = make_target(metadata, asked, threshold=settings.threshold, ties=settings.ties).codes
    splits = make_splits(metadata, settings.split, codes=codes)
    if settings.threshold != "median":
        target = make_target(metadata, target_name, threshold=settings.threshold, ties=settings.ties)
        return [(target, split) for split in splits]
    return [
        (make_target(metadata, target_name, threshold="median", ties=settings.ties, train=split.train), split)
        for split in splits
    ]


def divide(metadata: pa.Table, settings: FinetuneSettings, target_name: TargetName) -> tuple[Target, Split]:
    """As `divide_into_folds`, the one fold that ``settings.split.fold`` names."""
    folds = divide_into_folds(metadata, settings, target_name)
    fold = settings.split.fold
    if fold > len(folds):
        raise RequestError(
            f"finetune.split.fold = {fold}: protocol {settings.split.protocol} has {len(folds)} fold(s) here; "
            "give one of them"
        )
    return folds[fold - 1]
