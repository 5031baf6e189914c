"""SEED as its owner publishes it: Preprocessed_EEG/{subject}_{date}.mat, MATLAB 5 files of 15 trials, and label.mat.

Layout after bcmi.sjtu.edu.cn/home/seed/seed.html. The clips and their order are the same for all subjects and sessions;
a session is known by the order of its date only. Trials keep the one sample that each has beyond whole seconds.
Variables bear participants' initials, which stay here.
"""

from __future__ import annotations

import io
import re
from datetime import date, timedelta
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.io

from emod import storage
from emod.catalog import SimulateSettings
from emod.corpora.contract import Corpus, CorpusError, Problem, Recording, RecordingHeader, RecordingRef
from emod.corpora.inventory import find_objects
from emod.corpora.marker import scaled_seconds
from emod.corpora.mat5 import Rows, TrialLayout, peek_trials, read_numbers, read_trials
from emod.corpora.workbook import read_channel_order, table_ships, write_channel_order
from emod.simulation import Passage, RecordingPlan

__all__ = ["Seed"]

_FOLDER = "Preprocessed_EEG"
_LABELS = "label.mat"
_EMOTIONS = {1: "positive", 0: "neutral", -1: "negative"}  # by the owner's code


class Seed(Corpus):
    """15 subjects x 3 sessions x 15 film clips, positive, neutral or negative, at 200 Hz."""

    name = "seed"

    def _inventory(self) -> tuple[list[RecordingRef], list[Problem]]:
        pattern = r"(?P<subject>[1-9]\d*)_(?P<date>\d{8})\.mat"
        found, problems = find_objects(self, _FOLDER, pattern, f"{_FOLDER}/1_20131027.mat")
        top = storage.join(self.root, _FOLDER)
        table = storage.join(top, _LABELS)
        problems = [each for each in problems if each.source != table or not table_ships(self.root, table)]
        usable = {url: size for _, url, size in found}
        # An object that cannot be used keeps its place among the dates.
        faults = [each for each in problems if each.code != "duplicate"]
        lost = (re.fullmatch(pattern, each.source.removeprefix(f"{top}/")) for each in faults)
        named = [match for match, _, _ in found] + [match for match in lost if match]
        dates: dict[int, set[str]] = {}
        for match in named:
            dates.setdefault(int(match["subject"]), set()).add(match["date"])
        sessions = self.simulated.sessions if self.simulated else self.catalog.sessions
        refs: list[RecordingRef] = []
        for subject in sorted(dates):
            for session, day in enumerate(sorted(dates[subject]), start=1):
                url = storage.join(top, f"{subject}_{day}.mat")
                if session > sessions and url in usable:
                    message = f"a date beyond the {sessions} sessions of a subject; move what is not SEED's away"
                    problems.append(Problem(url, str(subject), None, "unexpected_object", message))
                elif url in usable:
                    refs.append(RecordingRef(self.name, str(subject), str(session), url, usable[url]))
            if (here := len(dates[subject])) < sessions:
                message = f"{here} of {sessions} dates; sessions are numbered by date and shift when others arrive"
                problems.append(Problem(top, str(subject), None, "layout", f"{message}; copy them from the owner"))
        return refs, problems + self._labels[1] + self._order[1]

    def read(self, ref: RecordingRef) -> Recording:
        """Decodes one session's .mat (contract of `Corpus.read`)."""
        return read_trials(self, ref, self._layout)

    def peek(self, ref: RecordingRef) -> RecordingHeader:
        """Reads the heads of one session's variables (contract of `Corpus.peek`)."""
        return peek_trials(self, ref, self._layout)

    @property
    def _layout(self) -> TrialLayout:
        emotions = self._labels[0][: self.trials_expected]
        return TrialLayout(
            pattern=r"(?P<initials>\w+?)_eeg(?P<trial>\d+)",
            example="<initials>_eeg1",
            labels={n: (str(n), emotion) for n, emotion in enumerate(emotions, start=1)},
            rows={len(self.channels): Rows(self._order[0])},
            expected_samples=self._expected_samples,
        )

    def _expected_samples(self, trial: int, samples: int) -> str | None:
        """The clips last whole seconds, and a trial has one sample more."""
        seconds = self.seconds_expected(trial - 1)
        expected = round(seconds * self.catalog.sfreq_hz) + 1
        return None if samples == expected else f"{expected} by the published {seconds:g} s of its clip"

    @cached_property
    def _order(self) -> tuple[tuple[int, ...] | None, list[Problem]]:
        return read_channel_order(self)

    @cached_property
    def _labels(self) -> tuple[tuple[str, ...], list[Problem]]:
        """Emotion of each trial of every session: label.mat where it can be read, else the catalog's."""
        assert self.catalog.trial_emotions is not None
        built_in = self.catalog.trial_emotions["1"]
        url = storage.join(self.root, _FOLDER, _LABELS)
        if not table_ships(self.root, url):
            return built_in, []
        try:
            codes = read_numbers(url, "label")
        except CorpusError as error:
            return built_in, [error.problem]
        if len(codes) != len(built_in) or not set(codes) <= set(_EMOTIONS):
            found = " ".join(f"{code:g}" for code in codes[:30])
            message = f"label holds {found}, not {len(built_in)} codes -1, 0, 1; built-in labels are used, compare"
            return built_in, [Problem(url, None, None, "label_table", message)]
        labels = tuple(_EMOTIONS[int(code)] for code in codes)
        pairs = zip(labels, built_in, strict=True)
        if apart := [trial for trial, (here, published) in enumerate(pairs, start=1) if here != published]:
            message = f"label differs from the published labels at trials {apart}; it is used, compare"
            return labels, [Problem(url, None, None, "label_disagreement", message)]
        return labels, []

    def _plan_recording(self, settings: SimulateSettings, subject: int, session: int) -> RecordingPlan:
        assert self.catalog.trial_emotions is not None
        pieces = []
        for n, emotion in enumerate(self.catalog.trial_emotions[str(session)][: settings.trials], start=1):
            seconds = scaled_seconds(self.catalog.seconds_of(n - 1), settings.time_scale) + 1 / self.catalog.sfreq_hz
            pieces.append((Passage(seconds, str(n), str(n), *self.place_emotion(emotion)),))
        return self._fill_plan(str(subject), str(session), pieces)

    def write_recording(self, plan: RecordingPlan, pieces_uv: list[npt.NDArray[np.float64]]) -> None:
        """Writes one session's .mat. Initials and dates are invented, but for the published ``djc`` and ``ww``."""
        subject, session = int(plan.subject), int(plan.session)
        initials = {1: "djc", 10: "ww"}.get(subject, "".join(chr(ord("a") + n) for n in divmod(subject, 26)) + "x")
        day = date(2013, 7, 1) + timedelta(days=14 * (session - 1) + subject)
        buffer = io.BytesIO()
        scipy.io.savemat(buffer, {f"{initials}_eeg{row + 1}": piece for row, piece in enumerate(pieces_uv)})
        pieces_uv.clear()
        storage.write_bytes(storage.join(self.root, _FOLDER, f"{subject}_{day:%Y%m%d}.mat"), buffer.getvalue())

    def write_tables(self, plans: list[RecordingPlan]) -> None:
        """Writes label.mat with all 15 labels, whatever was simulated, and the table of electrodes."""
        assert self.catalog.trial_emotions is not None
        codes = {emotion: code for code, emotion in _EMOTIONS.items()}
        labels = np.array([[codes[emotion] for emotion in self.catalog.trial_emotions["1"]]], np.int16)
        buffer = io.BytesIO()
        scipy.io.savemat(buffer, {"label": labels})
        storage.write_bytes(storage.join(self.root, _FOLDER, _LABELS), buffer.getvalue())
        write_channel_order(self)
