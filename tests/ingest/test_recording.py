"""One recording to windows, without Ray: what is stored, what is listed instead."""

from __future__ import annotations

import itertools

import numpy as np

from emod.catalog import load_corpus
from emod.catalog.signal import IcaSettings, SignalSettings
from emod.corpora import Problem, Recording, TrialSpan
from emod.ingest import make_windows

RAW = SignalSettings(window_s=2.0, band_pass=False, reference="none", ica=IcaSettings(enabled=False))
DEAP = load_corpus("deap")


def make_recording(seconds: list[float]) -> Recording:
    """Trials of so many seconds, each after one second of rest; the value of a sample tells its place."""
    lengths = [round((1 + length) * 128) for length in seconds]
    bounds = np.cumsum([0, *lengths]).tolist()
    rng = np.random.default_rng(0)
    spans = tuple(
        TrialSpan(
            str(n + 1),
            f"clip{n + 1}",
            start + 128,
            stop,
            (start, start + 128),
            {"valence": 5.0 + n, "arousal": 4.0},
            None,
            float(n),
            -1.0,
        )
        for n, (start, stop) in enumerate(itertools.pairwise(bounds))
    )
    return Recording(
        corpus="deap",
        subject="s07",
        session="1",
        source="somewhere/s07.dat",
        eeg_uv=rng.normal(0, 10, (len(DEAP.channels), bounds[-1])),
        channels=DEAP.channels,
        sfreq_hz=128.0,
        pieces=tuple(itertools.pairwise(bounds)),
        spans=spans,
        problems=(Problem("somewhere/s07.dat", "s07", "9", "label", "found by the reader"),),
    )


def test_windows_cover_the_stimulus_from_its_start() -> None:
    recording = make_recording([5.0, 2.0])
    made = make_windows(recording, DEAP, RAW)
    assert [(row["trial"], row["start_s"], row["window_id"]) for row in made.rows] == [
        ("1", 0.0, "deap/s07/1/1/0"),
        ("1", 2.0, "deap/s07/1/1/1"),
        ("2", 0.0, "deap/s07/1/2/0"),
    ]
    scales = np.array([row["scale_uv"] for row in made.rows])[:, None, None]
    starts = [span.start for span in recording.spans]
    expected = [recording.eeg_uv[:, at : at + 256] for at in (starts[0], starts[0] + 256, starts[1])]
    np.testing.assert_allclose(made.windows * scales, expected, rtol=2**-10, atol=1e-4)
    assert made.windows.dtype == np.float16
    assert made.rows[2]["rating_valence"] == 6.0
    assert (made.rows[2]["valence"], made.rows[2]["arousal"]) == (1.0, -1.0)
    assert made.problems == recording.problems


def test_short_trials_and_flat_windows_are_listed() -> None:
    recording = make_recording([1.9, 6.0])
    recording.eeg_uv[:, recording.spans[1].start + 256 : recording.spans[1].start + 512] = 3.0
    made = make_windows(recording, DEAP, RAW)
    assert [row["window_id"] for row in made.rows] == ["deap/s07/1/2/0", "deap/s07/1/2/2"]
    assert [row["start_s"] for row in made.rows] == [0.0, 4.0]
    assert [(problem.code, problem.trial) for problem in made.problems] == [
        ("label", "9"),
        ("short", "1"),
        ("flat", "2"),
    ]
    assert "1.90 s hold no window of 2 s" in made.problems[1].message
    assert "the window at 2 s is flat" in made.problems[2].message


def test_nothing_usable_is_an_empty_part() -> None:
    made = make_windows(make_recording([1.0]), DEAP, RAW)
    assert made.windows.shape == (0, 32, 256)
    assert made.rows == []
    assert made.cleaning == {"stages": [], "notes": [], "removed": {}}


def test_outliers_are_clipped_where_settings_say() -> None:
    recording = make_recording([2.0])
    recording.eeg_uv[3, 200] = 1e6
    made = make_windows(recording, DEAP, RAW.model_copy(update={"clip": 7.0}))
    assert made.windows.max() == 7.0
    assert np.isfinite(made.windows).all()
