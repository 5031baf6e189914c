"""Figures of an embedding against closed forms, brute force, and what they must say of no structure at all."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import hyp0f1
from scipy.stats import rankdata

from emod.evaluation.representation import alignment, emotion_classes, knn_scores, uniformity, va_rank_correlation


def on_sphere(n: int, width: int, seed: int = 0) -> np.ndarray:
    z = np.random.default_rng(seed).standard_normal((n, width))
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def random_rotation(width: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(1).standard_normal((width, width)))[0]


@pytest.mark.parametrize("width", [3, 16, 128])
def test_uniformity_of_the_uniform_sphere(width: int) -> None:
    """E exp(-2 |x - y|^2) = exp(-4) 0F1(; D/2; 4) for independent uniform points of the sphere."""
    expected = np.log(np.exp(-4) * hyp0f1(width / 2, 4))
    assert uniformity(on_sphere(2000, width)) == pytest.approx(expected, abs=0.02)


def test_uniformity_at_its_ends() -> None:
    one = np.tile(on_sphere(1, 5), (7, 1))
    assert uniformity(one) == pytest.approx(0, abs=1e-12)
    assert uniformity(np.array([[1.0, 0], [-1, 0]])) == pytest.approx(-8)


def test_alignment_is_the_weighted_mean_over_pairs() -> None:
    z, rng = on_sphere(9, 4), np.random.default_rng(2)
    weights = rng.uniform(size=(9, 9)) * (rng.uniform(size=(9, 9)) < 0.5)
    weights = weights + weights.T  # with a diagonal, which must not count
    pairs = list(itertools.combinations(range(9), 2))
    total = sum(weights[i, j] * ((z[i] - z[j]) ** 2).sum() for i, j in pairs)
    assert alignment(z, weights) == pytest.approx(total / sum(weights[i, j] for i, j in pairs), rel=1e-12)
    assert np.isnan(alignment(z, np.eye(9)))


def test_alignment_sees_only_positives() -> None:
    """Two tight, opposite clusters: 0 within them, 4 across."""
    z = np.repeat([[1.0, 0], [-1, 0]], 3, axis=0)
    same = np.equal.outer(z[:, 0], z[:, 0]).astype(float)
    assert alignment(z, same) == pytest.approx(0)
    assert alignment(z, 1 - same) == pytest.approx(4)


def test_correlation_of_an_isometry_is_one() -> None:
    """The plane itself, turned and shifted in a wider space, stretched by any factor."""
    rng = np.random.default_rng(0)
    va, subjects = rng.uniform(-4, 4, (40, 2)), np.arange(40) % 5
    wide = 3 * np.pad(va, ((0, 0), (0, 6))) @ random_rotation(8) + 1
    assert va_rank_correlation(wide, va, subjects) == pytest.approx(1, abs=1e-12)
    shuffled = va_rank_correlation(wide[rng.permutation(40)], va, subjects)
    assert abs(shuffled) < 0.15


def test_pairs_within_a_subject_do_not_count() -> None:
    """Each subject's windows lie on a spot of their own in the embedding, and share one point of the plane."""
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(6), 8)
    va = rng.uniform(-4, 4, (6, 2))[subjects]
    embedding = rng.standard_normal((6, 5))[subjects] + 1e-3 * rng.standard_normal((48, 5))
    pairs = [(i, j) for i, j in itertools.combinations(range(48), 2) if subjects[i] != subjects[j]]
    distances = [[np.linalg.norm(x[i] - x[j]) for i, j in pairs] for x in (va, embedding)]
    expected = np.corrcoef([rankdata(np.round(d, 12)) for d in distances])[0, 1]
    assert va_rank_correlation(embedding, va, subjects) == pytest.approx(expected, abs=1e-3)
    everyone = va_rank_correlation(embedding, va, np.arange(48))
    assert everyone > expected + 0.05
    assert np.isnan(va_rank_correlation(embedding, va, np.zeros(48)))
    assert np.isnan(va_rank_correlation(np.ones((48, 5)), va, subjects)), "a collapsed embedding orders nothing"


def test_neighbours_vote_by_cosine() -> None:
    """By brute force; lengths of the rows say nothing."""
    rng = np.random.default_rng(3)
    reference, queries = rng.standard_normal((30, 4)), rng.standard_normal((50, 4))
    known, asked = rng.choice(["fear", "happy", "sad"], 30), rng.choice(["happy", "sad"], 50)
    hits: dict[str, list[bool]] = {"happy": [], "sad": []}
    for query, label in zip(queries, asked, strict=True):
        cosine = reference @ query / np.linalg.norm(reference, axis=1)
        votes = known[np.argsort(-cosine)[:7]].tolist()
        hits[label].append(max(sorted(set(votes)), key=votes.count) == label)
    found = knn_scores(
        reference * rng.uniform(0.1, 9, (30, 1)), known, queries * rng.uniform(0.1, 9, (50, 1)), asked, neighbours=7
    )
    assert found.balanced_accuracy == pytest.approx(np.mean([np.mean(h) for h in hits.values()]))
    assert (found.chance, found.n_windows) == (0.5, 50)


def test_separate_clusters_are_told_apart_and_shuffled_labels_are_not() -> None:
    rng = np.random.default_rng(0)
    centres = 5 * np.eye(4, 16)
    labels = rng.integers(4, size=2000)
    points = centres[labels] + 0.3 * rng.standard_normal((2000, 16))
    names = np.array(["a", "b", "c", "d"])[labels]
    assert knn_scores(points[:1000], names[:1000], points[1000:], names[1000:]).balanced_accuracy == 1
    shuffled = knn_scores(points[:1000], names[:1000], points[1000:], rng.permutation(names[1000:]))
    assert shuffled.balanced_accuracy == pytest.approx(0.25, abs=0.05)
    few = knn_scores(points[:3], names[:3], points[1000:], names[1000:])  # fewer references than neighbours
    assert few.n_windows == 1000


def test_classes_are_words_or_quadrants() -> None:
    plane = {"valence": [3.0, -1.0, 0.0, 2.0], "arousal": [2.0, 0.5, -2.0, 0.0]}
    words = pa.table({**plane, "emotion": ["happy", "fear", "sad", "calm"]})
    assert emotion_classes(words).tolist() == ["happy", "fear", "sad", "calm"]
    some = pa.table({**plane, "emotion": pa.array([None, "fear", None, None], pa.string())})
    assert emotion_classes(some).tolist() == [
        "high valence, high arousal",
        "low valence, high arousal",
        "low valence, low arousal",
        "high valence, low arousal",
    ]
