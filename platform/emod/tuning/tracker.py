"""A sweep's trials in MLflow: a run each below the sweep's, with its settings, its curve, its cost, why it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Param
from ray import tune
from ray.tune.experiment import Trial

from emod.monitoring import gauge, log
from emod.tracking import MetricLog, ensure_run, finish
from emod.tuning.trial import SCORE, TrialPath, rounded

__all__ = ["TrialTracker", "trial_name", "why_ended"]


class TrialTracker(tune.Callback):  # type: ignore[misc]
    """Told by Ray Tune, in the driver, what becomes of each trial.

    Args:
        uri: MLflow's.
        experiment_name: In MLflow.
        parent: Run of the sweep.
        run_name: Of the sweep; trials' runs stand below it.
        claim: The sweep's.
        tags: Of every trial.
    """

    def __init__(
        self, uri: str, experiment_name: str, parent: str, run_name: str, claim: str, tags: dict[str, str]
    ) -> None:
        self._about = (uri, experiment_name, parent, run_name, claim, tags)
        self._runs: dict[str, str] = {}
        self._logs: dict[str, MetricLog] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Ray Tune writes callbacks down with a sweep; open lines to MLflow are none of it."""
        return {"_about": self._about, "_runs": {}, "_logs": {}}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Opens the trial's run, or the one it had, with its settings."""
        client = self._client()
        uri, experiment_name, parent, run_name, claim, tags = self._about
        run_id = ensure_run(
            uri,
            experiment_name,
            f"{run_name}/{trial_name(trial)}",
            {**tags, "emod.stage": "trial", "mlflow.parentRunId": parent, "emod.trial": trial.trial_id},
            claim=claim,
        )
        # What the trial began with: MLflow compares by params, and a param cannot change.
        logged = client.get_run(run_id).data.params
        new = [Param(name, str(value)) for name, value in rounded(trial.config).items() if name not in logged]
        client.log_batch(run_id, params=new)
        client.update_run(run_id, status="RUNNING")
        self._runs[trial.trial_id] = run_id
        log("trial starts", run=run_name, trial=trial_name(trial), settings=rounded(trial.config))
        self._tell_operator(trials)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Curves."""
        self._tell_operator(trials)
        run_id = self._runs.get(trial.trial_id)
        if run_id is None:
            return
        curves = self._logs.setdefault(trial.trial_id, MetricLog(self._client(), run_id))
        # All of them: a sweep that was stopped may have held back the last ones. What is there is not sent again.
        for epoch, told in enumerate(json.loads(result.get("epochs", "[]")), start=1):
            curves.log(epoch, told)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Ends its run."""
        self._tell_operator(trials)
        self._end(trial, "FAILED" if "failure" in (trial.last_result or {}) else "FINISHED")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Ends its run as failed."""
        self._tell_operator(trials)
        self._end(trial, "FAILED")

    def _tell_operator(self, trials: list[Trial]) -> None:
        run_name = self._about[3]
        for state in (Trial.PENDING, Trial.RUNNING, Trial.TERMINATED, Trial.ERROR):
            gauge("trials", sum(trial.status == state for trial in trials), run=run_name, state=state.lower())

    def _end(self, trial: Trial, status: Any) -> None:
        run_id = self._runs.get(trial.trial_id)
        if run_id is None:
            return
        if curves := self._logs.pop(trial.trial_id, None):
            curves.flush()
        client = self._client()
        result = trial.last_result or {}
        ended = why_ended(result, trial.get_error())
        client.set_tag(run_id, "emod.ended", ended)
        log("trial ended", run=self._about[3], trial=trial_name(trial), score=result.get(SCORE), ended=ended)
        if "path" in result:
            changed = TrialPath.from_json(result["path"]).from_epoch
            client.set_tag(run_id, "emod.from_epoch", str(changed) if changed else "")
        finish(client, run_id, status)

    def _client(self) -> MlflowClient:
        return MlflowClient(self._about[0])


def trial_number(trial: Trial) -> int:
    """Its place in the order in which trials were drawn, from 1."""
    return int(str(trial.experiment_tag).partition("_")[0])


def trial_name(trial: Trial) -> str:
    """What Ray Tune shows and calls its folder."""
    return f"{trial_number(trial):03d}"


def why_ended(result: Mapping[str, Any], error: BaseException | None = None) -> str:
    """In words."""
    if failure := result.get("failure"):
        return f"failed: {failure}"
    if error is not None:
        return f"failed: {(str(error).splitlines() or [type(error).__name__])[-1]}"
    if not result.get("finished"):
        return f"given up after epoch {result.get('epoch', 0)}"
    return f"trained to its end, epoch {result['epoch']}"
