"""One recording to windows, without Ray: what is stored, what is listed instead."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from emod.catalog import load_corpus
from emod.catalog.signal import IcaSettings, QualitySettings, SignalSettings
from emod.corpora import Problem, Recording, TrialSpan
from emod.ingest import make_windows
from emod.shards import METADATA
from emod.signal.serving import clean_windows, normalise_windows

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
    assert all(set(row) == set(METADATA.names) for row in made.rows)


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
    assert "1 of 3 windows, at 2 s: flat after cleaning" in made.problems[2].message
    assert made.quality["windows"] == {"kept": 2, "rejected": {"flat": 1}}


def test_nothing_usable_is_an_empty_part() -> None:
    made = make_windows(make_recording([1.0]), DEAP, RAW)
    assert made.windows.shape == (0, 32, 256)
    assert made.rows == []
    assert made.cleaning == {"stages": [], "notes": [], "removed": {}}


def test_outliers_are_clipped_where_settings_say() -> None:
    recording = make_recording([10.0])
    recording.eeg_uv[3, 200] = 900
    made = make_windows(recording, DEAP, RAW.model_copy(update={"clip": 7.0}))
    assert made.windows.max() == 7.0
    assert np.isfinite(made.windows).all()
    assert [row["clipped_share"] for row in made.rows] == [1 / (32 * 256), 0, 0, 0, 0]
    assert made.quality["clipped_share"] == pytest.approx(1 / (5 * 32 * 256))
    assert made.rows[0]["peak_uv"] == 900


def quality(**changes: Any) -> SignalSettings:
    return RAW.model_copy(update={"quality": QualitySettings(**changes)})


def test_gross_windows_are_rejected_and_named() -> None:
    recording = make_recording([6.0, 4.0])
    first = recording.spans[0].start
    recording.eeg_uv[4, first + 300] = -1200.0
    made = make_windows(recording, DEAP, RAW)
    assert [row["window_id"][-3:] for row in made.rows] == ["1/0", "1/2", "2/0", "2/1"]
    (problem,) = made.problems[1:]
    assert (problem.code, problem.trial) == ("gross", "1")
    assert "1 of 3 windows, at 2 s: above 1000 uV after cleaning" in problem.message
    assert "raise the limit: --set signal.quality.peak_uv=" in problem.message
    assert made.quality["windows"] == {"kept": 4, "rejected": {"gross": 1}}
    for settings in (quality(gross="keep"), quality(peak_uv=1300.0)):
        kept = make_windows(recording, DEAP, settings)
        assert len(kept.rows) == 5
        assert kept.rows[1]["peak_uv"] == 1200.0
        assert kept.problems == recording.problems


def test_windows_at_the_rail_are_rejected_and_measured() -> None:
    recording = make_recording([6.0])
    first = recording.spans[0].start
    railed = slice(first + 256, first + 288)  # a quarter of the second window, all electrodes
    recording.eeg_uv[:, railed] = np.where(np.arange(32) % 16 < 8, 60.0, -60.0)
    made = make_windows(recording, DEAP, RAW)
    assert [row["start_s"] for row in made.rows] == [0.0, 4.0]
    assert made.problems[-1].code == "saturated"
    kept = make_windows(recording, DEAP, quality(saturated="keep"))
    assert [row["saturated_share"] for row in kept.rows] == pytest.approx([0, 32 / 256, 0])
    assert set(kept.quality["electrodes"]["saturated"]) == set(DEAP.channels)
    assert make_windows(recording, DEAP, quality(saturated_share=0.13)).problems == recording.problems


def test_clipped_windows_can_be_rejected() -> None:
    recording = make_recording([6.0])
    first = recording.spans[0].start
    recording.eeg_uv[:2, first : first + 256] *= 22
    assert len(make_windows(recording, DEAP, quality(noisy="keep")).rows) == 3
    made = make_windows(recording, DEAP, quality(noisy="keep", clipped="reject"))
    assert [row["start_s"] for row in made.rows] == [2.0, 4.0]
    assert made.problems[-1].code == "clipped"


def test_interpolated_electrodes_are_counted_in_their_windows() -> None:
    recording = make_recording([6.0, 6.0])
    start = recording.spans[1].start
    recording.eeg_uv[7, start + 384 : start + 640] = 0.0
    made = make_windows(recording, DEAP, RAW)
    # Seconds 3 and 4 of the trial are flat: 2 to 6 are repaired.
    assert [row["n_interpolated"] for row in made.rows] == [0, 0, 0, 0, 1, 1]
    assert made.problems == recording.problems
    assert made.cleaning["stages"] == ["interpolate"]
    assert made.quality["electrodes"]["flat"] == {DEAP.channels[7]: pytest.approx(2 / 14, abs=1e-5)}
    assert made.quality["electrodes"]["interpolated"] == {DEAP.channels[7]: pytest.approx(4 / 14, abs=1e-5)}
    kept = make_windows(recording, DEAP, quality(flat="keep"))
    assert [row["n_interpolated"] for row in kept.rows] == [0] * 6
    refused = make_windows(recording, DEAP, quality(flat="reject"))
    assert [row["window_id"][-3:] for row in refused.rows] == ["1/0", "1/1", "1/2", "2/0"]
    assert refused.problems[-1].code == "bad_electrodes"


def test_a_recording_with_too_many_bad_electrodes_is_rejected_as_one() -> None:
    recording = make_recording([6.0, 3.9])
    recording.eeg_uv[:5] = 0.0
    made = make_windows(recording, DEAP, RAW)
    assert made.rows == []
    assert made.windows.shape == (0, 32, 256)
    (problem,) = made.problems[1:]
    assert (problem.code, problem.trial) == ("bad_electrodes", None)
    assert "none of its 4 windows is used: 5 of 32 electrodes are flat or noisy" in problem.message
    assert "Fp1, AF3, F3, F7, FC5" in problem.message
    assert made.quality["windows"] == {"kept": 0, "rejected": {"bad_electrodes": 4}}
    assert made.quality["spectrum_db"]["after"] is None
    assert made.cleaning["removed"] == {}
    json.dumps(made.quality, allow_nan=False)
    assert len(make_windows(recording, DEAP, quality(most_interpolated=0.16)).rows) == 4


@pytest.mark.parametrize(
    ("factor", "unit", "effect"),
    [(1e-6, "volts", "bad_electrodes"), (1e-3, "millivolts", "bad_electrodes"), (1e3, "nanovolts", "gross")],
)
def test_another_unit_is_told_beside_what_it_leads_to(factor: float, unit: str, effect: str) -> None:
    recording = make_recording([6.0, 4.0])
    recording.eeg_uv[:] *= factor
    made = make_windows(recording, DEAP, RAW)
    assert made.rows == []
    cause, *effects = made.problems[1:]
    assert (cause.code, cause.trial, cause.source) == ("amplitude", None, "somewhere/s07.dat")
    assert f"perhaps {unit}" in cause.message
    assert {problem.code for problem in effects} == {effect}


def test_windows_of_another_unit_are_judged_by_quality_alone() -> None:
    recording = make_recording([6.0])
    recording.eeg_uv[:] *= 1e3
    made = make_windows(recording, DEAP, quality(gross="keep"))
    assert len(made.rows) == 3
    assert [problem.code for problem in made.problems] == ["label", "amplitude"]


def test_line_noise_can_reject_a_recording_and_is_reported() -> None:
    recording = make_recording([20.0])
    time_s = np.arange(recording.eeg_uv.shape[1]) / 128
    recording.eeg_uv[:] += 300 * np.sin(2 * np.pi * DEAP.mains_hz * time_s)
    made = make_windows(recording, DEAP, SignalSettings(window_s=2.0, ica=IcaSettings(enabled=False)))
    line = made.quality["line_noise_db"]
    assert line["before"] > 30 > -5 > line["after"]
    assert len(made.rows) == 10
    refused = make_windows(recording, DEAP, quality(line_noise="reject"))
    assert refused.rows == []
    assert refused.problems[-1].code == "line_noise"
    assert "signal.quality.line_noise" in refused.problems[-1].message


def test_quality_of_a_clean_recording_is_small_json_and_changes_nothing() -> None:
    recording = make_recording([20.0, 10.0])
    settings = SignalSettings(window_s=2.0)
    made = make_windows(recording, DEAP, settings)
    text = json.dumps(made.quality, allow_nan=False)
    assert len(text) < 12_000
    assert json.loads(text) == made.quality
    assert made.quality["seconds"] == 32.0
    assert all(found == {} for found in made.quality["electrodes"].values())
    assert made.quality["windows"] == {"kept": 15, "rejected": {}}
    before, after = (made.quality["spectrum_db"][when] for when in ("before", "after"))
    assert set(before) == set(after) == {"hz", "all", "frontal", "central", "posterior"}
    assert len(before["hz"]) == len(before["all"]) == 128
    # White noise of 10 uV has 2 x 100 / 128 uV^2 per Hz.
    assert np.median(before["all"]) == pytest.approx(10 * np.log10(200 / 128), abs=1)
    assert after["all"][119] < after["all"][39] - 20
    off = QualitySettings(flat="keep", noisy="keep", saturated="keep", gross="keep")
    without = make_windows(recording, DEAP, settings.model_copy(update={"quality": off}))
    np.testing.assert_array_equal(without.windows, made.windows)


def pieces_of_one_window(n: int) -> Recording:
    """Trials of two seconds without anything around them: what a served window sees, too."""
    recording = make_recording([1.0] * n)
    spans = tuple(dataclasses.replace(span, start=span.start - 128, baseline=None) for span in recording.spans)
    return dataclasses.replace(recording, spans=spans)


def test_served_windows_equal_ingested_ones_where_no_electrode_is_bad() -> None:
    recording = pieces_of_one_window(4)
    recording.eeg_uv[11, recording.spans[2].start : recording.spans[2].stop] = 0.0
    settings = SignalSettings(window_s=2.0, ica=IcaSettings(enabled=False))
    made = make_windows(recording, DEAP, settings)
    stored: npt.NDArray[np.floating[Any]] = np.stack([recording.cut(span).eeg_uv for span in recording.spans])
    served, scale_uv = normalise_windows(clean_windows(torch.from_numpy(stored), 128.0, settings), settings.clip)
    agree = [
        np.allclose(ours.astype(np.float32), theirs, rtol=2**-10, atol=1e-3)
        for ours, theirs in zip(made.windows, served.numpy(), strict=True)
    ]
    assert agree == [True, True, False, True]
    assert [row["n_interpolated"] for row in made.rows] == [0, 0, 1, 0]
    np.testing.assert_allclose([row["scale_uv"] for row in made.rows][:2], scale_uv[:2], rtol=1e-9)
