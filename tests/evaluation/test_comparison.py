"""Arms compared over seeds, against SciPy's own paired test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from scipy import stats

from emod.evaluation import compare_arms, draw_comparison

VALUES = {"a": (0.40, 0.45, 0.38, 0.52, 0.41), "b": (0.44, 0.47, 0.39, 0.55, 0.46), "c": (0.40, 0.45, 0.38, 0.52, 0.41)}


def test_differences_are_paired() -> None:
    first, second, same = compare_arms(VALUES)
    wanted = stats.ttest_rel(VALUES["b"], VALUES["a"]).confidence_interval(0.95)
    assert (second.low, second.high) == pytest.approx((wanted.low, wanted.high))
    assert second.difference == pytest.approx(np.mean(VALUES["b"]) - np.mean(VALUES["a"]))
    assert (first.mean, first.sd) == pytest.approx((np.mean(VALUES["a"]), stats.tstd(VALUES["a"])))
    assert (first.difference, first.low, first.high) == (None, None, None)
    assert (same.difference, same.low, same.high) == (0, 0, 0)


def test_one_seed_has_no_spread() -> None:
    first, second = compare_arms({"a": [0.5], "b": [0.6]})
    assert second.difference == pytest.approx(0.1)
    assert np.isnan([first.sd, second.low, second.high]).all()


def test_unequal_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[1, 2\] scores: give one for each seed"):
        compare_arms({"a": [0.5], "b": [0.6, 0.7]})


def test_the_chart_says_what_it_shows(tmp_path: Path) -> None:
    table = {world: compare_arms(VALUES) for world in ("effect none", "effect strong")}
    figure = draw_comparison(table, tmp_path / "study.png", simulated=True, chance=0.25, title="Arms")
    assert imread(tmp_path / "study.png").shape[1] == 1600
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["effect none", "effect strong"]
    assert {bar.get_y() for bar in axes.patches} == {25.0}, "bars stand on chance"
    assert sorted(25 + bar.get_height() for bar in axes.patches) == pytest.approx(
        sorted(100 * np.mean(values) for values in VALUES.values() for _ in table)
    )
    assert "SIMULATED DATA" in {text.get_text() for text in figure.texts}
    (chance,) = [line for line in axes.lines if line.get_label() == "chance"]
    assert set(chance.get_ydata()) == {25.0}
