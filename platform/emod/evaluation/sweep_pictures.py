"""The pictures of a sweep's report, each an SVG as a data address: curves, what settings are worth, score and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from emod.evaluation.evaluation_pictures import picture
from emod.evaluation.figures import BLUE, FAINT, INK, ORANGE, PALETTE

__all__ = ["draw_frontier", "draw_settings", "draw_trial_curves", "draw_worth", "frontier"]

_NAMED = 5


def draw_trial_curves(curves: Mapping[str, Sequence[float]], criterion: str) -> str:
    """Best score so far, epoch by epoch, of every trial; the best ones by name, the first of the mapping first."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        named = list(curves)[:_NAMED]
        for name, curve in curves.items():
            if name not in named:
                axes.plot(range(1, len(curve) + 1), np.maximum.accumulate(curve), color=FAINT, linewidth=1)
                axes.plot(len(curve), max(curve), "x", color=FAINT, markersize=5)
        for colour, name in reversed(list(zip(cycle(PALETTE), named, strict=False))):
            best = np.maximum.accumulate(curves[name])
            axes.plot(range(1, len(best) + 1), best, color=colour, linewidth=1.8, label=f"{name}: {best[-1]:.3f}")
            axes.plot(len(best), best[-1], "o", color=colour, markersize=5)
        axes.set(xlabel="epoch", ylabel=f"validation {criterion}, best so far")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], title="trial", fontsize=8, title_fontsize=8, loc="best")

    return picture(draw, 6.4, 4.0)


def draw_worth(worth: Mapping[str, float]) -> str:
    """How much of the scores' variance each setting explains, largest on top."""
    ordered = sorted(worth.items(), key=lambda item: item[1])

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.barh([name.replace("_", " ") for name, _ in ordered], [share for _, share in ordered], color=BLUE)
        for place, (_, share) in enumerate(ordered):
            axes.text(share, place, f" {share:.0%}", va="center", fontsize=9, color=INK)
        axes.set(xlabel="share of the scores' variance", xlim=(0, 1.12))
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)

    return picture(draw, 6.4, 1.0 + 0.42 * len(ordered))


def draw_settings(
    values: Mapping[str, Sequence[Any]], scores: Sequence[float], *, log: Sequence[str], criterion: str
) -> str:
    """Score of every trial against each setting.

    Args:
        values: Setting -> its value in each trial.
        scores: Of each trial.
        log: Settings whose axis is logarithmic.
        criterion: What the scores are.
    """
    columns = min(3, len(values))
    rows = -(-len(values) // columns)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, (name, own) in zip(panels.flat, values.items(), strict=False):
            numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in own)
            places = own if numeric else [str(value) for value in own]
            axes.scatter(places, scores, s=26, color=BLUE, alpha=0.75, linewidths=0)
            best = int(np.argmax(scores))
            axes.scatter([places[best]], [scores[best]], s=70, facecolors="none", edgecolors=ORANGE, linewidths=1.8)
            axes.set_xlabel(name.replace("_", " "))
            if name in log:
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axes.xaxis.set_minor_formatter(NullFormatter())
        for axes in panels.flat[len(values) :]:
            axes.set_visible(False)
        for axes in panels[:, 0]:
            axes.set_ylabel(f"validation {criterion}")

    return picture(draw, 3.0 * columns + 0.6, 2.7 * rows)


def frontier(costs: Sequence[float], scores: Sequence[float]) -> list[int]:
    """Indices of the trials that no other beats at the same cost or less, cheapest first."""
    found: list[int] = []
    for index in sorted(range(len(costs)), key=lambda index: (costs[index], -scores[index])):
        if not found or scores[index] > scores[found[-1]]:
            found.append(index)
    return found


def draw_frontier(names: Sequence[str], costs: Sequence[float], scores: Sequence[float], criterion: str) -> str:
    """Score of every trial against the seconds it was trained, and those that no cheaper one beats."""
    best = frontier(costs, scores)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.scatter(costs, scores, s=26, color=FAINT, linewidths=0)
        axes.step(
            [costs[index] for index in best], [scores[index] for index in best], where="post", color=BLUE, linewidth=1.4
        )
        for index in best:
            axes.plot(costs[index], scores[index], "o", color=BLUE, markersize=6)
            axes.annotate(
                names[index], (costs[index], scores[index]), xytext=(5, 5), textcoords="offset points", fontsize=9
            )
        axes.margins(x=0.1, y=0.12)
        axes.set(xlabel="seconds of training", ylabel=f"validation {criterion}")

    return picture(draw, 6.4, 3.8)
