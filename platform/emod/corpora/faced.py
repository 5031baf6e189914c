"""FACED (Chen et al. 2023, Sci Data 10:740): Processed_data/sub000.pkl ... sub122.pkl, Python 3 pickles of one array.

Clips stand in the order of their numbers, which name the emotion; only the last 30 s of each are published. The ears,
rows A2 and A1 below the scalp, are checked to be there and left out. Self-ratings (Data/subNNN/After_remarks.mat) are
no labels here: only the list of clips that were rated is compared.
"""

from __future__ import annotations

import io
import pickle
from collections import Counter

import numpy as np
import numpy.typing as npt
import scipy.io

from emod import storage
from emod.catalog import SimulateSettings
from emod.corpora.array_pickle import load_array, peek_array
from emod.corpora.contract import Corpus, CorpusError, Problem, Recording, RecordingHeader, RecordingRef
from emod.corpora.cut_trials import CutTrial, join_trials
from emod.corpora.inventory import find_objects, leaves_copy
from emod.corpora.marker import scaled_seconds
from emod.corpora.mat5_walk import Matrix, Walker, WalkError, variables
from emod.corpora.planning import generator
from emod.simulation import Passage, RecordingPlan

__all__ = ["Faced"]

_FOLDER = "Processed_data"
_EARS = 2  # A2, A1, below the scalp electrodes
_REMARKS = "After_remarks.mat"
_MAX_REMARKS_BYTES = 1024**2
_MAX_REMARKS = 1000
_FELT = ("joy", "tenderness", "inspiration", "amusement", "anger", "disgust", "fear", "sadness")  # first scores
_LARGEST_SCORE = 7
_MAX_GROWTH = 8  # protocol 0 writes some bytes as six


class Faced(Corpus):
    """123 subjects x 28 film clips of nine emotions, 30 s each, at 250 Hz."""

    name = "faced"

    def _inventory(self) -> tuple[list[RecordingRef], list[Problem]]:
        found, problems = find_objects(self, _FOLDER, r"sub(?P<subject>\d{3})\.pkl", f"{_FOLDER}/sub000.pkl")
        return [
            RecordingRef(self.name, f"sub{match['subject']}", "1", url, size) for match, url, size in found
        ], problems

    def read(self, ref: RecordingRef) -> Recording:
        """Decodes one sub???.pkl (contract of `Corpus.read`)."""
        self._check_size(ref)
        try:
            with storage.open_binary(ref.source) as stream:
                data = load_array(stream)
        except pickle.UnpicklingError as error:
            raise _refusal(ref, "unreadable", str(error)) from None
        self._check(ref, data.dtype, data.shape)
        trials = [
            CutTrial(str(row + 1), str(row + 1), clip[:-_EARS], emotion=emotion)
            for row, (clip, emotion) in enumerate(zip(data, self._emotions, strict=True))
        ]
        return join_trials(self, ref, trials, self._compare_remarks(ref))

    def peek(self, ref: RecordingRef) -> RecordingHeader:
        """Type and shape of one sub???.pkl (contract of `Corpus.peek`); what its samples are stays unseen."""
        self._check_size(ref)
        try:
            with storage.open_binary(ref.source) as stream:
                header = peek_array(stream)
        except pickle.UnpicklingError as error:
            raise _refusal(ref, "unreadable", str(error)) from None
        self._check(ref, header.dtype, header.shape)
        clips, rows, samples = header.shape
        seconds = samples / self.catalog.sfreq_hz
        problems = tuple(self._compare_remarks(ref))
        return RecordingHeader(
            rows - _EARS, self.catalog.sfreq_hz, {str(row + 1): seconds for row in range(clips)}, problems
        )

    @property
    def _emotions(self) -> tuple[str, ...]:
        """Of each clip that this copy should hold."""
        assert self.catalog.trial_emotions is not None
        return self.catalog.trial_emotions["1"][: self.trials_expected]

    @property
    def _shape(self) -> tuple[int, int, int]:
        """Clips, rows, samples."""
        samples = round(self.seconds_expected(0) * self.catalog.sfreq_hz)
        return self.trials_expected, len(self.channels) + _EARS, samples

    def _check_size(self, ref: RecordingRef) -> None:
        largest = _MAX_GROWTH * 8 * int(np.prod(self._shape)) + _MAX_REMARKS_BYTES
        if ref.size_bytes > largest:
            raise _refusal(ref, "shape", f"{ref.size_bytes} bytes, expected at most {largest}")

    def _check(self, ref: RecordingRef, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
        if dtype != np.float64:
            raise _refusal(ref, "dtype", f"the array is {dtype}, published float64")
        if shape != self._shape:
            raise _refusal(ref, "shape", f"the array is {shape}, expected {self._shape} (clips, rows, samples)")

    def _compare_remarks(self, ref: RecordingRef) -> list[Problem]:
        """What is wrong with the list of clips that the subject rated, which need not be there."""
        url = storage.join(self.root, "Data", ref.subject, _REMARKS)
        if not storage.exists(url):
            return []
        try:
            if leaves_copy(self.root, url):
                raise WalkError("a link that leaves the copy")
            if not 0 < storage.size_bytes(url) <= _MAX_REMARKS_BYTES:
                raise WalkError(f"{storage.size_bytes(url)} bytes")
            rated = _rated_clips(storage.read_bytes(url, at_most=_MAX_REMARKS_BYTES))
        except WalkError as error:
            message = f"no list of rated clips ({error}); labels are those of the clips, copy the owner's object again"
            return [Problem(url, ref.subject, None, "label_table", message)]
        counts, clips = Counter(rated), range(1, self.trials_expected + 1)
        found = {
            "twice": [clip for clip in clips if counts[clip] > 1],
            "not at all": [clip for clip in clips if not counts[clip]],
            "though unknown": sorted(set(counts) - set(clips)),
        }
        if not any(found.values()):
            return []
        what = ", ".join(f"{named[:5]} {how}" for how, named in found.items() if named)
        message = f"clips are rated {what}; labels are those of the clips, compare the two"
        return [Problem(url, ref.subject, None, "label_table", message)]

    def _plan_recording(self, settings: SimulateSettings, subject: int, session: int) -> RecordingPlan:
        assert self.catalog.trial_emotions is not None
        pieces = []
        for row, emotion in enumerate(self.catalog.trial_emotions["1"][: settings.trials]):
            seconds = scaled_seconds(self.catalog.seconds_of(row), settings.time_scale)
            pieces.append((Passage(seconds, str(row + 1), str(row + 1), *self.place_emotion(emotion)),))
        return self._fill_plan(f"sub{subject:03d}", str(session), pieces)

    def write_recording(self, plan: RecordingPlan, pieces_uv: list[npt.NDArray[np.float64]]) -> None:
        """Writes one sub???.pkl, with noise of 10 microvolt for the ears, and the subject's ratings."""
        n = len(plan.channels)
        data = np.empty((len(pieces_uv), n + _EARS, pieces_uv[0].shape[1]))
        for row, piece_uv in enumerate(pieces_uv):
            data[row, :n] = piece_uv
        pieces_uv.clear()
        data[:, n:] = generator(0, plan.subject, "ears").normal(0, 10, data[:, n:].shape)
        storage.write_bytes(storage.join(self.root, _FOLDER, f"{plan.subject}.pkl"), pickle.dumps(data, protocol=4))
        buffer = io.BytesIO()
        scipy.io.savemat(buffer, {"After_remark": self._remarks(plan)}, do_compression=True)
        storage.write_bytes(storage.join(self.root, "Data", plan.subject, _REMARKS), buffer.getvalue())

    def _remarks(self, plan: RecordingPlan) -> npt.NDArray[np.void]:
        """(clips, 1) ratings 0..7 and clip numbers, in order of presentation."""
        assert self.catalog.trial_emotions is not None
        rng = generator(0, plan.subject, "remarks")
        remarks = np.empty((len(plan.pieces), 1), [("score", object), ("vid", object)])
        for shown, row in enumerate(rng.permutation(len(plan.pieces))):
            (passage,) = plan.pieces[row]
            assert passage.arousal is not None
            assert passage.valence is not None
            scores = rng.uniform(0, 2, 12)
            scores[:8] += 5.0 * (np.array(_FELT) == self.catalog.trial_emotions["1"][row])
            scores[8:10] = (np.array([passage.arousal, passage.valence]) + 4) / 8 * _LARGEST_SCORE
            remarks[shown, 0] = (scores[None], np.array([[row + 1.0]]))
        return remarks

    def write_tables(self, plans: list[RecordingPlan]) -> None:
        """Nothing: the table of clips is in the owner's paper, not beside the recordings."""


def _rated_clips(content: bytes) -> list[int]:
    """Clip numbers in After_remark, a struct array or a cell of structs, in order of storage."""
    for walker in variables(io.BytesIO(content)):
        matrix = walker.enter()
        if matrix.name != "After_remark":
            continue
        if matrix.kind != "cell":
            return _clip_numbers(walker, matrix)
        if matrix.count > _MAX_REMARKS:
            raise WalkError(f"a cell of {matrix.shape}")
        return [clip for _ in range(matrix.count) for clip in _clip_numbers(walker, walker.enter(matrix))]
    raise WalkError("no variable After_remark")


def _clip_numbers(walker: Walker, structs: Matrix) -> list[int]:
    if structs.kind != "struct" or "vid" not in structs.fields or structs.count > _MAX_REMARKS:
        raise WalkError(f"{structs.kind} of {structs.shape} with fields {', '.join(structs.fields[:8]) or 'none'}")
    clips = []
    for field in structs.fields * structs.count:
        value = walker.enter(structs)
        if field != "vid":
            walker.leave(value)
            continue
        number = walker.load(value, at_most=1)
        if number.size != 1 or number.dtype.kind not in "iuf" or not np.isfinite(number).all():
            raise WalkError(f"vid holds {number.size} {number.dtype}")
        clips.append(int(number.item()))
    return clips


def _refusal(ref: RecordingRef, code: str, what: str) -> CorpusError:
    return CorpusError(ref.problem(code, f"{what}; copy the owner's object again"))
