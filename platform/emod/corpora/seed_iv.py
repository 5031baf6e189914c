"""SEED-IV as its owner publishes it: eeg_raw_data/{session}/{subject}_{date}.mat, MATLAB 5 files of 24 cut trials.

Layout after bcmi.sjtu.edu.cn/home/seed/seed-iv.html. A clip is (session, trial): each session shows 24 clips of its
own, the same to all subjects. Trials keep the one sample that each has beyond whole seconds. Variables bear
participants' initials, which stay here.
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
from emod.corpora.contract import Corpus, Problem, Recording, RecordingHeader, RecordingRef
from emod.corpora.inventory import find_sessions
from emod.corpora.marker import scaled_seconds
from emod.corpora.mat5 import Rows, TrialLayout, peek_trials, read_trials
from emod.corpora.workbook import read_channel_order, table_ships, write_channel_order
from emod.simulation import Passage, RecordingPlan

__all__ = ["SeedIv"]

_FOLDER = "eeg_raw_data"
_README = "ReadMe.txt"
_EMOTIONS = ("neutral", "sad", "fear", "happy")  # by the owner's code
_LABEL_ROW = re.compile(r"session\s*(\d)_?label\s*=\s*\[([^\][]{0,1000})\]", re.IGNORECASE)
_MAX_README_BYTES = 1024**2


class SeedIv(Corpus):
    """15 subjects x 3 sessions x 24 film clips of four emotions, at 200 Hz."""

    name = "seed_iv"

    def _inventory(self) -> tuple[list[RecordingRef], list[Problem]]:
        pattern = r"(?P<session>[123])/(?P<subject>\d+)_(?P<date>\d{8})\.mat"
        refs, problems = find_sessions(self, _FOLDER, pattern, f"{_FOLDER}/1/1_20160518.mat")
        return refs, problems + self._labels[1] + self._order[1]

    def read(self, ref: RecordingRef) -> Recording:
        """Decodes one session's .mat (contract of `Corpus.read`)."""
        return read_trials(self, ref, self._layout(ref))

    def peek(self, ref: RecordingRef) -> RecordingHeader:
        """Reads the heads of one session's variables (contract of `Corpus.peek`)."""
        return peek_trials(self, ref, self._layout(ref))

    def _layout(self, ref: RecordingRef) -> TrialLayout:
        emotions = self._labels[0][ref.session][: self.trials_expected]
        return TrialLayout(
            pattern=r"(?P<initials>\w+?)_eeg(?P<trial>\d+)",
            example="<initials>_eeg1",
            labels={n: (_clip(ref.session, n), emotion) for n, emotion in enumerate(emotions, start=1)},
            rows={len(self.channels): Rows(self._order[0])},
            expected_samples=self._expected_samples,
        )

    def _expected_samples(self, trial: int, samples: int) -> str | None:
        return None if samples % round(self.catalog.sfreq_hz) == 1 else "published whole seconds and one"

    @cached_property
    def _order(self) -> tuple[tuple[int, ...] | None, list[Problem]]:
        return read_channel_order(self)

    @cached_property
    def _labels(self) -> tuple[dict[str, tuple[str, ...]], list[Problem]]:
        """Session -> emotion of each trial: the rows of ReadMe.txt where they can be read, else the catalog's."""
        assert self.catalog.trial_emotions is not None
        labels, problems = dict(self.catalog.trial_emotions), []
        url = storage.join(self.root, _README)
        if not table_ships(self.root, url):
            return labels, []
        if (size := storage.size_bytes(url)) > _MAX_README_BYTES:
            message = f"{size} bytes, far more than a page has; built-in labels are used, copy the owner's again"
            return labels, [Problem(url, None, None, "label_table", message)]
        text = storage.read_bytes(url, at_most=_MAX_README_BYTES).decode("latin-1")
        rows = {session: re.findall(r"[^\s,;]+", row) for session, row in _LABEL_ROW.findall(text)}
        for session, built_in in self.catalog.trial_emotions.items():
            codes = rows.get(session)
            if codes is None or len(codes) != len(built_in) or not set(codes) <= {"0", "1", "2", "3"}:
                found = " ".join(codes or ["none"])[:80]
                message = f"no row of {len(built_in)} codes 0..3 for session {session} but {found!r}"
                message += "; built-in labels are used, compare"
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
        for n, emotion in enumerate(self.catalog.trial_emotions[str(session)][: settings.trials], start=1):
            seconds = scaled_seconds(self.catalog.seconds_of(n - 1), settings.time_scale) + 1 / self.catalog.sfreq_hz
            pieces.append((Passage(seconds, str(n), _clip(str(session), n), *self.place_emotion(emotion)),))
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
        """Writes Channel Order.xlsx, and ReadMe.txt with the label rows of all three sessions."""
        assert self.catalog.trial_emotions is not None
        rows = [
            f"session{session}_label = [{','.join(str(_EMOTIONS.index(emotion)) for emotion in emotions)}];"
            for session, emotions in self.catalog.trial_emotions.items()
        ]
        text = "The labels of the three sessions for the same subjects are as follows,\r\n" + "\r\n".join(rows)
        text += "\r\nThe labels with 0, 1, 2, and 3 denote neutral, sad, fear, and happy emotions, respectively.\r\n"
        storage.write_bytes(storage.join(self.root, _README), text.encode())
        write_channel_order(self)


def _clip(session: str, trial: int) -> str:
    return f"s{session}c{trial:02d}"
