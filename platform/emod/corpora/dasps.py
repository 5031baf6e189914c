"""DASPS (doi:10.21227/barx-we60): S01preprocessed.mat ... S23preprocessed.mat, MATLAB 7.3 files of 12 cut segments,
and sam_ratings.csv.

Segment s (from 0) belongs to situation s // 2 + 1, first recited by a therapist, then recalled; both share the rating.
"""

from __future__ import annotations

import csv
import io
import math
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property

import h5py
import numpy as np
import numpy.typing as npt

from emod import storage
from emod.catalog import SimulateSettings
from emod.corpora.contract import Corpus, CorpusError, Problem, Recording, RecordingHeader, RecordingRef
from emod.corpora.cut_trials import CutTrial, join_trials
from emod.corpora.inventory import find_objects, read_csv
from emod.corpora.marker import scaled_seconds
from emod.corpora.planning import draw_rating, rating_at
from emod.simulation import Passage, RecordingPlan

__all__ = ["Dasps"]

_RATINGS = "sam_ratings.csv"
_MAX_BYTES = 32 * 1024**2  # published objects have 1.2 MB
_HEADER_BYTES = 512
_RATING_STEP = 1.0


class Dasps(Corpus):
    """23 subjects x 6 anxious situations x (recitation, recall) of 15 s, at 128 Hz."""

    name = "dasps"

    def _inventory(self) -> tuple[list[RecordingRef], list[Problem]]:
        found, problems = find_objects(self, "", r"S(?P<subject>\d\d)preprocessed\.mat", "S01preprocessed.mat")
        _ = self._ratings  # without it nothing can be used: say so before anything is decoded
        return [RecordingRef(self.name, f"S{match['subject']}", "1", url, size) for match, url, size in found], problems

    def read(self, ref: RecordingRef) -> Recording:
        """Decodes one S??preprocessed.mat (contract of `Corpus.read`)."""
        with self._variable(ref) as data:
            try:
                segments: npt.NDArray[np.float32] = data[()]
            except Exception as error:
                raise _damaged(ref, error) from None
        ratings, problems = self._rated(ref)
        trials = [
            CutTrial(str(row + 1), f"situation{row // 2 + 1}", segments[row].T, rating=rating)
            for row, rating in ratings.items()
        ]
        return join_trials(self, ref, trials, problems)

    def peek(self, ref: RecordingRef) -> RecordingHeader:
        """Type and shape of one S??preprocessed.mat (contract of `Corpus.peek`); gaps within a segment stay unseen."""
        with self._variable(ref) as data:
            _, samples, channels = data.shape
        ratings, problems = self._rated(ref)
        usable = {}
        for row, rating in ratings.items():
            try:
                self.place_rating(rating)
                usable[str(row + 1)] = samples / self.catalog.sfreq_hz
            except ValueError as error:
                problems.append(ref.problem("label", f"{error}; correct the label or copy it again", str(row + 1)))
        if not usable:
            raise CorpusError(*problems)
        return RecordingHeader(channels, self.catalog.sfreq_hz, usable, tuple(problems))

    def _rated(self, ref: RecordingRef) -> tuple[dict[int, dict[str, float]], list[Problem]]:
        """Segment (from 0) -> its rating, and a problem for each segment that has none."""
        ratings, problems = {}, []
        for row in range(self.trials_expected):
            situation = row // 2 + 1
            rows = self._ratings.get((ref.subject, str(situation)), [])
            try:
                (rating,) = rows
                ratings[row] = {axis: float(text) for axis, text in rating.items()}
            except ValueError:
                written = f"{len(rows)} rows" if len(rows) > 1 else f"{_shown(rows[0])}" if rows else "no row"
                message = f"{_RATINGS} has {written} for situation {situation}; give it one row of two numbers"
                problems.append(ref.problem("label", message, str(row + 1)))
        return ratings, problems

    @contextmanager
    def _variable(self, ref: RecordingRef) -> Iterator[h5py.Dataset]:
        """(segments, samples, channels) in microvolt, checked for type, shape and storage, not yet read.

        Raises:
            CorpusError: If the object holds anything else.
        """
        if ref.size_bytes > _MAX_BYTES:
            raise _refusal(ref, "shape", f"{ref.size_bytes} bytes, published 1.2 MB")
        content = io.BytesIO(storage.read_bytes(ref.source, at_most=_MAX_BYTES))
        samples = round(self.seconds_expected(0) * self.catalog.sfreq_hz)
        shape = (self.trials_expected, samples, len(self.channels))
        with ExitStack() as stack:
            try:
                file = stack.enter_context(h5py.File(content, "r"))
                # A soft or external link, a virtual data set or external storage would read some other file.
                link = file.get("data", getlink=True)
                if not isinstance(link, h5py.HardLink) or not isinstance(data := file["data"], h5py.Dataset):
                    raise _refusal(
                        ref, "missing", f"no variable 'data' among {[name[:40] for name in sorted(file)[:8]]}"
                    )
                if data.is_virtual or data.external:
                    raise _refusal(ref, "unreadable", "its samples lie in another file")
                if data.dtype != np.float32:
                    raise _refusal(ref, "dtype", f"data is {data.dtype}, published float32")
                if data.shape != shape:
                    raise _refusal(ref, "shape", f"data is {data.shape}, published {shape}")
                if what := _bomb(data):
                    raise _refusal(ref, "unreadable", what)
            except CorpusError:
                raise
            except Exception as error:
                raise _damaged(ref, error) from None
            yield data

    @cached_property
    def _ratings(self) -> dict[tuple[str, str], list[dict[str, str]]]:
        """(subject, situation) -> its rows as written; more than one is as bad as none."""
        ratings: dict[tuple[str, str], list[dict[str, str]]] = {}
        for row in read_csv(
            storage.join(self.root, _RATINGS), ("subject", "situation", "valence", "arousal"), root=self.root
        ):
            answer = {axis: row[axis] for axis in ("valence", "arousal")}
            ratings.setdefault((row["subject"], row["situation"]), []).append(answer)
        return ratings

    def _plan_recording(self, settings: SimulateSettings, subject: int, session: int) -> RecordingPlan:
        scale, name = self.catalog.rating_scale, f"S{subject:02d}"
        assert scale is not None
        pieces = []
        for row in range(settings.trials or self.catalog.trials):
            stimulus = f"situation{row // 2 + 1}"
            rating = draw_rating(settings.brain.seed, self.name, name, row // 2, scale, _RATING_STEP)
            seconds = scaled_seconds(self.catalog.seconds_of(row), settings.time_scale)
            pieces.append((Passage(seconds, str(row + 1), stimulus, *self.place_rating(rating)),))
        return self._fill_plan(name, str(session), pieces)

    def write_recording(self, plan: RecordingPlan, pieces_uv: list[npt.NDArray[np.float64]]) -> None:
        """Writes one S??preprocessed.mat as MATLAB does: its header of 512 bytes, then HDF5."""
        data = np.stack([piece.T for piece in pieces_uv]).astype(np.float32)
        buffer = io.BytesIO()
        with h5py.File(buffer, "w", userblock_size=_HEADER_BYTES, libver="earliest") as file:
            chunks = (len(data), min(96, data.shape[1]), data.shape[2])
            variable = file.create_dataset("data", data=data, chunks=chunks, compression="gzip", compression_opts=3)
            variable.attrs["MATLAB_class"] = np.bytes_(b"single")
        text = b"MATLAB 7.3 MAT-file, Platform: PCWIN64, Created on: Fri Nov 24 17:39:39 2017 HDF5 schema 1.00 ."
        header = text.ljust(116) + bytes(8) + b"\x00\x02IM"
        buffer.seek(0)
        buffer.write(header.ljust(_HEADER_BYTES, b"\x00"))
        storage.write_bytes(storage.join(self.root, f"{plan.subject}preprocessed.mat"), buffer.getvalue())

    def write_tables(self, plans: list[RecordingPlan]) -> None:
        """Writes sam_ratings.csv: one row per subject and situation."""
        scale = self.catalog.rating_scale
        assert scale is not None
        text = io.StringIO(newline="")
        out = csv.writer(text)
        out.writerow(["subject", "situation", "valence", "arousal"])
        for plan in plans:
            for situation, (recited, *_) in enumerate(plan.pieces[::2], start=1):
                places = (recited.valence, recited.arousal)
                ratings = (int(rating_at(place, scale, _RATING_STEP)) for place in places if place is not None)
                out.writerow([plan.subject, situation, *ratings])
        storage.write_bytes(storage.join(self.root, _RATINGS), text.getvalue().encode())


def _shown(answer: dict[str, str]) -> str:
    """A row's cells as they can stand in a message."""
    return ", ".join(ascii(text[:20]) for text in answer.values())


def _bomb(data: h5py.Dataset) -> str | None:
    """What in a data set's chunks would unpack to more than they stand for, or None.

    HDF5 itself doubles its buffer for as long as a compressed chunk goes on.
    """
    if data.chunks is None:
        return None
    settings = data.id.get_create_plist()
    filters = [settings.get_filter(n)[0] for n in range(settings.get_nfilters())]
    if not set(filters) <= {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE} or len(set(filters)) < len(filters):
        return f"it is stored through filters {filters}, MATLAB's are 1 (gzip) and 2 (shuffle)"
    chunk_bytes = math.prod(data.chunks) * data.dtype.itemsize
    if chunk_bytes > _MAX_BYTES:
        return f"its chunks have {data.chunks} values each"
    if h5py.h5z.FILTER_DEFLATE not in filters:
        return None
    for n in range(data.id.get_num_chunks()):
        _, packed = data.id.read_direct_chunk(data.id.get_chunk_info(n).chunk_offset)
        if len(zlib.decompressobj().decompress(packed, chunk_bytes + 1)) > chunk_bytes:
            return f"chunk {n} unpacks to more than its {chunk_bytes} bytes"
    return None


def _refusal(ref: RecordingRef, code: str, what: str) -> CorpusError:
    return CorpusError(ref.problem(code, f"{what}; copy the owner's object again"))


def _damaged(ref: RecordingRef, error: Exception) -> CorpusError:
    """h5py words damage in many classes; the bytes are already here, so it is never the store's fault."""
    what = " ".join(str(error).split()) or type(error).__name__
    return _refusal(ref, "unreadable", f"not a whole MATLAB 7.3 (HDF5) file ({what})")
