"""Fine-tuning on Ray Train: the driver's side, the worker's loop, and the one look at the test windows.

Training code is handed training and validation windows only; the epoch with the best validation score is kept, and
`answer_test_windows` reads the test windows, once.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import ray.train
import ray.train.torch
import torch
from mlflow import MlflowClient
from sklearn.linear_model import Ridge

from emod import storage
from emod.catalog import Experiment, FinetuneSettings, TargetName
from emod.cli import Tick
from emod.errors import RequestError
from emod.evaluation import Evaluation, Finding, PlaneEvaluation, Split, Target, divide, evaluate, evaluate_plane
from emod.model import Emod, EmodClassifier, PlaneHead, load_weights, save_weights
from emod.shards import Manifest, ShardStore, WindowPool
from emod.tracking import MetricLog
from emod.tracking.runs import RESOURCE_FIELDS
from emod.training.auditing import audit_fold, read_content, refuse_leaks
from emod.training.backbone import digest_of, load_backbone
from emod.training.checkpoint import (
    CheckpointWriter,
    fetch_finished,
    fetch_newest,
    hold_checkpoint,
    load_checkpoint,
    read_position,
)
from emod.training.finetuner import EpochReport, Finetuner, TrainingRows, predict
from emod.training.launch import TrainResources, Watch, claim_run, launch
from emod.training.networks import new_classifier
from emod.training.pretrain import Pretrained

__all__ = [
    "Finetuned",
    "Keeper",
    "answer_test_windows",
    "audit_finetuning",
    "claim_finetuning",
    "finetune",
    "finetune_worker",
    "finetuning_config",
    "fit_plane_head",
    "hold_finetuner",
    "score_test_windows",
    "training_rows",
]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Finetuned:
    """A classifier and what was decided on the way to it.

    Attributes:
        classifier: In evaluation mode, on the CPU; the epoch with the best validation score.
        target: Its classes, or the plane, and how they came about.
        pool: The windows that rows of target and split count.
        split: Which windows trained, chose and test.
        best_epoch: Counted from 1.
        validation_score: Of that epoch: kappa, or the mean concordance on the plane.
    """

    classifier: EmodClassifier
    target: Target
    pool: WindowPool
    split: Split
    best_epoch: int
    validation_score: float


def claim_finetuning(experiment: Experiment, store: ShardStore, pretrained: Pretrained, target_name: TargetName) -> str:
    """Decides whether this run may be, and ties its name to what decides its weights, as `claim_run`.

    It trains and logs nothing.

    Raises:
        RequestError: As `finetune`.
    """
    settings = _settings(experiment)
    target, split, pool = _divide(settings, store, target_name)
    _refuse_leak(pool, target, split, pretrained, settings)
    claim = {
        "seed": experiment.seed,
        "finetune": settings.model_dump(mode="json", exclude=set(RESOURCE_FIELDS)),
        "backbone": digest_of(pretrained.model),
        "manifest": store.manifest.hash_of(settings.corpora),
    }
    return claim_run(experiment.addresses.runs_url(), f"{settings.run_name}-{target_name}", claim, room="finetune")


def finetune(
    experiment: Experiment,
    store: ShardStore,
    pretrained: Pretrained,
    target_name: TargetName,
    *,
    tracking: tuple[str, str],
    advance: Tick,
) -> Finetuned:
    """Fine-tunes on one target to the end, resuming the run of that name. Ray must be running.

    Args:
        experiment: The run; it must have a finetune section.
        store: Where the windows are.
        pretrained: The backbone to start from.
        target_name: What to tell apart.
        tracking: MLflow's URI and the id of the run to log to.
        advance: The driver's progress bar, one unit an epoch.

    Raises:
        RequestError: If the backbone has seen a subject of the validation or test role, the run's name belongs to a
            run with other settings, windows or backbone, or the backbone is not that of pretrain.run_name.
    """
    settings = _settings(experiment)
    claim_finetuning(experiment, store, pretrained, target_name)
    target, split, pool = _divide(settings, store, target_name)
    runs_url = experiment.addresses.runs_url()
    run_name = f"{settings.run_name}-{target_name}"
    checkpoints = storage.join(runs_url, run_name, "checkpoints")
    config = {
        **finetuning_config(experiment, store, pretrained, target_name),
        "keeper": _RunKeeper,
        "tracking": list(tracking),
        "checkpoints": checkpoints,
    }
    launch(
        finetune_worker,
        config,
        run_name=run_name,
        runs_url=runs_url,
        resources=TrainResources(1, settings.cpus_per_worker, settings.gpu, settings.max_failures),
        advance=advance,
    )
    classifier = new_classifier(pretrained.model, target, settings)
    with tempfile.TemporaryDirectory(prefix="emod-checkpoint-") as scratch:
        fetch_finished(checkpoints, Path(scratch), {"finished": True})
        load_weights(Path(scratch, "best"), classifier)
        position = read_position(Path(scratch))
    return Finetuned(classifier.eval(), target, pool, split, position["best_epoch"], position["best_score"])


def answer_test_windows(finetuned: Finetuned, *, batch: int = 64) -> npt.NDArray[np.float32]:
    """What a classifier says of its test windows, in their order: (n, K) probabilities, or (n, 2) points."""
    return predict(finetuned.classifier, finetuned.pool, finetuned.target, finetuned.split.test, batch)


def score_test_windows(finetuned: Finetuned, answers: npt.NDArray[np.float32]) -> Evaluation | PlaneEvaluation:
    """Scores what `answer_test_windows` gave, once: nothing is chosen by what comes out."""
    target, split = finetuned.target, finetuned.split
    subjects = split.owners[split.test]
    if target.points is not None:
        return evaluate_plane(target.points[split.test], answers, subjects, train=target.points[split.train])
    return evaluate(
        target.name,
        target.codes[split.test],
        answers.argmax(axis=1),
        subjects,
        target.classes,
        y_train=target.codes[split.train],
        probabilities=answers,
    )


def training_rows(finetuned: Finetuned, pretrained: Pretrained, store: ShardStore) -> dict[str, Rows]:
    """corpus -> rows of the store that a model was trained on: the split's, and elsewhere its backbone's subjects'.

    Corpora of the backbone that are not in the store are passed over.
    """
    metadata = finetuned.pool.metadata.take(finetuned.split.train)
    ids = set(metadata["window_id"].to_pylist())
    rows = {
        name: np.flatnonzero([window in ids for window in store.metadata(name)["window_id"].to_pylist()])
        for name in sorted(set(metadata["corpus"].to_pylist()))
    }
    for name, subjects in pretrained.seen.items():
        if name in store.corpora and name not in rows:
            owners = np.asarray(store.metadata(name)["subject"].to_pylist(), dtype=object)
            rows[name] = np.flatnonzero(np.isin(owners, list(subjects)))
    return rows


def fit_plane_head(model: Emod, store: ShardStore, rows_of: Mapping[str, Rows], *, batch: int = 64) -> PlaneHead:
    """Linear head from the embedding to valence and arousal: ridge regression on the windows given.

    Args:
        model: The backbone, in evaluation mode, as it will be served.
        store: Where the windows are.
        rows_of: corpus -> rows to learn from.
        batch: Windows embedded at a time.
    """
    embeddings, points = [], []
    for name, rows in rows_of.items():
        metadata = store.metadata(name)
        for part in np.array_split(rows, max(1, -(-len(rows) // batch))):
            with torch.inference_mode():
                windows = torch.from_numpy(store.windows(name, part))
                embeddings.append(model.embed(windows, store.channels(name), store.sfreq_hz(name)).numpy())
        points.append(np.stack([metadata[axis].to_numpy()[rows] for axis in ("valence", "arousal")], axis=1))
    fitted = Ridge(alpha=1.0).fit(np.concatenate(embeddings), np.concatenate(points))
    head = PlaneHead(model.config.width)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(fitted.coef_))
        head.bias.copy_(torch.from_numpy(fitted.intercept_))
    return head.eval()


def _settings(experiment: Experiment) -> FinetuneSettings:
    if experiment.finetune is None:
        raise RequestError(
            f"experiment {experiment.name} has no finetune section; add one, or use --experiment finetune"
        )
    if experiment.finetune.method != "emod":
        raise RequestError(
            f"finetune.method = {experiment.finetune.method}: jobs/finetune.py trains and registers emod; "
            "jobs/evaluate.py compares the others"
        )
    return experiment.finetune


def _divide(settings: FinetuneSettings, store: ShardStore, target_name: TargetName) -> tuple[Target, Split, WindowPool]:
    pool = WindowPool(store, settings.corpora)
    target, split = divide(pool.metadata, settings, target_name)
    return target, split.keep(target.rows), pool


def audit_finetuning(
    experiment: Experiment, store: ShardStore, pretrained: Pretrained, target_name: TargetName
) -> list[Finding]:
    """What the audit finds in the fold, whether or not it may be."""
    settings = _settings(experiment)
    target, split, pool = _divide(settings, store, target_name)
    return audit_fold(
        pool, target, split, pretrained.learned_from, content=read_content(pool), accept=settings.split.accept
    )


def _refuse_leak(
    pool: WindowPool, target: Target, split: Split, pretrained: Pretrained, settings: FinetuneSettings
) -> None:
    found = audit_fold(
        pool, target, split, pretrained.learned_from, content=read_content(pool), accept=settings.split.accept
    )
    refuse_leaks(found, where=f"{settings.split.protocol} split of {settings.corpus}, fold {split.fold}")


def finetuning_config(
    experiment: Experiment, store: ShardStore, pretrained: Pretrained, target_name: TargetName
) -> dict[str, Any]:
    """What `finetune_worker` needs beside its keeper and its watch; JSON-able."""
    return {
        "experiment": experiment.model_dump_json(),
        "manifest": store.manifest.model_dump_json(),
        "target": target_name,
        "backbone": digest_of(pretrained.model),
    }


class Keeper(Protocol):
    """What becomes of a training's epochs: where it goes on from, and who is told; a context around its epochs.

    Made from the worker's config, in the worker.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        """Takes what it needs from the config."""

    def fetch(self, folder: Path) -> bool:
        """Puts the state to go on from into an empty folder; False if the training is new."""

    def keep(self, finetuner: Finetuner, report: EpochReport) -> None:
        """Told after each epoch."""

    def __enter__(self) -> Keeper:
        """Itself."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Ends what it started."""


def finetune_worker(config: dict[str, Any]) -> None:
    """The loop that Ray Train runs: builds everything from the config, goes on where the keeper says, to the end."""
    experiment = Experiment.model_validate_json(config["experiment"])
    settings = _settings(experiment)
    torch.set_num_threads(settings.threads_per_worker)
    store = ShardStore(experiment.addresses.store_url(), Manifest.model_validate_json(config["manifest"]))
    target, split, pool = _divide(settings, store, config["target"])
    pretrained = load_backbone(experiment)
    if digest_of(pretrained.model) != config["backbone"]:
        raise RequestError(
            "the backbone to fine-tune is not the one that finetune.backbone and pretrain.run_name = "
            f"{experiment.pretrain.run_name!r} name; set them to where it comes from"
        )
    torch.manual_seed(experiment.seed)
    finetuner = Finetuner(
        new_classifier(pretrained.model, target, settings),
        pool,
        settings,
        target,
        TrainingRows.of(split),
        seed=experiment.seed,
        device=ray.train.torch.get_device(),
    )
    keeper: Keeper = config["keeper"](config)
    with tempfile.TemporaryDirectory(prefix="emod-checkpoint-") as scratch:
        if keeper.fetch(Path(scratch)):
            _resume(finetuner, Path(scratch))
    with keeper:
        for report in finetuner.epochs():
            keeper.keep(finetuner, report)


class _RunKeeper:
    """A run's own: checkpoints in its folder, curves in MLflow, a note for the driver's progress bar."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._checkpoints: str = config["checkpoints"]
        self._log = MetricLog(MlflowClient(config["tracking"][0]), config["tracking"][1])
        self._prefix = f"finetune/{config['target']}"
        self._watch: Watch = config["watch"]
        settings = Experiment.model_validate_json(config["experiment"]).finetune
        assert settings is not None
        self._writer = CheckpointWriter(self._checkpoints, run=settings.run_name, before=self._log.flush)

    def fetch(self, folder: Path) -> bool:
        return fetch_newest(self._checkpoints, folder) is not None

    def keep(self, finetuner: Finetuner, report: EpochReport) -> None:
        done = finetuner.next_epoch
        found = {f"validation_{name}": value for name, value in report.figures().items()}
        values = {"loss": report.loss} | found
        self._log.log(done, {f"{self._prefix}/{name}": value for name, value in values.items()})
        self._watch.post(done, f"validation {report.worded()}")
        self._writer.save(done, hold_finetuner(finetuner))

    def __enter__(self) -> _RunKeeper:
        self._writer.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._writer.__exit__(kind, error, at)


def _resume(finetuner: Finetuner, folder: Path) -> None:
    load_weights(folder / "best", finetuner.network)
    finetuner.best = copy.deepcopy(finetuner.network.state_dict())
    position = load_checkpoint(folder, finetuner.network, finetuner.optimiser)
    finetuner.next_epoch = position["next_epoch"]
    finetuner.best_epoch, finetuner.best_score = position["best_epoch"], position["best_score"]
    finetuner.better_epoch = position["better_epoch"]


def hold_finetuner(finetuner: Finetuner) -> Callable[[Path], None]:
    """As `hold_checkpoint`, with the weights of the best epoch below ``best``; what `Keeper.fetch` gives back."""
    kept, network = finetuner.best_network(), finetuner.network
    assert isinstance(network, EmodClassifier)
    config = network.backbone.config
    position = {
        "next_epoch": finetuner.next_epoch,
        "finished": finetuner.finished,
        "best_epoch": finetuner.best_epoch,
        "best_score": finetuner.best_score,
        "better_epoch": finetuner.better_epoch,
    }
    last = hold_checkpoint(network, config, finetuner.optimiser, position)

    def write(folder: Path) -> None:
        last(folder)
        save_weights(folder / "best", kept, config)

    return write
