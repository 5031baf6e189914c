"""The verb `evaluate`: folds, audit, trainings on Ray, what came out, and all of it in MLflow and in a report.

Nothing here computes a score; it calls the rooms that do.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from mlflow import MlflowClient

from emod import storage
from emod.catalog import Experiment, PrintedScores, TargetName, load_corpus, load_paper
from emod.cli import progress
from emod.evaluation import (
    ROLES,
    Backbone,
    Finding,
    MethodSummary,
    TargetSummary,
    clips_of,
    make_splits,
    summarise_target,
    write_split,
)
from emod.evaluation.published import published_windows
from emod.lease import one_driver
from emod.shards import ShardStore, WindowPool
from emod.tracking import ensure_run, log_experiment
from emod.training import Pretrained, load_backbone
from emod.training.backbone import NEW, PER_SEED, digest_of
from emod.training.evaluating import (
    SHUFFLED,
    Answers,
    Fold,
    audit_evaluation,
    claim_evaluation,
    evaluation_settings,
    list_trainings,
    make_folds,
    method_settings,
    run_trainings,
)
from emod.training.networks import read_weights
from emod.workflow import check_request, log_store, running

__all__ = [
    "Evaluated",
    "evaluate_methods",
    "figures_of",
    "plan_evaluation",
    "plan_without_store",
    "record_of",
    "starts_from_run",
]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What an evaluation left.

    Attributes:
        experiment: As it was run.
        summaries: One a target.
        answers: Of every training.
        folds: Audited.
        backbones: method, or method and seed -> what it started from, of methods that start from something.
        simulated: Whether anything that was learned from or tested on was simulated.
        run_id: In MLflow.
        folder: Below the runs: splits, answers, and the report.
    """

    experiment: Experiment
    summaries: tuple[TargetSummary, ...]
    answers: tuple[Answers, ...]
    folds: dict[TargetName, list[Fold]]
    backbones: dict[str, Pretrained]
    simulated: bool
    run_id: str
    folder: str

    def printed(self, summary: TargetSummary, method: str) -> PrintedScores | None:
        """What the paper printed for a method of this name, where its question is asked of a whole real copy."""
        finetune = self.experiment.finetune
        if self.simulated or finetune is None or summary.target.name != "emotion":
            return None
        split = summary.splits[0]
        if len({person for role in ROLES for person in split.subjects[role]}) != load_corpus(finetune.corpus).subjects:
            return None
        window_s = self.experiment.signal.window_s
        return load_paper().of(method, corpus=finetune.corpus, protocol=split.protocol, window_s=window_s)


def plan_evaluation(experiment: Experiment, store: ShardStore) -> list[str]:
    """What an evaluation would do, in plain lines. It looks at names, not at windows: the audit comes with the run."""
    settings, finetune = evaluation_settings(experiment)
    folds = make_folds(experiment, store)
    trainings = list_trainings(experiment, folds)
    lines = [
        f"{len(trainings)} trainings: {', '.join(settings.methods)} and {SHUFFLED}, {settings.seeds} seeds",
        f"protocol {finetune.split.protocol}: {next(iter(folds.values()))[0].split.rule}",
    ]
    for name, of_target in folds.items():
        target, split = of_target[0].target, of_target[0].split
        priors = ", ".join(f"{label} {share:.2f}" for label, share in target.priors.items())
        lines.append(f"{name}: {target.rule}{f'; priors {priors}' if priors else ''}")
        windows = split.record()["windows"]
        lines.append(f"{name}: {len(of_target)} fold(s), the first ({split.fold}) with {windows}, hash {split.hash}")
    return lines


def plan_without_store(experiment: Experiment) -> list[str]:
    """What the protocol would make of whole published copies, counted from their catalogs; of ratings, nothing more."""
    _, finetune = evaluation_settings(experiment)
    tables = [published_windows(load_corpus(name), window_s=experiment.signal.window_s) for name in finetune.corpora]
    metadata = pa.concat_tables(tables)
    if finetune.split.protocol in ("few_shot", "file"):
        return [f"protocol {finetune.split.protocol}: {len(metadata):,} windows in whole published copies"]
    splits = make_splits(metadata, finetune.split)
    windows = splits[0].record()["windows"]
    return [
        f"protocol {finetune.split.protocol}: {splits[0].rule}",
        f"whole published copies of {', '.join(finetune.corpora)}: {len(metadata):,} windows, {len(splits)} fold(s), "
        f"the first with {windows}",
    ]


@one_driver(lambda experiment: evaluation_settings(experiment)[0].run_name)
def evaluate_methods(experiment: Experiment, store: ShardStore) -> Evaluated:
    """Runs an evaluation to its end, resuming the one of that name. Ray must be running.

    Raises:
        RequestError: If the split leaks, methods answer different questions, or the name belongs to another evaluation.
    """
    settings, finetune = evaluation_settings(experiment)
    uri = check_request(experiment, store)
    folds = make_folds(experiment, store)
    trainings = list_trainings(experiment, folds)
    backbones = _backbones(experiment)
    rivals = _rival_weights(experiment)
    learned_from = [*(backbone.learned_from for backbone in backbones.values()), *(Backbone(None) for _ in rivals)]
    unpretrained = [None] if _from_nothing(experiment) else []
    with progress("audit", None) as advance:
        folds = audit_evaluation(experiment, store, folds, [*learned_from, *unpretrained])
        advance(1, "no leak")
    weights = {method: digest_of(backbone.model) for method, backbone in backbones.items()} | rivals
    claim = claim_evaluation(experiment, store, folds, weights)
    folder = storage.join(experiment.addresses.runs_url(), settings.run_name)
    for name, of_target in folds.items():
        for number, fold in enumerate(of_target, start=1):
            url = storage.join(folder, "splits", f"{name}-{number}.json")
            if not storage.exists(url):
                write_split(fold.split, url)
    client = MlflowClient(uri)
    run_id = ensure_run(uri, experiment.name, settings.run_name, {"emod.stage": "evaluate"}, claim=claim)
    log_experiment(client, run_id, experiment, world_size=1, exclude=("simulate", "study"))
    simulated = store.is_simulated(finetune.corpora) or any(backbone.simulated for backbone in backbones.values())
    log_store(client, run_id, experiment, store, simulated=simulated)
    with running(client, run_id):
        with progress("evaluate", len(trainings)) as advance:
            answers = run_trainings(experiment, store, trainings, lambda found: advance(1, found.training.name))
        summaries = tuple(_summaries(experiment, store, folds, answers))
        _log(client, run_id, summaries)
    return Evaluated(experiment, summaries, tuple(answers), folds, backbones, simulated, run_id, folder)


def _backbones(experiment: Experiment) -> dict[str, Pretrained]:
    """What each method starts from; each seed of it, where seeds start from different ones."""
    settings, _ = evaluation_settings(experiment)
    found = {}
    for method, finetune in method_settings(experiment).items():
        if finetune.method != "emod" or finetune.backbone == NEW:
            continue
        if PER_SEED not in (finetune.backbone or ""):
            found[method] = load_backbone(experiment.model_copy(update={"finetune": finetune}))
            continue
        for seed in range(experiment.seed, experiment.seed + settings.seeds):
            own = experiment.model_copy(update={"finetune": finetune, "seed": seed})
            found[f"{method} of seed {seed}"] = load_backbone(own)
    return found


def starts_from_run(experiment: Experiment) -> bool:
    """Whether any method starts from the run that ``pretrain.run_name`` names."""
    return any(each.method == "emod" and each.backbone is None for each in method_settings(experiment).values())


def _from_nothing(experiment: Experiment) -> bool:
    """Whether any method starts from no pretraining."""
    return any(
        each.backbone == NEW if each.method == "emod" else each.rival_weights is None
        for each in method_settings(experiment).values()
    )


def _rival_weights(experiment: Experiment) -> dict[str, str]:
    """method -> SHA-256 of the weights that it starts from, of rivals that start from some."""
    return {
        method: hashlib.sha256(read_weights(finetune.rival_weights)).hexdigest()
        for method, finetune in method_settings(experiment).items()
        if finetune.rival_weights is not None
    }


def _summaries(
    experiment: Experiment, store: ShardStore, folds: dict[TargetName, list[Fold]], answers: Sequence[Answers]
) -> list[TargetSummary]:
    settings, finetune = evaluation_settings(experiment)
    metadata = WindowPool(store, finetune.corpora).metadata
    clips = clips_of(metadata)
    found: dict[tuple[str, str, int], list[Answers]] = defaultdict(list)
    for each in answers:
        found[each.training.target, each.training.method, each.training.seed].append(each)
    seeds = range(experiment.seed, experiment.seed + settings.seeds)

    def outputs(target: str, method: str, seed: int) -> list[Any]:
        return [each.outputs for each in sorted(found[target, method, seed], key=lambda each: each.training.fold)]

    summaries = []
    for name, of_target in folds.items():
        findings: dict[str, Finding] = {}
        for fold in of_target:
            for finding in fold.findings:
                findings.setdefault(f"{finding.code}{finding.between}{finding.severity}", finding)
        own = [each for each in answers if each.training.target == name]
        summaries.append(
            summarise_target(
                [fold.target for fold in of_target],
                [fold.split for fold in of_target],
                {method: [outputs(name, method, seed) for seed in seeds] for method in settings.methods},
                clips=clips,
                findings=list(findings.values()),
                shuffled=[outputs(name, SHUFFLED, seed) for seed in seeds],
                parameters={each.training.method: each.parameters for each in own},
                seconds={
                    method: sum(each.seconds for each in own if each.training.method == method)
                    for method in settings.methods
                },
            )
        )
    return summaries


def _log(client: MlflowClient, run_id: str, summaries: Sequence[TargetSummary]) -> None:
    for summary in summaries:
        for method in (*summary.methods, *summary.controls):
            for figure in figures_of(summary):
                value = method.mean(figure)
                if np.isfinite(value):
                    label = method.method.replace("'", "").replace(",", "").replace(" ", "_").replace("+", "_")
                    client.log_metric(run_id, f"test/{summary.target.name}/{label}/{figure}", value, step=0)
        client.log_dict(run_id, record_of(summary), f"evaluation-{summary.target.name}.json")
        accepted = sorted({finding.code for finding in summary.findings if finding.accepted_by == "user"})
        client.set_tag(run_id, "emod.accepted_leaks", ",".join(accepted))
        client.set_tag(run_id, "emod.protocol", summary.splits[0].protocol)


def figures_of(summary: TargetSummary) -> tuple[str, ...]:
    """The figures of a target, the one that ranks first."""
    if summary.on_plane:
        names = ("ccc", "pearson", "rmse")
        return ("mean_ccc", *(f"{name}_{axis}" for axis in ("valence", "arousal") for name in names))
    return ("balanced_accuracy", "kappa", "weighted_f1", "auroc", "calibration_error")


def record_of(summary: TargetSummary) -> dict[str, Any]:
    """Everything of a target, ready for JSON: every seed of every method, the controls, the audit, the folds."""

    def method(found: MethodSummary) -> dict[str, Any]:
        return {
            "method": found.method,
            "sees_eeg": found.sees_eeg,
            "seeds": [asdict(scores) for scores in found.per_seed],
            "interval": None if found.interval is None else asdict(found.interval),
            "versus_first": None if found.versus_first is None else asdict(found.versus_first),
            "parameters": found.parameters,
        }

    target = summary.target
    return {
        "target": target.name,
        "rule": target.rule,
        "priors": target.priors,
        "chance": summary.chance,
        "verdicts": summary.verdicts(),
        "methods": [method(found) for found in summary.methods],
        "controls": [method(found) for found in summary.controls],
        "audit": [finding.record() for finding in summary.findings],
        "folds": [split.record() for split in summary.splits],
    }
