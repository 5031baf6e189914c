"""Pickles: what Python 2 and 3 wrote is read, what a stranger may have written does nothing."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emod.corpora.array_pickle import ArrayHeader, dump_arrays, load_array, load_arrays, peek_array
from tests.golden.deap import pickle_as_python2

ARRAYS = {"labels": np.arange(8.0).reshape(2, 4), "data": np.linspace(-1, 1, 24).reshape(2, 3, 4)}


def load(content: bytes) -> dict[str, Any]:
    return load_arrays(io.BytesIO(content))


def assert_equal_arrays(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_python2_pickle_is_read() -> None:
    assert_equal_arrays(load(pickle_as_python2(ARRAYS)), ARRAYS)


def test_fortran_order_and_big_endian_are_kept() -> None:
    arrays = {"f": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "b": np.arange(4, dtype=">f8")}
    found = load(pickle_as_python2(arrays))
    np.testing.assert_array_equal(found["f"], arrays["f"])
    np.testing.assert_array_equal(found["b"], arrays["b"])


def test_text_protocol_is_read() -> None:
    """Protocol 0, in case the owner used it: Python 2 strings as escaped text."""
    raw = np.array([1.5, -2.0]).tobytes()
    content = (
        b"(dp1\nS'data'\np2\ncnumpy.core.multiarray\n_reconstruct\np3\n(cnumpy\nndarray\np4\n(I0\ntp5\nS'b'\np6\ntp7\n"
        b"Rp8\n(I1\n(I2\ntp9\ncnumpy\ndtype\np10\n(S'f8'\np11\nI0\nI1\ntp12\nRp13\n(I3\nS'<'\np14\nNNNI-1\nI-1\nI0\n"
        b"tp15\nbI00\nS" + repr(raw)[1:].encode() + b"\np16\ntp17\nbs."
    )
    assert_equal_arrays(load(content), {"data": np.array([1.5, -2.0])})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_written_is_read_by_the_standard_library_and_back() -> None:
    content = b"".join(dump_arrays(ARRAYS))
    assert_equal_arrays(pickle.loads(content, encoding="latin1"), ARRAYS)
    assert_equal_arrays(load(content), ARRAYS)


class _Runs:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_no_command_is_run(tmp_path: Path, protocol: int) -> None:
    proof = tmp_path / "proof"
    for attack in (_Runs(os.system, f"touch {proof}"), _Runs(eval, f"open({str(proof)!r}, 'w')"), _Runs(proof.touch)):
        with pytest.raises(pickle.UnpicklingError):
            load(pickle.dumps({"data": attack}, protocol=protocol))
    assert not proof.exists()


@pytest.mark.parametrize(
    "name",
    [
        b"numpy\nfromfile",
        b"numpy\nload",
        b"numpy\nmemmap",
        b"numpy.core.multiarray\nfromstring",
        b"numpy.core.multiarray\nndarray.tofile",
        b"numpy.testing._private.utils\nrunstring",
        b"numpy.f2py\ncompile",
        b"numpy.core\nfromfile",
        b"numpy._core.numeric\nfrombuffer",
        b"numpy.core.numeric\nloadtxt",
        b"numpy._core.multiarray\nscalar",
        b"_codecs\ndecode",
        b"codecs\nopen",
        b"builtins\neval",
        b"__builtin__\neval",
        b"numpy\ndtype.__init__",
        b"emod.corpora.array_pickle\n_Array",
    ],
)
def test_no_other_name_is_looked_up(name: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError, match="it asks for"):
        load(b"\x80\x02c" + name + b"\n.")


@pytest.mark.parametrize(
    "opcode",
    [
        *(b"i", b"o", b"\x81", b"\x92", b"\x82\x01", b"\x83\x01\x00", b"\x84" + bytes(4), b"P1\n", b"Q"),
        *(
            b"0",
            b"1",
            b"2",
            b"]",
            b"l",
            b"a",
            b"e",
            b"\x8f",
            b"\x90",
            b"\x91",
            b"\x97",
            b"\x98",
            b"G" + bytes(8),
            b"F1\n",
        ),
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_opcodes_that_arrays_do_not_need_are_refused(opcode: bytes, protocol: int) -> None:
    with pytest.raises(pickle.UnpicklingError, match="KeyError"):
        load(b"\x80" + bytes([protocol]) + b"(" + opcode + b"os\nsystem\n" + bytes(8) + b".")


def test_object_arrays_are_refused() -> None:
    with pytest.raises(pickle.UnpicklingError):
        load(pickle_as_python2({"data": np.array([{}, None], dtype=object)}))


@pytest.mark.parametrize("kind", [np.dtype("U4"), np.dtype("M8[s]"), np.dtype([("a", "f8")]), np.dtype("V8")])
def test_only_plain_numbers_are_read(kind: np.dtype[Any]) -> None:
    with pytest.raises(pickle.UnpicklingError):
        load(pickle_as_python2({"data": np.zeros(2, kind)}))


def declaring(shape: tuple[int, ...], raw: bytes = b"\x00" * 64) -> bytes:
    content = b"".join(dump_arrays({"data": np.frombuffer(raw)}))
    return content.replace(
        b"(J" + struct.pack("<i", 8) + b"t", b"(" + b"".join(b"J" + struct.pack("<i", n) for n in shape) + b"t"
    )


@pytest.mark.parametrize("shape", [(2**31 - 1,), (2**30, 2**30, 2**30), (7,), (-8,), (9,)])
def test_declared_shape_must_match_the_bytes(shape: tuple[int, ...]) -> None:
    with pytest.raises(pickle.UnpicklingError, match="an array of shape"):
        load(declaring(shape))
    assert load(declaring((2, 4)))["data"].shape == (2, 4)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02T\xff\xff\xff\x7fx.",  # a string of 2 GB
        b"\x80\x02X\xff\xff\xff\xffx.",  # a text of 4 GB
        b"\x80\x02\x8b\xff\xff\xff\x7fx.",  # an integer of 2 GB
        b"\x80\x02\x96" + struct.pack("<Q", 2**31) + b"x.",  # a byte array of 2 GB, from protocol 5
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",  # bytes of 1 TB
        b"\x80\x04\x8e" + struct.pack("<Q", 2**64 - 1) + b"x.",
        b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",  # a text of 1 TB
        b"\x80\x04B\xff\xff\xff\xffx.",  # bytes of 4 GB
        b"\x80\x04\x95" + struct.pack("<Q", 2**31) + b"}.",  # a frame of 2 GB
        b"\x80\x04\x95" + struct.pack("<Q", 2**64 - 1) + b"}.",
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # memo entry 2^31, for which the C unpickler reserves 32 GB
    ],
)
def test_declared_lengths_reserve_no_memory(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s01.dat").write_bytes(content)
    with (tmp_path / "s01.dat").open("rb") as stream:  # a file reserves what it is asked for, BytesIO does not
        tracemalloc.start()
        try:
            with pytest.raises(pickle.UnpicklingError):
                load_array(stream)
            stream.seek(0)
            with pytest.raises(pickle.UnpicklingError):
                peek_array(stream)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 4 * 1024**2


def test_deep_nesting_does_not_overflow_the_stack() -> None:
    with pytest.raises(pickle.UnpicklingError, match="parts"):
        load(b"\x80\x02}N" + b"\x85" * 3_000_000 + b"K\x01s.")


def test_every_truncation_is_noticed() -> None:
    content = pickle_as_python2(ARRAYS)
    for length in range(len(content)):
        with pytest.raises(pickle.UnpicklingError):
            load(content[:length])


def test_flipped_bytes_never_escape_as_another_error() -> None:
    content = bytearray(pickle_as_python2(ARRAYS))
    rng = np.random.default_rng(0)
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= int(rng.integers(1, 256))
        try:
            found = load(bytes(damaged))
        except pickle.UnpicklingError:
            continue
        assert all(array.dtype.kind in "biuf" for array in found.values())


def test_state_for_a_stand_in_does_not_stay() -> None:
    """BUILD on a function or class must not change this module for the next file."""
    functions = (b"numpy.core.multiarray\n_reconstruct", b"numpy._core.numeric\n_frombuffer", b"_codecs\nencode")
    for name in (*functions, b"numpy\nndarray"):
        with pytest.raises(pickle.UnpicklingError, match="state for a function"):
            load(b"\x80\x02c" + name + b"\n}U\x05valueK\x01sb.")
    with pytest.raises(pickle.UnpicklingError):
        load(b"\x80\x02cnumpy\ndtype\n}U\x05valueK\x01sb.")
    assert_equal_arrays(load(pickle_as_python2(ARRAYS)), ARRAYS)


@pytest.mark.parametrize("value", [[1, 2], {"data": 3}, {"data": [np.zeros(2)]}, np.zeros(2), None])
def test_anything_but_a_dict_of_arrays_is_refused(value: Any) -> None:
    with pytest.raises(pickle.UnpicklingError):
        load(pickle_as_python2(value))


def load_one(content: bytes) -> Any:
    array = load_array(io.BytesIO(content))
    assert peek_array(io.BytesIO(content)) == ArrayHeader(array.dtype, array.shape)
    return array


SMALL = np.linspace(-1, 1, 24).reshape(2, 3, 4)
LARGE = np.random.default_rng(0).normal(size=(3, 40, 100))  # beyond a pickler's frame of 64 KiB
LAYOUTS = {
    "small": SMALL,
    "large": LARGE,
    "fortran": np.asfortranarray(LARGE),
    "transposed": LARGE.transpose(1, 2, 0),
    "strided": LARGE[:, ::2],
    "big endian": LARGE.astype(">f4"),
    "whole numbers": np.arange(20_000, dtype="i2").reshape(2, -1),
}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_array_of_python3_is_read(layout: str, protocol: int) -> None:
    array = LAYOUTS[layout]
    frozen = array.copy(order="K")
    frozen.flags.writeable = False  # protocol 5 then stores bytes, not a byte array
    python = io.BytesIO()
    pickle._Pickler(python, protocol=protocol).dump(array)
    written = pickle.dumps(array, protocol=protocol)
    older = written.replace(b"numpy._core.", b"numpy.core.")  # numpy before 2.0
    if protocol >= 4:  # a name carries its length there, and stands in a frame that carries its own
        older = written.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
        older = older.replace(b"\x8c\x13numpy._core.numeric", b"\x8c\x12numpy.core.numeric")
        assert older[2:3] == b"\x95"
        older = older[:3] + struct.pack("<Q", struct.unpack("<Q", older[3:11])[0] - 1) + older[11:]
    assert older != written
    for content in (written, python.getvalue(), pickle.dumps(frozen, protocol=protocol), older):
        found = load_one(content)
        assert found.dtype == array.dtype
        assert not found.flags.writeable
        np.testing.assert_array_equal(found, array)


def test_header_is_found_without_the_samples() -> None:
    class Watched(io.BytesIO):
        n_read = 0

        def read(self, n: int | None = -1, /) -> bytes:
            found = super().read(n)
            self.n_read += len(found)
            return found

    for protocol in (1, 2, 3, 4, 5):
        stream = Watched(pickle.dumps(LARGE, protocol=protocol))
        assert peek_array(stream) == ArrayHeader(np.dtype("f8"), LARGE.shape)
        assert stream.n_read < 1000


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_every_truncation_of_one_array_is_noticed(protocol: int) -> None:
    content = pickle.dumps(SMALL, protocol=protocol)
    for length in range(len(content)):
        for read in (load_array, peek_array):
            with pytest.raises(pickle.UnpicklingError):
                read(io.BytesIO(content[:length]))
    content = pickle.dumps(LARGE, protocol=protocol)
    for length in range(0, len(content), 4999):
        for read in (load_array, peek_array):
            with pytest.raises(pickle.UnpicklingError):
                read(io.BytesIO(content[:length]))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_flipped_bytes_of_one_array_never_escape_as_another_error(protocol: int) -> None:
    content = bytearray(pickle.dumps(SMALL, protocol=protocol))
    rng = np.random.default_rng(0)
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= int(rng.integers(1, 256))
        try:
            found = load_array(io.BytesIO(bytes(damaged)))
        except pickle.UnpicklingError:
            continue
        assert found.dtype.kind in "biuf"


@pytest.mark.parametrize("value", [{"data": SMALL}, [SMALL], (SMALL, SMALL), SMALL.tobytes(), None, np.float64(3)])
def test_anything_but_one_array_is_refused(value: Any) -> None:
    for protocol in range(6):
        for read in (load_array, peek_array):
            with pytest.raises(pickle.UnpicklingError):
                read(io.BytesIO(pickle.dumps(value, protocol=protocol)))


@pytest.mark.parametrize(
    "kind", [np.dtype("O"), np.dtype("U4"), np.dtype("M8[s]"), np.dtype([("a", "f8")]), np.dtype("V8")]
)
def test_one_array_of_other_than_numbers_is_refused(kind: np.dtype[Any]) -> None:
    for protocol in range(6):
        with pytest.raises(pickle.UnpicklingError):
            load_one(pickle.dumps(np.zeros((2, 3), kind), protocol=protocol))


def from_buffer(raw: bytes, shape: bytes, order: bytes, more: bytes = b"") -> bytes:
    """One array of f8 in protocol 5's form, with whatever is claimed of it."""
    kind = b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02f8\x89\x88\x87R(K\x03\x8c\x01<NNNI-1\nI-1\nK\x00tb"
    return b"\x80\x05\x8c\x13numpy._core.numeric\x8c\x0b_frombuffer\x93(" + raw + kind + shape + order + more + b"tR."


RAW = b"\x96" + struct.pack("<Q", 48) + np.arange(6.0).tobytes()
SHAPE = b"K\x02K\x03\x86"


def test_claims_of_a_buffer_are_checked() -> None:
    ordered = b"\x8c\x01C"
    transposed = b"\x8c\x01KK\x01K\x00\x86"
    np.testing.assert_array_equal(load_one(from_buffer(RAW, SHAPE, ordered)), np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(load_one(from_buffer(RAW, SHAPE, transposed)), np.arange(6.0).reshape(2, 3).T)
    for raw, shape, order in (
        (RAW, b"K\x02K\x04\x86", ordered),  # more samples than bytes
        (RAW, b"K\x02K\x02\x86", ordered),
        (RAW, b"K\x02J\xfd\xff\xff\xff\x86", ordered),  # a negative length
        (RAW, b"(" + b"K\x01" * 65 + b"K\x06t", ordered),  # more dimensions than numpy has
        (RAW, b"\x8c\x02ab", ordered),
        (RAW, SHAPE, b"\x8c\x01A"),
        (RAW, SHAPE, b"\x8c\x01K"),
        (RAW, SHAPE, b"\x8c\x01KK\x00K\x00\x86"),
        (RAW, SHAPE, b"\x8c\x01KK\x02K\x01\x86"),
        (b"\x8c\x02ab", SHAPE, ordered),  # a text for a buffer
        (b"N", SHAPE, ordered),
    ):
        with pytest.raises(pickle.UnpicklingError):
            load_one(from_buffer(raw, shape, order))


def test_frames_are_what_they_say() -> None:
    content = pickle.dumps(SMALL, protocol=4)
    (size,) = struct.unpack("<Q", content[3:11])
    assert load_one(content[:3] + bytes(8) + content[11:]).shape == SMALL.shape  # an empty frame changes nothing
    for lie in (size + 1, 10, 20):  # beyond the file, and in the middle of a name
        with pytest.raises(pickle.UnpicklingError):
            load_array(io.BytesIO(content[:3] + struct.pack("<Q", lie) + content[11:]))
    nested = b"\x80\x04\x95" + struct.pack("<Q", 20) + b"\x95" + struct.pack("<Q", 2) + b"}." + bytes(20)
    with pytest.raises(pickle.UnpicklingError, match="inside another"):
        load_arrays(io.BytesIO(nested))


def test_nothing_in_a_frame_escapes_the_count() -> None:
    parts = b"}N" + b"\x85" * 3_000_000 + b"K\x01s."
    with pytest.raises(pickle.UnpicklingError, match="parts"):
        load(b"\x80\x04\x95" + struct.pack("<Q", len(parts)) + parts)


@pytest.mark.parametrize("read", [load_array, load_arrays, peek_array])
def test_small_files_ask_for_little(read: Any) -> None:
    """A text used again and again, numbers too large to multiply, and names and messages without end."""
    text = b"X" + struct.pack("<I", 2**20) + b"a" * 2**20 + b"q\x01X\x06\x00\x00\x00latin1q\x02"
    again = b"\x80\x02c_codecs\nencode\nq\x00" + text + b"".join(b"h\x00h\x01h\x02\x86R" for _ in range(1000))
    number = b"\x8b" + struct.pack("<i", 2**20) + b"\x7f" * 2**20 + b"q\x01"
    large = from_buffer(RAW, b"(" + number + b"h\x01" * 60 + b"t", b"\x8c\x01C")
    endless = b"\x80\x04\x8e" + struct.pack("<Q", 2**20) + b"a" * 2**20 + b"\x8c\x04load\x93."
    named = b"\x80\x04\x8d" + struct.pack("<Q", 2**20) + b"a\n" * 2**19 + b"\x8c\x04load\x93."
    for content in (again + b".", large, endless, named):
        tracemalloc.start()
        try:
            with pytest.raises(pickle.UnpicklingError) as caught:
                read(io.BytesIO(content))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 16 * 2**20
        assert len(str(caught.value)) < 400
        assert "\n" not in str(caught.value)
