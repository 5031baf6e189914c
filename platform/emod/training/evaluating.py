"""An evaluation: methods trained on every fold of a protocol, once a seed, and what each answered on the test windows.

One Ray task for each training; its answers are one Parquet object in the run's folder, written whole, so an evaluation
that was interrupted goes on where it was. The test windows of a fold are read here, once, after training has ended.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch

from emod import storage
from emod.catalog import EvaluateSettings, Experiment, FinetuneSettings, TargetName, with_overrides
from emod.errors import RequestError
from emod.evaluation import Backbone, Finding, Split, Target, divide_into_folds, shuffle_labels
from emod.model import Emod, EmodClassifier
from emod.monitoring import log
from emod.shards import Manifest, ShardStore, WindowPool
from emod.training.auditing import audit_fold, read_content, refuse_leaks
from emod.training.backbone import load_backbone
from emod.training.classical import fit_classical
from emod.training.finetuner import Finetuner, TrainingRows, predict
from emod.training.importance import electrode_importance, embed_windows
from emod.training.launch import KEEP_MEMORY, check_room, claim_run, finish_tasks
from emod.training.networks import new_network

__all__ = [
    "SHUFFLED",
    "Answers",
    "Fold",
    "Training",
    "audit_evaluation",
    "check_training_room",
    "claim_evaluation",
    "evaluation_settings",
    "list_trainings",
    "make_folds",
    "method_experiment",
    "method_settings",
    "run_trainings",
    "train_and_answer",
]

SHUFFLED = "shuffled labels"

_ANSWER_BYTES = 2**30
_ABOUT = b"emod"
_WEIGHTS = ("finetune.backbone=", "finetune.rival_weights=")
# What makes the question; methods are compared on one.
_QUESTION = ("corpus", "targets", "threshold", "ties", "split")


@dataclass(frozen=True, eq=False)
class Fold:
    """One fold of the protocol for one target, and what the audit found in it."""

    target: Target
    split: Split
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Training:
    """One training of an evaluation: a method, or the first method on shuffled labels (SHUFFLED)."""

    target: TargetName
    method: str
    fold: int
    seed: int

    @property
    def name(self) -> str:
        """Names its object."""
        return f"{self.target}-{self.method}-{self.fold + 1}-{self.seed}"


@dataclass(frozen=True, eq=False)
class Answers:
    """What a training answered on the test windows of its fold.

    Attributes:
        training: Which one.
        window_ids: Of the test windows, in the order of the fold's rows.
        outputs: (n, K) probabilities, or (n, 2) points.
        embedding: (m, D) for the pictures, where it was asked for; else None. Of the test windows and, where several
            corpora are read, of some that trained after them.
        embedded_ids: Of those m windows.
        importance: (C,) loss of score without each electrode, where it was asked for; else None.
        validation: Score of each epoch on the validation windows.
        best_epoch: From 1; 0 for a method without epochs.
        parameters: How many the method trains, its head included; 0 where that means nothing.
        seconds: It took.
    """

    training: Training
    window_ids: tuple[str, ...]
    outputs: npt.NDArray[np.float32]
    validation: tuple[float, ...]
    best_epoch: int
    parameters: int
    seconds: float
    embedding: npt.NDArray[np.float32] | None = None
    embedded_ids: tuple[str, ...] = ()
    importance: npt.NDArray[np.float64] | None = None


def evaluation_settings(experiment: Experiment) -> tuple[EvaluateSettings, FinetuneSettings]:
    """The evaluation and the question it asks.

    Raises:
        RequestError: If the experiment has no evaluation, or methods that do not answer one question.
    """
    settings, finetune = experiment.evaluate, experiment.finetune
    if settings is None or finetune is None:
        missing = "evaluate" if settings is None else "finetune"
        raise RequestError(f"experiment {experiment.name} has no {missing} section; use --experiment evaluate")
    if experiment.ablation is not None:
        raise RequestError(f"experiment {experiment.name} has an ablation section; run it with jobs/ablate.py")
    for method, changes in settings.methods.items():
        for change in changes:
            if change.partition(".")[0] != "finetune":
                raise RequestError(f"evaluate.methods.{method}: {change} is not of finetune; methods share the rest")
        varied = with_overrides(experiment, changes).finetune
        for name in _QUESTION:
            if varied is None or getattr(varied, name) != getattr(finetune, name):
                raise RequestError(f"evaluate.methods.{method} changes finetune.{name}: methods answer one question")
    return settings, finetune


def method_settings(experiment: Experiment) -> dict[str, FinetuneSettings]:
    """method -> how it is trained."""
    settings, _ = evaluation_settings(experiment)
    found = {}
    for method, changes in settings.methods.items():
        varied = with_overrides(experiment, changes).finetune
        assert varied is not None
        found[method] = varied
    return found


def method_experiment(experiment: Experiment, training: Training) -> Experiment:
    """The experiment of one training, alone."""
    settings, _ = evaluation_settings(experiment)
    method = next(iter(settings.methods)) if training.method == SHUFFLED else training.method
    return with_overrides(experiment, [*settings.methods[method], f"seed={training.seed}"])


def make_folds(experiment: Experiment, store: ShardStore) -> dict[TargetName, list[Fold]]:
    """Every fold of each target, not audited yet."""
    _, finetune = evaluation_settings(experiment)
    metadata = WindowPool(store, finetune.corpora).metadata
    return {
        name: [Fold(target, split.keep(target.rows)) for target, split in divide_into_folds(metadata, finetune, name)]
        for name in finetune.targets
    }


def audit_evaluation(
    experiment: Experiment,
    store: ShardStore,
    folds: dict[TargetName, list[Fold]],
    backbones: Sequence[Backbone | None],
) -> dict[TargetName, list[Fold]]:
    """The folds with what the audit found in each, for every backbone that a method starts from.

    Raises:
        RequestError: If there is a leak that nobody accepted.
    """
    _, finetune = evaluation_settings(experiment)
    pool = WindowPool(store, finetune.corpora)
    content = read_content(pool)
    audited: dict[TargetName, list[Fold]] = {}
    for name, of_target in folds.items():
        audited[name] = []
        for fold in of_target:
            found: dict[str, Finding] = {}
            for backbone in backbones or (None,):
                findings = audit_fold(
                    pool, fold.target, fold.split, backbone, content=content, accept=finetune.split.accept
                )
                refuse_leaks(findings, where=f"{finetune.split.protocol} split of {name}, fold {fold.split.fold}")
                found |= {json.dumps(finding.record()): finding for finding in findings}
            audited[name].append(Fold(fold.target, fold.split, tuple(found.values())))
    return audited


def list_trainings(experiment: Experiment, folds: dict[TargetName, list[Fold]]) -> list[Training]:
    """Every training; seeds outermost, so that an interrupted evaluation has whole comparisons."""
    settings, _ = evaluation_settings(experiment)
    return [
        Training(target, method, fold, experiment.seed + number)
        for number in range(settings.seeds)
        for target, of_target in folds.items()
        for fold in range(len(of_target))
        # Dealt out anew by each seed: with few trials, one deal may agree with the truth by chance.
        for method in (*settings.methods, SHUFFLED)
    ]


def claim_evaluation(
    experiment: Experiment,
    store: ShardStore,
    folds: dict[TargetName, list[Fold]],
    weights: Mapping[str, str],
) -> str:
    """Ties the evaluation's name to what decides its answers, as `claim_run`.

    Args:
        experiment: With an evaluation.
        store: Where the windows are.
        folds: Of each target.
        weights: method -> SHA-256 of what it starts from, of methods that start from something.

    Raises:
        RequestError: If the name belongs to an evaluation with other settings, windows or folds.
    """
    settings, finetune = evaluation_settings(experiment)
    claim = {
        "seed": experiment.seed,
        "finetune": finetune.model_dump(
            mode="json", exclude={"run_name", "gpu", "cpus_per_worker", "max_failures", "backbone", "rival_weights"}
        ),
        # As a list: which is first decides what the others and the shuffled labels are held against. Of weights what
        # they are, below, not where: a folder may move, and an address may hold a secret.
        "methods": [
            [method, [change for change in changes if not change.startswith(_WEIGHTS)]]
            for method, changes in settings.methods.items()
        ],
        "model": experiment.model.model_dump(mode="json"),
        "backbones": dict(weights),
        "manifest": store.manifest.hash_of(finetune.corpora),
        "splits": {name: [fold.split.hash for fold in of_target] for name, of_target in folds.items()},
    }
    return claim_run(experiment.addresses.runs_url(), settings.run_name, claim, room="evaluate")


def check_training_room(settings: EvaluateSettings) -> None:
    """Refuses what the cluster has no room for, as `check_room`: not one training would ever start."""
    check_room(
        {"CPU": settings.cpus_per_training, **({"GPU": 1.0} if settings.gpu else {})},
        cure="evaluate.gpu and evaluate.cpus_per_training",
    )


def run_trainings(
    experiment: Experiment,
    store: ShardStore,
    trainings: Sequence[Training],
    report: Callable[[Answers], None],
) -> list[Answers]:
    """Runs what is not done yet, as many at a time as Ray has CPUs; returns all answers in the order given.

    Args:
        experiment: With an evaluation, claimed and audited.
        store: Where the windows are.
        trainings: What to run.
        report: Told each training's answers, those of an earlier attempt too.

    Raises:
        RequestError, DataError: As a training raises it, after all others have ended.
    """
    settings, _ = evaluation_settings(experiment)
    folder = storage.join(experiment.addresses.runs_url(), settings.run_name, "answers")
    done: dict[Training, Answers] = {}
    waiting: dict[Any, Training] = {}
    manifest = store.manifest.model_dump_json()
    check_training_room(settings)
    task_of = _answer.options(num_cpus=settings.cpus_per_training, num_gpus=1 if settings.gpu else 0)
    for training in trainings:
        url = storage.join(folder, f"{training.name}.parquet")
        if storage.exists(url):
            done[training] = _decode(storage.read_bytes(url, at_most=_ANSWER_BYTES), training)
            report(done[training])
        else:
            waiting[task_of.remote(training, experiment.model_dump_json(), manifest, url)] = training

    def finish(training: Training, _: None) -> None:
        url = storage.join(folder, f"{training.name}.parquet")
        done[training] = _decode(storage.read_bytes(url, at_most=_ANSWER_BYTES), training)
        log("training answered", run=settings.run_name, training=training.name, seconds=done[training].seconds)
        report(done[training])

    finish_tasks(waiting, finish)
    return [done[training] for training in trainings]


@ray.remote(max_retries=3, runtime_env={"env_vars": KEEP_MEMORY})  # type: ignore[untyped-decorator]
def _answer(training: Training, experiment_json: str, manifest_json: str, url: str) -> None:
    experiment = Experiment.model_validate_json(experiment_json)
    settings, _ = evaluation_settings(experiment)
    torch.set_num_threads(max(1, int(settings.cpus_per_training)))
    store = ShardStore(experiment.addresses.store_url(), Manifest.model_validate_json(manifest_json))
    device = torch.device("cuda" if settings.gpu else "cpu")
    storage.write_bytes(url, _encode(train_and_answer(training, experiment, store, device=device)))


def train_and_answer(training: Training, experiment: Experiment, store: ShardStore, *, device: torch.device) -> Answers:
    """Trains one method on one fold, in this process, then reads the fold's test windows."""
    began = time.perf_counter()
    varied = method_experiment(experiment, training)
    assert varied.finetune is not None
    settings = varied.finetune
    pool = WindowPool(store, settings.corpora)
    fold = make_folds(varied, store)[training.target][training.fold]
    target, rows = fold.target, TrainingRows.of(fold.split)
    validation: tuple[float, ...]
    embedding = importance = None
    shown = np.zeros(0, dtype=np.int64)
    if training.method == SHUFFLED:
        target = _with_shuffled_labels(target, pool, fold.split, training.seed)
    if settings.method == "differential_entropy":
        classical = fit_classical(pool, settings, target, rows)
        validation, best_epoch, parameters = (classical.validation_score,), 0, 0
        outputs = classical.predict(pool, fold.split.test)
    else:
        # Rivals are built without one; fresh weights stand in.
        backbone = load_backbone(varied).model if settings.method == "emod" else Emod(varied.model)
        torch.manual_seed(training.seed)
        network = new_network(settings, backbone, target, pool)
        finetuner = Finetuner(network, pool, settings, target, rows, seed=training.seed, device=device)
        validation = tuple(report.criterion for report in finetuner.epochs())
        best_epoch = finetuner.best_epoch
        parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
        best = finetuner.best_network()
        outputs = predict(best, pool, target, fold.split.test, settings.batch)
        if isinstance(best, EmodClassifier) and (training.fold, training.seed) == (0, experiment.seed):
            shown = _shown(fold.split, pool)
            embedding = embed_windows(best.backbone, pool, shown, settings.batch)
            importance = electrode_importance(best, pool, target, fold.split.test, settings.batch)
    seconds = time.perf_counter() - began
    ids = tuple(fold.split.ids("test"))
    return Answers(
        training,
        ids,
        outputs,
        validation,
        best_epoch,
        parameters,
        seconds,
        embedding=embedding,
        embedded_ids=tuple(fold.split.window_ids.take(pa.array(shown)).to_pylist()),
        importance=importance,
    )


def _shown(split: Split, pool: WindowPool) -> npt.NDArray[np.int64]:
    """Whose embedding is drawn: the test windows, beside as many of other corpora where some trained."""
    if len(pool.corpora) == 1:
        return split.test
    chosen = np.unique(np.linspace(0, len(split.train) - 1, min(len(split.train), len(split.test))).astype(np.int64))
    return np.concatenate([split.test, split.train[chosen]])


def _with_shuffled_labels(target: Target, pool: WindowPool, split: Split, seed: int) -> Target:
    """Training and validation labels dealt out anew to whole trials; the test's stay as they are."""
    metadata = pool.metadata
    columns = (metadata[name].to_pylist() for name in ("corpus", "subject", "session", "trial"))
    trials = np.array(["/".join(names) for names in zip(*columns, strict=True)], dtype=object)
    if target.points is None:
        codes = target.codes
        for rows in (split.train, split.validation):
            codes = shuffle_labels(codes, trials, rows, seed=seed)
        return replace(target, codes=codes)
    places, codes = np.unique(target.points, axis=0, return_inverse=True)
    for rows in (split.train, split.validation):
        codes = shuffle_labels(codes.reshape(-1), trials, rows, seed=seed)
    return replace(target, points=places[codes])


def _encode(answers: Answers) -> bytes:
    # The test windows; then, without outputs, what else is drawn.
    more = answers.embedded_ids[len(answers.window_ids) :]
    columns = {"window_id": pa.array([*answers.window_ids, *more])}
    columns |= {
        f"output_{k}": pa.array([*column.tolist(), *[None] * len(more)], pa.float32())
        for k, column in enumerate(answers.outputs.T)
    }
    if answers.embedding is not None:
        columns["embedding"] = pa.array(list(answers.embedding))
    about = {
        "training": asdict(answers.training),
        "validation": answers.validation,
        "best_epoch": answers.best_epoch,
        "parameters": answers.parameters,
        "seconds": answers.seconds,
        "importance": None if answers.importance is None else answers.importance.tolist(),
    }
    table = pa.table(columns).replace_schema_metadata({_ABOUT: json.dumps(about).encode()})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _decode(data: bytes, training: Training) -> Answers:
    table = pq.read_table(io.BytesIO(data))
    about = json.loads(table.schema.metadata[_ABOUT])
    names = [name for name in table.column_names if name.startswith("output_")]
    ids = tuple(table["window_id"].to_pylist())
    embedding = None
    if "embedding" in table.column_names:
        embedding = np.stack(table["embedding"].to_pylist()).astype(np.float32)
    n = len(table) - table[names[0]].null_count
    outputs = np.stack([table[name].slice(0, n).to_numpy() for name in names], axis=1)
    return Answers(
        training,
        ids[:n],
        outputs,
        tuple(about["validation"]),
        about["best_epoch"],
        about["parameters"],
        about["seconds"],
        embedding=embedding,
        embedded_ids=() if embedding is None else ids,
        importance=None if about["importance"] is None else np.array(about["importance"]),
    )
