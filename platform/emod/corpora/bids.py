"""Any corpus in BIDS-EEG (EDF, BDF, BrainVision, EEGLAB), read through MNE-BIDS by what its catalog's ``bids`` section
says: which task, and which columns of events.tsv or participants.tsv are the labels.

Trials are rows of events.tsv, or uninterrupted stretches of a whole recording. Derivatives are not looked at. It cannot
simulate: a laboratory's recordings have no published layout.
"""

from __future__ import annotations

import dataclasses
import json
import math
import posixpath
import re
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from emod import storage
from emod.affect import place_emotion
from emod.catalog import SimulateSettings
from emod.corpora.bids_labels import BidsLabels
from emod.corpora.bids_recording import (
    MAX_TEXT_BYTES,
    SAID_WITHIN_S,
    cut_short,
    damage,
    declares_length,
    is_vectorized,
    opened,
    pieces_of,
    refusal,
)
from emod.corpora.continuous import mark_trials
from emod.corpora.contract import Corpus, Problem, Recording, RecordingHeader, RecordingRef
from emod.corpora.inventory import is_apples, leaves_copy
from emod.errors import RequestError
from emod.signal import canonical_name
from emod.simulation import Passage, RecordingPlan

__all__ = ["BidsCorpus"]

_NAME = re.compile(
    r"sub-(?P<subject>[A-Za-z0-9+]+)(_ses-(?P<session>[A-Za-z0-9+]+))?_task-(?P<task>[A-Za-z0-9+]+)"
    r"(_(?P<acq>acq-[A-Za-z0-9+]+))?(_(?P<run>run-\d+))?_eeg\.(edf|bdf|vhdr|set)"
)
_RECORDINGS = (".edf", ".bdf", ".vhdr", ".set")
_BESIDE = ("eeg.eeg", "eeg.dat", "eeg.vmrk", "eeg.fdt", "eeg.json", "channels.tsv", "events.tsv")
_PLAUSIBLE_STEP_UV = (0.01, 1000.0)  # between neighbouring samples; another unit is off by a thousand or a million


class BidsCorpus(Corpus):
    """A copy of a corpus whose catalog has a ``bids`` section.

    Args:
        name: Of its catalog, which travels with the reader: workers need not see the folder it came from.
        root: The data set's top folder.
        strict: As in `Corpus`.
    """

    def __init__(self, name: str, root: str, strict: bool = False) -> None:
        super().__init__(root, strict)
        self.name = name
        assert self.catalog.bids is not None, f"{name} has no bids section"
        self._bids = self.catalog.bids
        self._labels = BidsLabels(self, self._bids)

    def place_emotion(self, emotion: str) -> tuple[float, float]:
        """(valence, arousal) of one of the catalog's own words; ValueError if unknown."""
        return place_emotion(emotion, {w: (at.valence, at.arousal) for w, at in (self.catalog.words or {}).items()})

    def _inventory(self) -> tuple[list[RecordingRef], list[Problem]]:
        cure = f"give the top folder of {self.catalog.name}, which holds sub-*/"
        if not storage.exists(self.root):
            raise RequestError(f"{self.root}: no such folder; {cure}")
        files = {path: size for path, size in storage.list_files(self.root).items() if path.startswith("sub-")}
        problems: list[Problem] = []
        refs: dict[tuple[str, str], RecordingRef] = {}
        tasks: set[str] = set()
        for path in files:
            folder, name = posixpath.split(path)
            if is_apples(path) or not (name.lower().endswith(_RECORDINGS) and posixpath.basename(folder) == "eeg"):
                continue
            url, match = storage.join(self.root, path), _NAME.fullmatch(name)
            session = f"/ses-{match['session']}" if match and match["session"] else ""
            if match is None or folder != f"sub-{match['subject']}{session}/eeg":
                message = "no BIDS name of a recording in the folder of its subject and session; rename it"
                problems.append(Problem(url, None, None, "unexpected_object", message))
                continue
            tasks.add(match["task"])
            if match["task"] != self._bids.task:
                continue
            subject = f"sub-{match['subject']}"
            key = subject, "_".join(filter(None, (match["session"] or "1", match["acq"], match["run"])))
            stem = path.rpartition("eeg.")[0]
            members = [path, *(stem + beside for beside in _BESIDE if stem + beside in files)]
            objects = tuple(storage.join(self.root, member) for member in members)
            if first := refs.get(key):
                message = f"the same recording as {first.source}, which is used; keep one of them"
                problems.append(Problem(url, subject, None, "duplicate", message))
            elif any(leaves_copy(self.root, member) for member in objects):
                message = "it, or a file that belongs to it, is a link that leaves the copy; put the file itself there"
                problems.append(Problem(url, subject, None, "unexpected_object", message))
            else:
                refs[key] = RecordingRef(self.name, *key, url, sum(files[member] for member in members), objects)
        if not refs:
            there = f"tasks there: {', '.join(sorted(tasks))}" if tasks else "no EEG recording with a BIDS name"
            raise RequestError(f"{self.root}: no recording of task {self._bids.task!r} ({there}); {cure}")
        if self._bids.labels == "participants":
            _ = self._labels.participants  # without it nothing can be used: say so before anything is decoded
        return [refs[key] for key in sorted(refs, key=lambda key: [_natural(part) for part in key])], problems

    def read(self, ref: RecordingRef) -> Recording:
        """Decodes one recording (contract of `Corpus.read`)."""
        with opened(ref) as raw:
            rows, problems = self._choose_rows(ref, raw)
            pieces = pieces_of(raw)
            marks, faults = self._labels.marks(ref, pieces, self._beyond(ref, raw))
            try:
                eeg_uv: npt.NDArray[np.float64] = raw.get_data(rows)
            except Exception as error:
                raise damage(ref, error) from None
        eeg_uv *= 1e6
        step_uv = _typical_step_uv(eeg_uv)
        least, most = _PLAUSIBLE_STEP_UV
        if step_uv is not None and not least <= step_uv <= most:
            what = f"neighbouring samples differ by {step_uv:.3g} uV"
            raise refusal(ref, "dtype", f"{what}, in EEG by 0.1 to 100; correct the unit in the recording's header")
        return dataclasses.replace(mark_trials(self, ref, eeg_uv, marks, [*problems, *faults]), pieces=pieces)

    def peek(self, ref: RecordingRef) -> RecordingHeader:
        """What a recording's header and tables say (contract of `Corpus.peek`); what its samples are stays unseen."""
        with opened(ref, head_only=True) as raw:
            rows, problems = self._choose_rows(ref, raw)
            marks, faults = self._labels.marks(ref, pieces_of(raw), self._beyond(ref, raw))
        seconds = {mark.trial: (mark.stop - mark.start) / self.catalog.sfreq_hz for mark in marks}
        return RecordingHeader(len(rows), self.catalog.sfreq_hz, seconds, (*problems, *faults))

    def _choose_rows(self, ref: RecordingRef, raw: Any) -> tuple[list[int], list[Problem]]:
        """Row of each of the catalog's electrodes, found by name, and what is doubtful about the recording."""
        found: dict[str, list[int]] = {}
        for row, name in enumerate(raw.ch_names):
            with suppress(ValueError):  # no electrode
                found.setdefault(canonical_name(name), []).append(row)
        if absent := [name for name in self.channels if name not in found]:
            what = f"no channel {', '.join(absent[:5])} among {', '.join(raw.ch_names[:40])}"
            raise refusal(ref, "shape", f"{what}; correct channels in {self.name}.yaml, or leave the recording out")
        if twice := [name for name in self.channels if len(found[name]) > 1]:
            raise refusal(ref, "shape", f"{twice[0]} is recorded twice; keep one of them in the recording")
        sfreq_hz = float(raw.info["sfreq"])
        if not math.isclose(sfreq_hz, self.catalog.sfreq_hz, rel_tol=1e-6):
            cure = f"correct sfreq_hz in {self.name}.yaml, or resample the recording"
            raise refusal(ref, "shape", f"{sfreq_hz:g} Hz, the catalog says {self.catalog.sfreq_hz:g}; {cure}")
        rows = [found[name][0] for name in self.channels]
        problems = []
        if bad := [raw.ch_names[row] for row in rows if raw.ch_names[row] in raw.info["bads"]]:
            message = f"channels.tsv calls {', '.join(bad)} bad; kept, look at it or leave it out of {self.name}.yaml"
            problems.append(ref.problem("layout", message))
        stored_s, said_s = raw.n_times / sfreq_hz, self._said_seconds(ref)
        if short := cut_short(raw, said_s):
            if is_vectorized(raw):  # every electrode but the first begins elsewhere
                raise refusal(ref, "unreadable", f"{short}; copy that file again")
            problems.append(ref.problem("length", f"{short}; copy that file again"))
        elif said_s is not None and abs(stored_s - said_s) > SAID_WITHIN_S:
            message = f"{stored_s:.1f} s are stored, its eeg.json says {said_s:.1f}; kept, compare with the original"
            problems.append(ref.problem("length", message))
        return rows, problems

    def _beyond(self, ref: RecordingRef, raw: Any) -> str | None:
        """What is to be said of a trial that ends after the last sample; None: its row is wrong."""
        said_s = self._said_seconds(ref)
        if short := cut_short(raw, said_s):
            return f"it ends beyond what is stored: {short}; copy that file again"
        if said_s is not None or declares_length(raw):
            return None
        file = posixpath.basename(str(raw.filenames[0]))
        what = f"it ends beyond the {raw.n_times / raw.info['sfreq']:.1f} s of {file}"
        return f"{what}; compare that file with the original, then correct the row"

    def _said_seconds(self, ref: RecordingRef) -> float | None:
        """RecordingDuration of eeg.json, which need not be there."""
        for url in ref.urls:
            if url.endswith("_eeg.json"):
                try:
                    said = json.loads(storage.read_bytes(url, at_most=MAX_TEXT_BYTES))["RecordingDuration"]
                    return float(said)
                except (KeyError, TypeError, ValueError, RecursionError):
                    return None
        return None

    def _plan_recording(self, settings: SimulateSettings, subject: int, session: int) -> RecordingPlan:
        """What the catalog expects of a recording; how subjects and clips are called is not known before."""
        seconds = self.catalog.seconds_of(0)
        trials = range(1, (settings.trials or self.catalog.trials) + 1)
        pieces = [(Passage(seconds, str(trial), str(trial), 0.0, 0.0),) for trial in trials]
        return self._fill_plan(f"sub-{subject:02d}", str(session), pieces)

    def write_recording(self, plan: RecordingPlan, pieces_uv: list[npt.NDArray[np.float64]]) -> None:
        """Refuses: what a laboratory's tables look like is not published.

        Raises:
            RequestError: Always.
        """
        raise RequestError(f"{self.name} is read from BIDS and cannot be simulated; choose a corpus that ships")

    def write_tables(self, plans: list[RecordingPlan]) -> None:
        """Nothing: the tables lie beside the recordings."""


def _typical_step_uv(eeg_uv: npt.NDArray[np.float64]) -> float | None:
    """Median over electrodes of the median change from sample to sample, where there is one."""
    medians = []
    for row in eeg_uv:
        steps = np.abs(np.diff(row))
        if (moves := steps[np.isfinite(steps) & (steps > 0)]).size:
            medians.append(float(np.median(moves)))
    return float(np.median(medians)) if medians else None


def _natural(name: str) -> list[tuple[int, int | str]]:
    """A key that puts 2 before 10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name)]
