"""What an evaluation says: methods and controls on one target, over seeds and folds, in numbers and in plain words.

Test windows of all folds are put together for each seed, and scored as one; intervals and paired tests are over
subjects, since windows of one person are not independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from emod.evaluation.audit import Finding
from emod.evaluation.controls import CONTROLS, control_points, control_probabilities
from emod.evaluation.metrics import (
    Interval,
    PlaneScores,
    Scores,
    balanced_accuracy_of,
    score,
    score_plane,
    subject_interval,
)
from emod.evaluation.split import Split
from emod.evaluation.targets import Target

__all__ = ["MethodSummary", "PairedDifference", "TargetSummary", "compare_subjects", "per_subject", "summarise_target"]

# A percentile bootstrap over fewer covers visibly less than it says: of 8 normal values 89 % for 95, of 4 80 %.
_FEW_PEOPLE = 8

Codes = npt.NDArray[np.int64]
Names = npt.NDArray[np.object_]
Outputs = npt.NDArray[np.floating]


@dataclass(frozen=True)
class PairedDifference:
    """A method less another, subject by subject.

    Attributes:
        mean: Of the differences; of balanced accuracy, or on the plane of minus the distance.
        low: Lower end of the 95 % bootstrap interval over subjects; NaN with a single subject.
        high: Upper end.
        p: Of Wilcoxon's signed-rank test, two-sided; 1 where no subject differs.
        n_subjects: How many were compared.
    """

    mean: float
    low: float
    high: float
    p: float
    n_subjects: int


@dataclass(frozen=True, eq=False)
class MethodSummary:
    """A method, or a control, over its seeds.

    Attributes:
        method: Its name.
        sees_eeg: False for controls made of labels alone.
        per_seed: Scores of each seed over all folds; one entry for what has no seeds.
        interval: Of the balanced accuracy over subjects, seeds pooled; None on the plane and with one subject.
        outputs: (n, K) of the first seed, in the order of the summary's windows.
        confusion: Windows by (true, predicted), summed over seeds; None on the plane.
        versus_first: Against the first method; None for itself.
        parameters: Of one training; 0 where that means nothing.
        seconds: Of all its trainings.
    """

    method: str
    sees_eeg: bool
    per_seed: tuple[Scores, ...] | tuple[PlaneScores, ...]
    interval: Interval | None
    outputs: Outputs
    confusion: Codes | None
    versus_first: PairedDifference | None = None
    parameters: int = 0
    seconds: float = 0.0

    def values(self, figure: str) -> list[float]:
        """A figure of each seed: a field of `Scores`, or ccc_valence, rmse_arousal and so on; NaN where it has none."""
        found = []
        for scores in self.per_seed:
            if isinstance(scores, PlaneScores):
                name, _, axis = figure.partition("_")
                value = scores.mean_ccc if figure == "mean_ccc" else getattr(getattr(scores, axis), name)
            else:
                value = getattr(scores, figure)
            found.append(float("nan") if value is None else float(value))
        return found

    def mean(self, figure: str) -> float:
        """Over seeds."""
        return float(np.mean(self.values(figure)))

    def sd(self, figure: str) -> float:
        """Over seeds, with n - 1; NaN for a single one."""
        values = self.values(figure)
        return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


@dataclass(frozen=True, eq=False)
class TargetSummary:
    """Everything that came out for one target.

    Attributes:
        target: Of the first fold; folds differ in a fitted threshold at most.
        splits: Every fold.
        findings: Of the audit, over all folds, without repeats.
        methods: In the order asked for, the first is what the others are held against.
        controls: Of labels alone, then the first method on shuffled labels.
        true: (n,) codes or (n, 2) points of all test windows.
        subjects: (n,) "corpus/subject" of each.
    """

    target: Target
    splits: tuple[Split, ...]
    findings: tuple[Finding, ...]
    methods: tuple[MethodSummary, ...]
    controls: tuple[MethodSummary, ...]
    true: npt.NDArray[Any]
    subjects: Names

    @property
    def on_plane(self) -> bool:
        """Whether points are asked for."""
        return self.target.points is not None

    @property
    def criterion(self) -> str:
        """The figure by which methods are ranked."""
        return "mean_ccc" if self.on_plane else "balanced_accuracy"

    @property
    def chance(self) -> float:
        """Of the criterion."""
        if self.on_plane:
            return 0.0
        scores = self.methods[0].per_seed[0]
        assert isinstance(scores, Scores)
        return scores.chance

    def verdicts(self) -> list[str]:
        """What can be said, in plain words: each method against what labels alone give."""
        shared = {*self.splits[0].shares, *self.splits[0].accepted}
        clip = next(control for control in self.controls if control.method == "clip's labels")
        known_clips = "clips" in shared and clip.mean(self.criterion) > self.chance + 0.05
        blind = max(
            (c for c in self.controls if not c.sees_eeg and not (known_clips and c is clip)),
            key=lambda c: c.mean(self.criterion),
        )
        bar = max(blind.mean(self.criterion), self.chance)
        named = "chance" if blind.mean(self.criterion) <= self.chance else f"knowing the {blind.method} alone"
        passed, beaten = [], []
        for method in self.methods:
            found = method.mean(self.criterion)
            low = method.interval.low if method.interval is not None else None
            if found <= bar or (low is not None and low <= bar):
                beaten.append(f"{method.method} ({found:.3f})")
            else:
                passed.append(f"{method.method} ({found:.3f}{'' if low is None else f', from {low:.3f}'})")
        sentences = []
        if passed:
            sentences.append(f"Above {named} ({bar:.3f}): {', '.join(passed)}.")
        if beaten:
            sentences.append(f"Not above {named} ({bar:.3f}): {', '.join(beaten)}.")
        if not passed:
            sentences.append("Nothing here shows that emotion is read from EEG.")
        if known_clips:
            sentences.append(
                f"Clips are shared between roles, and knowing the clip alone scores {clip.mean(self.criterion):.3f}, "
                "without EEG: this protocol cannot tell a model that reads emotion from one that recognises clips. Ask "
                "again under clips or subjects_and_clips."
            )
        people = len(set(self.subjects))
        if people < _FEW_PEOPLE:
            tested = "1 person was" if people == 1 else f"{people} people were"
            sentences.append(f"Only {tested} tested: intervals over so few promise too much.")
        sentences += self._on_shuffled_labels()
        return sentences

    def _on_shuffled_labels(self) -> list[str]:
        """A network that learned from shuffled labels must know nothing; where it does, something else told it."""
        for control in self.controls:
            if not control.sees_eeg:
                continue
            found, first = control.mean(self.criterion), self.methods[0].mean(self.criterion)
            above = control.interval is not None and control.interval.low > self.chance
            # A network that gives one answer to everybody is at chance with any labels.
            if above or (found >= first and found > self.chance + 0.02):
                return [
                    f"WARNING: trained on shuffled labels, {self.methods[0].method} scores {found:.3f} where chance is "
                    f"{self.chance:.3f}: by luck, with so few trials or seeds, or because something leaks. Its own "
                    f"{first:.3f} is to be read beside that."
                ]
        return []


def summarise_target(
    targets: Sequence[Target],
    splits: Sequence[Split],
    outputs: Mapping[str, Sequence[Sequence[Outputs]]],
    *,
    clips: Names,
    findings: Sequence[Finding] = (),
    shuffled: Sequence[Sequence[Outputs]] | None = None,
    parameters: Mapping[str, int] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> TargetSummary:
    """Scores methods and controls on the test windows of all folds.

    Args:
        targets: Of each fold.
        splits: Of each fold, without windows that have no class.
        outputs: method -> for each seed, for each fold: (n, K) probabilities or points of its test windows.
        clips: (n_windows,) "corpus/clip" of the whole table.
        findings: Of the audit.
        shuffled: For each seed, for each fold, what the first method answered after training on shuffled labels.
        parameters: method -> how many it trains.
        seconds: method -> of all its trainings.
    """
    target = targets[0]
    truth = [_truth(t, split.test) for t, split in zip(targets, splits, strict=True)]
    true = np.concatenate(truth)
    subjects = np.concatenate([split.owners[split.test] for split in splits])

    def over(method: str, per_seed: Sequence[Sequence[Outputs]], *, sees_eeg: bool) -> MethodSummary:
        pooled = [np.concatenate(list(folds)) for folds in per_seed]
        scores: Any = tuple(_score(target, true, each, subjects) for each in pooled)
        interval = confusion = None
        if target.points is None:
            predicted = np.concatenate([each.argmax(axis=1) for each in pooled])
            interval = subject_interval(np.tile(true, len(pooled)), predicted, np.tile(subjects, len(pooled)))
            confusion = np.sum([np.asarray(each.confusion) for each in scores], axis=0)
        return MethodSummary(
            method,
            sees_eeg,
            scores,
            interval,
            pooled[0],
            confusion,
            parameters=(parameters or {}).get(method, 0),
            seconds=(seconds or {}).get(method, 0.0),
        )

    methods = [over(method, per_seed, sees_eeg=True) for method, per_seed in outputs.items()]
    reference = per_subject(target, true, [np.concatenate(list(f)) for f in outputs[methods[0].method]], subjects)
    compared = [methods[0]]
    for method in methods[1:]:
        own = per_subject(target, true, [np.concatenate(list(f)) for f in outputs[method.method]], subjects)
        compared.append(_with(method, compare_subjects(own, reference)))
    controls = [
        over(name, [[_control(name, t, s, clips) for t, s in zip(targets, splits, strict=True)]], sees_eeg=False)
        for name in CONTROLS
    ]
    if shuffled is not None:
        controls.append(over(f"{methods[0].method}, shuffled labels", shuffled, sees_eeg=True))
    return TargetSummary(target, tuple(splits), tuple(findings), tuple(compared), tuple(controls), true, subjects)


def compare_subjects(method: Mapping[str, float], other: Mapping[str, float], *, n: int = 2000) -> PairedDifference:
    """A method less another over the subjects of both.

    Raises:
        ValueError: If their subjects differ.
    """
    if set(method) != set(other):
        raise ValueError("methods were scored on different subjects; compare them on one protocol")
    differences = np.array([method[name] - other[name] for name in sorted(method)])
    mean = float(differences.mean())
    if len(differences) < 2:
        return PairedDifference(mean, float("nan"), float("nan"), 1.0, len(differences))
    draws = np.random.default_rng(0).choice(differences, (n, len(differences))).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    p = 1.0 if not differences.any() else float(stats.wilcoxon(differences).pvalue)
    return PairedDifference(mean, float(low), float(high), p, len(differences))


def _truth(target: Target, rows: Codes) -> npt.NDArray[Any]:
    return target.codes[rows] if target.points is None else target.points[rows]


def _score(target: Target, true: npt.NDArray[Any], outputs: Outputs, subjects: Names) -> Scores | PlaneScores:
    if target.points is not None:
        return score_plane(true, outputs, subjects=subjects.astype(str))
    return score(true, outputs.argmax(axis=1), target.classes, subjects=subjects.astype(str), probabilities=outputs)


def per_subject(
    target: Target, true: npt.NDArray[Any], per_seed: Sequence[Outputs], subjects: Names
) -> dict[str, float]:
    """subject -> mean over seeds of the balanced accuracy over the classes they had, or of minus the plane distance.

    Args:
        target: Its classes, or the plane.
        true: (n,) codes or (n, 2) points.
        per_seed: For each seed (n, K) probabilities or (n, 2) points.
        subjects: (n,) whose window each is.
    """
    found = {}
    for name in sorted(set(subjects)):
        own = subjects == name
        values = []
        for outputs in per_seed:
            if target.points is not None:
                values.append(-float(np.linalg.norm(true[own] - outputs[own], axis=1).mean()))
                continue
            confusion = np.zeros((len(target.classes), len(target.classes)))
            np.add.at(confusion, (true[own], outputs[own].argmax(axis=1)), 1)
            values.append(float(balanced_accuracy_of(confusion)))
        found[name] = float(np.mean(values))
    return found


def _control(name: Any, target: Target, split: Split, clips: Names) -> Outputs:
    where = {
        "clips": (clips[split.train], clips[split.test]),
        "subjects": (split.owners[split.train], split.owners[split.test]),
    }
    if target.points is not None:
        return control_points(name, target.points[split.train], **where)
    return control_probabilities(name, target.codes[split.train], n_classes=len(target.classes), **where)


def _with(method: MethodSummary, difference: PairedDifference) -> MethodSummary:
    return replace(method, versus_first=difference)
