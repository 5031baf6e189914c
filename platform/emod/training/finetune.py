"""Fine-tuning on classes, on Ray Train: the driver's side, the worker's loop, and the one look at the test subjects.

Training code sees training and validation windows only; the epoch with the best validation kappa is kept, and
`score_test_subjects` reads the test windows once.
"""

from __future__ import annotations

import copy
import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray.train
import ray.train.torch
import torch
from mlflow import MlflowClient
from safetensors.torch import save
from sklearn.linear_model import Ridge

from emod import storage
from emod.catalog import Experiment, FinetuneSettings
from emod.cli import Tick
from emod.errors import RequestError
from emod.evaluation import Evaluation, Split, Target, evaluate, make_target, split_subjects
from emod.model import Emod, EmodClassifier, PlaneHead, load_weights, save_weights
from emod.shards import Manifest, ShardStore
from emod.tracking import MetricLog
from emod.tracking.runs import RESOURCE_FIELDS
from emod.training.checkpoint import (
    CheckpointWriter,
    fetch_finished,
    fetch_newest,
    hold_checkpoint,
    load_checkpoint,
    read_position,
)
from emod.training.finetuner import Finetuner, new_classifier, predict
from emod.training.launch import TrainResources, Watch, claim_run, launch
from emod.training.pretrain import Pretrained, load_pretrained

__all__ = ["Finetuned", "claim_finetuning", "finetune", "fit_plane_head", "score_test_subjects"]

TargetName = Literal["emotion", "valence", "arousal"]


@dataclass(frozen=True)
class Finetuned:
    """A classifier and what was decided on the way to it.

    Attributes:
        classifier: In evaluation mode, on the CPU; the epoch with the best validation kappa.
        target: Its classes and how they came about.
        split: Which windows trained, chose and test.
        best_epoch: Counted from 1.
        validation_kappa: Of that epoch.
    """

    classifier: EmodClassifier
    target: Target
    split: Split
    best_epoch: int
    validation_kappa: float


def claim_finetuning(experiment: Experiment, store: ShardStore, pretrained: Pretrained, target_name: TargetName) -> str:
    """Decides whether this run may be, and ties its name to what decides its weights, as `claim_run`.

    It trains and logs nothing.

    Raises:
        RequestError: As `finetune`.
    """
    settings = _settings(experiment)
    _, split = _divide(settings, store, target_name)
    _refuse_leak(pretrained, split, settings.corpus)
    claim = {
        "seed": experiment.seed,
        "finetune": settings.model_dump(mode="json", exclude=set(RESOURCE_FIELDS)),
        "backbone": _digest(pretrained.model),
        "manifest": store.manifest.hash_of([settings.corpus]),
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
    target, split = _divide(settings, store, target_name)
    runs_url = experiment.addresses.runs_url()
    run_name = f"{settings.run_name}-{target_name}"
    checkpoints = storage.join(runs_url, run_name, "checkpoints")
    config = {
        "experiment": experiment.model_dump_json(),
        "manifest": store.manifest.model_dump_json(),
        "target": target_name,
        "backbone": _digest(pretrained.model),
        "tracking": list(tracking),
        "checkpoints": checkpoints,
    }
    launch(
        _finetune_worker,
        config,
        run_name=run_name,
        runs_url=runs_url,
        resources=TrainResources(1, settings.cpus_per_worker, settings.gpu, settings.max_failures),
        advance=advance,
    )
    classifier = new_classifier(pretrained.model, target, settings)
    with tempfile.TemporaryDirectory(prefix="emod-checkpoint-") as scratch:
        fetch_finished(checkpoints, Path(scratch), {"next_epoch": settings.epochs})
        load_weights(Path(scratch, "best"), classifier)
        position = read_position(Path(scratch))
    return Finetuned(classifier.eval(), target, split, position["best_epoch"], position["best_kappa"])


def score_test_subjects(store: ShardStore, corpus: str, finetuned: Finetuned, *, batch: int = 64) -> Evaluation:
    """Scores the test subjects, once: nothing is chosen by what comes out."""
    metadata = store.metadata(corpus)
    rows = finetuned.split.test
    subjects = np.asarray(metadata["subject"].to_pylist())
    predicted = predict(finetuned.classifier, store, corpus, rows, batch)
    codes = finetuned.target.codes
    return evaluate(
        finetuned.target.name,
        codes[rows],
        predicted,
        subjects[rows],
        finetuned.target.classes,
        y_train=codes[finetuned.split.train],
    )


def fit_plane_head(model: Emod, store: ShardStore, seen: dict[str, tuple[str, ...]], *, batch: int = 64) -> PlaneHead:
    """Linear head from the embedding to valence and arousal: ridge regression on the windows of the subjects given.

    Args:
        model: The backbone, in evaluation mode, as it will be served.
        store: Where the windows are.
        seen: corpus -> training subjects.
        batch: Windows embedded at a time.
    """
    embeddings, points = [], []
    for name, subjects in seen.items():
        metadata = store.metadata(name)
        rows = np.flatnonzero(np.isin(np.asarray(metadata["subject"].to_pylist(), dtype=object), list(subjects)))
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
    return experiment.finetune


def _divide(settings: FinetuneSettings, store: ShardStore, target_name: TargetName) -> tuple[Target, Split]:
    metadata = store.metadata(settings.corpus)
    target = make_target(metadata, target_name, threshold=settings.threshold, ties=settings.ties)
    return target, split_subjects(metadata, settings.split, rows=target.rows)


def _refuse_leak(pretrained: Pretrained, split: Split, corpus: str) -> None:
    held_out = {key.partition("/")[2] for role in ("validation", "test") for key in split.subjects[role]}
    if seen := sorted(held_out & set(pretrained.seen.get(corpus, ()))):
        raise RequestError(
            f"the backbone was pretrained on {corpus} subjects {', '.join(seen)}, labels and all, who validate or "
            "test here; pretrain with this experiment's finetune section, or on other corpora"
        )


def _digest(model: Emod) -> str:
    """Hash of a backbone's weights."""
    return hashlib.sha256(save(model.state_dict())).hexdigest()


def _finetune_worker(config: dict[str, Any]) -> None:
    experiment = Experiment.model_validate_json(config["experiment"])
    settings = _settings(experiment)
    torch.set_num_threads(settings.threads_per_worker)
    store = ShardStore(experiment.addresses.store_url(), Manifest.model_validate_json(config["manifest"]))
    target, split = _divide(settings, store, config["target"])
    pretrained = load_pretrained(experiment.addresses.runs_url(), experiment.pretrain.run_name)
    if _digest(pretrained.model) != config["backbone"]:
        raise RequestError(
            f"the backbone to fine-tune is not the one of run {experiment.pretrain.run_name!r}; "
            "set pretrain.run_name to the run it comes from"
        )
    finetuner = Finetuner(
        pretrained.model, store, settings, target, split, seed=experiment.seed, device=ray.train.torch.get_device()
    )
    with tempfile.TemporaryDirectory(prefix="emod-checkpoint-") as scratch:
        if fetch_newest(config["checkpoints"], Path(scratch)):
            _resume(finetuner, Path(scratch))
    log = MetricLog(MlflowClient(config["tracking"][0]), config["tracking"][1])
    watch: Watch = config["watch"]
    prefix = f"finetune/{target.name}"
    with CheckpointWriter(config["checkpoints"], before=log.flush) as writer:
        for report in finetuner.epochs():
            done, scores = finetuner.next_epoch, report.validation
            log.log(
                done,
                {
                    f"{prefix}/loss": report.loss,
                    f"{prefix}/validation_kappa": scores.kappa,
                    f"{prefix}/validation_balanced_accuracy": scores.balanced_accuracy,
                    f"{prefix}/validation_weighted_f1": scores.weighted_f1,
                },
            )
            watch.post(done, f"validation kappa {scores.kappa:.3f}")
            writer.save(done, _hold(finetuner))


def _resume(finetuner: Finetuner, folder: Path) -> None:
    load_weights(folder / "best", finetuner.classifier)
    finetuner.best = copy.deepcopy(finetuner.classifier.state_dict())
    position = load_checkpoint(folder, finetuner.classifier, finetuner.optimiser)
    finetuner.next_epoch = position["next_epoch"]
    finetuner.best_epoch, finetuner.best_kappa = position["best_epoch"], position["best_kappa"]


def _hold(finetuner: Finetuner) -> Callable[[Path], None]:
    """As `hold_checkpoint`, with the weights of the best epoch below ``best``."""
    kept, config = finetuner.best_classifier(), finetuner.classifier.backbone.config
    position = {
        "next_epoch": finetuner.next_epoch,
        "best_epoch": finetuner.best_epoch,
        "best_kappa": finetuner.best_kappa,
    }
    last = hold_checkpoint(finetuner.classifier, config, finetuner.optimiser, position)

    def write(folder: Path) -> None:
        last(folder)
        save_weights(folder / "best", kept, config)

    return write
