"""What an evaluation says: scores against scikit-learn, paired tests against SciPy, and verdicts in plain words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score

from emod.evaluation import Split, Target, TargetSummary, compare_subjects, make_target, summarise_target
from tests.evaluation.test_protocols import WORDS, split_by, table

POINTS = {"fear": (-1.0, 2.0), "happy": (3.0, 2.0), "neutral": (0.0, 0.0), "sad": (-1.0, 1.0)}


def labelled(metadata: pa.Table) -> pa.Table:
    words = metadata["emotion"].to_pylist()
    for axis, name in enumerate(("valence", "arousal")):
        metadata = metadata.append_column(name, pa.array([POINTS[word][axis] for word in words]))
    return metadata.append_column("label_kind", pa.array(["emotion"] * len(words)))


def clips_of(metadata: pa.Table) -> Any:
    pairs = zip(metadata["corpus"].to_pylist(), metadata["stimulus"].to_pylist(), strict=True)
    return np.array([f"{corpus}/{clip}" for corpus, clip in pairs], dtype=object)


def guess(target: Target, split: Split, right: float, seed: int) -> np.ndarray[Any, Any]:
    """Probabilities of a model that is right so often, whatever else is true."""
    rng = np.random.default_rng(seed)
    codes = target.codes[split.test]
    answers = np.where(rng.random(len(codes)) < right, codes, rng.integers(0, len(target.classes), len(codes)))
    found = np.full((len(codes), len(target.classes)), 0.1)
    found[np.arange(len(codes)), answers] = 0.7
    return found


def summarise(protocol: str, right: dict[str, float], *, seeds: int = 3, **more: Any) -> TargetSummary:
    metadata = labelled(table({"seed_v": 12}))
    target = make_target(metadata, "emotion")
    splits = split_by(metadata, protocol=protocol, **more)
    outputs = {
        method: [
            [guess(target, split, share, 100 * seed + n) for n, split in enumerate(splits)] for seed in range(seeds)
        ]
        for method, share in right.items()
    }
    return summarise_target(
        [target] * len(splits),
        splits,
        outputs,
        clips=clips_of(metadata),
        shuffled=[[guess(target, s, 0, 7) for s in splits]],
    )


def test_folds_of_a_seed_are_scored_together() -> None:
    summary = summarise("subject_folds", {"EMOD": 0.5, "EEGNet": 0.2}, folds=4)
    metadata = labelled(table({"seed_v": 12}))
    target, splits = make_target(metadata, "emotion"), split_by(metadata, protocol="subject_folds", folds=4)
    true = np.concatenate([target.codes[split.test] for split in splits])
    for method, share in zip(summary.methods, (0.5, 0.2), strict=True):
        wanted = []
        for seed in range(3):
            answers = np.concatenate(
                [guess(target, split, share, 100 * seed + n).argmax(axis=1) for n, split in enumerate(splits)]
            )
            wanted.append((balanced_accuracy_score(true, answers), cohen_kappa_score(true, answers)))
        assert method.values("balanced_accuracy") == pytest.approx([accuracy for accuracy, _ in wanted])
        assert method.values("kappa") == pytest.approx([kappa for _, kappa in wanted])
        assert method.mean("kappa") == pytest.approx(np.mean([kappa for _, kappa in wanted]))
        assert method.sd("kappa") == pytest.approx(np.std([kappa for _, kappa in wanted], ddof=1))
        assert method.interval is not None
        assert method.interval.low < method.mean("balanced_accuracy") < method.interval.high
        assert method.confusion is not None
        assert method.confusion.sum() == 3 * len(true)
    assert len(summary.true) == len(metadata), "each subject tests once"


def test_controls_know_what_the_protocol_gives_away() -> None:
    """Words belong to clips: who has seen the clips knows all, and nobody else anything."""
    shared = {c.method: c.mean("balanced_accuracy") for c in summarise("subjects", {"EMOD": 0.0}).controls}
    assert shared["clip's labels"] == 1
    assert shared["majority class"] == shared["participant's labels"] == 0.25
    apart = summarise("subjects_and_clips", {"EMOD": 0.0}, validation=0.2, test=0.3)
    for control in apart.controls:
        assert control.mean("balanced_accuracy") == pytest.approx(0.25, abs=0.08), control.method
    assert apart.chance == 0.25


class TestVerdicts:
    def test_clips_that_are_shared_leave_it_open(self) -> None:
        """As high as papers report, and nobody can tell what it comes from."""
        words = " ".join(summarise("subjects", {"EMOD": 0.8}).verdicts())
        assert "Above chance (0.250): EMOD (0.8" in words
        assert "knowing the clip alone scores 1.000, without EEG: this protocol cannot tell" in words
        assert "Ask again under clips or subjects_and_clips." in words
        assert "Nothing here shows" not in words

    def test_chance_is_called_chance(self) -> None:
        words = " ".join(summarise("subjects_and_clips", {"EMOD": 0.0}, validation=0.2, test=0.3).verdicts())
        assert words.startswith("Not above ")
        assert "Nothing here shows that emotion is read from EEG." in words
        assert "Clips are shared" not in words

    def test_methods_that_pass_stand_before_those_that_do_not(self) -> None:
        found = summarise("subjects_and_clips", {"EMOD": 0.9, "EEGNet": 0.0}, validation=0.2, test=0.3).verdicts()
        assert found[0].startswith("Above ")
        assert "EMOD (0.89" in found[0]
        assert found[1].startswith("Not above ")
        assert "EEGNet" in found[1]
        assert not any("Nothing here shows" in sentence for sentence in found)

    @pytest.mark.parametrize(("people", "told"), [(1, "Only 1 person was"), (7, "Only 7 people were"), (8, None)])
    def test_few_people_are_said(self, people: int, told: str | None) -> None:
        summary = summarise("subject_folds", {"EMOD": 0.5}, folds=4)
        names = np.array([f"seed_v/{row % people}" for row in range(len(summary.true))], dtype=object)
        words = " ".join(replace(summary, subjects=names).verdicts())
        assert ("intervals over so few promise too much" in words) == (told is not None)
        assert told is None or f"{told} tested" in words

    @pytest.mark.parametrize(("leak", "warned"), [(0.0, False), (0.6, True)])
    def test_shuffled_labels_that_are_learned_are_a_warning(self, leak: float, warned: bool) -> None:
        metadata = labelled(table({"seed_v": 12}))
        target, (split,) = make_target(metadata, "emotion"), split_by(metadata, protocol="subjects")
        summary = summarise_target(
            [target],
            [split],
            {"EMOD": [[guess(target, split, 0.7, 1)]]},
            clips=clips_of(metadata),
            shuffled=[[guess(target, split, leak, seed)] for seed in range(3)],
        )
        assert any("WARNING: trained on shuffled labels, EMOD scores" in s for s in summary.verdicts()) == warned

    def test_one_answer_to_everybody_is_no_warning(self) -> None:
        """At chance with any labels: what it learned from does not matter."""
        metadata = labelled(table({"seed_v": 12}))
        target, (split,) = make_target(metadata, "emotion"), split_by(metadata, protocol="subjects")
        same = np.tile([0.7, 0.1, 0.1, 0.1], (len(split.test), 1))
        summary = summarise_target(
            [target], [split], {"EMOD": [[same]]}, clips=clips_of(metadata), shuffled=[[same], [same]]
        )
        assert not any("WARNING" in sentence for sentence in summary.verdicts())


class TestPaired:
    def test_against_wilcoxon(self) -> None:
        rng = np.random.default_rng(0)
        first = {f"s{n}": float(value) for n, value in enumerate(rng.random(20))}
        second = {name: value + float(rng.normal(0.1, 0.1)) for name, value in first.items()}
        found = compare_subjects(second, first)
        differences = [second[name] - first[name] for name in first]
        assert found.mean == pytest.approx(np.mean(differences))
        assert found.p == pytest.approx(stats.wilcoxon(differences).pvalue)
        assert found.low < found.mean < found.high
        # About the t interval: twenty draws are nearly normal.
        half = stats.t.ppf(0.975, 19) * stats.sem(differences)
        assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.2)

    def test_equal_methods_do_not_differ(self) -> None:
        same = {"a": 0.5, "b": 0.7}
        assert compare_subjects(same, same).p == 1
        assert (compare_subjects(same, same).low, compare_subjects(same, same).high) == (0, 0)
        with pytest.raises(ValueError, match="different subjects"):
            compare_subjects(same, {"a": 0.5, "c": 0.7})

    def test_methods_are_compared_by_person(self) -> None:
        summary = summarise("leave_one_subject_out", {"EMOD": 0.8, "EEGNet": 0.2})
        first, second = summary.methods
        assert first.versus_first is None
        assert second.versus_first is not None
        assert second.versus_first.n_subjects == 12
        assert second.versus_first.mean == pytest.approx(
            second.mean("balanced_accuracy") - first.mean("balanced_accuracy"), abs=0.05
        )
        assert second.versus_first.high < 0
        assert second.versus_first.p < 0.01


def test_on_the_plane() -> None:
    metadata = labelled(table({"seed_v": 12}))
    target = make_target(metadata, "plane")
    (split,) = split_by(metadata, protocol="subjects")
    assert target.points is not None
    rng = np.random.default_rng(0)
    near = target.points[split.test] + rng.normal(0, 0.5, (len(split.test), 2))
    far = rng.normal(0, 1, near.shape)
    summary = summarise_target([target], [split], {"EMOD": [[near]], "noise": [[far]]}, clips=clips_of(metadata))
    emod, noise = summary.methods
    assert emod.mean("mean_ccc") > 0.9 > 0.3 > abs(noise.mean("mean_ccc"))
    assert noise.versus_first is not None
    assert noise.versus_first.high < 0, "further away from the truth, subject by subject"
    blind = {control.method: control.mean("rmse_valence") for control in summary.controls}
    assert blind["clip's labels"] < 0.2 < blind["majority class"]
    assert summary.chance == 0
    assert WORDS[0] == "fear"
    assert summary.verdicts()[0].startswith("Above ")
    assert "EMOD" in summary.verdicts()[0]
