"""Our readers against TorchEEG's, the field's most used ones, on simulated copies: same trials, labels and samples.

``make test-torcheeg`` gives it an interpreter of its own. What TorchEEG filters or resamples before it lets go of it
(SEED-V, MAHNOB-HCI) is compared by label and length only.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emod.catalog import SimulateSettings, load_corpus
from emod.corpora import Trial, open_corpus, simulate_corpus
from emod.simulation import TagSignal

READ = Path(__file__).with_name("read_with_torcheeg.py")
WORDS = {
    "seed": {-1: "negative", 0: "neutral", 1: "positive"},
    "seed_iv": dict(enumerate(("neutral", "sad", "fear", "happy"))),
    "seed_v": dict(enumerate(("disgust", "fear", "sad", "neutral", "happy"))),
    "faced": dict(
        enumerate(
            "anger disgust fear sadness neutral amusement inspiration joy tenderness".split()  # noqa: SIM905
        )
    ),
}

pytestmark = [pytest.mark.torcheeg, pytest.mark.timeout(1800)]


def place(name: str, row: dict[str, Any], dates: dict[str, list[int]]) -> tuple[int, str, int]:
    """(subject number, session, trial number) as the platform counts them."""
    if name == "seed":
        session = str(1 + sorted(dates[str(row["subject_id"])]).index(row["date"]))
        return row["subject_id"], session, int(row["trial_id"].rpartition("_eeg")[2])
    if name == "seed_iv":
        return row["subject_id"], row["session"], row["trial_id"]
    if name == "seed_v":
        return int(row["subject_id"]), row["session_id"], row["trial_id"] + 1
    if name == "deap":
        return int(row["subject_id"][1:3]), "1", row["trial_id"] + 1
    if name == "dreamer":
        return row["subject_id"] + 1, "1", row["trial_id"] + 1
    return int(row["subject_id"]), "1", row["trial_id"] + 1


def number(text: str) -> int:
    return int("".join(character for character in text if character.isdigit()))


@pytest.mark.parametrize("name", ["amigos", "deap", "dreamer", "faced", "mahnob_hci", "seed", "seed_iv", "seed_v"])
def test_torcheeg_finds_the_same(name: str, tmp_path: Path) -> None:
    catalog = load_corpus(name)
    # TorchEEG's times of SEED-V are built in, so that copy has its true length.
    time_scale = 1.0 if name == "seed_v" else min(1.0, 6 / catalog.longest_trial_s)
    settings = SimulateSettings(subjects=1 if name == "seed_v" else 2, time_scale=time_scale)
    simulate_corpus(name, str(tmp_path), settings, TagSignal())
    lines = subprocess.run(
        [os.environ["EMOD_TORCHEEG"], READ, name, tmp_path], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    theirs = [json.loads(line) for line in lines]
    dates: dict[str, list[int]] = {}
    for row in theirs:
        if "date" in row and row["date"] not in dates.setdefault(str(row["subject_id"]), []):
            dates[str(row["subject_id"])].append(row["date"])

    ours: dict[Any, Trial] = {}
    for trial in open_corpus(name, tmp_path, strict=True).trials():
        if name == "mahnob_hci":
            ours[Path(trial.source).parent.name] = trial
        else:
            ours[number(trial.subject), trial.session, number(trial.trial)] = trial
    assert len(theirs) == len(ours)
    for row in theirs:
        trial = ours.pop(row["folder"] if name == "mahnob_hci" else place(name, row, dates))
        if name == "mahnob_hci":
            assert int(row["subject_id"]) == number(trial.subject)
            assert trial.stimulus in row["trial_id"] or row["trial_id"] in trial.stimulus
            assert trial.rating == {"valence": row["feltVlnc"], "arousal": row["feltArsl"]}
        elif name in WORDS:
            assert trial.emotion == WORDS[name][row["emotion"]]
        else:
            assert trial.rating == {"valence": row["valence"], "arousal": row["arousal"]}
        seconds = trial.eeg_uv.shape[1] / trial.sfreq_hz
        rate_hz = {"seed_v": 200, "mahnob_hci": 128}.get(name, trial.sfreq_hz)
        assert row["shape"] == [len(trial.channels), pytest.approx(seconds * rate_hz, abs=2)]
        if name not in ("seed_v", "mahnob_hci"):
            np.testing.assert_array_equal(row["early"], trial.eeg_uv[:, 37])
            np.testing.assert_array_equal(row["last"], trial.eeg_uv[:, -1])
    assert ours == {}
