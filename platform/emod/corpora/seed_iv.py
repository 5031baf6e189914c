"""SEED-IV as its owner publishes it: eeg_raw_data/{session}/{subject}_{date}.mat, MATLAB 5 files of 24 cut trials.

Layout after bcmi.sjtu.edu.cn/home/seed/seed-iv.html. A clip is (session, trial): each session shows 24 clips of its
own, the same to all subjects. Trials keep the one sample that each has beyond whole seconds. Channel Order.xlsx is
not read: rows are taken in the published order.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from datetime import date, timedelta
from functools import cached_property
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import scipy.io

from emod import storage
from emod.catalog import SimulateSettings
from emod.corpora.contract import Corpus, CorpusError, Problem, Recording, RecordingRef
from emod.corpora.cut_trials import CutTrial, join_trials
from emod.corpora.inventory import find_objects
from emod.corpora.marker import scaled_seconds
from emod.errors import DataError, RequestError
from emod.simulation import Passage, RecordingPlan

__all__ = ["SeedIv"]

_FOLDER = "eeg_raw_data"
_README = "ReadMe.txt"
_EMOTIONS = ("neutral", "sad", "fear", "happy")  # by the owner's code
_VARIABLE = re.compile(r"(?P<initials>\w+?)_eeg(?P<trial>\d+)")
_LABEL_ROW = re.compile(r"session\s*(\d)_?label\s*=\s*\[([^\]]*)\]", re.IGNORECASE)
_MAX_TRIAL_S = 600.0  # clips are films of two to four minutes; a header may claim anything
_MAX_README_BYTES = 1024**2


Report = Callable[[int | None, str, str], None]


class SeedIv(Corpus):
    """15 subjects x 3 sessions x 24 film clips of four emotions, at 200 Hz."""

    name = "seed_iv"

    def _inventory(self) -> tuple[list[RecordingRef], list[Problem]]:
        pattern = r"(?P<session>[123])/(?P<subject>\d+)_(?P<date>\d{8})\.mat"
        found, problems = find_objects(self, _FOLDER, pattern, f"{_FOLDER}/1/1_20160518.mat")
        refs: dict[tuple[int, int], RecordingRef] = {}
        for match, url, size in found:
            subject, session = int(match["subject"]), int(match["session"])
            if first := refs.get((subject, session)):
                message = f"session {session} lies in {first.source} too, which is used; keep one of them"
                problems.append(Problem(url, str(subject), None, "duplicate", message))
                continue
            refs[subject, session] = RecordingRef(self.name, str(subject), str(session), url, size)
        return [refs[key] for key in sorted(refs)], problems + self._labels[1]

    def read(self, ref: RecordingRef) -> Recording:
        """Decodes one session's .mat (contract of `Corpus.read`)."""
        problems: list[Problem] = []

        def report(trial: int | None, code: str, message: str) -> None:
            problems.append(ref.problem(code, message, None if trial is None else str(trial)))

        try:
            with storage.open_binary(ref.source) as stream:
                names = self._choose_variables(scipy.io.whosmat(stream), report)
                signals = _load_arrays(stream, list(names.values())) if names else {}
        except (DataError, RequestError, ConnectionError, TimeoutError):
            raise
        except Exception as error:
            # scipy words damage in many classes, OSError without a number among them; a number means the store.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            what = " ".join(str(error).split()) or type(error).__name__
            message = f"not a whole MATLAB 5 file ({what}); copy the owner's object again"
            raise CorpusError(ref.problem("unreadable", message)) from None

        trials = []
        emotions = self._labels[0][ref.session]
        for trial, name in names.items():
            eeg_uv = signals.pop(name)
            if eeg_uv.dtype.kind not in "fiu":
                report(trial, "dtype", f"{name} holds {eeg_uv.dtype}, published float64; copy the owner's object again")
                continue
            if eeg_uv.shape[1] % round(self.catalog.sfreq_hz) != 1:
                message = f"{name} has {eeg_uv.shape[1]} samples, published whole seconds and one; kept, compare it"
                report(trial, "length", message)
            # MATLAB stores whole numbers of a double array as integers; the owner's type is float64 either way.
            signal = eeg_uv.astype(np.float64, copy=False)
            trials.append(CutTrial(str(trial), f"s{ref.session}c{trial:02d}", signal, emotion=emotions[trial - 1]))
        return join_trials(self, ref, trials, problems)

    def _choose_variables(self, listed: list[tuple[str, tuple[int, ...], str]], report: Report) -> dict[int, str]:
        """Trial number -> variable, of those whose declared type and shape are right, in order of trials.

        The number in the name is the clip; the order of storage means nothing.
        """
        chosen: dict[int, str] = {}
        shapes = {name: (shape, kind) for name, shape, kind in listed}
        matches = [match for name, _, _ in listed if (match := _VARIABLE.fullmatch(name))]
        initials = sorted({match["initials"] for match in matches})
        numbers = [int(match["trial"]) for match in matches]
        if not matches:
            message = f"no variable like cz_eeg1 among {sorted(shapes)[:8]}; copy the owner's object again"
            report(None, "missing", message)
            return {}
        if len(initials) > 1 or len(set(numbers)) < len(numbers):
            report(None, "shape", f"trials of {', '.join(initials)}, mixed or twice; keep one session a file")
            return {}
        by_number = dict(zip(numbers, (match[0] for match in matches), strict=True))
        for trial in sorted(set(by_number) | set(range(1, self.trials_expected + 1))):
            if trial not in by_number:
                report(trial, "missing", f"no variable *_eeg{trial}; copy the owner's object again")
                continue
            name = by_number[trial]
            (shape, kind), longest = shapes[name], round(_MAX_TRIAL_S * self.catalog.sfreq_hz)
            if not 1 <= trial <= self.trials_expected:
                message = f"{name} is beyond the {self.trials_expected} trials of a session; left out, look at it"
                report(trial, "unexpected_object", message)
            elif kind not in ("double", "single"):
                report(trial, "dtype", f"{name} is {kind}, published double; copy the owner's object again")
            elif len(shape) != 2 or shape[0] != len(self.channels) or not self.catalog.sfreq_hz <= shape[1] <= longest:
                expected = f"{len(self.channels)} rows of 1 to {_MAX_TRIAL_S:g} s"
                report(trial, "shape", f"{name} is {shape}, expected {expected}; copy the owner's object again")
            else:
                chosen[trial] = name
        return chosen

    @cached_property
    def _labels(self) -> tuple[dict[str, tuple[str, ...]], list[Problem]]:
        """Session -> emotion of each trial: the rows of ReadMe.txt where they can be read, else the catalog's."""
        assert self.catalog.trial_emotions is not None
        labels, problems = dict(self.catalog.trial_emotions), []
        url = storage.join(self.root, _README)
        if not storage.exists(url):
            return labels, []
        text = storage.read_bytes(url, at_most=_MAX_README_BYTES).decode("latin-1")
        rows = {session: re.findall(r"[^\s,;]+", row) for session, row in _LABEL_ROW.findall(text)}
        for session, built_in in self.catalog.trial_emotions.items():
            codes = rows.get(session)
            if codes is None or len(codes) != len(built_in) or not set(codes) <= {"0", "1", "2", "3"}:
                wanted = f"{len(built_in)} codes 0..3 for session {session}"
                message = f"no row of {wanted} but {codes}; built-in labels are used, compare"
                problems.append(Problem(url, None, None, "label_table", message))
                continue
            labels[session] = tuple(_EMOTIONS[int(code)] for code in codes)
            pairs = zip(labels[session], built_in, strict=True)
            if apart := [trial for trial, (here, published) in enumerate(pairs, start=1) if here != published]:
                message = f"session {session} differs from the published labels at trials {apart}; it is used, compare"
                problems.append(Problem(url, None, None, "label_disagreement", message))
        return labels, problems

    def _plan_recording(self, settings: SimulateSettings, subject: int, session: int) -> RecordingPlan:
        assert self.catalog.trial_emotions is not None
        pieces = []
        for row, emotion in enumerate(self.catalog.trial_emotions[str(session)][: settings.trials]):
            seconds = scaled_seconds(self.catalog.seconds_of(row), settings.time_scale) + 1 / self.catalog.sfreq_hz
            stimulus = f"s{session}c{row + 1:02d}"
            pieces.append((Passage(seconds, str(row + 1), stimulus, *self.place_emotion(emotion)),))
        return self._fill_plan(str(subject), str(session), pieces)

    def write_recording(self, plan: RecordingPlan, pieces_uv: list[npt.NDArray[np.float64]]) -> None:
        """Writes one session's .mat. Initials and dates are invented, but for the published ``cz`` of subject 1."""
        subject, session = int(plan.subject), int(plan.session)
        initials = "cz" if subject == 1 else "".join(chr(ord("a") + n) for n in divmod(subject, 26)) + "x"
        day = date(2016, 1, 1) + timedelta(days=14 * (session - 1) + subject)
        buffer = io.BytesIO()
        scipy.io.savemat(buffer, {f"{initials}_eeg{row + 1}": piece for row, piece in enumerate(pieces_uv)})
        pieces_uv.clear()
        url = storage.join(self.root, _FOLDER, plan.session, f"{subject}_{day:%Y%m%d}.mat")
        storage.write_bytes(url, buffer.getvalue())

    def write_tables(self, plans: list[RecordingPlan]) -> None:
        """Writes ReadMe.txt with the label rows of all three sessions, whatever was simulated."""
        assert self.catalog.trial_emotions is not None
        rows = [
            f"session{session}_label = [{','.join(str(_EMOTIONS.index(emotion)) for emotion in emotions)}];"
            for session, emotions in self.catalog.trial_emotions.items()
        ]
        text = "The labels of the three sessions for the same subjects are as follows,\r\n" + "\r\n".join(rows)
        text += "\r\nThe labels with 0, 1, 2, and 3 denote neutral, sad, fear, and happy emotions, respectively.\r\n"
        storage.write_bytes(storage.join(self.root, _README), text.encode())


def _load_arrays(stream: IO[bytes], names: list[str]) -> dict[str, npt.NDArray[Any]]:
    stream.seek(0)
    loaded: dict[str, npt.NDArray[Any]] = scipy.io.loadmat(stream, variable_names=names)
    return loaded
