"""Scores against scikit-learn and against their definitions; the bootstrap against a loop over windows."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, f1_score, roc_auc_score

from emod.evaluation import evaluate, majority_class, score, score_plane, subject_interval
from emod.evaluation.metrics import balanced_accuracy_of

NAMES = ("a", "b", "c", "d", "e")


@st.composite
def predictions(draw: Any) -> tuple[int, np.ndarray, np.ndarray]:
    n_classes = draw(st.integers(2, 5))
    n = draw(st.integers(1, 60))
    codes = st.lists(st.integers(0, n_classes - 1), min_size=n, max_size=n)
    return n_classes, np.array(draw(codes)), np.array(draw(codes))


@given(predictions())
@settings(max_examples=120, deadline=None)
def test_scores_equal_scikit_learn_and_their_definitions(case: tuple[int, np.ndarray, np.ndarray]) -> None:
    n_classes, true, predicted = case
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # absent classes are handled, not warned about
        scores = score(true, predicted, NAMES[:n_classes])
    confusion = np.array([[np.sum((true == i) & (predicted == j)) for j in range(n_classes)] for i in range(n_classes)])
    assert np.array_equal(scores.confusion, confusion)
    recalls = [np.mean(predicted[true == i] == i) for i in range(n_classes) if np.any(true == i)]
    assert scores.balanced_accuracy == pytest.approx(np.mean(recalls), abs=1e-12)
    assert scores.chance == 1 / len(recalls)
    assert balanced_accuracy_of(confusion) == pytest.approx(np.mean(recalls), abs=1e-12)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert scores.balanced_accuracy == pytest.approx(balanced_accuracy_score(true, predicted), abs=1e-12)
        assert scores.weighted_f1 == pytest.approx(
            f1_score(true, predicted, average="weighted", zero_division=0), abs=1e-12
        )
    n = len(true)
    agreed = np.trace(confusion) / n
    expected = np.sum(confusion.sum(0) * confusion.sum(1)) / n**2
    kappa = 0.0 if expected == 1 else (agreed - expected) / (1 - expected)
    assert scores.kappa == pytest.approx(kappa, abs=1e-9)
    if expected < 1:
        assert scores.kappa == pytest.approx(cohen_kappa_score(true, predicted), abs=1e-12)


def test_a_case_worked_by_hand() -> None:
    # low: 3 of 4 right; high: 1 of 2 right. Accuracy 4/6 would hide the difference.
    scores = score([0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0], ("low", "high"), subjects=["1", "1", "2", "2", "3", "3"])
    assert scores.confusion == ((3, 1), (1, 1))
    assert scores.balanced_accuracy == pytest.approx(0.625)
    assert scores.kappa == pytest.approx((4 / 6 - (4 * 4 + 2 * 2) / 36) / (1 - (4 * 4 + 2 * 2) / 36))
    assert scores.weighted_f1 == pytest.approx((4 * 0.75 + 2 * 0.5) / 6)
    assert (scores.n_windows, scores.n_subjects, scores.chance) == (6, 3, 0.5)


def test_wrong_codes_are_refused() -> None:
    for true, predicted, message in (
        ([], [], "same length"),
        ([0, 1], [0], "same length"),
        ([0, 1], [0, 2], "of 2 classes"),
        ([0, -1], [0, 1], "without a class"),
        ([0.0, 1.0], [0, 1], "integer"),
    ):
        with pytest.raises(ValueError, match=message):
            score(true, predicted, ("low", "high"))


def noisy(n_subjects: int, n_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Subjects of unequal size and skill; the first has one class only, so that resamples can lack the others."""
    rng = np.random.default_rng(seed)
    parts = []
    for subject in range(n_subjects):
        n = int(rng.integers(2, 25))
        true = rng.integers(0, n_classes, n) if subject else np.zeros(n, dtype=np.int64)
        right = rng.random(n) < rng.uniform(0.2, 0.9)
        parts.append((true, np.where(right, true, rng.integers(0, n_classes, n)), np.full(n, f"S{subject:02d}")))
    order = rng.permutation(sum(len(part[0]) for part in parts))
    true, predicted, subjects = (np.concatenate([part[k] for part in parts])[order] for k in range(3))
    return true, predicted, subjects


@pytest.mark.parametrize(("n_subjects", "n_classes"), [(2, 2), (3, 4), (8, 3)])
def test_bootstrap_equals_a_loop_over_windows_with_the_same_draws(n_subjects: int, n_classes: int) -> None:
    true, predicted, subjects = noisy(n_subjects, n_classes, seed=n_subjects)
    interval = subject_interval(true, predicted, subjects, n=150, seed=3, level=0.9)
    assert interval is not None

    names = sorted(set(subjects))
    draws = np.random.default_rng(3).multinomial(len(names), [1 / len(names)] * len(names), size=150)
    values = []
    for draw in draws:
        rows = np.concatenate(
            [np.tile(np.flatnonzero(subjects == name), times) for name, times in zip(names, draw, strict=True)]
        )
        rows = rows.astype(int)
        if set(true[rows]) != set(true):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values.append(balanced_accuracy_score(true[rows], predicted[rows]))
    assert interval.low == pytest.approx(np.quantile(values, 0.05), abs=1e-12)
    assert interval.high == pytest.approx(np.quantile(values, 0.95), abs=1e-12)
    assert (interval.level, interval.n_subjects) == (0.9, n_subjects)


def test_resamples_without_a_rare_class_do_not_count() -> None:
    # One person holds all of class 1; without them only class 0 is asked for, and everyone answers 1.
    subjects = np.repeat([f"S{k}" for k in range(6)], 20)
    true = np.where(subjects == "S0", 1, 0)
    interval = subject_interval(true, np.ones(120, dtype=np.int64), subjects)
    assert interval is not None
    assert (interval.low, interval.high) == (0.5, 0.5)


def test_bootstrap_draws_subjects_not_windows() -> None:
    # Half of the subjects always right, half always wrong: many windows, few people, so the interval must be wide.
    subjects = np.repeat([f"S{k}" for k in range(6)], 200)
    true = np.tile([0, 1], 600)
    predicted = np.where(np.isin(subjects, ["S0", "S1", "S2"]), true, 1 - true)
    few = subject_interval(true, predicted, subjects)
    assert few is not None
    assert few.high - few.low > 0.6
    many = subject_interval(true, predicted, np.arange(len(true)))
    assert many is not None
    assert many.high - many.low < 0.1


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    hits = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        skill = np.repeat(rng.normal(0.65, 0.1, 30), 20)
        true = rng.integers(0, 2, 600)
        predicted = np.where(rng.random(600) < skill, true, 1 - true)
        interval = subject_interval(true, predicted, np.repeat(np.arange(30), 20), n=300, seed=trial, level=0.9)
        assert interval is not None
        hits += interval.low <= 0.65 <= interval.high
    assert 47 <= hits <= 59  # 54 expected, 2.3 standard deviation


def test_interval_is_deterministic_and_refuses_nonsense() -> None:
    true, predicted, subjects = noisy(6, 3, seed=1)
    assert subject_interval(true, predicted, subjects, seed=1) == subject_interval(true, predicted, subjects, seed=1)
    assert subject_interval(true, predicted, subjects, seed=1) != subject_interval(true, predicted, subjects, seed=2)
    assert subject_interval(true, predicted, np.full(len(true), "S1")) is None
    with pytest.raises(ValueError, match="level"):
        subject_interval(true, predicted, subjects, level=95)
    with pytest.raises(ValueError, match="subjects for"):
        subject_interval(true, predicted, subjects[1:])


def test_another_statistic_is_bootstrapped_through_the_same_matrices() -> None:
    true, predicted, subjects = noisy(5, 2, seed=4)

    def accuracy(confusion: Any) -> np.ndarray:
        return np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum((-2, -1))

    interval = subject_interval(true, predicted, subjects, statistic=accuracy)
    assert interval is not None
    assert interval.low < np.mean(true == predicted) < interval.high


def test_majority_class_answers_what_training_had_most() -> None:
    control = majority_class([2, 2, 2, 0, 1], [0, 1, 2, 2], ("a", "b", "c"))
    assert control.confusion == ((0, 0, 1), (0, 0, 1), (0, 0, 2))
    assert control.balanced_accuracy == pytest.approx(1 / 3)
    assert control.chance == pytest.approx(1 / 3)
    assert control.kappa == 0
    # The commonest class of training is absent from the test windows.
    assert majority_class([2, 2, 0], [0, 1], ("a", "b", "c")).balanced_accuracy == 0


def test_better_than_chance_needs_the_lower_bound_above_it() -> None:
    rng = np.random.default_rng(0)
    subjects = np.repeat([f"S{k}" for k in range(8)], 50)
    true = rng.integers(0, 2, 400)
    good = np.where(rng.random(400) < 0.8, true, 1 - true)
    evaluation = evaluate("valence", true, good, subjects, ("low", "high"), y_train=[0, 0, 1])
    assert evaluation.above_chance
    assert evaluation.interval is not None
    assert evaluation.interval.low > 0.5
    assert evaluation.majority.confusion[1] == (int((true == 1).sum()), 0)

    guess = rng.integers(0, 2, 400)
    assert not evaluate("valence", true, guess, subjects, ("low", "high"), y_train=[0, 1]).above_chance
    # One subject: however good, nothing can be claimed about people.
    alone = evaluate("valence", true, true, np.full(400, "S1"), ("low", "high"), y_train=[0, 1])
    assert alone.interval is None
    assert not alone.above_chance

    record = json.loads(json.dumps(evaluation.record()))
    assert record["scores"]["balanced_accuracy"] == evaluation.scores.balanced_accuracy
    assert record["interval"]["low"] == evaluation.interval.low
    assert record["above_chance"] is True


@st.composite
def likely(draw: Any) -> tuple[np.ndarray, np.ndarray]:
    """Codes and probabilities, ties among them."""
    n_classes, n = draw(st.integers(2, 4)), draw(st.integers(2, 40))
    true = np.array(draw(st.lists(st.integers(0, n_classes - 1), min_size=n, max_size=n)))
    weights = np.array(draw(st.lists(st.integers(0, 4), min_size=n * n_classes, max_size=n * n_classes)), dtype=float)
    weights = weights.reshape(n, n_classes) + 0.01
    return true, weights / weights.sum(axis=1, keepdims=True)


@given(likely())
@settings(max_examples=60, deadline=None)
def test_auroc_is_how_often_a_pair_is_in_order(case: tuple[np.ndarray, np.ndarray]) -> None:
    true, probabilities = case
    scores = score(true, probabilities.argmax(axis=1), NAMES[: probabilities.shape[1]], probabilities=probabilities)
    of_class = []
    for code in np.unique(true):
        own, others = probabilities[true == code, code], probabilities[true != code, code]
        if len(others):
            of_class.append(np.mean([(a > b) + (a == b) / 2 for a in own for b in others]))
    if not of_class:
        assert scores.auroc is None
    else:
        assert scores.auroc == pytest.approx(np.mean(of_class), abs=1e-12)
    if probabilities.shape[1] == 2 and len(of_class) == 2:
        assert scores.auroc == pytest.approx(roc_auc_score(true, probabilities[:, 1]), abs=1e-12)


@given(likely())
@settings(max_examples=60, deadline=None)
def test_calibration_error_is_its_definition(case: tuple[np.ndarray, np.ndarray]) -> None:
    true, probabilities = case
    scores = score(true, probabilities.argmax(axis=1), NAMES[: probabilities.shape[1]], probabilities=probabilities)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == true
    # Edges of bins as torchmetrics computes them: float32 on their way.
    edges = np.linspace(0, 1, 16)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, 14)
    error = sum(
        np.mean(place == bin_) * abs(right[place == bin_].mean() - confidence[place == bin_].mean())
        for bin_ in np.unique(place)
    )
    near_an_edge = np.abs(confidence[:, None] - edges).min() < 1e-6
    assert near_an_edge or scores.calibration_error == pytest.approx(error, abs=1e-6)


def test_recall_of_each_class() -> None:
    scores = score([0, 0, 0, 1], [0, 0, 1, 1], ("a", "b", "c"))
    assert scores.recall == pytest.approx((2 / 3, 1.0, None))
    assert (scores.auroc, scores.calibration_error) == (None, None)


@pytest.mark.parametrize(
    ("probabilities", "told"),
    [([[0.5, 0.5]], "for 2 windows"), ([[0.5, 0.5], [0.9, 0.9]], "no distribution"), ([[2, -1], [0, 1]], "no dist")],
)
def test_what_are_no_probabilities(probabilities: list[list[float]], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        score([0, 1], [0, 1], ("a", "b"), probabilities=probabilities)


class TestPlane:
    @given(st.integers(0, 10**6), st.integers(2, 50))
    @settings(max_examples=40, deadline=None)
    def test_against_lins_definition_with_unbiased_moments(self, seed: int, n: int) -> None:
        rng = np.random.default_rng(seed)
        true = rng.uniform(-4, 4, (n, 2))
        predicted = 0.5 * true + rng.normal(0, 1, (n, 2)) + 1
        scores = score_plane(true, predicted, subjects=rng.integers(0, 2, n))
        for axis, found in enumerate((scores.valence, scores.arousal)):
            x, y = true[:, axis], predicted[:, axis]
            covariance = np.cov(x, y, ddof=1)
            ccc = 2 * covariance[0, 1] / (np.trace(covariance) + (x.mean() - y.mean()) ** 2)
            assert found.ccc == pytest.approx(ccc, abs=1e-9)
            assert found.pearson == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)
            assert found.rmse == pytest.approx(np.sqrt(np.mean((x - y) ** 2)), abs=1e-12)
        assert scores.mean_ccc == pytest.approx((scores.valence.ccc + scores.arousal.ccc) / 2)

    def test_a_constant_answer_earns_nothing(self) -> None:
        true = np.random.default_rng(0).uniform(-4, 4, (20, 2))
        scores = score_plane(true, np.tile(true.mean(axis=0), (20, 1)))
        assert (scores.valence.ccc, scores.valence.pearson, scores.arousal.ccc) == (0, 0, 0)
        assert scores.valence.rmse == pytest.approx(true[:, 0].std())

    def test_twice_too_far_is_right_in_order_only(self) -> None:
        true = np.random.default_rng(0).uniform(-2, 2, (50, 2))
        scores = score_plane(true, 2 * true)
        assert scores.valence.pearson == pytest.approx(1)
        assert scores.valence.ccc == pytest.approx(0.8, abs=0.02)  # 4 v / (v + 4 v + m^2)

    @pytest.mark.parametrize(
        ("true", "predicted", "told"),
        [
            ([[1, 2]], [[1, 2]], "at least 2"),
            ([[1, 2], [3, 4]], [[1, 2, 3]] * 2, "must be"),
            ([[1, 2], [3, np.nan]], [[1, 2]] * 2, "finite"),
        ],
    )
    def test_what_cannot_be_scored(self, true: Any, predicted: Any, told: str) -> None:
        with pytest.raises(ValueError, match=told):
            score_plane(true, predicted)
