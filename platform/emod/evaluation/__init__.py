"""Splits, targets, scores, controls and figures: what a result is worth and how it is shown.

It trains nothing and reads no store: metadata tables and predictions come in, numbers and pictures go out. The figures
are loaded when first asked for, so that scoring does not wait for matplotlib.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emod.evaluation.audit import Backbone, Finding, audit_split, leaks
from emod.evaluation.comparison import ArmScore, compare_arms
from emod.evaluation.controls import CONTROLS, clips_of, control_probabilities, shuffle_labels
from emod.evaluation.division import divide, divide_into_folds
from emod.evaluation.metrics import (
    Evaluation,
    Interval,
    PlaneEvaluation,
    PlaneScores,
    Scores,
    evaluate,
    evaluate_plane,
    majority_class,
    score,
    score_plane,
    subject_interval,
)
from emod.evaluation.protocols import PROTOCOLS, make_splits
from emod.evaluation.split import ROLES, Split, read_split, write_split
from emod.evaluation.summary import (
    MethodSummary,
    PairedDifference,
    TargetSummary,
    compare_subjects,
    per_subject,
    summarise_target,
)
from emod.evaluation.targets import Target, make_target

if TYPE_CHECKING:
    from emod.evaluation.figures import (
        draw_cleaning,
        draw_comparison,
        draw_confusion,
        draw_loss,
        draw_plane,
        draw_results,
        draw_spectrum,
    )
    from emod.evaluation.spectra import alpha_peak_hz, alpha_prominence_db, power_spectrum

__all__ = [
    "CONTROLS",
    "PROTOCOLS",
    "ROLES",
    "ArmScore",
    "Backbone",
    "Evaluation",
    "Finding",
    "Interval",
    "MethodSummary",
    "PairedDifference",
    "PlaneEvaluation",
    "PlaneScores",
    "Scores",
    "Split",
    "Target",
    "TargetSummary",
    "alpha_peak_hz",
    "alpha_prominence_db",
    "audit_split",
    "clips_of",
    "compare_arms",
    "compare_subjects",
    "control_probabilities",
    "divide",
    "divide_into_folds",
    "draw_cleaning",
    "draw_comparison",
    "draw_confusion",
    "draw_loss",
    "draw_plane",
    "draw_results",
    "draw_spectrum",
    "evaluate",
    "evaluate_plane",
    "leaks",
    "majority_class",
    "make_splits",
    "make_target",
    "per_subject",
    "power_spectrum",
    "read_split",
    "score",
    "score_plane",
    "shuffle_labels",
    "subject_interval",
    "summarise_target",
    "write_split",
]


def __getattr__(name: str) -> Any:
    if name.startswith("draw_") and name in __all__:
        from emod.evaluation import figures

        return getattr(figures, name)
    if name in {"alpha_peak_hz", "alpha_prominence_db", "power_spectrum"}:
        from emod.evaluation import spectra

        return getattr(spectra, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
