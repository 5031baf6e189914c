"""Golden AMIGOS objects, written and opened without the platform: a second opinion on the published layout.

P01 lies flat, P08 in a folder of its own and without the long videos. Videos are short but of true form. Variables are
stored in an order of their own, and P08 has its clips in another order than P01.
"""

from __future__ import annotations

import pprint
import sys
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

CHANNELS = ("AF3", "F7", "F3", "FC5", "T7", "P7", "O1", "O2", "P8", "T8", "FC6", "F4", "F8", "AF4")
SFREQ_HZ = 128.0
SHORT = "10 13 138 18 19 20 23 30 31 34 36 4 5 58 80 9"
VIDEOS = {
    "P01": [*SHORT.split(), "N1", "P1", "B1", "U1"],
    "P08": [*reversed(SHORT.split()), "N1", "P1", "B1", "U1"],
}


def cells(values: list[Any]) -> Any:
    row = np.empty((1, len(values)), dtype=object)
    for column, value in enumerate(values):
        row[0, column] = value
    return row


def build(root: Path) -> list[dict[str, Any]]:
    """Writes two participants; returns what a reader must find, trial by trial."""
    expected = []
    for participant, (subject, videos) in enumerate(VIDEOS.items(), start=1):
        signals: list[Any] = []
        ratings: list[Any] = []
        annotations: list[Any] = []
        for n in range(1, 21):
            if subject == "P08" and n > 16:
                signals.append(np.empty((0, 0)))
                ratings.append(np.empty((1, 0)) if n % 2 else np.empty((0, 0)))
                annotations.append(np.empty((0, 0)))
                continue
            samples = 640 + 128 * (2 + n % 3) + 7 * n
            base = 10000.0 * participant + 300 * n
            sample, column = np.ogrid[:samples, :17]
            signals.append(base + 10 * (column + 1) + sample / 1024)
            arousal, valence = 1 + 0.4 * (n - 1), 9 - 0.3 * (n - 1)
            ratings.append(np.array([[arousal, valence, 2.5, 7.5, 3.5, 0, 0, 1, 0, 0, 0, 0]]))
            annotations.append(np.array([[1, -0.25, 0.5]]))
            expected.append(
                {
                    "subject": subject,
                    "session": "1",
                    "trial": str(n),
                    "stimulus": videos[n - 1],
                    "rating": {"valence": valence, "arousal": arousal},
                    "emotion": None,
                    "valence": valence - 5,
                    "arousal": arousal - 5,
                    "samples": samples - 640,
                    "first": [base + 10 * c + 640 / 1024 for c in range(1, 15)],
                    "last": [base + 10 * c + (samples - 1) / 1024 for c in range(1, 15)],
                    "rest_samples": 640,
                    "rest_first": [base + 10 * c for c in range(1, 15)],
                    "rest_last": [base + 10 * c + 639 / 1024 for c in range(1, 15)],
                }
            )
        folder = root / "data_preprocessed" / ("" if subject == "P01" else f"Data_Preprocessed_{subject}")
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "labels_selfassessment": cells(ratings),
            "joined_data": cells(signals),
            "labels_ext_annotation": cells(annotations),
            "VideoIDs": cells(list(videos)),
        }
        scipy.io.savemat(folder / f"Data_Preprocessed_{subject}.mat", content, do_compression=subject == "P01")
    return expected


def inspect(root: Path) -> dict[str, Any]:
    """How a copy is built: container, variables by name, types and shapes; lengths of videos are left out."""
    found: dict[str, Any] = {}
    for path in sorted((root / "data_preprocessed").rglob("*.mat")):
        content = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith("__")}
        found[path.name] = {
            "container": (path.read_bytes()[:19], path.read_bytes()[128]),
            "variables": {name: value.shape for name, value in sorted(content.items())},
            "joined_data": [(cell.dtype.str, cell.shape[1]) for cell in content["joined_data"][0]],
            "whole seconds of rest": all(len(cell) == 0 or len(cell) > 768 for cell in content["joined_data"][0]),
            "labels_selfassessment": [(cell.dtype.str, cell.shape) for cell in content["labels_selfassessment"][0]],
            "words": [cell[0, 5:].sum() for cell in content["labels_selfassessment"][0] if cell.size],
            "labels_ext_annotation": [cell.shape[1] for cell in content["labels_ext_annotation"][0]],
            "VideoIDs": [cell.item() for cell in content["VideoIDs"][0]],
        }
    return found


def labels_of(root: Path) -> dict[tuple[str, str, str], tuple[float, float]]:
    """(subject, session, trial) -> (valence, arousal): columns 1 and 0 of the participants' own ratings."""
    found = {}
    for path in (root / "data_preprocessed").rglob("*.mat"):
        rows = scipy.io.loadmat(path, variable_names=["labels_selfassessment"])["labels_selfassessment"][0]
        found |= {
            (path.stem[-3:], "1", str(n)): (float(row[0, 1]), float(row[0, 0]))
            for n, row in enumerate(rows, start=1)
            if row.size
        }
    return found


if __name__ == "__main__":
    build(Path(sys.argv[1]))
    pprint.pprint(inspect(Path(sys.argv[1])))
