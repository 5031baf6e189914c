"""A study: arms of pretraining compared by what fine-tuning makes of them, one Ray task for each arm, effect and seed.

Every task pretrains and fine-tunes in one process on one CPU; its result is a small JSON object in the run's folder, so
a study that was interrupted goes on where it was. Simulated copies and stores are made by whoever calls.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import ray
import torch

from emod import storage
from emod.catalog import Experiment, FinetuneSettings, StudySettings, with_overrides
from emod.catalog.study import AS_IT_IS
from emod.errors import RequestError
from emod.evaluation import divide, score
from emod.shards import Manifest, ShardStore, WindowPool
from emod.training.finetuner import Finetuner, TrainingRows, predict
from emod.training.launch import KEEP_MEMORY, claim_run, finish_tasks
from emod.training.networks import new_network
from emod.training.pretrainer import Pretrainer, select_windows

__all__ = [
    "Cell",
    "CellResult",
    "cell_experiment",
    "claim_study",
    "list_cells",
    "run_cells",
    "settings_of",
    "under_effect",
]

_RESULT_BYTES = 2**22


@dataclass(frozen=True)
class Cell:
    """One training of a study, in one of `StudySettings.worlds`."""

    effect: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Names its object and its run."""
        return f"{self.effect}-{self.arm}-{self.seed}"


@dataclass(frozen=True)
class CellResult:
    """What came of one training.

    Attributes:
        effect: As in its `Cell`, likewise arm and seed.
        arm: See effect.
        seed: See effect.
        balanced_accuracy: Of the test subjects' windows, as are kappa, weighted_f1 and chance.
        kappa: See balanced_accuracy.
        weighted_f1: See balanced_accuracy.
        chance: See balanced_accuracy.
        best_epoch: Of fine-tuning, by validation kappa; from 1.
        losses: Of each pretraining step.
        validation_kappas: Of each epoch of fine-tuning.
        windows: role -> labelled windows of fine-tuning.
        simulated: Whether any recording of its store is.
        seconds: It took.
    """

    effect: str
    arm: str
    seed: int
    balanced_accuracy: float
    kappa: float
    weighted_f1: float
    chance: float
    best_epoch: int
    losses: tuple[float, ...]
    validation_kappas: tuple[float, ...]
    windows: dict[str, int]
    simulated: bool
    seconds: float

    @property
    def cell(self) -> Cell:
        """What it is the result of."""
        return Cell(self.effect, self.arm, self.seed)


def settings_of(experiment: Experiment) -> tuple[StudySettings, FinetuneSettings]:
    """The study and what it fine-tunes on.

    Raises:
        RequestError: If the experiment has no study, or none that can be run.
    """
    study, finetune = experiment.study, experiment.finetune
    if study is None or finetune is None:
        missing = "study" if study is None else "finetune"
        raise RequestError(f"experiment {experiment.name} has no {missing} section; use --experiment objectives")
    if set(experiment.corpora) == {finetune.corpus}:
        raise RequestError(f"corpora {list(experiment.corpora)}: nothing is left to pretrain on but finetune.corpus")
    if len(finetune.targets) > 1:
        raise RequestError(f"finetune.targets {list(finetune.targets)}: a study compares one target; give one")
    if study.effects and (real := sorted(set(experiment.corpora) - set(experiment.simulate))):
        raise RequestError(f"study.effects: {real[0]} is not in simulate, and only a simulated effect has a size")
    ignored = {
        "pretrain.gpu": experiment.pretrain.gpu,
        "pretrain.watch_subjects": experiment.pretrain.watch_subjects,
        "finetune.gpu": finetune.gpu,
    }
    for name, value in ignored.items():
        if value:
            raise RequestError(f"{name} = {value}: a study trains on one CPU each and watches nobody; leave it out")
    for arm, changes in study.arms.items():
        for change in changes:
            if change.partition(".")[0] not in {"model", "pretrain", "finetune"}:
                raise RequestError(
                    f"study.arms.{arm}: {change} is not of model, pretrain or finetune; arms share the rest"
                )
        varied = with_overrides(experiment, changes).finetune
        for name in ("corpus", "targets", "threshold", "ties", "split"):
            if varied is None or getattr(varied, name) != getattr(finetune, name):
                raise RequestError(f"study.arms.{arm} changes finetune.{name}: arms are compared on one question")
    return study, finetune


def under_effect(experiment: Experiment, effect: str) -> Experiment:
    """The experiment on copies simulated with this effect, in folders of their own below its addresses."""
    if effect == AS_IT_IS:
        return experiment
    where = experiment.addresses
    below = {f"data.{name}": storage.join(where.root_of(name), effect) for name in experiment.simulate}
    below |= {"store": storage.join(where.store_url(), effect)}
    overrides = [f"addresses.{field}={json.dumps(url)}" for field, url in below.items()]
    overrides += [f"simulate.{name}.brain.effect={effect}" for name in experiment.simulate]
    return with_overrides(experiment, overrides)


def list_cells(study: StudySettings, seed: int) -> list[Cell]:
    """Every training of a study; seeds outermost, so that an interrupted one has whole comparisons."""
    return [
        Cell(effect, arm, seed + number)
        for number in range(study.seeds)
        for effect in study.worlds
        for arm in study.arms
    ]


def claim_study(experiment: Experiment, stores: Mapping[str, ShardStore]) -> str:
    """Ties the study's name to what decides its results, as `claim_run`.

    Raises:
        RequestError: If the name belongs to a study with other settings or windows.
    """
    study, _ = settings_of(experiment)
    claim = {
        "experiment": experiment.model_dump(
            mode="json", exclude={"addresses", "name", "description", "embed", "serving"}
        ),
        "manifests": {effect: store.manifest.hash_of(experiment.corpora) for effect, store in stores.items()},
    }
    return claim_run(experiment.addresses.runs_url(), study.run_name, claim, room="study")


def run_cells(
    experiment: Experiment, stores: Mapping[str, ShardStore], report: Callable[[CellResult], None]
) -> list[CellResult]:
    """Runs what is not done yet, as many at a time as Ray has CPUs; returns all results in the order of `list_cells`.

    Args:
        experiment: With a study.
        stores: effect -> its store, already ingested.
        report: Told each result, those of an earlier attempt too, before it is written down as done.

    Raises:
        RequestError: As `claim_study`.
        RequestError, DataError: As a training raises it, after all others have ended.
    """
    study, _ = settings_of(experiment)
    claim_study(experiment, stores)
    folder = storage.join(experiment.addresses.runs_url(), study.run_name, "cells")
    done: dict[Cell, CellResult] = {}
    waiting: dict[Any, Cell] = {}
    for cell in list_cells(study, experiment.seed):
        url = storage.join(folder, f"{cell.name}.json")
        if storage.exists(url):
            done[cell] = CellResult(**json.loads(storage.read_bytes(url, at_most=_RESULT_BYTES)))
            report(done[cell])
            continue
        varied = cell_experiment(experiment, cell)
        store = stores[cell.effect]
        task = _run_cell.remote(cell, varied.model_dump_json(), store.manifest.model_dump_json())
        waiting[task] = cell

    def finish(cell: Cell, result: CellResult) -> None:
        report(result)
        storage.write_bytes(storage.join(folder, f"{cell.name}.json"), json.dumps(asdict(result)).encode())
        done[cell] = result

    finish_tasks(waiting, finish)
    return [done[cell] for cell in list_cells(study, experiment.seed)]


def cell_experiment(experiment: Experiment, cell: Cell) -> Experiment:
    """The experiment of one training, alone."""
    study, _ = settings_of(experiment)
    drawn = [f"seed={cell.seed}", f"finetune.split.seed={cell.seed}"]
    return with_overrides(under_effect(experiment, cell.effect), [*study.arms[cell.arm], *drawn])


@ray.remote(num_cpus=1, max_retries=3, runtime_env={"env_vars": {**KEEP_MEMORY, "OMP_NUM_THREADS": "1"}})  # type: ignore[untyped-decorator]
def _run_cell(cell: Cell, experiment_json: str, manifest_json: str) -> CellResult:
    began = time.perf_counter()
    experiment = Experiment.model_validate_json(experiment_json)
    store = ShardStore(experiment.addresses.store_url(), Manifest.model_validate_json(manifest_json))
    return train_cell(cell, experiment, store, began)


def train_cell(cell: Cell, experiment: Experiment, store: ShardStore, began: float) -> CellResult:
    """Pretrains, fine-tunes and tests, in this process."""
    _, settings = settings_of(experiment)
    torch.set_num_threads(1)
    device, corpus = torch.device("cpu"), settings.corpus
    pretrainer = Pretrainer(
        store,
        select_windows(store, tuple(name for name in experiment.corpora if name != corpus), {}),
        experiment.model,
        experiment.pretrain,
        seed=experiment.seed,
        device=device,
    )
    losses = tuple(step.loss for step in pretrainer.steps())
    pool = WindowPool(store, settings.corpora)
    target, whole = divide(pool.metadata, settings, settings.targets[0])
    split = whole.keep(target.rows)
    torch.manual_seed(experiment.seed)
    network = new_network(settings, pretrainer.model, target, pool)
    rows = TrainingRows.of(split)
    finetuner = Finetuner(network, pool, settings, target, rows, seed=experiment.seed, device=device)
    kappas = tuple(epoch.criterion for epoch in finetuner.epochs())
    predicted = predict(finetuner.best_network(), pool, target, split.test, settings.batch)
    scores = score(
        target.codes[split.test], predicted.argmax(axis=1), target.classes, subjects=split.owners[split.test]
    )
    return CellResult(
        cell.effect,
        cell.arm,
        cell.seed,
        balanced_accuracy=scores.balanced_accuracy,
        kappa=scores.kappa,
        weighted_f1=scores.weighted_f1,
        chance=scores.chance,
        best_epoch=finetuner.best_epoch,
        losses=losses,
        validation_kappas=kappas,
        windows=dict(split.record()["windows"]),
        simulated=store.is_simulated(experiment.corpora),
        seconds=time.perf_counter() - began,
    )
