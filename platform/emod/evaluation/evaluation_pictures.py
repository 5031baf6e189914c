"""The pictures of an evaluation's report, each an SVG that carries its fonts as outlines, as a data address.

They draw what a `TargetSummary` and a network's extras hold; only the map of an embedding is computed here.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from sklearn.calibration import calibration_curve
from sklearn.manifold import TSNE

from emod.evaluation.figures import BLUE, FAINT, INK, ORANGE, PALETTE, STYLE
from emod.evaluation.summary import MethodSummary, TargetSummary
from emod.signal import positions

__all__ = [
    "draw_calibration",
    "draw_confusion_of",
    "draw_curves",
    "draw_embedding",
    "draw_importance",
    "draw_methods",
    "picture",
]

Floats = npt.NDArray[np.floating]

_MOST_POINTS = 1500


def draw_methods(summary: TargetSummary) -> str:
    """Methods and controls by the figure that ranks them: every seed, the mean, the interval over subjects, chance."""
    rows = [*summary.methods, *summary.controls]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, method in enumerate(rows):
            own = method in summary.methods
            colour = BLUE if own else ORANGE
            values = method.values(summary.criterion)
            if method.interval is not None:
                ends = [method.interval.low, method.interval.high]
                axes.plot(ends, [place, place], color=colour, linewidth=3, solid_capstyle="butt", zorder=3)
            axes.plot(values, [place] * len(values), "|", color=colour, markersize=13, alpha=0.6, zorder=4)
            marker = "o" if own else "D"
            axes.plot(
                method.mean(summary.criterion),
                place,
                marker,
                color=colour,
                markersize=9,
                markeredgecolor="white",
                zorder=5,
                clip_on=False,
            )
        axes.axvline(summary.chance, color=INK, linestyle=(0, (2, 1.5)), linewidth=1.4, zorder=1)
        axes.text(summary.chance, -0.85, "chance", ha="center", va="bottom", fontsize=9, color=INK)
        axes.set_yticks(range(len(rows)), [method.method for method in rows], color=INK)
        axes.set_ylim(len(rows) - 0.5, -0.9)
        axes.set_xlabel("concordance, mean of both axes" if summary.on_plane else "balanced accuracy")
        if not summary.on_plane:
            axes.set_xlim(0, 1)
        axes.grid(axis="x", color=FAINT, linewidth=0.7, alpha=0.7)
        axes.tick_params(axis="y", length=0)

    return picture(draw, 7.6, 1.1 + 0.36 * len(rows))


def draw_confusion_of(method: MethodSummary, classes: Sequence[str]) -> str:
    """Shares of each true class, all seeds together."""
    assert method.confusion is not None
    counts = np.asarray(method.confusion)
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row in range(len(classes)):
            for column in range(len(classes)):
                colour = "white" if share[row, column] > 0.55 else INK
                weight = "bold" if row == column else "normal"
                text = f"{share[row, column]:.0%}" if totals[row, 0] else "–"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontweight=weight, fontsize=9)
        axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right", color=INK)
        axes.set_yticks(range(len(classes)), classes, color=INK)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="predicted", ylabel="true")

    return picture(draw, 4.4, 4.0)


def draw_calibration(methods: Sequence[MethodSummary], true: npt.NDArray[np.int64]) -> str | None:
    """How often an answer is right that was given with a probability; the first seed of each method."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1.2, label="what they should be")
        for colour, method in zip(cycle(PALETTE), methods, strict=False):
            right = (method.outputs.argmax(axis=1) == true).astype(np.int64)
            sure = np.clip(method.outputs.max(axis=1), 0, 1)
            found, said = calibration_curve(right, sure, n_bins=8, strategy="quantile")
            axes.plot(said, found, "o-", color=colour, markersize=4, linewidth=1.4, label=method.method)
        axes.set(xlabel="probability of the answer", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
        axes.legend(fontsize=8, loc="upper left")

    return picture(draw, 4.4, 3.8)


def draw_curves(curves: Mapping[str, Sequence[Sequence[float]]], criterion: str) -> str | None:
    """Validation score of each epoch: the mean over trainings of a method, and their middle 80 %."""
    shown = {method: lines for method, lines in curves.items() if lines and len(lines[0]) > 1}
    if not shown:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for colour, (method, lines) in zip(cycle(PALETTE), shown.items(), strict=False):
            # Early stopping ends some sooner; they stay where they ended.
            longest = max(map(len, lines))
            table = np.array([[*line, *[line[-1]] * (longest - len(line))] for line in lines])
            epochs = np.arange(1, longest + 1)
            if len(table) > 2:
                axes.fill_between(
                    epochs, *np.percentile(table, [10, 90], axis=0), color=colour, alpha=0.15, linewidth=0
                )
            axes.plot(epochs, table.mean(axis=0), color=colour, linewidth=1.6, label=method)
        axes.axhline(0, color=FAINT, linewidth=1)
        axes.set(xlabel="epoch", ylabel=f"validation {criterion}")
        axes.legend(fontsize=8)

    return picture(draw, 5.4, 3.6)


def draw_importance(importance: Floats, channels: Sequence[str]) -> str:
    """Scalp map of how much worse the answers become without each electrode."""
    from mne import create_info
    from mne.channels import make_dig_montage
    from mne.viz import plot_topomap

    info = create_info(list(channels), 100.0, "eeg")
    head_m = 0.095
    places = dict(zip(channels, positions(channels) * head_m, strict=True))
    info.set_montage(make_dig_montage(places, coord_frame="head"), verbose="error")
    top = float(np.abs(importance).max()) or 1.0
    best = set(np.argsort(importance)[::-1][:5].tolist())
    names = [name if index in best else "" for index, name in enumerate(channels)]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        image, _ = plot_topomap(
            importance,
            info,
            axes=axes,
            show=False,
            names=names,
            cmap="RdBu_r",
            vlim=(-top, top),
            sphere=head_m,
            contours=4,
            extrapolate="head",
        )
        bar = figure.colorbar(image, ax=axes, shrink=0.75)
        bar.set_label("fall without the electrode")
        bar.outline.set_visible(False)

    return picture(draw, 4.6, 3.8)


def draw_embedding(embedding: Floats, colours: Mapping[str, npt.NDArray[np.object_] | Floats]) -> dict[str, str]:
    """One t-SNE of test windows, drawn once for each way to colour them: what -> its picture.

    Args:
        embedding: (n, D).
        colours: what -> (n,) numbers on the plane, whose nine levels get their centroids, or names.
    """
    rows = np.unique(np.linspace(0, len(embedding) - 1, min(_MOST_POINTS, len(embedding))).astype(np.int64))
    perplexity = min(30.0, max(2.0, (len(rows) - 1) / 4))
    places = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(embedding[rows])

    def draw(own: npt.NDArray[Any], figure: Figure) -> None:
        axes = figure.subplots()
        if own.dtype.kind == "f":
            shown = axes.scatter(
                places[:, 0], places[:, 1], c=own, cmap="coolwarm", vmin=-4, vmax=4, s=9, linewidths=0, alpha=0.7
            )
            levels = np.clip(np.floor(own + 0.5), -4, 4)
            for level in np.unique(levels):
                x, y = places[levels == level].mean(axis=0)
                colour = mpl.colormaps["coolwarm"]((level + 4) / 8)
                axes.plot(x, y, "o", markersize=15, color=colour, markeredgecolor=INK)
                axes.text(x, y, f"{level:+.0f}", ha="center", va="center", fontsize=8, color=INK)
            bar = figure.colorbar(shown, ax=axes, shrink=0.7, format=FuncFormatter(lambda v, _: f"{v:+.0f}"))
            bar.outline.set_visible(False)
        else:
            kinds = sorted(set(own))
            hues = mpl.colormaps["tab20"]
            for index, kind in enumerate(kinds):
                colour = PALETTE[index] if len(kinds) <= len(PALETTE) else hues(index % 20)
                part = places[own == kind]
                axes.scatter(part[:, 0], part[:, 1], color=colour, s=9, linewidths=0, alpha=0.7, label=str(kind))
            if len(kinds) <= len(PALETTE):
                axes.legend(fontsize=8, markerscale=2, loc="best")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color(FAINT)

    pictures = {}
    for what, values in colours.items():
        own: npt.NDArray[Any] = np.asarray(values)[rows]
        pictures[what] = picture(partial(draw, own), 4.8, 3.8)
    return pictures


def picture(draw: Callable[[Figure], None], width_in: float, height_in: float) -> str:
    """An SVG of that size, drawn on a white figure, as a data address."""
    # Equal input gives equal bytes: no date, no random ids. Nothing in a name is read as mathematics.
    settings = {**STYLE, "svg.hashsalt": "emod", "svg.fonttype": "path", "text.parse_math": False, "font.size": 10}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(width_in, height_in), layout="constrained", facecolor="white")
        draw(figure)
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(content.getvalue()).decode()}"
