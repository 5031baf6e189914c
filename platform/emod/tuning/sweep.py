"""A sweep on Ray Tune: trials of fine-tuning, searched for, given up early or taken over, and resumed after a crash.

It sees training and validation windows. Nothing of it reads a test window: its trials are handed `TrainingRows`.
Ray Tune keeps the state of a sweep in its own pickled files below the sweep's folder, and reads them when it goes on: a
sweep's folder is trusted as the code is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ray import tune
from ray.tune.execution import class_cache
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from emod import storage
from emod.catalog import Experiment, FinetuneSettings, SweepSettings, TargetName
from emod.errors import RequestError
from emod.evaluation import Finding
from emod.shards import ShardStore
from emod.tracking.runs import RESOURCE_FIELDS
from emod.training import Pretrained, audit_finetuning
from emod.training.auditing import refuse_leaks
from emod.training.backbone import digest_of
from emod.training.finetune import finetuning_config
from emod.training.launch import check_room, claim_run, ray_storage
from emod.tuning.space import inside, new_search, population_space
from emod.tuning.tracker import trial_name, why_ended
from emod.tuning.trial import SCORE, TrialPath, run_trial, trial_experiment, trial_overrides

__all__ = [
    "SweepTrial",
    "audit_sweep",
    "claim_sweep",
    "run_sweep",
    "sweep_settings",
    "trial_experiment",
    "trial_overrides",
]

# Ray Tune copies the driver's keys into the runtime environment of its trials, which Ray writes into its logs. Trials
# have them from their machine, as every other worker has.
class_cache.ENV_VARS_TO_PROPAGATE.difference_update(
    {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}
)

# Below the sweep's folder, where Ray Tune writes.
_TUNE = "tune"


@dataclass(frozen=True)
class SweepTrial:
    """What came of a trial.

    Attributes:
        number: Its place in the order in which trials were drawn, from 1.
        path: The settings it went through.
        score: Of its best epoch, on the validation windows; None if no epoch came to its end, or it failed.
        best_epoch: From 1; 0 if there is none.
        curve: Score of each epoch.
        seconds: Its training took, without starts and stops.
        ended: Why, in words.
        failed: Whether an error ended it.
    """

    number: int
    path: TrialPath
    score: float | None
    best_epoch: int
    curve: tuple[float, ...] = field(default=())
    seconds: float = 0.0
    ended: str = ""
    failed: bool = False


def sweep_settings(experiment: Experiment) -> tuple[SweepSettings, FinetuneSettings, TargetName]:
    """The sweep, what it varies, and the target it tunes.

    Raises:
        RequestError: If the experiment has no sweep that can be run.
    """
    sweep, finetune = experiment.sweep, experiment.finetune
    if sweep is None or finetune is None:
        missing = "sweep" if sweep is None else "finetune"
        raise RequestError(f"experiment {experiment.name} has no {missing} section; use --experiment sweep")
    if len(finetune.targets) > 1:
        raise RequestError(f"finetune.targets {list(finetune.targets)}: a sweep tunes one target; give one")
    if finetune.method != "emod":
        raise RequestError(f"finetune.method = {finetune.method}: a sweep tunes emod, as jobs/finetune.py trains it")
    if finetune.from_epoch:
        raise RequestError("finetune.from_epoch: it is what a sweep finds; leave it out")
    return sweep, finetune, finetune.targets[0]


def audit_sweep(experiment: Experiment, store: ShardStore, pretrained: Pretrained) -> list[Finding]:
    """What the audit finds in the split that every trial shares.

    Raises:
        RequestError: If there is a leak that nobody accepted.
    """
    _, finetune, target = sweep_settings(experiment)
    findings = audit_finetuning(experiment, store, pretrained, target)
    refuse_leaks(findings, where=f"{finetune.split.protocol} split of {finetune.corpus}")
    return findings


def claim_sweep(experiment: Experiment, store: ShardStore, pretrained: Pretrained) -> str:
    """Ties the sweep's name to what decides its trials, as `claim_run`.

    Raises:
        RequestError: If the name belongs to a sweep with other settings, windows or backbone.
    """
    sweep, finetune, target = sweep_settings(experiment)
    claim = {
        "seed": experiment.seed,
        "target": target,
        "finetune": finetune.model_dump(mode="json", exclude={*RESOURCE_FIELDS, "run_name", "targets", "backbone"}),
        "sweep": sweep.model_dump(mode="json", exclude={"run_name"}),
        "backbone": digest_of(pretrained.model),
        "manifest": store.manifest.hash_of(finetune.corpora),
    }
    return claim_run(experiment.addresses.runs_url(), sweep.run_name, claim, room="sweep")


def run_sweep(
    experiment: Experiment,
    store: ShardStore,
    pretrained: Pretrained,
    *,
    callbacks: Sequence[tune.Callback],
) -> list[SweepTrial]:
    """Runs a sweep to its end, resuming the one of that name; its trials in the order drawn. Ray must be running.

    Args:
        experiment: With a sweep, audited and claimed.
        store: Where the windows are.
        pretrained: What every trial starts from.
        callbacks: Told of every trial. A sweep that goes on keeps those it began with.

    Raises:
        RequestError: If the cluster has no room for a trial.
    """
    sweep, finetune, target = sweep_settings(experiment)
    resources = {"cpu": finetune.cpus_per_worker, **({"gpu": 1} if finetune.gpu else {})}
    check_room(
        {kind.upper(): amount for kind, amount in resources.items()}, cure="finetune.gpu and finetune.cpus_per_worker"
    )
    folder = storage.join(experiment.addresses.runs_url(), sweep.run_name)
    filesystem, path = ray_storage(folder)
    config = finetuning_config(experiment, store, pretrained, target)
    trainable = tune.with_resources(
        partial(run_trial, experiment_json=experiment.model_dump_json(), folder=folder, config=config), resources
    )
    place = f"{path.rstrip('/')}/{_TUNE}"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # Ray's newer output prints tables however quiet it is asked to be
    if tune.Tuner.can_restore(place, storage_filesystem=filesystem):
        tuner = tune.Tuner.restore(
            place, trainable, resume_unfinished=True, resume_errored=True, storage_filesystem=filesystem
        )
    else:
        population = sweep.search == "population"
        tuner = tune.Tuner(
            trainable,
            param_space=population_space(sweep.space) if population else {},
            tune_config=tune.TuneConfig(
                metric=SCORE,
                mode="max",
                num_samples=sweep.trials,
                max_concurrent_trials=sweep.concurrent,
                search_alg=BasicVariantGenerator(random_state=experiment.seed)
                if population
                else new_search(sweep, SCORE, seed=experiment.seed),
                scheduler=_scheduler(sweep, finetune),
                reuse_actors=True,  # a process takes ten seconds to load what a trial needs
                trial_name_creator=trial_name,
                trial_dirname_creator=trial_name,
            ),
            run_config=tune.RunConfig(
                name=_TUNE,
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=tune.FailureConfig(max_failures=finetune.max_failures),
                callbacks=list(callbacks),
                verbose=0,
            ),
        )
    return sorted((_read(result) for result in tuner.fit()), key=lambda trial: trial.number)


def _scheduler(sweep: SweepSettings, finetune: FinetuneSettings) -> TrialScheduler:
    if sweep.search == "population":
        return PopulationBasedTraining(
            time_attr="epoch",
            perturbation_interval=sweep.interval_epochs,
            hyperparam_mutations=population_space(sweep.space),
            custom_explore_fn=partial(inside, space=sweep.space),
            synch=True,
        )
    if not sweep.stops:
        return FIFOScheduler()
    return _Asha(
        time_attr="epoch",
        max_t=finetune.epochs,
        grace_period=min(sweep.grace_epochs, finetune.epochs),
        reduction_factor=sweep.reduction,
    )


class _Asha(ASHAScheduler):  # type: ignore[misc]
    """ASHA whose rungs are filled again when a sweep goes on: Ray Tune does not write them down."""

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Told of each trial, in a sweep that goes on of those that had begun before."""
        super().on_trial_add(tune_controller, trial)
        epochs = json.loads((trial.last_result or {}).get("epochs", "[]"))
        for rung, scores in self._trial_info[trial.trial_id]._rungs:
            if rung <= len(epochs):
                scores[trial.trial_id] = epochs[int(rung) - 1][SCORE]


def _read(result: tune.Result) -> SweepTrial:
    told = result.metrics or {}
    failed = result.error is not None or "failure" in told
    epochs = json.loads(told.get("epochs", "[]"))
    known = bool(epochs) and not failed
    return SweepTrial(
        number=int(Path(result.path).name),  # as `trial_name` called it
        path=TrialPath.from_json(told["path"]) if "path" in told else TrialPath({}),
        score=told[SCORE] if known else None,
        best_epoch=told["best_epoch"] if known else 0,
        curve=tuple(epoch["validation"] for epoch in epochs),
        seconds=told.get("seconds", 0.0),
        ended=why_ended(told, result.error),
        failed=failed,
    )
