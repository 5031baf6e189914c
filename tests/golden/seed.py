"""Golden SEED objects, written byte by byte without the platform: a second opinion on the published layout.

Trials of true length: 62 rows, 200 k + 1 samples. Numbers are stored as MATLAB stores whole ones, as 16-bit integers
of a double array, deflated, and in an order of their own.
"""

from __future__ import annotations

import pprint
import re
import struct
import sys
import zipfile
import zlib
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
LABELS = "1 0 -1 -1 0 1 -1 0 1 1 0 -1 0 1 -1"
SECONDS = "235 233 206 238 185 195 237 216 265 237 235 233 235 238 206"
# (valence, arousal): happy of SEED-IV, nothing, and the mean of its sad (-1, 1) and fear (-1, 2)
WORDS = {"1": ("positive", 3, 2), "0": ("neutral", 0, 0), "-1": ("negative", -1, 1.5)}
FILES = {("1", "1"): "djc_20131027", ("1", "2"): "djc_20131030", ("1", "3"): "djc_20131107"}
FILES |= {("10", "1"): "ww_20131130", ("10", "2"): "ww_20131204", ("10", "3"): "ww_20131211"}
SHEET = "Channel Order.xlsx"


def _element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def _double_of_int16(name: str, values: np.ndarray) -> bytes:
    """A compressed variable of class double whose numbers are stored as int16."""
    head = _element(6, struct.pack("<II", 6, 0)) + _element(5, struct.pack("<2i", *values.shape))
    body = head + _element(1, name.encode()) + _element(3, values.astype("<i2").tobytes("F"))
    packed = zlib.compress(_element(14, body), 1)
    return struct.pack("<II", 15, len(packed)) + packed


def _mat5(variables: list[bytes]) -> bytes:
    text = b"MATLAB 5.0 MAT-file, Platform: PCWIN64, Created on: Sun Oct 27 20:13:00 2013"
    return text.ljust(116) + bytes(8) + struct.pack("<H", 0x0100) + b"IM" + b"".join(variables)


def write_channel_sheet(path: Path, names: list[str]) -> None:
    """The smallest workbook of one column: shared strings, one sheet."""
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    kinds = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    cells = "".join(f'<row r="{n}"><c r="A{n}" t="s"><v>{n - 1}</v></c></row>' for n in range(1, len(names) + 1))
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{kinds}.sheet.main+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{kinds}.worksheet+xml"/>'
        f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kinds}.sharedStrings+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="r1" Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook {main} xmlns:r="{office}"><sheets>'
        '<sheet name="Sheet1" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="r1" Type="{office}/worksheet" Target="worksheets/sheet1.xml"/>'
        f'<Relationship Id="r2" Type="{office}/sharedStrings" Target="sharedStrings.xml"/></Relationships>',
        "xl/worksheets/sheet1.xml": f"<worksheet {main}><sheetData>{cells}</sheetData></worksheet>",
        "xl/sharedStrings.xml": f"<sst {main}>" + "".join(f"<si><t>{name}</t></si>" for name in names) + "</sst>",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        for part, text in parts.items():
            book.writestr(part, f'<?xml version="1.0" encoding="UTF-8"?>{text}')


def read_column(path: Path) -> list[str]:
    """The texts of a workbook in order of storage, whether they stand in the sheet or are shared."""
    with zipfile.ZipFile(path) as book:
        part = "xl/sharedStrings.xml" if "xl/sharedStrings.xml" in book.namelist() else "xl/worksheets/sheet1.xml"
        return re.findall(r"<t[^>]*>([^<]*)</t>", book.read(part).decode())


def build(root: Path) -> list[dict[str, Any]]:
    """Writes all sessions of two subjects; returns what a reader must find, in its order."""
    folder = root / "Preprocessed_EEG"
    folder.mkdir(parents=True)
    expected = []
    for (subject, session), name in FILES.items():
        initials, _, date = name.partition("_")
        variables = []
        for trial, (code, seconds) in enumerate(zip(LABELS.split(), SECONDS.split(), strict=True), start=1):
            samples = 200 * int(seconds) + 1
            base = 10000 * (int(session) - 1) + 3000 * (subject == "10") + 100 * trial
            values = np.arange(1, 63)[:, None] + base + np.arange(samples) % 5
            variables.append(_double_of_int16(f"{initials}_eeg{trial}", values))
            word, valence, arousal = WORDS[code]
            expected.append(
                {
                    "subject": subject,
                    "session": session,
                    "trial": str(trial),
                    "stimulus": str(trial),
                    "rating": None,
                    "emotion": word,
                    "valence": valence,
                    "arousal": arousal,
                    "samples": samples,
                    "first": [base + c for c in range(1, 63)],
                    "last": [base + c + (samples - 1) % 5 for c in range(1, 63)],
                    "rest_samples": None,
                }
            )
        (folder / f"{subject}_{date}.mat").write_bytes(_mat5(variables[::-1]))
    labels = np.array([LABELS.split()], np.int16)
    (folder / "label.mat").write_bytes(_mat5([_double_of_int16("label", labels)]))
    (folder / "readme.txt").write_text("Preprocessed EEG of the golden copy.\n")
    write_channel_sheet(root / SHEET, [name.upper() for name in CHANNELS])
    return expected


def inspect(root: Path) -> dict[str, Any]:
    """How a copy is built: container, initials, variables in order of number, kinds, rows, labels, electrodes."""
    found: dict[str, Any] = {}
    for path in sorted((root / "Preprocessed_EEG").glob("*_*.mat")):
        listed = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(path)}
        numbered = sorted(listed, key=lambda name: int(name.rpartition("_eeg")[2]))
        assert re.fullmatch(r"\d+_\d{8}\.mat", path.name)
        found[f"Preprocessed_EEG/{path.name.partition('_')[0]}"] = {
            "container": path.read_bytes()[:19],
            "initials": sorted({name.rpartition("_eeg")[0] for name in numbered}),
            "variables": [
                (name.rpartition("_")[2], listed[name][1], listed[name][0][0], listed[name][0][1] % 200)
                for name in numbered
            ],
        }
    found["label.mat"] = scipy.io.loadmat(root / "Preprocessed_EEG" / "label.mat")["label"].tolist()
    found[SHEET] = read_column(root / SHEET)
    return found


def labels_of(root: Path) -> dict[tuple[str, str, str], tuple[float, float]]:
    """(subject, session, trial) -> (valence, arousal) of the table above, for the sessions that a copy holds."""
    dates: dict[str, list[str]] = {}
    for path in (root / "Preprocessed_EEG").glob("*_*.mat"):
        subject, _, date = path.stem.partition("_")
        dates.setdefault(subject, []).append(date)
    return {
        (subject, str(session), str(trial)): WORDS[code][1:]
        for subject, of_subject in dates.items()
        for session in range(1, len(of_subject) + 1)
        for trial, code in enumerate(LABELS.split(), start=1)
    }


if __name__ == "__main__":
    build(Path(sys.argv[1]))
    pprint.pprint(inspect(Path(sys.argv[1])))
