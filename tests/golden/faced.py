"""Golden FACED objects, written and opened without the platform: a second opinion on the published layout.

Two subjects in true shape, one as a numpy before 2.0 pickled it (protocol 3), one in Fortran order (protocol 5);
clips are rated in an order of presentation of their own.
"""

from __future__ import annotations

import pickle
import pprint
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

_NAMES = """
Fp1 Fp2 Fz F3 F4 F7 F8 FC1 FC2 FC5 FC6 Cz C3 C4 T7 T8 CP1 CP2 CP5 CP6 Pz P3 P4 P7 P8 PO3 PO4 Oz O1 O2
"""
CHANNELS = tuple(_NAMES.split())
SFREQ_HZ = 250.0
# clips -> emotion, valence, arousal: the owner's table of 28 clips, placed as in EMOD's released table
CLIPS = [
    (range(1, 4), "anger", -1, 2),
    (range(4, 7), "disgust", -2, 1),
    (range(7, 10), "fear", -1, 2),
    (range(10, 13), "sadness", -1, 1),
    (range(13, 17), "neutral", 0, 0),
    (range(17, 20), "amusement", 2, 1),
    (range(20, 23), "inspiration", 2, 1),
    (range(23, 26), "joy", 3, 2),
    (range(26, 29), "tenderness", 2, 0),
]
LABELS = {clip: (word, valence, arousal) for clips, word, valence, arousal in CLIPS for clip in clips}


def build(root: Path) -> list[dict[str, Any]]:
    """Writes subjects 0 and 122; returns what a reader must find, trial by trial."""
    expected = []
    (root / "Processed_data").mkdir(parents=True)
    for number in (0, 122):
        name = f"sub{number:03d}"
        clip, row, sample = np.ogrid[:28, :32, :7500]
        data = 100000.0 * (number + 1) + 1000.0 * (clip + 1) + 10.0 * (row + 1) + sample / 1024
        if number:
            raw = pickle.dumps(np.asfortranarray(data), protocol=5)
        else:
            raw = pickle.dumps(data, protocol=3)
            head, rest = raw[:64], raw[64:]
            raw = head.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n") + rest
        (root / "Processed_data" / f"{name}.pkl").write_bytes(raw)
        shown = np.roll(np.arange(28)[::-1], 5 + number)
        remarks = np.empty((28, 1), dtype=[("score", "O"), ("vid", "O")])
        for place, index in enumerate(shown):
            remarks[place, 0] = (np.full((1, 12), index / 4), np.array([[index + 1.0]]))
        folder = root / "Data" / name
        folder.mkdir(parents=True)
        scipy.io.savemat(folder / "After_remarks.mat", {"After_remark": remarks}, do_compression=number == 0)
        for n in range(1, 29):
            word, valence, arousal = LABELS[n]
            base = 100000 * (number + 1) + 1000 * n
            expected.append(
                {
                    "subject": name,
                    "session": "1",
                    "trial": str(n),
                    "stimulus": str(n),
                    "rating": None,
                    "emotion": word,
                    "valence": valence,
                    "arousal": arousal,
                    "samples": 7500,
                    "first": [base + 10 * c for c in range(1, 31)],
                    "last": [base + 10 * c + 7499 / 1024 for c in range(1, 31)],
                    "rest_samples": None,
                }
            )
    return expected


def inspect(root: Path) -> dict[str, Any]:
    """How a copy is built: container, type, shape, ratings."""
    found: dict[str, Any] = {}
    for path in sorted((root / "Processed_data").iterdir()):
        with path.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # numpy.core, the name before numpy 2.0
            data = pickle.load(stream)
        found[f"Processed_data/{path.name}"] = (type(data).__name__, data.dtype.str, data.shape)
        remarks = scipy.io.loadmat(root / "Data" / path.stem / "After_remarks.mat")["After_remark"]
        found[f"Data/{path.stem}/After_remarks.mat"] = {
            "shape": remarks.shape,
            "fields": remarks.dtype.names,
            "clips": sorted(float(vid.item()) for vid in remarks["vid"].flat),
            "scores": {(score.shape, score.min() >= 0, score.max() <= 7) for score in remarks["score"].flat},
        }
    return found


def labels_of(root: Path) -> dict[tuple[str, str, str], tuple[float, float]]:
    """(subject, session, trial) -> (valence, arousal) of the table above, for the subjects that a copy holds."""
    return {
        (path.stem, "1", str(clip)): (valence, arousal)
        for path in (root / "Processed_data").iterdir()
        for clip, (_, valence, arousal) in LABELS.items()
    }


if __name__ == "__main__":
    build(Path(sys.argv[1]))
    pprint.pprint(inspect(Path(sys.argv[1])))
