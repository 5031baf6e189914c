"""Tables that ship beside recordings as Excel workbooks: the first sheet as text, and the table of electrodes.

Sizes are checked before anything is unzipped, and no formula is computed.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any

import openpyxl

from emod import storage
from emod.corpora.contract import Corpus, CorpusError, Problem
from emod.corpora.inventory import table_ships
from emod.signal import canonical_names

__all__ = [
    "CHANNEL_WORKBOOKS",
    "read_channel_columns",
    "read_channel_order",
    "read_sheet",
    "table_ships",
    "write_channel_order",
    "write_sheet",
]

CHANNEL_WORKBOOKS = ("Channel Order.xlsx", "channel-order.xlsx")
"""Names under which owner and copies call the table of electrodes; the first is the owner's."""

_MAX_BYTES = 4 * 1024**2  # published workbooks have some 10 kB
_MAX_UNZIPPED_BYTES = 16 * 1024**2
_MAX_PARTS = 256
_MAX_ROWS, _MAX_COLUMNS = 200, 100


def read_sheet(url: str) -> list[list[str]]:
    """Cells of a workbook's first sheet, up to 200 x 100, as text without blanks around it; "" where a cell is empty.

    Raises:
        CorpusError: If it is no workbook, or unreasonably large (``label_table``).
    """

    def refusal(what: str) -> CorpusError:
        return CorpusError(Problem(url, None, None, "label_table", f"{what}; it is not used, copy the owner's again"))

    if (size := storage.size_bytes(url)) > _MAX_BYTES:
        raise refusal(f"{size} bytes, far more than a table has")
    content = io.BytesIO(storage.read_bytes(url, at_most=_MAX_BYTES))
    try:
        with zipfile.ZipFile(content) as parts:
            # What a part declares bounds what is unzipped of it: zipfile stops there.
            sizes = [part.file_size for part in parts.infolist()]
        if len(sizes) > _MAX_PARTS or sum(sizes) > _MAX_UNZIPPED_BYTES:
            raise refusal(f"{len(sizes)} parts that unzip to {sum(sizes)} bytes, far more than a table has")
        book = openpyxl.load_workbook(content, read_only=True, data_only=True, keep_links=False)
        rows = book.worksheets[0].iter_rows(max_row=_MAX_ROWS, max_col=_MAX_COLUMNS, values_only=True)
        cells = [[_text(value) for value in row] for row in rows]
        book.close()
    except CorpusError:
        raise
    except Exception as error:
        # openpyxl words damage in many classes; the bytes are already here, so it is never the store's fault.
        what = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
        raise refusal(f"not an Excel workbook ({what[:200]!r})") from None
    return cells


def read_channel_columns(corpus: Corpus) -> tuple[str | None, list[list[str]], list[Problem]]:
    """The table of electrodes that ships with a copy.

    Returns:
        Its URL, None where there is none; the texts of each column; and why it cannot be read.
    """
    urls = [storage.join(corpus.root, name) for name in CHANNEL_WORKBOOKS]
    url = next((url for url in urls if table_ships(corpus.root, url)), None)
    if url is None:
        return None, [], []
    try:
        cells = read_sheet(url)
    except CorpusError as error:
        return url, [], [error.problem]
    return url, [[name for name in column if name] for column in zip(*cells, strict=True)], []


def read_channel_order(corpus: Corpus) -> tuple[tuple[int, ...] | None, list[Problem]]:
    """Where the stored rows lie: the table of electrodes that ships with a copy wins over the catalog's order.

    Returns:
        Stored row of each electrode in the catalog's order, or None where that is 0, 1, 2, ...; and what was found.
    """
    url, columns, problems = read_channel_columns(corpus)
    if url is None or problems:
        return None, problems
    for names in columns:
        # A heading may stand above the names.
        for stored in (_electrodes(names), _electrodes(names[1:])):
            if set(stored) != set(corpus.channels):
                continue
            if stored == corpus.channels:
                return None, []
            pairs = enumerate(zip(stored, corpus.channels, strict=True), start=1)
            apart = [f"{here} in row {row} for {published}" for row, (here, published) in pairs if here != published]
            message = (
                f"{len(apart)} electrodes are not in the published order ({apart[0]}); its order is used, compare it"
            )
            return tuple(stored.index(name) for name in corpus.channels), [Problem(url, None, None, "layout", message)]
    message = f"no column of the {len(corpus.channels)} electrodes; the published order is used, compare it"
    return None, [Problem(url, None, None, "label_table", message)]


def write_sheet(url: str, rows: Iterable[Sequence[str | int | None]]) -> None:
    """Writes a workbook of one sheet."""
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(list(row))
    content = io.BytesIO()
    book.save(content)
    storage.write_bytes(url, content.getvalue())


def write_channel_order(corpus: Corpus) -> None:
    """Writes the owner's table of electrodes: one column, no heading."""
    url = storage.join(corpus.root, CHANNEL_WORKBOOKS[0])
    write_sheet(url, ([name] for name in corpus.catalog.channels))


def _text(value: Any) -> str:
    """A cell as text: 5 is stored as 5.0 by some programs."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()


def _electrodes(names: Sequence[str]) -> tuple[str, ...]:
    """Canonical names, or none if any is no electrode or there twice."""
    try:
        return canonical_names(names)
    except ValueError:
        return ()
