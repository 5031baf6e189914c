"""DEAP as its owner publishes it: data_preprocessed_python/s01.dat ... s32.dat, Python 2 pickles of cut trials.

Layout after the owner's description (eecs.qmul.ac.uk/mmv/datasets/deap/readme.html), where column 0 of ``labels`` is
valence and column 1 arousal. The peripheral channels, dominance and liking are not read.
"""

from __future__ import annotations

import csv
import io
import math
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from emod import storage
from emod.catalog import SimulateSettings
from emod.corpora.array_pickle import ArrayHeader, dump_arrays, load_arrays, peek_arrays
from emod.corpora.contract import Corpus, CorpusError, Problem, Recording, RecordingHeader, RecordingRef
from emod.corpora.cut_trials import CutTrial, join_trials
from emod.corpora.inventory import find_objects, read_csv
from emod.corpora.marker import scaled_seconds
from emod.corpora.planning import draw_rating, generator, rating_at
from emod.simulation import Passage, RecordingPlan

__all__ = ["Deap"]

_FOLDER = "data_preprocessed_python"
_RATINGS = "metadata_csv/participant_ratings.csv"
_AXES = ("valence", "arousal")  # columns 0 and 1 of labels
_IDS = ("Participant_id", "Trial", "Experiment_id", "Start_time")
_ANSWERS = ("Valence", "Arousal", "Dominance", "Liking", "Familiarity")
_PERIPHERAL = 8  # hEOG vEOG zEMG tEMG GSR Respiration Plethysmograph Temperature, below the EEG rows
_RATING_STEP = 0.01
_AGREE = 0.011  # the table has two decimals
_MAX_GROWTH = 2  # of the pickle over its samples
_MAX_TABLE_BYTES = 1024**2
_FAMILIARITY_MISSING = (2, 15, 23)

Ratings = dict[tuple[int, int], tuple[str, str]]


class Deap(Corpus):
    """32 subjects x 40 music videos; 3 s of rest, then 60 s, at 128 Hz."""

    name = "deap"

    def _inventory(self) -> tuple[list[RecordingRef], list[Problem]]:
        found, problems = find_objects(self, _FOLDER, r"s(?P<subject>\d\d)\.dat", f"{_FOLDER}/s01.dat")
        refs = [RecordingRef(self.name, f"s{match['subject']}", "1", url, size) for match, url, size in found]
        return refs, problems + self._table[1]

    def read(self, ref: RecordingRef) -> Recording:
        """Decodes one s??.dat (contract of `Corpus.read`)."""
        with self._opened(ref) as stream:
            arrays = load_arrays(stream)
        self._check(ref, arrays)
        ratings, problems = self._rated(ref, arrays["labels"])
        trials = [
            CutTrial(video, video, arrays["data"][int(video) - 1, : len(self.channels)], self._rest, rating)
            for video, rating in ratings.items()
        ]
        return join_trials(self, ref, trials, problems)

    def peek(self, ref: RecordingRef) -> RecordingHeader:
        """Type, shape and labels of one s??.dat (contract of `Corpus.peek`); what its samples are stays unseen."""
        with self._opened(ref) as stream:
            headers, small = peek_arrays(stream)
        self._check(ref, headers)
        if "labels" not in small:
            return super().peek(ref)
        ratings, problems = self._rated(ref, small["labels"])
        usable = {}
        for video, rating in ratings.items():
            try:
                self.place_rating(rating)
                usable[video] = self.seconds_expected(0)
            except ValueError as error:
                problems.append(ref.problem("label", f"{error}; correct the label or copy it again", video))
        if not usable:
            raise CorpusError(*problems)
        return RecordingHeader(headers["data"].shape[1] - _PERIPHERAL, self.catalog.sfreq_hz, usable, tuple(problems))

    @property
    def _rest(self) -> int:
        """Samples before each clip."""
        return round(self.catalog.baseline_s * self.catalog.sfreq_hz)

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Array -> the shape that this copy should hold."""
        samples = self._rest + round(self.seconds_expected(0) * self.catalog.sfreq_hz)
        return {
            "data": (self.trials_expected, len(self.channels) + _PERIPHERAL, samples),
            "labels": (self.trials_expected, 4),
        }

    @contextmanager
    def _opened(self, ref: RecordingRef) -> Iterator[IO[bytes]]:
        """The pickle, if it is no larger than it can be; what is wrong with it as a `CorpusError`."""
        if ref.size_bytes > (most := _MAX_GROWTH * 8 * math.prod(self._shapes["data"]) + _MAX_TABLE_BYTES):
            raise _refusal(ref, "shape", f"{ref.size_bytes} bytes, at most {most} are plausible")
        try:
            with storage.open_binary(ref.source) as stream:
                yield stream
        except pickle.UnpicklingError as error:
            raise _refusal(ref, "unreadable", str(error)) from None

    def _check(self, ref: RecordingRef, arrays: Mapping[str, ArrayHeader | npt.NDArray[Any]]) -> None:
        """Raises if an array is missing, or of another type or shape."""
        for name, shape in self._shapes.items():
            if name not in arrays:
                raise _refusal(ref, "missing", f"no {name!r} among {[found[:40] for found in sorted(arrays)[:8]]}")
            if arrays[name].dtype != np.float64:
                raise _refusal(ref, "dtype", f"{name} is {arrays[name].dtype}, published float64")
            if arrays[name].shape != shape:
                raise _refusal(ref, "shape", f"{name} is {arrays[name].shape}, expected {shape}")

    def _rated(self, ref: RecordingRef, labels: npt.NDArray[Any]) -> tuple[dict[str, dict[str, float]], list[Problem]]:
        """Video -> its rating, and a problem for each that the table of ratings contradicts."""
        ratings, problems = {}, []
        for row, label in enumerate(labels):
            video = str(row + 1)
            ratings[video] = {axis: float(label[column]) for column, axis in enumerate(_AXES)}
            if message := self._disagreement(int(ref.subject[1:]), row + 1, ratings[video]):
                problems.append(ref.problem("label_disagreement", message, video))
        return ratings, problems

    @cached_property
    def _table(self) -> tuple[Ratings, list[Problem]]:
        """(subject, video) -> (valence, arousal) as written in the owner's table, which need not be there."""
        url = storage.join(self.root, _RATINGS)
        if not storage.exists(url):
            return {}, []
        try:
            rows = read_csv(url, ("participant_id", "experiment_id", "valence", "arousal"), root=self.root)
            keys = [(int(row["participant_id"]), int(row["experiment_id"])) for row in rows]
            return dict(zip(keys, ((row["valence"], row["arousal"]) for row in rows), strict=True)), []
        except CorpusError as error:
            return {}, [error.problem]
        except ValueError as error:
            message = f"ids are whole numbers ({error}); it is not compared, copy the owner's table again"
            return {}, [Problem(url, None, None, "label_table", message)]

    def _disagreement(self, subject: int, video: int, rating: dict[str, float]) -> str | None:
        """What is wrong between ``labels`` and the table of ratings, or None. Both ship; ``labels`` is used."""
        table = self._table[0]
        if not table:
            return None
        written = table.get((subject, video))
        if written is None:
            return f"{_RATINGS} has no row for it; its own label is used, compare the two"
        try:
            if all(abs(float(text) - rating[axis]) <= _AGREE for axis, text in zip(_AXES, written, strict=True)):
                return None
        except ValueError:
            pass  # not a number, so no agreement
        own = ", ".join(f"{rating[axis]:g}" for axis in _AXES)
        theirs = ", ".join(ascii(text[:20])[1:-1] for text in written)
        return f"labelled {own}, but {theirs} in {_RATINGS}; its own label is used, compare the two"

    def _plan_recording(self, settings: SimulateSettings, subject: int, session: int) -> RecordingPlan:
        scale, name = self.catalog.rating_scale, f"s{subject:02d}"
        assert scale is not None
        pieces = []
        for row in range(settings.trials or self.catalog.trials):
            video = str(row + 1)
            rating = draw_rating(settings.brain.seed, self.name, name, row, scale, _RATING_STEP)
            seconds = scaled_seconds(self.catalog.seconds_of(row), settings.time_scale)
            rest = Passage(self.catalog.baseline_s, trial=video)
            pieces.append((rest, Passage(seconds, video, video, *self.place_rating(rating))))
        return self._fill_plan(name, str(session), pieces)

    def write_recording(self, plan: RecordingPlan, pieces_uv: list[npt.NDArray[np.float64]]) -> None:
        """Writes one s??.dat; the peripheral rows are noise of 100 units."""
        n = len(plan.channels)
        data = np.empty((len(pieces_uv), n + _PERIPHERAL, pieces_uv[0].shape[1]))
        for row, piece_uv in enumerate(pieces_uv):
            data[row, :n] = piece_uv
        data[:, n:] = generator(0, plan.subject, "peripheral").normal(0, 100, data[:, n:].shape)
        url = storage.join(self.root, _FOLDER, f"{plan.subject}.dat")
        storage.write_bytes(url, b"".join(dump_arrays({"labels": self._labels_of(plan), "data": data})))

    def write_tables(self, plans: list[RecordingPlan]) -> None:
        """Writes metadata_csv/participant_ratings.csv: rows in order of presentation, as published."""
        text = io.StringIO(newline="")
        out = csv.writer(text)
        out.writerow([*_IDS, *_ANSWERS])
        for plan in plans:
            labels = self._labels_of(plan)
            rng = generator(0, plan.subject, "presentation")
            for shown, row in enumerate(rng.permutation(len(labels))):
                subject = int(plan.subject[1:])
                familiarity = "" if subject in _FAMILIARITY_MISSING else int(rng.integers(1, 6))
                ratings = (f"{value:.2f}".rstrip("0").rstrip(".") for value in labels[row])
                out.writerow([subject, shown + 1, row + 1, 1_000_000 + 80_000_000 * shown, *ratings, familiarity])
        storage.write_bytes(storage.join(self.root, _RATINGS), text.getvalue().encode())

    def _labels_of(self, plan: RecordingPlan) -> npt.NDArray[np.float64]:
        """(trials, 4) valence, arousal, dominance, liking; the last two mean nothing."""
        scale = self.catalog.rating_scale
        assert scale is not None
        shown = [passage for piece in plan.pieces for passage in piece if not passage.rest]
        places = np.array([(passage.valence, passage.arousal) for passage in shown], dtype=np.float64)
        others = generator(0, plan.subject, "other ratings").uniform(-4, 4, places.shape)
        rows = np.concatenate([places, others], axis=1).tolist()
        return np.array([[rating_at(value, scale, _RATING_STEP) for value in row] for row in rows])


def _refusal(ref: RecordingRef, code: str, what: str) -> CorpusError:
    return CorpusError(ref.problem(code, f"{what}; copy the owner's object again"))
