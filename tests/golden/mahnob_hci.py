"""Golden MAHNOB-HCI objects, written and opened without the platform: a second opinion on the published layout.

Clips of two or three seconds between the published 30 s of rest. Subject 3 lacks three trials as published, saw the
clips in another order, and has its channels stored from last to first, so a reader that trusts either order is caught.
"""

from __future__ import annotations

import pprint
import re
import struct
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np

_NAMES = """
Fp1 AF3 F3 F7 FC5 FC1 C3 T7 CP5 CP1 P3 P7 PO3 O1 Oz Pz Fp2 AF4 Fz F4 F8 FC6 FC2 Cz C4 T8 CP6 CP2 P4 P8 PO4 O2
"""
CHANNELS = tuple(_NAMES.split())
SFREQ_HZ = 256.0
OTHERS = (*(f"EXG{n}" for n in range(1, 9)), "GSR1", "GSR2", "Erg1", "Erg2", "Resp", "Temp")
ABSENT = {1: (), 3: (4, 9, 13)}
NUMBERS = ("low", "high", "digital low", "digital high")
FIELDS = [(16, "label"), (80, "transducer"), (8, "unit"), *((8, key) for key in NUMBERS)]
FIELDS += [(80, "prefilter"), (8, "samples"), (32, "reserved")]


def digital(subject: int, trial: int, channel: int, sample: Any) -> Any:
    """24-bit value of one sample of one electrode, counted from 0."""
    return 1_000_000 * (subject - 2) + 40_000 * trial + 1000 * (channel + 1) + 7 * sample % 997


def microvolts(value: int) -> float:
    share = (value + 8388608) / 16777215
    return float(np.float32(-262144 + share * 524287))


def bdf(rows: dict[str, Any], seconds: int) -> bytes:
    """A BDF with one value of 24 bits a sample, record by record and channel by channel."""
    text = {
        "label": list(rows),
        "transducer": ["Triggers and Status" if name == "Status" else "Active Electrode" for name in rows],
        "unit": ["Boolean" if name == "Status" else "uV" for name in rows],
        "low": ["-8388608" if name == "Status" else "-262144" for name in rows],
        "high": ["8388607" if name == "Status" else "262143" for name in rows],
        "digital low": ["-8388608"] * len(rows),
        "digital high": ["8388607"] * len(rows),
        "prefilter": [""] * len(rows),
        "samples": ["256"] * len(rows),
        "reserved": [""] * len(rows),
    }
    head = struct.pack("<B7s80s80s8s8s8s44s8s8s4s", 255, b"BIOSEMI", *map(str.encode, (
        "".ljust(80), "".ljust(80), "01.10.09", "12.00.00", str(256 * (len(rows) + 1)).ljust(8), "24BIT".ljust(44),
        str(seconds).ljust(8), "1".ljust(8), str(len(rows)).ljust(4))))  # fmt: skip
    head += b"".join(value.ljust(width).encode() for width, key in FIELDS for value in text[key])
    samples = np.stack([np.broadcast_to(row, 256 * seconds) for row in rows.values()]).astype(np.int64) % 2**24
    ordered = samples.reshape(len(rows), seconds, 256).transpose(1, 0, 2)
    return head + np.stack([ordered % 256, ordered // 256 % 256, ordered // 65536], axis=-1).astype(np.uint8).tobytes()


def build(root: Path) -> list[dict[str, Any]]:
    """Writes two subjects and a neutral session; returns what a reader must find, trial by trial."""
    expected = []
    for subject, absent in ABSENT.items():
        for trial in (n for n in range(1, 21) if n not in absent):
            seconds = 2 + trial % 2
            start, stop, end = 7680, 7680 + 256 * seconds, 256 * (60 + seconds)
            sample = np.arange(end)
            pulses = ((sample - start) % (stop - start) < 30) & (sample >= start) & (sample < stop + 30)
            rows: dict[str, Any] = {c: digital(subject, trial, n, sample) for n, c in enumerate(CHANNELS)}
            rows |= {name: 5000 * n + sample % 11 for n, name in enumerate(OTHERS, start=1)}
            rows |= {"Status": np.where(pulses, 268, 0) + 0xFF0000}
            order = rows if subject == 1 else dict(sorted(rows.items(), key=lambda row: -list(rows).index(row[0])))
            valence, arousal = 1 + (trial * 2 + subject) % 9, 1 + (trial * 5 + subject) % 9
            clip = f"{(trial if subject == 1 else 21 - trial) * 7}.avi"
            folder = root / "Sessions" / str(130 * (subject - 1) + 2 * trial)
            folder.mkdir(parents=True)
            name = f"Part_{subject}_S_Trial{trial}_emotion.bdf"
            (folder / name).write_bytes(bdf(order, 60 + seconds))
            felt = {"feltEmo": 4, "feltArsl": arousal, "feltVlnc": valence, "feltCtrl": 9, "feltPred": 1}
            write_xml(folder, subject, 2 * trial, seconds, clip, name, felt)
            (folder / name.replace(".bdf", ".tsv")).write_text("gaze\n")
            parts = {"first": start, "last": stop - 1, "rest_first": 0, "rest_last": start - 1}
            values = {key: [microvolts(digital(subject, trial, n, at)) for n in range(32)] for key, at in parts.items()}
            expected.append(
                {
                    "subject": str(subject),
                    "session": "1",
                    "trial": str(trial),
                    "stimulus": clip,
                    "rating": {"valence": valence, "arousal": arousal},
                    "emotion": None,
                    "valence": valence - 5,
                    "arousal": arousal - 5,
                    "samples": stop - start,
                    "rest_samples": 7680,
                    **values,
                }
            )
    folder = root / "Sessions" / "1"
    folder.mkdir()
    (folder / "Part_1_N_Trial1_emotion.bdf").write_bytes(bdf(dict.fromkeys((*CHANNELS, *OTHERS, "Status"), 0), 2))
    write_xml(folder, 1, 1, 2, "colorbars.avi", "Part_1_N_Trial1_emotion.bdf", {})
    return expected


def write_xml(
    folder: Path, subject: int, cut: int, seconds: int, clip: str, bdf_name: str, felt: dict[str, int]
) -> None:
    attributes = {"sessionId": folder.name, "date": "2009.10.01", "time": "12:00:00"}
    attributes |= {"experimentType": "emotion elicitation", "isStim": "1" if felt else "0"}
    attributes |= {key: str(value) for key, value in felt.items()}
    attributes |= {"cutNr": str(cut), "cutLenSec": str(seconds), "vidRate": "60.9708", "vidBeginSmp": "1829"}
    attributes |= {"vidEndSmp": "2000", "audRate": "44100", "audBeginSmp": "1323000", "audEndSmp": "1400000"}
    root = ElementTree.Element("session", attributes | {"mediaFile": clip})
    ElementTree.SubElement(root, "subject", {"id": str(subject), "gender": "f"})
    video = ElementTree.SubElement(root, "track", {"type": "Video", "color": "1", "filename": "P1.avi"})
    ElementTree.SubElement(video, "annotation", {"type": "Gaze", "filename": "P1.tsv"})
    ElementTree.SubElement(root, "track", {"type": "Physiological", "filename": bdf_name})
    text = ElementTree.tostring(root, encoding="unicode")
    (folder / "session.xml").write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n')


def inspect(root: Path) -> dict[str, Any]:
    """How a copy is built: header, electrodes, triggers, attributes. Lengths of clips are left out."""
    found: dict[str, Any] = {}
    for path in sorted((root / "Sessions").glob("*/*_S_*.bdf")):
        raw = path.read_bytes()
        n = int(raw[252:256])
        place, fields = 256, {}
        for width, key in FIELDS:
            fields[key] = [raw[place + width * row : place + width * (row + 1)].decode().strip() for row in range(n)]
            place += width * n
        seconds = int(raw[236:244])
        samples = np.frombuffer(raw, np.uint8, offset=place).reshape(seconds, n, 256, 3)
        status = samples[:, fields["label"].index("Status"), :, :2].astype(int) @ [1, 256]
        rises = np.flatnonzero(np.diff(status.ravel(), prepend=0) > 0) / 256
        document = ElementTree.parse(path.with_name("session.xml")).getroot()
        found[f"{path.parent.name}/{path.name}"] = {
            "magic": raw[:8],
            "header": (int(raw[184:192]), raw[192:236].strip(), float(raw[244:252])),
            "channels": [fields[key] for _, key in FIELDS if key not in ("transducer", "prefilter", "reserved")],
            "triggers": (sorted(set(status.ravel().tolist())), len(rises), rises[0], rises[-1] - seconds),
            "xml": (path.with_name("session.xml").read_text().splitlines()[0], list(document.attrib)),
            "clip": (document.get("cutNr"), float(document.get("cutLenSec", "")) == seconds - 60),
            "subject": document.find("subject").get("id"),  # type: ignore[union-attr]
            "recording": [one.get("filename") for one in document.iter("track") if one.get("type") == "Physiological"],
        }
    return found


def labels_of(root: Path) -> dict[tuple[str, str, str], tuple[float, float]]:
    """(subject, session, trial) -> (valence, arousal) as session.xml holds them."""
    found = {}
    for path in (root / "Sessions").glob("*/*_S_*.bdf"):
        subject, trial = re.fullmatch(r"Part_(\d+)_S_Trial(\d+)_emotion\.bdf", path.name).groups()  # type: ignore[union-attr]
        attributes = ElementTree.parse(path.with_name("session.xml")).getroot().attrib
        found[subject, "1", trial] = (float(attributes["feltVlnc"]), float(attributes["feltArsl"]))
    return found


if __name__ == "__main__":
    build(Path(sys.argv[1]))
    pprint.pprint(inspect(Path(sys.argv[1])))
