"""Golden MPED objects, written and opened without the platform: a second opinion on the published layout.

Short recordings of true form: 34 variables in two files a person, 64 rows of which two are mastoids, 1000 Hz. Variables
are stored in an order of their own. The names are nobody's.
"""

from __future__ import annotations

import hashlib
import pprint
import sys
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

_NAMES = """
Fp1 Fpz Fp2 AF3 AF4 F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 T7 C5 C3 C1 Cz C2 C4 C6 T8 M1
TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 M2 P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO5 PO3 POz PO4 PO6 PO8 CB1 O1 Oz O2 CB2
"""
_CAP = _NAMES.split()
ROWS = [row for row, name in enumerate(_CAP, start=1) if name not in ("M1", "M2")]
CHANNELS = tuple(name for name in _CAP if name not in ("M1", "M2"))
SFREQ_HZ = 1000.0
# As published: 0 rest, 8 not used.
CODES = "0 2 1 4 3 5 6 7 8 1 2 3 8 6 7 4 5 0 1 5 6 2 2 1 8 7 6 4 4 3 5 3 7 8"
# (valence, arousal) of EMOD's released table, on [-4, 4]
WORDS = {
    "1": ("neutral", 0, 0),
    "2": ("joy", 3, 2),
    "3": ("funny", 2, 1),
    "4": ("angry", -1, 2),
    "5": ("fear", -1, 2),
    "6": ("disgust", -2, 1),
    "7": ("sadness", -1, 1),
}
NAMES = ("nobody at all", "Erika Mustermann")


def subject_of(name: str) -> str:
    """The pseudonym that must be found for a name."""
    digest = hashlib.scrypt(name.encode(), salt=b"MPED participant", n=16384, r=8, p=1, dklen=8)
    return "m" + str(int.from_bytes(digest, "big"))[-10:].zfill(10)


def build(root: Path) -> list[dict[str, Any]]:
    """Writes two people; returns what a reader must find, in its order."""
    expected = []
    for person, name in enumerate(NAMES, start=1):
        folder = root / "raw_EEG_signals" / name
        folder.mkdir(parents=True)
        halves: dict[str, dict[str, Any]] = {"d": {}, "dd": {}}
        for number, code in enumerate(CODES.split(), start=1):
            half = "d" if number <= 17 else "dd"
            samples = 1000 + 7 * number
            base = 100000 * person + 1000 * number
            row, sample = np.ogrid[:64, :samples]
            halves[half][f"raw_eeg{number}"] = base + (row + 1) + sample / 4096
            if code in "08":
                continue
            word, valence, arousal = WORDS[code]
            expected.append(
                {
                    "subject": subject_of(name),
                    "session": "1" if half == "d" else "2",
                    "trial": str(number),
                    "stimulus": str(number),
                    "rating": None,
                    "emotion": word,
                    "valence": valence,
                    "arousal": arousal,
                    "samples": samples,
                    "first": [base + row for row in ROWS],
                    "last": [base + row + (samples - 1) / 4096 for row in ROWS],
                    "rest_samples": None,
                }
            )
        for half, variables in halves.items():
            stored = {key: variables[key] for key in sorted(variables, reverse=True)}
            scipy.io.savemat(folder / f"{name}_{half}.mat", stored, do_compression=person == 2)
    labels = np.array([CODES.split()], np.uint8)
    scipy.io.savemat(root / "raw_EEG_signals" / "raw_EEG_Label.mat", {"eeg_label": labels})
    return sorted(expected, key=lambda row: row["subject"])  # the rest stays in order


def inspect(root: Path) -> dict[str, Any]:
    """How a copy is built: container, variables in order of number, types, rows, codes. Names are left out."""
    found: dict[str, Any] = {}
    top = root / "raw_EEG_signals"
    for folder in (path for path in top.iterdir() if path.is_dir()):
        for path in folder.iterdir():
            content = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith("__")}
            found[f"raw_EEG_signals/*/*{path.name.removeprefix(folder.name)}"] = {
                "container": path.read_bytes()[:19],
                "variables": [
                    (name, content[name].dtype.str, content[name].shape[0])
                    for name in sorted(content, key=lambda name: int(name.removeprefix("raw_eeg")))
                ],
            }
    found["raw_EEG_Label.mat"] = scipy.io.loadmat(top / "raw_EEG_Label.mat")["eeg_label"].tolist()
    return found


def labels_of(root: Path) -> dict[tuple[str, str, str], tuple[float, float]]:
    """(subject, session, trial) -> (valence, arousal) of the table above, for the people that a copy holds."""
    return {
        (subject_of(folder.name), "1" if number <= 17 else "2", str(number)): WORDS[code][1:]
        for folder in (root / "raw_EEG_signals").iterdir()
        if folder.is_dir()
        for number, code in enumerate(CODES.split(), start=1)
        if code not in "08"
    }


if __name__ == "__main__":
    build(Path(sys.argv[1]))
    pprint.pprint(inspect(Path(sys.argv[1])))
