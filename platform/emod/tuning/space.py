"""A sweep's space, drawn from by Optuna or by Ray Tune's population: setting of finetune -> value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from ray import tune
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Domain

from emod.catalog import Dimension, FinetuneSettings, SweepSettings

__all__ = ["draw", "inside", "new_search", "population_space"]

Values = dict[str, Any]


def new_search(settings: SweepSettings, metric: str, *, seed: int) -> OptunaSearch:
    """Optuna behind Ray Tune: the search algorithm of a sweep whose trials are no population."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Conditional settings belong to trees of their own, which TPE then models one by one.
    sampler: BaseSampler = RandomSampler(seed=seed) if settings.search == "random" else TPESampler(seed=seed)
    return OptunaSearch(space=_Space(settings.space), metric=metric, mode="max", sampler=sampler)


class _Space:
    """What Ray Tune calls with an Optuna trial; a class, since the search is written down with the sweep's state."""

    def __init__(self, space: Mapping[str, Dimension]) -> None:
        self._space = dict(space)

    def __call__(self, trial: optuna.Trial) -> None:
        draw(trial, self._space)


def draw(trial: optuna.Trial, space: Mapping[str, Dimension]) -> Values:
    """One trial's values; a conditional setting that does not vary is absent."""
    values: Values = {}
    for name, dimension in space.items():
        # Where what it depends on is itself absent, it does not vary either.
        if any(values.get(other) not in allowed for other, allowed in dimension.when.items()):
            continue
        if dimension.choices is not None:
            values[name] = trial.suggest_categorical(name, list(dimension.choices))
        else:
            assert dimension.low is not None
            assert dimension.high is not None
            suggest: Callable[..., Any] = trial.suggest_int if _is_whole(name) else trial.suggest_float
            values[name] = suggest(name, dimension.low, dimension.high, log=dimension.log)
    return values


def population_space(space: Mapping[str, Dimension]) -> dict[str, Domain]:
    """The same as Ray Tune's own domains, which a population draws from; no setting of it is a whole number."""
    return {name: _domain(dimension) for name, dimension in space.items()}


def _domain(dimension: Dimension) -> Domain:
    if dimension.choices is not None:
        return tune.choice(list(dimension.choices))
    return (tune.loguniform if dimension.log else tune.uniform)(dimension.low, dimension.high)


def inside(values: Mapping[str, Any], space: Mapping[str, Dimension]) -> Values:
    """Values put back into their ranges, which Ray Tune's variation leaves."""
    kept = dict(values)
    for name, dimension in space.items():
        if dimension.low is not None and dimension.high is not None and name in kept:
            kept[name] = min(max(kept[name], dimension.low), dimension.high)
    return kept


def _is_whole(name: str) -> bool:
    return FinetuneSettings.model_fields[name].annotation in (int, int | None)
