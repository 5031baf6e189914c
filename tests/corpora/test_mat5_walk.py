"""The walker sees what SciPy wrote, keeps nothing it skips, and no byte of a file makes it or SciPy fall over."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from emod.corpora.mat5_walk import CutShortError, Matrix, Walker, WalkError, variables


def cells(*values: Any) -> Any:
    row = np.empty((1, len(values)), dtype=object)
    for column, value in enumerate(values):
        row[0, column] = value
    return row


CONTENT = {
    "grid": np.arange(12.0).reshape(3, 4) - 5.5,
    "bytes": np.array([[1], [255]], np.uint8),
    "S": {
        "longer_than_four": cells(np.float32([[1.5, -2]]), "text", np.empty((0, 0)), cells(np.int16([[-7]]))),
        "a": {"deep": np.array([[3.0]])},
    },
    "cube": np.arange(24, dtype=np.int32).reshape(2, 3, 4),
}


def saved(content: dict[str, Any], compress: bool = False) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, content, do_compression=compress)
    return buffer.getvalue()


def opened(walker: Walker, matrix: Matrix) -> Any:
    """Everything below an array, by the walker alone."""
    if matrix.kind == "cell":
        return [opened(walker, walker.enter(matrix)) for _ in range(matrix.count)]
    if matrix.kind == "struct":
        assert matrix.count == 1
        return {name: opened(walker, walker.enter(matrix)) for name in matrix.fields}
    return walker.load(matrix, at_most=1000)


def whole(raw: bytes) -> dict[str, Any]:
    found = {}
    for walker in variables(io.BytesIO(raw)):
        matrix = walker.enter()
        found[matrix.name] = opened(walker, matrix)
        assert walker.position == matrix.stop
        walker.finish()
    return found


def plain(value: Any) -> Any:
    """What SciPy loaded, as nested lists and dicts."""
    if isinstance(value, np.ndarray) and value.dtype.names:
        return {name: plain(value[name].item()) for name in value.dtype.names}
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [plain(entry) for entry in value.ravel(order="F")]
    return value


def assert_same(found: Any, wanted: Any) -> None:
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for name, value in wanted.items():
            assert_same(found[name], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    else:
        np.testing.assert_array_equal(found, wanted)
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)


@pytest.mark.parametrize("compress", [False, True])
def test_it_sees_what_scipy_sees(compress: bool) -> None:
    raw = saved(CONTENT, compress)
    wanted = {name: plain(value) for name, value in scipy.io.loadmat(io.BytesIO(raw)).items() if name[0] != "_"}
    assert_same(whole(raw), wanted)


@pytest.mark.parametrize("compress", [False, True])
def test_what_is_left_is_skipped_and_a_place_can_be_gone_back_to(compress: bool) -> None:
    numbers = [np.random.default_rng(n).normal(size=(n + 1, 5000)) for n in range(4)]
    raw = saved({"C": cells(*numbers), "after": np.array([[8.0]])}, compress)
    stream = io.BytesIO(raw)
    walker, behind = variables(stream)
    cell = walker.enter()
    places = []
    for number in numbers:
        places.append(walker.place())
        matrix = walker.enter(cell)
        assert (matrix.kind, matrix.shape, matrix.name) == ("double", number.shape, "")
        walker.leave(matrix)
    walker.finish()
    for index in (2, 0, 3, 2):  # in any order, more than once, in another opening
        again = places[index].resume(io.BytesIO(raw))
        np.testing.assert_array_equal(again.load(again.enter(cell), at_most=20000), numbers[index])
    assert behind.load(behind.enter(), at_most=1) == 8


def test_the_other_byte_order_is_read() -> None:
    """SciPy writes the machine's own order only, so this one is written by hand."""
    values = np.arange(6.0).reshape(2, 3)
    body = struct.pack(">IIII", 6, 8, 6, 0) + struct.pack(">IIii", 5, 8, 2, 3)
    body += struct.pack(">HHI", 1, 1, ord("m") << 24) + struct.pack(">II", 9, 48) + values.T.astype(">f8").tobytes()
    raw = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI" + struct.pack(">II", 14, len(body)) + body
    np.testing.assert_array_equal(whole(raw)["m"], values)
    np.testing.assert_array_equal(scipy.io.loadmat(io.BytesIO(raw))["m"], values)


def test_skipping_holds_one_block() -> None:
    raw = saved({"big": np.zeros((4_000_000, 2)), "small": np.array([[4.0]])}, compress=True)
    stream = io.BytesIO(raw)
    tracemalloc.start()
    for walker in variables(stream):
        matrix = walker.enter()
        walker.leave(matrix)
        walker.finish()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert matrix.name == "small"
    assert peak < 3_000_000  # 64 MB inflated


def test_a_bomb_is_refused_on_its_word() -> None:
    raw = saved({"big": np.zeros((4_000_000, 2))}, compress=True)
    assert len(raw) < 100_000
    (walker,) = variables(io.BytesIO(raw))
    with pytest.raises(WalkError, match="at most 1000000 are expected"):
        walker.enter(at_most=1_000_000)
    (walker,) = variables(io.BytesIO(raw))
    with pytest.raises(WalkError, match="at most 1000 numbers"):
        walker.load(walker.enter(), at_most=1000)


@pytest.mark.parametrize("compress", [False, True])
def test_cut_anywhere_it_says_so_and_what_came_before_is_whole(compress: bool) -> None:
    raw = saved(CONTENT, compress)
    complete = whole(raw)
    for length in range(len(raw)):
        found: dict[str, Any] = {}
        try:
            for walker in variables(io.BytesIO(raw[:length])):
                matrix = walker.enter()
                found[matrix.name] = opened(walker, matrix)
                walker.finish()
        except CutShortError:
            pass
        else:
            assert len(found) < len(complete), length  # cut between two variables
        assert_same(found, {name: value for name, value in complete.items() if name in found})


@pytest.mark.parametrize("compress", [False, True])
def test_any_byte_changed_is_an_error_or_a_value_never_a_crash(compress: bool) -> None:
    """SciPy alone takes an unknown type for an address and ends the process."""
    raw = saved(CONTENT, compress)
    rng = np.random.default_rng(0)
    refused = 0
    for place in range(128, len(raw)):
        for value in {0, 8, 255, int(rng.integers(256))} - {raw[place]}:
            changed = bytearray(raw)
            changed[place] = value
            try:
                whole(bytes(changed))
            except WalkError:
                refused += 1
            except AssertionError:
                pass  # this test's own: a struct array of another size, a position
    assert refused > 1000 if compress else refused > 300


@pytest.mark.parametrize("kind", [0, 8, 10, 14, 15, 16, 19, 200, 65535])
def test_numbers_of_an_unknown_type_never_reach_scipy(kind: int) -> None:
    raw = bytearray(saved({"x": np.arange(6.0)[None]}))
    place = raw.index(struct.pack("<II", 9, 48))
    raw[place : place + 4] = struct.pack("<I", kind)
    with pytest.raises(WalkError, match="type"):
        whole(bytes(raw))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (struct.pack("<IIii", 5, 8, 3, 4), struct.pack("<IIii", 5, 8, 3, -4), "dimensions"),
        (struct.pack("<IIii", 5, 8, 3, 4), struct.pack("<IIii", 5, 4, 3, 4), "dimensions"),
        (struct.pack("<IIii", 5, 8, 3, 4), struct.pack("<IIii", 5, 40, 3, 4), "at most 32"),
        (struct.pack("<IIii", 5, 8, 3, 4), struct.pack("<IIii", 5, 8, 3, 5), "type 9"),
        (struct.pack("<IIii", 5, 8, 3, 4), struct.pack("<IIii", 5, 8, 2**30, 2**30), "at most 1000 numbers"),
        (struct.pack("<II", 9, 96), struct.pack("<II", 9, 88), "type 9"),
        (struct.pack("<II", 9, 96), struct.pack("<II", 9, 4096), "type 9"),
        (struct.pack("<II", 9, 96), struct.pack("<HHI", 9, 4, 96), "type 9"),
        (struct.pack("<II", 6, 8), struct.pack("<II", 6, 4), "flags"),
        (struct.pack("<II", 6, 8), struct.pack("<HHI", 6, 5, 8), "small element"),
        (struct.pack("<II", 14, 144), struct.pack("<II", 14, 16), "ends inside an array"),
        (struct.pack("<II", 14, 144), struct.pack("<II", 13, 144), "where a variable belongs"),
        (struct.pack("<II", 6, 0), struct.pack("<II", 6 | 0x800, 0), "complex"),
        (struct.pack("<II", 6, 0), struct.pack("<II", 5, 0), "sparse"),
        (struct.pack("<II", 6, 0), struct.pack("<II", 3, 0), "object"),
        (struct.pack("<II", 6, 0), struct.pack("<II", 17, 0), "class 17"),
    ],
)
def test_heads_that_lie_are_refused(old: bytes, new: bytes, words: str) -> None:
    raw = saved({"grid": CONTENT["grid"]})
    assert raw.count(old) >= 1
    with pytest.raises(WalkError, match=words):
        whole(raw.replace(old, new, 1))


def test_an_inner_array_larger_than_its_cell_is_refused() -> None:
    raw = saved({"C": cells(np.ones((2, 2)))})
    place = raw.index(struct.pack("<II", 14, 80))
    with pytest.raises(WalkError, match="in cell that has"):
        whole(raw[:place] + struct.pack("<II", 14, 8000) + raw[place + 8 :])


@pytest.mark.parametrize(("width", "names"), [(0, 4), (3, 4), (65, 130), (2, 2**20)])
def test_a_struct_with_impossible_names_is_refused(width: int, names: int) -> None:
    raw = saved({"S": {"a": 1.0, "b": 2.0}})
    place = raw.index(struct.pack("<HHI", 5, 4, 2))
    changed = struct.pack("<HHIII", 5, 4, width, 1, names)
    with pytest.raises(WalkError):
        whole(raw[:place] + changed + raw[place + 16 :])


def test_values_that_are_no_plain_numbers_are_refused() -> None:
    for value, words in (
        (np.array([[1 + 2j]]), "complex double"),
        (scipy.sparse.csc_matrix(np.eye(3)), "sparse"),
        (cells(1.0), "cell"),
        ({"field": 1.0}, "struct"),
    ):
        (walker,) = variables(io.BytesIO(saved({"x": value})))
        matrix = walker.enter()
        assert not matrix.numeric
        with pytest.raises(WalkError, match=words):
            walker.load(matrix, at_most=100)


def compressed(content: bytes) -> bytes:
    header = saved({})[:128]
    return header + struct.pack("<II", 15, len(content)) + content


def test_checksum_and_what_follows_a_variable_are_looked_at() -> None:
    inside = saved({"grid": CONTENT["grid"]})[128:]
    good = zlib.compress(inside)
    assert "grid" in whole(compressed(good))
    with pytest.raises(WalkError, match="incorrect data check"):
        whole(compressed(good[:-1] + bytes([good[-1] ^ 1])))
    with pytest.raises(WalkError, match="behind its variable"):
        whole(compressed(zlib.compress(inside + bytes(10_000_000))))
    with pytest.raises(WalkError, match="less than it declares"):
        whole(compressed(zlib.compress(inside[:-8])))
    with pytest.raises(WalkError, match="cannot be inflated"):
        whole(compressed(b"not deflated"))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "0 bytes"),
        (b"MATLAB 5.0", "10 bytes"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(512), "7.3"),
        (struct.pack("<5i", 0, 3, 4, 0, 2) + b"x\x00" + bytes(200), "no header"),  # level 4
        (bytes(4096), "no header"),
    ],
)
def test_other_files_are_refused(raw: bytes, words: str) -> None:
    with pytest.raises(WalkError, match=words):
        list(variables(io.BytesIO(raw)))


def test_a_hundred_thousand_empty_variables_do_not_hang_it() -> None:
    raw = saved({})[:128] + struct.pack("<II", 14, 0) * 100_000
    with pytest.raises(WalkError, match="more than 1000 variables"):
        list(variables(io.BytesIO(raw)))
