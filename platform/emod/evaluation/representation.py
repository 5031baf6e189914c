"""What an embedding is worth before anything is trained on it: how it is spread, and whether emotion orders it.

Pure functions of arrays; which windows they are shown is decided elsewhere. Shapes: n windows, D width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from sklearn.neighbors import KNeighborsClassifier

from emod.evaluation.metrics import Scores, score
from emod.evaluation.targets import TIE

__all__ = ["alignment", "emotion_classes", "knn_scores", "uniformity", "va_rank_correlation"]

Floats = npt.NDArray[np.floating]


def alignment(z: Floats, weights: Floats) -> float:
    """Mean squared distance of positive pairs (Wang and Isola 2020, alpha = 2), each pair counted by its weight.

    With the soft weights of the plane (`emod.objective.va_weights`) as positives whatever a run was trained on, runs of
    all objectives can be compared.

    Args:
        z: (n, D) unit rows.
        weights: (n, n), >= 0, symmetric; its diagonal is ignored.

    Returns:
        In [0, 4]; 0 where positives coincide. NaN where no pair has a weight.
    """
    upper = np.triu_indices(len(z), 1)
    weight = np.asarray(weights, dtype=np.float64)[upper]
    if not weight.sum() > 0:
        return float("nan")
    return float(np.average(pdist(z, "sqeuclidean"), weights=weight))


def uniformity(z: Floats) -> float:
    """Logarithm of the mean of exp(-2 squared distance) over all pairs (Wang and Isola 2020, t = 2).

    Args:
        z: (n, D) unit rows, n >= 2.

    Returns:
        In [-8, 0]; 0 where all rows are one, about -4 where they are spread evenly in many dimensions.
    """
    return float(np.log(np.exp(-2 * pdist(z, "sqeuclidean")).mean()))


def va_rank_correlation(embedding: Floats, va: Floats, subjects: npt.ArrayLike) -> float:
    """Spearman's correlation of two distances of each pair of windows: on the plane, and in the embedding.

    Pairs within one subject are left out. Windows of one trial are near each other in both, whatever the embedding
    knows of emotion, and those of one person in the embedding alone.

    Args:
        embedding: (n, D); Euclidean distances are taken, so give unit rows for the order of the cosine.
        va: (n, 2) points of the plane.
        subjects: (n,) whose each window is, unique over corpora.

    Returns:
        In [-1, 1]; NaN with a single subject, or where either distance is the same for all pairs.
    """
    _, owner = np.unique(np.asarray(subjects), return_inverse=True)
    first, second = np.triu_indices(len(owner), 1)
    apart = owner[first] != owner[second]
    on_plane, embedded = pdist(va)[apart], pdist(embedding)[apart]
    if len(on_plane) < 2 or np.ptp(on_plane) == 0 or np.ptp(embedded) == 0:
        return float("nan")
    return float(spearmanr(on_plane, embedded).statistic)


def knn_scores(
    reference: Floats, reference_labels: npt.ArrayLike, queries: Floats, labels: npt.ArrayLike, *, neighbours: int = 10
) -> Scores:
    """Scores of the commonest label among the nearest references by cosine.

    Args:
        reference: (m, D) embeddings of windows with known labels, of other subjects than the queries.
        reference_labels: (m,) class names.
        queries: (n, D), n >= 1.
        labels: (n,) their class names; one that no reference has is never predicted.
        neighbours: How many vote; all references where there are fewer.
    """
    known, asked = np.asarray(reference_labels, dtype=str), np.asarray(labels, dtype=str)
    classes = np.unique(np.concatenate([known, asked]))
    voters = KNeighborsClassifier(min(neighbours, len(known)), metric="cosine", algorithm="brute")
    predicted = voters.fit(reference, np.searchsorted(classes, known)).predict(queries)
    return score(np.searchsorted(classes, asked), predicted, tuple(classes.tolist()))


def emotion_classes(metadata: pa.Table) -> npt.NDArray[np.str_]:
    """(n,) class of each window: the corpus' own word where all have one, else the quadrant of the plane, ties low."""
    if not metadata["emotion"].null_count:
        return np.asarray(metadata["emotion"].to_pylist(), dtype=str)
    sides = [np.where(metadata[axis].to_numpy() > TIE, "high", "low") for axis in ("valence", "arousal")]
    return np.asarray([f"{valence} valence, {arousal} arousal" for valence, arousal in zip(*sides, strict=True)])
