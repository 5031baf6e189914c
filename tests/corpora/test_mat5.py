"""Trials that are variables of MATLAB 5 files: chosen by number, damage told apart, no declaration trusted."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from emod.corpora import CorpusError, Recording, RecordingRef, open_corpus
from emod.corpora.mat5 import (
    Rows,
    TrialLayout,
    join_files,
    list_variables,
    load_variable,
    peek_trials,
    read_numbers,
    read_trials,
)
from emod.corpora.mat5_walk import WalkError

N = 62
LAYOUT = TrialLayout(
    pattern=r"(?P<initials>\w+?)_eeg(?P<trial>\d+)",
    example="cz_eeg1",
    labels={1: ("a", "sad"), 2: ("b", "fear"), 3: ("c", "happy")},
    rows={N: Rows()},
)


def signal(seed: int, samples: int = 401, rows: int = N) -> Any:
    return np.random.default_rng(seed).normal(0, 10, (rows, samples))


def whole() -> dict[str, Any]:
    return {f"cz_eeg{n}": signal(n) for n in (1, 2, 3)}


def written(path: Path, content: dict[str, Any], **options: Any) -> RecordingRef:
    scipy.io.savemat(path, content, **options)
    return RecordingRef("seed_iv", "1", "1", str(path), path.stat().st_size)


def read(ref: RecordingRef, layout: TrialLayout = LAYOUT) -> Recording:
    return read_trials(open_corpus("seed_iv", "nowhere"), ref, layout)


def found(ref: RecordingRef) -> tuple[set[str], set[str]]:
    """Trials read, and codes of what was wrong."""
    try:
        recording = read(ref)
    except CorpusError as error:
        return set(), {problem.code for problem in error.problems}
    return {span.trial for span in recording.spans}, {problem.code for problem in recording.problems}


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(name: str, shape: tuple[int, int], data: bytes, kind: int = 6) -> bytes:
    head = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack("<2i", *shape)) + element(1, name.encode())
    return element(14, head + data)


def deflated(variable: bytes) -> bytes:
    packed = zlib.compress(variable, 1)
    return struct.pack("<II", 15, len(packed)) + packed


def mat5(*variables: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + b"".join(variables)


@contextmanager
def little_memory() -> Iterator[None]:
    """No more than 50 MB may be allocated."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize("compress", [False, True])
def test_scipy_reads_the_same(tmp_path: Path, compress: bool) -> None:
    ref = written(tmp_path / "x.mat", dict(reversed(whole().items())), do_compression=compress)
    recording = read(ref)
    theirs = scipy.io.loadmat(ref.source)
    assert [span.trial for span in recording.spans] == ["1", "2", "3"]
    assert [(span.stimulus, span.emotion) for span in recording.spans] == [("a", "sad"), ("b", "fear"), ("c", "happy")]
    for span in recording.spans:
        np.testing.assert_array_equal(recording.cut(span).eeg_uv, theirs[f"cz_eeg{span.trial}"])
    with open(ref.source, "rb") as stream:
        listed, faults = list_variables(stream)
        assert [(each.name, each.shape, each.kind) for each in listed] == scipy.io.whosmat(ref.source)
        assert faults == []
        np.testing.assert_array_equal(load_variable(stream, listed[0]), theirs["cz_eeg3"])


def test_files_are_joined_behind_one_header(tmp_path: Path) -> None:
    parts = []
    for name, value in whole().items():
        scipy.io.savemat(buffer := io.BytesIO(), {name: value}, do_compression=name == "cz_eeg2")
        parts.append(buffer.getvalue())
    (tmp_path / "x.mat").write_bytes(join_files(parts))
    theirs = scipy.io.loadmat(tmp_path / "x.mat")
    for name, value in whole().items():
        np.testing.assert_array_equal(theirs[name], value)


def test_rows_are_picked_in_the_order_of_electrodes(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(64)[:N].tolist()
    ref = written(tmp_path / "x.mat", {f"cz_eeg{n}": signal(n, rows=64) for n in (1, 2, 3)})
    layout = TrialLayout(LAYOUT.pattern, LAYOUT.example, LAYOUT.labels, {64: Rows(order, "64 rows")})
    recording = read(ref, layout)
    np.testing.assert_array_equal(recording.cut(recording.spans[1]).eeg_uv, signal(2, rows=64)[order])
    (problem,) = recording.problems  # once, not for each trial
    assert (problem.trial, problem.code, problem.message) == (None, "layout", "64 rows")


def test_header_tells_what_reading_finds(tmp_path: Path) -> None:
    content = {**whole(), "cz_eeg2": signal(2, rows=61), "cz_eeg4": signal(4)}
    ref = written(tmp_path / "x.mat", content)
    header, recording = peek_trials(open_corpus("seed_iv", "nowhere"), ref, LAYOUT), read(ref)
    assert header.trial_s == {"1": 401 / 200, "3": 401 / 200}
    assert header.problems == recording.problems
    assert [(problem.trial, problem.code) for problem in header.problems] == [
        ("2", "shape"),
        ("4", "unexpected_object"),
    ]
    with pytest.raises(CorpusError) as caught:
        peek_trials(open_corpus("seed_iv", "nowhere"), written(tmp_path / "x.mat", {"cz_eeg1": np.ones(3)}), LAYOUT)
    assert [problem.code for problem in caught.value.problems] == ["shape", "missing", "missing"]


def test_left_out_is_known_and_elsewhere_is_silent(tmp_path: Path) -> None:
    ref = written(tmp_path / "x.mat", whole())
    labels = {1: ("a", "sad")}
    layout = TrialLayout(
        LAYOUT.pattern,
        LAYOUT.example,
        labels,
        LAYOUT.rows,
        left_out={2: "rest"},
        elsewhere=lambda trial: trial == 3,
    )
    recording = read(ref, layout)
    assert [span.trial for span in recording.spans] == ["1"]
    (problem,) = recording.problems
    assert (problem.trial, problem.code, problem.known) == ("2", "left_out", True)


def test_damage_inside_one_variable_costs_that_trial(tmp_path: Path) -> None:
    ref = written(tmp_path / "x.mat", {f"cz_eeg{n}": signal(n, samples=1000) for n in (1, 2, 3)}, do_compression=True)
    content = bytearray(Path(ref.source).read_bytes())
    second = 128 + 8 + struct.unpack("<I", content[132:136])[0]
    content[second + 450_000] ^= 0xFF
    Path(ref.source).write_bytes(bytes(content))
    recording = read(ref)
    assert [span.trial for span in recording.spans] == ["1", "3"]
    assert [(problem.trial, problem.code) for problem in recording.problems] == [("2", "unreadable")]


def test_no_message_repeats_what_a_variable_is_called(tmp_path: Path) -> None:
    good = {f"liuqiujun_eeg{n}": signal(n, samples=1000) for n in (1, 2, 3)}
    ref = written(tmp_path / "x.mat", good, do_compression=True)
    content = bytearray(Path(ref.source).read_bytes())
    content[-450_000] ^= 0xFF
    Path(ref.source).write_bytes(bytes(content))
    (problem,) = read(ref).problems
    assert problem.message.startswith("it cannot be decoded")
    said = [str(problem)]
    for changed in (
        {**good, "liuqiujun_eeg1": "text", "liuqiujun_eeg2": signal(2, rows=61), "liuqiujun_eeg4": signal(4)},
        {**good, "zhangsan_eeg4": signal(4)},
        {**good, "liuqiujun_eeg01": signal(1)},
        {"liuqiujun": signal(1)},
    ):
        ref = written(tmp_path / "x.mat", changed)
        try:
            problems = read(ref, replace(LAYOUT, expected_samples=lambda trial, samples: "too many")).problems
        except CorpusError as error:
            problems = error.problems
        said += map(str, problems)
    with pytest.raises(CorpusError, match="variables: 1, none is called label") as caught:
        read_numbers(ref.source, "label")
    said.append(str(caught.value))
    assert not [line for line in said if "liuqiujun" in line or "zhangsan" in line]
    assert [line.split(": ", 1)[1].split(";")[0].split(",")[0] for line in said[1:]] == [
        "it is char",
        "it is (61",
        "1000 samples",
        "none of the 3 trials expected",
        "trials under 2 different initials",
        "trials twice",
        "variables: 1",
        "variables: 1",
    ]


def test_variable_without_a_head_leaves_the_others(tmp_path: Path) -> None:
    ref = written(tmp_path / "x.mat", whole(), do_compression=True)
    content = bytearray(Path(ref.source).read_bytes())
    second = 128 + 8 + struct.unpack("<I", content[132:136])[0]
    content[second + 8 : second + 16] = bytes(8)
    Path(ref.source).write_bytes(bytes(content))
    recording = read(ref)
    assert [span.trial for span in recording.spans] == ["1", "3"]
    assert [(p.trial, p.code) for p in recording.problems] == [(None, "unreadable"), ("2", "missing")]


DOUBLE = element(9, signal(1).tobytes("F"))


MUCH = 150_000_000
HOSTILE: dict[str, Callable[[], bytes]] = {
    "much content in a published shape": lambda: matrix("cz_eeg2", (N, 401), element(9, bytes(MUCH))),
    "much behind the variable": lambda: matrix("cz_eeg2", (N, 401), DOUBLE) + bytes(MUCH),
    "a name without end": lambda: matrix("n" * MUCH, (N, 401), DOUBLE),
    "fewer samples than declared": lambda: matrix("cz_eeg2", (N, 100_000), DOUBLE),
    "samples without end": lambda: matrix("cz_eeg2", (N, 2**31 - 1), DOUBLE),
    "negative shape": lambda: matrix("cz_eeg2", (-N, -401), DOUBLE),
    "no such type": lambda: matrix("cz_eeg2", (N, 401), element(200, signal(1).tobytes("F"))),
    "opaque object": lambda: matrix("cz_eeg2", (N, 401), DOUBLE, kind=17),
    "function handle": lambda: matrix("cz_eeg2", (N, 401), DOUBLE, kind=16),
    "cells": lambda: matrix("cz_eeg2", (1, 1), element(14, b"") * 100_000, kind=1),
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_is_declared_is_not_trusted(tmp_path: Path, hostile: str) -> None:
    good = [matrix(f"cz_eeg{n}", (N, 401), element(9, signal(n).tobytes("F"))) for n in (1, 3)]
    path = tmp_path / "x.mat"
    path.write_bytes(mat5(good[0], deflated(HOSTILE[hostile]()), good[1]))
    with little_memory():
        recording = read(RecordingRef("seed_iv", "1", "1", str(path), path.stat().st_size))
    assert [span.trial for span in recording.spans] == ["1", "3"]
    assert {problem.code for problem in recording.problems} <= {"unreadable", "shape", "dtype", "missing"}
    assert recording.problems
    np.testing.assert_array_equal(recording.cut(recording.spans[1]).eeg_uv, signal(3))


def test_many_variables_hold_no_memory(tmp_path: Path) -> None:
    filler = deflated(matrix("filler", (N, 1000), element(9, bytes(8 * N * 1000))))
    path = tmp_path / "x.mat"
    path.write_bytes(mat5(*[filler] * 400, matrix("cz_eeg1", (N, 401), DOUBLE)))
    with little_memory():
        recording = read(RecordingRef("seed_iv", "1", "1", str(path), path.stat().st_size))
    assert [span.trial for span in recording.spans] == ["1"]


def test_any_byte_may_be_wrong(tmp_path: Path) -> None:
    """Whatever one byte is changed to, the reader returns or says that it cannot."""
    small = {f"cz_eeg{n}": np.arange(N * 200.0).reshape(N, 200) % 7 + n for n in (1, 2)}
    ref = written(tmp_path / "x.mat", small, do_compression=True)
    content = Path(ref.source).read_bytes()
    rng = np.random.default_rng(0)
    for place in [*range(120, 200), *rng.integers(0, len(content), 150)]:
        changed = bytearray(content)
        changed[place] ^= int(rng.integers(1, 256))
        Path(ref.source).write_bytes(bytes(changed))
        trials, codes = found(ref)
        assert trials <= {"1", "2"}
        assert codes <= {"unreadable", "missing", "shape", "dtype", "unexpected_object"}
        assert trials or codes


class TestTable:
    """Labels in a small file of their own."""

    def test_numbers_are_read_in_order(self, tmp_path: Path) -> None:
        for values in ([[1, 0, -1]], [[1], [0], [-1]]):
            scipy.io.savemat(tmp_path / "label.mat", {"label": np.array(values, np.int16), "other": "x"})
            assert read_numbers(str(tmp_path / "label.mat"), "label") == [1, 0, -1]

    @pytest.mark.parametrize(
        "content",
        [
            {"labels": np.ones(3)},
            {"label": "one"},
            {"label": np.ones(3) * 1j},
            {"label": np.array([[1, "a"]], dtype=object)},
            {"label": {"field": 1.0}},
            {"label": np.ones((40, 40))},
        ],
    )
    def test_other_content_is_refused(self, tmp_path: Path, content: dict[str, Any]) -> None:
        scipy.io.savemat(tmp_path / "label.mat", content)
        with pytest.raises(CorpusError) as caught:
            read_numbers(str(tmp_path / "label.mat"), "label")
        assert caught.value.problem.code == "label_table"

    @pytest.mark.parametrize("content", [b"", b"text" * 100, bytes(2**20 + 1)])
    def test_no_matlab_file_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "label.mat").write_bytes(content)
        with pytest.raises(CorpusError) as caught:
            read_numbers(str(tmp_path / "label.mat"), "label")
        assert caught.value.problem.code == "label_table"


def test_listing_what_is_no_file_of_this_kind_fails() -> None:
    with pytest.raises(WalkError):
        list_variables(io.BytesIO(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"))
