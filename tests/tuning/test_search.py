"""What a sweep goes by: the better the score, the nearer the next draws; the worse, the sooner a trial is given up."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.execution import class_cache
from ray.tune.schedulers import TrialScheduler

from emod.catalog import Dimension, FinetuneSettings, SweepSettings
from emod.tuning.space import new_search
from emod.tuning.sweep import _scheduler
from emod.tuning.trial import SCORE

LOWEST, HIGHEST = 1e-5, 1.0


def settings(**changes: Any) -> SweepSettings:
    space = {"learning_rate": Dimension(low=LOWEST, high=HIGHEST, log=True)}
    return SweepSettings(**{"space": space, "grace_epochs": 3, "reduction": 3} | changes)


def test_tpe_draws_nearer_and_nearer_to_what_scored_best() -> None:
    search = new_search(settings(), SCORE, seed=0)
    distances = []
    for number in range(50):
        rate = search.suggest(str(number))["learning_rate"]
        distances.append(abs(math.log10(rate / LOWEST)))
        search.on_trial_complete(str(number), {SCORE: -distances[-1], "training_iteration": 1})
    assert sum(distances[-15:]) < 0.5 * sum(distances[:15])


class Asha:
    """A scheduler, told of scores as Ray Tune tells it."""

    def __init__(self) -> None:
        self._scheduler = _scheduler(settings(), FinetuneSettings(corpus="seed_iv", epochs=27))
        self._scheduler.set_search_properties(SCORE, "max")

    def add(self, name: str, scores: tuple[float, ...] = ()) -> SimpleNamespace:
        """A trial, with the scores it had before the sweep was stopped."""
        told = {"epochs": json.dumps([{SCORE: score} for score in scores])} if scores else {}
        trial = SimpleNamespace(trial_id=name, last_result=told)
        self._scheduler.on_trial_add(None, trial)
        return trial

    def goes_on(self, trial: SimpleNamespace, epoch: int, score: float) -> bool:
        told = {"epoch": epoch, SCORE: score, "training_iteration": epoch}
        return bool(self._scheduler.on_trial_result(None, trial, told) == TrialScheduler.CONTINUE)


def test_the_worse_are_given_up_at_a_rung_and_the_better_go_on() -> None:
    asha = Asha()
    first, worse, better = (asha.add(name) for name in ("first", "worse", "better"))
    assert asha.goes_on(first, 3, 0.5)
    assert asha.goes_on(worse, 2, 0.1)  # no rung yet
    assert not asha.goes_on(worse, 3, 0.2)
    assert asha.goes_on(better, 3, 0.6)


@pytest.mark.parametrize("epochs", [3, 5, 27])
def test_a_sweep_that_goes_on_knows_its_rungs(epochs: int) -> None:
    """Ray Tune does not write them down: without this the next trial would pass whatever it scores."""
    asha = Asha()
    asha.add("ended before", tuple(0.5 for _ in range(epochs)))
    assert not asha.goes_on(asha.add("new and worse"), 3, 0.4)
    assert asha.goes_on(asha.add("new and better"), 3, 0.6)


def test_trials_are_not_sent_the_drivers_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would write what it is sent into its logs."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    actor = class_cache._ActorClassCache().get(type("Trainable", (), {}))
    assert "secret" not in str(actor._default_options)
    assert "PL_DISABLE_FORK" in str(actor._default_options)
