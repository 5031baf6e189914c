"""SEED-VII as its owner publishes it: EEG_preprocessed/{subject}.mat, MATLAB 5 files of 80 trials of four sessions.

Layout after bcmi.sjtu.edu.cn/home/seed/seed-vii.html. Variables '1' to '80' are the trials, twenty a session; each
shows a clip of its own, so a trial's number names its clip. A recording is one session's part of its subject's object.
"""

from __future__ import annotations

import io
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.io

from emod import storage
from emod.catalog import SimulateSettings
from emod.corpora.contract import Corpus, CorpusError, Problem, Recording, RecordingHeader, RecordingRef
from emod.corpora.inventory import find_objects
from emod.corpora.marker import scaled_seconds
from emod.corpora.mat5 import Rows, TrialLayout, join_files, peek_trials, read_trials
from emod.corpora.workbook import read_channel_order, read_sheet, table_ships, write_channel_order, write_sheet
from emod.simulation import Passage, RecordingPlan

__all__ = ["SeedVii"]

_FOLDER = "EEG_preprocessed"
_LABELS = "emotion_label_and_stimuli_order.xlsx"
_MAX_BYTES = 4 * 1024**3  # of an object that is being simulated


class SeedVii(Corpus):
    """20 subjects x 4 sessions x 20 film clips of seven emotions, at 200 Hz."""

    name = "seed_vii"

    def _inventory(self) -> tuple[list[RecordingRef], list[Problem]]:
        found, problems = find_objects(self, _FOLDER, r"(?P<subject>[1-9]\d*)\.mat", f"{_FOLDER}/1.mat")
        sessions = self.simulated.sessions if self.simulated else self.catalog.sessions
        refs = [
            RecordingRef(self.name, match["subject"], str(session), url, size)
            for match, url, size in sorted(found, key=lambda item: int(item[0]["subject"]))
            for session in range(1, sessions + 1)
        ]
        return refs, problems + self._labels[1] + self._order[1]

    def read(self, ref: RecordingRef) -> Recording:
        """Decodes one session of a subject's .mat (contract of `Corpus.read`)."""
        return read_trials(self, ref, self._layout(ref))

    def peek(self, ref: RecordingRef) -> RecordingHeader:
        """Reads the heads of one session's variables (contract of `Corpus.peek`)."""
        return peek_trials(self, ref, self._layout(ref))

    def _layout(self, ref: RecordingRef) -> TrialLayout:
        session = int(ref.session)
        emotions = self._labels[0][ref.session][: self.trials_expected]
        trials = enumerate(emotions, start=self._first_trial(session))
        return TrialLayout(
            pattern=r"(?P<trial>\d+)",
            example="1",
            labels={trial: (str(trial), emotion) for trial, emotion in trials},
            rows={len(self.channels): Rows(self._order[0])},
            expected_samples=self._expected_samples,
            elsewhere=lambda trial: self._session_of(trial) != session,
        )

    def _expected_samples(self, trial: int, samples: int) -> str | None:
        return "published whole seconds" if samples % round(self.catalog.sfreq_hz) else None

    def _first_trial(self, session: int) -> int:
        return (session - 1) * self.catalog.trials + 1

    def _session_of(self, trial: int) -> int:
        """The session of a trial; the first and the last one answer for numbers that no session has."""
        return min(max((trial - 1) // self.catalog.trials + 1, 1), self.catalog.sessions)

    @cached_property
    def _order(self) -> tuple[tuple[int, ...] | None, list[Problem]]:
        return read_channel_order(self)

    @cached_property
    def _labels(self) -> tuple[dict[str, tuple[str, ...]], list[Problem]]:
        """Session -> emotion of each trial: the owner's workbook where it can be read, else the catalog's."""
        assert self.catalog.trial_emotions is not None
        labels, problems = dict(self.catalog.trial_emotions), []
        url = storage.join(self.root, _LABELS)
        if not table_ships(self.root, url):
            return labels, []

        def report(code: str, message: str) -> None:
            problems.append(Problem(url, None, None, code, message))

        try:
            cells = read_sheet(url)
        except CorpusError as error:
            return labels, [error.problem]
        known = {emotion for built_in in labels.values() for emotion in built_in}
        # Rows alternate: a heading with the clips' numbers, then a row of words, both in order of presentation.
        for session, built_in in self.catalog.trial_emotions.items():
            numbers, words = ([*cells, *[[""]] * 8][2 * int(session) - n] for n in (2, 1))
            shown = tuple(word.lower() for word in words[1 : self.catalog.trials + 1])
            if len(shown) != len(built_in) or not set(shown) <= known:
                found = " ".join(words).strip()[:80] or "nothing"
                message = f"row {2 * int(session)} holds {found!r}, not {len(built_in)} emotions"
                report("label_table", f"{message}; built-in labels of session {session} are used, compare")
                continue
            labels[session] = shown
            pairs = zip(shown, built_in, strict=True)
            if apart := [trial for trial, (here, published) in enumerate(pairs, start=1) if here != published]:
                message = f"session {session} differs from the published labels at places {apart}"
                report("label_disagreement", f"{message}; it is used, compare")
            first, count = self._first_trial(int(session)), self.catalog.trials
            counted = ([str(n) for n in range(start, start + count)] for start in (1, first))
            if numbers[1 : count + 1] not in counted:
                found = " ".join(numbers[1:]).strip()[:80]
                message = f"clips of session {session} are numbered {found!r}, not in order of trials"
                report("layout", f"{message}; a trial's own number is taken for its clip, compare")
        return labels, problems

    def _plan_recording(self, settings: SimulateSettings, subject: int, session: int) -> RecordingPlan:
        assert self.catalog.trial_emotions is not None
        pieces, first = [], self._first_trial(session)
        for row, emotion in enumerate(self.catalog.trial_emotions[str(session)][: settings.trials]):
            seconds, trial = scaled_seconds(self.catalog.seconds_of(row), settings.time_scale), str(first + row)
            pieces.append((Passage(seconds, trial, trial, *self.place_emotion(emotion)),))
        return self._fill_plan(str(subject), str(session), pieces)

    def write_recording(self, plan: RecordingPlan, pieces_uv: list[npt.NDArray[np.float64]]) -> None:
        """Adds one session to its subject's .mat, which session 1 begins anew."""
        first = self._first_trial(int(plan.session))
        buffer = io.BytesIO()
        scipy.io.savemat(buffer, {str(trial): piece for trial, piece in enumerate(pieces_uv, start=first)})
        pieces_uv.clear()
        url, content = storage.join(self.root, _FOLDER, f"{plan.subject}.mat"), buffer.getvalue()
        if plan.session != "1":
            content = join_files([storage.read_bytes(url, at_most=_MAX_BYTES), content])
        storage.write_bytes(url, content)

    def write_tables(self, plans: list[RecordingPlan]) -> None:
        """Writes the workbooks of labels, for all four sessions, and of electrodes."""
        assert self.catalog.trial_emotions is not None
        rows: list[list[str | int | None]] = []
        for session, emotions in self.catalog.trial_emotions.items():
            first = self._first_trial(int(session))
            rows.append([f"Session {session}", *range(first, first + len(emotions))])
            rows.append([None, *(emotion.capitalize() for emotion in emotions)])
        write_sheet(storage.join(self.root, _LABELS), rows)
        write_channel_order(self)
