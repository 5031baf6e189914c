"""MPED as its owner publishes it: raw_EEG_signals/{name}/{name}_d.mat and _dd.mat, MATLAB 5 files of 34 cut recordings,
and raw_EEG_Label.mat.

Layout after the owner's README (Tengfei000/MPED). A session is one object: _d holds raw recordings 1 to 17, _dd 18 to
34, of which the owner uses fourteen each; a trial bears its raw recording's number. Folders bear participants' names,
which stay here: outside they have pseudonyms.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
import unicodedata
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import scipy.io

from emod import storage
from emod.catalog import SimulateSettings
from emod.corpora.contract import Corpus, CorpusError, Problem, Recording, RecordingHeader, RecordingRef
from emod.corpora.inventory import list_entries
from emod.corpora.marker import scaled_seconds
from emod.corpora.mat5 import Rows, TrialLayout, join_files, peek_trials, read_numbers, read_trials
from emod.corpora.planning import generator
from emod.corpora.workbook import table_ships
from emod.errors import DataError, RequestError
from emod.simulation import Passage, RecordingPlan

__all__ = ["Mped", "pseudonym"]

_FOLDER = "raw_EEG_signals"
_LABELS = "raw_EEG_Label.mat"
_OBJECT = re.compile(r"(?P<name>[^/]+)/(?P=name)_(?P<half>dd?)\.mat")
_PSEUDONYM = re.compile(r"m\d{10}")
_HALVES = {"d": "1", "dd": "2"}  # end of an object's name -> session
_NUMBERS = {"1": range(1, 18), "2": range(18, 35)}  # session -> raw recordings
_EMOTIONS = ("", "neutral", "joy", "funny", "angry", "fear", "disgust", "sadness")  # by the owner's code
_LEFT_OUT = {0: "the owner's code 0: resting state, no clip", 8: "the owner's code 8: a recording that is not used"}
# As published for raw recordings 1 to 34. The list of 30 in the README counts without the 8s and belongs to features.
_CODES = (0, 2, 1, 4, 3, 5, 6, 7, 8, 1, 2, 3, 8, 6, 7, 4, 5, 0, 1, 5, 6, 2, 2, 1, 8, 7, 6, 4, 4, 3, 5, 3, 7, 8)
_MASTOIDS = {"M1": "T8", "M2": "TP8"}  # rows that follow these electrodes in the 64 of the cap; not read
_MOST_ROWS = 128
_SIMULATED_REST_S = 2.0

T = TypeVar("T")


@functools.cache
def pseudonym(name: str) -> str:
    """What a participant is called outside this module: the same in every copy, whoever else is in it.

    A slow digest (scrypt), so that it is not undone by a list of names at once; with a list and patience it can be.
    """
    plain = unicodedata.normalize("NFC", name).encode()
    digest = hashlib.scrypt(plain, salt=b"MPED participant", n=2**14, r=8, p=1, dklen=8)
    return f"m{int.from_bytes(digest) % 10**10:010d}"


class Mped(Corpus):
    """23 subjects x 2 sessions x 14 film clips of seven emotions, at 1000 Hz."""

    name = "mped"
    has_pseudonyms = True

    @staticmethod
    def subject_id(given: str) -> str:
        """A pseudonym as it is; the pseudonym of whatever else, which is taken for the name of a folder."""
        return given if _PSEUDONYM.fullmatch(given) else pseudonym(given)

    def _inventory(self) -> tuple[list[RecordingRef], list[Problem]]:
        top = storage.join(self.root, _FOLDER)
        cure = f"expected {_FOLDER}/<name>/<name>_d.mat below it; give the top folder of {self.name}"
        if not storage.exists(top):
            what = f"holds no {_FOLDER}/" if storage.exists(self.root) else "no such folder"
            raise RequestError(f"{self.root}: {what}; {cure}")
        refs: list[RecordingRef] = []
        problems: list[Problem] = []
        seen: set[tuple[int, int]] = set()
        for entry in list_entries(self.root, top, f"{_FOLDER}/"):
            if not entry.path.startswith(f"{_FOLDER}/"):
                continue
            path = entry.path.removeprefix(f"{_FOLDER}/")
            match = _OBJECT.fullmatch(path)
            # Any other name may be a participant's too: of what is not expected only the kind is told.
            shown = storage.join(top, pseudonym(path.partition("/")[0])) if "/" in path else top
            subject = pseudonym(match["name"]) if match else None
            if match and subject and not entry.fault:
                url, source = storage.join(top, path), f"{shown}/{subject}_{match['half']}.mat"
                if entry.file in seen:
                    message = "the same file as another recording, which is used; keep one name of it"
                    problems.append(Problem(source, subject, None, "duplicate", message))
                    continue
                seen.update([entry.file] if entry.file else [])
                session = _HALVES[match["half"]]
                refs.append(RecordingRef(self.name, subject, session, source, entry.size, (url,)))
            elif entry.fault and (match or path == _LABELS or entry.fault[0] == "unexpected_object"):
                source = f"{top}/{_LABELS}" if path == _LABELS else shown
                message = "a link out of the copy or to nothing, a second link, or no file; put the object itself here"
                problems.append(Problem(source, subject, None, entry.fault[0], message))
            elif path.lower().endswith(".mat") and path != _LABELS:
                message = (
                    f"{entry.size} bytes named otherwise than <name>/<name>_d.mat or _dd.mat; rename or move it away"
                )
                problems.append(Problem(shown, None, None, "unexpected_object", message))
        if not refs:
            raise RequestError(f"{self.root}: holds no recording of {self.name}; {cure}")
        return sorted(refs, key=lambda ref: (ref.subject, ref.session)), problems + self._codes[1]

    def read(self, ref: RecordingRef) -> Recording:
        """Decodes one _d.mat or _dd.mat (contract of `Corpus.read`)."""
        return _unnamed(ref, lambda: read_trials(self, ref, self._layout(ref)))

    def peek(self, ref: RecordingRef) -> RecordingHeader:
        """Reads the heads of one object's variables (contract of `Corpus.peek`)."""
        return _unnamed(ref, lambda: peek_trials(self, ref, self._layout(ref)))

    def _layout(self, ref: RecordingRef) -> TrialLayout:
        codes = {number: self._codes[0][number - 1] for number in _NUMBERS[ref.session]}
        used = [number for number, code in codes.items() if code not in _LEFT_OUT][: self.trials_expected]
        return TrialLayout(
            pattern=r"raw_eeg(?P<trial>\d+)",
            example=f"raw_eeg{used[0]}" if used else "raw_eeg1",
            # A clip is shown once, so its raw recording's number names it.
            labels={number: (str(number), _EMOTIONS[codes[number]]) for number in used},
            rows=self._rows,
            expected_samples=lambda trial, samples: self._expected_samples(used.index(trial), samples),
            left_out={number: _LEFT_OUT[code] for number, code in codes.items() if code in _LEFT_OUT},
        )

    def _expected_samples(self, trial_index: int, samples: int) -> str | None:
        """Only of a simulated copy it is known how long its clips are."""
        expected = round(self.seconds_expected(trial_index) * self.catalog.sfreq_hz)
        return f"simulated with {expected}" if self.simulated and samples != expected else None

    @property
    def _rows(self) -> dict[int, Rows]:
        """The first 64 rows are the cap with M1 and M2; how many follow, and whether both are there, is uncertain."""
        names = [below for name in self.catalog.channels for below in (name, *_after(name))]
        cap = tuple(row for row, name in enumerate(names) if name not in _MASTOIDS)
        more = f"rows stored; the first {len(names)} are taken for the cap with M1 and M2, look at it"
        rows = {stored: Rows(cap, f"{stored} {more}") for stored in range(len(names) + 1, _MOST_ROWS + 1)}
        n = len(cap)
        alone = Rows(None, f"{n} rows stored, {len(names)} expected; taken for the cap without M1 and M2, look at it")
        return rows | {len(names): Rows(cap), n: alone}

    @cached_property
    def _codes(self) -> tuple[tuple[int, ...], list[Problem]]:
        """The owner's code of each raw recording: raw_EEG_Label.mat where it can be read, else as published."""
        url = storage.join(self.root, _FOLDER, _LABELS)
        if not table_ships(self.root, url):
            return _CODES, []
        try:
            found = read_numbers(url, "eeg_label")
        except CorpusError as error:
            return _CODES, [error.problem]
        if len(found) != len(_CODES) or not set(found) <= set(_CODES):
            row = " ".join(f"{code:g}" for code in found[:40])
            message = f"eeg_label holds {row}, not {len(_CODES)} codes 0 to 8; built-in labels are used, compare"
            return _CODES, [Problem(url, None, None, "label_table", message)]
        codes = tuple(int(code) for code in found)
        pairs = enumerate(zip(codes, _CODES, strict=True), start=1)
        if apart := [number for number, (here, published) in pairs if here != published]:
            message = f"eeg_label differs from the published codes at raw recordings {apart}; it is used, compare"
            return codes, [Problem(url, None, None, "label_disagreement", message)]
        return codes, []

    def _plan_recording(self, settings: SimulateSettings, subject: int, session: int) -> RecordingPlan:
        pieces = []
        for row, number in enumerate(_used(str(session))[: settings.trials]):
            seconds, trial = scaled_seconds(self.catalog.seconds_of(row), settings.time_scale), str(number)
            pieces.append((Passage(seconds, trial, trial, *self.place_emotion(_EMOTIONS[_CODES[number - 1]])),))
        return self._fill_plan(pseudonym(_invented(subject)), str(session), pieces)

    def write_recording(self, plan: RecordingPlan, pieces_uv: list[npt.NDArray[np.float64]]) -> None:
        """Writes one _d.mat or _dd.mat. What is left out or dropped, rest and mastoids, is noise of 10 microvolt."""
        name = next(name for name in map(_invented, self.catalog.subject_numbers) if pseudonym(name) == plan.subject)
        noise = generator(0, plan.subject, plan.session, "left out")
        used = _used(plan.session)[: len(pieces_uv)]
        whole = len(used) == len(_used(plan.session))
        numbers = [number for number in _NUMBERS[plan.session] if whole or number <= used[-1]]
        contents = []
        for number in numbers:
            if number in used:
                rows = pieces_uv.pop(0)
            else:
                rows = noise.normal(0, 10, (len(plan.channels), round(_SIMULATED_REST_S * plan.sfreq_hz)))
            stored = []
            for electrode, row in zip(self.catalog.channels, rows, strict=True):
                stored += [row, *(noise.normal(0, 10, len(row)) for _ in _after(electrode))]
            buffer = io.BytesIO()
            scipy.io.savemat(buffer, {f"raw_eeg{number}": np.stack(stored)})
            contents.append(buffer.getvalue())
        half = next(half for half, session in _HALVES.items() if session == plan.session)
        storage.write_bytes(storage.join(self.root, _FOLDER, name, f"{name}_{half}.mat"), join_files(contents))

    def write_tables(self, plans: list[RecordingPlan]) -> None:
        """Writes raw_EEG_Label.mat with all 34 codes, whatever was simulated."""
        buffer = io.BytesIO()
        scipy.io.savemat(buffer, {"eeg_label": np.array([_CODES], np.uint8)})
        storage.write_bytes(storage.join(self.root, _FOLDER, _LABELS), buffer.getvalue())


def _used(session: str) -> list[int]:
    """Raw recordings of a session that the owner uses."""
    return [number for number in _NUMBERS[session] if _CODES[number - 1] not in _LEFT_OUT]


def _after(electrode: str) -> list[str]:
    """The mastoid whose row follows an electrode's, if one does."""
    return [mastoid for mastoid, before in _MASTOIDS.items() if before == electrode]


def _invented(subject: int) -> str:
    """What a simulated participant is called in the copy: nobody's name."""
    return f"invented_person_{subject:02d}"


def _unnamed(ref: RecordingRef, action: Callable[[], T]) -> T:
    """What an action returns; whatever it raises tells the recording's source instead of the names in its URLs."""
    try:
        return action()
    except CorpusError:
        raise  # its problems are this reader's
    except Exception as error:
        fault = _hide(ref, error)
    raise fault  # outside of the handler: nothing hangs on it that shows the name


def _hide(ref: RecordingRef, error: Exception) -> Exception:
    names = {match["name"] for url in ref.urls if (match := re.search(_OBJECT.pattern + "$", url))}
    secrets = names | {quote(name) for name in names}
    text = str(error)
    for url in ref.urls:
        text = text.replace(storage.redact(url), ref.source).replace(url, ref.source)
    if any(secret in text for secret in secrets):
        text = f"{ref.source}: {type(error).__name__}; check the store"
    if isinstance(error, RequestError | DataError):
        return type(error)(text)
    if isinstance(error, OSError):
        return type(error)(error.errno, error.strerror or type(error).__name__, ref.source)
    chain: BaseException | None = error
    while chain is not None:
        if any(secret in repr(chain) for secret in secrets):
            return RequestError(text)
        chain = chain.__cause__ or chain.__context__
    return error
