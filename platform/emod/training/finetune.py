"""Fine-tuning on classes, on Ray Train: the driver's side, the worker's loop, and the one look at the test subjects.

Training code sees training and validation windows only; the epoch with the best validation kappa is kept, and
`score_test_subjects` reads the test windows once.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import ray.train
import ray.train.torch
import torch
import torch.nn.functional as F
from mlflow import MlflowClient
from safetensors.torch import save
from sklearn.linear_model import Ridge

from emod.catalog import Experiment, FinetuneSettings, fingerprint
from emod.cli import Tick
from emod.errors import DataError, RequestError
from emod.evaluation import Evaluation, Split, Target, evaluate, make_target, score, split_subjects
from emod.model import Emod, EmodClassifier, PlaneHead, load_weights, save_weights
from emod.shards import Manifest, ShardStore
from emod.tracking import MetricLog
from emod.tracking.runs import RESOURCE_FIELDS
from emod.training.checkpoint import load_checkpoint, read_position, save_checkpoint
from emod.training.launch import TrainResources, Watch, claim_run, launch, report_checkpoint
from emod.training.pretrain import Pretrained, load_pretrained

__all__ = ["Finetuned", "claim_finetuning", "finetune", "fit_plane_head", "score_test_subjects"]

TargetName = Literal["emotion", "valence", "arousal"]
Rows = npt.NDArray[np.int64]


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


def claim_finetuning(
    experiment: Experiment, store: ShardStore, pretrained: Pretrained, target_name: TargetName
) -> tuple[Target, Split]:
    """Decides whether this run may be, and ties its name to what decides its weights. It trains and logs nothing.

    Raises:
        RequestError: As `finetune`.
    """
    settings = _settings(experiment)
    metadata = store.metadata(settings.corpus)
    target = make_target(metadata, target_name, threshold=settings.threshold, ties=settings.ties)
    split = split_subjects(metadata, settings.split, rows=target.rows)
    _refuse_leak(pretrained, split, settings.corpus)
    claim = {
        "seed": experiment.seed,
        "finetune": fingerprint(settings, exclude=RESOURCE_FIELDS),
        "backbone": _digest(pretrained.model),
        "manifest": store.manifest.hash_of([settings.corpus]),
    }
    claim_run(experiment.addresses.runs_url(), f"{settings.run_name}-{target_name}", claim, room="finetune")
    return target, split


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
    target, split = claim_finetuning(experiment, store, pretrained, target_name)
    runs_url = experiment.addresses.runs_url()
    run_name = f"{settings.run_name}-{target_name}"
    config = {
        "experiment": experiment.model_dump_json(),
        "manifest": store.manifest.model_dump_json(),
        "target": target_name,
        "backbone": _digest(pretrained.model),
        "tracking": list(tracking),
    }
    result = launch(
        _finetune_worker,
        config,
        run_name=run_name,
        runs_url=runs_url,
        resources=TrainResources(1, settings.cpus_per_worker, settings.gpu, settings.max_failures),
        advance=advance,
    )
    assert result.checkpoint is not None, "every epoch reports a checkpoint"
    classifier = _new_classifier(pretrained.model, target, settings)
    with result.checkpoint.as_directory() as folder:
        load_weights(Path(folder, "best"), classifier)
        position = read_position(Path(folder))
    return Finetuned(classifier.eval(), target, split, position["best_epoch"], position["best_kappa"])


def score_test_subjects(store: ShardStore, corpus: str, finetuned: Finetuned, *, batch: int = 64) -> Evaluation:
    """Scores the test subjects, once: nothing is chosen by what comes out."""
    metadata = store.metadata(corpus)
    rows = finetuned.split.test
    subjects = np.asarray(metadata["subject"].to_pylist())
    predicted = _predict(finetuned.classifier, store, corpus, rows, batch, torch.device("cpu"))
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


def _new_classifier(backbone: Emod, target: Target, settings: FinetuneSettings) -> EmodClassifier:
    """A classifier on a copy of the backbone, with fine-tuning's own dropout."""
    config = backbone.config.model_copy(update={"dropout": settings.dropout})
    fresh = Emod(config)
    fresh.load_state_dict(backbone.state_dict())
    return EmodClassifier(fresh, len(target.classes))


def _new_optimiser(classifier: EmodClassifier, settings: FinetuneSettings) -> torch.optim.Adam:
    """The head at the full rate, the backbone at its share of it. The projection head takes no part."""
    idle = {id(parameter) for parameter in classifier.backbone.projection.parameters()}
    backbone = [parameter for parameter in classifier.backbone.parameters() if id(parameter) not in idle]
    for parameter in classifier.backbone.parameters():
        parameter.requires_grad_(settings.backbone_rate > 0 and id(parameter) not in idle)
    return torch.optim.Adam(
        [
            {"params": classifier.head.parameters(), "lr": settings.learning_rate},
            {"params": backbone, "lr": settings.learning_rate * settings.backbone_rate},
        ],
        weight_decay=settings.weight_decay,
    )


def _finetune_worker(config: dict[str, Any]) -> None:
    experiment = Experiment.model_validate_json(config["experiment"])
    settings = _settings(experiment)
    torch.set_num_threads(settings.threads_per_worker)
    device = ray.train.torch.get_device()
    store = ShardStore(experiment.addresses.store_url(), Manifest.model_validate_json(config["manifest"]))
    corpus = settings.corpus
    metadata = store.metadata(corpus)
    target = make_target(metadata, config["target"], threshold=settings.threshold, ties=settings.ties)
    split = split_subjects(metadata, settings.split, rows=target.rows)
    pretrained = load_pretrained(experiment.addresses.runs_url(), experiment.pretrain.run_name)
    if _digest(pretrained.model) != config["backbone"]:
        raise RequestError(
            f"the backbone to fine-tune is not the one of run {experiment.pretrain.run_name!r}; "
            "set pretrain.run_name to the run it comes from"
        )
    torch.manual_seed(experiment.seed)
    classifier = _new_classifier(pretrained.model, target, settings).to(device)
    optimiser = _new_optimiser(classifier, settings)
    best = copy.deepcopy(classifier.state_dict())
    position: dict[str, Any] = {"next_epoch": 0, "best_epoch": 0, "best_kappa": -2.0}
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            load_weights(Path(folder, "best"), classifier)
            best = copy.deepcopy(classifier.state_dict())
            position = load_checkpoint(Path(folder), classifier, optimiser)
    log = MetricLog(MlflowClient(config["tracking"][0]), config["tracking"][1])
    watch: Watch = config["watch"]

    def write(folder: Path) -> None:
        save_checkpoint(folder, classifier, classifier.backbone.config, optimiser, position)
        kept = copy.deepcopy(classifier)
        kept.load_state_dict(best)
        save_weights(folder / "best", kept, classifier.backbone.config)

    for epoch in range(position["next_epoch"], settings.epochs):
        loss = _train_epoch(classifier, optimiser, store, settings, split.train, target, epoch, experiment.seed, device)
        predicted = _predict(classifier, store, corpus, split.validation, settings.batch, device)
        scores = score(target.codes[split.validation], predicted, target.classes)
        # Of equal epochs the later one, which has seen more: small validation sets tie at zero for a while.
        if scores.kappa >= position["best_kappa"]:
            best = copy.deepcopy(classifier.state_dict())
            position |= {"best_epoch": epoch + 1, "best_kappa": scores.kappa}
        position["next_epoch"] = epoch + 1
        prefix = f"finetune/{target.name}"
        log.log(
            epoch + 1,
            {
                f"{prefix}/loss": loss,
                f"{prefix}/validation_kappa": scores.kappa,
                f"{prefix}/validation_balanced_accuracy": scores.balanced_accuracy,
                f"{prefix}/validation_weighted_f1": scores.weighted_f1,
            },
        )
        log.flush()
        watch.post(epoch + 1, f"validation kappa {scores.kappa:.3f}")
        report_checkpoint({"validation_kappa": scores.kappa, "epoch": float(epoch + 1)}, write)


def _train_epoch(
    classifier: EmodClassifier,
    optimiser: torch.optim.Optimizer,
    store: ShardStore,
    settings: FinetuneSettings,
    rows: Rows,
    target: Target,
    epoch: int,
    seed: int,
    device: torch.device,
) -> float:
    """One pass over the training windows in an order that depends on (seed, epoch) alone; returns the mean loss."""
    generator = np.random.default_rng([seed, epoch])
    torch.manual_seed(int(generator.integers(2**63)))
    order = generator.permutation(rows)
    batches = [part for part in np.array_split(order, max(1, round(len(order) / settings.batch))) if part.size]
    channels, sfreq_hz = store.channels(settings.corpus), store.sfreq_hz(settings.corpus)
    total_steps = settings.epochs * len(batches)
    classifier.train()
    losses = []
    for number, part in enumerate(batches):
        done = (epoch * len(batches) + number) / total_steps
        for group, share in zip(optimiser.param_groups, (1.0, settings.backbone_rate), strict=True):
            last = settings.final_learning_rate * share
            group["lr"] = last + (settings.learning_rate * share - last) * (1 + float(np.cos(np.pi * done))) / 2
        windows = torch.from_numpy(store.windows(settings.corpus, part)).to(device)
        codes = torch.from_numpy(target.codes[part]).to(device)
        loss = F.cross_entropy(classifier(windows, channels, sfreq_hz), codes, label_smoothing=settings.label_smoothing)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(classifier.parameters(), settings.clip_norm)
        if not torch.isfinite(norm):
            raise DataError(
                f"epoch {epoch + 1}: the gradient is not finite; lower finetune.learning_rate, or check the store "
                "with ShardStore.verify()"
            )
        optimiser.step()
        losses.append(loss.item())
    return float(np.mean(losses))


def _predict(
    classifier: EmodClassifier, store: ShardStore, corpus: str, rows: Rows, batch: int, device: torch.device
) -> Rows:
    """(n,) class codes of the windows given, in their order."""
    classifier.eval()
    codes = []
    for first in range(0, len(rows), batch):
        windows = torch.from_numpy(store.windows(corpus, rows[first : first + batch])).to(device)
        with torch.inference_mode():
            codes.append(
                classifier(windows, store.channels(corpus), store.sfreq_hz(corpus)).argmax(dim=1).cpu().numpy()
            )
    return np.concatenate(codes)
