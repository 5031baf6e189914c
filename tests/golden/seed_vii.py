"""Golden SEED-VII objects, written and opened without the platform: a second opinion on the published layout.

Short clips of true form: 80 variables a file, 62 rows, 200 k samples. Variables are stored in an order of their own.
"""

from __future__ import annotations

import pprint
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import scipy.io

_NAMES = """
Fp1 Fpz Fp2 AF3 AF4 F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 T7 C5 C3 C1 Cz C2 C4 C6 T8
TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO5 PO3 POz PO4 PO6 PO8 CB1 O1 Oz O2 CB2
"""
CHANNELS = tuple(_NAMES.split())
SFREQ_HZ = 200.0
# Each session shows these ten twice: happy, neutral, disgust, sad, anger, fear, surprise by two letters.
ORDER = {
    1: "ha ne di sa an an sa di ne ha",
    2: "an sa fe ne su su ne fe sa an",
    3: "ha su di fe an an fe di su ha",
    4: "di sa fe su ha ha su fe sa di",
}
# (valence, arousal) of EMOD's released table, on [-4, 4]
WORDS = {
    "ha": ("Happy", 3, 2),
    "ne": ("Neutral", 0, 0),
    "di": ("Disgust", -2, 1),
    "sa": ("Sad", -1, 1),
    "an": ("Anger", -1, 2),
    "fe": ("Fear", -1, 2),
    "su": ("Surprise", 0, 2),
}
CODES = [code for session in range(1, 5) for code in ORDER[session].split() * 2]
SHEETS = ("emotion_label_and_stimuli_order.xlsx", "Channel Order.xlsx")


def build(root: Path) -> list[dict[str, Any]]:
    """Writes three subjects; returns what a reader must find, in its order."""
    folder = root / "EEG_preprocessed"
    folder.mkdir(parents=True)
    expected = []
    for subject in ("1", "2", "10"):
        variables = {}
        for trial, code in enumerate(CODES, start=1):
            samples = 200 * (1 + trial % 2)
            base = 100000 * int(subject) + 100 * trial
            row, sample = np.ogrid[:62, :samples]
            variables[str(trial)] = base + (row + 1) + sample / 1024
            word, valence, arousal = WORDS[code]
            expected.append(
                {
                    "subject": subject,
                    "session": str((trial - 1) // 20 + 1),
                    "trial": str(trial),
                    "stimulus": str(trial),
                    "rating": None,
                    "emotion": word.lower(),
                    "valence": valence,
                    "arousal": arousal,
                    "samples": samples,
                    "first": [base + c for c in range(1, 63)],
                    "last": [base + c + (samples - 1) / 1024 for c in range(1, 63)],
                    "rest_samples": None,
                }
            )
        stored = {key: variables[key] for key in sorted(variables)}  # as text: 1, 10, 11, ...
        scipy.io.savemat(folder / f"{subject}.mat", stored, do_compression=subject == "2")
    for name, rows in zip(SHEETS, (_label_rows(), [[name.upper()] for name in CHANNELS]), strict=True):
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        book.save(root / name)
    return expected


def _label_rows() -> list[list[Any]]:
    rows: list[list[Any]] = []
    for session in range(1, 5):
        numbers = range(20 * session - 19, 20 * session + 1)
        rows.append([f"Session {session}", *numbers])
        rows.append([None, *(WORDS[CODES[number - 1]][0] for number in numbers)])
    return rows


def inspect(root: Path) -> dict[str, Any]:
    """How a copy is built: container, variables in order of number, types, rows, workbooks."""
    found: dict[str, Any] = {}
    for path in sorted((root / "EEG_preprocessed").glob("*.mat")):
        content = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith("__")}
        found[f"EEG_preprocessed/{path.name}"] = {
            "container": path.read_bytes()[:19],
            "variables": [
                (name, content[name].dtype.str, content[name].shape[0], content[name].shape[1] % 200)
                for name in sorted(content, key=int)
            ],
        }
    for name in SHEETS:
        found[name] = [list(row) for row in openpyxl.load_workbook(root / name).worksheets[0].values]
    return found


def labels_of(root: Path) -> dict[tuple[str, str, str], tuple[float, float]]:
    """(subject, session, trial) -> (valence, arousal) of the table above."""
    return {
        (path.stem, str((trial - 1) // 20 + 1), str(trial)): WORDS[code][1:]
        for path in (root / "EEG_preprocessed").glob("*.mat")
        for trial, code in enumerate(CODES, start=1)
    }


if __name__ == "__main__":
    build(Path(sys.argv[1]))
    pprint.pprint(inspect(Path(sys.argv[1])))
