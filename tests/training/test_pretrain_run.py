"""Pretraining on a real Ray Train cluster: tracked, resumed by name, undisturbed by what kills it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
import torch
from mlflow import MlflowClient

from emod.catalog import Experiment
from emod.errors import DataError, RequestError
from emod.evaluation import split_subjects
from emod.model import Emod
from emod.shards import ShardStore
from emod.tracking import ensure_run
from emod.training import count_steps, draws_per_region, held_out_subjects, load_pretrained, pretrain
from emod.training.launch import TrainResources, launch
from emod.training.pretrainer import Pretrainer, select_windows
from tests.training import disturb
from tests.training.tiny_store import PretrainRun

MODULE = importlib.import_module("emod.training.pretrain")  # the package holds a function of that name
STEPS = 12
# What a step computes, as against how long it took.
COMPUTED = ("loss", "learning_rate", "gradient_norm", "anchors_without_positive", "epoch")


def points(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    """Every point in the order it was logged; none twice means the steps are strictly rising."""
    return [(point.step, point.value) for point in MlflowClient(uri).get_metric_history(run_id, name)]


def assert_equal_weights(found: Emod, wanted: Emod) -> None:
    assert found.state_dict().keys() == wanted.state_dict().keys()
    for name, weight in wanted.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight), name


def test_a_run_learns_tracks_and_leaves_its_model(pretrain_run: PretrainRun, store: ShardStore) -> None:
    experiment = pretrain_run.experiment
    assert count_steps(experiment, store) == STEPS
    for name in (*COMPUTED, "windows_per_s", "data_wait_share", "memory_mb"):
        assert [step for step, _ in points(pretrain_run.uri, pretrain_run.run_id, name)] == list(range(1, STEPS + 1))

    split = split_subjects(store.metadata("seed_iv"), experiment.finetune.split)
    kept = {key.partition("/")[2] for key in split.subjects["train"]}
    assert len(kept) == 2
    pretrained = pretrain_run.pretrained
    assert pretrained.seen == {"deap": ("s1", "s2", "s3", "s4", "s5", "s6"), "seed_iv": tuple(sorted(kept))}
    assert (pretrained.manifest_hash, pretrained.simulated) == (store.manifest.hash_of(experiment.corpora), True)
    assert not pretrained.model.training

    folder = Path(experiment.addresses.runs_url(), "backbone", "model")
    assert {path.name for path in folder.iterdir()} == {"model.json", "model.safetensors", "provenance.json"}
    loaded = load_pretrained(experiment.addresses.runs_url(), "backbone")
    assert_equal_weights(loaded.model, pretrained.model)
    assert (loaded.seen, loaded.manifest_hash, loaded.simulated) == (
        pretrained.seen,
        pretrained.manifest_hash,
        pretrained.simulated,
    )


def test_two_workers_learned_what_one_process_does(pretrain_run: PretrainRun, store: ShardStore) -> None:
    """The first loss has seen no update and, but for dropout's draws, is that of one process on the same windows."""
    experiment = pretrain_run.experiment
    pretrainer = Pretrainer(
        store,
        select_windows(store, experiment.corpora, held_out_subjects(experiment, store)),
        experiment.model,
        experiment.pretrain,
        seed=experiment.seed,
        device=torch.device("cpu"),
    )
    losses = [report.loss for report in pretrainer.steps()]
    found = [value for _, value in points(pretrain_run.uri, pretrain_run.run_id, "loss")]
    assert found[0] == pytest.approx(losses[0], rel=0.1)
    assert found != losses, "each worker draws its own dropout"


def test_a_finished_run_is_given_back(
    pretrain_run: PretrainRun, store: ShardStore, make_pretrain_experiment: Callable[..., Experiment]
) -> None:
    """By name, on another number of workers, with other settings of fine-tuning: none of that is what it learned."""
    before = {name: points(pretrain_run.uri, pretrain_run.run_id, name) for name in (*COMPUTED, "memory_mb")}
    experiment = make_pretrain_experiment(
        Path(pretrain_run.experiment.addresses.runs_url()),
        workers=1,
        checkpoint_every_steps=5,
        finetune={"epochs": 9},
    )
    assert ensure_run(pretrain_run.uri, "tests", "backbone", {}) == pretrain_run.run_id
    ticks: list[int] = []
    again = pretrain(
        experiment,
        store,
        tracking=(pretrain_run.uri, pretrain_run.run_id),
        advance=lambda steps=1, note="": ticks.append(steps),
    )
    assert_equal_weights(again.model, pretrain_run.pretrained.model)
    assert {name: points(pretrain_run.uri, pretrain_run.run_id, name) for name in before} == before
    assert sum(ticks) == STEPS


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 1.0e-3}, "pretrain"),
        ({"finetune": {"split": {"validation": 0.17, "test": 0.34}}}, "held_out"),
    ],
)
def test_a_name_is_refused_to_other_settings(
    pretrain_run: PretrainRun,
    store: ShardStore,
    make_pretrain_experiment: Callable[..., Experiment],
    changes: dict[str, Any],
    named: str,
) -> None:
    experiment = make_pretrain_experiment(Path(pretrain_run.experiment.addresses.runs_url()), **changes)
    with pytest.raises(RequestError, match=rf"'backbone'.* another {named}; choose another pretrain\.run_name"):
        pretrain(experiment, store, tracking=(pretrain_run.uri, pretrain_run.run_id), advance=lambda *told: None)


def assert_as_undisturbed(pretrain_run: PretrainRun, found: Emod, uri: str, run_id: str) -> None:
    """The same weights, and each step's points once, to the bit."""
    assert_equal_weights(found, pretrain_run.pretrained.model)
    for name in COMPUTED:
        assert points(uri, run_id, name) == points(pretrain_run.uri, pretrain_run.run_id, name)


def test_a_killed_worker_changes_nothing(
    pretrain_run: PretrainRun,
    store: ShardStore,
    make_pretrain_experiment: Callable[..., Experiment],
    new_runs: Callable[[], tuple[Path, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """It dies after step 10, which it has logged; the last checkpoint is of step 9."""
    runs, uri = new_runs()
    run_id = ensure_run(uri, "tests", "backbone", {})
    killed = tmp_path / "killed"
    monkeypatch.setattr(MODULE, "_pretrain_worker", disturb.disturb_pretraining(10, str(killed), kill=True))
    resumed = pretrain(make_pretrain_experiment(runs), store, tracking=(uri, run_id), advance=lambda *told: None)
    assert killed.exists()
    assert_as_undisturbed(pretrain_run, resumed.model, uri, run_id)


@pytest.mark.long
def test_a_killed_driver_changes_nothing(
    pretrain_run: PretrainRun,
    store: ShardStore,
    make_pretrain_experiment: Callable[..., Experiment],
    new_runs: Callable[[], tuple[Path, str]],
    tmp_path: Path,
) -> None:
    """It is killed after step 5, checkpoint at 3; the same command, given again, finishes the run."""
    runs, uri = new_runs()
    experiment = make_pretrain_experiment(runs)
    run_id = ensure_run(uri, "tests", "backbone", {})
    marker = tmp_path / "stalled"
    told = [ray.get_runtime_context().gcs_address, experiment.model_dump_json(), uri, run_id, "5", str(marker)]
    source = str(Path(MODULE.__file__ or "").parents[2])
    with (tmp_path / "driver.log").open("wb") as log:
        driver = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("disturb.py")), *told],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": source},
        )
        try:
            while not marker.exists():
                assert driver.poll() is None, (tmp_path / "driver.log").read_text()
                time.sleep(0.05)
        finally:
            driver.kill()
            driver.wait()
    assert not Path(runs, "backbone", "model").exists()
    with pytest.raises(RequestError, match=r"no finished pretraining run.*backbone"):
        load_pretrained(str(runs), "backbone")
    # Past the checkpoint: these steps will be taken again, and must not be logged again.
    assert [step for step, _ in points(uri, run_id, "loss")] == [1, 2, 3, 4, 5]

    assert ensure_run(uri, "tests", "backbone", {}) == run_id
    resumed = pretrain(experiment, store, tracking=(uri, run_id), advance=lambda *told: None)
    assert_as_undisturbed(pretrain_run, resumed.model, uri, run_id)


def test_a_workers_bad_data_is_the_drivers(ray_cluster: None, tmp_path: Path) -> None:
    """One line, the worker's own; not Ray's report of it."""

    def loop(config: dict[str, Any]) -> None:
        config["watch"].post(3, "on the way")
        raise DataError("step 7: the loss is not finite")

    ticks: list[tuple[int, str]] = []
    with pytest.raises(DataError) as caught:
        launch(
            loop,
            {},
            run_name="bad",
            runs_url=str(tmp_path),
            resources=TrainResources(1, 1.0, gpu=False, max_failures=0),
            advance=lambda steps=1, note="": ticks.append((steps, note)),
        )
    assert str(caught.value) == "step 7: the loss is not finite"
    assert ticks == [(3, "on the way")]


def test_nothing_is_held_out_without_fine_tuning(store: ShardStore, make_experiment: Callable[..., Experiment]) -> None:
    assert held_out_subjects(make_experiment("unused"), store) == {}


def test_draws_are_counted_as_the_run_draws(
    store: ShardStore, make_pretrain_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """seed_iv's four words lie in a few regions only; its other slots are filled from those."""
    experiment = make_pretrain_experiment(tmp_path)
    counted = draws_per_region(experiment, store, steps=STEPS)
    seen = select_windows(store, experiment.corpora, held_out_subjects(experiment, store))
    drawn: dict[str, list[int]] = {name: [0] * 9 for name in experiment.corpora}
    pretrainer = Pretrainer(store, seen, experiment.model, experiment.pretrain, seed=0, device=torch.device("cpu"))
    for step in range(STEPS):
        for name, picks in pretrainer.plan.batch(step).items():
            for row in seen[name].rows[picks]:
                drawn[name][store.metadata(name)["va_region"][int(row)].as_py()] += 1
    assert counted == drawn
    assert sum(map(bool, counted["seed_iv"])) == 4
