"""An evaluation on a real Ray: each training is what it is alone, it goes on where it was killed, and leaks stop it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from mlflow import MlflowClient

from emod import evaluating
from emod.catalog import Experiment
from emod.errors import RequestError
from emod.evaluating import evaluate_methods, plan_evaluation, record_of
from emod.evaluation import read_split
from emod.evaluation_report import render_evaluation
from emod.model import Emod, save_weights
from emod.shards import ShardStore, WindowPool
from emod.training import load_backbone
from emod.training.evaluating import (
    SHUFFLED,
    Answers,
    Training,
    _decode,
    _encode,
    evaluation_settings,
    list_trainings,
    make_folds,
    run_trainings,
    train_and_answer,
)
from tests.training.tiny_store import METHODS


def ignore(answers: Answers) -> None:
    del answers


@pytest.fixture
def new_evaluation(
    make_experiment: Callable[..., Experiment], evaluation_store: ShardStore
) -> Callable[..., Experiment]:
    """Three folds of subjects, two seeds, on the tiny store."""

    def make(runs: Path, *, finetune: dict[str, Any] | None = None, **evaluate: Any) -> Experiment:
        tune = {
            "corpus": "seed_iv",
            "split": {"protocol": "subject_folds", "folds": 3, "validation": 0.3},
            "epochs": 2,
            "batch": 8,
            "learning_rate": 1e-2,
        }
        return make_experiment(
            runs,
            corpora=["seed_iv"],
            addresses={"store": evaluation_store.url, "runs": str(runs)},
            finetune=tune | (finetune or {}),
            evaluate={"methods": METHODS, "seeds": 2} | evaluate,
        )

    return make


def test_each_training_is_what_it_is_alone(evaluated: evaluating.Evaluated, evaluation_store: ShardStore) -> None:
    """Every method, and the control, on every fold and seed; the outputs of a few are computed again here."""
    experiment = evaluated.experiment
    trainings = [answers.training for answers in evaluated.answers]
    assert trainings == list_trainings(experiment, evaluated.folds)
    assert len(trainings) == 2 * 3 * 4 * 2
    for number in (0, 5, 12, 3, 20):
        wanted = train_and_answer(trainings[number], experiment, evaluation_store, device=torch.device("cpu"))
        found = evaluated.answers[number]
        np.testing.assert_array_equal(found.outputs, wanted.outputs)
        assert (found.window_ids, found.validation, found.best_epoch, found.parameters) == (
            wanted.window_ids,
            wanted.validation,
            wanted.best_epoch,
            wanted.parameters,
        )


def test_answers_are_of_the_test_windows_and_training_saw_none(
    evaluated: evaluating.Evaluated, evaluation_store: ShardStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which rows are read, in order: those of the test role come after all others, and once."""
    read: list[set[int]] = []
    whole = WindowPool.read

    def spy(self: WindowPool, rows: Any) -> Any:
        read.append(set(np.asarray(rows).tolist()))
        return whole(self, rows)

    monkeypatch.setattr(WindowPool, "read", spy)
    for training in list_trainings(evaluated.experiment, evaluated.folds)[1:4]:
        read.clear()
        train_and_answer(training, evaluated.experiment, evaluation_store, device=torch.device("cpu"))
        test = set(evaluated.folds[training.target][training.fold].split.test.tolist())
        touched = [bool(rows & test) for rows in read]
        first = touched.index(True)
        assert not any(touched[:first])
        assert all(rows <= test for rows in read[first:])
        assert set().union(*read[first:]) == test


def test_every_subject_tests_once_and_all_is_scored(evaluated: evaluating.Evaluated) -> None:
    emotion, plane = evaluated.summaries
    assert len(emotion.true) == len(plane.true) == 72
    assert [method.method for method in emotion.methods] == list(METHODS)
    assert [control.method for control in emotion.controls] == [
        "majority class",
        "clip's labels",
        "participant's labels",
        "EMOD, shuffled labels",
    ]
    assert all(len(method.per_seed) == 2 for method in emotion.methods)
    assert not plane.methods[0].interval
    # A clip is a place in the session here, and its word the same for everyone.
    assert emotion.controls[1].mean("balanced_accuracy") == 1


def test_what_is_left_behind(evaluated: evaluating.Evaluated, evaluation_store: ShardStore) -> None:
    """Split files that give the same folds, scores in MLflow, and the audit's findings."""
    metadata = evaluation_store.metadata("seed_iv")
    for name, folds in evaluated.folds.items():
        for number, fold in enumerate(folds, start=1):
            again = read_split(f"{evaluated.folder}/splits/{name}-{number}.json", metadata)
            assert again.hash == fold.split.hash
    uri = f"sqlite:///{evaluated.experiment.addresses.runs_url()}/mlflow.db"
    run = MlflowClient(uri).get_run(evaluated.run_id)
    assert run.info.status == "FINISHED"
    emotion = evaluated.summaries[0]
    assert run.data.metrics["test/emotion/EMOD/kappa"] == pytest.approx(emotion.methods[0].mean("kappa"))
    assert run.data.metrics["test/emotion/clips_labels/balanced_accuracy"] == 1
    assert run.data.tags["emod.protocol"] == "subject_folds"
    assert run.data.tags["emod.accepted_leaks"] == ""
    assert {(f.code, f.severity) for f in emotion.findings} == {("clips", "limit")}
    assert json.loads(json.dumps(record_of(emotion)))["folds"][2]["windows"]["test"] == 24


def test_the_report_is_one_page_that_says_it_all(evaluated: evaluating.Evaluated, evaluation_store: ShardStore) -> None:
    page = render_evaluation(evaluated, evaluation_store, command="python jobs/evaluate.py --experiment tests")
    for word in (
        "SIMULATED RECORDINGS",
        "this protocol cannot tell a model that reads emotion from one that recognises clips",
        "python jobs/evaluate.py --experiment tests",
        "differential entropy",
        "EMOD, shuffled labels",
        "clip's labels",
        "Calibration",
        "Learning curves",
        "parameters trained",
        "Embedding by arousal",
        "Electrodes",
        "RMSE arousal",
        evaluated.summaries[0].splits[0].hash,
        "the same clips are in both roles",
    ):
        assert word in page, word
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert page.count("data:image/svg+xml;base64,") >= 10


@pytest.mark.long
def test_it_goes_on_where_it_was_killed(
    evaluated: evaluating.Evaluated,
    evaluation_store: ShardStore,
    new_runs: Callable[[], tuple[Path, str]],
    tmp_path: Path,
) -> None:
    """SIGKILL to the driver when a few answers are there; the same call ends with the same table, and keeps those."""
    runs, _ = new_runs()
    raw = json.loads(evaluated.experiment.model_dump_json())
    raw["addresses"]["runs"] = str(runs)
    experiment = Experiment.model_validate_json(json.dumps(raw))
    (tmp_path / "experiment.json").write_text(experiment.model_dump_json())
    code = (
        "import sys, pathlib; from emod.catalog import Experiment; from emod.shards import ShardStore\n"
        "from emod.evaluating import evaluate_methods; from emod.workflow import on_ray\n"
        "experiment = Experiment.model_validate_json(pathlib.Path(sys.argv[1]).read_text())\n"
        "store = ShardStore.open(experiment.addresses.store_url())\n"
        "with on_ray(quiet=True): evaluate_methods(experiment, store)\n"
    )
    source = str(Path(evaluating.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "experiment.json")],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        answers = runs / "emod-evaluate" / "answers"
        try:
            while len(list(answers.glob("*.parquet"))) < 4:
                assert driver.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.05)
        finally:
            driver.kill()
            driver.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in answers.glob("*.parquet")}
    assert 4 <= len(kept) < len(evaluated.answers)
    resumed = evaluate_methods(experiment, evaluation_store)
    for name, when in kept.items():
        assert (answers / name).stat().st_mtime_ns == when
    for found, wanted in zip(resumed.summaries, evaluated.summaries, strict=True):
        first, second = record_of(found), record_of(wanted)
        assert first == second
    client = MlflowClient(f"sqlite:///{runs}/mlflow.db")
    assert len(client.search_runs([client.get_run(resumed.run_id).info.experiment_id])) == 1
    points = client.get_metric_history(resumed.run_id, "test/emotion/EMOD/kappa")
    assert len(points) == 1


class TestStops:
    def test_a_leak_stops_it_before_anything_trains(
        self,
        ray_cluster: None,
        new_evaluation: Callable[..., Experiment],
        evaluation_store: ShardStore,
        new_runs: Callable[[], tuple[Path, str]],
    ) -> None:
        """A backbone without provenance: nobody knows whom it has seen."""
        runs, _ = new_runs()
        experiment = new_evaluation(runs, methods={"EMOD": [f"finetune.backbone={runs}/strange"]})
        (runs / "strange").mkdir()
        save_weights(runs / "strange", Emod(experiment.model), experiment.model)
        with pytest.raises(RequestError, match=r"subject_folds split of emotion, fold 1 of 3 leaks: nobody knows whom"):
            evaluate_methods(experiment, evaluation_store)
        assert not (runs / "emod-evaluate").exists()
        raw = experiment.model_dump(mode="json")
        raw["finetune"]["split"]["accept"] = ["pretraining"]
        accepted = Experiment.model_validate_json(json.dumps(raw))
        folds = make_folds(accepted, evaluation_store)
        found = evaluating.audit_evaluation(
            accepted, evaluation_store, folds, [load_backbone(_first(accepted)).learned_from]
        )
        assert {f.accepted_by for f in found["emotion"][0].findings if f.code == "pretraining"} == {"user"}

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"methods": {"a": ["pretrain.rounds=2"]}}, r"methods\.a: pretrain\.rounds=2 is not of finetune"),
            ({"methods": {"a": ["finetune.split.seed=2"]}}, r"methods\.a changes finetune\.split: methods answer one"),
            ({"methods": {"a": ["finetune.method=eegnt"]}}, r"finetune\.method=eegnt"),
        ],
    )
    def test_methods_answer_one_question(
        self, new_evaluation: Callable[..., Experiment], tmp_path: Path, changes: dict[str, Any], told: str
    ) -> None:
        with pytest.raises(RequestError, match=told):
            evaluation_settings(new_evaluation(tmp_path, **changes))

    def test_a_training_that_fails_is_named_after_the_others(
        self, ray_cluster: None, new_evaluation: Callable[..., Experiment], evaluation_store: ShardStore, tmp_path: Path
    ) -> None:
        methods = {"CBraMod": ["finetune.method=cbramod"], "EEGNet": ["finetune.method=eegnet"]}
        broken = new_evaluation(
            tmp_path,
            seeds=1,
            methods=methods,
            finetune={"epochs": 1, "learning_rate": 1e30, "final_learning_rate": 0.0},
        )
        folds = make_folds(broken, evaluation_store)
        trainings = [t for t in list_trainings(broken, folds) if t.method != SHUFFLED and t.fold == 0]
        with pytest.raises(Exception, match=r"emotion-\w+-1-0: epoch 1: the gradient is not finite") as caught:
            run_trainings(broken, evaluation_store, trainings, ignore)
        assert "\n" not in str(caught.value)

    def test_another_question_under_the_name_is_refused(
        self, evaluated: evaluating.Evaluated, evaluation_store: ShardStore
    ) -> None:
        raw = json.loads(evaluated.experiment.model_dump_json())
        raw["finetune"]["epochs"] = 3
        with pytest.raises(
            RequestError, match=r"made with finetune\.epochs = 2, not 3; .* choose another evaluate\.run"
        ):
            evaluate_methods(Experiment.model_validate_json(json.dumps(raw)), evaluation_store)


def test_the_plan_counts_without_training(
    new_evaluation: Callable[..., Experiment], evaluation_store: ShardStore, tmp_path: Path
) -> None:
    lines = plan_evaluation(new_evaluation(tmp_path), evaluation_store)
    assert lines[0] == "24 trainings: EMOD, EEGNet, differential entropy and shuffled labels, 2 seeds"
    assert "3 fold(s), the first (1 of 3) with {'train': 36, 'validation': 12, 'test': 24}, hash " in lines[-1]
    assert "priors fear 0.25, happy 0.25, neutral 0.25, sad 0.25" in lines[2]
    assert list(tmp_path.iterdir()) == []


def _first(experiment: Experiment) -> Experiment:
    from emod.catalog import with_overrides

    settings, _ = evaluation_settings(experiment)
    return with_overrides(experiment, next(iter(settings.methods.values())))


def test_answers_come_back_from_parquet_as_they_were() -> None:
    """Beside the test windows, an evaluation across corpora keeps the embedding of some that trained."""
    rng = np.random.default_rng(0)
    training = Training("valence", "EMOD", 0, 3)
    wanted = Answers(
        training,
        ("seed/1", "seed/2", "seed/3"),
        rng.random((3, 2)).astype(np.float32),
        (0.1, 0.2),
        2,
        1234,
        5.0,
        embedding=rng.random((5, 4)).astype(np.float32),
        embedded_ids=("seed/1", "seed/2", "seed/3", "deap/1", "deap/2"),
        importance=np.array([0.5, -0.25]),
    )
    found = _decode(_encode(wanted), training)
    for name in ("outputs", "embedding", "importance"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    for name in ("training", "window_ids", "validation", "best_epoch", "parameters", "seconds", "embedded_ids"):
        assert getattr(found, name) == getattr(wanted, name), name
    bare = replace(wanted, embedding=None, embedded_ids=(), importance=None)
    found = _decode(_encode(bare), training)
    assert (found.embedding, found.embedded_ids, found.importance) == (None, (), None)
    assert found.window_ids == wanted.window_ids
