"""AMIGOS as its owner publishes it: data_preprocessed/Data_Preprocessed_P01.mat ... P40.mat, MATLAB 5 cells, 20 trials.

Cells 1-16 are short videos, 17-20 long ones of another day; both are one session here, as they are one object. A clip
is its entry in VideoIDs. Arousal is the first column of the ratings, valence the second. ECG, GSR, external
annotations and the other ratings are not read. Each cell's size is looked at before it is decoded.
"""

from __future__ import annotations

import io
import re

import numpy as np
import numpy.typing as npt
import scipy.io

from emod import storage
from emod.catalog import SimulateSettings
from emod.corpora.contract import Corpus, CorpusError, Problem, Recording, RecordingHeader, RecordingRef
from emod.corpora.cut_trials import CutTrial, join_trials
from emod.corpora.inventory import find_objects
from emod.corpora.marker import scaled_seconds
from emod.corpora.mat5_walk import Matrix, Walker, WalkError, variables
from emod.corpora.planning import draw_rating, generator, rating_at
from emod.simulation import Passage, RecordingPlan

__all__ = ["Amigos"]

_FOLDER = "data_preprocessed"
_SIGNALS, _RATINGS, _VIDEOS = "joined_data", "labels_selfassessment", "VideoIDs"
_AXES = ("arousal", "valence")  # columns 0 and 1 of a rating, in this order
_ANSWERS = 12
_COLUMNS = (17, 16)  # 14 EEG, 2 ECG, 1 GSR; one public reader met 16
_MAX_OBJECT = 400_000_000  # published objects have some 100 MB
_MAX_VARIABLE = 1_000_000_000
_MAX_TRIAL_S = 3600.0  # the longest video has 24 minutes; a header may claim anything
_VIDEO = re.compile(r"[A-Za-z0-9]{1,8}")
_SHORT = ("10", "13", "138", "18", "19", "20", "23", "30", "31", "34", "36", "4", "5", "58", "80", "9")
_VIDEO_IDS = (*_SHORT, "N1", "P1", "B1", "U1")
_RATING_STEP = 0.1
_SEGMENT_S = 20.0  # of the external annotations
_ONLY_RATINGS_MISSING = (32,)  # of the subjects that the catalog lists as lacking trials
_SKIPPED_ELSEWHERE = ("P09", "P12", "P21", "P22", "P23", "P24", "P33")  # by other tools, not known to be by the owner

Signal = npt.NDArray[np.float64]


class Amigos(Corpus):
    """40 subjects x (16 short, 4 long) videos; 5 s of rest, then the video, at 128 Hz."""

    name = "amigos"

    def _inventory(self) -> tuple[list[RecordingRef], list[Problem]]:
        pattern = r"(?:[^/]+/)?Data_Preprocessed_P(?P<subject>\d\d)\.mat"
        found, problems = find_objects(self, _FOLDER, pattern, f"{_FOLDER}/Data_Preprocessed_P01.mat")
        refs: dict[str, RecordingRef] = {}
        for match, url, size in found:
            subject = f"P{match['subject']}"
            if first := refs.get(subject):
                message = f"it lies in {first.source} too, which is used; keep one of them"
                problems.append(Problem(url, subject, None, "duplicate", message))
                continue
            refs[subject] = RecordingRef(self.name, subject, "1", url, size)
        return [refs[subject] for subject in sorted(refs)], problems

    def read(self, ref: RecordingRef) -> Recording:
        """Decodes the cells of one object that can be used (contract of `Corpus.read`)."""
        walk = self._walk(ref, load=True)
        rest = round(self.catalog.baseline_s * self.catalog.sfreq_hz)
        trials = [
            CutTrial(str(number), walk.videos[number], walk.signals.pop(number), rest, walk.ratings[number])
            for number in walk.usable
        ]
        return join_trials(self, ref, trials, walk.problems)

    def peek(self, ref: RecordingRef) -> RecordingHeader:
        """Declared shapes and ratings of one object (contract of `Corpus.peek`)."""
        walk = self._walk(ref, load=False)
        seconds = {}
        for number in walk.usable:
            try:
                self.place_rating(walk.ratings[number])
            except ValueError as error:
                walk.report(number, "label", f"{error}; correct the label or copy it again")
                continue
            seconds[str(number)] = walk.samples[number] / self.catalog.sfreq_hz - self.catalog.baseline_s
        if not seconds:
            raise CorpusError(*walk.problems)
        return RecordingHeader(len(self.channels), self.catalog.sfreq_hz, seconds, tuple(walk.problems))

    def _walk(self, ref: RecordingRef, load: bool) -> _Walk:
        if ref.size_bytes > _MAX_OBJECT:
            message = f"{ref.size_bytes} bytes, published about 100 MB; copy the owner's object again"
            raise CorpusError(ref.problem("shape", message))
        walk = _Walk(self, ref, load)
        found = set()
        try:
            with storage.open_binary(ref.source) as stream:
                for walker in variables(stream):
                    matrix = walker.enter(at_most=_MAX_VARIABLE)
                    if matrix.name in (_SIGNALS, _RATINGS, _VIDEOS):
                        walk.read_cells(walker, matrix)
                        walker.leave(matrix)
                        walker.finish()
                        found.add(matrix.name)
        except WalkError as error:
            message = f"not a whole MATLAB 5 file ({error}); copy the owner's object again"
            raise CorpusError(ref.problem("unreadable", message)) from None
        if absent := sorted({_SIGNALS, _RATINGS, _VIDEOS} - found):
            raise CorpusError(ref.problem("missing", f"no variable {absent[0]}; copy the owner's object again"))
        walk.choose()
        return walk

    def _plan_recording(self, settings: SimulateSettings, subject: int, session: int) -> RecordingPlan:
        scale, name = self.catalog.rating_scale, f"P{subject:02d}"
        assert scale is not None
        absent = () if subject in _ONLY_RATINGS_MISSING else self._left_out(name)
        pieces = []
        for row in range(settings.trials or self.catalog.trials):
            if row + 1 in absent:
                continue
            rating = draw_rating(settings.brain.seed, self.name, name, row, scale, _RATING_STEP)
            seconds = scaled_seconds(self.catalog.seconds_of(row), settings.time_scale)
            rest = Passage(self.catalog.baseline_s, trial=str(row + 1))
            pieces.append((rest, Passage(seconds, str(row + 1), _VIDEO_IDS[row], *self.place_rating(rating))))
        return self._fill_plan(name, str(session), pieces)

    def _left_out(self, subject: str) -> tuple[int, ...]:
        """Trials that the owner does not give for a subject."""
        rows = (row for row in self.catalog.missing if f"P{row.subject:02d}" == subject)
        return tuple(trial for row in rows for trial in row.trials)

    def write_recording(self, plan: RecordingPlan, pieces_uv: list[npt.NDArray[np.float64]]) -> None:
        """Writes one Data_Preprocessed_P??.mat; what is no EEG and no rating of this platform is noise."""
        scale = self.catalog.rating_scale
        assert scale is not None
        rng = generator(0, plan.subject, "others")
        cells = {name: np.empty((1, self.catalog.trials), dtype=object) for name in (_SIGNALS, _RATINGS, "annotations")}
        for row in range(self.catalog.trials):
            cells[_SIGNALS][0, row] = np.empty((0, 0))
            cells[_RATINGS][0, row] = np.empty((1, 0))
            cells["annotations"][0, row] = np.empty((0, 0))
        unrated = self._left_out(plan.subject)
        for piece in plan.pieces:
            shown, piece_uv = piece[-1], pieces_uv.pop(0)
            row = int(shown.trial or 0) - 1
            others = rng.normal(0, 100, (piece_uv.shape[1], _COLUMNS[0] - len(plan.channels)))
            cells[_SIGNALS][0, row] = np.concatenate([piece_uv.T, others], axis=1)
            segments = max(1, round(shown.duration_s / _SEGMENT_S))
            judged = rng.uniform(-1, 1, (segments, 2))
            cells["annotations"][0, row] = np.column_stack([np.arange(1.0, segments + 1), judged])
            if row + 1 in unrated:
                continue
            assert shown.arousal is not None
            assert shown.valence is not None
            rating = [rating_at(place, scale, _RATING_STEP) for place in (shown.arousal, shown.valence)]
            words = np.eye(7)[rng.integers(7)]
            cells[_RATINGS][0, row] = np.array([[*rating, *rng.uniform(1, 9, 3).round(1), *words]])
        videos = np.array([*_VIDEO_IDS, None], dtype=object)[None, :-1]
        content = {
            _VIDEOS: videos,
            _SIGNALS: cells[_SIGNALS],
            "labels_ext_annotation": cells["annotations"],
            _RATINGS: cells[_RATINGS],
        }
        buffer = io.BytesIO()
        scipy.io.savemat(buffer, content, do_compression=True)
        storage.write_bytes(
            storage.join(self.root, _FOLDER, f"Data_Preprocessed_{plan.subject}.mat"), buffer.getvalue()
        )

    def write_tables(self, plans: list[RecordingPlan]) -> None:
        """Nothing: ratings lie in the objects themselves."""


class _Walk:
    """What one object holds, trial by trial: declared sizes, ratings, clips and, where asked for, samples."""

    def __init__(self, corpus: Amigos, ref: RecordingRef, load: bool) -> None:
        self.corpus = corpus
        self.ref = ref
        self.load = load
        self.problems: list[Problem] = []
        self.samples: dict[int, int] = {}
        self.signals: dict[int, Signal] = {}
        self.ratings: dict[int, dict[str, float]] = {}
        self.videos: dict[int, str] = {}
        self.usable: list[int] = []
        self._empty: set[int] = set()
        self._refused: set[int] = set()
        self._narrow: list[int] = []

    def report(self, number: int | None, code: str, message: str) -> None:
        """One problem of a trial, or of the object."""
        self.problems.append(self.ref.problem(code, message, None if number is None else str(number)))

    def read_cells(self, walker: Walker, cell: Matrix) -> None:
        """The cells of one of the three variables.

        Raises:
            CorpusError: If it is no row of as many cells as there are trials.
        """
        trials = self.corpus.catalog.trials
        if cell.kind != "cell" or cell.count != trials or max(cell.shape) != trials:
            what = f"{cell.name} is a {cell.kind} of {cell.shape}, published cells (1, {trials})"
            raise CorpusError(self.ref.problem("shape", f"{what}; copy the owner's object again"))
        read = {_SIGNALS: self._read_signal, _RATINGS: self._read_rating, _VIDEOS: self._read_video}[cell.name]
        for number in range(1, trials + 1):
            matrix = walker.enter(cell)
            read(walker, matrix, number)
            walker.leave(matrix)

    def _read_signal(self, walker: Walker, matrix: Matrix, number: int) -> None:
        second, channels = self.corpus.catalog.sfreq_hz, len(self.corpus.channels)
        least, longest = round((self.corpus.catalog.baseline_s + 1) * second), round(_MAX_TRIAL_S * second)
        if not matrix.count:
            self._empty.add(number)
        elif number > self.corpus.trials_expected:
            self._refuse(number, "unexpected_object", f"beyond the {self.corpus.trials_expected} trials of this copy")
        elif not matrix.numeric or matrix.kind not in ("double", "single"):
            kind = matrix.kind if matrix.real else f"complex {matrix.kind}"
            self._refuse(number, "dtype", f"{_SIGNALS} holds {kind}, published double")
        elif len(matrix.shape) != 2 or matrix.shape[1] not in _COLUMNS or not least <= matrix.shape[0] <= longest:
            expected = f"{least}..{longest} samples x {_COLUMNS[0]} columns"
            self._refuse(number, "shape", f"{_SIGNALS} is {matrix.shape}, expected {expected}")
        else:
            self.samples[number] = matrix.shape[0]
            if matrix.shape[1] != _COLUMNS[0]:
                self._narrow.append(number)
            if self.load:
                table = walker.load(matrix, at_most=matrix.count)
                self.signals[number] = np.ascontiguousarray(table[:, :channels].T, np.float64)

    def _read_rating(self, walker: Walker, matrix: Matrix, number: int) -> None:
        if matrix.numeric and matrix.shape == (1, _ANSWERS):
            answers = walker.load(matrix, at_most=_ANSWERS).ravel()
            self.ratings[number] = {axis: float(answers[column]) for column, axis in enumerate(_AXES)}

    def _read_video(self, walker: Walker, matrix: Matrix, number: int) -> None:
        if not 0 < matrix.count <= 8 or not (matrix.numeric or matrix.kind == "char"):
            return
        entries = walker.load(matrix, at_most=8).ravel().tolist()
        # A number is as good as its text; a fraction has a point, which no id has.
        video = f"{entries[0]:.10g}" if matrix.numeric else entries[0].strip() if entries else ""
        if len(entries) == 1 and _VIDEO.fullmatch(video) and video not in ("nan", "inf"):
            self.videos[number] = video

    def _refuse(self, number: int, code: str, what: str) -> None:
        self._refused.add(number)
        self.report(number, code, f"{what}; copy the owner's object again")

    def choose(self) -> None:
        """Decides which trials can be used, and says of each other one why not."""
        known = self.corpus._left_out(self.ref.subject)
        seen = list(self.videos.values())
        for number in range(1, self.corpus.trials_expected + 1):
            if number in self._refused:
                continue
            video = self.videos.get(number)
            if number in known and (number in self._empty or number not in self.ratings):
                self.report(number, "left_out", "its owner has no recording or no rating of it")
            elif number in self._empty:
                self.report(number, "missing", f"{_SIGNALS} is empty; copy the owner's object again")
            elif number not in self.ratings:
                self.report(number, "label", f"{_RATINGS} has no row of {_ANSWERS} numbers; copy the object again")
            elif video is None or seen.count(video) > 1:
                what = "no clip" if video is None else f"clip {video}, twice,"
                self.report(number, "label", f"{what} in {_VIDEOS}; copy the owner's object again")
            else:
                self.usable.append(number)
                continue
            self.signals.pop(number, None)
        if self._narrow:
            message = f"trials {self._narrow} have {_COLUMNS[1]} columns, published {_COLUMNS[0]}; EEG is taken from "
            self.report(None, "layout", f"{message}the first {len(self.corpus.channels)}, compare")
        if self.usable and self.ref.subject in _SKIPPED_ELSEWHERE and not self.corpus.simulated:
            message = f"other tools leave {self.ref.subject} out for invalid data; kept, look at it"
            self.report(None, "disputed", message)
