"""DREAMER as its owner publishes it: one DREAMER.mat, a MATLAB 5 struct of 23 subjects of 18 film clips each.

Decoded whole it is two gigabytes, so the file is walked: once to its end for its facts and its checksum, which also
notes where each subject begins, then one subject at a time. Fields are taken by name. Signals keep their offset of
thousands of microvolt. The ECG, dominance, age and gender are not read.
"""

from __future__ import annotations

import io
import struct
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.io

from emod import storage
from emod.catalog import SimulateSettings
from emod.corpora.contract import Corpus, CorpusError, Problem, Recording, RecordingHeader, RecordingRef
from emod.corpora.cut_trials import CutTrial, join_trials
from emod.corpora.inventory import leaves_copy, table_ships
from emod.corpora.marker import scaled_seconds
from emod.corpora.mat5_walk import CutShortError, Matrix, Place, Walker, WalkError, variables
from emod.corpora.planning import draw_rating, generator, rating_at
from emod.errors import RequestError
from emod.signal import canonical_names
from emod.simulation import Passage, RecordingPlan

__all__ = ["Dreamer"]

_FILE = "DREAMER.mat"
_PARTS = "DREAMER.parts"  # subjects already simulated, until the file is put together
_SCORES = {"ScoreValence": "valence", "ScoreArousal": "arousal"}
_RATE, _SUBJECTS, _VIDEOS = "EEG_SamplingRate", "noOfSubjects", "noOfVideoSequences"
_MAX_TRIAL_S = 600.0  # published clips have 65 to 393 s; a header may claim anything
_MAX_VARIABLE = 2**31  # what MATLAB 5 can hold
_RATING_STEP = 1.0
_STEP_UV = 0.51  # of the headset's converter
_OFFSET_UV = 4100.0
_ECG_HZ = 256
_WIDTH = 32  # of field names, as MATLAB writes them
_BLOCK = 1 << 20

Signal = npt.NDArray[np.float64]


@dataclass
class _Survey:
    """What one walk to the end of the file found.

    Attributes:
        declared: Subjects that Data says it holds; None where Data was not found.
        places: Where each subject begins, of those that are whole.
        fault: Why the walk did not end well, or None.
        damaged: Whether the fault casts doubt on all of it, not only on what lies behind.
        electrodes: As the file names them.
        facts: What the file says of itself beside its cells, where it is one number.
    """

    declared: int | None = None
    places: list[Place] = field(default_factory=list)
    fault: str | None = None
    damaged: bool = False
    electrodes: tuple[str, ...] | None = None
    facts: dict[str, float] = field(default_factory=dict)


@dataclass
class _Trial:
    """The two signals of one trial as declared, and their samples where they were asked for."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    signals: dict[str, Signal] = field(default_factory=dict)
    fault: tuple[str, str] | None = None


class Dreamer(Corpus):
    """23 subjects x 18 film clips, each after 61 s of a neutral clip, at 128 Hz."""

    name = "dreamer"

    def _inventory(self) -> tuple[list[RecordingRef], list[Problem]]:
        cure = f"expected {_FILE} below it; give the top folder of {self.catalog.name}"
        if not storage.exists(self.root):
            raise RequestError(f"{self.root}: no such folder; {cure}")
        files = storage.list_files(self.root)
        if _FILE not in files:
            raise RequestError(f"{self.root}: holds no recording of {self.name}; {cure}")
        message = f"no recording of {self.name}, which are all in {_FILE}; rename it or move it away"
        problems = [
            Problem(storage.join(self.root, path), None, None, "unexpected_object", message)
            for path in files
            if path.lower().endswith(".mat") and path != _FILE
        ]
        url = storage.join(self.root, _FILE)
        if not table_ships(self.root, url):
            code = "unexpected_object" if leaves_copy(self.root, url) else "unreadable"
            message = "a pipe, or a link that leaves the copy; put the owner's file itself here"
            return [], [*problems, Problem(url, None, None, code, message)]
        survey = _survey(url, storage.stamp(url))
        if survey.declared is None:
            message = f"no whole MATLAB 5 struct DREAMER with a cell array Data ({survey.fault or 'no such cells'})"
            message += "; copy the file again"
            return [], [*problems, Problem(url, None, None, "unreadable", message)]
        if not 1 <= survey.declared <= self.catalog.subjects:
            message = f"Data has {survey.declared} cells, published {self.catalog.subjects}; copy the file again"
            return [], [*problems, Problem(url, None, None, "shape", message)]
        refs = [RecordingRef(self.name, str(subject + 1), "1", url, files[_FILE]) for subject in range(survey.declared)]
        doubts = _doubts(survey, self.channels, self.trials_expected)
        return refs, problems + [Problem(url, None, None, "layout", message) for message in doubts]

    def read(self, ref: RecordingRef) -> Recording:
        """Decodes one subject, and inflates no more of the file than lies before it (contract of `Corpus.read`)."""
        order, trials, ratings, problems = self._walk(ref, load=True)
        cuts = []
        for number, trial in sorted(trials.items()):
            parts = [trial.signals.pop(part)[:, order].T for part in ("baseline", "stimuli")]
            signal = np.concatenate(parts, axis=1)
            cuts.append(CutTrial(str(number), f"film{number}", signal, parts[0].shape[1], ratings[number]))
            del parts
        return join_trials(self, ref, cuts, problems)

    def peek(self, ref: RecordingRef) -> RecordingHeader:
        """One subject's declared shapes and its scores (contract of `Corpus.peek`)."""
        _, trials, ratings, problems = self._walk(ref, load=False)
        seconds = {}
        for number, trial in sorted(trials.items()):
            try:
                self.place_rating(ratings[number])
            except ValueError as error:
                message = f"{error}; correct the label or copy it again"
                problems.append(ref.problem("label", message, str(number)))
                continue
            seconds[str(number)] = trial.shapes["stimuli"][0] / self.catalog.sfreq_hz
        if not seconds:
            raise CorpusError(*problems)
        return RecordingHeader(len(self.channels), self.catalog.sfreq_hz, seconds, tuple(problems))

    def _walk(
        self, ref: RecordingRef, load: bool
    ) -> tuple[list[int], dict[int, _Trial], dict[int, dict[str, float]], list[Problem]]:
        """Columns in the catalog's order, trials and ratings by number of those that may be used, and what may not."""
        survey = _survey(ref.source, storage.stamp(ref.source))
        if survey.damaged or int(ref.subject) > len(survey.places):
            what = f"it cannot be read to the end of this subject ({survey.fault})"
            raise CorpusError(ref.problem("unreadable", f"{what}; copy the owner's file again"))
        if (sfreq_hz := survey.facts.get(_RATE, self.catalog.sfreq_hz)) != self.catalog.sfreq_hz:
            what = f"{_RATE} is {sfreq_hz:g}, published {self.catalog.sfreq_hz:g}"
            raise CorpusError(ref.problem("shape", f"{what}; copy the owner's file again"))
        names = _canonical(survey.electrodes) or self.channels
        if sorted(names) != sorted(self.channels):
            what = f"EEG_Electrodes are {', '.join(names)}, published {', '.join(self.channels)}"
            raise CorpusError(ref.problem("shape", f"{what}; copy the owner's file again"))
        order = [names.index(name) for name in self.channels]
        trials: dict[int, _Trial] = {number: _Trial() for number in range(1, self.trials_expected + 1)}
        scores: dict[str, npt.NDArray[Any]] = {}
        counts: dict[str, int] = {}
        try:
            with storage.open_binary(ref.source) as stream:
                walker = survey.places[int(ref.subject) - 1].resume(stream)
                for part, matrix in _fields(walker, walker.enter(), "its cell of Data"):
                    if part == "EEG":
                        for half, cell in _fields(walker, matrix, "EEG"):
                            if half in ("baseline", "stimuli"):
                                counts[f"EEG.{half}"] = cell.count
                                self._walk_cells(walker, cell, half, trials, load)
                    elif part in _SCORES and matrix.numeric and max(matrix.shape) == matrix.count:
                        counts[part] = matrix.count
                        scores[_SCORES[part]] = walker.load(matrix, at_most=1000).ravel()
        except WalkError as error:
            raise CorpusError(ref.problem("unreadable", f"{error}; copy the owner's file again")) from None
        chosen, ratings, problems = self._choose(ref, trials, scores)
        expected = self.trials_expected
        if more := [f"{name} has {count}" for name, count in sorted(counts.items()) if count > expected]:
            message = f"{', '.join(more)}, expected {expected}; the first {expected} are used, compare them"
            problems.append(ref.problem("unexpected_object", message))
        return order, chosen, ratings, problems

    def _walk_cells(self, walker: Walker, cell: Matrix, half: str, trials: dict[int, _Trial], load: bool) -> None:
        """Fills one half (baseline or stimuli) of each trial."""
        if cell.kind != "cell":
            raise WalkError(f"EEG.{half} is a {cell.kind}, published a cell array")
        longest = round(_MAX_TRIAL_S * self.catalog.sfreq_hz)
        for number in range(1, min(cell.count, len(trials)) + 1):
            matrix, trial = walker.enter(cell), trials[number]
            trial.shapes[half] = matrix.shape
            least = 1 if half == "baseline" else round(self.catalog.sfreq_hz)
            if not matrix.count:
                trial.fault = ("missing", f"its {half} is empty")
            elif not matrix.numeric or matrix.kind not in ("double", "single"):
                trial.fault = ("dtype", f"its {half} is {'' if matrix.real else 'complex '}{matrix.kind}")
            elif (
                len(matrix.shape) != 2
                or matrix.shape[1] != len(self.channels)
                or not least <= matrix.shape[0] <= longest
            ):
                expected = f"{least}..{longest} samples x {len(self.channels)}"
                trial.fault = ("shape", f"its {half} is {matrix.shape}, expected {expected}")
            elif load:
                trial.signals[half] = walker.load(matrix, at_most=matrix.count).astype(np.float64, copy=False)
            walker.leave(matrix)

    def _choose(
        self, ref: RecordingRef, trials: dict[int, _Trial], scores: dict[str, npt.NDArray[Any]]
    ) -> tuple[dict[int, _Trial], dict[int, dict[str, float]], list[Problem]]:
        """Trials that are whole and rated, their ratings, and what is wrong with the others."""
        problems: list[Problem] = []
        ratings: dict[int, dict[str, float]] = {}
        second, rest = round(self.catalog.sfreq_hz), round(self.catalog.baseline_s * self.catalog.sfreq_hz)

        def report(number: int, code: str, message: str) -> None:
            problems.append(ref.problem(code, message, str(number)))

        for number, trial in list(trials.items()):
            if absent := [half for half in ("baseline", "stimuli") if half not in trial.shapes]:
                trial.fault = ("missing", f"no cell {number} in EEG.{absent[0]}")
            elif trial.fault is None and any(len(scores.get(axis, ())) < number for axis in _SCORES.values()):
                trial.fault = ("label", "it has no scores for valence and arousal")
            if trial.fault is not None:
                report(number, trial.fault[0], f"{trial.fault[1]}; copy the owner's file again")
                del trials[number]
                continue
            # float first: the scores are unsigned bytes
            ratings[number] = {axis: float(scores[axis][number - 1]) for axis in _SCORES.values()}
            lengths = trial.shapes["baseline"][0], trial.shapes["stimuli"][0]
            if lengths[0] != rest or lengths[1] % second:
                message = f"{lengths[0]} samples of rest, then {lengths[1]}; published {rest}, then whole seconds"
                report(number, "length", f"{message}; kept, compare it")
        return trials, ratings, problems

    def _plan_recording(self, settings: SimulateSettings, subject: int, session: int) -> RecordingPlan:
        scale = self.catalog.rating_scale
        assert scale is not None
        pieces = []
        for row in range(settings.trials or self.catalog.trials):
            trial = str(row + 1)
            rating = draw_rating(settings.brain.seed, self.name, str(subject), row, scale, _RATING_STEP)
            seconds = scaled_seconds(self.catalog.seconds_of(row), settings.time_scale)
            rest = Passage(self.catalog.baseline_s, trial=trial)
            pieces.append((rest, Passage(seconds, trial, f"film{trial}", *self.place_rating(rating))))
        return self._fill_plan(str(subject), str(session), pieces)

    def write_recording(self, plan: RecordingPlan, pieces_uv: list[npt.NDArray[np.float64]]) -> None:
        """Stores one subject's cell of Data beside the file to be; the ECG is noise."""
        scale = self.catalog.rating_scale
        assert scale is not None
        rng = generator(0, plan.subject, "ecg")
        rest = round(self.catalog.baseline_s * plan.sfreq_hz)
        offsets = _OFFSET_UV + 37.0 * np.arange(len(plan.channels))[:, None]
        halves: dict[str, list[Signal]] = {"baseline": [], "stimuli": []}
        for piece_uv in pieces_uv:
            stored = np.round((piece_uv + offsets) / _STEP_UV) * _STEP_UV
            halves["baseline"].append(stored[:, :rest].T)
            halves["stimuli"].append(stored[:, rest:].T)
        pieces_uv.clear()
        ratio = round(_ECG_HZ / plan.sfreq_hz)
        ecg = {
            half: _cell_column([np.round(rng.normal(2048, 100, (ratio * len(part), 2))) for part in parts])
            for half, parts in halves.items()
        }
        shown = [passage for piece in plan.pieces for passage in piece if not passage.rest]
        places = np.array([(passage.valence, passage.arousal) for passage in shown], np.float64)
        ratings = np.array([[rating_at(value, scale, _RATING_STEP) for value in row] for row in places.tolist()])
        subject = {
            "Age": "30",
            "Gender": "unknown",
            "EEG": {half: _cell_column(parts) for half, parts in halves.items()},
            "ECG": ecg,
            "ScoreValence": ratings[:, :1].astype(np.uint8),
            "ScoreArousal": ratings[:, 1:].astype(np.uint8),
            "ScoreDominance": rng.integers(1, 6, (len(ratings), 1)).astype(np.uint8),
        }
        storage.write_bytes(storage.join(self.root, _PARTS, f"{plan.subject}.part"), _nameless(subject))

    def write_tables(self, plans: list[RecordingPlan]) -> None:
        """Puts DREAMER.mat together from the subjects stored so far, one block of it in memory."""
        folder = storage.join(self.root, _PARTS)
        parts = [storage.join(folder, f"{plan.subject}.part") for plan in plans]
        electrodes = np.array([*self.catalog.channels, None], dtype=object)[None, :-1]
        facts = {
            _RATE: self.catalog.sfreq_hz,
            "ECG_SamplingRate": float(_ECG_HZ),
            "EEG_Electrodes": electrodes,
            _SUBJECTS: float(len(plans)),
            _VIDEOS: float(max(len(plan.pieces) for plan in plans)),
            "Disclaimer": "Simulated: nobody was recorded.",
            "Provider": "simulator",
            "Version": "0",
            "Acknowledgement": "none",
        }
        behind = b"".join(_nameless(value) for value in facts.values())
        cells = _head(1, (1, len(parts)), "")
        data_size = len(cells) + sum(storage.size_bytes(part) for part in parts)
        names = b"".join(name.encode().ljust(_WIDTH, b"\x00") for name in ("Data", *facts))
        root = _head(2, (1, 1), "DREAMER") + struct.pack("<HHIII", 5, 4, _WIDTH, 1, len(names)) + names
        ahead = struct.pack("<II", 14, len(root) + 8 + data_size + len(behind)) + root
        ahead += struct.pack("<II", 14, data_size) + cells

        def content() -> Iterator[bytes]:
            yield ahead
            for part in parts:
                with storage.open_binary(part) as stream:
                    while block := stream.read(_BLOCK):
                        yield block
            yield behind

        with tempfile.NamedTemporaryFile(suffix=".mat") as file:
            file.write(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + bytes(8))
            deflate = zlib.compressobj(1)
            for block in content():
                file.write(deflate.compress(block))
            file.write(deflate.flush())
            size = file.tell() - 136
            file.seek(128)
            file.write(struct.pack("<II", 15, size))
            file.flush()
            storage.upload(file.name, storage.join(self.root, _FILE))
        storage.remove_folder(folder)


@lru_cache(maxsize=2)
def _survey(url: str, stamp: str) -> _Survey:
    """Walks DREAMER.mat to its end. ``stamp`` tells a changed file from one already walked in this process."""
    survey = _Survey()
    try:
        with storage.open_binary(url) as stream:
            for walker in variables(stream):
                root = walker.enter(at_most=_MAX_VARIABLE)
                if root.name == "DREAMER":
                    _survey_struct(walker, root, survey)
                    walker.leave(root)
                    walker.finish()
                    break
            else:
                raise WalkError("no variable DREAMER")
    except WalkError as error:
        survey.fault, survey.damaged = str(error), not isinstance(error, CutShortError)
    return survey


def _survey_struct(walker: Walker, root: Matrix, survey: _Survey) -> None:
    for name, matrix in _fields(walker, root, "DREAMER"):
        if name == "Data" and matrix.kind == "cell":
            survey.declared = matrix.count
            for _ in range(min(matrix.count, 1000)):
                place = walker.place()
                walker.leave(walker.enter(matrix))
                survey.places.append(place)
        elif name == "EEG_Electrodes" and matrix.kind == "cell":
            names = []
            for _ in range(min(matrix.count, 100)):
                entry = walker.enter(matrix)
                names.append("".join(walker.load(entry, at_most=32).ravel().tolist()) if entry.kind == "char" else "?")
                walker.leave(entry)
            survey.electrodes = tuple(names)
        elif name in (_RATE, _SUBJECTS, _VIDEOS) and matrix.numeric and matrix.count == 1:
            survey.facts[name] = float(walker.load(matrix, at_most=1).item())


def _fields(walker: Walker, matrix: Matrix, what: str) -> Iterator[tuple[str, Matrix]]:
    """The fields of one struct; each is left when the next is asked for."""
    if matrix.kind != "struct" or matrix.count != 1:
        raise WalkError(f"{what} is a {matrix.kind} of {matrix.shape}, published one struct")
    for name in matrix.fields:
        inner = walker.enter(matrix)
        yield name, inner
        walker.leave(inner)


def _doubts(survey: _Survey, channels: tuple[str, ...], trials: int) -> list[str]:
    """What the whole file says that is not as published, but does not make it useless."""
    if survey.fault is not None and len(survey.places) < (survey.declared or 0):
        return []  # then subjects are missing, and each of them says so
    doubts = []
    if survey.fault is not None and not survey.damaged:
        doubts.append(f"behind the last subject it cannot be read ({survey.fault}); subjects are used, copy it again")
    names = _canonical(survey.electrodes)
    if names is None:
        doubts.append("no usable EEG_Electrodes; the published order of columns is assumed, compare")
    elif names != channels and sorted(names) == sorted(channels):
        doubts.append(f"its columns are {', '.join(names)}, published {', '.join(channels)}; put in published order")
    if _RATE not in survey.facts:
        doubts.append(f"no {_RATE}; the published rate is assumed, compare")
    if (subjects := survey.facts.get(_SUBJECTS)) not in (None, survey.declared):
        doubts.append(f"{_SUBJECTS} is {subjects:g}, but Data has {survey.declared} cells; the cells are used")
    if (videos := survey.facts.get(_VIDEOS)) not in (None, trials):
        doubts.append(f"{_VIDEOS} is {videos:g}, expected {trials}; the cells are used, compare them")
    return doubts


def _canonical(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    try:
        return None if names is None else canonical_names(names)
    except ValueError:
        return None


def _head(kind: int, shape: tuple[int, int], name: str) -> bytes:
    """Flags, dimensions and name of an array as MATLAB 5 stores them."""
    raw = name.encode()
    head = struct.pack("<IIIIIIii", 6, 8, kind, 0, 5, 8, *shape)
    return head + struct.pack("<II", 1, len(raw)) + raw + bytes(-len(raw) % 8)


def _nameless(value: object) -> bytes:
    """A value as SciPy stores it, without its name: what stands in a cell or a struct's field."""
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"x": value}, long_field_names=True)
    raw = buffer.getvalue()
    return raw[128:168] + struct.pack("<II", 1, 0) + raw[176:]  # a name of one byte takes as much room as none


def _cell_column(parts: list[Signal]) -> npt.NDArray[np.object_]:
    cells = np.empty((len(parts), 1), dtype=object)
    cells[:, 0] = parts
    return cells
