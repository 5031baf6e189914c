"""A sweep on the terminal: a live table of its trials; elsewhere a plain line for each that ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from emod.tuning.tracker import trial_name, why_ended
from emod.tuning.trial import SCORE, rounded

__all__ = ["TrialTable", "trial_table"]


def trial_table(names: Sequence[str], title: str) -> Table:
    """The empty table of a sweep that varies these settings."""
    table = Table(title=title, box=box.SIMPLE, title_justify="left")
    table.add_column("trial")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for heading in ("epoch", "best score", "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("")
    return table


class TrialTable(tune.Callback):  # type: ignore[misc]
    """Told by Ray Tune, in the driver, what becomes of each trial.

    Args:
        names: The settings that vary.
        total: Trials of the sweep.
    """

    # A terminal's height; of more trials the newest are shown.
    ROWS = 24

    def __init__(self, names: Sequence[str], total: int) -> None:
        self._names, self._total = tuple(names), total
        self._live: Live | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Ray Tune writes callbacks down with a sweep; a terminal is none of it."""
        return {"_names": self._names, "_total": self._total, "_live": None}

    def setup(self, stop: Any = None, num_samples: int | None = None, **info: Any) -> None:
        """Called before the first trial, and before the first of a sweep that goes on."""
        if sys.stderr.isatty():
            self._live = Live(console=Console(stderr=True), refresh_per_second=2)
            self._live.start()
        else:
            print(f"sweep: {self._total} trials", file=sys.stderr, flush=True)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Shows it."""
        self._show(trials)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Shows its newest epoch."""
        self._show(trials)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Shows how it ended."""
        self._ended(trials, trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Shows that it failed."""
        self._ended(trials, trial)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Leaves the last table on the terminal."""
        self._show(trials)
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _ended(self, trials: list[Trial], trial: Trial) -> None:
        self._show(trials)
        if self._live is None:
            result = trial.last_result or {}
            ended = sum(other.is_finished() for other in trials)
            score = f"best score {result[SCORE]:.3f}, " if SCORE in result else ""
            why = why_ended(result, trial.get_error())
            told = f"sweep: {ended}/{self._total} trial {trial_name(trial)}: {score}{why}"
            print(told, file=sys.stderr, flush=True)

    def _show(self, trials: list[Trial]) -> None:
        if self._live is None:
            return
        known = [trial for trial in trials if trial.last_result and SCORE in trial.last_result]
        best = max(known, key=lambda trial: float(trial.last_result[SCORE]), default=None)
        ended = sum(trial.is_finished() for trial in trials)
        table = trial_table(self._names, f"sweep: {ended} of {self._total} trials ended")
        for trial in trials[-self.ROWS :]:
            result = trial.last_result or {}
            values = rounded(trial.config)
            state = why_ended(result, trial.get_error()) if trial.is_finished() else trial.status.lower()
            table.add_row(
                trial_name(trial),
                *(str(values.get(name, "")) for name in self._names),
                str(result.get("epoch", "")),
                f"{result[SCORE]:.3f}" if SCORE in result else "",
                f"{result['seconds']:.0f}" if "seconds" in result else "",
                state,
                style="bold green" if trial is best else "",
            )
        self._live.update(table)
