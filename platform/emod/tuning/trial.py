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
from collections.abc import Mapping
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

_PATH = "path.json"
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
    """The sweep's experiment with a trial's settings."""
    return with_overrides(experiment, trial_overrides(path))


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
    path = TrialPath(rounded(values))
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as local:
            before = TrialPath.from_json(Path(local, _PATH).read_text(encoding="utf-8"))
            done = int(json.loads(Path(local, "position.json").read_text(encoding="utf-8"))["next_epoch"])
        path = before.changed(path.values, done + 1)
    trainer = TorchTrainer(
        finetune_worker,
        train_loop_config={
            **config,
            "experiment": trial_experiment(experiment, path).model_dump_json(),
            "keeper": _TrialKeeper,
            "path": path,
            "checkpoints": storage.join(folder, "checkpoints", tune.get_context().get_trial_id()),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=0, use_gpu=experiment.finetune is not None and experiment.finetune.gpu
        ),
    )
    try:
        trainer.fit()
    except storage.UnreachableError:
        raise  # may pass: Ray Tune starts the trial again
    except (RequestError, DataError) as error:
        # It would fail again. The search learns that these settings are bad.
        tune.report({"epoch": 1, SCORE: WORST, "failure": " ".join(str(error).split()), "path": path.to_json()})


class _TrialKeeper:
    """A trial's epochs go to Ray Tune, which answers with whether it goes on.

    Its state goes to a folder of its own; in a population to Ray Tune, which hands it to others.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        experiment = Experiment.model_validate_json(config["experiment"])
        assert experiment.sweep is not None
        self._every = experiment.sweep.interval_epochs if experiment.sweep.search == "population" else None
        self._path: TrialPath = config["path"]
        self._checkpoints: str = config["checkpoints"]
        self._writer = CheckpointWriter(self._checkpoints)
        self._curve: list[float] = []
        self._seconds = 0.0
        self._told_at = time.perf_counter()

    def fetch(self, folder: Path) -> bool:
        checkpoint = tune.get_checkpoint()
        if checkpoint is not None:
            checkpoint.to_directory(str(folder))
        elif fetch_newest(self._checkpoints, folder) is None:
            return False
        known = json.loads((folder / "curve.json").read_text(encoding="utf-8"))
        self._curve, self._seconds = known["curve"], known["seconds"]
        return True

    def keep(self, finetuner: Finetuner, report: EpochReport) -> None:
        now = time.perf_counter()
        self._seconds += now - self._told_at
        self._curve.append(report.criterion)
        done = finetuner.next_epoch
        told = {
            "epoch": done,
            SCORE: finetuner.best_score,
            "best_epoch": finetuner.best_epoch,
            "loss": report.loss,
            "validation": report.criterion,
            "finished": finetuner.finished,
            "seconds": self._seconds,
            "curve": json.dumps(self._curve),
            "path": self._path.to_json(),
        }
        if self._every is None:
            self._writer.save(done, self._hold(finetuner))
            tune.report(told)
        elif done % self._every == 0 or finetuner.finished:
            with tempfile.TemporaryDirectory(prefix="emod-checkpoint-") as scratch:
                self._hold(finetuner)(Path(scratch))
                tune.report(told, checkpoint=tune.Checkpoint.from_directory(scratch))
        else:
            tune.report(told)
        self._told_at = time.perf_counter()  # what Ray Tune takes for its answer is no training

    def _hold(self, finetuner: Finetuner) -> Any:
        hold = hold_finetuner(finetuner)
        known = json.dumps({"curve": self._curve, "seconds": self._seconds})

        def write(folder: Path) -> None:
            hold(folder)
            (folder / "curve.json").write_text(known, encoding="utf-8")
            (folder / _PATH).write_text(self._path.to_json(), encoding="utf-8")

        return write

    def __enter__(self) -> _TrialKeeper:
        self._told_at = time.perf_counter()
        self._writer.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._writer.__exit__(kind, error, at)
