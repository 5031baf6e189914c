"""Golden SEED-V objects, written and opened without the platform: a second opinion on the published layout.

Clips of a few seconds at times of their own, which only the table that ships tells; the copy says that it is simulated,
as its seconds are not the published ones. The second subject has eyes and mastoids stored before the electrodes, a
baseline and a calibration that differ by channel, and dates against the order of sessions.
"""

from __future__ import annotations

import json
import pprint
import re
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl

_NAMES = """
Fp1 Fpz Fp2 AF3 AF4 F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 T7 C5 C3 C1 Cz C2 C4 C6 T8
TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO5 PO3 POz PO4 PO6 PO8 CB1 O1 Oz O2 CB2
"""
CHANNELS = tuple(_NAMES.split())
SFREQ_HZ = 1000.0
SHEET = [name.upper() for name in CHANNELS]
_SPLIT = {"T8": ["T8", "M1"], "TP8": ["TP8", "M2"]}
STORED = [name.upper() for channel in CHANNELS for name in _SPLIT.get(channel, [channel])] + ["VEO", "HEO"]
# 0 disgust, 1 fear, 2 sad, 3 neutral, 4 happy
_REPEATED = "2 1 3 0 4 4 0 3 2 1 3 4 1 2 0"
LABELS = {"1": "4 1 3 2 0 4 1 3 2 0 4 1 3 2 0", "2": _REPEATED, "3": _REPEATED}
# (valence, arousal) of the same words in EMOD's released table for SEED-VII, on [-4, 4]
WORDS = {"0": ("disgust", -2, 1), "1": ("fear", -1, 2), "2": ("sad", -1, 1)}
WORDS |= {"3": ("neutral", 0, 0), "4": ("happy", 3, 2)}
FILES = {("1", "1"): "20180804", ("1", "2"): "20180810", ("1", "3"): "20180808", ("10", "2"): "20180702"}
# Published seconds from the start of each recording: starts, then ends.
SECONDS = {
    "1": """30 132 287 555 773 982 1271 1628 1730 2025 2227 2435 2667 2932 3204
            102 228 524 742 920 1240 1568 1697 1994 2166 2401 2607 2901 3172 3359""",
    "2": """30 299 548 646 836 1000 1091 1392 1657 1809 1966 2186 2333 2490 2741
            267 488 614 773 967 1059 1331 1622 1777 1908 2153 2302 2428 2709 2817""",
    "3": """30 353 478 674 825 908 1200 1346 1451 1711 2055 2307 2457 2726 2888
            321 418 643 764 877 1147 1284 1418 1679 1996 2275 2425 2664 2857 3066""",
}


def times_of(session: str) -> list[tuple[int, int]]:
    """Clips of one or two seconds, one second apart or two."""
    now, times = int(session), []
    for trial in range(1, 16):
        stop = now + 1 + (trial + int(session)) % 2
        times.append((now, stop))
        now = stop + 1 + trial % 2
    return times


def digital(subject: int, session: int, channel: int, sample: Any) -> Any:
    """Value of one sample of one electrode, counted from 0, before its baseline is added."""
    return 100_000 * (subject % 9) + 1_000_000 * session + 10_000 * channel + 7 * sample % 9973


def build(root: Path) -> list[dict[str, Any]]:
    """Writes four sessions of two subjects; returns what a reader must find, in its order."""
    (root / "EEG_raw").mkdir(parents=True)
    expected = []
    for (subject, session), day in FILES.items():
        plain = subject == "1"
        times = times_of(session)
        sample = np.arange(1000 * (times[-1][1] + 2) + 321)
        sensitivity = [3125 / 512 + (0 if plain else n / 2048) for n in range(62)]
        baseline = [0 if plain else n - 30 for n in range(62)]
        rows = {name: ((n - 50) * 17 + sample, 0, 1.0) for n, name in enumerate(STORED)}
        for n, name in enumerate(CHANNELS):
            values = digital(int(subject), int(session), n, sample) + baseline[n]
            rows[name.upper()] = (values, baseline[n], sensitivity[n])
        stored = STORED if plain else sorted(STORED, key=lambda name: name in SHEET)
        (root / "EEG_raw" / f"{subject}_{session}_{day}.cnt").write_bytes(cnt(stored, rows, events=3))
        for trial, ((start, stop), code) in enumerate(zip(times, LABELS[session].split(), strict=True), start=1):
            word, valence, arousal = WORDS[code]
            ends = {"first": 1000 * start, "last": 1000 * stop - 1}
            row = {
                "subject": subject,
                "session": session,
                "trial": str(trial),
                "stimulus": f"s{session}c{trial:02d}",
                "rating": None,
                "emotion": word,
                "valence": valence,
                "arousal": arousal,
                "samples": 1000 * (stop - start),
                "rest_samples": None,
            }
            for key, at in ends.items():
                values = [digital(int(subject), int(session), n, at) * sensitivity[n] / 204.8 for n in range(62)]
                row[key] = [float(np.float32(value)) for value in values]
            expected.append(row)
    lines = []
    for session in LABELS:
        starts, ends = zip(*times_of(session), strict=True)
        lines += [f"Session {session}:", f"start_second: {list(starts)}", f"end_second: {list(ends)}"]
    (root / "trial_start_end_timestamp.txt").write_text("\r\n".join(lines))
    book = openpyxl.Workbook()
    for session, codes in LABELS.items():
        book.active.append([f"Session {session}", *range(1, 16)])
        book.active.append([None, *(WORDS[code][0].capitalize() for code in codes.split())])
    book.save(root / "emotion_label_and_stimuli_order.xlsx")
    book = openpyxl.Workbook()
    for name in SHEET:
        book.active.append([name])
    book.save(root / "Channel Order.xlsx")
    marker = {"simulated": True, "corpus": "seed_v", "subjects": 2, "sessions": 3, "trials": 15}
    marker |= {"time_scale": 0.01, "signal": "golden", "settings": "none"}
    (root / "SIMULATED.json").write_text(json.dumps(marker))
    return expected


def cnt(stored: list[str], rows: dict[str, Any], events: int) -> bytes:
    """A Neuroscan CNT of 32 bits: SETUP, one ELECTLOC a channel, samples in turn, TEEG and events of type 2."""
    samples = np.stack([rows[name][0] for name in stored], axis=1).astype("<i4")
    head = struct.pack("<12sii", b"Version 3.0", 0, 0) + b"\0".ljust(205, b"\0")
    head += struct.pack("<10s12s", b"08/04/18", b"09:30:00")
    head = head.ljust(370, b"\0") + struct.pack("<HHHH", len(stored), 0, 0, 1000)
    end = 900 + 75 * len(stored) + samples.nbytes
    head = head.ljust(864, b"\0") + struct.pack("<i", len(samples)) + bytes(18) + struct.pack("<ifi", end, 0.0, 1)
    head = head.ljust(900, b"\0")
    for n, name in enumerate(stored):
        _, baseline, sensitivity = rows[name]
        place = struct.pack("<10s9sff", name.encode(), b"", 0.1 * n, 1 - 0.02 * n)
        row = place.ljust(47, b"\0") + struct.pack("<h", baseline)
        row = row.ljust(59, b"\0") + struct.pack("<f", sensitivity)
        head += row.ljust(71, b"\0") + struct.pack("<f", 1.0)
    table = b"".join(
        struct.pack("<HBBihhfBBB", 1, 0, 0, 900 + 75 * len(stored) + 4000 * n * len(stored), 0, 0, 0.0, 0, 0, 0)
        for n in range(events)
    )
    return head + samples.tobytes() + struct.pack("<Bii", 2, len(table), 0) + table


def inspect(root: Path) -> dict[str, Any]:
    """How a copy is built: header, electrodes, tables. Dates, places of electrodes, times and events are left out."""
    found: dict[str, Any] = {}
    for path in sorted((root / "EEG_raw").iterdir()):
        subject, session = re.fullmatch(r"(\d+)_(\d)_\d{8}\.cnt", path.name).groups()  # type: ignore[union-attr]
        raw = path.read_bytes()
        n, rate = struct.unpack_from("<H", raw, 370)[0], struct.unpack_from("<H", raw, 376)[0]
        samples, end, block = (struct.unpack_from("<i", raw, at)[0] for at in (864, 886, 894))
        rows = [raw[at : at + 75] for at in range(900, 900 + 75 * n, 75)]
        found[f"EEG_raw/{subject}_{session}"] = {
            "header": (raw[:11], n, rate, block),
            "bytes of a sample": (end - 900 - 75 * n) / n / samples,
            "labels": [row[:10].rstrip(b"\0").decode() for row in rows],
            "baselines": {struct.unpack_from("<h", row, 47)[0] for row in rows},
            "steps": {
                round(struct.unpack_from("<f", row, 59)[0] * struct.unpack_from("<f", row, 71)[0], 4)
                for row in rows
                if row[:3] not in (b"VEO", b"HEO", b"M1\0", b"M2\0")
            },
            "event table": struct.unpack_from("<i", raw, end + 5)[0] == 0 and raw[end] in (1, 2),
        }
    dates = {path.name[2]: path.name[4:12] for path in (root / "EEG_raw").glob("1_*.cnt")}
    found["order of dates"] = sorted(dates, key=lambda session: dates[session])
    text = (root / "trial_start_end_timestamp.txt").read_text()
    found["times"] = re.sub(r"\d+(, \d+)*(?=\])", lambda row: f"{row[0].count(',') + 1} numbers", text).split()
    book = openpyxl.load_workbook(root / "emotion_label_and_stimuli_order.xlsx")
    found["labels"] = list(book.worksheets[0].values)
    found["electrodes"] = list(openpyxl.load_workbook(root / "Channel Order.xlsx").worksheets[0].values)
    return found


def labels_of(root: Path) -> dict[tuple[str, str, str], tuple[float, float]]:
    """(subject, session, trial) -> (valence, arousal) of the table above, for the sessions that a copy holds."""
    return {
        (*path.name.split("_")[:2], str(n)): WORDS[code][1:]  # type: ignore[misc]
        for path in (root / "EEG_raw").iterdir()
        for n, code in enumerate(LABELS[path.name.split("_")[1]].split(), start=1)
    }


if __name__ == "__main__":
    build(Path(sys.argv[1]))
    pprint.pprint(inspect(Path(sys.argv[1])))
