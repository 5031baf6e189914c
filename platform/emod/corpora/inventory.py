"""What lies in a copy of a corpus: objects by the pattern of their names, and CSV tables.

It opens no recording. On a disk nothing outside the copy is listed: a link that leaves the corpus' top folder is a
problem, one that stays inside is as good as what it points to, and the top folder itself may be a link. Folders may
bear participants' names: messages repeat none.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import posixpath
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import get_protocol

from emod import storage
from emod.corpora.contract import Corpus, CorpusError, Problem, RecordingRef
from emod.errors import DataError, RequestError

__all__ = [
    "Entry",
    "find_objects",
    "find_sessions",
    "is_apples",
    "leaves_copy",
    "list_entries",
    "read_csv",
    "table_ships",
]

_DATA_SUFFIXES = (".mat", ".dat", ".pkl", ".cnt", ".bdf")
_TABLE_SUFFIXES = (".csv", ".txt", ".xlsx", ".xls", ".xml")
_MAX_TABLE_BYTES = 2 * 1024**2
_MAX_NAMES = 8  # of one folder, through links
_FOLDER = ("unreadable", "a folder where a file belongs; copy the owner's object again")  # reported under a file's name


Found = tuple[re.Match[str], str, int]


class Entry(NamedTuple):
    """What bears a name in a copy: path below the root, bytes, (device, inode), and why it cannot be used, if so."""

    path: str
    size: int
    file: tuple[int, int] | None = None
    fault: tuple[str, str] | None = None


def find_objects(corpus: Corpus, folder: str, pattern: str, example: str) -> tuple[list[Found], list[Problem]]:
    """The objects below a folder whose path matches a pattern, in order of path.

    Args:
        corpus: Whose copy.
        folder: Below the corpus' root; "" for the root itself.
        pattern: Regular expression for the whole path relative to ``folder``; group ``subject`` is its number.
        example: A path below the root that would match, for the message.

    Returns:
        (match, URL, bytes) of each object whose subject the corpus has, and a problem for each other data object: one
        of another name (``unexpected_object``), a second name of one file (``duplicate``), a folder, a pipe or a broken
        link (``unreadable``), and any link, of a table too, that leaves the copy (``unexpected_object``).

    Raises:
        RequestError: If the folder is not there or no object matches.
    """
    top = storage.join(corpus.root, folder) if folder else storage.join(corpus.root)
    cure = f"expected {example} below it; give the top folder of {corpus.catalog.name}"
    if not storage.exists(top):
        what = f"holds no {folder}/" if folder and storage.exists(corpus.root) else "no such folder"
        raise RequestError(f"{corpus.root}: {what}; {cure}")
    below = f"{folder}/" if folder else ""
    numbers = set(corpus.catalog.subject_numbers)
    found: list[Found] = []
    problems: list[Problem] = []
    strangers: list[tuple[Entry, str]] = []
    files: set[tuple[int, int]] = set()
    for entry in list_entries(corpus.root, top, below):
        url = storage.join(corpus.root, entry.path)
        match = re.fullmatch(pattern, entry.path.removeprefix(below)) if entry.path.startswith(below) else None
        data = entry.path.startswith(below) and entry.path.lower().endswith(_DATA_SUFFIXES)
        if entry.fault is not None:
            if match or data or entry.fault[0] == "unexpected_object" or entry.path.lower().endswith(_TABLE_SUFFIXES):
                problems.append(Problem(url, None, None, *entry.fault))
        elif match and int(match["subject"]) in numbers:
            if entry.file in files:
                message = "a second name of a file that is used already; keep one name of it"
                problems.append(Problem(url, None, None, "duplicate", message))
                continue
            found.append((match, url, entry.size))
            if entry.file is not None:
                files.add(entry.file)
        elif data:
            strangers.append((entry, url))
    for entry, url in strangers:
        if entry.file not in files:  # what a link stands for may bear any name
            message = f"no recording of {corpus.name}, which are named like {example}; rename it or move it away"
            problems.append(Problem(url, None, None, "unexpected_object", message))
    if not found:
        why = f" ({problems[0].message})" if problems else ""
        raise RequestError(f"{corpus.root}: holds no recording of {corpus.name}{why}; {cure}")
    return sorted(found, key=lambda item: item[1]), sorted(problems, key=lambda problem: problem.source)


def find_sessions(corpus: Corpus, folder: str, pattern: str, example: str) -> tuple[list[RecordingRef], list[Problem]]:
    """As `find_objects`, where each object is one session: group ``session`` of the pattern is its number.

    Returns:
        A reference for each (subject, session), in their order, and a problem for each that comes twice.
    """
    found, problems = find_objects(corpus, folder, pattern, example)
    refs: dict[tuple[int, int], RecordingRef] = {}
    for match, url, size in found:
        subject, session = int(match["subject"]), int(match["session"])
        if first := refs.get((subject, session)):
            message = f"session {session} lies in {first.source} too, which is used; keep one of them"
            problems.append(Problem(url, str(subject), None, "duplicate", message))
            continue
        refs[subject, session] = RecordingRef(corpus.name, str(subject), str(session), url, size)
    return [refs[key] for key in sorted(refs)], problems


def leaves_copy(root: str, url: str) -> bool:
    """Whether an object below a corpus' top folder is a link to something outside it."""
    if not _on_disk(root):
        return False
    real_root, real = (os.path.realpath(url_to_fs(name)[1]) for name in (root, url))
    return not _is_below(real, real_root)


def table_ships(root: str, url: str) -> bool:
    """Whether a copy holds a table as a plain object. `find_objects` reports links out of it, folders and pipes."""
    if not storage.exists(url) or leaves_copy(root, url):
        return False
    return not _on_disk(url) or os.path.isfile(url_to_fs(url)[1])


def list_entries(root: str, top: str, below: str) -> Iterator[Entry]:
    """Everything below ``top``; on a disk everything below ``root``, files before links; `is_apples` is left out."""
    if _on_disk(root):
        entries = _walk_disk(url_to_fs(root)[1])
    else:
        entries = (Entry(below + path, size) for path, size in storage.list_files(top).items())
    return (entry for entry in entries if not is_apples(entry.path))


def is_apples(path: str) -> bool:
    """Whether it is a file that macOS writes beside each one that it copies to a foreign disk: ``._s01.dat``."""
    return posixpath.basename(path).startswith("._")


def _on_disk(url: str) -> bool:
    return get_protocol(url) in LocalFileSystem.protocol


def _walk_disk(root: str) -> Iterator[Entry]:
    """Files, then what links lead to; links that lead in circles are left after some rounds."""
    real_root = os.path.realpath(root)
    folders, links = [(root, "")], list[tuple[str, str]]()
    entered: Counter[str] = Counter()
    while folders or links:
        if not folders:
            path, name = links.pop(0)
            if not _is_below(os.path.realpath(path), real_root):
                what = f"a link that leaves {root}; put the object itself here, or give the folder that holds it"
                yield Entry(name, 0, fault=("unexpected_object", what))
            elif os.path.isdir(path):
                folders.append((path, f"{name}/"))
                yield Entry(name, 0, fault=_FOLDER)
            else:
                yield _entry(path, name)
            continue
        folder, prefix = folders.pop()
        real = os.path.realpath(folder)
        entered[real] += 1
        above = os.path.realpath(os.path.dirname(folder))
        if entered[real] > _MAX_NAMES or (prefix and _is_below(above, real)):
            continue
        try:
            with os.scandir(folder) as listing:
                items = sorted(listing, key=lambda item: item.name)
        except OSError as error:
            raise RequestError(f"{root}: a folder below it cannot be listed ({error.strerror}); check rights") from None
        for item in items:
            name = prefix + item.name
            if item.is_symlink():
                links.append((item.path, name))
            elif item.is_dir():
                folders.append((item.path, f"{name}/"))
                yield Entry(name, 0, fault=_FOLDER)
            else:
                yield _entry(item.path, name)


def _entry(path: str, name: str) -> Entry:
    try:
        state = os.stat(path)
    except OSError:
        what = "a link to nothing; fetch what it stands for (git annex get) or copy the owner's object"
        return Entry(name, 0, fault=("unreadable", what))
    if not stat.S_ISREG(state.st_mode):
        return Entry(name, 0, fault=("unreadable", "no file but a pipe, socket or device; copy the owner's object"))
    return Entry(name, state.st_size, (state.st_dev, state.st_ino))


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def read_csv(url: str, columns: Sequence[str], *, root: str | None = None) -> list[dict[str, str]]:
    """Rows of a CSV table with a heading, by lower-case column name.

    Args:
        url: Of the table.
        root: The corpus' top folder, which a link must not leave; None: it may.
        columns: Lower-case names that must be there; others may be. A cell that a short row lacks is "".

    Raises:
        CorpusError: If the table is missing (``missing``) or cannot be read as such (``label_table``).
    """
    if not storage.exists(url):
        message = f"no such table; copy the owner's, with columns {', '.join(columns)}"
        raise CorpusError(Problem(url, None, None, "missing", message))
    try:
        if _on_disk(url) and not os.path.isfile(url_to_fs(url)[1]):
            raise csv.Error("a folder, a pipe or a device")
        if root is not None and leaves_copy(root, url):
            raise csv.Error(f"a link that leaves {root}")
        text = storage.read_bytes(url, at_most=_MAX_TABLE_BYTES).decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error, DataError) as error:
        message = f"not a CSV table ({error}); copy the owner's again"
        raise CorpusError(Problem(url, None, None, "label_table", message)) from None
    heading = [name.strip().lower() for name in lines[0]] if lines else []
    if absent := [name for name in columns if name not in heading]:
        here = ", ".join(ascii(name[:40])[1:-1] for name in heading[:10]) or "none"
        if len(heading) == 1 and (mark := next((mark for mark in ";\t" if mark in heading[0]), None)):
            message = (
                f"columns are separated by {mark!r}, not by commas; export it with commas, or copy the owner's again"
            )
            raise CorpusError(Problem(url, None, None, "label_table", message))
        message = f"no column {absent[0]} among {here}; copy the owner's table again"
        raise CorpusError(Problem(url, None, None, "label_table", message))
    rows = (map(str.strip, line[: len(heading)]) for line in lines[1:] if line)
    return [dict(itertools.zip_longest(heading, row, fillvalue="")) for row in rows]
