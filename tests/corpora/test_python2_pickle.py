"""Pickles: what Python 2 wrote is read, what a stranger may have written does nothing."""

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
from tests.golden.deap import pickle_as_python2

from emod.corpora.python2_pickle import dump_arrays, load_arrays

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
        b"_codecs\nencode",
        b"builtins\neval",
        b"__builtin__\neval",
        b"numpy\ndtype.__init__",
        b"emod.corpora.python2_pickle\n_Array",
    ],
)
def test_no_other_name_is_looked_up(name: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError, match="it asks for"):
        load(b"\x80\x02c" + name + b"\n.")


@pytest.mark.parametrize(
    "opcode", [b"i", b"o", b"\x81", b"\x82\x01", b"P1\n", b"Q", b"\x93", b"\x95" + bytes(8), b"\x96"]
)
def test_opcodes_that_arrays_do_not_need_are_refused(opcode: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError):
        load(b"\x80\x02(" + opcode + b"os\nsystem\n" + bytes(8) + b".")


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
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # memo entry 2^31, for which the C unpickler reserves 32 GB
    ],
)
def test_declared_lengths_reserve_no_memory(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s01.dat").write_bytes(content)
    with (tmp_path / "s01.dat").open("rb") as stream:  # a file reserves what it is asked for, BytesIO does not
        tracemalloc.start()
        try:
            with pytest.raises(pickle.UnpicklingError):
                load_arrays(stream)
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
    for target in (b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"):
        with pytest.raises(pickle.UnpicklingError):
            load(b"\x80\x02" + target + b"}U\x05valueK\x01s" + b"b.")
    assert_equal_arrays(load(pickle_as_python2(ARRAYS)), ARRAYS)


@pytest.mark.parametrize("value", [[1, 2], {"data": 3}, {"data": [np.zeros(2)]}, np.zeros(2), None])
def test_anything_but_a_dict_of_arrays_is_refused(value: Any) -> None:
    with pytest.raises(pickle.UnpicklingError):
        load(pickle_as_python2(value))
