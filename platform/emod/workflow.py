"""The verbs of the platform: ingest, pretrain, fine-tune (which registers), and a study that compares pretrainings.

A verb takes an experiment, shows its progress, tracks what it does in MLflow and returns what the next one needs. Jobs
call these; nothing here computes.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from mlflow import MlflowClient

from emod import storage
from emod.catalog import Experiment, FinetuneSettings, ServingSettings, fingerprint, load_corpus
from emod.cli import progress
from emod.corpora import read_marker, simulate_corpus
from emod.errors import RequestError
from emod.evaluation import Evaluation, Finding, PlaneEvaluation, Target, clips_of, divide, summarise_target
from emod.ingest import IngestPlan, ingest, plan_ingest
from emod.ingest.report import write_report
from emod.lease import one_driver
from emod.model import Emod, EmodClassifier
from emod.shards import ShardStore, WindowPool
from emod.simulation import BrainSimulator
from emod.tracking import (
    MetricLog,
    TrainedCorpus,
    TrainedOn,
    check_reachable,
    ensure_run,
    finish,
    log_experiment,
    log_lineage,
    register_model,
    tracking_uri,
)
from emod.tracking.champion import version_of
from emod.training import (
    Finetuned,
    Pretrained,
    answer_test_windows,
    audit_finetuning,
    claim_finetuning,
    claim_pretraining,
    count_steps,
    draws_per_region,
    finetune,
    fit_plane_head,
    pretrain,
    score_test_windows,
    trained_corpus,
    training_rows,
)
from emod.training.study import (
    CellResult,
    cell_experiment,
    claim_study,
    list_cells,
    run_cells,
    settings_of,
    under_effect,
)

__all__ = [
    "SCORED_ON",
    "FinetuneOutcome",
    "check_request",
    "classes_of",
    "finetune_and_register",
    "ingest_corpora",
    "log_store",
    "on_ray",
    "plan_finetune",
    "pretrain_backbone",
    "run_study",
    "running",
    "simulate_corpora",
    "summarise",
    "uri_of",
]


# Tag of a fine-tuning's run: the manifest of the windows it was scored on.
SCORED_ON = "emod.scored_windows"
# Sections that decide nothing of a single training: other comparisons may start from the same one.
_COMPARISONS = ("ablation", "evaluate", "simulate")

# Draws settle long before a whole schedule has been counted.
_STEPS_COUNTED = 1000


@dataclass(frozen=True)
class FinetuneOutcome:
    """One fine-tuned target: the classifier, its scores on the test subjects, and where it is registered.

    ``registered`` says it in words; ``simulated`` whether anything it learned from was.
    """

    corpus: str
    finetuned: Finetuned
    evaluation: Evaluation | PlaneEvaluation
    run_id: str
    model_version: str
    registered: str
    simulated: bool


@contextmanager
def on_ray(num_cpus: int | None = None, *, quiet: bool = False, dashboard: bool = False) -> Iterator[None]:
    """A Ray cluster for the time of the block: the one at $RAY_ADDRESS (as under ``ray job submit``), else a local one.

    Args:
        num_cpus: CPUs of a local cluster; None takes what the machine has. A cluster has its own.
        quiet: Keep workers' output and Ray's own logs off the terminal, where a progress bar is.
        dashboard: Start one beside a local cluster, and say where; a cluster has its own.

    Raises:
        RequestError: If $RAY_ADDRESS leads through Ray Client.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith("ray://"):
        raise RequestError(f"RAY_ADDRESS={address}: a job runs inside its cluster; send it there by ray job submit")
    if address == "local":
        del os.environ["RAY_ADDRESS"]  # as if it were not set
    if ray.is_initialized():
        yield
        return
    if quiet:
        for name in ("ray.data", "ray.train", "mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    remote = bool(os.environ.get("RAY_ADDRESS"))
    if not remote:
        # As Ray does on macOS and Windows: servers of a local cluster listen to this machine alone, not to its network.
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
    context = ray.init(
        # Without an address Ray would join whatever cluster somebody started on this machine.
        address=None if remote else "local",
        num_cpus=None if remote else num_cpus,
        object_store_memory=None if remote else 512 * 2**20,
        include_dashboard=None if remote else dashboard,
        log_to_driver=not quiet,
        logging_level=logging.ERROR if quiet else logging.INFO,
    )
    if dashboard and context.dashboard_url:
        print(f"Ray's dashboard: http://{context.dashboard_url}", file=sys.stderr)
    try:
        yield
    finally:
        ray.shutdown()


def uri_of(experiment: Experiment) -> str:
    """MLflow's URI for this experiment: the environment's, else a database beside its runs."""
    return tracking_uri(experiment.addresses.runs_url())


def simulate_corpora(experiment: Experiment) -> None:
    """Simulates each corpus of the experiment's simulate section at its address; a copy that is whole is kept.

    Nothing is ever removed: a folder that holds anything else is refused, since it may hold somebody's recordings.
    """
    for name, settings in experiment.simulate.items():
        root = experiment.addresses.root_of(name)
        marker = read_marker(root)
        if marker is not None:
            if (marker.corpus, marker.settings) == (name, fingerprint(settings)):
                continue
            raise RequestError(
                f"{root} holds a simulated {marker.corpus} made with other settings; remove it or choose another folder"
            )
        total = settings.subjects * (settings.sessions or load_corpus(name).sessions)
        with progress(f"simulate {name}", total) as advance:
            simulate_corpus(name, root, settings, BrainSimulator(settings.brain), lambda plan: advance(1, plan.subject))


def ingest_corpora(experiment: Experiment, plans: Sequence[IngestPlan] | None = None) -> ShardStore:
    """Brings the experiment's store up to date, writes its report and opens it. Ray must be running.

    Args:
        experiment: What to ingest and how.
        plans: From `plan_ingest`, where they are known already.
    """
    plans = plan_ingest(experiment) if plans is None else plans
    total = sum(len(plan.references) for plan in plans if plan.entry is None)
    with progress("ingest", total) as advance:
        ingest(experiment, plans, lambda note: advance(1, note))
    store = ShardStore.open(experiment.addresses.store_url())
    write_report(store, experiment.name)
    return store


@one_driver(lambda experiment: experiment.pretrain.run_name)
def pretrain_backbone(experiment: Experiment, store: ShardStore) -> tuple[Pretrained, str]:
    """Pretrains on the experiment's corpora; returns the backbone and its MLflow run. Ray must be running.

    Raises:
        RequestError: If the store was cleaned with other settings than the experiment's, or as `pretrain`.
    """
    uri = check_request(experiment, store)
    claim = claim_pretraining(experiment, store)
    simulated = store.is_simulated(experiment.corpora)
    run_id = ensure_run(uri, experiment.name, experiment.pretrain.run_name, {"emod.stage": "pretrain"}, claim=claim)
    client = MlflowClient(uri)
    others = ("finetune", *_COMPARISONS)
    log_experiment(client, run_id, experiment, world_size=experiment.pretrain.workers, exclude=others)
    log_store(client, run_id, experiment, store, simulated=simulated)
    steps = count_steps(experiment, store)
    draws = draws_per_region(experiment, store, steps=min(steps, _STEPS_COUNTED))
    client.log_dict(run_id, {"steps_counted": min(steps, _STEPS_COUNTED), "draws": draws}, "draws_per_region.json")
    with running(client, run_id), progress("pretrain", steps) as advance:
        return pretrain(experiment, store, tracking=(uri, run_id), advance=advance), run_id


@one_driver(lambda experiment: _finetune_settings(experiment).run_name)
def finetune_and_register(experiment: Experiment, store: ShardStore, pretrained: Pretrained) -> list[FinetuneOutcome]:
    """Fine-tunes each target, scores the test subjects once, and registers the model. Ray must be running.

    The first target's model gets the alias ``candidate``, any other ``candidate-<target>``.
    """
    settings, name = _finetune_settings(experiment), experiment.promote.name
    uri = check_request(experiment, store)
    client = MlflowClient(uri)
    claims = {target: claim_finetuning(experiment, store, pretrained, target) for target in settings.targets}
    simulated = pretrained.simulated or store.is_simulated(settings.corpora)
    outcomes = []
    for number, target in enumerate(settings.targets):
        run_name = f"{settings.run_name}-{target}"
        tags = {"emod.stage": "finetune", "emod.target": target}
        run_id = ensure_run(uri, experiment.name, run_name, tags, claim=claims[target])
        log_experiment(client, run_id, experiment, world_size=1, exclude=_COMPARISONS)
        log_store(client, run_id, experiment, store, simulated=simulated)
        # The backbone may come from another store, or from windows that are in no version any more.
        client.set_tag(run_id, "emod.backbone_manifest", pretrained.manifest_hash)
        client.set_tag(run_id, SCORED_ON, store.manifest.hash_of(settings.corpora))
        client.set_tag(run_id, "emod.backbone_corpora", ",".join(sorted(pretrained.seen)))
        findings = audit_finetuning(experiment, store, pretrained, target)
        client.log_dict(run_id, {"audit": [finding.record() for finding in findings]}, "audit.json")
        accepted = sorted({finding.code for finding in findings if finding.accepted_by == "user"})
        client.set_tag(run_id, "emod.accepted_leaks", ",".join(accepted))
        client.set_tag(run_id, "emod.protocol", settings.split.protocol)
        with running(client, run_id):
            with progress(f"tune {target}", settings.epochs) as advance:
                finetuned = finetune(experiment, store, pretrained, target, tracking=(uri, run_id), advance=advance)
            answers = answer_test_windows(finetuned)
            evaluation = score_test_windows(finetuned, answers)
            _log_scores(client, run_id, evaluation, finetuned)
            # A backbone may come from another store; the plane head is fitted on what is here.
            rows_of = training_rows(finetuned, pretrained, store)
            classifier = finetuned.classifier
            model: Emod | EmodClassifier
            if target == "plane":
                model, plane = classifier.backbone, classifier.plane_head()
            else:
                model, plane = classifier, fit_plane_head(classifier.backbone, store, rows_of)
            alias = "candidate" if number == 0 else f"candidate-{target}"
            version = _registered_before(client, name, run_id, experiment.serving, alias) or register_model(
                uri=uri,
                run_id=run_id,
                model=model,
                plane=plane,
                classes=classes_of(finetuned.target),
                settings=experiment.signal,
                serving=experiment.serving,
                results=_results(finetuned, answers, findings),
                trained_on=TrainedOn(
                    manifest=store.manifest.hash_of(tuple(rows_of)),
                    simulated=simulated,
                    corpora=_trained_corpora(store, pretrained, rows_of),
                    backbone_manifest=pretrained.manifest_hash,
                ),
                name=name,
                alias=alias,
            )
        newest = version_of(client, name, alias)
        registered = (
            f"models:/{name}@{alias}, version {version}"
            if newest == version
            else f"models:/{name}/{version}; {alias} is version {newest}"
        )
        outcomes.append(FinetuneOutcome(settings.corpus, finetuned, evaluation, run_id, version, registered, simulated))
    return outcomes


def _results(finetuned: Finetuned, answers: npt.NDArray[np.float32], findings: Sequence[Finding]) -> list[str]:
    """What a model card says of the test windows, beside controls that see no EEG."""
    summary = summarise_target(
        [finetuned.target],
        [finetuned.split],
        {"this model": [[answers]]},
        clips=clips_of(finetuned.pool.metadata),
        findings=findings,
    )
    figures = ("mean_ccc", "rmse_valence", "rmse_arousal") if summary.on_plane else ("balanced_accuracy", "kappa")
    split = finetuned.split
    lines = [
        f"Target {summary.target.name} ({summary.target.rule}); protocol `{split.protocol}`: {split.rule}; split "
        f"`{split.hash[:16]}`; {len(summary.true)} windows of {len(set(summary.subjects))} subjects.",
        "",
        f"| | {' | '.join(name.replace('_', ' ') for name in figures)} |",
        f"| --- |{' --- |' * len(figures)}",
    ]
    for method in (*summary.methods, *summary.controls):
        lines.append(f"| {method.method} | {' | '.join(f'{method.mean(name):.3f}' for name in figures)} |")
    accepted = sorted({finding.code for finding in findings if finding.accepted_by == "user"})
    lines += ["", *summary.verdicts(), *([f"Leaks accepted by hand: {', '.join(accepted)}."] if accepted else [])]
    return lines


def classes_of(target: Target) -> list[str]:
    """What a registered model calls a target's classes; the plane has none."""
    # "low" alone says nothing once the model has left its experiment.
    suffix = f"_{target.name}" if target.name in ("valence", "arousal") else ""
    return [f"{label.replace(', ', '_').replace(' ', '_')}{suffix}" for label in target.classes]


def _trained_corpora(
    store: ShardStore, pretrained: Pretrained, rows_of: Mapping[str, npt.NDArray[np.int64]]
) -> dict[str, TrainedCorpus]:
    corpora = dict(pretrained.corpora)
    for name, rows in rows_of.items():
        people = set(store.metadata(name)["subject"].take(pa.array(rows)).to_pylist())
        corpora[name] = trained_corpus(store, name, people | set(pretrained.seen.get(name, ())))
    return corpora


def plan_finetune(experiment: Experiment, store: ShardStore) -> list[str]:
    """What fine-tuning would do, a line for each target."""
    settings = _finetune_settings(experiment)
    metadata = WindowPool(store, settings.corpora).metadata
    lines = []
    for name in settings.targets:
        target, split = divide(metadata, settings, name)
        windows = split.keep(target.rows).record()["windows"]
        priors = ", ".join(f"{label} {share:.2f}" for label, share in target.priors.items())
        lines.append(f"{name}: {settings.epochs} epochs; windows {windows}; priors {priors}; {target.rule}")
    return lines


def summarise(outcomes: list[FinetuneOutcome]) -> list[str]:
    """The result of fine-tuning in a few plain lines."""
    simulated = any(outcome.simulated for outcome in outcomes)
    lines = ["SIMULATED recordings: these numbers say nothing about people"] if simulated else []
    for outcome in outcomes:
        registered = f"registered as {outcome.registered}"
        if isinstance(outcome.evaluation, PlaneEvaluation):
            found, control = outcome.evaluation.scores, outcome.evaluation.mean_point
            axes = ", ".join(
                f"{axis}: concordance {mine.ccc:.3f}, Pearson {mine.pearson:.3f}, RMSE {mine.rmse:.2f} "
                f"(training mean {other.rmse:.2f})"
                for axis, mine, other in (
                    ("valence", found.valence, control.valence),
                    ("arousal", found.arousal, control.arousal),
                )
            )
            lines.append(f"plane: {axes}; {found.n_windows} windows of {found.n_subjects} subjects; {registered}")
            continue
        scores, interval = outcome.evaluation.scores, outcome.evaluation.interval
        span = f" (95 % over subjects {interval.low:.3f}..{interval.high:.3f})" if interval else ""
        lines.append(
            f"{outcome.evaluation.target}: balanced accuracy {scores.balanced_accuracy:.3f}{span}, "
            f"chance {scores.chance:.3f}, kappa {scores.kappa:.3f}, weighted F1 {scores.weighted_f1:.3f}, "
            f"{scores.n_windows} windows of {scores.n_subjects} subjects; {registered}"
        )
    return lines


@one_driver(lambda experiment: settings_of(experiment)[0].run_name)
def run_study(experiment: Experiment) -> list[CellResult]:
    """Simulates and ingests what a study needs, runs it, and tracks each training below one run. Ray must be running.

    Raises:
        RequestError: If the experiment has no study that can be run, or as `run_cells`.
    """
    study, _ = settings_of(experiment)
    uri = uri_of(experiment)
    check_reachable(uri)
    stores: dict[str, ShardStore] = {}
    for effect in study.worlds:
        world = under_effect(experiment, effect)
        simulate_corpora(world)
        stores[effect] = ingest_corpora(world)
    claim = claim_study(experiment, stores)
    client = MlflowClient(uri)
    parent = ensure_run(uri, experiment.name, study.run_name, {"emod.stage": "study"}, claim=claim)
    log_experiment(client, parent, experiment, world_size=1)
    cells = list_cells(study, experiment.seed)
    with running(client, parent), progress("study", len(cells)) as advance:

        def report(result: CellResult) -> None:
            cell = result.cell
            tags = {
                "emod.stage": "cell",
                "mlflow.parentRunId": parent,
                "emod.effect": cell.effect,
                "emod.arm": cell.arm,
                "emod.seed": str(cell.seed),
            }
            run_id = ensure_run(uri, experiment.name, f"{study.run_name}/{cell.name}", tags, claim=claim)
            _log_cell(client, run_id, cell_experiment(experiment, cell), stores[cell.effect], result)
            advance(1, f"{cell.name}: {result.balanced_accuracy:.3f}")

        return run_cells(experiment, stores, report)


def _log_cell(client: MlflowClient, run_id: str, experiment: Experiment, store: ShardStore, result: CellResult) -> None:
    with running(client, run_id), MetricLog(client, run_id) as log:
        log_experiment(client, run_id, experiment, world_size=1, exclude=("simulate",))
        log_store(client, run_id, experiment, store, simulated=result.simulated)
        for step, loss in enumerate(result.losses, start=1):
            log.log(step, {"loss": loss})
        for epoch, kappa in enumerate(result.validation_kappas, start=1):
            log.log(epoch, {"finetune/validation_kappa": kappa})
        scores = {name: getattr(result, name) for name in ("balanced_accuracy", "kappa", "weighted_f1", "chance")}
        log.log(result.best_epoch, {f"test/{name}": value for name, value in scores.items()})


@contextmanager
def running(client: MlflowClient, run_id: str) -> Iterator[None]:
    """Marks the run as running, then as finished, or as failed if the block raises."""
    client.update_run(run_id, status="RUNNING")
    try:
        yield
    except BaseException:
        finish(client, run_id, "FAILED")
        raise
    finish(client, run_id, "FINISHED")


def _finetune_settings(experiment: Experiment) -> FinetuneSettings:
    if experiment.finetune is None:
        raise RequestError(f"experiment {experiment.name} has no finetune section; use --experiment finetune")
    return experiment.finetune


def check_request(experiment: Experiment, store: ShardStore) -> str:
    """MLflow's URI, once it is sure that it answers and that the store's windows are what the experiment says.

    Raises:
        RequestError: If either is not so.
    """
    made_with = dict(_leaves(store.manifest.settings, "signal"))
    asked_for = dict(_leaves(experiment.signal.model_dump(mode="json"), "signal"))
    if differing := [name for name, value in asked_for.items() if made_with.get(name) != value]:
        raise RequestError(
            f"{storage.redact(store.url)} was made with {differing[0]} = {made_with.get(differing[0])}, the "
            f"experiment says {asked_for[differing[0]]}; set it so, or ingest again into another store"
        )
    uri = uri_of(experiment)
    check_reachable(uri)
    return uri


def _leaves(settings: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    """Each single setting with its full name."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{name}.{key}")
        else:
            yield f"{name}.{key}", value


def _registered_before(
    client: MlflowClient, name: str, run_id: str, serving: ServingSettings, alias: str
) -> str | None:
    """The version that this very run registered with these serving settings, if it did.

    A finished run that is repeated changes nothing; with other serving settings it registers a version of its own. What
    a crash left without its alias gets it now, unless a newer one has it.
    """
    found = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    wanted = serving.model_dump_json()
    plain = ServingSettings().model_dump_json()  # of a version without the tag, which is from before there were any
    version = next((str(each.version) for each in found if each.tags.get("emod.serving", plain) == wanted), None)
    if version is not None and int(version_of(client, name, alias) or 0) < int(version):
        client.set_registered_model_alias(name, alias, version)
    return version


def log_store(client: MlflowClient, run_id: str, experiment: Experiment, store: ShardStore, *, simulated: bool) -> None:
    """Writes down which windows of which store a run is about."""
    corpora = [name for name in experiment.corpora if name in store.corpora]  # fine-tuning needs one of them only
    log_lineage(
        client,
        run_id,
        store_url=store.url,
        manifest_hash=store.manifest.hash_of(corpora),
        simulated=simulated,
        corpora=corpora,
    )


def _log_scores(
    client: MlflowClient, run_id: str, evaluation: Evaluation | PlaneEvaluation, finetuned: Finetuned
) -> None:
    for name, value in _test_figures(evaluation).items():
        client.log_metric(run_id, name, value, step=finetuned.best_epoch)
    client.log_dict(run_id, evaluation.record(), "evaluation.json")
    client.log_dict(run_id, finetuned.split.record(), "split.json")
    client.log_dict(run_id, {"rule": finetuned.target.rule, "priors": finetuned.target.priors}, "target.json")


def _test_figures(evaluation: Evaluation | PlaneEvaluation) -> dict[str, float]:
    if isinstance(evaluation, PlaneEvaluation):
        plane = evaluation.scores
        axes = {"valence": plane.valence, "arousal": plane.arousal}
        return {f"test/{name}_{axis}": value for axis, own in axes.items() for name, value in asdict(own).items()}
    scores = evaluation.scores
    values = {
        "test/balanced_accuracy": scores.balanced_accuracy,
        "test/kappa": scores.kappa,
        "test/weighted_f1": scores.weighted_f1,
        "test/chance": scores.chance,
        "test/majority_balanced_accuracy": evaluation.majority.balanced_accuracy,
        "test/majority_weighted_f1": evaluation.majority.weighted_f1,
    }
    if evaluation.interval is not None:
        values |= {
            "test/balanced_accuracy_low": evaluation.interval.low,
            "test/balanced_accuracy_high": evaluation.interval.high,
        }
    return values
