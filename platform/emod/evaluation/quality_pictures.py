"""The pictures of an ingest report, each an SVG that carries its fonts as outlines: they look alike everywhere.

They draw what ``emod.ingest.recording`` measured; nothing is measured here. Each returns a data address for an
``<img>``, which runs nothing, or None where there is nothing to draw.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from emod.evaluation.figures import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, SOFT, STYLE, VERMILION
from emod.evaluation.spectra import ALPHA_HZ
from emod.signal import positions

__all__ = ["draw_amplitudes", "draw_components", "draw_electrodes", "draw_line_noise", "draw_spectra"]

WIDTH_IN, HEIGHT_IN = 5.4, 3.5
REGION_COLOURS = {"frontal": VERMILION, "central": GREEN, "posterior": PURPLE}
MOST_DOTS = 400

Findings = Sequence[Mapping[str, Any]]


def draw_spectra(recordings: Findings, mains_hz: float, band_hz: tuple[float, float] | None) -> str | None:
    """The median recording's spectrum before and after, the middle 80 % of recordings, and the three regions after."""
    before, after = (_levels(recordings, when, "all") for when in ("before", "after"))
    if before is None:
        return None

    def draw(axes: Axes) -> None:
        hz, levels = before
        axes.axvspan(*ALPHA_HZ, color=ORANGE, alpha=0.2, linewidth=0)
        _band(axes, hz, levels, SOFT, "before")
        low = np.median(levels, axis=0)[(hz >= 5) & (hz <= 40)].min()
        if after is not None:
            _band(axes, *after, BLUE, "after")
            for region, colour in REGION_COLOURS.items():
                if (found := _levels(recordings, "after", region)) is not None:
                    axes.plot(
                        found[0], np.median(found[1], axis=0), color=colour, linewidth=0.9, label=f"after, {region}"
                    )
            inner = np.median(after[1], axis=0)[(after[0] >= 5) & (after[0] <= 40)]
            low = min(low, inner.min())
        top = max(levels.max(), -1e9 if after is None else after[1].max())
        axes.set_ylim(low - 20, top + 4)
        axes.set_xlim(0, hz[-1])
        for edge in band_hz or ():
            axes.axvline(edge, color=FAINT, linewidth=1)
        across = axes.get_xaxis_transform()
        if mains_hz <= hz[-1]:
            axes.axvline(mains_hz, color=VERMILION, linestyle=(0, (4, 3)), linewidth=1.2)
            # Above mains, where a spectrum has fallen, its upper corner is free of curves.
            room = mains_hz + 5 <= hz[-1]
            axes.text(
                mains_hz + (1.2 if room else -1.2),
                0.97,
                f"mains {mains_hz:g} Hz",
                transform=across,
                rotation=90,
                ha="left" if room else "right",
                va="top",
                fontsize=9,
                color=VERMILION,
                bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 0.5},
                zorder=5,
            )
        axes.text(sum(ALPHA_HZ) / 2, 0.03, "alpha", transform=across, ha="center", fontsize=9, color="#8A5A00")
        axes.set(xlabel="frequency (Hz)", ylabel="power (dB re 1 µV²/Hz)")
        _legend_above(axes, 3)

    return _picture(draw, HEIGHT_IN)


def draw_electrodes(shares: Mapping[str, float], channels: Sequence[str]) -> str | None:
    """A head seen from above: the share of the time in which each electrode was flat or noisy.

    Args:
        shares: Electrode -> share, mean over recordings; absent: 0.
        channels: All electrodes.
    """
    if not any(shares.values()):
        return None

    def draw(axes: Axes) -> None:
        places = positions(channels)
        # Azimuthal equidistant: distance from the vertex along the scalp.
        angle = np.arccos(np.clip(places[:, 2], -1, 1)) / (np.pi / 2)
        flat = places[:, :2] / np.maximum(np.linalg.norm(places[:, :2], axis=1, keepdims=True), 1e-9) * angle[:, None]
        values = np.array([shares.get(name, 0.0) for name in channels])
        top = max(values.max(), 0.01)
        turn = np.linspace(0, 2 * np.pi, 200)
        radius = max(1.0, float(np.linalg.norm(flat, axis=1).max())) + 0.08
        axes.plot(radius * np.cos(turn), radius * np.sin(turn), color=SOFT, linewidth=1.2)
        axes.plot([-0.1, 0, 0.1], [radius, radius + 0.11, radius], color=SOFT, linewidth=1.2)
        dots = axes.scatter(
            flat[:, 0],
            flat[:, 1],
            c=100 * values,
            cmap="YlOrRd",
            vmin=0,
            vmax=100 * top,
            s=330 if len(channels) <= 32 else 190,
            edgecolors=SOFT,
            linewidths=0.7,
        )
        for name, (x, y), value in zip(channels, flat, values, strict=True):
            dark = value > 0.65 * top
            axes.text(
                x,
                y,
                name,
                ha="center",
                va="center",
                fontsize=7.5 if len(channels) <= 32 else 5.5,
                color="white" if dark else INK,
                fontweight="bold" if value else "normal",
            )
        axes.set(aspect="equal", xlim=(-radius - 0.05, radius + 0.05), ylim=(-radius - 0.05, radius + 0.16))
        axes.axis("off")
        bar = axes.figure.colorbar(dots, ax=axes, shrink=0.7)
        bar.set_label("% of the time, mean over recordings")
        bar.outline.set_visible(False)

    return _picture(draw, 4.2)


def draw_amplitudes(scale_uv: npt.NDArray[np.float64], peak_uv: npt.NDArray[np.float64], limit_uv: float) -> str | None:
    """Histograms over windows, on a logarithmic axis: robust scale, largest magnitude, and the limit of the latter."""
    if not len(scale_uv):
        return None

    def draw(axes: Axes) -> None:
        low, high = max(float(scale_uv.min()), 1e-3), max(float(peak_uv.max()), limit_uv, 1e-2)
        edges = np.geomspace(low * 0.9, high * 1.1, 60).tolist()
        axes.hist(scale_uv, edges, color=BLUE, alpha=0.8, label="typical (robust standard deviation)")
        axes.hist(peak_uv, edges, color=ORANGE, alpha=0.75, label="largest")
        axes.axvline(limit_uv, color=VERMILION, linestyle=(0, (4, 3)), linewidth=1.2)
        axes.text(
            limit_uv / 1.05,
            0.97,
            f"limit {limit_uv:g} µV",
            transform=axes.get_xaxis_transform(),
            rotation=90,
            ha="right",
            va="top",
            fontsize=9,
            color=VERMILION,
        )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(xlabel="amplitude in a window after cleaning (µV)", ylabel="windows")
        _legend_above(axes, 2)

    return _picture(draw, HEIGHT_IN)


def draw_line_noise(before_db: Sequence[float], after_db: Sequence[float | None], limit_db: float) -> str | None:
    """Each recording's mains before and after, in order of before; above 0 dB it stands out of the EEG beside it.

    Args:
        before_db: For each recording.
        after_db: For each recording; None where it was not cleaned.
        limit_db: Of before.
    """
    if not before_db:
        return None

    def draw(axes: Axes) -> None:
        order = np.argsort(before_db, kind="stable")
        chosen = order[np.linspace(0, len(order) - 1, min(len(order), MOST_DOTS)).astype(int)].tolist()
        axes.plot([before_db[at] for at in chosen], "o", color=SOFT, markersize=4, label="before")
        left = [(place, found) for place, at in enumerate(chosen) if (found := after_db[at]) is not None]
        if left:
            axes.plot(*zip(*left, strict=True), "v", color=BLUE, markersize=4, label="after")
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.axhline(limit_db, color=VERMILION, linestyle=(0, (4, 3)), linewidth=1.2)
        axes.annotate(
            f"limit {limit_db:g} dB",
            (0.01, limit_db),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=9,
            color=VERMILION,
        )
        axes.set(xlabel="recordings, in order of mains before cleaning", ylabel="mains over the EEG beside it (dB)")
        levels = [*before_db, *(found for _, found in left)]
        axes.set_ylim(min(*levels, 0) - 5, max(*levels, limit_db) + 8)
        axes.set_xticks([])
        _legend_above(axes, 2)

    return _picture(draw, HEIGHT_IN)


def draw_components(removed: Sequence[Counter[str]]) -> str | None:
    """How many recordings lost 0, 1, 2, ... independent components of each kind.

    Args:
        removed: For each recording that ICA was fitted on, the number of components of each kind.
    """
    if not any(removed):
        return None

    def draw(axes: Axes) -> None:
        most = max(max(found.values(), default=0) for found in removed)
        counts = np.arange(most + 1)
        for shift, kind, colour in ((-0.2, "ocular", BLUE), (0.2, "muscle", ORANGE)):
            heights = [sum(found[kind] == count for found in removed) for count in counts]
            bars = axes.bar(counts + shift, heights, 0.38, color=colour, label=kind)
            axes.bar_label(bars, labels=[str(height) if height else "" for height in heights], fontsize=9, color=SOFT)
        axes.set_xticks(counts)
        axes.set_xlim(-0.7, max(most, 3) + 0.7)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set(xlabel="components removed from a recording", ylabel="recordings")
        axes.set_ylim(0, axes.get_ylim()[1] * 1.1)
        _legend_above(axes, 2)

    return _picture(draw, HEIGHT_IN)


def _levels(recordings: Findings, when: str, region: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None:
    """(F,) Hz and (recordings, F) dB, up to the lowest top frequency."""
    found = [spectra[when] for one in recordings if (spectra := one.get("spectrum_db")) and spectra[when]]
    found = [spectrum for spectrum in found if region in spectrum]
    if not found:
        return None
    shortest = min(found, key=lambda spectrum: len(spectrum["hz"]))["hz"]
    return np.array(shortest), np.array([spectrum[region][: len(shortest)] for spectrum in found])


def _band(axes: Axes, hz: npt.NDArray[Any], levels: npt.NDArray[Any], colour: str, label: str) -> None:
    if len(levels) > 1:
        axes.fill_between(hz, *np.percentile(levels, [10, 90], axis=0), color=colour, alpha=0.18, linewidth=0)
    axes.plot(hz, np.median(levels, axis=0), color=colour, linewidth=1.8, label=label)


def _legend_above(axes: Axes, ncols: int) -> None:
    """Outside the axes, where no curve can run through it."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=ncols, fontsize=9, borderaxespad=0.3)


def _picture(draw: Any, height_in: float) -> str:
    # Equal input gives equal bytes: no date, no random ids. Nothing in a name is read as mathematics.
    settings = {**STYLE, "svg.hashsalt": "emod", "svg.fonttype": "path", "text.parse_math": False, "font.size": 10}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained", facecolor="white")
        draw(figure.subplots())
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(content.getvalue()).decode()}"
