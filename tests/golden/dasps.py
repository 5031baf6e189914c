"""Golden DASPS objects, written and opened without the platform: a second opinion on the published layout."""

from __future__ import annotations

import csv
import pprint
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np

CHANNELS = tuple(["AF3", "F7", "F3", "FC5", "T7", "P7", "O1", "O2", "P8", "T8", "FC6", "F4", "F8", "AF4"])
SFREQ_HZ = 128.0
# situation -> (valence, arousal) of each subject
RATINGS = {
    "S01": {1: (1, 8), 2: (3, 9), 3: (2, 7), 4: (5, 4), 5: (6, 1), 6: (7, 3)},
    "S02": {1: (4, 2), 2: (9, 6), 3: (1, 1), 4: (8, 5), 5: (5, 9), 6: (2, 4)},
}


def build(root: Path) -> list[dict[str, Any]]:
    """Writes two subjects and the ratings; returns what a reader must find, trial by trial."""
    root.mkdir(parents=True, exist_ok=True)
    expected = []
    for number, (subject, ratings) in enumerate(RATINGS.items(), start=1):
        segment, sample, column = np.ogrid[:12, :1920, :14]
        data = 100000.0 * number + 1000.0 * (segment + 1) + 10 * (column + 1) + sample / 512
        path = root / f"{subject}preprocessed.mat"
        with h5py.File(path, "w", userblock_size=512) as file:
            file["data"] = data.astype("<f4")
            file["data"].attrs["MATLAB_class"] = np.bytes_(b"single")
        with path.open("r+b") as stream:
            stream.write(b"MATLAB 7.3 MAT-file, Platform: PCWIN64".ljust(124) + b"\x00\x02IM")
        for n in range(12):
            valence, arousal = ratings[n // 2 + 1]
            base = 100000 * number + 1000 * (n + 1)
            expected.append(
                {
                    "subject": subject,
                    "session": "1",
                    "trial": str(n + 1),
                    "stimulus": f"situation{n // 2 + 1}",
                    "rating": {"valence": valence, "arousal": arousal},
                    "emotion": None,
                    "valence": valence - 5,
                    "arousal": arousal - 5,
                    "samples": 1920,
                    "first": np.float32([base + 10 * c for c in range(1, 15)]),
                    "last": np.float32([base + 10 * c + 1919 / 512 for c in range(1, 15)]),
                    "rest_samples": None,
                }
            )
    rows = [f"{subject},{n},{v},{a}" for subject, rated in RATINGS.items() for n, (v, a) in rated.items()]
    (root / "sam_ratings.csv").write_bytes("\r\n".join(["subject,situation,valence,arousal", *rows, ""]).encode())
    return expected


def inspect(root: Path) -> dict[str, Any]:
    """How a copy is built: container, variable, type, shape, table."""
    found: dict[str, Any] = {}
    for path in sorted(root.glob("*.mat")):
        header = path.read_bytes()[:128]
        with h5py.File(path, "r") as file:
            data = file["data"]
            found[path.name] = {
                "header": (header[:38], header[124:]),
                "userblock": file.userblock_size,
                "variables": sorted(file),
                "data": (data.dtype.str, data.shape, bytes(data.attrs["MATLAB_class"])),
            }
    raw = (root / "sam_ratings.csv").read_bytes()
    heading, *rows = csv.reader(raw.decode().splitlines())
    found["sam_ratings.csv"] = {
        "line end": raw[-2:],
        "heading": heading,
        "rows": [row[:2] for row in rows if f"{row[0]}preprocessed.mat" in found],
        "whole numbers": all(cell.isdigit() for row in rows for cell in row[2:]),
    }
    return found


def labels_of(root: Path) -> dict[tuple[str, str, str], tuple[float, float]]:
    """(subject, session, trial) -> (valence, arousal) as the table holds them."""
    with (root / "sam_ratings.csv").open(newline="") as stream:
        rows = [
            (row["subject"], int(row["situation"]), row["valence"], row["arousal"]) for row in csv.DictReader(stream)
        ]
    return {
        (subject, "1", str(trial)): (float(valence), float(arousal))
        for subject, situation, valence, arousal in rows
        for trial in (2 * situation - 1, 2 * situation)
    }


if __name__ == "__main__":
    build(Path(sys.argv[1]))
    pprint.pprint(inspect(Path(sys.argv[1])))
