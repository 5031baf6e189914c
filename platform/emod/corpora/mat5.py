"""MATLAB 5 files of which every variable is a trial: listed by what they declare, chosen by number, loaded one by one.

A layout says which numbers a recording holds and which rows are which electrodes; everything else is the same for all
such corpora. Nothing is loaded before its declared type and shape are right, and damage inside one variable costs that
trial only. Variables may bear participants' names or initials: no message repeats what one is called. `mat5_walk` knows
the bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from emod import storage
from emod.corpora.contract import Corpus, CorpusError, Eeg, Problem, Recording, RecordingHeader, RecordingRef
from emod.corpora.cut_trials import CutTrial, join_trials
from emod.corpora.mat5_walk import CutShortError, Matrix, Place, WalkError, variables

__all__ = [
    "Rows",
    "TrialLayout",
    "Variable",
    "join_files",
    "list_variables",
    "load_variable",
    "peek_trials",
    "read_numbers",
    "read_trials",
]

_MAX_TABLE_NUMBERS = 1000
_HEADER_BYTES = 128
_COPY = "copy the owner's object again"


@dataclass(frozen=True)
class Variable:
    """One variable of a file as it declares itself, and where it begins."""

    matrix: Matrix
    place: Place

    @property
    def name(self) -> str:
        """As stored: it may hold a participant's name, and stays out of messages."""
        return self.matrix.name

    @property
    def shape(self) -> tuple[int, ...]:
        """As declared."""
        return self.matrix.shape

    @property
    def kind(self) -> str:
        """MATLAB's class: "double", "cell", ...; "complex double" where it has an imaginary part."""
        return self.matrix.kind if self.matrix.real else f"complex {self.matrix.kind}"


@dataclass(frozen=True)
class Rows:
    """Which rows of a stored array are the corpus' electrodes.

    Attributes:
        indices: Row of each electrode, in the catalog's order; None where all rows are, in this order.
        doubt: What is uncertain about it, or None.
    """

    indices: Sequence[int] | None = None
    doubt: str | None = None


@dataclass(frozen=True)
class TrialLayout:
    """How one recording's object holds its trials.

    Attributes:
        pattern: Regular expression of a variable's whole name: group ``trial`` is its number, a group ``initials``, if
            any, is the same in all.
        example: What such names look like, for messages.
        labels: Number -> (stimulus, emotion) of the trials that the recording should hold.
        rows: Number of rows stored -> which are electrodes. Other numbers are not usable.
        expected_samples: What is wrong about (trial, samples), in words, or None.
        left_out: Number -> why the owner says not to use it.
        elsewhere: Whether a number belongs to another recording of the same object.
        longest_s: No trial is longer; a header may claim anything.
    """

    pattern: str
    example: str
    labels: Mapping[int, tuple[str, str]]
    rows: Mapping[int, Rows]
    expected_samples: Callable[[int, int], str | None] = lambda trial, samples: None
    left_out: Mapping[int, str] = field(default_factory=dict)
    elsewhere: Callable[[int], bool] = lambda trial: False
    longest_s: float = 600.0


def list_variables(stream: IO[bytes]) -> tuple[list[Variable], list[str]]:
    """The variables of a file in order of storage, and what is wrong with those that cannot even be listed.

    Args:
        stream: Seekable.

    Raises:
        WalkError: If it is no MATLAB 5 file, or ends too early.
    """
    listed, faults = [], []
    for walker in variables(stream):
        place = walker.place()  # before anything of it is inflated: places are kept
        try:
            matrix = walker.enter()
        except CutShortError:
            raise
        except WalkError as error:
            faults.append(str(error))
            continue
        listed.append(Variable(matrix, place))
    return listed, faults


def load_variable(stream: IO[bytes], variable: Variable) -> npt.NDArray[Any]:
    """One listed variable, decoded: as many numbers as it declares, so check that first.

    Raises:
        WalkError: If it is damaged, or holds anything but real numbers or text.
    """
    walker = variable.place.resume(stream)
    content = walker.load(walker.enter(), at_most=variable.matrix.count)
    walker.finish()
    return content


def read_numbers(url: str, name: str) -> list[float]:
    """A small table that ships beside the recordings: the numbers of one variable, in order.

    Raises:
        CorpusError: If it cannot be read as such (``label_table``).
    """

    def refusal(what: str) -> CorpusError:
        return CorpusError(Problem(url, None, None, "label_table", f"{what}; it is not used, copy the owner's again"))

    try:
        with storage.open_binary(url) as stream:
            listed, _ = list_variables(stream)
            found = {variable.name: variable for variable in listed}
            if name not in found:
                raise refusal(f"variables: {len(listed)}, none is called {name}")
            variable = found[name]
            if variable.matrix.count > _MAX_TABLE_NUMBERS or variable.kind == "char":
                raise refusal(f"{name} is {variable.kind} {variable.shape}, no row of numbers")
            return [float(value) for value in load_variable(stream, variable).ravel()]
    except WalkError as error:
        raise refusal(f"not a whole MATLAB 5 file ({error})") from None


def join_files(contents: Iterable[bytes]) -> bytes:
    """Files of this kind as one: behind the header of the first, variables follow one another."""
    first, *others = contents
    return b"".join([first, *(memoryview(content)[_HEADER_BYTES:] for content in others)])


def read_trials(corpus: Corpus, ref: RecordingRef, layout: TrialLayout) -> Recording:
    """Decodes the recording that a layout describes (contract of `Corpus.read`)."""
    trials = []
    with _choose_trials(corpus, ref, layout) as (stream, chosen, problems):
        for trial, variable in chosen.items():
            try:
                stored = load_variable(stream, variable)
            except WalkError as error:
                problems.append(ref.problem("unreadable", f"it cannot be decoded ({error}); {_COPY}", str(trial)))
                continue
            # MATLAB stores whole numbers of a double array as integers; the owner's type is float64 either way.
            eeg_uv: Eeg = stored.astype(np.float64, copy=False)
            del stored
            indices = layout.rows[len(eeg_uv)].indices
            stimulus, emotion = layout.labels[trial]
            signal = eeg_uv if indices is None else eeg_uv[list(indices)]
            trials.append(CutTrial(str(trial), stimulus, signal, emotion=emotion))
    return join_trials(corpus, ref, trials, problems)


def peek_trials(corpus: Corpus, ref: RecordingRef, layout: TrialLayout) -> RecordingHeader:
    """What the recording that a layout describes says it holds (contract of `Corpus.peek`)."""
    with _choose_trials(corpus, ref, layout) as (_, chosen, problems):
        if not chosen:
            raise CorpusError(*problems)
        sfreq_hz = corpus.catalog.sfreq_hz
        seconds = {str(trial): variable.shape[1] / sfreq_hz for trial, variable in chosen.items()}
        return RecordingHeader(len(corpus.channels), sfreq_hz, seconds, tuple(problems))


@contextmanager
def _choose_trials(
    corpus: Corpus, ref: RecordingRef, layout: TrialLayout
) -> Iterator[tuple[IO[bytes], dict[int, Variable], list[Problem]]]:
    """Opens an object: (stream, trial -> variable of those that look usable in order of trials, what was found)."""
    problems: list[Problem] = []

    def report(code: str, message: str, trial: int | None = None) -> None:
        problems.append(ref.problem(code, message, None if trial is None else str(trial)))

    with storage.open_binary(ref.urls[0]) as stream:
        try:
            listed, faults = list_variables(stream)
        except WalkError as error:
            raise CorpusError(ref.problem("unreadable", f"not a whole MATLAB 5 file ({error}); {_COPY}")) from None
        for fault in faults:
            report("unreadable", f"a variable that cannot be listed ({fault}); {_COPY}")
        numbered = _number(layout, listed, report)
        chosen: dict[int, Variable] = {}
        doubts: list[str] = []
        wanted = set(layout.labels) if numbered is not None else set()
        for trial in sorted(wanted.union(numbered or {})):
            if layout.elsewhere(trial):
                continue
            if numbered is None or trial not in numbered:
                report("missing", f"no variable like {layout.example} with number {trial}; {_COPY}", trial)
            elif trial in layout.left_out:
                report("left_out", layout.left_out[trial], trial)
            elif trial not in layout.labels:
                message = f"none of the {len(layout.labels)} trials expected; look at it"
                report("unexpected_object", message, trial)
            elif unusable := _fault(corpus, layout, numbered[trial]):
                report(*unusable, trial)
            else:
                variable = chosen[trial] = numbered[trial]
                if what := layout.expected_samples(trial, variable.shape[1]):
                    report("length", f"{variable.shape[1]} samples, {what}; kept, compare it", trial)
                if (doubt := layout.rows[variable.shape[0]].doubt) and doubt not in doubts:
                    doubts.append(doubt)
        for doubt in doubts:
            report("layout", doubt)
        yield stream, chosen, problems


def _number(
    layout: TrialLayout, listed: list[Variable], report: Callable[[str, str], None]
) -> dict[int, Variable] | None:
    """Trial number -> variable, or None where the numbers mean nothing. The order of storage means nothing either."""
    matches = [(match, each) for each in listed if (match := re.fullmatch(layout.pattern, each.name))]
    if not matches:
        report("missing", f"variables: {len(listed)}, none like {layout.example}; {_COPY}")
        return None
    initials = {match.groupdict().get("initials") for match, _ in matches}
    numbered = {int(match["trial"]): variable for match, variable in matches}
    if len(initials) > 1 or len(numbered) < len(matches):
        what = f"trials under {len(initials)} different initials" if len(initials) > 1 else "trials twice"
        report("shape", f"{what}; keep one recording a file")
        return None
    return numbered


def _fault(corpus: Corpus, layout: TrialLayout, variable: Variable) -> tuple[str, str] | None:
    """(code, message) of why a variable is not loaded, or None."""
    shape, sfreq_hz = variable.shape, corpus.catalog.sfreq_hz
    if variable.kind not in ("double", "single"):
        return "dtype", f"it is {variable.kind}, published double; {_COPY}"
    if len(shape) != 2 or shape[0] not in layout.rows or not sfreq_hz <= shape[1] <= layout.longest_s * sfreq_hz:
        expected = f"{min(layout.rows)} rows" if len(layout.rows) == 1 else f"{min(layout.rows)} rows or more"
        return "shape", f"it is {shape}, expected {expected} of 1 to {layout.longest_s:g} s; {_COPY}"
    return None
