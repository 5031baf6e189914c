"""Broken and hostile objects, for every reader: nothing is executed, no memory is exhausted, nothing hangs, each fault
is reported with its object and a code, and what is good beside it is kept.

A child process reads copies that this process has damaged. A copy has a few megabytes: reading it may take 300 MB at
its peak, 700 MB is refused, and the child is killed when it does not answer.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from emod.catalog import SimulateSettings, load_corpus
from emod.corpora import READERS, CorpusError, open_corpus, simulate_corpus
from emod.errors import DataError, RequestError
from emod.simulation import TagSignal
from tests.contract.hostile_objects import Mutant, mutants, special

NAMES = sorted(READERS)
CODES = {
    *("unreadable", "missing", "dtype", "shape", "label", "not_finite", "flat", "unexpected_object", "duplicate"),
    *("label_disagreement", "label_table", "length", "layout", "left_out"),
}
HEADROOM_BYTES = 700 * 2**20
PEAK_KB = 300 * 2**10
PATIENCE_S = 30.0
FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "urllib.Request",
)

Trials = dict[tuple[str, str, str], tuple[str, tuple[Any, ...]]]
"""(subject, session, trial) -> checksum of its samples, its labels."""


# In the child


def serve(pipe: Connection, good: dict[str, str]) -> None:
    """Reads copies for ever, and says what came of it.

    Args:
        pipe: Takes (name of the corpus, root, a folder that must not be opened); gives what `read_copy` says, and what
            was done besides.
        good: Name -> root of a good copy, read once so that everything is imported before memory is limited.
    """
    events: list[str] = []
    outside = "/nowhere"

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FORBIDDEN:
            events.append(event)
        elif event == "open" and isinstance(arguments[0], str | bytes):
            path, mode = os.fsdecode(arguments[0]), arguments[1]
            if os.path.realpath(path).startswith(outside):
                events.append(f"open {path}")
            if isinstance(mode, str) and set(mode) & set("wax+"):
                events.append(f"write {path}")

    for name, root in good.items():
        read_copy(name, root)
    sys.addaudithook(watch)
    with open("/proc/self/statm") as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + HEADROOM_BYTES, resource.RLIM_INFINITY))
    pipe.send("ready")
    while True:
        name, root, outside = pipe.recv()
        with open("/proc/self/clear_refs", "w") as peak:
            peak.write("5")
        before = resident_kb("VmRSS")
        events.clear()
        answer = read_copy(name, root)
        grown = resident_kb("VmHWM") - before
        pipe.send((answer, [*events, *([f"take {grown} kB"] if grown > PEAK_KB else [])]))


def resident_kb(what: str) -> int:
    """Memory of this process, now or at its peak."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(what))


def read_copy(name: str, root: str) -> dict[str, Any]:
    """Everything of a copy that can be read, what is said about the rest, and what strict and headers make of it."""
    corpus = open_corpus(name, root)
    said: dict[str, Any] = {"trials": {}, "error": None, "strict": None, "peeked": []}
    try:
        for recording in corpus.recordings():
            for trial in map(recording.cut, recording.spans):
                key = (trial.subject, trial.session, trial.trial)
                assert key not in said["trials"], f"{key} twice"
                rating = tuple(sorted((trial.rating or {}).items()))
                labels = (trial.stimulus, rating, trial.emotion, trial.valence, trial.arousal)
                rest = b"" if trial.baseline_uv is None else trial.baseline_uv.tobytes()
                said["trials"][key] = (hashlib.sha256(trial.eeg_uv.tobytes() + rest).hexdigest(), labels)
    except (RequestError, CorpusError) as error:
        said["error"] = (type(error).__name__, str(error))
    except BaseException as error:
        said["error"] = ("escaped", f"{type(error).__name__}: {error}")
    problems = list(corpus.problems)
    if said["error"] and said["error"][0] == "CorpusError":
        problems.append(said["error"][1])
    said["problems"] = [
        (p.source, p.subject, p.trial, p.code, p.message, p.known) for p in problems if not isinstance(p, str)
    ]
    try:
        for _ in open_corpus(name, root, strict=True).recordings():
            pass
    except CorpusError as error:
        said["strict"] = error.problem.code
    except RequestError:
        said["strict"] = "request"
    except BaseException as error:
        said["strict"] = f"escaped {type(error).__name__}: {error}"
    try:
        for ref in corpus.references():
            try:
                header = corpus.peek(ref)
                said["peeked"].append((ref.source, sorted(header.trial_s), len(header.problems)))
            except CorpusError as error:
                said["peeked"].append((ref.source, None, len(error.problems)))
    except (RequestError, CorpusError):
        pass
    except BaseException as error:
        said["error"] = ("escaped", f"peek: {type(error).__name__}: {error}")
    return said


# Here


class Reader:
    """A child process that reads copies; one that hangs or dies is replaced."""

    def __init__(self, good: dict[str, str]) -> None:
        self._good = good
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, self._good), daemon=True)
        self._process.start()
        theirs.close()
        assert self._pipe.poll(300)
        assert self._pipe.recv() == "ready"

    def read(self, name: str, root: Path, outside: Path) -> tuple[dict[str, Any] | None, list[str]]:
        """What `read_copy` says and what it did besides, or None and what became of it."""
        self._pipe.send((name, str(root), str(outside)))
        try:
            if self._pipe.poll(PATIENCE_S):
                answer: tuple[dict[str, Any], list[str]] = self._pipe.recv()
                return answer
            what = "hangs"
        except EOFError:
            self._process.join(5)
            what = f"dies with {self._process.exitcode}"
        self.stop()
        self._start()
        return None, [what]

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


class Copy:
    """A copy of a corpus to be damaged, and what a good one holds."""

    def __init__(self, name: str, good: Path, folder: Path, reader: Reader) -> None:
        self.name, self._reader = name, reader
        self.root, self.outside = folder / "copy", folder / "outside"
        shutil.copytree(good, self.root)
        self.outside.mkdir()
        self.secret, self.canary = self.outside / "secret", folder / "canary"
        self.secret.write_text("5")
        answer, events = self.read()
        assert answer is not None, events
        assert answer["error"] is None
        self.good: dict[str, Any] = answer
        self.refs = open_corpus(name, self.root).references()
        self.recordings: dict[str, Path] = {}
        for url in self.refs[0].urls:
            self.recordings.setdefault(Path(url).suffix, Path(url))
        used = {Path(url) for ref in self.refs for url in ref.urls}
        self.tables: dict[str, Path] = {}
        for path in sorted(self.root.rglob("*")):
            if path.is_file() and path not in used and path.name != "SIMULATED.json":
                self.tables.setdefault(path.name, path)

    def read(self, root: Path | None = None) -> tuple[dict[str, Any] | None, list[str]]:
        return self._reader.read(self.name, root or self.root, self.outside)

    def hurt(self, path: Path) -> set[str]:
        """Subjects and sessions whose recording uses a file; all of them for a table."""
        hit = {ref.key for ref in self.refs if str(path) in ref.urls}
        return hit or {ref.key for ref in self.refs}

    def faults_of(self, path: Path, *, reported: bool, loose: bool) -> list[str]:
        """What a reader does wrong with the copy as it is now, ``path`` being the object that was damaged."""
        answer, events = self.read()
        if answer is None:
            return events
        faults = [f"does {event}" for event in events]
        if self.canary.exists():
            self.canary.unlink()
            faults.append("was executed")
        error, problems = answer["error"], answer["problems"]
        if error and error[0] == "escaped":
            faults.append(f"lets through {error[1][:300]}")
        texts = [problem[4] for problem in problems] + ([error[1]] if error else [])
        for text in texts:
            if not text.isprintable() or len(text) > 1500 or "Traceback" in text:
                faults.append(f"says {text[:200]!r} in {len(text)} letters")
            if re.search(r"MemoryError|[Uu]nable to allocate|allocation failed|[Cc]annot allocate|recursion", text):
                faults.append(f"ran against a limit: {text[:200]}")
        faults += [f"has no code {problem[3]}" for problem in problems if problem[3] not in CODES]
        unknown = [problem for problem in problems if not problem[5]]
        told = bool(unknown or error)
        if reported and not told:
            faults.append("says nothing")
        good: Trials = self.good["trials"]
        hurt = self.hurt(path)
        alone = {key: value for key, value in good.items() if f"{key[0]}_{key[1]}" not in hurt}
        found: Trials = answer["trials"]
        if error and error[0] != "escaped" and alone:
            faults.append(f"gives up good recordings: {error[1][:300]}")
        elif lost := [key for key in alone if found.get(key) != alone[key]]:
            faults.append(f"loses or changes {lost[:3]} of other recordings")
        if strange := [key for key in found if key not in good]:
            faults.append(f"invents {strange[:3]}")
        if not told:
            if gone := sorted(set(good) - set(found)):
                faults.append(f"drops {gone[:3]} without a word")
            elif not loose and (changed := [key for key in good if found[key] != good[key]]):
                faults.append(f"changes {changed[:3]} without a word")
        if not error or error[0] != "escaped":
            wanted = unknown[0][3] if unknown else None
            if answer["strict"] != wanted and not (error and answer["strict"] in {"request", *CODES}):
                faults.append(f"is strict about {answer['strict']}, not {wanted}")
        return faults


@pytest.fixture(scope="module")
def good_copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two subjects of each corpus, one session, two trials."""
    folder = tmp_path_factory.mktemp("good")
    for name in NAMES:
        catalog = load_corpus(name)
        settings = SimulateSettings(subjects=2, sessions=1, trials=2, time_scale=2 / catalog.longest_trial_s)
        simulate_corpus(name, str(folder / name), settings, TagSignal())
    return {name: folder / name for name in NAMES}


@pytest.fixture
def strangers(copy: Copy, good_copies: dict[str, Path]) -> dict[str, bytes]:
    """One recording of each other corpus, but for those with the same electrodes and rate: SEED and SEED-IV name their
    variables alike, and clips shortened to two seconds tell nobody which corpus they are of."""
    montage = {name: (load_corpus(name).channels, load_corpus(name).sfreq_hz) for name in NAMES}
    return {
        name: Path(open_corpus(name, root).references()[0].urls[0]).read_bytes()
        for name, root in good_copies.items()
        if montage[name] != montage[copy.name]
    }


@pytest.fixture(scope="module")
def reader(good_copies: dict[str, Path]) -> Iterator[Reader]:
    child = Reader({name: str(root) for name, root in good_copies.items()})
    yield child
    child.stop()


@pytest.fixture(scope="module")
def tables_tried() -> set[bytes]:
    return set()


@pytest.fixture(scope="module", params=NAMES)
def copy(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    good_copies: dict[str, Path],
    reader: Reader,
) -> Copy:
    return Copy(request.param, good_copies[request.param], tmp_path_factory.mktemp(request.param), reader)


def all_faults(copy: Copy, path: Path, chosen: Callable[[Mutant], bool], strangers: dict[str, bytes]) -> list[str]:
    """Puts each form of an object in its place; the object is as before afterwards."""
    good = path.read_bytes()
    faults, tried = [], 0
    try:
        for mutant in mutants(good, copy.canary, copy.secret, strangers):
            if not chosen(mutant) or (content := mutant.make()) == good:
                continue
            tried += 1
            path.write_bytes(content)
            found = copy.faults_of(path, reported=mutant.reported, loose=mutant.loose)
            faults += [f"{path.relative_to(copy.root)}, {mutant.name}: {fault}" for fault in found]
    finally:
        path.write_bytes(good)
    assert tried > 10, "the forms were made"
    return faults


def test_damaged_and_hostile_recordings(copy: Copy, strangers: dict[str, bytes]) -> None:
    faults = [
        fault
        for path in copy.recordings.values()
        for fault in all_faults(copy, path, lambda mutant: not mutant.heavy, strangers)
    ]
    assert not faults, "\n".join(faults)


def test_damaged_and_hostile_tables(copy: Copy, strangers: dict[str, bytes], tables_tried: set[bytes]) -> None:
    """A table that several corpora ship alike is tried with one of them, and with all in the long test."""
    faults = []
    for path in copy.tables.values():
        if (content := path.read_bytes()) not in tables_tried:
            tables_tried.add(content)
            faults += all_faults(copy, path, lambda mutant: not mutant.heavy, strangers)
    assert not faults, "\n".join(faults)


@pytest.mark.long
def test_more_of_the_same(copy: Copy, strangers: dict[str, bytes]) -> None:
    faults = []
    for path in copy.recordings.values():
        faults += all_faults(copy, path, lambda mutant: mutant.heavy, strangers)
    for path in copy.tables.values():
        faults += all_faults(copy, path, lambda mutant: True, strangers)
    assert not faults, "\n".join(faults)


def test_what_is_no_file(copy: Copy) -> None:
    """Folders, links and pipes where a file belongs: none is followed out of the copy, none is waited for."""
    faults = []
    for path in [*copy.recordings.values(), *copy.tables.values()]:
        outside = copy.outside / path.name
        shutil.copy(path, outside)
        good = path.read_bytes()
        for name, (put, reported) in special(path, outside, recording=path in copy.recordings.values()).items():
            path.unlink()
            put()
            try:
                found = copy.faults_of(path, reported=reported, loose=False)
                faults += [f"{path.relative_to(copy.root)} is {name}: {fault}" for fault in found]
            finally:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                path.with_name("kept").unlink(missing_ok=True)
                path.write_bytes(good)
    assert not faults, "\n".join(faults)


def test_linked_copies_work(copy: Copy) -> None:
    """The top folder is a link, as in many laboratories, and folders below it are links to others inside it."""
    root, link = copy.root, copy.root.with_name("link")
    link.symlink_to(root.name)
    folders = [path for path in sorted(root.iterdir()) if path.is_dir()]
    codes = [problem[3] for problem in copy.good["problems"]]
    try:
        answer, events = copy.read(link)
        assert answer is not None
        assert (answer["error"], [problem[3] for problem in answer["problems"]], events) == (None, codes, [])
        assert answer["trials"] == copy.good["trials"]
        for folder in folders:
            folder.rename(root / f".{folder.name} kept")
            folder.symlink_to(f".{folder.name} kept")
        for top in (root, link):
            answer, events = copy.read(top)
            assert answer is not None
            assert (answer["error"], events) == (None, [])
            assert answer["trials"] == copy.good["trials"]
    finally:
        link.unlink()
        for folder in folders:
            if folder.is_symlink():
                folder.unlink()
                (root / f".{folder.name} kept").rename(folder)


def test_same_subject_under_two_names(copy: Copy) -> None:
    """A second file for a subject: told, and its trials are there once, as before."""
    faults = []
    for path in copy.recordings.values():
        stem, suffix = path.stem, path.suffix
        names = {
            re.sub(r"\d+", lambda digits: f"0{digits[0]}", stem, count=1) + suffix,
            re.sub(r"\d{8}", "20991231", stem) + suffix,
            f"{stem} (1){suffix}",
            f"{stem}_copy{suffix}",
            stem + suffix.upper(),
        }
        for name in sorted(names - {path.name}):
            second = path.with_name(name)
            shutil.copy(path, second)
            try:
                found = copy.faults_of(second, reported=suffix != ".xml", loose=False)
                answer, _ = copy.read()
                assert answer is not None
                if answer["trials"] != copy.good["trials"]:
                    found.append("reads something else")
                faults += [f"{second.relative_to(copy.root)}: {fault}" for fault in found]
            finally:
                second.unlink()
    assert not faults, "\n".join(faults)


def test_marker_that_is_hostile(copy: Copy) -> None:
    marker = copy.root / "SIMULATED.json"
    good = marker.read_bytes()
    try:
        for content in (
            b"",
            b"{",
            good[: len(good) // 2],
            b"[" * 100_000,
            b"9" * 10_000_000,
            good.replace(b"2", b"-2"),
        ):
            marker.write_bytes(content)
            with pytest.raises(DataError):
                _ = open_corpus(copy.name, copy.root).simulated
    finally:
        marker.write_bytes(good)
