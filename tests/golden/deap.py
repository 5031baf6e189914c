"""A golden DEAP object, written and opened without the platform: a second opinion on the published layout.

``build`` writes s01.dat in its true shape as Python 2 pickled it; ``inspect`` says how a copy is built, by way of the
standard library's own unpickler and numpy.
"""

from __future__ import annotations

import csv
import io
import pickle
import pprint
import struct
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

_NAMES = """
Fp1 AF3 F3 F7 FC5 FC1 C3 T7 CP5 CP1 P3 P7 PO3 O1 Oz Pz Fp2 AF4 Fz F4 F8 FC6 FC2 Cz C4 T8 CP6 CP2 P4 P8 PO4 O2
"""
CHANNELS = tuple(_NAMES.split())
SFREQ_HZ = 128.0


class Python2Pickler(pickle._Pickler):
    """Protocol 2 in which bytes and text are both Python 2 strings, memoised as cPickle does."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_string(self, value: Any) -> None:
        raw = value.encode("latin-1") if isinstance(value, str) else bytes(value)
        head = b"U" + bytes([len(raw)]) if len(raw) < 256 else b"T" + struct.pack("<i", len(raw))
        self.write(head + raw)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def pickle_as_python2(value: Any) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def build(root: Path) -> list[dict[str, Any]]:
    """Writes one subject and its table of ratings; returns what a reader must find, trial by trial."""
    trial, row, sample = np.ogrid[:40, :40, :8064]
    data = 1000.0 * (row + 1) + 10.0 * (trial + 1) + sample / 1024
    labels = np.empty((40, 4))
    labels[:, 0] = np.linspace(1, 9, 40)  # valence
    labels[:, 1] = np.linspace(8, 2, 40)  # arousal
    labels[:, 2:] = [3.25, 7.75]
    (root / "data_preprocessed_python").mkdir(parents=True)
    (root / "data_preprocessed_python" / "s01.dat").write_bytes(pickle_as_python2({"labels": labels, "data": data}))
    (root / "metadata_csv").mkdir()
    heading = "Participant_id,Trial,Experiment_id,Start_time,Valence,Arousal,Dominance,Liking,Familiarity"
    rows = [
        f"1,{40 - n},{n + 1},1695918,{labels[n, 0]:.2f},{labels[n, 1]:.2f},3.25,7.75,4" for n in reversed(range(40))
    ]
    (root / "metadata_csv" / "participant_ratings.csv").write_text("\n".join([heading, *rows]) + "\n")
    return [
        {
            "subject": "s01",
            "session": "1",
            "trial": str(n + 1),
            "stimulus": str(n + 1),
            "rating": {"valence": labels[n, 0], "arousal": labels[n, 1]},
            "emotion": None,
            "valence": labels[n, 0] - 5,
            "arousal": labels[n, 1] - 5,
            "samples": 7680,
            "first": [1000 * c + 10 * (n + 1) + 384 / 1024 for c in range(1, 33)],
            "last": [1000 * c + 10 * (n + 1) + 8063 / 1024 for c in range(1, 33)],
            "rest_samples": 384,
            "rest_first": [1000 * c + 10 * (n + 1) for c in range(1, 33)],
            "rest_last": [1000 * c + 10 * (n + 1) + 383 / 1024 for c in range(1, 33)],
        }
        for n in range(40)
    ]


def inspect(root: Path) -> dict[str, Any]:
    """How a copy is built: container, variables, types, shapes, tables."""
    found: dict[str, Any] = {}
    for path in sorted((root / "data_preprocessed_python").iterdir()):
        with path.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # numpy.core, the name that Python 2's numpy wrote
            protocol = stream.read(2)
            stream.seek(0)
            content = pickle.load(stream, encoding="latin1")
        found[f"data_preprocessed_python/{path.name}"] = {
            "protocol": protocol,
            "variables": {name: (value.dtype.str, value.shape) for name, value in content.items()},
        }
    with (root / "metadata_csv" / "participant_ratings.csv").open(newline="") as stream:
        heading, *rows = csv.reader(stream)
    found["metadata_csv/participant_ratings.csv"] = {
        "heading": heading,
        "videos": sorted((int(row[0]), int(row[2])) for row in rows),
        "shown": sorted((int(row[0]), int(row[1])) for row in rows),
    }
    return found


def labels_of(root: Path) -> dict[tuple[str, str, str], tuple[float, float]]:
    """(subject, session, trial) -> (valence, arousal) as the pickles hold them."""
    found = {}
    for path in sorted((root / "data_preprocessed_python").iterdir()):
        with path.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            labels = pickle.load(stream, encoding="latin1")["labels"]
        found |= {(path.stem, "1", str(n + 1)): (float(row[0]), float(row[1])) for n, row in enumerate(labels)}
    return found


if __name__ == "__main__":
    build(Path(sys.argv[1]))
    pprint.pprint(inspect(Path(sys.argv[1])))
