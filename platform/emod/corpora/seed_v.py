"""SEED-V as its owner publishes it: EEG_raw/{subject}_{session}_{date}.cnt, uncut Neuroscan recordings at 1000 Hz.

Layout after the README that ships with it (bcmi.sjtu.edu.cn/home/seed/seed-v.html). The session in a name is the set
of clips, which the same subject may have seen before a lower one. trial_start_end_timestamp.txt says when each clip
ran and wins over the published seconds, as emotion_label_and_stimuli_order.xlsx does over the published labels.
Channels are chosen by the names in each recording's header: mastoids and eye channels are left out, and where Channel
Order.xlsx has another order of electrodes that is said.
"""

from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Iterator
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from emod import storage
from emod.catalog import SimulateSettings
from emod.corpora.continuous import TrialMark, mark_trials
from emod.corpora.contract import Corpus, CorpusError, Problem, Recording, RecordingHeader, RecordingRef
from emod.corpora.inventory import find_sessions, leaves_copy
from emod.corpora.marker import scaled_seconds
from emod.corpora.neuroscan_cnt import CntHeader, read_cnt_header, read_cnt_samples, write_cnt
from emod.corpora.planning import generator
from emod.corpora.workbook import (
    CHANNEL_WORKBOOKS,
    read_channel_columns,
    read_sheet,
    write_channel_order,
    write_sheet,
)
from emod.errors import RequestError
from emod.signal import canonical_name
from emod.simulation import Passage, RecordingPlan

__all__ = ["SeedV"]

_FOLDER = "EEG_raw"
_TIMES = "trial_start_end_timestamp.txt"
_LABELS = "emotion_label_and_stimuli_order.xlsx"
_EMOTIONS = ("disgust", "fear", "sad", "neutral", "happy")  # by the owner's code
_LEFT_OUT = ("M1", "M2")
_TABLE = re.compile(
    r"session\s*([123])\s*:\s*start_second\s*:\s*\[([^\][]{0,1000})\]\s*end_second\s*:\s*\[([^\][]{0,1000})\]", re.I
)
_SECOND = re.compile(r"[0-9]{1,5}(\.[0-9]{1,6})?")
_MOST_TABLE_BYTES = 1024**2
_SENSITIVITY = 3125 / 512  # 6.1035; over 204.8 it is the SynAmps2 step of 0.0298 microvolt
_STEP_UV = _SENSITIVITY / 204.8
_TAIL_S = 10.0
_LEAST_REST_S = 1.0
_BLOCK_S = 30

Times = tuple[tuple[float, float], ...]


class SeedV(Corpus):
    """16 subjects x 3 sessions x 15 film clips of five emotions, 62 electrodes at 1000 Hz, uncut."""

    name = "seed_v"

    def _inventory(self) -> tuple[list[RecordingRef], list[Problem]]:
        pattern = r"(?P<subject>\d+)_(?P<session>[123])_(?P<date>\d{8})\.cnt"
        refs, problems = find_sessions(self, _FOLDER, pattern, f"{_FOLDER}/1_1_20180804.cnt")
        return refs, problems + self._times[1] + self._labels[1] + self._order[1]

    def read(self, ref: RecordingRef) -> Recording:
        """Decodes one session's .cnt (contract of `Corpus.read`); one cut short keeps the trials that are whole."""
        with storage.open_binary(ref.source) as stream:
            header, marks, problems = self._examine(ref, stream)
            by_name = {_site(label): row for row, label in enumerate(header.labels)}
            try:
                eeg_uv = read_cnt_samples(stream, header, [by_name[name] for name in self.channels])
            except RequestError:
                raise
            except ValueError as error:
                raise CorpusError(ref.problem("unreadable", f"{error}; copy the owner's object again")) from None
        return mark_trials(self, ref, eeg_uv, marks, problems)

    def peek(self, ref: RecordingRef) -> RecordingHeader:
        """From the header and the table of seconds."""
        with storage.open_binary(ref.source) as stream:
            header, marks, problems = self._examine(ref, stream)
        trial_s = {mark.trial: (mark.stop - mark.start) / header.sfreq_hz for mark in marks}
        return RecordingHeader(len(self.channels), header.sfreq_hz, trial_s, tuple(problems))

    def _examine(self, ref: RecordingRef, stream: IO[bytes]) -> tuple[CntHeader, list[TrialMark], list[Problem]]:
        """Header, trials that are there, and what is wrong.

        Raises:
            CorpusError: If nothing of it can be used.
        """
        try:
            header = read_cnt_header(stream, storage.size_bytes(ref.source))
        except RequestError:
            raise
        except ValueError as error:
            message = f"{' '.join(str(error).split())}; copy the owner's object again"
            raise CorpusError(ref.problem("unreadable", message)) from None
        sites = [_site(label) for label in header.labels]
        if wrong := [name for name in self.channels if sites.count(name) != 1]:
            message = f"{', '.join(wrong)} not there once among {', '.join(header.labels)}; look at it"
            raise CorpusError(ref.problem("missing", message))
        if header.sfreq_hz != self.catalog.sfreq_hz:
            message = f"{header.sfreq_hz:g} Hz, published {self.catalog.sfreq_hz:g}; look at it"
            raise CorpusError(ref.problem("shape", message))
        steps_uv = [header.steps_uv[sites.index(name)] for name in self.channels]
        if min(steps_uv) <= 0:
            raise CorpusError(ref.problem("unreadable", f"{min(steps_uv):g} uV a step; copy the owner's object again"))
        problems = []
        if max(abs(step / _STEP_UV - 1) for step in steps_uv) > 0.01:
            found = f"{min(steps_uv):.4g} to {max(steps_uv):.4g} uV a step"
            problems.append(ref.problem("layout", f"{found}, expected {_STEP_UV:.4f}; kept, compare amplitudes"))
        if doubt := header.doubt or ("" if header.sample_bytes == 4 else "samples of 16 bits, expected 32"):
            problems.append(ref.problem("layout", f"{doubt}; kept, look at it"))
        here = tuple(site for site in sites if site in self.channels)
        pairs = zip(here, self._order[0] or here, strict=True)
        if apart := [f"{name} for {wanted}" for name, wanted in pairs if name != wanted]:
            what = f"{len(apart)} electrodes are not in the order of {CHANNEL_WORKBOOKS[0]} ({apart[0]})"
            problems.append(ref.problem("layout", f"{what}; its own names are used, compare them"))
        here_s, whole_s = header.samples / header.sfreq_hz, header.declared / header.sfreq_hz
        if header.samples < header.declared // header.block * header.block:
            message = f"cut short: {whole_s - here_s:.1f} of {whole_s:.1f} s are missing; copy the owner's object again"
            problems.append(ref.problem("unreadable", message))
        marks = []
        emotions = self._labels[0][ref.session]
        for n, (start_s, stop_s) in enumerate(self._times[0][ref.session], start=1):
            start, stop = round(start_s * header.sfreq_hz), round(stop_s * header.sfreq_hz)
            if stop > header.samples:
                message = f"its {start_s:g} to {stop_s:g} s lie beyond the {here_s:.1f} s that are there; copy it again"
                problems.append(ref.problem("shape", message, str(n)))
            else:
                marks.append(TrialMark(str(n), f"s{ref.session}c{n:02d}", start, stop, emotion=emotions[n - 1]))
        if not marks:
            raise CorpusError(*problems)
        return header, marks, problems

    @cached_property
    def _times(self) -> tuple[dict[str, Times], list[Problem]]:
        """Session -> (start, stop) of each trial in seconds: the table that ships where it can be read, else the
        published ones.
        """
        sessions, scale = self.catalog.sessions, 1.0
        if self.simulated:
            sessions, scale = self.simulated.sessions, self.simulated.time_scale
        names = [str(n + 1) for n in range(sessions)]
        times = {session: self._published(session, scale)[: self.trials_expected] for session in names}
        url = storage.join(self.root, _TIMES)
        problems: list[Problem] = []
        if not storage.exists(url):
            return times, problems
        if not self._may_open(url):
            message = "not a small file of this copy; the published seconds are used"
            return times, [Problem(url, None, None, "label_table", message)]
        text = storage.read_bytes(url, at_most=_MOST_TABLE_BYTES).decode("latin-1")
        rows = {session: (starts, ends) for session, starts, ends in _TABLE.findall(text)}
        for session, published in times.items():
            found = _parse(*rows.get(session, ("", "")), len(published))
            if found is None:
                wanted = f"{len(published)} starts and ends that rise"
                message = f"session {session} has not {wanted}; the published seconds are used, compare"
                problems.append(Problem(url, None, None, "label_table", message))
                continue
            times[session] = found
            pairs = enumerate(zip(found, published, strict=True), start=1)
            if (apart := [n for n, (here, there) in pairs if here != there]) and not self.simulated:
                message = f"session {session} differs from the published seconds at trials {apart}; it is used, compare"
                problems.append(Problem(url, None, None, "label_disagreement", message))
        return times, problems

    @cached_property
    def _labels(self) -> tuple[dict[str, tuple[str, ...]], list[Problem]]:
        """Session -> emotion of each trial: the workbook's where it holds one row of words, or codes, for each session,
        else the catalog's.
        """
        assert self.catalog.trial_emotions is not None
        labels, problems = dict(self.catalog.trial_emotions), list[Problem]()
        url = storage.join(self.root, _LABELS)
        if not storage.exists(url):
            return labels, problems
        try:
            if not self._may_open(url):
                message = "not a small file of this copy; the published labels are used"
                raise CorpusError(Problem(url, None, None, "label_table", message))
            cells = read_sheet(url)
        except CorpusError as error:
            return labels, [error.problem]
        codes = {str(code): word for code, word in enumerate(_EMOTIONS)}
        for table in ({word: word for word in _EMOTIONS}, codes):
            rows = [tuple(table[cell.lower()] for cell in row if cell.lower() in table) for row in cells]
            if len(found := [row for row in rows if len(row) == self.catalog.trials]) == len(labels):
                break
        else:
            wanted = f"{len(labels)} rows of {self.catalog.trials} emotion words or codes 0..{len(codes) - 1}"
            message = f"not {wanted}; the published labels are used, compare"
            return labels, [Problem(url, None, None, "label_table", message)]
        for (session, published), row in zip(self.catalog.trial_emotions.items(), found, strict=True):
            labels[session] = row
            if apart := [n for n, pair in enumerate(zip(row, published, strict=True), start=1) if pair[0] != pair[1]]:
                message = f"session {session} differs from the published labels at trials {apart}; it is used, compare"
                problems.append(Problem(url, None, None, "label_disagreement", message))
        return labels, problems

    @cached_property
    def _order(self) -> tuple[tuple[str, ...], list[Problem]]:
        """Electrodes in the order of Channel Order.xlsx, whatever else it lists; () where it is of no use."""
        url, columns, problems = read_channel_columns(self)
        for column in columns:
            names = tuple(site for site in map(_site, column) if site in self.channels)
            if sorted(names) == sorted(self.channels):
                return names, []
        if url is not None and not problems:
            message = f"no column of the {len(self.channels)} electrodes; the recordings' own names are used, compare"
            problems = [Problem(url, None, None, "label_table", message)]
        return (), problems

    def _may_open(self, url: str) -> bool:
        """Whether a table is a file of this copy, neither empty (as a pipe is) nor huge."""
        return not leaves_copy(self.root, url) and 0 < storage.size_bytes(url) <= _MOST_TABLE_BYTES

    def _published(self, session: str, time_scale: float) -> Times:
        """(start, stop) of each trial, as published or shortened: clips and the rests between them alike."""
        starts = (self.catalog.trial_start_s or {})[session]
        times, before_s, now_s = [], 0.0, 0.0
        for row, start_s in enumerate(starts):
            seconds = self.catalog.seconds_of(row, session)
            begin_s = now_s + _scaled_rest(start_s - before_s, time_scale)
            now_s = begin_s + scaled_seconds(seconds, time_scale)
            times.append((begin_s, now_s))
            before_s = start_s + seconds
        return tuple(times)

    def _plan_recording(self, settings: SimulateSettings, subject: int, session: int) -> RecordingPlan:
        assert self.catalog.trial_emotions is not None
        times = self._published(str(session), settings.time_scale)[: settings.trials]
        passages, now_s = [], 0.0
        for row, (start_s, stop_s) in enumerate(times):
            place = self.place_emotion(self.catalog.trial_emotions[str(session)][row])
            passages.append(Passage(start_s - now_s))
            passages.append(Passage(stop_s - start_s, str(row + 1), f"s{session}c{row + 1:02d}", *place))
            now_s = stop_s
        passages.append(Passage(_scaled_rest(_TAIL_S, settings.time_scale)))
        return self._fill_plan(str(subject), str(session), [tuple(passages)])

    def write_recording(self, plan: RecordingPlan, pieces_uv: list[npt.NDArray[np.float64]]) -> None:
        """Writes one session's .cnt, block by block; what is no electrode is noise of 50 uV. Dates are invented."""
        order = [name.upper() for name in plan.channels]
        for mastoid, neighbour in zip(_LEFT_OUT, ("T8", "TP8"), strict=True):
            order.insert(order.index(neighbour) + 1, mastoid)
        labels = [*order, "VEO", "HEO"]
        rows = [labels.index(name.upper()) for name in plan.channels]
        rate, (eeg_uv,) = round(plan.sfreq_hz), pieces_uv
        pieces_uv.clear()
        rng = generator(0, self.name, plan.subject, plan.session)

        def blocks() -> Iterator[npt.NDArray[np.int32]]:
            for first in range(0, eeg_uv.shape[1], _BLOCK_S * rate):
                part_uv = eeg_uv[:, first : first + _BLOCK_S * rate]
                block_uv = rng.normal(0, 50, (len(labels), part_uv.shape[1]))
                block_uv[rows] = part_uv
                yield np.rint(block_uv / _STEP_UV).astype(np.int32)

        session = int(plan.session)
        day = date(2018, 6, 1) + timedelta(days=14 * int(plan.subject) + (0, 6, 3)[session - 1])
        url = storage.join(self.root, _FOLDER, f"{plan.subject}_{session}_{day:%Y%m%d}.cnt")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "session.cnt"
            with path.open("w+b") as stream:
                write_cnt(stream, labels, rate, _SENSITIVITY, blocks())
            storage.upload(str(path), url)

    def write_tables(self, plans: list[RecordingPlan]) -> None:
        """Writes the seconds of the clips as they are in this copy, the labels of all three sessions, and the order of
        electrodes.
        """
        assert self.catalog.trial_emotions is not None
        lines = []
        for session, plan in sorted({plan.session: plan for plan in plans}.items()):
            starts, ends, now_s = [], [], 0.0
            for passage in plan.pieces[0]:
                if not passage.rest:
                    starts.append(f"{now_s:g}")
                    ends.append(f"{now_s + passage.duration_s:g}")
                now_s += passage.duration_s
            lines += [f"Session {session}:", f"start_second: [{', '.join(starts)}]", f"end_second: [{', '.join(ends)}]"]
        storage.write_bytes(storage.join(self.root, _TIMES), "\n".join([*lines, ""]).encode())
        rows: list[list[str | int | None]] = []
        for session, words in self.catalog.trial_emotions.items():
            rows += [[f"Session {session}", *range(1, len(words) + 1)], [None, *(word.capitalize() for word in words)]]
        write_sheet(storage.join(self.root, _LABELS), rows)
        write_channel_order(self)


def _site(label: str) -> str:
    """Canonical name of an electrode, "" for what is none."""
    try:
        return canonical_name(label)
    except ValueError:
        return ""


def _scaled_rest(published_s: float, time_scale: float) -> float:
    """Length of a shortened rest: whole seconds, at least 1; the published length where ``time_scale`` is 1."""
    if time_scale == 1.0:
        return published_s
    return min(published_s, max(_LEAST_REST_S, float(round(published_s * time_scale))))


def _parse(starts: str, ends: str, trials: int) -> Times | None:
    """Pairs of seconds, or None where they are not ``trials`` pairs of numbers that follow each other."""
    columns = [[part.strip() for part in text.split(",")] for text in (starts, ends)]
    if any(len(column) != trials or not all(map(_SECOND.fullmatch, column)) for column in columns):
        return None
    flat = [float(text) for pair in zip(*columns, strict=True) for text in pair]
    if any(after < before for before, after in itertools.pairwise(flat)) or any(
        start == stop for start, stop in zip(flat[::2], flat[1::2], strict=True)
    ):
        return None
    return tuple(zip(flat[::2], flat[1::2], strict=True))
