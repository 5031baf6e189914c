"""DASPS (doi:10.21227/barx-we60): S01preprocessed.mat ... S23preprocessed.mat, MATLAB 7.3 files of 12 cut segments,
and sam_ratings.csv.

Segment s (from 0) belongs to situation s // 2 + 1, first recited by a therapist, then recalled; both share the rating.
"""

from __future__ import annotations

import csv
import io
from functools import cached_property

import h5py
import numpy as np
import numpy.typing as npt

from emod import storage
from emod.catalog import SimulateSettings
from emod.corpora.contract import Corpus, CorpusError, Problem, Recording, RecordingRef
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
        data = self._load(ref)
        trials, problems = [], []
        for row, segment in enumerate(data):
            trial, situation = str(row + 1), row // 2 + 1
            rows = self._ratings.get((ref.subject, str(situation)), [])
            try:
                (rating,) = rows
                labels = {axis: float(text) for axis, text in rating.items()}
            except ValueError:
                message = f"{_RATINGS} has {rows or 'no row'} for situation {situation}; give it one row of two numbers"
                problems.append(ref.problem("label", message, trial))
                continue
            trials.append(CutTrial(trial, f"situation{situation}", segment.T, rating=labels))
        return join_trials(self, ref, trials, problems)

    def _load(self, ref: RecordingRef) -> npt.NDArray[np.float32]:
        """(segments, samples, channels) microvolt, checked for type and shape.

        Raises:
            CorpusError: If the object holds anything else.
        """

        def refusal(code: str, what: str) -> CorpusError:
            return CorpusError(ref.problem(code, f"{what}; copy the owner's object again"))

        if ref.size_bytes > _MAX_BYTES:
            raise refusal("shape", f"{ref.size_bytes} bytes, published 1.2 MB")
        content = io.BytesIO(storage.read_bytes(ref.source, at_most=_MAX_BYTES))
        samples = round(self.seconds_expected(0) * self.catalog.sfreq_hz)
        shape = (self.trials_expected, samples, len(self.channels))
        try:
            with h5py.File(content, "r") as file:
                # A soft or external link, a virtual data set or external storage would read some other file.
                link = file.get("data", getlink=True)
                if not isinstance(link, h5py.HardLink) or not isinstance(data := file["data"], h5py.Dataset):
                    raise refusal("missing", f"no variable 'data' among {sorted(file)}")
                if data.is_virtual or data.external:
                    raise refusal("unreadable", "its samples lie in another file")
                if data.dtype != np.float32:
                    raise refusal("dtype", f"data is {data.dtype}, published float32")
                if data.shape != shape:
                    raise refusal("shape", f"data is {data.shape}, published {shape}")
                values: npt.NDArray[np.float32] = data[()]
                return values
        except CorpusError:
            raise
        except Exception as error:
            # h5py words damage in many classes; the bytes are already here, so it is never the store's fault.
            what = " ".join(str(error).split())
            raise refusal("unreadable", f"not a whole MATLAB 7.3 (HDF5) file ({what})") from None

    @cached_property
    def _ratings(self) -> dict[tuple[str, str], list[dict[str, str]]]:
        """(subject, situation) -> its rows as written; more than one is as bad as none."""
        ratings: dict[tuple[str, str], list[dict[str, str]]] = {}
        for row in read_csv(storage.join(self.root, _RATINGS), ("subject", "situation", "valence", "arousal")):
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
