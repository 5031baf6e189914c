"""One trial of a sweep: the training of jobs/finetune.py, on Ray Train in the trial's own process.

Ray Train has a local mode, in which the loop runs where it is started. A trial's CPUs and GPU are then those of its
training, so trials cannot keep each other's workers from starting, and one that is given up leaves nothing behind. With
a worker group below each trial, Ray 2.60 kept the placement group of a trial that was stopped: the third one on two
CPUs waited for ever.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import ray.train
import yaml
from ray import tune
from ray.train.torch import TorchTrainer

from emod import storage
from emod.catalog import Experiment, with_overrides
from emod.errors import DataError, RequestError
from emod.training.checkpoint import CheckpointWriter, fetch_newest
from emod.training.finetune import finetune_worker, hold_finetuner
from emod.training.finetuner import EpochReport, Finetuner

__all__ = ["SCORE", "TrialPath", "rounded", "run_trial", "trial_experiment", "trial_overrides"]

# What a sweep goes by: of the trial's best epoch so far; kappa and concordance end at -1.
SCORE = "score"
WORST = -1.0

# In a checkpoint: what Ray Tune was told of it.
_TOLD = "told.json"
_DIGITS = 4


@dataclass(frozen=True)
class TrialPath:
    """The settings a trial has gone through: those it began with, and what changed from which epoch on.

    In a population a trial takes over another's weights, and with them that one's path; replayed from its first epoch,
    it ends with the same weights.
    """

    values: dict[str, Any]
    from_epoch: dict[int, dict[str, float]] = field(default_factory=dict)

    def changed(self, values: Mapping[str, Any], epoch: int) -> TrialPath:
        """This path with these values from that epoch on; itself, if they are what it has already."""
        now = dict(self.values)
        for _, changed in sorted(self.from_epoch.items()):
            now |= changed
        new = {name: value for name, value in values.items() if now.get(name) != value}
        return TrialPath(self.values, {**self.from_epoch, epoch: new}) if new else self

    def to_json(self) -> str:
        """As text."""
        return json.dumps({"values": self.values, "from_epoch": self.from_epoch})

    @classmethod
    def from_json(cls, text: str) -> TrialPath:
        """From `to_json`."""
        told = json.loads(text)
        return cls(told["values"], {int(epoch): changed for epoch, changed in told["from_epoch"].items()})


def rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with four digits, which can be typed: what a trial is trained with."""
    return {
        name: float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value for name, value in values.items()
    }


def trial_overrides(path: TrialPath) -> list[str]:
    """What `--set` needs to train the same again."""
    overrides = [f"finetune.{name}={_as_yaml(value)}" for name, value in path.values.items()]
    return overrides + ([f"finetune.from_epoch={_as_yaml(path.from_epoch)}"] if path.from_epoch else [])


def trial_experiment(experiment: Experiment, path: TrialPath) -> Experiment:
    """The sweep's experiment with a trial's settings, and no longer a sweep."""
    return with_overrides(experiment.model_copy(update={"sweep": None}), trial_overrides(path))


def _as_yaml(value: Any) -> str:
    # YAML's own text of a number: it reads JSON's 1e-05 as a word.
    return str(yaml.safe_dump(value, default_flow_style=True, width=2**20)).split("\n")[0]


def run_trial(values: dict[str, Any], *, experiment_json: str, folder: str, config: dict[str, Any]) -> None:
    """What Ray Tune runs for a trial, again after a crash or a takeover.

    Args:
        values: Setting of finetune -> value.
        experiment_json: The sweep's.
        folder: Of the sweep; trials' checkpoints lie below it.
        config: From `finetuning_config`.
    """
    experiment = Experiment.model_validate_json(experiment_json)
    assert experiment.sweep is not None
    sweep, path = experiment.sweep, TrialPath(rounded(values))
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as local:
            before = _told(Path(local))
        path = TrialPath.from_json(before["path"]).changed(path.values, before["epoch"] + 1)
    checkpoints = storage.join(folder, "checkpoints", tune.get_context().get_trial_id())
    try:
        trainer = TorchTrainer(
            finetune_worker,
            train_loop_config={
                **config,
                "experiment": trial_experiment(experiment, path).model_dump_json(),
                "keeper": _TrialKeeper,
                "path": path,
                "run": f"{sweep.run_name}/{tune.get_context().get_trial_name()}",
                "every": sweep.interval_epochs if sweep.search == "population" else None,
                "checkpoints": checkpoints,
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=0, use_gpu=experiment.finetune is not None and experiment.finetune.gpu
            ),
        )
        trainer.fit()
    except storage.UnreachableError:
        raise  # may pass: Ray Tune starts the trial again
    except (RequestError, DataError) as error:
        # It would fail again. The search learns that these settings are bad.
        with tempfile.TemporaryDirectory(prefix="emod-checkpoint-") as scratch:
            known = _told(Path(scratch)) if fetch_newest(checkpoints, Path(scratch)) is not None else {"epoch": 1}
        tune.report({**known, SCORE: WORST, "failure": " ".join(str(error).split()), "path": path.to_json()})


def _told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / _TOLD).read_text(encoding="utf-8"))
    return found


class _TrialKeeper:
    """A trial's epochs go to Ray Tune, which answers with whether it goes on.

    Its state goes to a folder of its own; in a population to Ray Tune, which hands it to others.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._every: int | None = config["every"]
        self._path: TrialPath = config["path"]
        self._checkpoints: str = config["checkpoints"]
        self._writer = CheckpointWriter(self._checkpoints, run=config["run"])
        self._epochs: list[dict[str, float]] = []
        self._seconds = 0.0
        self._told_at = time.perf_counter()

    def fetch(self, folder: Path) -> bool:
        checkpoint = tune.get_checkpoint()
        if checkpoint is not None:
            checkpoint.to_directory(str(folder))
        elif fetch_newest(self._checkpoints, folder) is None:
            return False
        known = _told(folder)
        self._epochs, self._seconds = json.loads(known["epochs"]), known["seconds"]
        if checkpoint is None:
            # Ray Tune writes down what it was told every few seconds: after a crash it may be some epochs behind.
            tune.report(known)
        return True

    def keep(self, finetuner: Finetuner, report: EpochReport) -> None:
        now = time.perf_counter()
        self._seconds += now - self._told_at
        self._epochs.append(
            {
                "loss": report.loss,
                "validation": report.criterion,
                SCORE: finetuner.best_score,
                "cost/seconds": self._seconds,
                "cost/epochs": finetuner.next_epoch,
            }
        )
        done = finetuner.next_epoch
        told = {
            "epoch": done,
            SCORE: finetuner.best_score,
            "best_epoch": finetuner.best_epoch,
            "finished": finetuner.finished,
            "seconds": self._seconds,
            "epochs": json.dumps(self._epochs),
            "path": self._path.to_json(),
        }
        if self._every is None:
            self._writer.save(done, _hold(finetuner, told))
            tune.report(told)
        elif done % self._every == 0 or finetuner.finished:
            with tempfile.TemporaryDirectory(prefix="emod-checkpoint-") as scratch:
                _hold(finetuner, told)(Path(scratch))
                tune.report(told, checkpoint=tune.Checkpoint.from_directory(scratch))
        else:
            tune.report(told)
        self._told_at = time.perf_counter()  # what Ray Tune takes for its answer is no training

    def __enter__(self) -> _TrialKeeper:
        self._told_at = time.perf_counter()
        self._writer.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._writer.__exit__(kind, error, at)


def _hold(finetuner: Finetuner, told: dict[str, Any]) -> Callable[[Path], None]:
    hold = hold_finetuner(finetuner)

    def write(folder: Path) -> None:
        hold(folder)
        (folder / _TOLD).write_text(json.dumps(told), encoding="utf-8")

    return write
