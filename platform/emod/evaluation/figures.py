"""Pictures of a run, one function each; every one says whether its data are simulated or real.

Each ``draw_`` function returns a matplotlib Figure and, given a path, writes it as a PNG 1600 pixels wide. No pyplot,
so no global state and no display. Scores come in; only spectra are computed here.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from emod.affect import N_REGIONS, PLANE_MAX, PLANE_MIN, region_centre, va_region
from emod.evaluation.comparison import ArmScore
from emod.evaluation.metrics import Evaluation, Interval, Scores
from emod.evaluation.spectra import ALPHA_HZ, alpha_peak_hz, alpha_prominence_db, power_spectrum

__all__ = [
    "WIDTH_PX",
    "draw_cleaning",
    "draw_comparison",
    "draw_confusion",
    "draw_loss",
    "draw_plane",
    "draw_results",
    "draw_spectrum",
]

WIDTH_PX = 1600
WIDTH_IN = 10.0

# Okabe and Ito 2008: told apart with every common colour vision deficiency. Yellow is left out: unreadable on white.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, "#000000", "#7F7F7F")
INK, SOFT, FAINT = "#222222", "#5F5F5F", "#C8C8C8"

# Any: matplotlib types its keys as a list of literals.
STYLE: Any = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "text.color": INK,
}

# Left and right electrodes shown in traces; the first pair a recording has stands for its place.
PLACES: dict[str, tuple[tuple[str, str], ...]] = {
    "frontal": (("Fp1", "Fp2"), ("AF3", "AF4"), ("F7", "F8"), ("F3", "F4")),
    "temporal": (("T7", "T8"), ("FT7", "FT8"), ("TP7", "TP8"), ("C5", "C6")),
    "posterior": (("O1", "O2"), ("PO3", "PO4"), ("PO7", "PO8"), ("P7", "P8"), ("P3", "P4")),
}
OWNERS_STAGES = {
    "band_pass": "band-pass",
    "ocular": "eye artefacts",
    "muscle": "muscle artefacts",
    "average_reference": "average reference",
}

EEG = npt.NDArray[np.floating[Any]]
Path = str | os.PathLike[str]
P = ParamSpec("P")


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    @wraps(draw)
    def with_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return with_style


def _sheet(height_in: float, title: str, subtitle: str, *, simulated: bool, note: str = "") -> Figure:
    """An empty figure with its title strip, the mark of the data's origin, and a footnote; axes go in between."""
    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=WIDTH_PX / WIDTH_IN, layout="constrained", facecolor="white")
    # Characters a line holds at these sizes; the title leaves room for the mark.
    title_lines = textwrap.wrap(title, 64)
    subtitle_lines = textwrap.wrap(subtitle, 120)
    note_lines = textwrap.wrap(note, 145)
    y = 1 - 0.14 / height_in
    below_in = 0.03 + 0.29 * len(title_lines)
    figure.text(0.015, y, "\n".join(title_lines), fontsize=15, fontweight="bold", va="top")
    figure.text(
        0.015,
        y - below_in / height_in,
        "\n".join(subtitle_lines),
        fontsize=10.5,
        color=SOFT,
        va="top",
        linespacing=1.35,
    )
    figure.text(0.015, 0.09 / height_in, "\n".join(note_lines), fontsize=9, color=SOFT, va="bottom", linespacing=1.35)
    figure.text(
        0.985,
        y,
        "SIMULATED DATA" if simulated else "real recordings",
        fontsize=11,
        fontweight="bold",
        color="white" if simulated else SOFT,
        ha="right",
        va="top",
        bbox={
            "boxstyle": "round,pad=0.35",
            "facecolor": VERMILION if simulated else "white",
            "edgecolor": VERMILION if simulated else SOFT,
        },
    )
    top = 1 - (0.24 + below_in + 0.21 * len(subtitle_lines)) / height_in
    bottom = (0.12 + 0.19 * len(note_lines)) / height_in
    figure.get_layout_engine().set(rect=(0.01, bottom, 0.98, top - bottom))  # type: ignore[union-attr, call-arg]
    return figure


def _write(figure: Figure, path: Path | None) -> Figure:
    if path is not None:
        with mpl.rc_context(STYLE):
            figure.savefig(path, format="png")
    return figure


@_styled
def draw_loss(
    steps: npt.ArrayLike,
    loss: npt.ArrayLike,
    learning_rate: npt.ArrayLike,
    path: Path | None = None,
    *,
    simulated: bool,
    batch: int | None = None,
    title: str = "Contrastive pretraining",
) -> Figure:
    """Loss and learning rate against the optimiser's step.

    Args:
        steps: (n,) ascending, n >= 1.
        loss: (n,) loss of each step's batch; steps with a loss that is not finite are marked as such.
        learning_rate: (n,).
        path: Where the PNG goes; None writes nothing.
        simulated: Whether the data are simulated.
        batch: Windows per global batch B: draws log(B - 1), the loss of projections that are all alike
            (if every anchor has a positive pair).
        title: First line.

    Raises:
        ValueError: If nothing is given or lengths differ.
    """
    x, y, rate = (np.asarray(values, dtype=np.float64) for values in (steps, loss, learning_rate))
    if not len(x) or x.shape != y.shape or x.shape != rate.shape:
        raise ValueError(
            f"steps {x.shape}, loss {y.shape} and learning_rate {rate.shape} must have one length, at least 1"
        )
    finite = np.isfinite(y)
    span = max(1, len(x) // 25)
    words = f"{len(x)} steps logged, the last is {x[-1]:,.0f}"
    if finite.any() and span == 1:
        words += f"; loss {y[finite][0]:.3f} at the first, {y[finite][-1]:.3f} at the last"
    elif finite.any():
        ends = y[finite][:span].mean(), y[finite][-span:].mean()
        words += f"; mean loss {ends[0]:.3f} over the first {span}, {ends[1]:.3f} over the last {span}"
    if not finite.all():
        words += f"; {int((~finite).sum())} steps with a loss that is not finite"
    figure = _sheet(4.7, title, words, simulated=simulated)
    left, right = figure.subplots(1, 2, width_ratios=[2.1, 1])

    left.plot(
        x[finite], y[finite], "o-" if len(x) < 50 else "-", markersize=4, color=SKY, linewidth=0.9, label="each step"
    )
    if finite.sum() >= 3 * span and span > 1:
        smooth = np.convolve(y[finite], np.full(span, 1 / span), mode="valid")
        middle = np.convolve(x[finite], np.full(span, 1 / span), mode="valid")
        left.plot(middle, smooth, color=BLUE, linewidth=2.2, label=f"mean of {span} steps")
    if batch is not None:
        uniform = float(np.log(batch - 1))
        left.axhline(uniform, color=VERMILION, linestyle=(0, (5, 3)), linewidth=1.5)
        words = f"all projections alike: ln({batch} − 1) = {uniform:.2f}"
        left.annotate(
            words,
            (0.99, uniform),
            xycoords=("axes fraction", "data"),
            xytext=(0, 4),
            textcoords="offset points",
            color=VERMILION,
            ha="right",
            fontsize=10,
        )
    if not finite.all():
        left.plot(
            x[~finite],
            np.full((~finite).sum(), 0.02),
            "x",
            color=INK,
            transform=left.get_xaxis_transform(),
            label="loss not finite",
        )
    left.set(xlabel="optimiser step", ylabel="contrastive loss (nats)")
    left.margins(y=0.12)
    # The fall of the first steps is many times what is learned afterwards: the axis is fitted to the rest of the run.
    settled = y[finite][finite.sum() // 5 :]
    shown = [*settled, *([float(np.log(batch - 1))] if batch is not None else [])]
    if len(x) >= 50 and y[finite].max() - min(shown) > 3 * np.ptp(shown):
        margin = 0.15 * np.ptp(shown) or 0.1
        left.set_ylim(min(shown) - margin, max(shown) + 4 * margin)
        left.annotate(
            f"first steps above the frame, up to {y[finite].max():.1f}",
            (0.99, 0.97),
            xycoords="axes fraction",
            color=SOFT,
            ha="right",
            va="top",
            fontsize=9,
        )
    left.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.2)

    right.plot(x, rate, color=GREEN, linewidth=2.2)
    right.set(xlabel="optimiser step", ylabel="learning rate")
    right.set_ylim(0, float(rate.max()) * 1.08 or 1)
    right.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    for axes, name in ((left, "Loss"), (right, "Learning rate")):
        # matplotlib puts the power of ten above the axis: both titles make room for it.
        axes.set_title(name, pad=20)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
    return _write(figure, path)


@_styled
def draw_plane(
    metadata: Mapping[str, pa.Table],
    path: Path | None = None,
    *,
    simulated: bool,
    title: str = "Windows on the valence-arousal plane",
) -> Figure:
    """Windows of each corpus on the plane, with the 9 levels, the 9 regions and the number of windows in each.

    Args:
        metadata: corpus -> its table with valence, arousal, label_kind and emotion; at least one corpus.
        path: Where the PNG goes; None writes nothing.
        simulated: Whether the data are simulated.
        title: First line.

    Raises:
        ValueError: If there is no corpus.
    """
    if not metadata:
        raise ValueError("no corpus to draw: give at least one metadata table")
    n_columns = min(len(metadata), 3)
    n_rows = -(-len(metadata) // n_columns)
    total = sum(len(table) for table in metadata.values())
    panel_in = 9.2 / max(n_columns, 2)
    figure = _sheet(
        1.5 + n_rows * (panel_in + 0.4),
        title,
        f"{total:,} windows. Grey lines: 9 × 9 levels; black lines: the 9 regions that sampling balances, "
        "with the windows in each",
        simulated=simulated,
        note="Points are spread over their level square (emotion words, integer ratings) or by ±0.06 (finer ratings), "
        "for the eye only.",
    )
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    for axes in grid.flat[len(metadata) :]:
        axes.remove()
    for index, (corpus, table) in enumerate(metadata.items()):
        _plane_panel(grid.flat[index], corpus, table, PALETTE[index % len(PALETTE)])
    return _write(figure, path)


def _plane_panel(axes: Axes, corpus: str, table: pa.Table, colour: str) -> None:
    va = np.stack([np.asarray(table[name].to_pylist(), dtype=np.float64) for name in ("valence", "arousal")], axis=1)
    points = np.unique(va, axis=0)
    on_lattice = bool(np.allclose(points, np.rint(points), atol=1e-5))
    scatter = np.random.default_rng(0).uniform(-1, 1, va.shape) * (0.38 if on_lattice else 0.06)
    shown = va + scatter

    edge = PLANE_MAX + 0.5
    for cut in np.arange(PLANE_MIN - 0.5, edge + 1):
        heavy = cut in (-1.5, 1.5)
        for line in (axes.axvline, axes.axhline):
            line(cut, color=INK if heavy else "#E3E3E3", linewidth=1.3 if heavy else 0.7, zorder=1)
    axes.scatter(
        shown[:, 0],
        shown[:, 1],
        s=float(np.clip(9000 / max(len(va), 1), 3, 14)),
        color=colour,
        alpha=float(np.clip(900 / max(len(va), 1), 0.2, 0.7)),
        linewidths=0,
        zorder=2,
    )
    counts = (
        np.bincount(va_region(va[:, 0], va[:, 1]), minlength=N_REGIONS) if len(va) else np.zeros(N_REGIONS, dtype=int)
    )
    for (x, y), count in zip(region_centre(np.arange(N_REGIONS)), counts, strict=True):
        axes.text(
            x + 1.33,
            y + 1.38,
            f"{count:,}",
            fontsize=10,
            fontweight="bold",
            color=INK if count else "#9A9A9A",
            ha="right",
            va="top",
            zorder=4,
        )
    # Words that share a point share a label.
    words: dict[tuple[float, float], set[str]] = {}
    for word, (x, y) in zip(table["emotion"].to_pylist(), va, strict=True):
        if word is not None:
            words.setdefault((float(x), float(y)), set()).add(word)
    for (x, y), here in words.items():
        right, up, ha, va_ = _word_side(x, y)
        label = " / ".join(sorted(here))
        axes.text(x + 0.5 * right, y + 0.5 * up, label, fontsize=10.5, style="italic", ha=ha, va=va_, zorder=5)
    # A white outline keeps text readable over points without hiding them.
    for text in axes.texts:
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])

    kind = " and ".join(
        {"rating": "ratings", "emotion": "emotion words"}.get(kind, kind)
        for kind in sorted(set(table["label_kind"].to_pylist()))
    )
    axes.set_title(f"{corpus}\n{len(va):,} windows, {kind}", fontsize=11)
    axes.set(xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal", xticks=range(-4, 5, 2), yticks=range(-4, 5, 2))
    axes.set_xlabel("low   ←   valence   →   high")
    axes.set_ylabel("low   ←   arousal   →   high")
    for spine in axes.spines.values():
        spine.set_visible(True)


def _word_side(valence: float, arousal: float) -> tuple[int, int, str, str]:
    """(right, up, ha, va) of a word's label: where the usual words leave room and no region's count stands."""
    if valence >= 2 or (-2 < valence < 0 and arousal < 2):
        return (0, 1, "center", "bottom") if arousal >= 2 else (0, -1, "center", "top")
    return (1, 0, "left", "center") if valence >= 0 else (-1, 0, "right", "center")


@_styled
def draw_confusion(
    scores: Scores,
    path: Path | None = None,
    *,
    simulated: bool,
    title: str = "Confusion on the test subjects",
    interval: Interval | None = None,
) -> Figure:
    """Confusion matrix: colour and percentage are shares of the true class, with the windows beside them.

    Args:
        scores: What `score` returned.
        path: Where the PNG goes; None writes nothing.
        simulated: Whether the data are simulated.
        title: First line; the scores follow below it.
        interval: Of the balanced accuracy, if there is one.
    """
    counts = np.array(scores.confusion, dtype=np.int64)
    n = len(scores.classes)
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    people = "" if scores.n_subjects is None else f" of {scores.n_subjects} test subjects"
    bounds = (
        ""
        if interval is None
        else f" ({interval.level:.0%} interval over subjects {interval.low:.3f} to {interval.high:.3f})"
    )
    side_in = float(np.clip(0.95 * n, 3.4, 7.0))
    figure = _sheet(
        side_in + 2.0,
        title,
        f"balanced accuracy {scores.balanced_accuracy:.3f}{bounds}, chance {scores.chance:.3f}; "
        f"Cohen's kappa {scores.kappa:.3f}; weighted F1 {scores.weighted_f1:.3f}; {scores.n_windows:,} windows{people}",
        simulated=simulated,
    )
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    size = 12 if n <= 5 else 9.5
    for row in range(n):
        for column in range(n):
            text = f"{share[row, column]:.0%}\n{counts[row, column]:,}" if totals[row, 0] else "–"
            colour = "white" if share[row, column] > 0.55 else INK
            weight = "bold" if row == column else "normal"
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour, fontweight=weight)
    axes.set(xlabel="predicted class", ylabel="true class (windows)")
    axes.set_xticks(
        range(n), scores.classes, rotation=0 if n <= 6 else 40, ha="center" if n <= 6 else "right", color=INK
    )
    axes.set_yticks(
        range(n), [f"{name} ({total:,})" for name, total in zip(scores.classes, totals[:, 0], strict=True)], color=INK
    )
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.9, format=FuncFormatter(lambda value, _: f"{value:.0%}"))
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    return _write(figure, path)


@_styled
def draw_cleaning(
    raw_uv: EEG,
    cleaned_uv: EEG,
    channels: Sequence[str],
    sfreq_hz: float,
    path: Path | None = None,
    *,
    simulated: bool,
    title: str = "One recording before and after cleaning",
    notes: str = "",
    stages_done: Sequence[str] = (),
    mains_hz: float = 50.0,
    start_s: float | None = None,
    seconds: float = 6.0,
) -> Figure:
    """Traces and spectra before and after cleaning, at frontal, temporal and posterior electrodes.

    Args:
        raw_uv: (C, T) as stored, microvolt.
        cleaned_uv: (C, T) after cleaning, the same samples.
        channels: Canonical names.
        sfreq_hz: Sampling rate.
        path: Where the PNG goes; None writes nothing.
        simulated: Whether the data are simulated.
        title: First line.
        notes: What was done, e.g. the cleaning report in words.
        stages_done: What the corpus' owner had already done; the second line says so.
        mains_hz: Marked in the spectra.
        start_s: First second shown; None: where cleaning changed most, which the footnote says.
        seconds: Shown.

    Raises:
        ValueError: If the two signals and the channels do not fit together.
    """
    if raw_uv.shape != cleaned_uv.shape or raw_uv.ndim != 2 or raw_uv.shape[0] != len(channels):
        raise ValueError(
            f"raw {raw_uv.shape}, cleaned {cleaned_uv.shape}, {len(channels)} channels: give (C, T) twice and C names"
        )
    shown = _places_of(channels)
    samples = min(round(seconds * sfreq_hz), raw_uv.shape[1])
    if start_s is None:
        rows = [channels.index(name) for names in shown.values() for name in names]
        start = _most_changed(raw_uv[rows], cleaned_uv[rows], samples)
        choice = (
            f"Traces: the {samples / sfreq_hz:g} s in which cleaning changed these electrodes most, "
            f"from {start / sfreq_hz:.0f} s on."
        )
    else:
        start = min(round(start_s * sfreq_hz), raw_uv.shape[1] - samples)
        choice = f"Traces: {samples / sfreq_hz:g} s from {start / sfreq_hz:.0f} s on."
    owner = "Before: as stored, nothing removed by its owner."
    if stages_done:
        title = f"{title} (owner had cleaned it)"
        owner = f"Before: cleaned by its owner ({', '.join(OWNERS_STAGES.get(stage, stage) for stage in stages_done)})."
    figure = _sheet(
        1.5 + 1.75 * len(shown),
        title,
        f"{owner} {notes}".strip(),
        simulated=simulated,
        note=f"{choice} Each trace is shown about its own mean. "
        f"Spectra: Welch, whole recording ({raw_uv.shape[1] / sfreq_hz / 60:.1f} min).",
    )
    grid = figure.subplots(len(shown), 3, width_ratios=[1.25, 1.25, 1], squeeze=False)
    part = slice(start, start + samples)
    times = np.arange(start, start + samples) / sfreq_hz
    for row, (place, names) in enumerate(shown.items()):
        rows = [channels.index(name) for name in names]
        pair = [np.asarray(signal[rows][:, part], dtype=np.float64) for signal in (raw_uv, cleaned_uv)]
        pair = [signal - signal.mean(axis=1, keepdims=True) for signal in pair]
        # One scale for both panels, so that what looks smaller is smaller.
        step = max(0.9 * max(float(np.ptp(signal, axis=1).max()) for signal in pair), 1e-9)
        top = max(float(signal[0].max()) for signal in pair)
        bottom = min(float(signal[-1].min()) for signal in pair) - (len(names) - 1) * step
        for axes, signal, colour, when in zip(grid[row], pair, (SOFT, BLUE), ("Before", "After"), strict=False):
            for line, trace in enumerate(signal):
                axes.plot(times, trace - line * step, color=colour, linewidth=0.8)
            axes.set_yticks([-line * step for line in range(len(names))], names, color=INK)
            axes.tick_params(axis="y", length=0)
            axes.set(xlim=(times[0], times[-1]), ylim=(bottom - 0.06 * step, top + 0.06 * step))
            axes.spines["left"].set_visible(False)
            if row == 0:
                axes.set_title(when, fontweight="bold", color=colour)
            if row == len(shown) - 1:
                axes.set_xlabel("time (s)")
            else:
                axes.tick_params(axis="x", labelbottom=False)
        grid[row, 0].set_ylabel(place, fontweight="bold")
        _scale_bar(grid[row, 1], times[-1], step, len(names))
        _before_after_spectrum(grid[row, 2], raw_uv[rows], cleaned_uv[rows], sfreq_hz, mains_hz, labelled=row == 0)
        if row == 0:
            grid[row, 2].set_title("Power spectrum (µV²/Hz)", fontweight="bold")
        if row == len(shown) - 1:
            grid[row, 2].set_xlabel("frequency (Hz)")
        else:
            grid[row, 2].tick_params(axis="x", labelbottom=False)
    return _write(figure, path)


def _places_of(channels: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """place -> the electrodes of it that are drawn; the first channels where none of the places is covered."""
    found: dict[str, tuple[str, ...]] = {}
    for place, pairs in PLACES.items():
        for pair in pairs:
            if all(name in channels for name in pair):
                found[place] = pair
                break
    return found or {"first": tuple(channels[:2])}


def _most_changed(raw: EEG, cleaned: EEG, samples: int) -> int:
    change = np.var(np.asarray(raw, dtype=np.float64) - cleaned, axis=0)
    return int(np.argmax(np.convolve(change, np.ones(samples), mode="valid")))


def _scale_bar(axes: Axes, right: float, step: float, n_traces: int) -> None:
    """A vertical bar of a round number of microvolt, right of the traces."""
    decade = 10 ** np.floor(np.log10(step / 2))
    height = float(decade * max(factor for factor in (1, 2, 5) if factor * decade <= step / 2 or factor == 1))
    left, _ = axes.get_xlim()
    x = right + (right - left) * 0.03
    foot = -(n_traces - 1) * step / 2 - height / 2
    axes.plot([x, x], [foot, foot + height], color=INK, linewidth=2, clip_on=False, solid_capstyle="butt")
    axes.text(
        x + (right - left) * 0.02,
        foot + height / 2,
        f"{height:g} µV",
        rotation=90,
        va="center",
        ha="left",
        fontsize=9.5,
    )


def _before_after_spectrum(
    axes: Axes, raw: EEG, cleaned: EEG, sfreq_hz: float, mains_hz: float, *, labelled: bool
) -> None:
    segment_s = min(4.0, raw.shape[1] / sfreq_hz)
    axes.axvspan(*ALPHA_HZ, color=ORANGE, alpha=0.22, linewidth=0)
    lowest, highest = np.inf, 0.0
    for signal, colour, width in ((raw, SOFT, 1.3), (cleaned, BLUE, 1.6)):
        hz, density = power_spectrum([signal], sfreq_hz, segment_s=segment_s)
        seen = (hz > 0.3) & (hz <= 60)
        mean = density[:, seen].mean(axis=0)
        axes.semilogy(hz[seen], mean, color=colour, linewidth=width, label="before" if signal is raw else "after")
        highest = max(highest, float(mean.max()))
        # What a band-pass removed falls without end; the axis follows the band in which the EEG lies.
        lowest = min(lowest, float(mean[(hz[seen] >= 1) & (hz[seen] <= 40)].min()))
    axes.set_ylim(max(lowest, highest * 1e-9, 1e-12) / 8, highest * 15)
    axes.set_xlim(0, min(60, sfreq_hz / 2))
    axes.minorticks_off()
    if mains_hz < sfreq_hz / 2:
        axes.axvline(mains_hz, color=VERMILION, linestyle=(0, (4, 3)), linewidth=1)
    if labelled:
        across = axes.get_xaxis_transform()
        axes.text(
            sum(ALPHA_HZ) / 2, 0.98, "alpha", transform=across, ha="center", va="top", fontsize=9, color="#8A5A00"
        )
        if mains_hz < sfreq_hz / 2:
            axes.text(
                mains_hz - 0.8,
                0.98,
                f"mains\n{mains_hz:g} Hz",
                transform=across,
                ha="right",
                va="top",
                fontsize=9,
                color=VERMILION,
            )


@_styled
def draw_spectrum(
    pieces_uv: Sequence[EEG],
    channels: Sequence[str],
    sfreq_hz: float,
    path: Path | None = None,
    *,
    simulated: bool,
    title: str = "Alpha rhythm",
    notes: str = "",
) -> Figure:
    """Spectrum of every electrode, posterior ones in colour, and how far alpha stands out across the scalp.

    Args:
        pieces_uv: (C, T) microvolt each: trials or recordings with the same electrodes, at least 4 s long.
        channels: Canonical names.
        sfreq_hz: Sampling rate.
        path: Where the PNG goes; None writes nothing.
        simulated: Whether the data are simulated.
        title: First line.
        notes: Whose recordings these are.

    Raises:
        ValueError: If there is no piece of 4 s.
    """
    hz, density = power_spectrum(pieces_uv, sfreq_hz)
    peaks = alpha_peak_hz(hz, density)
    height = alpha_prominence_db(hz, density)
    order = np.argsort(-height)
    best = [int(index) for index in order[:3] if np.isfinite(peaks[index])]
    words = (
        "; ".join(f"{channels[index]} {peaks[index]:.2f} Hz (+{height[index]:.1f} dB)" for index in best)
        or "no peak in 8-13 Hz"
    )
    minutes = sum(piece.shape[-1] for piece in pieces_uv) / sfreq_hz / 60
    figure = _sheet(
        5.0,
        title,
        f"Most prominent: {words}. {notes}".strip(),
        simulated=simulated,
        note=f"Welch, 4 s segments, {minutes:.0f} min in {len(pieces_uv)} pieces. "
        "Prominence: height of the alpha peak over the higher of its two flanking minima.",
    )
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    seen = (hz >= 1) & (hz <= min(45, sfreq_hz / 2))
    left.axvspan(*ALPHA_HZ, color=ORANGE, alpha=0.22, linewidth=0)
    for index in range(len(channels)):
        if index not in best:
            left.semilogy(
                hz[seen],
                density[index, seen],
                color=FAINT,
                linewidth=1,
                label="other electrodes" if index == order[-1] else None,
            )
    for index, colour in zip(best, (BLUE, VERMILION, GREEN), strict=False):
        left.semilogy(hz[seen], density[index, seen], color=colour, linewidth=2, label=channels[index])
        at = int(np.argmin(np.abs(hz - peaks[index])))
        left.plot(hz[at], density[index, at], "o", color=colour, markersize=6, markeredgecolor="white")
    left.text(
        sum(ALPHA_HZ) / 2,
        0.02,
        "alpha",
        transform=left.get_xaxis_transform(),
        ha="center",
        va="bottom",
        color="#8A5A00",
    )
    left.set(title="Power spectra", xlabel="frequency (Hz)", ylabel="power density (µV²/Hz)")
    left.legend(loc="upper right")

    # mne draws into the axes it is given; imported here because it takes a second.
    from mne import create_info
    from mne.channels import make_dig_montage
    from mne.viz import plot_topomap

    from emod.signal.montage import positions

    info = create_info(list(channels), sfreq_hz, "eeg")
    head_m = 0.095
    info.set_montage(
        make_dig_montage(dict(zip(channels, positions(channels) * head_m, strict=True)), coord_frame="head"),
        verbose="error",
    )
    names = (
        list(channels)
        if len(channels) <= 20
        else [name if index in best else "" for index, name in enumerate(channels)]
    )
    image, _ = plot_topomap(
        height,
        info,
        axes=right,
        show=False,
        names=names,
        cmap="viridis",
        vlim=(0, max(float(height.max()), 1.0)),
        sphere=head_m,
        contours=4,
        extrapolate="head",
    )
    for text in right.texts:
        text.set(fontsize=9, color="white", fontweight="bold")
        text.set_path_effects([withStroke(linewidth=2, foreground=INK)])
    right.set_title("Alpha peak over its flanks")
    bar = figure.colorbar(image, ax=right, shrink=0.7)
    bar.set_label("prominence (dB)")
    bar.outline.set_visible(False)
    return _write(figure, path)


@_styled
def draw_results(
    table: Sequence[Evaluation],
    path: Path | None = None,
    *,
    simulated: bool,
    title: str = "Test subjects",
    notes: str = "",
) -> Figure:
    """Balanced accuracy of each target with its interval over subjects, against chance and the majority class.

    Args:
        table: One evaluation a target, at least one.
        path: Where the PNG goes; None writes nothing.
        simulated: Whether the data are simulated.
        title: First line.
        notes: The split, the corpora the backbone was pretrained on.

    Raises:
        ValueError: If there is no evaluation.
    """
    if not table:
        raise ValueError("no evaluation to draw: give at least one")
    levels = {evaluation.interval.level for evaluation in table if evaluation.interval is not None}
    bars = (
        f"bars: {', '.join(f'{level:.0%}' for level in sorted(levels))} bootstrap interval over subjects"
        if levels
        else "one subject: no interval"
    )
    figure = _sheet(2.3 + 0.8 * len(table), title, f"Balanced accuracy; {bars}. {notes}".strip(), simulated=simulated)
    axes = figure.subplots()
    for row, evaluation in enumerate(table):
        scores, interval = evaluation.scores, evaluation.interval
        name = (lambda words: words) if row == 0 else (lambda _: None)
        end = scores.balanced_accuracy
        axes.plot(end, row, "o", color=BLUE, markersize=11, markeredgecolor="white", label=name("EMOD"), zorder=5)
        bounds = ""
        if interval is not None:
            axes.plot(
                [interval.low, interval.high], [row, row], color=BLUE, linewidth=3, solid_capstyle="butt", zorder=4
            )
            end = max(end, interval.high)
            bounds = f"  [{interval.low:.3f}, {interval.high:.3f}]"
        axes.plot(
            [scores.chance] * 2,
            [row - 0.36, row + 0.36],
            color=INK,
            linestyle=(0, (2, 1.5)),
            linewidth=1.6,
            label=name("chance"),
            zorder=2,
        )
        # Below the bar: by construction it lies at chance, where it would hide under the result.
        axes.plot(
            evaluation.majority.balanced_accuracy,
            row + 0.3,
            "D",
            color=ORANGE,
            markersize=8,
            markeredgecolor="white",
            label=name("majority class"),
            zorder=3,
        )
        axes.annotate(
            f"{scores.balanced_accuracy:.3f}{bounds}",
            (end, row),
            xytext=(10, 0),
            textcoords="offset points",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
    labels = [
        f"{evaluation.target}\n{len(evaluation.scores.classes)} classes, "
        + (
            f"{evaluation.scores.n_subjects} subjects"
            if evaluation.scores.n_subjects is not None
            else f"{evaluation.scores.n_windows:,} windows"
        )
        for evaluation in table
    ]
    axes.set_yticks(range(len(table)), labels, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, 1), ylim=(len(table) - 0.4, -0.6), xlabel="balanced accuracy")
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    return _write(figure, path)


@_styled
def draw_comparison(
    table: Mapping[str, Sequence[ArmScore]],
    path: Path | None = None,
    *,
    simulated: bool,
    chance: float | Sequence[float],
    title: str,
    notes: str = "",
    printed: Mapping[str, Sequence[float | None]] | None = None,
) -> Figure:
    """Balanced accuracy of each arm of a study above chance, a group of bars for each world, a dot for each seed.

    Args:
        table: What stands below a group of bars -> its arms, from `compare_arms`; the same arms throughout.
        path: Where the PNG goes; None writes nothing.
        simulated: Whether the data are simulated.
        chance: Balanced accuracy without any input; one for all groups, or one for each.
        title: First line.
        notes: What was trained on what.
        printed: What stands below a group -> what the paper printed of each arm.
    """
    floors = [chance] * len(table) if isinstance(chance, float) else list(chance)
    arms = [score.arm for score in next(iter(table.values()))]
    width = 0.8 / len(arms)
    seeds = len(next(iter(table.values()))[0].values)
    several = f"mean and standard deviation over {seeds} seeds, from chance; dots: seeds"
    subtitle = f"Bars: {several if seeds > 1 else 'one seed, from chance'}. {notes}"
    figure = _sheet(5.2, title, subtitle.strip(), simulated=simulated)
    axes = figure.subplots()
    small = len(arms) * len(table) > 18
    for group, (scores, floor) in enumerate(zip(table.values(), floors, strict=True)):
        for number, score in enumerate(scores):
            at = group + (number - (len(arms) - 1) / 2) * width
            colour = PALETTE[number % len(PALETTE)]
            axes.bar(
                at,
                100 * (score.mean - floor),
                0.88 * width,
                bottom=100 * floor,
                color=colour,
                alpha=0.55,
                label=score.arm if group == 0 else None,
                yerr=100 * score.sd,
                error_kw={"ecolor": INK, "elinewidth": 1.3, "capsize": 3},
                zorder=2,
            )
            spread = at + np.linspace(-0.22, 0.22, seeds) * width if seeds > 1 else [at]
            axes.plot(spread, 100 * np.array(score.values), "o", color=colour, markersize=3.5, zorder=4)
            axes.annotate(
                f"{100 * score.mean:.1f}",
                # Of a bar that hangs below chance, above the line it hangs from.
                (at, 100 * max(score.mean + np.nan_to_num(score.sd), *score.values, floor)),
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
                fontsize=7.5 if small else 9,
                color=INK,
            )
        ends = [group - 0.45, group + 0.45]
        axes.plot(ends, [100 * floor] * 2, color=INK, linewidth=1.2, label=None if group else "chance", zorder=3)
    values = [value for scores in table.values() for score in scores for value in score.values]
    for group, world in enumerate(table):
        for number, value in enumerate((printed or {}).get(world, ())):
            if value is not None:
                at = group + (number - (len(arms) - 1) / 2) * width
                axes.plot([at - 0.42 * width, at + 0.42 * width], [100 * value] * 2, color=INK, linewidth=2, zorder=5)
                values.append(value)
    if printed:
        axes.plot([], [], color=INK, linewidth=2.4, label="the paper")
    axes.set_ylim(100 * max(0, min(*floors, *values) - 0.02), 100 * max(values) + 6)
    axes.set_xticks(range(len(table)), list(table))
    axes.tick_params(axis="x", length=0, labelcolor=INK)
    axes.set_ylabel("balanced accuracy (%)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4 if small else min(6, len(arms) + 2), borderaxespad=0.2)
    return _write(figure, path)
