"""Draws stay inside the space, whole numbers are whole, and a conditional setting is there exactly where it counts."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emod.catalog import Dimension, Experiment, SweepSettings, load_experiment, with_overrides
from emod.errors import RequestError
from emod.tuning.space import draw, inside, new_search, population_space
from emod.tuning.trial import TrialPath, rounded, trial_experiment, trial_overrides

SPACE = {
    "learning_rate": Dimension(low=1e-4, high=1e-1, log=True),
    "batch": Dimension(low=4, high=9),
    "dropout": Dimension(low=0, high=0.5),
    "backbone_rate": Dimension(choices=(0, 0.5, 1.0)),
    "layer_rate": Dimension(low=0.5, high=1, when={"backbone_rate": (0.5, 1.0)}),
}


def sweep_of(**changes: Any) -> SweepSettings:
    return SweepSettings(space=SPACE, **changes)


def draws(n: int, search: str = "random", seed: int = 0) -> list[dict[str, Any]]:
    found = new_search(sweep_of(search=search), "score", seed=seed)
    return [found.suggest(str(number)) for number in range(n)]


def test_draws_fill_their_ranges_and_stay_inside() -> None:
    found = draws(200)
    for name, dimension in SPACE.items():
        own = [values[name] for values in found if name in values]
        if dimension.choices is not None:
            assert set(own) == set(dimension.choices)
            continue
        assert dimension.low is not None
        assert dimension.high is not None
        assert all(dimension.low <= value <= dimension.high for value in own)
    assert {values["batch"] for values in found} == {4, 5, 6, 7, 8, 9}
    assert all(isinstance(values["batch"], int) for values in found)
    assert any(values["dropout"] % 1 for values in found)  # 0 to 0.5 is no range of whole numbers
    # Evenly over orders of magnitude: a third below each.
    rates = sorted(values["learning_rate"] for values in found)
    assert 0.2 < sum(rate < 1e-3 for rate in rates) / len(rates) < 0.47


def test_a_conditional_setting_varies_where_it_counts_alone() -> None:
    found = draws(60)
    assert {"layer_rate" in values for values in found} == {True, False}
    for values in found:
        assert ("layer_rate" in values) == (values["backbone_rate"] != 0)


def test_what_depends_on_an_absent_setting_is_absent() -> None:
    space = {
        "backbone_rate": Dimension(choices=(0, 1)),
        "class_weights": Dimension(choices=("none", "balanced"), when={"backbone_rate": (1,)}),
        "dropout": Dimension(low=0, high=0.5, when={"class_weights": ("none", "balanced")}),
    }
    frozen = optuna.trial.FixedTrial({"backbone_rate": 0, "class_weights": "none", "dropout": 0.1})
    assert draw(frozen, space) == {"backbone_rate": 0}


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_a_seed_draws_the_same_and_another_does_not(search: str) -> None:
    assert draws(5, search) == draws(5, search)
    assert draws(5, search) != draws(5, search, seed=1)


@given(rate=st.floats(1e-12, 1e3), share=st.floats(0, 0.99))
def test_what_a_trial_is_trained_with_is_what_its_command_says(rate: float, share: float) -> None:
    """Rounding, YAML's own floats and the command line lose nothing between them."""
    experiment = load_experiment("sweep", ["finetune.final_learning_rate=0"])
    values = rounded({"learning_rate": rate, "dropout": share, "batch": 12, "class_weights": "balanced"})
    found = trial_experiment(experiment, TrialPath(values)).finetune
    assert found is not None
    assert (found.learning_rate, found.dropout, found.batch, found.class_weights) == tuple(values.values())
    assert found.learning_rate == pytest.approx(rate, rel=1e-3)


def test_a_path_remembers_what_changed_and_from_when() -> None:
    path = TrialPath({"learning_rate": 0.1, "weight_decay": 0.2})
    assert path.changed({"learning_rate": 0.1, "weight_decay": 0.2}, 4) is path
    later = path.changed({"learning_rate": 0.1, "weight_decay": 0.3}, 4).changed({"learning_rate": 0.05}, 7)
    assert later.from_epoch == {4: {"weight_decay": 0.3}, 7: {"learning_rate": 0.05}}
    assert later.changed({"learning_rate": 0.05, "weight_decay": 0.3}, 9) is later
    assert TrialPath.from_json(later.to_json()).from_epoch == later.from_epoch
    varied = with_overrides(load_experiment("sweep"), trial_overrides(later)).finetune
    assert varied is not None
    assert [varied.at(epoch).learning_rate for epoch in (1, 6, 7, 50)] == [0.1, 0.1, 0.05, 0.05]
    assert [varied.at(epoch).weight_decay for epoch in (1, 3, 4, 50)] == [0.2, 0.2, 0.3, 0.3]


def test_a_population_stays_inside_its_ranges() -> None:
    space = {name: SPACE[name] for name in ("learning_rate", "backbone_rate")}
    assert set(population_space(space)) == set(space)
    # Ray Tune varies by a factor, whatever the range.
    assert inside({"learning_rate": 0.12, "backbone_rate": 0.5}, space) == {"learning_rate": 0.1, "backbone_rate": 0.5}
    assert inside({"learning_rate": 8e-5}, space) == {"learning_rate": 1e-4}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sweep.space.method={choices: [emod]}", "is not what a sweep can vary"),
        ("sweep.space.dropout={low: 0, high: 2}", "give 0.99 or less"),
        ("sweep.space.dropout={low: 0.5, high: 0.1}", "is not below high"),
        ("sweep.space.dropout={low: 0.0, high: 0.1, log: true}", "log is for a range above 0"),
        ("sweep.space.dropout={low: 0.0}", "give low and high, or choices"),
        ("sweep.space.dropout={choices: [0.1], low: 0.0, high: 0.1}", "give low and high, or choices"),
        ("sweep.space.patience={low: 1, high: 9, when: {dropout: [0.1]}}", "dropout is no choice that stands above it"),
        ("sweep.space.patience={low: 1, high: 9, when: {batch: [31]}}", "31 is no choice of batch"),
        ("sweep.search=population", "population varies every setting of every trial"),
    ],
)
def test_a_space_that_cannot_be_is_refused_in_one_line(override: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        load_experiment("sweep", [override])


def test_a_population_varies_what_can_change_on_the_way() -> None:
    asked = "{search: population, space: {batch: {choices: [16, 32]}}}"
    with pytest.raises(RequestError, match=r"space\.batch is not what a sweep can vary, of a population"):
        load_experiment("sweep", [f"sweep={asked}"])
    asked = "{search: population, stopping: asha, space: {clip_norm: {low: 0.1, high: 2}}}"
    with pytest.raises(RequestError, match="set stopping to none"):
        load_experiment("sweep", [f"sweep={asked}"])
    found = load_experiment("sweep", [f"sweep={asked.replace(' stopping: asha,', '')}"])
    assert isinstance(found, Experiment)
    assert found.sweep is not None
    assert not found.sweep.stops


def test_settings_that_bound_each_other_may_both_vary() -> None:
    """A trial is held against its own values, not against all that others may have."""
    space = "{learning_rate: {low: 1.0e-5, high: 1.0e-2}, final_learning_rate: {low: 1.0e-8, high: 1.0e-5}}"
    experiment = load_experiment("sweep", [f"sweep.space={space}", "finetune.learning_rate=0.001"])
    assert experiment.finetune is not None
    trial = trial_experiment(experiment, TrialPath({"learning_rate": 2e-6, "final_learning_rate": 1e-7})).finetune
    assert trial is not None
    assert (trial.learning_rate, trial.final_learning_rate) == (2e-6, 1e-7)
    with pytest.raises(RequestError, match="a cosine falls"):
        trial_experiment(experiment, TrialPath({"learning_rate": 2e-6, "final_learning_rate": 1e-5}))
