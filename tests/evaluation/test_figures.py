"""Pictures: each has the promised width, says where its data come from, and shows the numbers it was given."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pyarrow as pa
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

import emod.evaluation
from emod.evaluation import compare_arms, evaluate, score
from emod.evaluation.figures import (
    WIDTH_PX,
    draw_cleaning,
    draw_comparison,
    draw_confusion,
    draw_loss,
    draw_plane,
    draw_results,
    draw_spectrum,
)

EPOC = ("AF3", "F7", "F3", "FC5", "T7", "P7", "O1", "O2", "P8", "T8", "FC6", "F4", "F8", "AF4")


def texts(figure: Figure) -> list[str]:
    return [found.get_text() for found in figure.findobj(Text) if found.get_text()]


def words_of(figure: Figure) -> str:
    return " ".join(" ".join(texts(figure)).split())


def noise(seconds: int = 20, sfreq_hz: int = 128, channels: int = len(EPOC)) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 10, (channels, seconds * sfreq_hz))


def plane_table(kind: str, points: list[tuple[float, float]], words: list[str | None] | None = None) -> pa.Table:
    return pa.table(
        {
            "valence": [point[0] for point in points],
            "arousal": [point[1] for point in points],
            "label_kind": [kind] * len(points),
            "emotion": pa.array(words or [None] * len(points), pa.string()),
        }
    )


def evaluations() -> list[Any]:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 2, 240)
    subjects = np.repeat(["1", "2", "3", "4"], 60)
    good = np.where(rng.random(240) < 0.8, true, 1 - true)
    return [
        evaluate("valence", true, good, subjects, ("low", "high"), y_train=[0, 0, 1]),
        evaluate("arousal", true, 1 - true, np.full(240, "1"), ("low", "high"), y_train=[0, 0, 1]),
    ]


PICTURES: dict[str, Callable[..., Figure]] = {
    "loss": functools.partial(draw_loss, [0, 1, 2], [3.0, 2.5, 2.0], [1e-3, 5e-4, 0.0], batch=36),
    "plane": functools.partial(draw_plane, {"deap": plane_table("rating", [(0.5, 1.2), (-3.0, 2.0)])}),
    "confusion": functools.partial(draw_confusion, score([0, 0, 1, 1], [0, 1, 1, 1], ("low", "high"))),
    "cleaning": functools.partial(draw_cleaning, noise(), noise() * 0.5, EPOC, 128.0),
    "spectrum": functools.partial(draw_spectrum, [noise()], EPOC, 128.0),
    "results": functools.partial(draw_results, evaluations()),
    "comparison": functools.partial(
        draw_comparison, {"real": compare_arms({"a": [0.3, 0.4], "b": [0.4, 0.6]})}, chance=0.25, title="Arms"
    ),
}


def test_every_drawing_function_is_tested_here_and_exported() -> None:
    drawn = {name for name in emod.evaluation.figures.__all__ if name.startswith("draw_")}
    assert drawn == {f"draw_{name}" for name in PICTURES}
    assert drawn == {name for name in emod.evaluation.__all__ if name.startswith("draw_")}
    for name in emod.evaluation.__all__:
        assert getattr(emod.evaluation, name) is not None
    with pytest.raises(AttributeError, match="draw_nothing"):
        emod.evaluation.draw_nothing  # noqa: B018


@pytest.mark.parametrize("name", PICTURES)
def test_png_has_the_promised_width_and_something_on_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.png"
    PICTURES[name](path, simulated=True)
    assert path.read_bytes().startswith(b"\x89PNG")
    pixels = matplotlib.image.imread(path)[..., :3]
    assert pixels.shape[1] == WIDTH_PX
    assert 400 <= pixels.shape[0] <= 2 * WIDTH_PX
    # Nothing was cut off at the edges, and the sheet is not blank.
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (edges == 1).all()
    assert (pixels < 0.9).any(axis=-1).mean() > 0.005


@pytest.mark.parametrize("name", PICTURES)
def test_mark_follows_the_flag(name: str) -> None:
    simulated, real = texts(PICTURES[name](simulated=True)), texts(PICTURES[name](simulated=False))
    assert simulated.count("SIMULATED DATA") == 1
    assert "real recordings" not in simulated
    assert real.count("real recordings") == 1
    assert "SIMULATED DATA" not in real


def test_drawing_leaves_no_pyplot_figure_behind() -> None:
    before = matplotlib.rcParams.copy()
    for draw in PICTURES.values():
        draw(simulated=False)
    assert matplotlib.rcParams == before
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_loss_shows_the_loss_of_projections_that_are_alike() -> None:
    figure = draw_loss([0, 1], [5.0, 4.0], [1e-3, 1e-3], simulated=True, batch=288)
    assert "ln(288 − 1) = 5.66" in words_of(figure)
    assert any(np.allclose(line.get_ydata(), np.log(287)) for line in figure.axes[0].lines)
    assert "alike" not in words_of(draw_loss([0, 1], [5.0, 4.0], [1e-3, 1e-3], simulated=True))


def test_loss_that_is_not_finite_is_reported() -> None:
    figure = draw_loss([0, 1, 2], [5.0, np.nan, 4.0], [1e-3] * 3, simulated=True)
    assert "1 steps with a loss that is not finite" in words_of(figure)
    with pytest.raises(ValueError, match="at least 1"):
        draw_loss([], [], [], simulated=True)


def test_plane_counts_windows_of_each_region_and_names_the_words() -> None:
    # 5 high valence and arousal, 2 low valence and high arousal, 1 in the middle: valence 1.4 is level 1, middle band.
    points = [(3.0, 2.0)] * 5 + [(-4.0, 4.0)] * 2 + [(1.4, 0.0)]
    figure = draw_plane(
        {"made": plane_table("emotion", points, ["happy"] * 5 + ["sad"] * 2 + ["neutral"])}, simulated=True
    )
    axes = figure.axes[0]
    # A region's count stands in its upper right corner: x near -2, 1 or 4, y likewise.
    by_corner = {
        (round(t.get_position()[0]), round(t.get_position()[1])): t.get_text()
        for t in axes.texts
        if t.get_text().isdigit()
    }
    assert len(by_corner) == 9
    assert by_corner[4, 4] == "5"
    assert by_corner[-2, 4] == "2"
    assert by_corner[1, 1] == "1"
    assert sorted(by_corner.values()) == ["0"] * 6 + ["1", "2", "5"]
    assert {"happy", "sad", "neutral"} <= set(texts(figure))
    shown = axes.collections[0].get_offsets()
    assert np.abs(np.asarray(shown) - points).max() <= 0.4


def test_plane_gives_every_corpus_its_own_panel_and_colour() -> None:
    tables = {name: plane_table("rating", [(0.25, 0.5)] * 3) for name in ("amigos", "deap", "dreamer", "mahnob_hci")}
    figure = draw_plane(tables, simulated=False)
    assert [axes.get_title(loc="left").split("\n")[0] for axes in figure.axes] == list(tables)
    assert len({tuple(axes.collections[0].get_facecolor()[0]) for axes in figure.axes}) == 4
    with pytest.raises(ValueError, match="corpus"):
        draw_plane({}, simulated=False)


def test_confusion_is_normalised_by_row_and_keeps_the_counts() -> None:
    scores = score(
        [0] * 8 + [1] * 2, [0] * 6 + [1] * 2 + [0, 1], ("low", "high", "never"), subjects=["1"] * 5 + ["2"] * 5
    )
    figure = draw_confusion(scores, simulated=True)
    shown = [t.get_text() for t in figure.axes[0].texts]
    assert shown == ["75%\n6", "25%\n2", "0%\n0", "50%\n1", "50%\n1", "0%\n0", "–", "–", "–"]
    assert np.allclose(figure.axes[0].images[0].get_array(), [[0.75, 0.25, 0], [0.5, 0.5, 0], [0, 0, 0]])
    words = words_of(figure)
    assert "balanced accuracy 0.625" in words
    assert "chance 0.500" in words
    assert "10 windows of 2 test subjects" in words


def test_cleaning_shows_where_it_changed_most_on_one_scale() -> None:
    raw = noise(60)
    cleaned = raw.copy()
    raw[0, 40 * 128 : 42 * 128] += 300  # a blink at AF3
    figure = draw_cleaning(raw, cleaned, EPOC, 128.0, simulated=True, notes="ICA removed 1 component.")
    before, after, spectrum = figure.axes[:3]
    times = before.lines[0].get_xdata()
    assert times[0] <= 40
    assert times[-1] >= 42 - 1 / 128
    assert before.get_ylim() == after.get_ylim()
    low, high = before.get_ylim()
    for line in before.lines:
        assert low <= np.min(line.get_ydata())
        assert np.max(line.get_ydata()) <= high
    assert np.ptp(before.lines[0].get_ydata()) > 250 > np.ptp(after.lines[0].get_ydata())
    assert [label.get_text() for label in before.get_yticklabels()] == ["AF3", "AF4"]
    assert any(np.allclose(line.get_xdata(), 50) for line in spectrum.lines)
    words = words_of(figure)
    assert "nothing removed by its owner" in words
    assert "ICA removed 1 component." in words
    assert {"frontal", "temporal", "posterior"} <= set(texts(figure))


def test_cleaning_says_when_the_owner_had_cleaned() -> None:
    figure = draw_cleaning(
        noise(), noise(), EPOC, 128.0, simulated=False, stages_done=("band_pass", "ocular", "muscle"), start_s=5
    )
    words = words_of(figure)
    assert "(owner had cleaned it)" in words
    assert "cleaned by its owner (band-pass, eye artefacts, muscle artefacts)" in words
    assert figure.axes[0].lines[0].get_xdata()[0] == 5
    with pytest.raises(ValueError, match="channels"):
        draw_cleaning(noise(), noise()[:, 1:], EPOC, 128.0, simulated=False)


def test_spectrum_names_the_electrodes_with_the_clearest_alpha() -> None:
    eeg = noise(60)
    t = np.arange(eeg.shape[1]) / 128
    for name, amplitude in (("O1", 12), ("O2", 16), ("P8", 8)):
        eeg[EPOC.index(name)] += amplitude * np.sin(2 * np.pi * 10 * t)
    figure = draw_spectrum([eeg[:, : 30 * 128], eeg[:, 30 * 128 :]], EPOC, 128.0, simulated=False)
    words = words_of(figure)
    assert "Most prominent: O2 10.00 Hz" in words
    assert words.index("O2 10.00") < words.index("O1 10.00") < words.index("P8 10.00")
    assert set(EPOC) <= set(texts(figure))  # the scalp map names its electrodes


def test_results_show_scores_intervals_and_controls() -> None:
    table = evaluations()
    figure = draw_results(table, simulated=True, notes="Backbone pretrained on deap.")
    shown = [t.get_text() for t in figure.axes[0].texts]
    first = table[0]
    assert shown[0] == f"{first.scores.balanced_accuracy:.3f}  [{first.interval.low:.3f}, {first.interval.high:.3f}]"
    assert shown[1] == "0.000"  # one subject: no interval is made up
    bars = [
        line
        for line in figure.axes[0].lines
        if np.allclose(line.get_xdata(), [first.interval.low, first.interval.high])
    ]
    assert len(bars) == 1
    words = words_of(figure)
    for expected in (
        "95% bootstrap interval over subjects",
        "chance",
        "majority class",
        "Backbone pretrained on deap.",
    ):
        assert expected in words
    with pytest.raises(ValueError, match="no evaluation"):
        draw_results([], simulated=True)


def test_each_group_has_its_own_chance_and_the_papers_marks_stand_where_they_were_printed() -> None:
    table = {
        "FACED": compare_arms({"EMOD": [0.3, 0.4], "Scratch": [0.2, 0.3]}),
        "SEED": compare_arms({"EMOD": [0.5, 0.6], "Scratch": [0.4, 0.5]}),
    }
    figure = draw_comparison(
        table, simulated=False, chance=[1 / 9, 1 / 3], title="Arms", printed={"SEED": [None, 0.6114]}
    )
    axes = figure.axes[0]
    drawn = [line for line in axes.lines if len(line.get_xdata())]
    flat = [float(line.get_ydata()[0]) for line in drawn if np.ptp(line.get_xdata()) > 0.8]
    assert flat == pytest.approx([100 / 9, 100 / 3])
    bottoms = [bar.get_y() for bar in axes.patches]
    assert bottoms == pytest.approx([100 / 9] * 2 + [100 / 3] * 2)
    marks = [line for line in axes.lines if len(line.get_xdata()) and np.allclose(line.get_ydata(), 61.14)]
    assert len(marks) == 1
    assert 1.0 < float(np.mean(marks[0].get_xdata())) < 1.4
    assert "the paper" in words_of(figure)
    assert "the paper" not in words_of(draw_comparison(table, simulated=False, chance=0.1, title="Arms"))
