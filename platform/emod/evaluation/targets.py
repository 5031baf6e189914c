"""What a classifier is asked to tell: the emotion word, or low against high valence or arousal.

It makes codes from a metadata table. It does not balance classes, and it drops a window only where it says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emod.errors import DataError, RequestError

__all__ = ["Target", "make_target"]

# Plane units. Shards may keep float32 coordinates; the finest rating steps in use are a hundred times coarser.
TIE = 1e-5


@dataclass(frozen=True, eq=False)
class Target:
    """Classes and one code per window.

    Attributes:
        name: emotion, valence or arousal.
        classes: Class names; a code is an index into them.
        codes: (n,) int64, -1 where the window has no class and must not be used.
        rule: How the codes came about, in words.
        priors: class -> its share of the windows that have a class.
    """

    name: str
    classes: tuple[str, ...]
    codes: npt.NDArray[np.int64]
    rule: str
    priors: dict[str, float]

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Rows that have a class, ascending."""
        return np.flatnonzero(self.codes >= 0)


def make_target(
    metadata: pa.Table,
    target: Literal["emotion", "valence", "arousal"],
    *,
    threshold: Literal["midpoint"] = "midpoint",
    ties: Literal["low", "high", "drop"] = "low",
) -> Target:
    """Class codes of the windows of a metadata table.

    Low and high are the two sides of the scale's midpoint, which is 0 on the plane for every corpus. Where the label is
    an emotion word, its place on the plane is cut the same way, and the rule says so.

    Args:
        metadata: One row per window, with corpus, label_kind, emotion, valence and arousal.
        target: emotion (the corpus' own words, in alphabetical order), valence or arousal (low, high).
        threshold: Where low ends; only the scale's midpoint so far.
        ties: What a value exactly at the threshold is. Integer scales have many.

    Raises:
        RequestError: If emotion is asked of ratings, or all windows fall into one class.
        DataError: If a valence or arousal is missing or not finite.
        ValueError: If target, threshold or ties is not one of its words.
    """
    if target not in {"emotion", "valence", "arousal"}:
        raise ValueError(f"target {target!r} is not one of emotion, valence, arousal")
    if threshold != "midpoint":
        raise ValueError(f"threshold {threshold!r} is not known: use midpoint")
    if ties not in {"low", "high", "drop"}:
        raise ValueError(f"ties {ties!r} is not one of low, high, drop")

    if target == "emotion":
        codes, classes, rule = _emotion_codes(metadata)
    else:
        codes, classes, rule = _side_codes(metadata, target, ties)

    counts = np.bincount(codes[codes >= 0], minlength=len(classes))
    if np.count_nonzero(counts) < 2:
        only = classes[int(counts.argmax())] if counts.any() else "without a class"
        raise RequestError(
            f"target {target} of {_corpora(metadata)}: all {len(codes)} windows are {only} ({rule}): "
            "choose another target or ties rule"
        )
    priors = {name: float(count / counts.sum()) for name, count in zip(classes, counts, strict=True)}
    return Target(target, classes, codes, rule, priors)


def _emotion_codes(metadata: pa.Table) -> tuple[npt.NDArray[np.int64], tuple[str, ...], str]:
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


def _side_codes(metadata: pa.Table, target: str, ties: str) -> tuple[npt.NDArray[np.int64], tuple[str, ...], str]:
    values = np.array([np.nan if value is None else value for value in metadata[target].to_pylist()], dtype=np.float64)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise DataError(
            f"{target} of window {metadata['window_id'][row].as_py()} is {values[row]}: ingest its corpus again"
        )
    tied = np.abs(values) <= TIE
    codes = np.where(values > 0, 1, 0).astype(np.int64)
    codes[tied] = {"low": 0, "high": 1, "drop": -1}[ties]
    kinds = set(metadata["label_kind"].to_pylist())
    measured = {
        frozenset({"rating"}): "rating above the scale's midpoint",
        frozenset({"emotion"}): "emotion word placed above 0 on the plane",
    }.get(frozenset(kinds), "rating above the scale's midpoint, or emotion word placed above 0 on the plane")
    fate = {"low": "ties low", "high": "ties high", "drop": "ties dropped"}[ties]
    return codes, ("low", "high"), f"high {target}: {measured}; {fate} ({int(tied.sum())} of {len(values)} windows)"


def _corpora(metadata: pa.Table) -> str:
    return ", ".join(sorted(set(metadata["corpus"].to_pylist()))) or "an empty table"
