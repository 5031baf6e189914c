"""What is there of a corpus against what its owner publishes: subjects, sessions, trials, channels, rate, lengths.

`examine` looks at a copy, at headers or at every sample; `compare` is a pure function of what it saw. Nothing is
printed, mended or written here.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import statistics
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Literal, NamedTuple, get_args

from fsspec.core import url_to_fs
from pydantic import Field

from emod import storage
from emod.catalog import CorpusCatalog, SimulateSettings
from emod.catalog.strict import Strict
from emod.corpora.amplitude import doubt_amplitude
from emod.corpora.contract import Corpus, CorpusError, Problem, RecordingHeader, RecordingRef
from emod.corpora.marker import SimulatedMarker
from emod.corpora.registry import open_corpus
from emod.errors import DataError, RequestError
from emod.simulation import RecordingPlan

__all__ = ["Check", "Diagnosis", "Finding", "Look", "RecordingSeen", "compare", "examine", "numbers"]

Level = Literal["fault", "notice", "known"]
Topic = Literal[
    "subjects",
    "sessions",
    "readable",
    "trials",
    "channels",
    "rate",
    "seconds",
    "size",
    "amplitude",
    "objects",
    "labels",
    "layout",
]

_TOPIC_OF_CODE: dict[str, Topic] = {
    "unreadable": "readable",
    "length": "seconds",
    "label": "labels",
    "label_table": "labels",
    "label_disagreement": "labels",
    "unexpected_object": "objects",
    "duplicate": "objects",
    "layout": "layout",
    "disputed": "layout",
}
_DIFFERENT_S = 0.5  # where lengths are published they are whole seconds
_PLAUSIBLE_FACTOR = 4.0  # between a typical length and a real one
_ODD_SHARE = 0.2  # of a clip's length that one subject may differ from the others, where these agree
_AGREE_SHARE = 0.02
_PROBE_BYTES = 64 * 1024
_MAX_FOLDERS, _MAX_ENTRIES = 20, 20_000  # that are looked at, each with so much in it, for a corpus that is elsewhere
_TEXTS = (".vhdr", ".vmrk", ".json", ".tsv", ".xml")  # beside the samples of BIDS and MAHNOB-HCI

Key = tuple[str, str]
"""Subject and session."""


class Finding(Strict):
    """One thing to know about a copy, and what to do about it."""

    level: Level = Field(description="fault: the copy is not complete; notice: look at it; known: published so")
    topic: Topic = Field(description="the row of the table it belongs to")
    code: str = Field(description="a stable word; those of readers are listed at emod.corpora.Problem")
    subject: str | None
    session: str | None
    trial: str | None
    source: str | None = Field(description="URL of the object")
    what: str
    cure: str = Field(description="what to do next; empty where nothing is to be done")


class Check(Strict):
    """One row of the table."""

    topic: Topic
    published: str = Field(description="what the owner publishes; of a simulated copy, what was simulated")
    found: str
    state: Literal["good", "fault", "notice", "unknown"] = Field(description="unknown: nothing to compare with")


class RecordingSeen(Strict):
    """One recording of the copy."""

    subject: str
    session: str
    source: str
    size_bytes: int
    readable: bool
    channels: int | None
    sfreq_hz: float | None
    trials: int = Field(description="usable")
    trial_s: dict[str, float] = Field(description="seconds of each usable trial")


class Diagnosis(Strict):
    """All that doctor says, as it prints it and as --json writes it."""

    format: Literal[1] = 1
    corpus: str
    title: str
    root: str = Field(description="without credentials")
    simulated: bool = Field(description="whether SIMULATED.json says so; a copy without it counts as real")
    origin: str = Field(description="the same in words")
    examined: Literal["headers", "samples"]
    complete: bool = Field(description="no fault; exit code 0, else 3")
    verdict: str = Field(description="one line")
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    uncertain: tuple[str, ...] = Field(description="facts that no public source settles: compare them with a real copy")
    tables: dict[str, Literal["there", "absent"]] = Field(description="label tables that its owner ships")
    recordings: tuple[RecordingSeen, ...]


@dataclass(frozen=True)
class Look:
    """What one recording showed.

    Attributes:
        ref: The recording.
        header: What it holds, or None where nothing of it can be used.
        problems: Why not, or what is wrong with parts of it.
        digest: Equal for two recordings only if their samples lie in objects of the same content; "" if unknown.
        amplitude: Why its samples are no microvolts; None where they are, or were not decoded.
    """

    ref: RecordingRef
    header: RecordingHeader | None
    problems: tuple[Problem, ...]
    digest: str
    amplitude: Problem | None = None


class _Trials(NamedTuple):
    """What one recording should hold: seconds of each trial where known, ids in order, how many at least."""

    seconds: Mapping[str, float]
    ids: tuple[str, ...]
    least: int


def examine(
    corpus: Corpus,
    *,
    full: bool = False,
    jobs: int | None = None,
    on_listed: Callable[[int], None] | None = None,
    on_recording: Callable[[Look], None] | None = None,
) -> Diagnosis:
    """Looks at a whole copy.

    Args:
        corpus: The copy.
        full: Decode every sample instead of reading headers.
        jobs: Recordings looked at at the same time; None: one a core. With ``full`` each holds one in memory.
        on_listed: Called with the number of recordings before the first is looked at.
        on_recording: Called after each.

    Raises:
        RequestError: If there is no such folder, it holds nothing of the corpus, or it is a simulated copy of another.
        DataError: If its marker cannot be read, or a process that decoded one died.
    """
    if not storage.exists(corpus.root):
        raise RequestError(f"{corpus.root}: no such folder; give the top folder of {corpus.catalog.name}")
    fs, path = url_to_fs(corpus.root)
    if fs.isfile(path):
        raise RequestError(f"{corpus.root}: a file; give the top folder of {corpus.catalog.name}")
    marker = corpus.simulated
    listed = True
    try:
        refs, problems = corpus.references(), list(corpus.problems)
    except CorpusError as error:  # a table without which no recording can be used
        refs, problems, listed = [], list(error.problems), False
    except RequestError:
        if (folder := _folder_nearby(corpus)) is None:
            raise
        raise RequestError(f"{corpus.root}: holds nothing of {corpus.name}, but {folder} does; give that") from None
    if on_listed is not None:
        on_listed(len(refs))
    jobs = min(jobs or os.cpu_count() or 1, max(1, len(refs)))
    looks = []
    try:
        # Headers are a matter of waiting for the store, samples one of computing.
        with _pool(jobs, processes=full and jobs > 1) as pool:
            for look in pool.map(partial(_look, corpus, full), refs):
                looks.append(look)
                if on_recording is not None:
                    on_recording(look)
    except BrokenExecutor:
        where = f"after {len(looks)} of {len(refs)} recordings"
        raise DataError(f"{corpus.root}: a reading process died {where}; try --jobs 1, or more memory") from None
    settings = SimulateSettings(
        subjects=corpus.catalog.subjects,
        sessions=marker.sessions if marker else None,
        trials=marker.trials if marker else None,
        time_scale=marker.time_scale if marker else 1.0,
    )
    plans = corpus.plan_recordings(settings)
    return compare(corpus, marker, plans, looks, problems, tables=_find_tables(corpus, plans), full=full, listed=listed)


def compare(
    corpus: Corpus,
    marker: SimulatedMarker | None,
    plans: Sequence[RecordingPlan],
    looks: Sequence[Look],
    problems: Sequence[Problem],
    *,
    tables: Mapping[str, Literal["there", "absent"]],
    full: bool,
    listed: bool = True,
) -> Diagnosis:
    """What was seen of a copy against what its owner publishes; it opens nothing.

    Args:
        corpus: Whose catalog, channels and root hold.
        marker: What was simulated, or None.
        plans: Every recording as published, or as simulated.
        looks: What each recording of the copy showed.
        problems: What listing them reported.
        tables: The tables that ship with the corpus.
        full: Whether samples were decoded.
        listed: False where what listing reported kept it from naming any recording: nothing is said of these.
    """
    catalog = corpus.catalog
    expected = _expected(catalog, marker, plans)
    found = {(look.ref.subject, look.ref.session): look for look in looks}
    if catalog.bids is not None or not {key[0] for key in found} & {key[0] for key in expected}:
        # Ids that a laboratory chose, or that hide names, cannot be foretold: their number and what each holds can.
        expected = _as_named_here(expected, found, sessions=catalog.bids is not None)
    findings = [_finding_of(problem) for problem in problems]
    if listed:
        findings += _absent_recordings(corpus, marker, expected, found)
    else:
        findings = [finding.model_copy(update={"topic": "labels"}) for finding in findings]
    for key, look in found.items():
        findings += _of_recording(catalog, marker, look, expected.get(key))
    findings += _odd_lengths(catalog, marker, looks)
    findings += _doubles(looks)
    findings += [
        _finding(
            "notice", "labels", "missing", f"no {path}: what else holds the labels is not compared", "", source=path
        )
        for path, state in tables.items()
        if state == "absent" and not any(finding.source and finding.source.endswith(path) for finding in findings)
    ]
    findings = sorted(dict.fromkeys(findings), key=_rank)
    checks = _checks(catalog, marker, expected, looks, findings, tables, listed)
    complete = all(finding.level != "fault" for finding in findings)
    return Diagnosis(
        corpus=corpus.name,
        title=catalog.title,
        root=storage.redact(corpus.root),
        simulated=marker is not None,
        origin=_origin(catalog, marker),
        examined="samples" if full else "headers",
        complete=complete,
        verdict=_verdict(complete, marker, checks, full) + ("" if listed else "; recordings not looked at"),
        checks=checks,
        findings=tuple(findings),
        uncertain=catalog.uncertain,
        tables=dict(tables),
        recordings=tuple(_seen(look) for look in looks),
    )


def numbers(words: Iterable[str]) -> str:
    """Ids in short: runs of the numbers at their ends, whatever stands before these only once: s01-s03, s07."""
    runs: list[tuple[str, str]] = []
    for word in sorted(dict.fromkeys(words), key=_order):
        if runs and _order(word)[0] == _order(runs[-1][1])[0] and _order(word)[1] == _order(runs[-1][1])[1] + 1:
            runs[-1] = (runs[-1][0], word)
        else:
            runs.append((word, word))
    return ", ".join(first if first == last else f"{first}-{last}" for first, last in runs)


def _folder_nearby(corpus: Corpus) -> str | None:
    """The folder above the corpus' root, or one in it, that does hold recordings, where a disk tells that at once."""
    if not storage.is_local(corpus.root):
        return None
    root: str = os.path.abspath(url_to_fs(corpus.root)[1])
    _, inside, _ = next(os.walk(root), (root, [], []))
    for folder in (os.path.dirname(root), *(os.path.join(root, name) for name in sorted(inside)[:_MAX_FOLDERS])):
        sizes = itertools.accumulate(len(folders) + len(files) for _, folders, files in os.walk(folder))
        if any(size > _MAX_ENTRIES for size in sizes):
            continue  # such as somebody's home
        try:
            open_corpus(corpus.name, folder).references()
        except CorpusError:
            return folder  # with faults of its own
        except RequestError:
            continue
        return folder
    return None


def _pool(jobs: int, *, processes: bool) -> Executor:
    # Spawned: a forked child of a process that has talked to an object store may hang.
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) if processes else ThreadPoolExecutor(jobs)


def _look(corpus: Corpus, full: bool, ref: RecordingRef) -> Look:
    """Headers, or with ``full`` every sample, of one recording."""
    digest = ""
    try:
        digest = _digest(ref)
        if not full:
            header = corpus.peek(ref)
            return Look(ref, header, header.problems, digest)
        recording = corpus.read(ref)
        trial_s = {span.trial: (span.stop - span.start) / recording.sfreq_hz for span in recording.spans}
        header = RecordingHeader(len(recording.channels), recording.sfreq_hz, trial_s, recording.problems)
        return Look(ref, header, header.problems, digest, doubt_amplitude(recording))
    except CorpusError as error:
        return Look(ref, None, error.problems, digest)
    except (RequestError, DataError, OSError) as error:  # of the store: the other recordings are still worth a look
        problem = ref.problem(
            "unreadable", f"cannot be opened ({type(error).__name__}); check the store and your rights"
        )
        return Look(ref, None, (problem,), digest)


def _digest(ref: RecordingRef) -> str:
    """A checksum of the sizes, beginnings, middles and ends of the objects with its samples; "" if these are empty.

    Headers and tables in text stay out of it: a copy under another name says so in them.
    """
    urls = [url for url in ref.urls if not url.lower().endswith(_TEXTS)]
    urls = [url for url in urls if url.lower().endswith(".fdt")] or urls  # then the .set is a header, too
    sizes = [storage.size_bytes(url) for url in urls]
    if not sum(sizes):
        return ""
    digest = hashlib.sha256()
    for url, size in zip(urls, sizes, strict=True):
        digest.update(str(size).encode())
        with storage.open_binary(url) as stream:
            for start in (0, size // 2, max(0, size - _PROBE_BYTES)):
                stream.seek(start)
                digest.update(stream.read(_PROBE_BYTES))
    return digest.hexdigest()


def _find_tables(corpus: Corpus, plans: list[RecordingPlan]) -> dict[str, Literal["there", "absent"]]:
    """The tables that the simulator writes for this corpus, being those its owner ships, and whether they are there."""
    published = f"memory://doctor-{uuid.uuid4().hex}"
    try:
        open_corpus(corpus.name, published).write_tables(plans)
        wanted = list(storage.list_files(published)) if storage.exists(published) else []
    except RequestError:
        return {}  # it looks for recordings that it wrote before: tables and recordings share one object
    finally:
        storage.remove_folder(published)

    def plain(path: str) -> str:
        return re.sub(r"[^a-z0-9./]", "", path.lower())  # Channel Order.xlsx and channel-order.xlsx are both met

    folders = {path.rpartition("/")[0] for path in wanted}
    here = set()
    for folder in folders:
        url = storage.join(corpus.root, folder) if folder else corpus.root
        if storage.exists(url):
            here |= {plain(f"{folder}/{name}".lstrip("/")) for name in storage.list_files(url)}
    return {path: "there" if plain(path) in here else "absent" for path in wanted}


def _expected(
    catalog: CorpusCatalog, marker: SimulatedMarker | None, plans: Sequence[RecordingPlan]
) -> dict[Key, _Trials]:
    """(subject, session) -> what it should hold; without recordings of which the owner publishes no trial."""
    planned: dict[Key, dict[str, float]] = {}
    for plan in plans:
        trials = planned.setdefault((plan.subject, plan.session), {})
        for passage in itertools.chain(*plan.pieces):
            if passage.trial is not None and not passage.rest:
                trials[passage.trial] = trials.get(passage.trial, 0.0) + passage.duration_s
    chosen = list(dict.fromkeys(plan.subject for plan in plans))[: marker.subjects if marker else None]
    expected = {}
    for (subject, session), seconds in planned.items():
        if subject not in chosen:
            continue
        # Some subject of the corpus has each trial; a plan leaves out those that this one lacks.
        others = [trials for (_, where), trials in planned.items() if where == session]
        ids = sorted(seconds if marker else {trial for trials in others for trial in trials}, key=_order)
        gaps = [gap for gap in catalog.missing if (gap.subject, gap.session) == (_order(subject)[1], session)]
        listed = {number for gap in gaps for number in gap.trials}
        ids = [trial for trial in ids if _order(trial)[1] not in listed]
        unlisted = 0 if marker else sum(gap.count for gap in gaps if not gap.trials)
        if ids and len(ids) > unlisted:
            expected[subject, session] = _Trials(seconds, tuple(ids), len(ids) - unlisted)
    return expected


def _as_named_here(expected: Mapping[Key, _Trials], found: Iterable[Key], *, sessions: bool) -> dict[Key, _Trials]:
    """The same under the ids of this copy: those that are here, the others in their order, what is left as it was.

    It has as many entries as ``expected``, whatever is not there.
    """

    def names(part: int) -> dict[str, str]:
        theirs, ours = ({key[part] for key in keys} for keys in (expected, found))
        # An id that both have stands for itself: none of the others can be given its place.
        return dict(zip(sorted(theirs - ours, key=_order), sorted(ours - theirs, key=_order), strict=False))

    subject_of, session_of = names(0), names(1) if sessions else {}
    named = {
        (subject_of.get(subject, subject), session_of.get(session, session)): trials
        for (subject, session), trials in expected.items()
    }
    assert len(named) == len(expected), "two expected recordings under one id"
    return named


def _absent_recordings(
    corpus: Corpus, marker: SimulatedMarker | None, expected: Mapping[Key, _Trials], found: Mapping[Key, Look]
) -> list[Finding]:
    """Subjects of whom nothing is there, and sessions of the others; gaps that the owner published as such."""
    findings = []
    subjects_here = {subject for subject, _ in found}
    absent: dict[str, list[str]] = defaultdict(list)
    for subject, session in expected:
        if (subject, session) not in found:
            absent[subject].append(session)
    copy = f"copy it from the owner ({corpus.catalog.homepage})"

    def cure(topic: Topic) -> str:  # a laboratory is the owner itself, and may have counted wrong
        return copy if corpus.catalog.bids is None else f"put it there, or correct {topic} in {corpus.name}.yaml"

    for subject, sessions in absent.items():
        if subject not in subjects_here:
            findings.append(
                _finding("fault", "subjects", "missing", "no recording of this subject", cure("subjects"), subject)
            )
        for session in sessions if subject in subjects_here else ():
            what = f"session {session} is not there"
            findings.append(_finding("fault", "sessions", "missing", what, cure("sessions"), subject, session))
    names = {_order(subject)[1]: subject for subject, _ in expected}
    for gap in corpus.catalog.missing:
        if marker is None or gap.subject in names:
            trials = f"trials {numbers(map(str, gap.trials))}" if gap.trials else f"{gap.count} trials"
            what = f"{trials} of session {gap.session} are not published: {gap.why}"
            name = names.get(gap.subject, str(gap.subject))
            findings.append(_finding("known", "trials", "left_out", what, "", name, gap.session))
    return findings


def _of_recording(
    catalog: CorpusCatalog, marker: SimulatedMarker | None, look: Look, wanted: _Trials | None
) -> list[Finding]:
    """What is wrong with one recording."""
    ref, header = look.ref, look.header
    findings = [_finding_of(problem, ref.session) for problem in look.problems]
    if look.amplitude is not None:
        findings.append(_finding_of(look.amplitude, ref.session, "amplitude"))

    def report(level: Level, topic: Topic, code: str, what: str, cure: str, trial: str | None = None) -> None:
        findings.append(_finding(level, topic, code, what, cure, ref.subject, ref.session, trial, ref.source))

    again = "copy the owner's object again"
    if catalog.object_mb is not None and (marker is None or _whole(catalog, marker)):
        least, greatest = catalog.object_mb
        if not least <= ref.size_bytes / 1e6 <= greatest:
            size = f"{ref.size_bytes / 1e6:.4g} MB"
            report("fault", "size", "size", f"{size}, plausible are {least:g} to {greatest:g} MB", again)
    if wanted is None:
        report("notice", "objects", "unexpected_object", "a recording beyond what the owner publishes", "look at it")
    if header is None:
        return findings
    if header.channels != len(catalog.channels):
        what = f"{header.channels} EEG channels, published {len(catalog.channels)}"
        report("fault", "channels", "shape", what, again)
    if header.sfreq_hz != catalog.sfreq_hz:
        what = f"{header.sfreq_hz:g} Hz, published {catalog.sfreq_hz:g} Hz"
        report("fault", "rate", "rate", what, "take the owner's object, not a resampled one")
    if wanted is None:
        return findings
    explained = {problem.trial for problem in look.problems if problem.trial}
    known = {problem.trial for problem in look.problems if problem.trial and problem.known}
    gone = [trial for trial in wanted.ids if trial not in header.trial_s and trial not in explained]
    if len(wanted.ids) == wanted.least:
        for trial in gone:
            report("fault", "trials", "missing", "this trial is not there", again, trial)
    elif len(header.trial_s) + len(explained & set(wanted.ids)) < wanted.least:
        what = f"{len(header.trial_s)} of at least {wanted.least} trials; absent are {numbers(gone)}"
        report("fault", "trials", "missing", what, again)
    for trial in sorted(set(header.trial_s) - set(wanted.ids) - known, key=_order):
        report("notice", "trials", "unexpected_object", "a trial that the owner lists as missing", "look at it", trial)
    for trial, seconds in header.trial_s.items():
        published = wanted.seconds.get(trial)
        if published is None:
            continue
        if catalog.trial_s_exact or marker is not None:
            wrong = abs(seconds - published) > _DIFFERENT_S
        else:
            wrong = not published / _PLAUSIBLE_FACTOR <= seconds <= published * _PLAUSIBLE_FACTOR
        if wrong:
            about = "" if catalog.trial_s_exact or marker is not None else "about "
            what = f"{seconds:.6g} s, published {about}{published:g} s"
            report("fault", "seconds", "length", what, "compare its rate and length with the owner's object", trial)
    return findings


def _odd_lengths(catalog: CorpusCatalog, marker: SimulatedMarker | None, looks: Sequence[Look]) -> list[Finding]:
    """Trials that are far shorter or longer than the same one of other subjects, where these agree with each other."""
    if catalog.trial_s_exact or marker is not None:
        return []  # compared with the published lengths
    lengths: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for look in looks:
        for trial, seconds in (look.header.trial_s if look.header else {}).items():
            lengths[look.ref.session, trial][look.ref.subject] = seconds
    findings = []
    for (session, trial), by_subject in lengths.items():
        if len(by_subject) < 3:
            continue
        usual = statistics.median(by_subject.values())
        apart = {subject: abs(seconds - usual) / usual for subject, seconds in by_subject.items()}
        if statistics.median(apart.values()) > _AGREE_SHARE:
            continue  # trial numbers are no clips here, or clips were stopped by hand
        for subject, share in apart.items():
            if share > _ODD_SHARE:
                what = f"{by_subject[subject]:.6g} s, the other subjects have {usual:.6g} s"
                cure = "compare its rate and length with the owner's object"
                findings.append(_finding("fault", "seconds", "length", what, cure, subject, session, trial))
    return findings


def _doubles(looks: Sequence[Look]) -> list[Finding]:
    """Recordings whose objects are those of another recording under another name."""
    first: dict[str, RecordingRef] = {}
    findings = []
    for look in looks:
        if not look.digest:
            continue
        other = first.setdefault(look.digest, look.ref)
        if other.urls != look.ref.urls:
            what = f"the same content as subject {other.subject} session {other.session}"
            cure = "find out whose it is, and copy the other from the owner again"
            ref = look.ref
            args = (ref.subject, ref.session, None, ref.source)
            findings.append(_finding("fault", "objects", "duplicate", what, cure, *args))
    return findings


def _checks(
    catalog: CorpusCatalog,
    marker: SimulatedMarker | None,
    expected: Mapping[Key, _Trials],
    looks: Sequence[Look],
    findings: Sequence[Finding],
    tables: Mapping[str, str],
    listed: bool,
) -> tuple[Check, ...]:
    """The rows of the table."""
    seen = [look.header for look in looks if look.header is not None]
    seconds = [value for header in seen for value in header.trial_s.values()]
    wanted_s = [value for trials in expected.values() for value in trials.seconds.values()]
    sizes = [look.ref.size_bytes / 1e6 for look in looks]
    subjects = {key[0] for key in expected}
    here_subjects = {look.ref.subject for look in looks}
    n_left_out = sum(problem.known and problem.trial is not None for look in looks for problem in look.problems)
    # What cannot be read and is published so is no fault.
    unread = [look for look in looks if look.header is None and not all(problem.known for problem in look.problems)]
    n_trials = sum(trials.least for trials in expected.values())
    about = "" if catalog.trial_s_exact or marker is not None else "about "
    mb = "not stated" if catalog.object_mb is None else _range(catalog.object_mb, " MB")
    if marker is not None:
        mb = mb if _whole(catalog, marker) else "shortened"
    usable = sum(len(header.trial_s) for header in seen)
    stray = sum(finding.topic == "objects" and finding.level != "known" for finding in findings)
    doubts = sum(f.topic == "labels" and f.level != "known" and f.code != "missing" for f in findings)
    elsewhere = "in the objects" if catalog.bids is None else f"{catalog.bids.labels}.tsv"
    there = [path for path, state in tables.items() if state == "there"]
    labels = _tables(there) if there else f"{_tables(tables)} missing" if tables else elsewhere
    if doubts:
        labels += f": {_count(doubts)} to compare" if listed else ": cannot be used"
    rows: list[tuple[Topic, str, str, bool]] = [
        ("subjects", _count(len(subjects)), _count(len(here_subjects)), len(here_subjects) < len(subjects)),
        ("sessions", _count(len(expected)), _count(len(looks)), len(looks) < len(expected)),
        ("readable", _count(len(looks)), _count(len(seen)), bool(unread)),
        ("trials", _count(n_trials), _count(usable), usable < n_trials - n_left_out),
        ("channels", str(len(catalog.channels)), _range((header.channels for header in seen), ""), False),
        ("rate", f"{catalog.sfreq_hz:g} Hz", _range((header.sfreq_hz for header in seen), " Hz"), False),
        ("seconds", about + _range(wanted_s, " s"), _range(seconds, " s"), False),
        ("size", mb, _range(sizes, " MB"), False),
        ("objects", "no others", f"{_count(stray)} to sort out" if stray else "no others", False),
        ("labels", _tables(tables) or elsewhere, labels, False),
    ]
    if odd := sum(look.amplitude is not None for look in looks):
        rows.append(("amplitude", "microvolt", f"odd in {_count(odd)} recordings", False))
    if alternatives := sum(finding.topic == "layout" for finding in findings):
        rows.append(("layout", "uncertain", f"{_count(alternatives)} alternatives met", False))
    checks = []
    for topic, published, found, short in rows:
        if not listed and topic != "labels":
            checks.append(Check(topic=topic, published=published, found="not looked at", state="unknown"))
            continue
        levels = {finding.level for finding in findings if finding.topic == topic}
        unknown = published in ("not stated", "shortened") or (topic not in ("subjects", "objects") and not seen)
        state = (
            "fault"
            if short or "fault" in levels
            else "notice"
            if "notice" in levels
            else "unknown"
            if unknown
            else "good"
        )
        checks.append(Check.model_validate({"topic": topic, "published": published, "found": found, "state": state}))
    return tuple(checks)


def _verdict(complete: bool, marker: SimulatedMarker | None, checks: Sequence[Check], full: bool) -> str:
    """One line."""
    by_topic = {check.topic: check for check in checks}
    if complete:
        counts = f"{by_topic['subjects'].found} subjects, {by_topic['trials'].found} trials"
        what = "as simulated" if marker is not None else "as published"
        return f"complete: {counts}, {what}" + ("" if full else "; samples not decoded")
    faults = (check for check in checks if check.state == "fault")
    counted = ("subjects", "sessions", "readable", "trials")
    words = (f"{c.topic} {c.found}" + (f" of {c.published}" if c.topic in counted else "") for c in faults)
    return f"NOT complete: {'; '.join(words)}"


def _origin(catalog: CorpusCatalog, marker: SimulatedMarker | None) -> str:
    if marker is None:
        return "no SIMULATED.json: taken for the owner's recordings"
    scale = "" if marker.time_scale == 1.0 else f", clips at {marker.time_scale:.3g} of their length"
    return (
        f"SIMULATED, nobody was recorded: {marker.subjects} of {catalog.subjects} subjects, "
        f"{marker.trials} of {catalog.trials} trials{scale}"
    )


def _seen(look: Look) -> RecordingSeen:
    header = look.header
    trial_s = {} if header is None else {trial: round(float(seconds), 6) for trial, seconds in header.trial_s.items()}
    return RecordingSeen(
        subject=look.ref.subject,
        session=look.ref.session,
        source=_printable(look.ref.source),
        size_bytes=look.ref.size_bytes,
        readable=header is not None,
        channels=None if header is None else header.channels,
        sfreq_hz=None if header is None else float(header.sfreq_hz),
        trials=len(trial_s),
        trial_s=trial_s,
    )


def _finding_of(problem: Problem, session: str | None = None, topic: Topic | None = None) -> Finding:
    """A problem, its message parted into finding and cure; without a topic it has the one of its code."""
    level: Level = "notice" if problem.code in ("layout", "disputed") else "known" if problem.known else "fault"
    topic = topic or _TOPIC_OF_CODE.get(problem.code, "trials" if problem.trial or problem.known else "readable")
    what, _, cure = problem.message.rpartition("; ")
    return _finding(
        level,
        topic,
        problem.code,
        what or problem.message,
        cure if what else "",
        problem.subject,
        session,
        problem.trial,
        problem.source,
    )


def _finding(
    level: Level,
    topic: Topic,
    code: str,
    what: str,
    cure: str,
    subject: str | None = None,
    session: str | None = None,
    trial: str | None = None,
    source: str | None = None,
) -> Finding:
    return Finding(
        level=level,
        topic=topic,
        code=code,
        subject=subject,
        session=session,
        trial=trial,
        source=None if source is None else _printable(source),
        what=_printable(what),
        cure=_printable(cure),
    )


def _whole(catalog: CorpusCatalog, marker: SimulatedMarker) -> bool:
    """Whether simulated recordings are as long as published ones."""
    return (marker.sessions, marker.trials, marker.time_scale) == (catalog.sessions, catalog.trials, 1.0)


def _printable(text: str) -> str:
    """The text without credentials, and without anything that a terminal would act upon: file names are anybody's."""
    return "".join(letter if letter.isprintable() else "?" for letter in storage.redact(text))


def _rank(finding: Finding) -> tuple[int, int, str, tuple[tuple[str, int], ...]]:
    """Order of findings: the grave ones first, then as in the table, those of one kind together."""
    ids = tuple(_order(word or "") for word in (finding.subject, finding.session, finding.trial))
    levels, topics = get_args(Level), get_args(Topic)
    return levels.index(finding.level), topics.index(finding.topic), finding.code, ids


def _order(word: str) -> tuple[str, int]:
    """Sorts ids by the number at their end."""
    match = re.search(r"\d*$", word)
    digits = match.group() if match else ""
    return word[: len(word) - len(digits)], int(digits) if digits else -1


def _count(n: int) -> str:
    return f"{n:,}"


def _range(values: Iterable[float], unit: str) -> str:
    known = sorted(values)
    if not known:
        return "none"
    low, high = f"{known[0]:.4g}", f"{known[-1]:.4g}"
    return f"{low}{unit}" if low == high else f"{low}-{high}{unit}"


def _tables(paths: Iterable[str]) -> str:
    names = [path.rpartition("/")[2] for path in paths]
    if len(names) > 3:
        return f"{len(names)} tables"
    return ", ".join(names)
