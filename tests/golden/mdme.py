"""Golden MDME folders, written and opened without the platform: a second opinion on the published layout.

Subject 1 has the resting state first and its clips in order, subject 10 has no rest and its clips in another order,
subject 2 has the rest in two stretches. Clips are short but of true form: whole seconds, an id in the last row.
"""

from __future__ import annotations

import csv
import pprint
import sys
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

# As EMOD's code lists them, the older names of four sites replaced.
CHANNELS = tuple(
    ["Fp1", "Fp2", "Fz", "F3", "F4", "F7", "F8", "Cz", "C3", "C4", "T7", "T8", "P3", "P4", "P7", "P8", "O1", "O2"]
)
SFREQ_HZ = 300.0
ORDERS = {
    "1": [40, *range(32)],
    "2": [40, *range(16), 40, *range(16, 32)],
    "10": [*reversed(range(32))],
}


def build(root: Path) -> list[dict[str, Any]]:
    """Writes three subjects; returns what a reader must find, trial by trial."""
    expected = []
    for subject, order in ORDERS.items():
        parts, rows = [], []
        for clip in order:
            samples = 300 * (1 + clip % 3)
            base = 1000.0 * int(subject) + 25 * clip
            row, sample = np.ogrid[1:20, :samples]
            part = base + 0.5 * row + sample / 1024
            part[18] = clip
            parts.append(part)
            if clip != 40:
                rows.append((clip, 1 + clip % 9, 9 - clip // 4, 5))  # clip, arousal, valence, dominance
        for clip in range(32):
            samples, base = 300 * (1 + clip % 3), 1000.0 * int(subject) + 25 * clip
            expected.append(
                {
                    "subject": subject,
                    "session": "1",
                    "trial": str(clip),
                    "stimulus": f"clip{clip}",
                    "rating": {"valence": 9 - clip // 4, "arousal": 1 + clip % 9},
                    "emotion": None,
                    "valence": 4 - clip // 4,
                    "arousal": clip % 9 - 4,
                    "samples": samples,
                    "first": np.float32([base + 0.5 * c for c in range(1, 19)]),
                    "last": np.float32([base + 0.5 * c + (samples - 1) / 1024 for c in range(1, 19)]),
                    "rest_samples": None,
                }
            )
        folder = root / subject / subject
        folder.mkdir(parents=True, exist_ok=True)
        eeg = np.concatenate(parts, axis=1).astype("f4")
        content: dict[str, Any] = {
            "ppg_fea_datas": np.ones((2, 45)),
            "ppg_datas": np.ones((2, 100)),
            "dis_label": np.zeros((32, 10)),
            "eeg_datas": eeg,
            "gsr_datas": np.ones((2, 4)),
            "gsr_fea_datas": np.ones((2, 51)),
        }
        scipy.io.savemat(root / subject / "datas.mat", content, do_compression=subject != "2")
        with (folder / "Arousal_Valence.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows(rows[::2] + rows[1::2])
    return expected


def inspect(root: Path) -> dict[str, Any]:
    """How a copy is built: container, variables, types, rows, order of clips, table; lengths are left out."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("datas.mat")):
        content = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith("__")}
        eeg = content["eeg_datas"]
        ids = eeg[18]
        starts = np.flatnonzero(np.diff(ids, prepend=-1))
        found[f"{path.parent.name}/datas.mat"] = {
            "container": (path.read_bytes()[:19], path.read_bytes()[128]),
            "variables": {name: (value.dtype.str, value.shape[0]) for name, value in sorted(content.items())},
            "clips": ids[starts].tolist(),
            "whole seconds": bool((np.diff([*starts, len(ids)]) % 300 == 0).all()),
        }
        with (path.parent / path.parent.name / "Arousal_Valence.csv").open(newline="") as stream:
            rows = list(csv.reader(stream))
        found[f"{path.parent.name}/ratings"] = {
            "clips": sorted(int(row[0]) for row in rows),
            "columns": {len(row) for row in rows},
            "whole numbers of 1..9": all(cell.isdigit() and 1 <= int(cell) <= 9 for row in rows for cell in row[1:]),
        }
    return found


def labels_of(root: Path) -> dict[tuple[str, str, str], tuple[float, float]]:
    """(subject, session, trial) -> (valence, arousal): columns 2 and 1 of each table."""
    found = {}
    for path in root.glob("*/*/Arousal_Valence.csv"):
        with path.open(newline="") as stream:
            for clip, arousal, valence, _ in csv.reader(stream):
                found[path.parent.name, "1", clip] = (float(valence), float(arousal))
    return found


if __name__ == "__main__":
    build(Path(sys.argv[1]))
    pprint.pprint(inspect(Path(sys.argv[1])))
