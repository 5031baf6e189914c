"""Golden SEED-IV objects, written and opened without the platform: a second opinion on the published layout.

Short clips of true form: 24 variables a file, 62 rows, 200 k + 1 samples. Variables are stored in an order of their
own, so a reader that trusts it is caught.
"""

from __future__ import annotations

import pprint
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

_NAMES = """
Fp1 Fpz Fp2 AF3 AF4 F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 T7 C5 C3 C1 Cz C2 C4 C6 T8
TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO5 PO3 POz PO4 PO6 PO8 CB1 O1 Oz O2 CB2
"""
CHANNELS = tuple(_NAMES.split())
SFREQ_HZ = 200.0
# As the owner prints them: 0 neutral, 1 sad, 2 fear, 3 happy.
LABELS = {
    "1": "1 2 3 0 2 0 0 1 0 1 2 1 1 1 2 3 2 2 3 3 0 3 0 3",
    "2": "2 1 3 0 0 2 0 2 3 3 2 3 2 0 1 1 2 1 0 3 0 1 3 1",
    "3": "1 2 2 1 3 3 3 1 1 2 1 0 2 3 3 0 2 3 0 0 2 0 1 0",
}
# (valence, arousal) of EMOD's released table, on [-4, 4]
WORDS = {"0": ("neutral", 0, 0), "1": ("sad", -1, 1), "2": ("fear", -1, 2), "3": ("happy", 3, 2)}
FILES = {("1", "1"): "cz_{}_20160518", ("1", "2"): "cz_{}_20161125", ("1", "3"): "cz_{}_20161126"} | {
    ("10", "1"): "ww_{}_20151014",
    ("2", "3"): "ha_{}_20151012",
}


def build(root: Path) -> list[dict[str, Any]]:
    """Writes five sessions of three subjects; returns what a reader must find, in its order."""
    expected = []
    for (subject, session), name in sorted(FILES.items(), key=lambda item: (int(item[0][0]), item[0][1])):
        initials, _, date = name.split("_")
        variables = {}
        for trial, code in enumerate(LABELS[session].split(), start=1):
            samples = 200 * (1 + trial % 3) + 1
            base = 100000 * int(subject) + 10000 * int(session) + 100 * trial
            row, sample = np.ogrid[:62, :samples]
            variables[f"{initials}_eeg{trial}"] = base + (row + 1) + sample / 1024
            word, valence, arousal = WORDS[code]
            expected.append(
                {
                    "subject": subject,
                    "session": session,
                    "trial": str(trial),
                    "stimulus": f"s{session}c{trial:02d}",
                    "rating": None,
                    "emotion": word,
                    "valence": valence,
                    "arousal": arousal,
                    "samples": samples,
                    "first": [base + c for c in range(1, 63)],
                    "last": [base + c + (samples - 1) / 1024 for c in range(1, 63)],
                    "rest_samples": None,
                }
            )
        folder = root / "eeg_raw_data" / session
        folder.mkdir(parents=True, exist_ok=True)
        stored = {key: variables[key] for key in sorted(variables, reverse=True)}
        scipy.io.savemat(folder / f"{subject}_{date}.mat", stored, do_compression=subject == "10")
    rows = [f"session{session}_label = [{','.join(codes.split())}];" for session, codes in LABELS.items()]
    (root / "ReadMe.txt").write_text("The labels of the three sessions are as follows,\n" + "\n".join(rows) + "\n")
    return expected


def inspect(root: Path) -> dict[str, Any]:
    """How a copy is built: container, variables in order of number, types, rows, label rows. Dates are left out."""
    found: dict[str, Any] = {}
    for path in sorted((root / "eeg_raw_data").rglob("*.mat")):
        subject = re.fullmatch(r"(\d+)_\d{8}\.mat", path.name)[1]
        content = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith("__")}
        numbered = sorted(content, key=lambda name: int(name.rpartition("_eeg")[2]))
        found[f"eeg_raw_data/{path.parent.name}/{subject}"] = {
            "container": path.read_bytes()[:19],
            "initials": sorted({name.rpartition("_eeg")[0] for name in numbered}),
            "variables": [
                (name.rpartition("_")[2], content[name].dtype.str, content[name].shape[0], content[name].shape[1] % 200)
                for name in numbered
            ],
        }
    found["ReadMe.txt"] = re.findall(r"session\d_label = \[[\d,]+\];", (root / "ReadMe.txt").read_text())
    return found


def labels_of(root: Path) -> dict[tuple[str, str, str], tuple[float, float]]:
    """(subject, session, trial) -> (valence, arousal) of the table above, for the sessions that a copy holds."""
    return {
        (path.name.partition("_")[0], path.parent.name, str(n)): WORDS[code][1:]
        for path in (root / "eeg_raw_data").rglob("*.mat")
        for n, code in enumerate(LABELS[path.parent.name].split(), start=1)
    }


if __name__ == "__main__":
    build(Path(sys.argv[1]))
    pprint.pprint(inspect(Path(sys.argv[1])))
