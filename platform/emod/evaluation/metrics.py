"""Scores of predicted classes and points, their uncertainty over subjects, and a control that sees no EEG.

It scores predictions; it makes none, except the control's. Every score rests on scikit-learn; only the bootstrap, which
needs thousands of them, works on stacks of confusion matrices instead (a test compares the two).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.dummy import DummyClassifier
from sklearn.metrics import (
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    recall_score,
    roc_auc_score,
    root_mean_squared_error,
)

__all__ = [
    "AxisScores",
    "Evaluation",
    "Interval",
    "PlaneEvaluation",
    "PlaneScores",
    "Scores",
    "balanced_accuracy_of",
    "evaluate",
    "evaluate_plane",
    "majority_class",
    "score",
    "score_plane",
    "subject_interval",
]

Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Scores of one set of predictions, as fractions (kappa: -1..1).

    Attributes:
        classes: Class names.
        confusion: Windows by (true class, predicted class).
        balanced_accuracy: Mean recall over the classes that occur among the true labels.
        kappa: Cohen's kappa; 0 where it is undefined (one class only, predicted throughout).
        weighted_f1: F1 per class, weighted by its true windows; 0 for a class that is never predicted.
        recall: Of each class; None for one that does not occur among the true labels.
        chance: Balanced accuracy of any prediction that ignores the input: 1 / classes that occur.
        n_windows: Windows scored.
        n_subjects: Subjects they came from; None if not told.
        auroc: Area under the curve of each class against the rest, mean over the classes that occur; None without
            probabilities, or with one class.
        calibration_error: Expected calibration error (Naeini et al. 2015) of the probability of the predicted class, 15
            bins; None without probabilities.
    """

    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    balanced_accuracy: float
    kappa: float
    weighted_f1: float
    recall: tuple[float | None, ...]
    chance: float
    n_windows: int
    n_subjects: int | None = None
    auroc: float | None = None
    calibration_error: float | None = None


@dataclass(frozen=True)
class Interval:
    """Percentile bootstrap interval over subjects."""

    low: float
    high: float
    level: float
    n_subjects: int

    def above(self, value: float) -> bool:
        """Whether the LOWER bound exceeds a value, as the claim "better than chance" needs."""
        return self.low > value


@dataclass(frozen=True)
class Evaluation:
    """One target on the test windows: scores, interval (None with one subject), and the majority-class control."""

    target: str
    scores: Scores
    interval: Interval | None
    majority: Scores

    @property
    def above_chance(self) -> bool:
        """Whether the interval's lower bound exceeds chance; False where there is no interval."""
        return self.interval is not None and self.interval.above(self.scores.chance)

    def record(self) -> dict[str, Any]:
        """Everything a report states, ready for JSON."""
        return asdict(self) | {"above_chance": self.above_chance}


def score(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    classes: tuple[str, ...],
    *,
    subjects: npt.ArrayLike | None = None,
    probabilities: npt.ArrayLike | None = None,
) -> Scores:
    """Scores of predicted classes, by scikit-learn, and of their probabilities where they are given.

    Args:
        y_true: (n,) class codes, n >= 1.
        y_pred: (n,) class codes.
        classes: Names; codes index them. A class may be absent from y_true, from y_pred, or from both.
        subjects: (n,) subject of each window, only counted here.
        probabilities: (n, classes), rows sum to 1.

    Raises:
        ValueError: If lengths differ, nothing is given, a code is outside the classes, or a row is no distribution.
    """
    true, predicted = _checked_codes(y_true, y_pred, len(classes))
    labels = np.arange(len(classes))
    present = np.unique(true)
    # A single label on both sides has no disagreement by chance to correct for: 0 / 0, reported as 0 like any control.
    undefined = len(np.union1d(true, predicted)) == 1
    recall = recall_score(true, predicted, labels=labels, average=None, zero_division=0)
    likely = None if probabilities is None else _checked_probabilities(probabilities, len(true), len(classes))
    return Scores(
        classes=tuple(classes),
        confusion=tuple(tuple(int(n) for n in row) for row in confusion_matrix(true, predicted, labels=labels)),
        balanced_accuracy=float(recall_score(true, predicted, labels=present, average="macro", zero_division=0)),
        kappa=0.0 if undefined else float(cohen_kappa_score(true, predicted)),
        weighted_f1=float(f1_score(true, predicted, labels=labels, average="weighted", zero_division=0)),
        recall=tuple(float(share) if code in present else None for code, share in enumerate(recall)),
        chance=1 / len(present),
        n_windows=len(true),
        n_subjects=None if subjects is None else len(np.unique(np.asarray(subjects))),
        auroc=None if likely is None else _auroc(true, likely, present),
        calibration_error=None if likely is None else _calibration_error(true, likely),
    )


def _auroc(true: Codes, probabilities: Floats, present: Codes) -> float | None:
    if len(present) < 2:
        return None
    # A class that does not occur has no curve; scikit-learn's own mean over classes asks for all of them.
    return float(np.mean([roc_auc_score(true == code, probabilities[:, code]) for code in present]))


def _calibration_error(true: Codes, probabilities: Floats) -> float:
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    likely, codes = torch.from_numpy(probabilities), torch.from_numpy(true)
    return float(multiclass_calibration_error(likely, codes, num_classes=probabilities.shape[1], n_bins=15))


@dataclass(frozen=True)
class AxisScores:
    """Scores of one axis of the plane.

    Attributes:
        ccc: Lin's concordance correlation coefficient (1989), moments over n - 1, -1..1: right in order, scale and
            place.
        pearson: Correlation, -1..1: right in order and proportion alone.
        rmse: Root of the mean squared error, in plane units.
    """

    ccc: float
    pearson: float
    rmse: float


@dataclass(frozen=True)
class PlaneScores:
    """Scores of predicted points of the plane; a constant prediction has a ccc and a pearson of 0."""

    valence: AxisScores
    arousal: AxisScores
    n_windows: int
    n_subjects: int | None = None

    @property
    def mean_ccc(self) -> float:
        """Of both axes: by what the best epoch is chosen."""
        return (self.valence.ccc + self.arousal.ccc) / 2


def score_plane(true: npt.ArrayLike, predicted: npt.ArrayLike, *, subjects: npt.ArrayLike | None = None) -> PlaneScores:
    """Concordance, correlation and error of points of the plane, by torchmetrics and scikit-learn.

    Args:
        true: (n, 2) valence and arousal in [-4, 4], n >= 2.
        predicted: (n, 2).
        subjects: (n,) subject of each window, only counted here.

    Raises:
        ValueError: If shapes differ, there are fewer than two points, or one is not finite.
    """
    points, guesses = np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or points.shape != guesses.shape or len(points) < 2:
        raise ValueError(f"true {points.shape} and predicted {guesses.shape} must be two lists of at least 2 points")
    if not (np.isfinite(points).all() and np.isfinite(guesses).all()):
        raise ValueError("a point is not finite; drop windows without a place on the plane")
    valence, arousal = (_score_axis(points[:, axis], guesses[:, axis]) for axis in (0, 1))
    n_subjects = None if subjects is None else len(np.unique(np.asarray(subjects)))
    return PlaneScores(valence, arousal, len(points), n_subjects)


def _score_axis(true: Floats, predicted: Floats) -> AxisScores:
    import torch
    from torchmetrics.functional import concordance_corrcoef, pearson_corrcoef

    rmse = float(root_mean_squared_error(true, predicted))
    if np.ptp(true) == 0 or np.ptp(predicted) == 0:
        return AxisScores(0.0, 0.0, rmse)
    both = torch.from_numpy(predicted.copy()), torch.from_numpy(true.copy())
    return AxisScores(float(concordance_corrcoef(*both)), float(pearson_corrcoef(*both)), rmse)


def balanced_accuracy_of(confusion: npt.ArrayLike) -> Floats:
    """Balanced accuracy of each of a stack of confusion matrices, over the classes present in that matrix.

    Args:
        confusion: (..., K, K) windows by (true, predicted), at least one window in each matrix.

    Returns:
        (...,) fractions.
    """
    matrices = np.asarray(confusion, dtype=np.float64)
    windows = matrices.sum(axis=-1)
    correct = np.diagonal(matrices, axis1=-2, axis2=-1)
    recall = np.divide(correct, windows, out=np.zeros_like(correct), where=windows > 0)
    mean: Floats = recall.sum(axis=-1) / np.count_nonzero(windows, axis=-1)
    return mean


def subject_interval(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    subjects: npt.ArrayLike,
    *,
    statistic: Callable[[npt.ArrayLike], Floats] = balanced_accuracy_of,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval | None:
    """Bootstrap interval of a statistic over SUBJECTS, percentile method.

    Windows of one subject are not independent, so whole subjects are drawn with replacement, as many as there are, and
    the statistic is taken over all windows drawn. Resamples that lack a class which the whole has are left out: where
    one person alone holds a class, the interval is conditional on that person. With few subjects the interval is too
    narrow rather than too wide: it cannot know people it has not seen.

    Args:
        y_true: (n_windows,) class codes.
        y_pred: (n_windows,) class codes.
        subjects: (n_windows,) subject of each window.
        statistic: (..., K, K) confusion matrices -> (...,).
        n: Resamples.
        seed: Of the draws.
        level: Coverage, in (0, 1).

    Returns:
        The interval, or None with fewer than two subjects or no resample that holds every class.

    Raises:
        ValueError: If lengths differ, or level or n is out of range.
    """
    if not 0 < level < 1 or n < 1:
        raise ValueError(f"level {level} must lie in (0, 1) and n {n} be at least 1")
    owners = np.asarray(subjects)
    true, predicted = _checked_codes(y_true, y_pred, None)
    if owners.shape != true.shape:
        raise ValueError(f"{len(owners)} subjects for {len(true)} windows: give one for each window")
    names, owner = np.unique(owners, return_inverse=True)
    if len(names) < 2:
        return None
    n_classes = int(max(true.max(), predicted.max())) + 1
    # One confusion matrix a subject; a resample is then a weighted sum of them.
    confusion = np.zeros((len(names), n_classes, n_classes))
    np.add.at(confusion, (owner, true, predicted), 1)
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
    resampled = np.tensordot(draws, confusion, axes=1)
    # A resample without a rare class asks an easier or a harder question than the one reported: it is left out.
    present = confusion.sum(axis=(0, 2)) > 0
    whole = (resampled.sum(axis=-1) > 0)[:, present].all(axis=-1)
    if not whole.any():
        return None
    values = statistic(resampled[whole])
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, len(names))


def majority_class(
    y_train: npt.ArrayLike, y_test: npt.ArrayLike, classes: tuple[str, ...], *, subjects: npt.ArrayLike | None = None
) -> Scores:
    """Scores on the test windows of the control that always answers the commonest class of the training windows.

    Its balanced accuracy is chance, or 0 if the test windows lack that class; its weighted F1 shows what imbalance
    alone earns.
    """
    train = np.asarray(y_train)
    test = np.asarray(y_test)
    control = DummyClassifier(strategy="most_frequent").fit(np.zeros((len(train), 1)), train)
    return score(test, control.predict(np.zeros((len(test), 1))), classes, subjects=subjects)


def evaluate(
    target: str,
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    subjects: npt.ArrayLike,
    classes: tuple[str, ...],
    *,
    y_train: npt.ArrayLike,
    probabilities: npt.ArrayLike | None = None,
    seed: int = 0,
) -> Evaluation:
    """Scores, 95 % subject interval of the balanced accuracy, and the majority-class control, for one target.

    Args:
        target: Its name, for reports.
        y_true: (n,) codes of the test windows.
        y_pred: (n,) predicted codes.
        subjects: (n,) test subject of each window.
        classes: Names of the codes.
        y_train: Codes of the training windows, for the control.
        probabilities: (n, classes), for what scores them.
        seed: Of the bootstrap.
    """
    return Evaluation(
        target=target,
        scores=score(y_true, y_pred, classes, subjects=subjects, probabilities=probabilities),
        interval=subject_interval(y_true, y_pred, subjects, seed=seed),
        majority=majority_class(y_train, y_true, classes, subjects=subjects),
    )


@dataclass(frozen=True)
class PlaneEvaluation:
    """The plane on the test windows: scores, and those of the control that answers the training windows' mean."""

    scores: PlaneScores
    mean_point: PlaneScores
    target: str = "plane"

    def record(self) -> dict[str, Any]:
        """Everything a report states, ready for JSON."""
        return asdict(self)


def evaluate_plane(
    true: npt.ArrayLike, predicted: npt.ArrayLike, subjects: npt.ArrayLike, *, train: npt.ArrayLike
) -> PlaneEvaluation:
    """Scores of predicted points of the test windows beside the control's.

    Args:
        true: (n, 2) points.
        predicted: (n, 2).
        subjects: (n,) test subject of each window.
        train: (m, 2) points of the training windows, for the control.
    """
    middle = np.asarray(train, dtype=np.float64).mean(axis=0)
    guesses = np.tile(middle, (len(np.asarray(true)), 1))
    return PlaneEvaluation(
        score_plane(true, predicted, subjects=subjects), score_plane(true, guesses, subjects=subjects)
    )


def _checked_probabilities(probabilities: npt.ArrayLike, n: int, n_classes: int) -> Floats:
    likely = np.asarray(probabilities, dtype=np.float64)
    if likely.shape != (n, n_classes):
        raise ValueError(f"probabilities {likely.shape} for {n} windows of {n_classes} classes")
    if not (likely >= 0).all() or not np.allclose(likely.sum(axis=1), 1, atol=1e-3):
        raise ValueError("a row of probabilities is no distribution: give softmax(logits)")
    return likely


def _checked_codes(y_true: npt.ArrayLike, y_pred: npt.ArrayLike, n_classes: int | None) -> tuple[Codes, Codes]:
    true = np.asarray(y_true)
    predicted = np.asarray(y_pred)
    if true.ndim != 1 or true.shape != predicted.shape or not len(true):
        raise ValueError(
            f"y_true {true.shape} and y_pred {predicted.shape} must be two lists of the same length, at least 1"
        )
    for name, codes in (("y_true", true), ("y_pred", predicted)):
        if not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(f"{name} holds {codes.dtype}, not integer class codes")
        if codes.min() < 0 or (n_classes is not None and codes.max() >= n_classes):
            raise ValueError(
                f"{name} holds codes {codes.min()}..{codes.max()} of {n_classes} classes: drop windows without a class"
            )
    return true.astype(np.int64), predicted.astype(np.int64)
