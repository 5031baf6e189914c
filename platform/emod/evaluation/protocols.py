"""Which windows train, which choose, which test: every protocol by name.

A protocol reads who, which session, which trial and which clip a window comes from; no signal, and of labels only the
word of a clip (to spread words over roles) and, for a few labelled windows of a new subject, their classes. So a split
cannot be tuned to a result.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emod.catalog import SplitSettings
from emod.errors import DataError
from emod.evaluation.split import ROLES, Split, read_split

__all__ = ["PROTOCOLS", "make_splits"]

Rows = npt.NDArray[np.int64]
Names = npt.NDArray[np.object_]

TRAIN, VALIDATION, TEST, UNUSED = 0, 1, 2, -1

# The paper's shares of FACED: 80, 20 and 23 of 123 subjects, in file order.
_FACED = (80, 20, 23)


@dataclass(frozen=True)
class Protocol:
    """A rule and what it asks.

    Attributes:
        divide: (windows, settings) -> (name of the fold, role of each window) for each fold.
        rule: In words; {fields} of the settings are filled in.
        shares: What roles share by the very question: of subjects, sessions, clips. In the rest test windows are new.
        accepted: What the protocol is published with although it leaks, by codes of the audit.
    """

    divide: Callable[[_Windows, SplitSettings], Iterator[tuple[str, Rows]]]
    rule: str
    shares: tuple[str, ...]
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Windows:
    """Columns of the metadata that rules read; subjects, sessions, trials and clips are unique over corpora."""

    corpus: Names
    subject: Names
    session: Names
    trial: Names
    clip: Names
    trial_number: Names
    session_number: Names
    word: Names
    start_s: npt.NDArray[np.float64]
    codes: Rows | None

    @property
    def n(self) -> int:
        return len(self.corpus)


def make_splits(metadata: pa.Table, settings: SplitSettings, *, codes: npt.ArrayLike | None = None) -> list[Split]:
    """The folds of a protocol on the windows of a store, in a fixed order.

    Neither the order of rows nor other corpora in the table change the role of a window.

    Args:
        metadata: One row per window, as `ShardStore.metadata`; of several corpora for the protocol cross_corpus only.
        settings: The protocol, its numbers and its seed.
        codes: (n,) class of each window, -1 without one; the protocol few_shot alone asks for them.

    Raises:
        DataError: If the corpus has too few subjects, sessions, trials or clips for the protocol.
    """
    if not len(metadata):
        raise DataError("split: the metadata table is empty: ingest a corpus first")
    if settings.protocol == "file":
        assert settings.file is not None
        split = read_split(settings.file, metadata)
        known = PROTOCOLS.get(split.protocol)
        return [replace(split, shares=known.shares if known else ())]
    protocol = PROTOCOLS[settings.protocol]
    windows = _read(metadata, codes)
    rule = protocol.rule.format(**settings.model_dump() | {"train_corpora": ", ".join(settings.train_corpora)})
    splits = []
    for fold, roles in protocol.divide(windows, settings):
        parts = [np.flatnonzero(roles == role) for role in (TRAIN, VALIDATION, TEST)]
        for role, part in zip(ROLES, parts, strict=True):
            if not len(part):
                raise DataError(
                    f"split {settings.protocol} of {', '.join(sorted(set(windows.corpus)))}, fold {fold}: no window is "
                    f"left for the role {role}; ingest more, or change the split's shares or seed"
                )
        splits.append(
            Split(
                protocol=settings.protocol,
                rule=rule,
                shares=protocol.shares,
                accepted=protocol.accepted,
                seed=settings.seed,
                fold=fold,
                window_ids=metadata["window_id"],
                owners=windows.subject,
                train=parts[TRAIN],
                validation=parts[VALIDATION],
                test=parts[TEST],
            )
        )
    return splits


def _read(metadata: pa.Table, codes: npt.ArrayLike | None) -> _Windows:
    def column(name: str) -> list[str | None]:
        found: list[str | None] = metadata[name].to_pylist()
        return found

    def keys(*parts: Sequence[str | None]) -> Names:
        joined = np.empty(len(metadata), dtype=object)
        joined[:] = ["/".join(map(str, names)) for names in zip(*parts, strict=True)]
        return joined

    corpus, subject, session, trial = (column(name) for name in ("corpus", "subject", "session", "trial"))
    return _Windows(
        corpus=keys(corpus),
        subject=keys(corpus, subject),
        session=keys(corpus, subject, session),
        trial=keys(corpus, subject, session, trial),
        clip=keys(corpus, column("stimulus")),
        trial_number=keys(trial),
        session_number=keys(session),
        word=keys(column("emotion")),
        start_s=metadata["start_s"].to_numpy(),
        codes=None if codes is None else np.asarray(codes, dtype=np.int64),
    )


def _subjects(windows: _Windows, settings: SplitSettings) -> Iterator[tuple[str, Rows]]:
    """Each corpus by itself: its subjects shuffled; the first test, the next validate, the rest train."""
    yield "all", _roles_of(windows.subject, _draw_subjects(windows, settings))


def _leave_one_subject_out(windows: _Windows, settings: SplitSettings) -> Iterator[tuple[str, Rows]]:
    subjects = _in_order(windows.subject)
    _need(len(subjects), 3, "subjects", windows, settings)
    for subject in subjects:
        rest = [name for name in subjects if name != subject]
        chosen = _shuffled(rest, settings.seed, f"validation for {subject}")
        n = _at_least_one(settings.validation, len(rest))
        role_of = {subject: TEST} | {name: VALIDATION if i < n else TRAIN for i, name in enumerate(chosen)}
        yield subject.partition("/")[2], _roles_of(windows.subject, role_of)


def _subject_folds(windows: _Windows, settings: SplitSettings) -> Iterator[tuple[str, Rows]]:
    folds = settings.folds
    subjects = _shuffled(_in_order(windows.subject), settings.seed, "folds")
    _need(len(subjects), max(3, folds), "subjects", windows, settings)
    for fold in range(folds):
        tested = subjects[fold::folds]
        rest = _shuffled([name for name in subjects if name not in tested], settings.seed, f"validation of {fold}")
        n = _at_least_one(settings.validation, len(rest))
        role_of = dict.fromkeys(tested, TEST) | {name: VALIDATION if i < n else TRAIN for i, name in enumerate(rest)}
        yield f"{fold + 1} of {folds}", _roles_of(windows.subject, role_of)


def _clips(windows: _Windows, settings: SplitSettings) -> Iterator[tuple[str, Rows]]:
    yield "all", _roles_of(windows.clip, _draw_clips(windows, settings))


def _subjects_and_clips(windows: _Windows, settings: SplitSettings) -> Iterator[tuple[str, Rows]]:
    """A window keeps its role where its subject's and its clip's agree; the others, most of them, go unused."""
    by_subject = _roles_of(windows.subject, _draw_subjects(windows, settings))
    by_clip = _roles_of(windows.clip, _draw_clips(windows, settings))
    yield "all", np.where(by_subject == by_clip, by_subject, UNUSED)


def _within_subject(windows: _Windows, settings: SplitSettings) -> Iterator[tuple[str, Rows]]:
    """A fold is one subject, who trains, validates and tests on other clips; the clips' roles are all subjects' own."""
    by_clip = _roles_of(windows.clip, _draw_clips(windows, settings))
    for subject in _in_order(windows.subject):
        yield subject.partition("/")[2], np.where(windows.subject == subject, by_clip, UNUSED)


def _few_shot(windows: _Windows, settings: SplitSettings) -> Iterator[tuple[str, Rows]]:
    """A fold is one test subject; some of their windows join the training subjects, from trials that do not test."""
    if windows.codes is None:
        raise ValueError("few_shot chooses labelled windows: give codes")
    role_of = _draw_subjects(windows, settings)
    by_subject = _roles_of(windows.subject, role_of)
    for subject in [name for name in _in_order(windows.subject) if role_of[name] == TEST]:
        roles = np.where(by_subject == TEST, UNUSED, by_subject)
        own = windows.subject == subject
        roles[own & (windows.codes >= 0)] = TEST
        for code in np.unique(windows.codes[own & (windows.codes >= 0)]):
            labelled = own & (windows.codes == code)
            shots = 0
            for trial in _shuffled(_in_order(windows.trial[labelled]), settings.seed, f"shots of {subject}"):
                rows = np.flatnonzero(labelled & (windows.trial == trial))
                rows = rows[np.argsort(windows.start_s[rows])]
                taken = rows[: settings.shots - shots]
                # What is left of such a trial would be a neighbour of what was shown.
                roles[rows] = UNUSED
                roles[taken] = TRAIN
                shots += len(taken)
                if shots == settings.shots:
                    break
            if shots < settings.shots or not np.any(labelled & (roles == TEST)):
                raise DataError(
                    f"split few_shot: subject {subject} has {int(labelled.sum())} windows of class {code}, not enough "
                    f"for {settings.shots} shots and a trial to test on; lower split.shots"
                )
        yield subject.partition("/")[2], roles


def _cross_corpus(windows: _Windows, settings: SplitSettings) -> Iterator[tuple[str, Rows]]:
    """The corpora to train on give training and validation subjects; every window of the others tests."""
    learned = np.isin(windows.corpus, settings.train_corpora)
    if learned.all() or not learned.any():
        raise DataError(
            f"split cross_corpus: train_corpora {list(settings.train_corpora)} of "
            f"{sorted(set(windows.corpus))} leave nothing to train or to test on; name some of them"
        )
    roles = np.full(windows.n, TEST)
    for corpus in settings.train_corpora:
        subjects = _in_order(windows.subject[windows.corpus == corpus])
        _need(len(subjects), 2, f"subjects of {corpus}", windows, settings)
        n = min(_at_least_one(settings.validation, len(subjects)), len(subjects) - 1)
        chosen = _shuffled(subjects, settings.seed, "validation")
        for i, name in enumerate(chosen):
            roles[windows.subject == name] = VALIDATION if i < n else TRAIN
    yield "all", roles


def _faced_paper(windows: _Windows, settings: SplitSettings) -> Iterator[tuple[str, Rows]]:
    """80, 20 and 23 subjects in file order; of another number of subjects the same shares."""
    subjects = _in_order(windows.subject)
    _need(len(subjects), 3, "subjects", windows, settings)
    ends = [max(1, round(len(subjects) * _FACED[0] / sum(_FACED)))]
    ends.append(min(len(subjects) - 1, max(ends[0] + 1, round(len(subjects) * sum(_FACED[:2]) / sum(_FACED)))))
    ends[0] = min(ends[0], ends[1] - 1)
    yield (
        "all",
        _roles_of(windows.subject, {name: int(np.searchsorted(ends, i, "right")) for i, name in enumerate(subjects)}),
    )


def _seed_v_paper(windows: _Windows, settings: SplitSettings) -> Iterator[tuple[str, Rows]]:
    """Trials 1-5 of each session train, 6-10 validate, 11-15 test."""
    numbers = _integers(windows.trial_number, "trial", settings, 15)
    yield "all", (numbers - 1) // 5


def _seed_paper(windows: _Windows, settings: SplitSettings) -> Iterator[tuple[str, Rows]]:
    """Session 1 trains, 2 validates, 3 tests."""
    yield "all", _integers(windows.session_number, "session", settings, 3) - 1


PROTOCOLS: dict[str, Protocol] = {
    "subjects": Protocol(
        _subjects,
        "whole subjects: validation {validation:g}, test {test:g} of each corpus' subjects; clips shared",
        shares=("clips",),
    ),
    "leave_one_subject_out": Protocol(
        _leave_one_subject_out,
        "each subject tests once; {validation:g} of the others validate; clips shared",
        shares=("clips",),
    ),
    "subject_folds": Protocol(
        _subject_folds,
        "{folds} folds of subjects, each tests once; {validation:g} of the others validate; clips shared",
        shares=("clips",),
    ),
    "clips": Protocol(
        _clips,
        "whole clips: validation {validation:g}, test {test:g} of them, words spread evenly; subjects shared",
        shares=("subjects", "sessions"),
    ),
    "subjects_and_clips": Protocol(
        _subjects_and_clips,
        "subjects and clips both apart: validation {validation:g}, test {test:g} of each; windows whose subject and "
        "clip have different roles go unused",
        shares=(),
    ),
    "within_subject": Protocol(
        _within_subject,
        "each subject alone, on other clips: validation {validation:g}, test {test:g} of them, words spread evenly",
        shares=("subjects", "sessions"),
    ),
    "few_shot": Protocol(
        _few_shot,
        "{shots} labelled windows per class of each test subject join the training subjects; validation "
        "{validation:g}, test {test:g} of the subjects; clips shared",
        shares=("subjects", "sessions", "clips"),
    ),
    "cross_corpus": Protocol(
        _cross_corpus,
        "trained on {train_corpora}, {validation:g} of whose subjects validate; tested on all of another corpus",
        shares=(),
    ),
    "faced_paper": Protocol(
        _faced_paper,
        "the paper's for FACED: of the subjects in file order 80 train, 20 validate, 23 test (of 123; else the same "
        "shares); clips shared",
        shares=(),
        accepted=("clips",),
    ),
    "seed_v_paper": Protocol(
        _seed_v_paper,
        "the paper's for SEED-V: of each session trials 1-5 train, 6-10 validate, 11-15 test; subjects and sessions "
        "shared",
        shares=(),
        accepted=("subjects", "sessions", "ica"),
    ),
    "seed_paper": Protocol(
        _seed_paper,
        "the paper's for SEED: session 1 trains, 2 validates, 3 tests; subjects and clips shared",
        shares=(),
        accepted=("subjects", "clips"),
    ),
}


def _draw_subjects(windows: _Windows, settings: SplitSettings) -> dict[str, int]:
    role_of: dict[str, int] = {}
    for corpus in sorted(set(windows.corpus)):
        subjects = sorted(set(windows.subject[windows.corpus == corpus]))
        _need(len(subjects), 3, f"subjects of {corpus}", windows, settings)
        n_test, n_validation = _whole(len(subjects), settings)
        generator = np.random.default_rng([settings.seed, zlib.crc32(corpus.encode())])
        for place, index in enumerate(generator.permutation(len(subjects))):
            role_of[subjects[index]] = (
                TEST if place < n_test else VALIDATION if place < n_test + n_validation else TRAIN
            )
    return role_of


def _draw_clips(windows: _Windows, settings: SplitSettings) -> dict[str, int]:
    """Roles of clips, drawn word by word; clips without words together.

    Words with fewer than three clips cannot be in every role: their clips train first, then test.
    """
    first = {clip: row for row, clip in reversed(list(enumerate(windows.clip)))}
    clips_of: dict[str, list[str]] = {}
    for clip in _in_order(windows.clip):
        clips_of.setdefault(f"{windows.corpus[first[clip]]}/{windows.word[first[clip]]}", []).append(clip)
    role_of: dict[str, int] = {}
    for word, clips in clips_of.items():
        n_test, n_validation = _whole(len(clips), settings) if len(clips) > 2 else (len(clips) - 1, 0)
        for place, clip in enumerate(_shuffled(clips, settings.seed, word)):
            role_of[clip] = TEST if place < n_test else VALIDATION if place < n_test + n_validation else TRAIN
    return role_of


def _whole(n: int, settings: SplitSettings) -> tuple[int, int]:
    """(test, validation) of n >= 3: nearest whole numbers, at least one each, one left to train on."""
    counts = [max(1, round(settings.test * n)), max(1, round(settings.validation * n))]
    while sum(counts) >= n:
        counts[counts.index(max(counts))] -= 1
    return counts[0], counts[1]


def _at_least_one(share: float, n: int) -> int:
    return min(n - 1, max(1, round(share * n)))


def _roles_of(names: Names, role_of: dict[str, int]) -> Rows:
    return np.array([role_of[name] for name in names], dtype=np.int64)


def _shuffled(names: Sequence[str], seed: int, purpose: str) -> list[str]:
    generator = np.random.default_rng([seed, zlib.crc32(purpose.encode())])
    return [names[index] for index in generator.permutation(len(names))]


def _in_order(names: Names) -> list[str]:
    """Distinct names as a person would list them: s2 before s10."""
    return sorted(
        set(names),
        key=lambda name: [
            (not part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", name) if part
        ],
    )


def _integers(names: Names, what: str, settings: SplitSettings, most: int) -> Rows:
    if other := [name for name in sorted(set(names)) if not name.isdigit() or not 1 <= int(name) <= most]:
        raise DataError(
            f"split {settings.protocol}: {what} {other[0]!r} is none of 1 to {most}; this protocol belongs to another "
            "corpus"
        )
    return names.astype(np.int64)


def _need(n: int, least: int, what: str, windows: _Windows, settings: SplitSettings) -> None:
    if n < least:
        corpora = ", ".join(sorted(set(windows.corpus)))
        raise DataError(f"split {settings.protocol} of {corpora}: {n} {what}, at least {least} are needed; ingest more")
