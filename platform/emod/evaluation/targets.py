"""What a model is asked to tell: the emotion word, low against high, the quadrant, or the place on the plane.

It makes codes from a metadata table. It does not balance classes, and it drops a window only where it says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emod.catalog import TargetName
from emod.errors import DataError, RequestError

__all__ = ["Target", "make_target"]

# Plane units. Shards may keep float32 coordinates; the finest rating steps in use are a hundred times coarser.
TIE = 1e-5

Ties = Literal["low", "high", "drop"]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Target:
    """Classes and one code per window, or a point per window.

    Attributes:
        name: One of `TargetName`.
        classes: Class names; a code is an index into them. None on the plane.
        codes: (n,) int64, -1 where the window has no class and must not be used; on the plane 0 throughout.
        rule: How the codes came about, in words.
        priors: class -> its share of the windows that have a class.
        points: (n, 2) valence and arousal in [-4, 4], on the plane alone.
        thresholds: axis -> where low ends, in plane units, where a target cuts an axis.
        fitted: Rows that a threshold was computed from.
    """

    name: TargetName
    classes: tuple[str, ...]
    codes: Codes
    rule: str
    priors: dict[str, float]
    points: npt.NDArray[np.float64] | None = None
    thresholds: dict[str, float] = field(default_factory=dict)
    fitted: Codes = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def rows(self) -> Codes:
        """Rows that have a class, ascending."""
        return np.flatnonzero(self.codes >= 0)


def make_target(
    metadata: pa.Table,
    target: TargetName,
    *,
    threshold: Literal["midpoint", "median"] | float = "midpoint",
    ties: Ties = "low",
    train: npt.ArrayLike | None = None,
) -> Target:
    """Class codes, or points, of the windows of a metadata table.

    Low and high are the two sides of a threshold: the scale's midpoint, which is 0 on the plane for every corpus, a
    number on the plane, or the median of the training windows. Where the label is an emotion word, its place on the
    plane is cut the same way, and the rule says so.

    Args:
        metadata: One row per window, with corpus, label_kind, emotion, valence and arousal.
        target: emotion (the corpus' own words, in alphabetical order), valence or arousal (low, high), quadrant (both),
            plane (no classes: the point itself).
        threshold: Where low ends.
        ties: What a value exactly at the threshold is. Integer scales have many.
        train: Rows whose median is taken; the median asks for them.

    Raises:
        RequestError: If emotion is asked of ratings, or all windows fall into one class.
        DataError: If a valence or arousal is missing or not finite.
        ValueError: If target, threshold or ties is not one of its words, or the median is asked without rows.
    """
    if target not in get_args(TargetName):
        raise ValueError(f"target {target!r} is not one of {', '.join(get_args(TargetName))}")
    if isinstance(threshold, str) and threshold not in {"midpoint", "median"}:
        raise ValueError(f"threshold {threshold!r} is not known: use midpoint, median or a number")
    if threshold == "median" and train is None:
        raise ValueError("threshold median is not known without training windows: give their rows")
    if ties not in get_args(Ties):
        raise ValueError(f"ties {ties!r} is not one of low, high, drop")

    if target == "plane":
        points = np.stack([_values(metadata, axis) for axis in ("valence", "arousal")], axis=1)
        rule = f"the place on the plane: {_measured(metadata, 'given as it is')}"
        return Target(target, (), np.zeros(len(points), dtype=np.int64), rule, {}, points)
    thresholds: dict[str, float] = {}
    if target == "emotion":
        codes, classes, rule = _emotion_codes(metadata)
    else:
        axes = ("valence", "arousal") if target == "quadrant" else (target,)
        thresholds = {axis: _threshold(metadata, axis, threshold, train) for axis in axes}
        codes, classes, rule = _side_codes(metadata, thresholds, _word_threshold(threshold, thresholds), ties)

    counts = np.bincount(codes[codes >= 0], minlength=len(classes))
    if np.count_nonzero(counts) < 2:
        only = classes[int(counts.argmax())] if counts.any() else "without a class"
        raise RequestError(
            f"target {target} of {_corpora(metadata)}: all {len(codes)} windows are {only} ({rule}): "
            "choose another target, threshold or ties rule"
        )
    priors = {name: float(count / counts.sum()) for name, count in zip(classes, counts, strict=True)}
    fitted = np.asarray(train if threshold == "median" and thresholds else [], dtype=np.int64)
    return Target(target, classes, codes, rule, priors, thresholds=thresholds, fitted=fitted)


def _emotion_codes(metadata: pa.Table) -> tuple[Codes, tuple[str, ...], str]:
    words = metadata["emotion"].to_pylist()
    classes = tuple(sorted({word for word in words if word is not None}))
    if not classes:
        raise RequestError(
            f"target emotion of {_corpora(metadata)}: its labels are ratings, not emotion words: "
            "set finetune.targets to valence or arousal"
        )
    place = {word: code for code, word in enumerate(classes)}
    codes = np.array([-1 if word is None else place[word] for word in words], dtype=np.int64)
    return codes, classes, "emotion: the corpus' own word"


def _side_codes(
    metadata: pa.Table, thresholds: dict[str, float], worded: str, ties: Ties
) -> tuple[Codes, tuple[str, ...], str]:
    """Codes of low and high, or of the four quadrants in the order of (valence, arousal)."""
    sides, tied = [], np.zeros(len(metadata), dtype=bool)
    for axis, threshold in thresholds.items():
        values = _values(metadata, axis) - threshold
        at = np.abs(values) <= TIE
        sides.append(np.where(at, ties == "high", values > 0).astype(np.int64))
        tied |= at
    fate = {"low": "ties low", "high": "ties high", "drop": "ties dropped"}[ties]
    codes = sides[0] if len(sides) == 1 else 2 * sides[0] + sides[1]
    if ties == "drop":
        codes[tied] = -1
    names = " and ".join(f"high {axis}" for axis in thresholds)
    rule = f"{names}: {_measured(metadata, worded)}; {fate} ({int(tied.sum())} of {len(tied)} windows)"
    if len(sides) == 1:
        return codes, ("low", "high"), rule
    words = ("low", "high")
    return codes, tuple(f"{v} valence, {a} arousal" for v in words for a in words), rule


def _values(metadata: pa.Table, axis: str) -> npt.NDArray[np.float64]:
    values = np.array([np.nan if value is None else value for value in metadata[axis].to_pylist()], dtype=np.float64)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise DataError(
            f"{axis} of window {metadata['window_id'][row].as_py()} is {values[row]}: ingest its corpus again"
        )
    return values


def _threshold(
    metadata: pa.Table, axis: str, threshold: Literal["midpoint", "median"] | float, train: npt.ArrayLike | None
) -> float:
    if threshold == "midpoint":
        return 0.0
    if threshold == "median":
        return float(np.median(_values(metadata, axis)[np.asarray(train, dtype=np.int64)]))
    return float(threshold)


def _word_threshold(threshold: Literal["midpoint", "median"] | float, found: dict[str, float]) -> str:
    if threshold == "midpoint":
        return "above the scale's midpoint"
    places = " and ".join(f"{value:.3g} for {axis}" for axis, value in found.items())
    return f"above {'the median of the training windows' if threshold == 'median' else 'a fixed point'} ({places})"


def _measured(metadata: pa.Table, place: str) -> str:
    """What was measured, and where it lies."""
    kinds = set(metadata["label_kind"].to_pylist())
    on_plane = place.replace("the scale's midpoint", "0")
    word = f"emotion word placed {on_plane} on the plane" if place.startswith("above") else "emotion word's point"
    ways = {"rating": f"rating {place}", "emotion": word}
    return ", or ".join(text for kind, text in ways.items() if kind in kinds)


def _corpora(metadata: pa.Table) -> str:
    return ", ".join(sorted(set(metadata["corpus"].to_pylist()))) or "an empty table"
