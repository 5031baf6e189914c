"""What a simulated copy says about itself, the labels it draws, and the job that writes one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emod.affect import va_region
from emod.catalog import SimulateSettings, load_corpus
from emod.corpora import READERS, open_corpus, simulate_corpus
from emod.corpora.marker import scaled_seconds
from emod.errors import DataError
from emod.simulation import TagSignal

JOB = Path(__file__).parents[2] / "jobs" / "simulate.py"


@pytest.mark.parametrize(
    ("published_s", "time_scale", "expected_s"),
    [(60, 1.0, 60), (60, 0.5, 30), (15, 0.2, 3), (15, 0.01, 2), (140, 0.031, 4), (0.5, 1.0, 0.5), (1.5, 0.5, 1.5)],
)
def test_scaled_trials_are_whole_seconds_and_at_least_two(
    published_s: float, time_scale: float, expected_s: float
) -> None:
    assert scaled_seconds(published_s, time_scale) == expected_s


def test_marker_is_plain_json(tmp_path: Path) -> None:
    simulate_corpus("dasps", str(tmp_path), SimulateSettings(subjects=1, trials=2, time_scale=0.2), TagSignal())
    marker = json.loads((tmp_path / "SIMULATED.json").read_text())
    settings = marker.pop("settings")
    assert len(settings) == 64
    assert marker.pop("note")
    assert marker == {
        "simulated": True,
        "corpus": "dasps",
        "subjects": 1,
        "sessions": 1,
        "trials": 2,
        "time_scale": 0.2,
        "signal": "TagSignal",
    }


@pytest.mark.parametrize("content", ["", "{}", '{"simulated": false}', "[1", '{"simulated": true, "corpus": "dasps"}'])
def test_marker_that_cannot_be_read_stops(tmp_path: Path, content: str) -> None:
    (tmp_path / "SIMULATED.json").write_text(content)
    with pytest.raises(DataError, match=r"SIMULATED\.json") as caught:
        _ = open_corpus("dasps", tmp_path).simulated
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["deap", "dasps"])
def test_ratings_fill_the_plane_and_belong_to_clips_and_people(name: str) -> None:
    """Clips explain most of what people answer, not all of it; ratings stand on the scale's own steps."""
    reader = READERS[name]("nowhere")
    plans = reader.plan_recordings(SimulateSettings(subjects=load_corpus(name).subjects))
    places = np.array(
        [[(p.valence, p.arousal) for piece in plan.pieces for p in piece if not p.rest] for plan in plans], dtype=float
    )  # (subjects, trials, 2)
    assert np.abs(places).max() <= 4
    between_clips = places.mean(axis=0).var(axis=0)
    assert (between_clips > 0.3 * places.var(axis=(0, 1))).all()
    assert (places.std(axis=0).mean(axis=0) > 0.5).all()
    assert set(va_region(places[..., 0], places[..., 1]).ravel().tolist()) == set(range(9))
    for half in (places > 0, places < 0):
        assert (half.mean(axis=(0, 1)) > 0.25).all()  # neither half of an axis is rare
    step = 1.0 if name == "dasps" else 0.01
    np.testing.assert_allclose(np.round((places + 5) / step) * step, places + 5, atol=1e-9)
    assert (reader.plan_recordings(SimulateSettings(subjects=1))[0].pieces) == plans[0].pieces
    other = SimulateSettings(subjects=1, brain={"seed": 1})
    assert reader.plan_recordings(other)[0].pieces != plans[0].pieces


def test_plan_says_what_the_owner_did_to_the_signal() -> None:
    settings = SimulateSettings(subjects=1, sessions=1, trials=1)
    (deap,) = READERS["deap"]("nowhere").plan_recordings(settings)
    (seed_iv,) = READERS["seed_iv"]("nowhere").plan_recordings(settings)
    (dasps,) = READERS["dasps"]("nowhere").plan_recordings(settings)
    assert (deap.artefacts, deap.band_hz, deap.average_reference) == (False, (4, 45), True)
    assert (seed_iv.artefacts, seed_iv.band_hz, seed_iv.average_reference) == (True, None, False)
    assert (dasps.artefacts, dasps.band_hz, dasps.average_reference) == (False, (4, 45), False)


def run_job(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(JOB), *arguments], capture_output=True, text=True, check=False)


def test_job_writes_a_copy_that_is_read(tmp_path: Path) -> None:
    out = str(tmp_path / "copy")
    options = ["--corpus", "dasps", "--out", out, "--subjects", "2", "--trials", "4", "--time-scale", "0.2"]
    done = run_job(*options, "--effect", "strong", "--seed", "3")
    assert done.returncode == 0, done.stderr
    assert "simulate: 2/2 subject S02" in done.stderr
    trials = list(open_corpus("dasps", out, strict=True).trials())
    assert len(trials) == 8
    assert 1 < np.median([trial.eeg_uv.std() for trial in trials]) < 100
    again = run_job(*options)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "not empty" in again.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--corpus", "daps"], "did you mean dasps"),
        (["--subjects", "24"], "simulate.subjects = 24"),
        (["--time-scale", "1.5"], "time_scale = 1.5"),
        (["--seed", "-1"], "brain.seed = -1"),
    ],
)
def test_job_words_wrong_requests_in_one_line(tmp_path: Path, change: list[str], words: str) -> None:
    out = tmp_path / "copy"
    done = run_job("--corpus", "dasps", "--out", str(out), "--subjects", "1", *change)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert words in done.stderr
    assert not out.exists()


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "copy"
    done = run_job("--corpus", "deap", "--out", str(out), "--subjects", "3", "--dry-run")
    assert done.returncode == 0
    assert "3 recordings, 126.0 minutes" in done.stdout
    assert "subjects: 3" in done.stdout
    assert not out.exists()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import runpy, sys; sys.argv = ['simulate.py', '--help']\n"
        f"try: runpy.run_path({str(JOB)!r}, run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'numpy', 'scipy', 'mne', 'h5py', 'pydantic', 'fsspec', 'ray', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
