"""Workbooks: cells as text, electrodes in the order that ships, and nothing unzipped that is too large."""

from __future__ import annotations

import datetime
import os
import tracemalloc
import zipfile
from pathlib import Path

import openpyxl
import pytest

from emod.corpora import CorpusError, Problem, open_corpus
from emod.corpora.workbook import read_channel_columns, read_channel_order, read_sheet, write_sheet
from tests.golden.seed import CHANNELS, write_channel_sheet


def refused(path: Path) -> Problem:
    with pytest.raises(CorpusError) as caught:
        read_sheet(str(path))
    assert caught.value.problem.code == "label_table"
    assert caught.value.problem.source == str(path)
    assert "\n" not in str(caught.value)
    return caught.value.problem


def replace_part(path: Path, part: str, text: str) -> None:
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        for name, content in (parts | {part: text.encode()}).items():
            book.writestr(name, content)


def test_cells_are_text_of_the_first_sheet(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (["Session 1", 1, 2.0], [None, " Happy ", 2.5], [], ["last", datetime.date(2020, 1, 2)]):
        book.active.append(row)
    book.create_sheet("other").append(["no"])
    book.save(tmp_path / "x.xlsx")
    rows = [[cell for cell in row] for row in read_sheet(str(tmp_path / "x.xlsx"))]
    assert [row[:3] for row in rows] == [
        ["Session 1", "1", "2"],
        ["", "Happy", "2.5"],
        ["", "", ""],
        ["last", "2020-01-02 00:00:00", ""],
    ]


def test_written_sheet_is_read_by_openpyxl_and_here(tmp_path: Path) -> None:
    write_sheet(str(tmp_path / "x.xlsx"), [["a", 1], [None, "b"]])
    assert list(openpyxl.load_workbook(tmp_path / "x.xlsx").active.values) == [("a", 1), (None, "b")]
    assert [row[:2] for row in read_sheet(str(tmp_path / "x.xlsx"))] == [["a", "1"], ["", "b"]]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"<html></html>", b"\xd0\xcf\x11\xe0" * 200])
def test_what_is_no_workbook_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.xlsx").write_bytes(content)
    refused(tmp_path / "x.xlsx")


def test_workbook_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    write_channel_sheet(tmp_path / "x.xlsx", list(CHANNELS))
    content = (tmp_path / "x.xlsx").read_bytes()
    for length in range(0, len(content), 97):
        (tmp_path / "x.xlsx").write_bytes(content[:length])
        refused(tmp_path / "x.xlsx")


class TestBomb:
    """A workbook is a zip archive of XML: both can be made to grow."""

    @pytest.fixture
    def book(self, tmp_path: Path) -> Path:
        write_channel_sheet(tmp_path / "x.xlsx", list(CHANNELS))
        return tmp_path / "x.xlsx"

    def test_zip_that_unzips_to_much_is_not_unzipped(self, book: Path) -> None:
        replace_part(book, "xl/worksheets/sheet1.xml", " " * 200_000_000)
        tracemalloc.start()
        problem = refused(book)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "unzip to" in problem.message
        assert peak < 5e6

    def test_declared_size_that_lies_bounds_what_is_unzipped(self, book: Path) -> None:
        replace_part(book, "xl/worksheets/sheet1.xml", " " * 20_000_000)
        content = book.read_bytes()
        assert content.count((20_000_000).to_bytes(4, "little")) == 2  # in the part's head and in the directory
        book.write_bytes(content.replace((20_000_000).to_bytes(4, "little"), (2_000).to_bytes(4, "little")))
        tracemalloc.start()
        refused(book)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10e6

    def test_many_parts_are_refused(self, book: Path) -> None:
        with zipfile.ZipFile(book, "a") as archive:
            for n in range(1000):
                archive.writestr(f"xl/media/{n}", b"")
        assert "parts" in refused(book).message

    def test_large_object_is_not_read(self, book: Path) -> None:
        os.truncate(book, 2**40)
        assert str(2**40) in refused(book).message

    @pytest.mark.parametrize(
        "declaration",
        [
            '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>',
            '<!DOCTYPE x [<!ENTITY b SYSTEM "file:///etc/hostname">]>',
        ],
    )
    def test_entities_are_refused(self, book: Path, declaration: str) -> None:
        main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
        text = f'<?xml version="1.0"?>{declaration}<sst {main}><si><t>&b;</t></si></sst>'
        replace_part(book, "xl/sharedStrings.xml", text)
        assert "Entit" in refused(book).message

    def test_cells_far_away_are_not_reached(self, book: Path) -> None:
        main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
        far = '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
        near = '<row r="1"><c r="A1"><v>5</v></c><c r="XFD1"><v>6</v></c></row>'
        sheet = f'<worksheet {main}><dimension ref="A1:XFD1048576"/><sheetData>{near}{far}</sheetData></worksheet>'
        replace_part(book, "xl/worksheets/sheet1.xml", sheet)
        rows = read_sheet(str(book))
        assert len(rows) <= 200
        assert all(len(row) <= 100 for row in rows)
        assert rows[0][0] == "5"


class TestChannelOrder:
    """The owner's table of electrodes wins over the catalog's order."""

    def order(self, root: Path) -> tuple[tuple[int, ...] | None, list[Problem]]:
        return read_channel_order(open_corpus("seed_iv", root))

    def test_published_order_is_silent(self, tmp_path: Path) -> None:
        assert self.order(tmp_path) == (None, [])
        for name in ("Channel Order.xlsx", "channel-order.xlsx"):
            write_channel_sheet(tmp_path / name, [channel.upper() for channel in CHANNELS])
            assert self.order(tmp_path) == (None, [])
            (tmp_path / name).unlink()

    @pytest.mark.parametrize("name", ["Channel Order.xlsx", "channel-order.xlsx"])
    def test_other_order_is_where_the_rows_lie(self, tmp_path: Path, name: str) -> None:
        stored = [*CHANNELS[5:], *CHANNELS[:5]]
        write_channel_sheet(tmp_path / name, stored)
        order, (problem,) = self.order(tmp_path)
        assert order is not None
        assert [stored[row] for row in order] == list(CHANNELS)
        assert (problem.source, problem.code) == (str(tmp_path / name), "layout")
        assert "F7 in row 1 for Fp1" in problem.message

    def test_heading_and_other_columns_do_not_matter(self, tmp_path: Path) -> None:
        rows = [["No.", "Channel"], *([n, name] for n, name in enumerate(CHANNELS, start=1))]
        write_sheet(str(tmp_path / "Channel Order.xlsx"), rows)
        assert self.order(tmp_path) == (None, [])

    def test_columns_are_given_as_they_stand(self, tmp_path: Path) -> None:
        corpus = open_corpus("seed_v", tmp_path)
        assert read_channel_columns(corpus) == (None, [], [])
        path = tmp_path / "channel-order.xlsx"
        rows: list[list[str | int | None]] = [["No.", "Channel"], [1, "FP1"], [None, "VEO"]]
        write_sheet(str(path), rows)
        url, columns, problems = read_channel_columns(corpus)
        assert (url, problems) == (str(path), [])
        assert [column for column in columns if column] == [["No.", "1"], ["Channel", "FP1", "VEO"]]
        path.write_bytes(b"?")
        url, columns, (problem,) = read_channel_columns(corpus)
        assert (url, columns, problem.code) == (str(path), [], "label_table")

    @pytest.mark.parametrize(
        "names",
        [
            [],
            list(CHANNELS[:-1]),
            [*CHANNELS[:-1], "Fp1"],
            [*CHANNELS[:-1], "AF7"],
            [*CHANNELS, "AF7"],
            [*CHANNELS[:-1], "nonsense"],
        ],
    )
    def test_other_electrodes_are_not_used(self, tmp_path: Path, names: list[str]) -> None:
        write_channel_sheet(tmp_path / "Channel Order.xlsx", names)
        order, (problem,) = self.order(tmp_path)
        assert order is None
        assert problem.code == "label_table"

    def test_unreadable_table_is_listed(self, tmp_path: Path) -> None:
        (tmp_path / "Channel Order.xlsx").write_bytes(b"?")
        order, (problem,) = self.order(tmp_path)
        assert order is None
        assert problem.code == "label_table"

    def test_link_out_of_the_copy_and_pipes_are_not_read(self, tmp_path: Path) -> None:
        (tmp_path / "copy").mkdir()
        write_channel_sheet(tmp_path / "mine.xlsx", [*CHANNELS[5:], *CHANNELS[:5]])
        (tmp_path / "copy" / "Channel Order.xlsx").symlink_to(tmp_path / "mine.xlsx")
        os.mkfifo(tmp_path / "copy" / "channel-order.xlsx")
        assert self.order(tmp_path / "copy") == (None, [])  # the inventory says so
