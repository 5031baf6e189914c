"""Pretraining on a real Ray Train cluster: tracked, resumed by name, undisturbed by what kills it."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import ray.train
import torch
from mlflow import MlflowClient

from emod.catalog import Experiment
from emod.catalog.experiment import Addresses
from emod.errors import DataError, RequestError
from emod.evaluation import make_splits
from emod.model import Emod
from emod.shards import ShardStore
from emod.storage import UnreachableError
from emod.tracking import ensure_run
from emod.training import count_steps, draws_per_region, held_out_subjects, load_pretrained, pretrain
from emod.training.checkpoint import fetch_newest, load_checkpoint
from emod.training.launch import TrainResources, launch
from emod.training.pretrainer import Pretrainer, make_plan, select_windows
from tests.nodes import run_driver
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

    split = make_splits(store.metadata("seed_iv"), experiment.finetune.split)[0]
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
    """Losses are those of one process on the same windows: dropout is a window's, whichever worker has it."""
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
    assert experiment.model.dropout > 0
    assert found[0] == pytest.approx(losses[0], rel=1e-6)
    assert found == pytest.approx(losses, rel=1e-4)


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
        ({"learning_rate": 1.0e-3}, r"pretrain\.learning_rate = \S+, not 0\.001"),
        ({"finetune": {"split": {"validation": 0.17, "test": 0.34}}}, r"held_out\.seed_iv = \[.+\], not \[.+\]"),
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
    with pytest.raises(RequestError, match=rf"'backbone'.* made with {named}; set it back, .*pretrain\.run_name"):
        pretrain(experiment, store, tracking=(pretrain_run.uri, pretrain_run.run_id), advance=lambda *told: None)


def assert_as_undisturbed(pretrain_run: PretrainRun, found: Emod, uri: str, run_id: str) -> None:
    """The same weights, and each step's points once, to the bit."""
    assert_equal_weights(found, pretrain_run.pretrained.model)
    for name in (*COMPUTED, "alignment", "uniformity", "va_rank_correlation", "knn_balanced_accuracy/seed_iv"):
        assert points(uri, run_id, name) == points(pretrain_run.uri, pretrain_run.run_id, name)


@pytest.mark.long
def test_a_worker_killed_over_an_upload_changes_nothing(
    pretrain_run: PretrainRun,
    store: ShardStore,
    make_pretrain_experiment: Callable[..., Experiment],
    new_runs: Callable[[], tuple[Path, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Step 10 is taken and logged while the checkpoint of step 9 is half uploaded: the one of step 6 is the last."""
    runs, uri = new_runs()
    run_id = ensure_run(uri, "tests", "backbone", {})
    killed = tmp_path / "killed"
    told: list[str] = []
    monkeypatch.setattr(MODULE, "_pretrain_worker", disturb.disturb_pretraining(10, str(killed), kill=True, upload=9))
    resumed = pretrain(
        make_pretrain_experiment(runs),
        store,
        tracking=(uri, run_id),
        advance=lambda steps=1, note="": told.append(note),
    )
    assert Path(f"{killed}.from").read_text() == "6"
    assert_as_undisturbed(pretrain_run, resumed.model, uri, run_id)
    assert told[-1].endswith(", 2 workers, resumed at step 6")
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    lines = [line for path in logs.glob("worker-*.out") for line in path.read_text().splitlines()]
    assert lines.count("run backbone: 12 steps, 2 workers, resumed at step 6") == 1
    assert MlflowClient(uri).get_run(run_id).data.tags["emod.world_size"] == "2"


def take_up(
    pretrain_run: PretrainRun,
    make_pretrain_experiment: Callable[..., Experiment],
    new_runs: Callable[[], tuple[Path, str]],
    workers: int | tuple[int, int],
) -> tuple[list[str], list[tuple[int, float]], Emod]:
    """Ends a copy of the run from its checkpoint of step 9, in the middle of an epoch: notes of the bar, losses."""
    runs, uri = new_runs()
    whole = Path(pretrain_run.experiment.addresses.runs_url(), "backbone")
    (checkpoint,) = (whole / "checkpoints").glob("000000009-*")
    shutil.copytree(checkpoint, runs / "backbone" / "checkpoints" / checkpoint.name)
    run_id = ensure_run(uri, "tests", "backbone", {})
    experiment = make_pretrain_experiment(runs, workers=workers, cpus_per_worker=0.5)
    told: list[str] = []
    store = ShardStore.open(experiment.addresses.store_url())
    found = pretrain(experiment, store, tracking=(uri, run_id), advance=lambda steps=1, note="": told.append(note))
    return told, points(uri, run_id, "loss"), found.model


def assert_close_losses(found: list[tuple[int, float]], pretrain_run: PretrainRun) -> None:
    """The sums are taken in another order, no more: 1e-6 of the loss in single precision, step by step."""
    wanted = points(pretrain_run.uri, pretrain_run.run_id, "loss")[9:]
    assert [step for step, _ in found] == [step for step, _ in wanted] == [10, 11, 12]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in wanted], rel=1e-6)


@pytest.mark.long
def test_a_run_of_two_workers_is_ended_by_one(
    pretrain_run: PretrainRun,
    make_pretrain_experiment: Callable[..., Experiment],
    new_runs: Callable[[], tuple[Path, str]],
) -> None:
    told, losses, _ = take_up(pretrain_run, make_pretrain_experiment, new_runs, 1)
    assert_close_losses(losses, pretrain_run)
    assert told[-1].endswith(", 1 worker, resumed at step 9")


@pytest.mark.long
@pytest.mark.parametrize("workers", [2, 3, (1, 3)])
def test_a_run_of_two_workers_is_ended_by_others(
    pretrain_run: PretrainRun,
    make_pretrain_experiment: Callable[..., Experiment],
    new_runs: Callable[[], tuple[Path, str]],
    workers: int | tuple[int, int],
) -> None:
    """As many as there is room for, where a range is given: four would fit."""
    told, losses, model = take_up(pretrain_run, make_pretrain_experiment, new_runs, workers)
    assert_close_losses(losses, pretrain_run)
    most = workers if isinstance(workers, int) else workers[1]
    assert told[-1].endswith(f", {most} workers, resumed at step 9")
    if workers == 2:
        assert_equal_weights(model, pretrain_run.pretrained.model)
        assert losses == points(pretrain_run.uri, pretrain_run.run_id, "loss")[9:]


@pytest.mark.parametrize("workers", [19, (1, 19)])
def test_more_workers_than_windows_are_refused(
    make_pretrain_experiment: Callable[..., Experiment], store: ShardStore, tmp_path: Path, workers: Any
) -> None:
    experiment = make_pretrain_experiment(tmp_path, workers=workers)
    with pytest.raises(RequestError, match=r"^pretrain\.workers = 19: a batch has 18 windows; .*at most that many"):
        pretrain(experiment, store, tracking=("unused", "unused"), advance=lambda *told: None)
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.long
def test_a_lost_node_changes_nothing(
    pretrain_run: PretrainRun,
    make_pretrain_experiment: Callable[..., Experiment],
    new_runs: Callable[[], tuple[Path, str]],
    tmp_path: Path,
) -> None:
    """SIGKILL of the raylet of the first worker's node after step 10: another node has room, and takes up step 9."""
    runs, uri = new_runs()
    experiment = make_pretrain_experiment(runs)
    run_id = ensure_run(uri, "tests", "backbone", {})
    told = run_driver("training/lost_node.py", experiment.model_dump_json(), uri, run_id, tmp_path, timeout_s=600)
    assert told["alive"] == 3, "the head and two others"
    assert told["notes"][-1].endswith(", 2 workers, resumed at step 9")
    assert Path(tmp_path, "stalled.from").read_text() == "9"
    found = load_pretrained(str(runs), "backbone").model
    assert_as_undisturbed(pretrain_run, found, uri, run_id)


@pytest.mark.long
@pytest.mark.parametrize("failures", [1, 2])
def test_a_server_that_is_away_for_a_moment_is_asked_again(ray_cluster: None, tmp_path: Path, failures: int) -> None:
    """As often as workers may be lost; after that it is told in one line."""

    def loop(config: dict[str, Any]) -> None:
        attempts = Path(config["folder"], "attempts")
        with attempts.open("a") as stream:
            stream.write(".")
        if len(attempts.read_text()) <= config["failures"]:
            raise UnreachableError("s3://lab/shards: cannot read it (503); check the address and the network")

    def start() -> None:
        launch(
            loop,
            {"folder": str(tmp_path), "failures": failures},
            run_name="away",
            runs_url=str(tmp_path),
            resources=TrainResources(1, 1.0, gpu=False, max_failures=1),
            advance=lambda steps=1, note="": None,
        )

    if failures == 1:
        start()
    else:
        with pytest.raises(RequestError, match=r"^s3://lab/shards: cannot read it \(503\); check"):
            start()
    assert (tmp_path / "attempts").read_text() == ".."


@pytest.mark.long
def test_bad_data_of_one_worker_stops_all_at_once(ray_cluster: None, tmp_path: Path) -> None:
    """One line, the worker's own, at the first attempt, and nobody is left waiting for who has stopped."""

    def loop(config: dict[str, Any]) -> None:
        import torch.distributed as dist

        rank = ray.train.get_context().get_world_rank()
        Path(config["folder"], f"{rank}-{os.getpid()}").touch()
        config["watch"].post(3, "on the way")
        if rank == 1:
            raise DataError("step 7: the loss is not finite")
        dist.barrier()

    ticks: list[tuple[int, str]] = []
    seen = tmp_path / "seen"
    seen.mkdir()
    with pytest.raises(DataError) as caught:
        launch(
            loop,
            {"folder": str(seen)},
            run_name="bad",
            runs_url=str(tmp_path),
            resources=TrainResources(2, 1.0, gpu=False, max_failures=5),
            advance=lambda steps=1, note="": ticks.append((steps, note)),
        )
    assert str(caught.value) == "step 7: the loss is not finite"
    assert ticks == [(3, "on the way")]
    workers = sorted(path.name.split("-") for path in seen.iterdir())
    assert [rank for rank, _ in workers] == ["0", "1"]
    for _, pid in workers:
        wait_until_gone(int(pid))


def wait_until_gone(pid: int) -> None:
    for _ in range(600):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.1)
    pytest.fail(f"worker {pid} is left")


def test_a_bad_window_stops_the_run_and_leaves_the_last_checkpoint(
    store: ShardStore,
    make_pretrain_experiment: Callable[..., Experiment],
    new_runs: Callable[[], tuple[Path, str]],
    tmp_path: Path,
    ray_cluster: None,
) -> None:
    """Bytes of one window are damaged in the store, where they make no number; the rest learns to the step before."""
    runs, uri = new_runs()
    copy = tmp_path / "store"
    shutil.copytree(store.url, copy)
    experiment = make_pretrain_experiment(runs, max_failures=5, checkpoint_every_steps=2).model_copy(
        update={"addresses": Addresses(store=str(copy), runs=str(runs))}
    )
    step, row = first_drawn_at(experiment, store, "deap", at_least=4)
    spoil(copy, store, "deap", row)
    damaged = ShardStore.open(str(copy))
    run_id = ensure_run(uri, "tests", "backbone", {})
    with pytest.raises(DataError) as caught:
        pretrain(experiment, damaged, tracking=(uri, run_id), advance=lambda *told: None)
    window = store.metadata("deap")["window_id"][row].as_py()
    assert str(caught.value).startswith(f"step {step + 1}: the loss is not finite: corpus deap: windows {window} hold")
    assert "\n" not in str(caught.value)
    assert [number for number, _ in points(uri, run_id, "loss")] == list(range(1, step + 1))

    local = tmp_path / "local"
    local.mkdir()
    assert fetch_newest(str(runs / "backbone" / "checkpoints"), local) is not None
    whole = Emod(experiment.model)
    optimiser = torch.optim.AdamW(whole.parameters())
    assert load_checkpoint(local, whole, optimiser) == {"next_step": step // 2 * 2}
    assert all(bool(torch.isfinite(weight).all()) for weight in whole.state_dict().values())


def first_drawn_at(experiment: Experiment, store: ShardStore, corpus: str, *, at_least: int) -> tuple[int, int]:
    """A row of the store that the plan draws for the first time at a step, and that step."""
    selected = select_windows(store, experiment.corpora, held_out_subjects(experiment, store))
    plan = make_plan(selected, experiment.pretrain, experiment.seed)
    seen: set[int] = set()
    for step in range(STEPS):
        fresh = set(selected[corpus].rows[plan.batch(step)[corpus]].tolist()) - seen
        if step >= at_least and fresh:
            return step, min(fresh)
        seen |= fresh
    raise AssertionError("every row is drawn early")


def spoil(folder: Path, store: ShardStore, corpus: str, row: int) -> None:
    """Overwrites samples of one window with bytes that are no number; the file keeps its length."""
    samples = store.windows(corpus, [row]).astype(np.float16).tobytes()
    (path,) = [path for path in folder.rglob("*.arrow") if samples in path.read_bytes()]
    content = path.read_bytes()
    path.write_bytes(content.replace(samples, b"\xff" * 8 + samples[8:]))


def test_a_shard_that_is_cut_off_is_refused_before_anything_starts(
    store: ShardStore,
    make_pretrain_experiment: Callable[..., Experiment],
    new_runs: Callable[[], tuple[Path, str]],
    tmp_path: Path,
) -> None:
    runs, uri = new_runs()
    copy = tmp_path / "store"
    shutil.copytree(store.url, copy)
    shard = store.manifest.corpora["deap"].shards[1].tensors
    (copy / shard).write_bytes((copy / shard).read_bytes()[:-100])
    with pytest.raises(DataError) as caught:
        pretrain(
            make_pretrain_experiment(runs),
            ShardStore.open(str(copy)),
            tracking=(uri, "unused"),
            advance=lambda *told: None,
        )
    assert f"{copy}, corpus deap: missing, cut off or changed: {shard};" in str(caught.value)


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
