"""Labels of a data set in BIDS-EEG: the rows and columns of its tables that a catalog's ``bids`` section names.

It opens no recording.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cached_property

from emod import storage
from emod.catalog.corpus import BidsLayout
from emod.corpora.bids_recording import MAX_TEXT_BYTES, is_file
from emod.corpora.continuous import TrialMark
from emod.corpora.contract import Corpus, CorpusError, Problem, RecordingRef
from emod.corpora.inventory import leaves_copy
from emod.errors import DataError

__all__ = ["BidsLabels"]

_PARTICIPANT = "participant_id"
_MOMENT_S = 0.1  # onsets come from a recorder, durations often from a plan


class BidsLabels:
    """The tables of one copy.

    Args:
        corpus: Whose root, scale, words and rate hold.
        layout: What its catalog says of the tables.
    """

    def __init__(self, corpus: Corpus, layout: BidsLayout) -> None:
        self._corpus = corpus
        self._layout = layout

    def marks(
        self, ref: RecordingRef, pieces: Sequence[tuple[int, int]], beyond: str | None = None
    ) -> tuple[list[TrialMark], list[Problem]]:
        """Where the trials of a recording lie, and what is wrong with those that cannot be used.

        Args:
            ref: The recording.
            pieces: Its stretches that are continuous in time.
            beyond: What to say of a trial that ends after the last of them; None: that its row is wrong.

        Raises:
            CorpusError: If no trial can be used.
        """
        candidates: list[tuple[dict[str, str], tuple[int, int] | None]]
        if self._layout.labels == "participants":
            rows = self.participants.get(ref.subject, [])
            if len(rows) != 1:
                message = f"participants.tsv has {len(rows)} rows for {ref.subject}; give it one"
                raise CorpusError(ref.problem("label", message))
            candidates = [(rows[0], piece) for piece in pieces]
        else:
            candidates = [(row, None) for row in self._event_rows(ref)]
        marks: list[TrialMark] = []
        problems: list[Problem] = []
        rest = round(self._corpus.catalog.baseline_s * self._corpus.catalog.sfreq_hz)
        for number, (row, span) in enumerate(candidates, start=1):
            trial = str(number)
            try:
                start, stop = span or self._span(row)
                stimulus, rating, emotion = self._label(row)
            except ValueError as error:
                problems.append(ref.problem("label", f"{error}; correct its row", trial))
                continue
            baseline = (start - rest, start) if rest else None
            mark = TrialMark(trial, stimulus, start, stop, baseline, rating, emotion)
            if fault := self._fault(mark, pieces):
                code, found = fault
                late = code == "shape" and mark.start < mark.stop > pieces[-1][1]
                message = beyond if beyond and late else f"{found}; correct its row, or leave it out"
                problems.append(ref.problem(code, message, trial))
            else:
                marks.append(mark)
        marks, overlaps = self._part(ref, marks)
        problems += overlaps
        if not marks:
            raise CorpusError(*problems)
        return marks, problems

    def _part(self, ref: RecordingRef, marks: Sequence[TrialMark]) -> tuple[list[TrialMark], list[Problem]]:
        """The trials that share no sample with another, in the order given, and a problem for each of the others.

        Of two that overlap neither is used: whose label the shared samples have cannot be told, and with one onset or
        duration wrong the rest of either is in doubt. Clocks that differ by a moment are no overlap: there the next
        onset ends the trial before it.
        """
        moment = round(_MOMENT_S * self._corpus.catalog.sfreq_hz)
        apart = {mark.trial: mark for mark in marks}
        with_which: dict[str, tuple[str, int]] = {}
        last: TrialMark | None = None  # of those that began before, the one that ends last
        for mark in sorted(marks, key=lambda mark: (mark.start, mark.stop)):
            if last is not None and (shared := min(last.stop, mark.stop) - mark.start) > 0:
                if last.stop - mark.start <= moment and last.start < mark.start:
                    apart[last.trial] = dataclasses.replace(last, stop=min(mark.start, apart[last.trial].stop))
                else:
                    with_which.setdefault(last.trial, (mark.trial, shared))
                    with_which.setdefault(mark.trial, (last.trial, shared))
            if last is None or mark.stop > last.stop:
                last = mark
        problems = []
        for trial, (other, shared) in sorted(with_which.items(), key=lambda item: int(item[0])):
            seconds = shared / self._corpus.catalog.sfreq_hz
            what = f"it shares {seconds:.4g} s with trial {other}, which so have two labels"
            cure = f"correct onset or duration in their rows (without one trial_s of {self._corpus.name}.yaml counts)"
            problems.append(ref.problem("label", f"{what}; {cure}", trial))
        return [mark for mark in apart.values() if mark.trial not in with_which], problems

    def _fault(self, mark: TrialMark, pieces: Sequence[tuple[int, int]]) -> tuple[str, str] | None:
        """(code, finding) of what makes a trial useless, or None."""
        try:
            if mark.rating is not None:
                self._corpus.place_rating(mark.rating)
            else:
                self._corpus.place_emotion(mark.emotion or "")
        except ValueError as error:
            return "label", str(error)
        begin = mark.start if mark.baseline is None else mark.baseline[0]
        if not 0 <= begin <= mark.start < mark.stop <= pieces[-1][1]:
            return "shape", f"samples {begin}..{mark.stop} of {pieces[-1][1]} stored"
        if cut := [at for at, _ in pieces[1:] if begin < at < mark.stop]:
            return "shape", f"interrupted {(cut[0] - mark.start) / self._corpus.catalog.sfreq_hz:.1f} s after its onset"
        return None

    def _event_rows(self, ref: RecordingRef) -> list[dict[str, str]]:
        """Rows of events.tsv that are trials."""
        shared = storage.join(self._corpus.root, f"task-{self._layout.task}_events.tsv")
        url = next((url for url in ref.urls if url.endswith("_events.tsv")), shared)
        columns = {"onset", *self._layout.rows, *self._label_columns}
        rows = self._table(url, ref.subject, sorted(columns))
        chosen = [
            row
            for row in rows
            if all(any(fnmatchcase(row[name], one) for one in allowed) for name, allowed in self._layout.rows.items())
        ]
        if not chosen:
            wanted = "; ".join(f"{name}: {', '.join(allowed)}" for name, allowed in self._layout.rows.items()) or "any"
            there = {name: sorted({row[name] for row in rows})[:8] for name in self._layout.rows} or "none"
            message = f"no row of events.tsv is a trial (wanted {wanted}; there {there}); correct bids.rows"
            raise CorpusError(ref.problem("missing", message))
        return chosen

    def _span(self, row: dict[str, str]) -> tuple[int, int]:
        """First sample of an event and one past its last; without a duration it lasts as long as the catalog says."""
        catalog = self._corpus.catalog
        written = row.get("duration", "n/a")
        duration_s = 0.0 if written in ("", "n/a") else _number("duration", written)
        start = round(_number("onset", row["onset"]) * catalog.sfreq_hz)
        return start, start + round((duration_s or catalog.seconds_of(0)) * catalog.sfreq_hz)

    @property
    def _label_columns(self) -> list[str]:
        """Columns that a table must have."""
        bids = self._layout
        return [column for column in (bids.valence, bids.arousal, bids.emotion, bids.stimulus) if column is not None]

    def _label(self, row: dict[str, str]) -> tuple[str, dict[str, float] | None, str | None]:
        """(stimulus, rating, emotion) of a row."""
        bids = self._layout
        stimulus = bids.task if bids.stimulus is None else row[bids.stimulus]
        if stimulus in ("", "n/a"):
            raise ValueError(f"{bids.stimulus} is {stimulus!r}")
        if bids.emotion is not None:
            return stimulus, None, row[bids.emotion].lower()
        assert bids.valence is not None
        assert bids.arousal is not None
        columns = {"valence": bids.valence, "arousal": bids.arousal}
        return stimulus, {axis: _number(column, row[column]) for axis, column in columns.items()}, None

    @cached_property
    def participants(self) -> dict[str, list[dict[str, str]]]:
        """Subject -> its rows of participants.tsv; more than one is as bad as none."""
        url = storage.join(self._corpus.root, "participants.tsv")
        rows: dict[str, list[dict[str, str]]] = {}
        for row in self._table(url, None, [_PARTICIPANT, *self._label_columns]):
            rows.setdefault(row[_PARTICIPANT], []).append(row)
        return rows

    def _table(self, url: str, subject: str | None, columns: Sequence[str]) -> list[dict[str, str]]:
        """Rows of a TSV table with a heading; cells are stripped, and "" where a short row lacks one.

        Raises:
            CorpusError: If the table is missing (``missing``) or cannot be read as such (``label_table``).
        """

        def unusable(code: str, what: str) -> CorpusError:
            return CorpusError(Problem(url, subject, None, code, what))

        if not storage.exists(url):
            raise unusable("missing", f"no such table; give it columns {', '.join(columns)}")
        try:
            if leaves_copy(self._corpus.root, url) or not is_file(url):
                raise ValueError("a link that leaves the copy, or no file")
            text = storage.read_bytes(url, at_most=MAX_TEXT_BYTES).decode("utf-8-sig")
            heading, *lines = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
        except (ValueError, csv.Error, DataError) as error:
            raise unusable("label_table", f"not a table of tab-separated columns ({error}); mend it") from None
        if absent := [name for name in columns if name not in heading]:
            what = f"no column {absent[0]} among {', '.join(heading)}"
            raise unusable("label_table", f"{what}; correct bids in {self._corpus.name}.yaml, or the table")
        rows = (map(str.strip, line[: len(heading)]) for line in lines if line)
        return [dict(itertools.zip_longest(heading, row, fillvalue="")) for row in rows]


def _number(column: str, text: str) -> float:
    """A finite number, or ValueError that names the column."""
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{column} is {text[:40]!r}, no number") from None
    if not math.isfinite(number):
        raise ValueError(f"{column} is {text[:40]!r}, not finite")
    return number
