"""What lies in a copy of a corpus: objects by the pattern of their names, and CSV tables.

It opens no recording.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Sequence

from emod import storage
from emod.corpora.contract import Corpus, CorpusError, Problem
from emod.errors import RequestError

__all__ = ["find_objects", "read_csv"]

_DATA_SUFFIXES = (".mat", ".dat", ".pkl", ".cnt", ".bdf")
_MAX_TABLE_BYTES = 16 * 1024**2


Found = tuple[re.Match[str], str, int]


def find_objects(corpus: Corpus, folder: str, pattern: str, example: str) -> tuple[list[Found], list[Problem]]:
    """The objects below a folder whose path matches a pattern, in order of path.

    Args:
        corpus: Whose copy.
        folder: Below the corpus' root; "" for the root itself.
        pattern: Regular expression for the whole path relative to ``folder``; group ``subject`` is its number.
        example: A path below the root that would match, for the message.

    Returns:
        (match, URL, bytes) of each object whose subject the corpus has, and a problem for each other data object.

    Raises:
        RequestError: If the folder is not there or no object matches.
    """
    top = storage.join(corpus.root, folder) if folder else storage.join(corpus.root)
    cure = f"expected {example} below it; give the top folder of {corpus.catalog.name}"
    if not storage.exists(top):
        what = f"holds no {folder}/" if folder and storage.exists(corpus.root) else "no such folder"
        raise RequestError(f"{corpus.root}: {what}; {cure}")
    numbers = set(corpus.catalog.subject_numbers)
    found, problems = [], []
    for path, size in storage.list_files(top).items():
        match = re.fullmatch(pattern, path)
        if match and int(match["subject"]) in numbers:
            found.append((match, storage.join(top, path), size))
        elif path.lower().endswith(_DATA_SUFFIXES):
            message = f"no recording of {corpus.name}, which are named like {example}; rename it or move it away"
            problems.append(Problem(storage.join(top, path), None, None, "unexpected_object", message))
    if not found:
        raise RequestError(f"{corpus.root}: holds no recording of {corpus.name}; {cure}")
    return found, problems


def read_csv(url: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV table with a heading, by lower-case column name.

    Args:
        url: Of the table.
        columns: Lower-case names that must be there; others may be. A cell that a short row lacks is "".

    Raises:
        CorpusError: If the table is missing (``missing``) or cannot be read as such (``label_table``).
    """
    if not storage.exists(url):
        message = f"no such table; copy the owner's, with columns {', '.join(columns)}"
        raise CorpusError(Problem(url, None, None, "missing", message))
    try:
        text = storage.read_bytes(url, at_most=_MAX_TABLE_BYTES).decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        message = f"not a CSV table ({error}); copy the owner's again"
        raise CorpusError(Problem(url, None, None, "label_table", message)) from None
    heading = [name.strip().lower() for name in lines[0]] if lines else []
    if absent := [name for name in columns if name not in heading]:
        message = f"no column {absent[0]} among {', '.join(heading) or 'none'}; copy the owner's table again"
        raise CorpusError(Problem(url, None, None, "label_table", message))
    rows = (map(str.strip, line[: len(heading)]) for line in lines[1:] if line)
    return [dict(itertools.zip_longest(heading, row, fillvalue="")) for row in rows]
