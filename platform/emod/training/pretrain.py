"""Pretraining on Ray Train: the driver's side and the loop that every worker runs.

The network itself is stepped by `Pretrainer`. A run is resumed by its name; what it learned is left in
``<runs>/<run_name>/model`` with a note of every subject it has seen.
"""

from __future__ import annotations

import faulthandler
import json
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.collective
import ray.train.torch
import torch
import torch.distributed as dist
from mlflow import MlflowClient

from emod import storage
from emod.affect import N_REGIONS
from emod.catalog import Experiment, load_corpus
from emod.cli import Tick
from emod.errors import DataError, RequestError
from emod.evaluation import Backbone
from emod.model import Emod, load_emod, load_weights, save_weights
from emod.monitoring import Gauges, log
from emod.shards import Manifest, ShardStore
from emod.tracking import MetricLog, TrainedCorpus
from emod.tracking.runs import RESOURCE_FIELDS
from emod.training.checkpoint import (
    CheckpointWriter,
    fetch_checkpoint,
    fetch_finished,
    fetch_newest,
    hold_checkpoint,
    load_checkpoint,
    read_position,
)
from emod.training.launch import TrainResources, Watch, claim_run, launch
from emod.training.pretrainer import Pretrainer, StepReport, make_plan, select_windows
from emod.training.watching import Costs, HeldOutProbe, asked_about, watched_subjects, word_watched

__all__ = [
    "Pretrained",
    "claim_pretraining",
    "count_steps",
    "draws_per_region",
    "held_out_subjects",
    "load_pretrained",
    "plan_pretraining",
    "pretrain",
    "trained_corpus",
]

_ATTEMPTS = "emod.attempts"
_PROVENANCE = "provenance.json"
# Subjects by name are its only part that grows.
_PROVENANCE_BYTES = 2**22


@dataclass(frozen=True)
class Pretrained:
    """A finished pretraining run.

    Attributes:
        model: The network, in evaluation mode, on the CPU.
        seen: corpus -> subjects whose windows and labels it was trained on.
        manifest_hash: Lineage of those windows.
        simulated: Whether any of them was simulated.
        corpora: What is to be known of each corpus of ``seen`` where the store is another.
        known: Whether ``seen`` is the whole truth; False for weights without provenance.
    """

    model: Emod
    seen: dict[str, tuple[str, ...]]
    manifest_hash: str
    simulated: bool
    corpora: dict[str, TrainedCorpus] = field(default_factory=dict)
    known: bool = True

    @property
    def learned_from(self) -> Backbone:
        """Whom the audit asks about."""
        return Backbone(self.seen if self.known else None)


def held_out_subjects(experiment: Experiment, store: ShardStore) -> dict[str, frozenset[str]]:
    """corpus -> subjects that pretraining must not see: those it is watched on, and those that will be tested on."""
    held_out = watched_subjects(experiment, store)
    for name, subjects in asked_about(experiment, store, "test").items():
        held_out[name] = held_out.get(name, frozenset()) | subjects
    return held_out


def count_steps(experiment: Experiment, store: ShardStore) -> int:
    """Optimiser steps of the whole run."""
    settings = experiment.pretrain
    if settings.objective == "scratch":
        return 0
    corpora = select_windows(store, experiment.pretrained_on, held_out_subjects(experiment, store))
    return settings.epochs * (settings.steps_per_epoch or make_plan(corpora, settings, experiment.seed).steps_per_epoch)


def plan_pretraining(experiment: Experiment, store: ShardStore) -> list[str]:
    """What pretraining would do, in plain lines."""
    settings = experiment.pretrain
    workers = settings.workers if isinstance(settings.workers, int) else "{} to {}".format(*settings.workers)
    windows = N_REGIONS * settings.rounds * len(experiment.pretrained_on)
    steps = count_steps(experiment, store)
    return [
        f"{steps} steps of {windows} windows on {workers} workers",
        word_watched(watched_subjects(experiment, store)),
    ]


def draws_per_region(experiment: Experiment, store: ShardStore, *, steps: int) -> dict[str, list[int]]:
    """corpus -> windows drawn from each of the 9 va_regions in the first steps of the plan.

    Corpora with emotion words fill few regions; this shows what their empty slots were filled with.
    """
    corpora = select_windows(store, experiment.pretrained_on, held_out_subjects(experiment, store))
    plan = make_plan(corpora, experiment.pretrain, experiment.seed)
    totals = {name: np.zeros(N_REGIONS, dtype=np.int64) for name in plan.corpora}
    for step in range(steps):
        for name, counts in plan.draws(step).items():
            totals[name] += counts
    return {name: counts.tolist() for name, counts in totals.items()}


def claim_pretraining(experiment: Experiment, store: ShardStore) -> str:
    """Ties the run's name to what decides its weights, as `claim_run`. It trains and logs nothing.

    Raises:
        RequestError: As `pretrain`.
    """
    settings = experiment.pretrain
    windows = N_REGIONS * settings.rounds * len(experiment.pretrained_on)
    most = settings.workers if isinstance(settings.workers, int) else settings.workers[1]
    if most > windows:
        raise RequestError(f"pretrain.workers = {most}: a batch has {windows} windows; set at most that many workers")
    held_out = held_out_subjects(experiment, store)
    claim = {
        "seed": experiment.seed,
        "corpora": experiment.pretrained_on,
        "model": experiment.model.model_dump(mode="json"),
        "pretrain": settings.model_dump(mode="json", exclude=set(RESOURCE_FIELDS)),
        "held_out": {name: sorted(subjects) for name, subjects in held_out.items()},
        "manifest": store.manifest.hash_of(experiment.pretrained_on),
    }
    return claim_run(experiment.addresses.runs_url(), settings.run_name, claim, room="pretrain")


def pretrain(experiment: Experiment, store: ShardStore, *, tracking: tuple[str, str], advance: Tick) -> Pretrained:
    """Pretrains to the end, resuming the run of that name. Ray must be running.

    Args:
        experiment: The run.
        store: Where the windows are.
        tracking: MLflow's URI and the id of the run to log to.
        advance: The driver's progress bar, one unit a step.

    Raises:
        RequestError: If the run's name belongs to a run with other settings, windows or held-out subjects, or there
            are more workers than windows in a batch.
        DataError: If the loss is not finite, a shard is damaged, or there is no space for checkpoints or metrics. What
            was learned up to the last checkpoint is there.
    """
    settings = experiment.pretrain
    runs_url = experiment.addresses.runs_url()
    claim_pretraining(experiment, store)
    held_out = held_out_subjects(experiment, store)
    seen: dict[str, tuple[str, ...]] = {}
    if settings.objective == "scratch":
        torch.manual_seed(experiment.seed)
        model = Emod(experiment.model)
    else:
        model = _launch(experiment, store, held_out, tracking, advance)
        seen = {
            name: tuple(sorted(set(store.metadata(name)["subject"].to_pylist()) - held_out.get(name, frozenset())))
            for name in experiment.pretrained_on
        }
    lineage = store.manifest.hash_of(experiment.pretrained_on)
    corpora = {name: trained_corpus(store, name, subjects) for name, subjects in seen.items()}
    pretrained = Pretrained(model.eval(), seen, lineage, store.is_simulated(experiment.pretrained_on), corpora)
    _export(pretrained, storage.join(runs_url, settings.run_name, "model"))
    return pretrained


def _launch(
    experiment: Experiment,
    store: ShardStore,
    held_out: dict[str, frozenset[str]],
    tracking: tuple[str, str],
    advance: Tick,
) -> Emod:
    """The trained network; of a run that has taken all its steps, without starting a worker."""
    settings = experiment.pretrain
    checkpoints = _checkpoints_url(experiment)
    steps = count_steps(experiment, store)
    model = Emod(experiment.model)
    config = {
        "experiment": experiment.model_dump_json(),
        "manifest": store.manifest.model_dump_json(),
        "held_out": {name: sorted(subjects) for name, subjects in held_out.items()},
        "tracking": list(tracking),
    }
    with tempfile.TemporaryDirectory(prefix="emod-checkpoint-") as scratch:
        folder = Path(scratch)
        if fetch_newest(checkpoints, folder) and read_position(folder)["next_step"] == steps:
            advance(steps, "finished before")
        else:
            _refuse_damaged(experiment, store)
            launch(
                _pretrain_worker,
                config,
                run_name=settings.run_name,
                runs_url=experiment.addresses.runs_url(),
                resources=TrainResources(
                    settings.workers, settings.cpus_per_worker, settings.gpu, settings.max_failures
                ),
                advance=advance,
            )
            fetch_finished(checkpoints, folder, {"next_step": steps})
        load_weights(folder, model)
    return model


def _refuse_damaged(experiment: Experiment, store: ShardStore) -> None:
    for name in experiment.pretrained_on:
        if damaged := store.damaged_files(name):
            named = ", ".join(damaged[:4]) + (f" and {len(damaged) - 4} more" if len(damaged) > 4 else "")
            raise DataError(
                f"{storage.redact(store.url)}, corpus {name}: missing, cut off or changed: {named}; "
                "restore what is named, or run jobs/ingest.py again"
            )


def _checkpoints_url(experiment: Experiment) -> str:
    return storage.join(experiment.addresses.runs_url(), experiment.pretrain.run_name, "checkpoints")


def trained_corpus(store: ShardStore, name: str, subjects: Iterable[str]) -> TrainedCorpus:
    """What a model card says of a corpus and of whom of it a model has seen."""
    catalog = load_corpus(name)
    return TrainedCorpus(
        channels=store.channels(name),
        sfreq_hz=store.sfreq_hz(name),
        licence=catalog.licence,
        citation=catalog.citation,
        subjects=tuple(sorted(set(subjects))),
    )


def load_pretrained(runs_url: str, run_name: str) -> Pretrained:
    """What a finished run left.

    Raises:
        RequestError: If there is no such run, or it has not finished.
    """
    url = storage.join(runs_url, run_name, "model")
    if not storage.exists(storage.join(url, _PROVENANCE)):
        raise RequestError(
            f"{storage.redact(runs_url)} holds no finished pretraining run {run_name!r}; "
            "finish it with jobs/pretrain.py, or set pretrain.run_name to one that has"
        )
    return load_folder(url)


def load_folder(url: str) -> Pretrained:
    """A network from a folder with model.json and model.safetensors, and what lies beside them of whom it has seen."""
    with tempfile.TemporaryDirectory(prefix="emod-model-") as scratch:
        for name in ("model.json", "model.safetensors"):
            storage.download(storage.join(url, name), str(Path(scratch, name)))
        model = load_emod(Path(scratch))
    if not storage.exists(storage.join(url, _PROVENANCE)):
        return Pretrained(model, {}, "unknown", simulated=False, known=False)
    provenance = json.loads(storage.read_bytes(storage.join(url, _PROVENANCE), at_most=_PROVENANCE_BYTES))
    return Pretrained(
        model=model,
        seen={name: tuple(subjects) for name, subjects in provenance["seen"].items()},
        manifest_hash=provenance["manifest_hash"],
        simulated=provenance["simulated"],
        corpora={
            name: TrainedCorpus.model_validate_json(json.dumps(facts)) for name, facts in provenance["corpora"].items()
        },
    )


def _export(pretrained: Pretrained, url: str) -> None:
    with tempfile.TemporaryDirectory(prefix="emod-model-") as scratch:
        save_weights(Path(scratch), pretrained.model, pretrained.model.config)
        for name in ("model.json", "model.safetensors"):
            storage.upload(str(Path(scratch, name)), storage.join(url, name))
    provenance = {
        "seen": pretrained.seen,
        "manifest_hash": pretrained.manifest_hash,
        "simulated": pretrained.simulated,
        "corpora": {name: facts.model_dump(mode="json") for name, facts in pretrained.corpora.items()},
    }
    # Written last: a folder with it is whole.
    storage.write_bytes(storage.join(url, _PROVENANCE), json.dumps(provenance, indent=1).encode())


def _pretrain_worker(config: dict[str, Any]) -> None:
    experiment = Experiment.model_validate_json(config["experiment"])
    settings = experiment.pretrain
    torch.set_num_threads(settings.threads_per_worker)
    store = ShardStore(experiment.addresses.store_url(), Manifest.model_validate_json(config["manifest"]))
    held_out = {name: frozenset(subjects) for name, subjects in config["held_out"].items()}
    world_size = ray.train.get_context().get_world_size()
    device, group = ray.train.torch.get_device(), dist.group.WORLD if world_size > 1 else None
    pretrainer = Pretrainer(
        store,
        select_windows(store, experiment.pretrained_on, held_out),
        experiment.model,
        settings,
        seed=experiment.seed,
        device=device,
        group=group,
    )
    rank = ray.train.get_context().get_world_rank()
    checkpoints = _checkpoints_url(experiment)
    _resume(pretrainer, checkpoints, rank)
    tracking_uri, run_id = config["tracking"]
    client = MlflowClient(tracking_uri) if rank == 0 else None
    costs = Costs(world_size, device, client.get_run(run_id).data.metrics if client is not None else None)
    gauges = Gauges(settings.run_name, rank)
    # kill -USR1 writes the stacks of a worker that stands still into its log; Ray's py-spy wants SYS_PTRACE.
    faulthandler.register(signal.SIGUSR1)
    probe = HeldOutProbe(store, experiment, held_out, device=device, group=group)
    watch: Watch = config["watch"]
    crew = f"{world_size} worker{'s' * (world_size > 1)}"
    if pretrainer.next_step:
        crew += f", resumed at step {pretrainer.next_step}"
    log("training starts", run=settings.run_name, rank=rank, step=pretrainer.next_step, workers=world_size)
    if client is not None:
        client.set_tag(run_id, "emod.world_size", str(world_size))
        gauges.set({"attempts": _count_attempt(client, run_id), "total_steps": pretrainer.total_steps})
        print(f"run {settings.run_name}: {pretrainer.total_steps} steps, {crew}", flush=True)
        watch.post(pretrainer.next_step, crew)
    store.fetch(experiment.pretrained_on, None if rank else lambda note: watch.post(pretrainer.next_step, note))

    with ExitStack() as records:
        metrics = records.enter_context(MetricLog(client, run_id)) if client is not None else None
        writer = None
        if metrics is not None:
            writer = records.enter_context(CheckpointWriter(checkpoints, run=settings.run_name, before=metrics.flush))

        def tell(step: int, values: dict[str, float]) -> None:
            gauges.set(values)
            if metrics is not None:
                metrics.log(step, values)

        if pretrainer.next_step == 0 and probe.due(0, pretrainer.total_steps):
            tell(0, probe.measure(pretrainer.model))
        for report in pretrainer.steps():
            done = pretrainer.next_step
            values = _metrics(report, pretrainer) | costs.read()
            if probe.due(done, pretrainer.total_steps):
                values |= probe.measure(pretrainer.model)
            tell(done, values)
            gauges.set({"step": done, "fetched_mb": store.fetched_bytes / 1e6})
            if writer is None:
                continue
            watch.post(done, f"loss {report.loss:.3f}, {values['windows_per_s']:,.0f} windows/s, {crew}")
            if done % settings.checkpoint_every_steps == 0 or done == pretrainer.total_steps:
                position = {"next_step": done}
                log("step", run=settings.run_name, step=done, loss=report.loss, windows_per_s=values["windows_per_s"])
                writer.save(done, hold_checkpoint(pretrainer.model, experiment.model, pretrainer.optimiser, position))
            gauges.set({"checkpoint_age_s": time.monotonic() - writer.newest_at})


def _count_attempt(client: MlflowClient, run_id: str) -> int:
    """How often the run's workers have started, this time included."""
    attempts = int(client.get_run(run_id).data.tags.get(_ATTEMPTS, 0)) + 1
    client.set_tag(run_id, _ATTEMPTS, str(attempts))
    return attempts


def _resume(pretrainer: Pretrainer, checkpoints: str, rank: int) -> None:
    """Takes up the newest whole checkpoint, the same one on every worker."""
    with tempfile.TemporaryDirectory(prefix="emod-checkpoint-") as scratch:
        folder = Path(scratch)
        name = fetch_newest(checkpoints, folder) if rank == 0 else None
        name = ray.train.collective.broadcast_from_rank_zero(name)
        if name is None:
            return
        if rank:
            fetch_checkpoint(checkpoints, name, folder)
        position = load_checkpoint(folder, pretrainer.model, pretrainer.optimiser)
        pretrainer.next_step = position["next_step"]


def _metrics(report: StepReport, pretrainer: Pretrainer) -> dict[str, float]:
    return {
        "loss": report.loss,
        "learning_rate": report.learning_rate,
        "gradient_norm": report.gradient_norm,
        "anchors_without_positive": float(report.anchors_alone),
        "windows_per_s": report.n_windows / report.step_s,
        "data_wait_share": report.data_wait_s / report.step_s,
        "memory_mb": _memory_mb(),
        "epoch": pretrainer.next_step / pretrainer.steps_per_epoch,
    }


def _memory_mb() -> float:
    """Peak resident memory of this worker."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
