"""A golden DREAMER.mat, written and opened without the platform: a second opinion on the published layout.

Two subjects of true form, 61 s of rest and short films. Fields are stored in an order of their own, scores first, so a
reader that trusts it is caught.
"""

from __future__ import annotations

import pprint
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

CHANNELS = ("AF3", "F7", "F3", "FC5", "T7", "P7", "O1", "O2", "P8", "T8", "FC6", "F4", "F8", "AF4")
SFREQ_HZ = 128.0
VALENCE = "4 3 5 4 4 1 5 1 2 1 3 5 5 2 4 3 1 2", "5 2 1 3 3 4 1 5 2 2 4 1 3 5 1 4 2 5"
AROUSAL = "3 3 4 3 4 4 3 1 4 5 3 2 5 4 1 2 2 5", "1 5 2 4 2 3 5 4 1 3 1 5 2 4 3 1 5 3"


def build(root: Path) -> list[dict[str, Any]]:
    """Writes two subjects; returns what a reader must find, trial by trial."""
    root.mkdir(parents=True, exist_ok=True)
    expected = []
    data = np.empty((1, 2), dtype=object)
    for s in range(2):
        signals: dict[str, Any] = {name: np.empty((18, 1), dtype=object) for name in ("stimuli", "baseline")}
        hearts: dict[str, Any] = {name: np.empty((18, 1), dtype=object) for name in ("stimuli", "baseline")}
        scores = {"valence": VALENCE[s].split(), "arousal": AROUSAL[s].split()}
        for k in range(18):
            base = 20000.0 * (s + 1) + 500 * (k + 1)
            rows = {"baseline": 7808, "stimuli": 128 * (2 + k % 3)}
            sample, column = np.ogrid[:7808, :14]
            signals["baseline"][k, 0] = -base - 20 * (column + 1) - sample / 1024
            sample, column = np.ogrid[: rows["stimuli"], :14]
            signals["stimuli"][k, 0] = base + 20 * (column + 1) + sample / 1024
            for name, count in rows.items():
                hearts[name][k, 0] = np.full((2 * count, 2), 2048.0)
            valence, arousal = int(scores["valence"][k]), int(scores["arousal"][k])
            samples = rows["stimuli"]
            expected.append(
                {
                    "subject": str(s + 1),
                    "session": "1",
                    "trial": str(k + 1),
                    "stimulus": f"film{k + 1}",
                    "rating": {"valence": valence, "arousal": arousal},
                    "emotion": None,
                    "valence": 2 * (valence - 3),
                    "arousal": 2 * (arousal - 3),
                    "samples": samples,
                    "first": [base + 20 * c for c in range(1, 15)],
                    "last": [base + 20 * c + (samples - 1) / 1024 for c in range(1, 15)],
                    "rest_samples": 7808,
                    "rest_first": [-base - 20 * c for c in range(1, 15)],
                    "rest_last": [-base - 20 * c - 7807 / 1024 for c in range(1, 15)],
                }
            )
        data[0, s] = {
            "ScoreDominance": np.full((18, 1), 3, np.uint8),
            "ScoreArousal": np.array([[int(score)] for score in scores["arousal"]], np.uint8),
            "ScoreValence": np.array([[int(score)] for score in scores["valence"]], np.uint8),
            "ECG": hearts,
            "Gender": "male",
            "EEG": signals,
            "Age": "22",
        }
    electrodes = np.empty((1, 14), dtype=object)
    electrodes[0] = CHANNELS
    dreamer = {
        "noOfVideoSequences": 18.0,
        "noOfSubjects": 2.0,
        "EEG_Electrodes": electrodes,
        "Acknowledgement": "Grant.",
        "Data": data,
        "Version": "1.0.2",
        "Provider": "University",
        "Disclaimer": "While every care has been taken.",
        "ECG_SamplingRate": 256.0,
        "EEG_SamplingRate": 128.0,
    }
    path = root / "DREAMER.mat"
    scipy.io.savemat(path, {"DREAMER": dreamer}, do_compression=True, long_field_names=True)
    return expected


def inspect(root: Path) -> dict[str, Any]:
    """How a copy is built: container, fields by name, types, shapes; lengths of films are left out."""
    raw = (root / "DREAMER.mat").read_bytes()
    content = scipy.io.loadmat(root / "DREAMER.mat")["DREAMER"]
    top = content[0, 0]
    found: dict[str, Any] = {
        "container": (raw[:19], raw[124:128], struct.unpack("<I", raw[128:132])),
        "DREAMER": (content.shape, sorted(content.dtype.names)),
        "facts": {name: (top[name].shape, top[name].item()) for name in ("EEG_SamplingRate", "ECG_SamplingRate")}
        | {
            "videos": top["noOfVideoSequences"].item(),
            "columns": [str(name.item()) for name in top["EEG_Electrodes"][0]],
        },
        "texts": [top[name].dtype.kind for name in ("Disclaimer", "Provider", "Version", "Acknowledgement")],
    }
    assert top["EEG_Electrodes"].shape == (1, 14)
    assert top["Data"].shape == (1, top["noOfSubjects"].item())
    for number, subject in enumerate(top["Data"][0], start=1):
        cell: dict[str, Any] = {"struct": (subject.shape, sorted(subject.dtype.names))}
        inside = subject[0, 0]
        for name in ("ScoreValence", "ScoreArousal", "ScoreDominance"):
            cell[name] = (inside[name].dtype.str, inside[name].shape)
        for name, ratio in (("EEG", 1), ("ECG", 2)):
            halves = inside[name]
            assert halves.shape == (1, 1)
            cell[name] = sorted(halves.dtype.names)
            for half in cell[name]:
                parts = halves[0, 0][half]
                assert parts.shape == (18, 1)
                cell[f"{name}.{half}"] = [
                    (part.dtype.str, part.shape[1], half == "stimuli" or part.shape[0], part.shape[0] % (128 * ratio))
                    for part in parts[:, 0]
                ]
            lengths = [[part.shape[0] for part in inside["EEG"][0, 0][half][:, 0]] for half in ("baseline", "stimuli")]
            mine = [[part.shape[0] for part in halves[0, 0][half][:, 0]] for half in ("baseline", "stimuli")]
            assert mine == [[ratio * length for length in row] for row in lengths]
        found[f"Data/{number}"] = cell
    return found


def labels_of(root: Path) -> dict[tuple[str, str, str], tuple[float, float]]:
    """(subject, session, trial) -> (valence, arousal) as the scores hold them."""
    data = scipy.io.loadmat(root / "DREAMER.mat", variable_names=["DREAMER"])["DREAMER"][0, 0]["Data"]
    return {
        (str(s + 1), "1", str(k + 1)): (
            float(data[0, s]["ScoreValence"][0, 0][k, 0]),
            float(data[0, s]["ScoreArousal"][0, 0][k, 0]),
        )
        for s in range(data.shape[1])
        for k in range(18)
    }


if __name__ == "__main__":
    build(Path(sys.argv[1]))
    pprint.pprint(inspect(Path(sys.argv[1])))
