"""The verb `sweep`: audit, trials on Ray Tune, what came out, and all of it in MLflow.

Nothing here trains; it calls the room that does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mlflow import MlflowClient

from emod import storage
from emod.catalog import Experiment, SweepSettings, TargetName
from emod.errors import DataError
from emod.evaluation import Finding, Split, Target, divide
from emod.lease import one_driver
from emod.shards import ShardStore, WindowPool
from emod.tracking import ensure_run, log_experiment
from emod.training import Pretrained
from emod.tuning import SweepTrial, audit_sweep, claim_sweep, run_sweep, sweep_settings, trial_overrides
from emod.tuning.table import TrialTable
from emod.tuning.tracker import TrialTracker
from emod.workflow import check_request, log_store, running

__all__ = ["Swept", "plan_sweep", "plan_without_store", "sweep"]


@dataclass(frozen=True, eq=False)
class Swept:
    """What a sweep left.

    Attributes:
        experiment: As it was run.
        target: What was tuned.
        split: Whose training and validation windows were used; its test windows were not.
        trials: In the order drawn.
        findings: Of the audit.
        simulated: Whether anything that was learned from was.
        run_id: Of the sweep in MLflow.
        folder: Below the runs.
    """

    experiment: Experiment
    target: Target
    split: Split
    trials: tuple[SweepTrial, ...]
    findings: tuple[Finding, ...]
    simulated: bool
    run_id: str
    folder: str

    @property
    def settings(self) -> SweepSettings:
        """Of the sweep."""
        return sweep_settings(self.experiment)[0]

    @property
    def best(self) -> SweepTrial:
        """The trial with the best score; of equal ones the cheapest.

        Raises:
            DataError: If no trial came to the end of an epoch.
        """
        known = [trial for trial in self.trials if trial.score is not None]
        if not known:
            raise DataError(f"no trial of {self.settings.run_name} was trained: {self.trials[0].ended}")
        return max(known, key=lambda trial: (trial.score, -len(trial.curve)))

    @property
    def epochs(self) -> int:
        """Trained by all trials together."""
        return sum(len(trial.curve) for trial in self.trials)

    @property
    def epochs_in_full(self) -> int:
        """What as many trials cost if each is trained to its end."""
        finetune = self.experiment.finetune
        assert finetune is not None
        return len(self.trials) * finetune.epochs


def plan_sweep(experiment: Experiment, store: ShardStore) -> list[str]:
    """What a sweep would do, in plain lines."""
    settings, finetune, name = sweep_settings(experiment)
    target, split = _question(experiment, store, name)
    windows = {role: count for role, count in split.record()["windows"].items() if role != "test"}
    stopping = f"asha from epoch {settings.grace_epochs}, one in {settings.reduction}" if settings.stops else "none"
    return [
        f"{settings.trials} trials of {finetune.epochs} epochs at most; search {settings.search}; stopping {stopping}",
        f"varies {', '.join(settings.space)}",
        f"{name}: {target.rule}; protocol {split.protocol}, windows {windows}; test windows are not read",
    ]


def plan_without_store(experiment: Experiment) -> list[str]:
    """The same before anything is simulated."""
    settings, finetune, name = sweep_settings(experiment)
    return [
        f"simulate and ingest {', '.join(experiment.corpora)}, then {settings.trials} trials of at most "
        f"{finetune.epochs} epochs on {name}; search {settings.search}; varies {', '.join(settings.space)}"
    ]


@one_driver(lambda experiment: sweep_settings(experiment)[0].run_name)
def sweep(experiment: Experiment, store: ShardStore, pretrained: Pretrained) -> Swept:
    """Runs a sweep to its end, resuming the one of that name. Ray must be running.

    Raises:
        RequestError: If the split leaks, or the name belongs to another sweep.
        DataError: If no trial could be trained.
    """
    settings, finetune, name = sweep_settings(experiment)
    uri = check_request(experiment, store)
    findings = audit_sweep(experiment, store, pretrained)
    claim = claim_sweep(experiment, store, pretrained)
    target, split = _question(experiment, store, name)
    simulated = pretrained.simulated or store.is_simulated(finetune.corpora)
    client = MlflowClient(uri)
    run_id = ensure_run(uri, experiment.name, settings.run_name, {"emod.stage": "sweep"}, claim=claim)
    log_experiment(client, run_id, experiment, world_size=1, exclude=("simulate", "study", "evaluate"))
    log_store(client, run_id, experiment, store, simulated=simulated)
    tags = {
        "emod.simulated": "true" if simulated else "false",
        "emod.target": name,
        "emod.protocol": finetune.split.protocol,
    }
    callbacks = [
        TrialTable(list(settings.space), settings.trials),
        TrialTracker(uri, experiment.name, run_id, settings.run_name, claim, tags),
    ]
    with running(client, run_id):
        trials = run_sweep(experiment, store, pretrained, callbacks=callbacks)
        folder = storage.join(experiment.addresses.runs_url(), settings.run_name)
        swept = Swept(experiment, target, split, tuple(trials), tuple(findings), simulated, run_id, folder)
        _log(client, swept)
    return swept


def _question(experiment: Experiment, store: ShardStore, name: TargetName) -> tuple[Target, Split]:
    _, finetune, _ = sweep_settings(experiment)
    target, split = divide(WindowPool(store, finetune.corpora).metadata, finetune, name)
    return target, split.keep(target.rows)


def _log(client: MlflowClient, swept: Swept) -> None:
    best = swept.best
    figures = {
        "best/score": best.score,
        "best/epoch": best.best_epoch,
        "cost/epochs": swept.epochs,
        "cost/share_of_full": swept.epochs / swept.epochs_in_full,
        "cost/seconds": sum(trial.seconds for trial in swept.trials),
    }
    for name, value in figures.items():
        if value is not None:
            client.log_metric(swept.run_id, name, value, step=0)
    client.set_tag(swept.run_id, "emod.best_trial", f"{best.number:03d}")
    client.set_tag(swept.run_id, "emod.best_settings", " ".join(trial_overrides(best.path)))
    client.log_dict(swept.run_id, {"trials": [record_of(trial) for trial in swept.trials]}, "trials.json")
    client.log_dict(swept.run_id, {"audit": [finding.record() for finding in swept.findings]}, "audit.json")
    client.log_dict(swept.run_id, swept.split.record(), "split.json")


def record_of(trial: SweepTrial) -> dict[str, Any]:
    """A trial, ready for JSON."""
    record = asdict(trial)
    record["path"] = {"values": trial.path.values, "from_epoch": trial.path.from_epoch}
    return record
