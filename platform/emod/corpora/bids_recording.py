"""One recording of a data set in BIDS-EEG, opened by MNE-BIDS.

Its files are put together in a folder of their own, by links where they lie on a disk and by download elsewhere: what a
header points to beside them is not opened, and nothing is written to the copy. It reads no samples and no labels.
"""

from __future__ import annotations

import itertools
import math
import os
import posixpath
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mne_bids
from fsspec.core import url_to_fs

from emod import storage
from emod.corpora.contract import CorpusError, RecordingRef
from emod.corpora.mat5_nesting import nests_too_deep

__all__ = [
    "MAX_TEXT_BYTES",
    "SAID_WITHIN_S",
    "cut_short",
    "damage",
    "declares_length",
    "is_file",
    "is_vectorized",
    "opened",
    "pieces_of",
    "refusal",
]

MAX_TEXT_BYTES = 16 * 1024**2
"""Of a table or a header in text."""

SAID_WITHIN_S = 1.5
"""Between the length that eeg.json says and the stored one: EDF is filled up to whole records of mostly 1 s."""

_SAMPLES = (".edf", ".bdf", ".eeg", ".dat", ".fdt")  # samples but for a head
_HEAD_BYTES = 1024**2
_NUMBER_BYTES = {"short": 2, "int": 4, "single": 4}
_QUIET = threading.Lock()  # verbose sets MNE's level for all threads: one that is done would unmute the others
_INTERRUPTIONS = ("boundary", "New Segment", "BAD_ACQ_SKIP")


@contextmanager
def opened(ref: RecordingRef, *, head_only: bool = False) -> Iterator[Any]:
    """The recording as MNE opens it, its samples not yet read.

    Args:
        ref: Its objects are all the files that belong to it.
        head_only: Samples will not be read, so they are not fetched from afar.

    Raises:
        CorpusError: If its files are not a whole recording.
    """
    with tempfile.TemporaryDirectory() as top:
        name = posixpath.basename(ref.source)
        entities = mne_bids.get_entities_from_fname(name)
        path = mne_bids.BIDSPath(root=top, datatype="eeg", extension=Path(name).suffix, **entities)
        folder = Path(path.directory)
        folder.mkdir(parents=True)
        for url in ref.urls:
            if not url.endswith("_events.tsv"):  # MNE-BIDS would put its rows in the place of interruptions
                _fetch(ref, url, folder / posixpath.basename(url), head_only=head_only)
        _check_header(ref, folder / name)
        try:
            with _QUIET:
                raw = mne_bids.read_raw_bids(path, on_ch_mismatch="reorder", verbose="error")
            if not raw.n_times:
                raise ValueError("it holds no samples")
            if outside := [str(file) for file in raw.filenames if Path(file).parent != folder]:
                raise ValueError(f"its samples lie in another file, {outside[0]}")
        except Exception as error:
            raise damage(ref, error) from None
        _check_samples(ref, raw)
        yield raw


def declares_length(raw: Any) -> bool:
    """Whether a recording's header says how many samples there are, so that its file is known to hold them all."""
    return Path(raw.filenames[0]).suffix not in (".eeg", ".dat")


def is_vectorized(raw: Any) -> bool:
    """Whether a BrainVision file holds one electrode after the other."""
    return not declares_length(raw) and bool(
        re.search(r"(?im)^\s*DataOrientation\s*=\s*VECTORIZED", _brainvision_header(raw))
    )


def cut_short(raw: Any, said_s: float | None) -> str | None:
    """What says that the file with the samples was longer once, naming that file, or None.

    Args:
        raw: An open recording.
        said_s: Its length after eeg.json, if that has one.
    """
    if declares_length(raw):
        return None
    file, header = Path(raw.filenames[0]), _brainvision_header(raw)
    held_s = raw.n_times / raw.info["sfreq"]
    if (points := re.search(r"(?im)^\s*DataPoints\s*=\s*(\d{1,15})\s*$", header)) and int(points[1]) > raw.n_times:
        return f"{file.name} holds {held_s:.1f} s, its header says {int(points[1]) / raw.info['sfreq']:.1f}"
    if said_s is not None and said_s - held_s > SAID_WITHIN_S:
        return f"{file.name} holds {held_s:.1f} s, its eeg.json says {said_s:.1f}"
    frame = _NUMBER_BYTES.get(raw.orig_format, 1) * len(raw.ch_names)
    if not re.search(r"(?im)^\s*DataFormat\s*=\s*ASCII", header) and (size := file.stat().st_size) % frame:
        return f"{file.name} has {size} bytes, which is no whole number of samples"
    return None


def pieces_of(raw: Any) -> tuple[tuple[int, int], ...]:
    """Sample spans of a recording that are continuous in time, after the marks its file holds."""
    begins = {
        math.ceil(onset * raw.info["sfreq"] - 1e-6)
        for onset, description in zip(raw.annotations.onset, raw.annotations.description, strict=True)
        if description.startswith(_INTERRUPTIONS)
    }
    return tuple(itertools.pairwise(sorted({0, raw.n_times} | {at for at in begins if 0 < at < raw.n_times})))


def is_file(url: str) -> bool:
    """False for what is on this machine and no file: a folder, a pipe, a link to nothing."""
    return not storage.is_local(url) or os.path.isfile(url_to_fs(url)[1])


def damage(ref: RecordingRef, error: Exception) -> Exception:
    """What MNE says of damage as a `CorpusError`; faults of the disk stay what they are."""
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError):
        return error
    code = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
    what = " ".join(str(error).split())[:300] or type(error).__name__
    return refusal(ref, code, f"not a whole recording ({what}); copy or export it again")


def refusal(ref: RecordingRef, code: str, what: str) -> CorpusError:
    """A problem of a whole recording, to be raised."""
    return CorpusError(ref.problem(code, what))


def _fetch(ref: RecordingRef, url: str, path: Path, *, head_only: bool) -> None:
    """Puts one file of a recording where MNE looks for it."""
    if not is_file(url):
        what = "no file, or a link to nothing; fetch what it stands for (git annex get) or copy it again"
        raise refusal(ref, "unreadable", f"{posixpath.basename(url)} is {what}")
    if path.suffix not in (*_SAMPLES, ".set"):
        if (size := storage.size_bytes(url)) > MAX_TEXT_BYTES:
            raise refusal(ref, "unreadable", f"{posixpath.basename(url)} has {size} bytes; copy it again")
        path.write_bytes(storage.read_bytes(url, at_most=MAX_TEXT_BYTES))
    elif storage.is_local(url):
        path.symlink_to(os.path.realpath(url_to_fs(url)[1]))
    elif head_only and path.suffix in _SAMPLES:
        with storage.open_binary(url) as stream:
            path.write_bytes(stream.read(_HEAD_BYTES))
        os.truncate(path, storage.size_bytes(url))  # a hole in the place of samples: MNE looks at the length
    else:
        storage.download(url, str(path))


def _brainvision_header(raw: Any) -> str:
    """The text of the header that lies beside a file with samples."""
    (header,) = Path(raw.filenames[0]).parent.glob("*.vhdr")
    return header.read_text("latin-1")


def _check_samples(ref: RecordingRef, raw: Any) -> None:
    """Refuses what MNE opens although samples are missing at the end, and so in the middle of what it would read."""
    file = Path(raw.filenames[0])
    if file.suffix != ".fdt" and not is_vectorized(raw):
        return
    declared = (4 if file.suffix == ".fdt" else _NUMBER_BYTES.get(raw.orig_format, 1)) * len(raw.ch_names) * raw.n_times
    if (size := file.stat().st_size) < declared:
        message = f"{file.name} has {size} bytes, its header declares {declared}; copy that file again"
        raise refusal(ref, "unreadable", message)


def _check_header(ref: RecordingRef, path: Path) -> None:
    """Refuses what MNE would take as it comes: a header that points elsewhere, EDF that is cut short or has gaps."""
    if path.suffix == ".set":
        with path.open("rb") as stream:
            if nests_too_deep(stream):
                raise refusal(ref, "unreadable", "its structs are nested beyond measure; export it again")
    if path.suffix == ".vhdr":
        named = re.findall(r"(?im)^\s*(DataFile|MarkerFile)\s*[=:]\s*(.*?)\s*$", path.read_text("latin-1"))
        for what, name in named:
            if not (path.parent / name).is_file() or name != posixpath.basename(name):
                cure = "rename them together (mne_bids.copyfiles.copyfile_brainvision)"
                raise refusal(ref, "missing", f"its header names {what} {name[:200]!r}, which is not beside it; {cure}")
    elif path.suffix in (".edf", ".bdf"):
        with path.open("rb") as stream:
            head = stream.read(256)
            if head[192:197] in (b"EDF+D", b"BDF+D"):
                raise refusal(ref, "shape", f"{head[192:197].decode()}: it has gaps; export it without (EDF+C)")
            try:
                n_bytes, n_records, n_rows = int(head[184:192]), int(head[236:244]), int(head[252:256])
                stream.seek(256 + 216 * n_rows)
                samples = sum(int(stream.read(8)) for _ in range(n_rows))
            except ValueError:
                raise refusal(ref, "unreadable", "no whole header of EDF or BDF; copy or export it again") from None
        declared = n_bytes + n_records * samples * (3 if path.suffix == ".bdf" else 2)
        if declared != path.stat().st_size:
            message = f"{path.stat().st_size} bytes, its header declares {declared}; copy or export it again"
            raise refusal(ref, "unreadable", message)
