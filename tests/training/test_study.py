"""A study on a real Ray: what each training does, that it goes on where it stopped, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from emod import workflow
from emod.catalog import Experiment
from emod.catalog.study import AS_IT_IS
from emod.errors import DataError, RequestError
from emod.evaluation import score
from emod.shards import ShardStore
from emod.study_report import show_study
from emod.training.finetuner import predict
from emod.training.pretrainer import Pretrainer, select_windows
from emod.training.study import CellResult, list_cells, run_cells, settings_of, under_effect
from tests.training.tuned import new_finetuner

ARMS = {"Scratch": ("pretrain.objective=scratch",), "SoftVA": (), "no time": ("model.without=temporal_attention",)}


def ignore(result: CellResult) -> None:
    del result


@pytest.fixture
def new_study(make_pretrain_experiment: Callable[..., Experiment]) -> Callable[..., Experiment]:
    """Pretrains on deap and tunes on seed_iv, two seeds, in a folder of its own."""

    def make(runs: Path, **changes: Any) -> Experiment:
        base = make_pretrain_experiment(runs, epochs=1, finetune={"epochs": 2})
        raw = base.model_dump(mode="json") | {"study": {"arms": ARMS, "seeds": 2} | changes}
        return Experiment.model_validate_json(json.dumps(raw))

    return make


def test_a_study_is_its_arms_trained_alone(
    ray_cluster: None, store: ShardStore, new_study: Callable[..., Experiment], tmp_path: Path
) -> None:
    """Pretrained without the tuned corpus, tested on people neither trained nor chosen on; the seed moves all of it."""
    study = new_study(tmp_path)
    results = run_cells(study, {AS_IT_IS: store}, ignore)
    assert store.is_simulated(study.corpora)
    assert all(result.simulated for result in results)
    assert [(r.seed, r.arm) for r in results] == [(seed, arm) for seed in (0, 1) for arm in ARMS]
    assert [len(result.losses) for result in results] == [0, 6, 6] * 2
    assert len({result.losses for result in results}) == 5, "every pretraining is its own"
    settings = study.finetune
    assert settings is not None
    for result in (results[1], results[4]):
        pretrainer = Pretrainer(
            store,
            select_windows(store, ("deap",), {}),
            study.model,
            study.pretrain,
            seed=result.seed,
            device=torch.device("cpu"),
        )
        assert tuple(step.loss for step in pretrainer.steps()) == result.losses
        own = settings.model_copy(update={"split": settings.split.model_copy(update={"seed": result.seed})})
        finetuner, target, split, pool = new_finetuner(pretrainer.model, store, own, seed=result.seed)
        assert tuple(epoch.validation.kappa for epoch in finetuner.epochs()) == result.validation_kappas
        found = predict(finetuner.best_network(), pool, target, split.test, 8).argmax(axis=1)
        assert score(target.codes[split.test], found, target.classes).balanced_accuracy == result.balanced_accuracy


def test_what_is_done_is_not_done_again(
    ray_cluster: None, store: ShardStore, new_study: Callable[..., Experiment], tmp_path: Path
) -> None:
    """One result is lost, one is marked: the lost one comes back as it was, the marked one is taken as it stands."""
    study = new_study(tmp_path)
    first = run_cells(study, {AS_IT_IS: store}, ignore)
    folder = tmp_path / "emod-study" / "cells"
    (folder / "as-it-is-SoftVA-1.json").unlink()
    marked = folder / "as-it-is-SoftVA-0.json"
    marked.write_text(json.dumps(json.loads(marked.read_text()) | {"seconds": -1.0}))
    told: list[CellResult] = []
    again = run_cells(study, {AS_IT_IS: store}, told.append)
    assert len(told) == len(again) == 6
    assert [r.seconds == -1.0 for r in again] == [r.seed == 0 and r.arm == "SoftVA" for r in again]
    for before, after in zip(first, again, strict=True):
        assert before.balanced_accuracy == after.balanced_accuracy
        assert before.losses == tuple(after.losses)
    with pytest.raises(RequestError, match=r"'emod-study'.* experiment\.study\.seeds = 2, not 3; .*study\.run_name"):
        run_cells(new_study(tmp_path, seeds=3), {AS_IT_IS: store}, ignore)


def test_a_study_is_tracked_below_one_run(
    ray_cluster: None,
    store: ShardStore,
    new_study: Callable[..., Experiment],
    new_runs: Callable[[], tuple[Path, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs, uri = new_runs()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(workflow, "ingest_corpora", lambda experiment: store)  # there are no recordings to ingest
    study = new_study(runs, seeds=1)
    results = workflow.run_study(study)
    workflow.run_study(study)
    client = MlflowClient(uri)
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (parent,) = [run for run in found if run.data.tags["emod.stage"] == "study"]
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {run.data.tags["emod.arm"] for run in children} == set(ARMS)
    assert len(children) == len(results) == 3
    digest = store.manifest.hash_of(study.corpora)
    for run in children:
        assert run.data.tags["emod.manifest"] == digest, "whoever withdraws is looked for by it"
        assert run.data.tags["emod.corpora"] == "deap,seed_iv"
        assert run.data.tags["emod.simulated"] == "true"
        (result,) = [r for r in results if r.arm == run.data.tags["emod.arm"]]
        (point,) = client.get_metric_history(run.info.run_id, "test/balanced_accuracy")
        assert (point.value, point.step) == (result.balanced_accuracy, result.best_epoch)
        losses = client.get_metric_history(run.info.run_id, "loss") if result.losses else []
        assert tuple(point.value for point in losses) == result.losses


def test_what_is_simulated_is_called_so(
    store: ShardStore,
    new_study: Callable[..., Experiment],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without effects, too; and a single seed has no spread."""
    study = new_study(tmp_path, seeds=1)
    results = [
        CellResult(AS_IT_IS, arm, 0, 0.4, 0.1, 0.4, 0.25, 1, (), (0.1,), {"train": 8, "test": 24}, True, 1.0)
        for arm in ARMS
    ]
    show_study(study, results, tmp_path, seconds=60.0)
    shown = " ".join(capsys.readouterr().out.split())
    assert "SIMULATED recordings" in shown
    assert "40.0 / -" in shown
    assert "+0.0 [-, -]" in shown
    assert json.loads((tmp_path / "study.json").read_text())["simulated"] is True
    real = [CellResult(**{**vars(result), "simulated": False}) for result in results]
    show_study(study, real, tmp_path, seconds=60.0)
    assert "(real recordings)" in capsys.readouterr().out


def test_one_that_fails_is_named_after_the_others_are_done(
    ray_cluster: None, store: ShardStore, new_study: Callable[..., Experiment], tmp_path: Path
) -> None:
    """A rate that ends in no number stops its own training."""
    arms = {"wild": ("pretrain.learning_rate=1.0e+30",), "Scratch": ("pretrain.objective=scratch",)}
    told: list[CellResult] = []
    with pytest.raises(DataError, match=r"^as-it-is-wild-0: .*not finite"):
        run_cells(new_study(tmp_path, arms=arms, seeds=1), {AS_IT_IS: store}, told.append)
    assert [result.arm for result in told] == ["Scratch"]


def test_each_effect_has_copies_and_a_store_of_its_own(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    experiment = make_experiment(
        tmp_path,
        addresses={"store": "/lab/store", "runs": "/lab/runs", "data": {"deap": "/lab/deap", "seed_iv": "/lab/s"}},
        simulate={"deap": {"brain": {"effect": "medium"}}, "seed_iv": {}},
        finetune={"corpus": "seed_iv"},
        study={"arms": ARMS, "effects": ["none", "weak"], "seeds": 2},
    )
    weak = under_effect(experiment, "weak")
    assert {settings.brain.effect for settings in weak.simulate.values()} == {"weak"}
    assert weak.addresses.model_dump() == {
        "data": {"deap": "/lab/deap/weak", "seed_iv": "/lab/s/weak"},
        "store": "/lab/store/weak",
        "runs": "/lab/runs",
    }
    study, _ = settings_of(experiment)
    cells = list_cells(study, 7)
    assert len(set(cells)) == 2 * 2 * 3
    assert {(cell.effect, cell.seed) for cell in cells[:6]} == {("none", 7), ("weak", 7)}


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"study": None}, "no study section"),
        ({"finetune": None}, "no finetune section"),
        ({"corpora": ["seed_iv"]}, "nothing is left to pretrain on"),
        ({"finetune": {"corpus": "seed_iv", "targets": ["emotion", "valence"]}}, "compares one target"),
        ({"study": {"arms": ARMS, "effects": ["weak"]}}, "deap is not in simulate"),
        ({"study": {"arms": {"a": ["seed=3"], "b": []}}}, r"study\.arms\.a: seed=3 is not of"),
        ({"study": {"arms": {"a": ["pretrain.round=3"], "b": []}}}, r"--set pretrain\.round=3.*did you mean rounds"),
        ({"study": {"arms": {"a": ["finetune.split.seed=3"], "b": []}}}, r"arms\.a changes finetune\.split: .* one q"),
        ({"study": {"arms": {"a": ["finetune.corpus=deap"], "b": []}}}, r"arms\.a changes finetune\.corpus"),
        ({"pretrain": {"gpu": True}}, r"pretrain\.gpu = True: a study trains on one CPU each .*leave it out"),
        ({"pretrain": {"watch_subjects": 0.2}}, r"pretrain\.watch_subjects = 0\.2"),
    ],
)
def test_a_study_that_cannot_be_is_refused(
    make_experiment: Callable[..., Experiment], tmp_path: Path, sections: dict[str, Any], named: str
) -> None:
    plain = {"study": {"arms": ARMS}, "finetune": {"corpus": "seed_iv"}}
    with pytest.raises(RequestError, match=named):
        settings_of(make_experiment(tmp_path, **(plain | sections)))


def test_predictions_keep_their_order(store: ShardStore, new_study: Callable[..., Experiment], tmp_path: Path) -> None:
    """In batches of any size, each window gets what it gets alone."""
    study = new_study(tmp_path)
    settings = study.finetune
    assert settings is not None
    pretrainer = Pretrainer(
        store, select_windows(store, ("deap",), {}), study.model, study.pretrain, seed=0, device=torch.device("cpu")
    )
    finetuner, target, split, pool = new_finetuner(pretrainer.model, store, settings)
    rows = split.test[::-1].copy()
    for _ in range(8):
        finetuner.train_epoch(split.train)
    network = finetuner.network
    alone = np.concatenate([predict(network, pool, target, rows[[n]], 1) for n in range(len(rows))])
    np.testing.assert_allclose(predict(network, pool, target, rows, 7), alone, atol=1e-5)
    assert len(set(alone.argmax(axis=1).tolist())) > 1
