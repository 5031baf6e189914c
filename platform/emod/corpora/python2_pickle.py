"""Dicts of numpy arrays as Python 2 pickled them: read without running anything the file names, and written.

A pickle is a program. Here the three numpy names that an array needs stand for inert records of this module, every
other name is refused, and numpy sees only a checked type, a checked shape and the raw bytes. What Python 2 could not
write (protocols above 2) is refused too.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import struct
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
import numpy.typing as npt

__all__ = ["dump_arrays", "load_arrays"]

Array = npt.NDArray[Any]

_MODULES = {"numpy.core.multiarray", "numpy._core.multiarray"}
_KINDS = "biuf"
_MAX_READS = 10_000


class _Type:
    """Stands for numpy.dtype: remembers its code and byte order."""

    def __init__(self, code: object, align: object = False, copy: object = True) -> None:
        self.code = _text(code)
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = _text(state[1]).replace("|", "=")

    def numpy_dtype(self) -> np.dtype[Any]:
        """The type meant, if it is plain numbers."""
        if self.code[:1] not in _KINDS or not self.code[1:].isdigit() or self.order not in ("<", ">", "="):
            raise pickle.UnpicklingError(f"an array of type {self.code!r}; only plain numbers are read")
        return np.dtype(self.order + self.code)


class _Array:
    """Stands for numpy.ndarray: remembers type, shape and bytes, if they agree."""

    value: Array | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, raw = state
        if not isinstance(kind, _Type) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("an array whose content is not raw numbers")
        dtype = kind.numpy_dtype()
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise pickle.UnpicklingError(f"an array of shape {shape!r}")
        if math.prod(shape) * dtype.itemsize != len(raw):
            raise pickle.UnpicklingError(f"an array of shape {shape} and type {dtype} that holds {len(raw)} bytes")
        self.value = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")


class _Reconstruct:
    """Stands for numpy.core.multiarray._reconstruct."""

    def __call__(self, cls: object, shape: object, code: object) -> _Array:
        return _Array()

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("state for a function")


class _Bounded:
    """A stream whose reads never ask for more than there is: a declared length must not reserve memory.

    Their number is bounded too: a dict of arrays is some hundred opcodes, and a key of a million nested tuples would
    overflow the interpreter's stack when it is hashed.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        here = stream.tell()
        self._end = stream.seek(0, 2)
        stream.seek(here)
        self._reads_left = _MAX_READS

    def read(self, n: int) -> bytes:
        """As a file's, but short reads are errors."""
        self._count()
        if not 0 <= n <= self._end - self._stream.tell():
            raise EOFError(f"it declares {n} bytes more than it holds")
        return self._stream.read(n)

    def readline(self) -> bytes:
        """As a file's."""
        self._count()
        return self._stream.readline()

    def _count(self) -> None:
        self._reads_left -= 1
        if self._reads_left < 0:
            raise pickle.UnpicklingError(f"it has more than {_MAX_READS} parts, a dict of arrays some hundred")


class _Unpickler(pickle._Unpickler):
    """The standard library's Python unpickler: the C one reserves its memo by the largest index a file names."""

    dispatch = {  # noqa: RUF012 - overrides a class attribute of the standard library
        ord(opcode.code): pickle._Unpickler.dispatch[ord(opcode.code)]
        for opcode in pickletools.opcodes
        if opcode.proto <= 2 and not opcode.name.startswith(("EXT", "INST", "OBJ", "NEWOBJ", "PERSID", "BINPERSID"))
    }

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in _MODULES:
            return _Reconstruct()
        if module == "numpy" and name in ("ndarray", "dtype"):
            return _Array if name == "ndarray" else _Type
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")


def load_arrays(stream: IO[bytes]) -> dict[str, Array]:
    """The arrays of a pickled dict, read-only, without running code of the file.

    Args:
        stream: Seekable, at the start of the pickle.

    Raises:
        pickle.UnpicklingError: If it is anything but a dict of arrays of numbers, or is cut short.
    """
    # encoding "bytes": Python 2 strings stay bytes, so raw samples are not copied through a text.
    unpickler = _Unpickler(_Bounded(stream), encoding="bytes")
    try:
        loaded = unpickler.load()
    except (OSError, pickle.UnpicklingError):
        raise
    except Exception as error:
        # A damaged opcode shows as KeyError, IndexError, struct.error, ... : all mean the same here.
        what = str(error) or "it ends too early"
        raise pickle.UnpicklingError(f"not a whole Python 2 pickle ({type(error).__name__}: {what})") from None
    if not isinstance(loaded, dict) or not all(isinstance(value, _Array) for value in loaded.values()):
        raise pickle.UnpicklingError("not a dict of arrays")
    return {_text(key): value.value for key, value in loaded.items() if value.value is not None}


def dump_arrays(arrays: Mapping[str, npt.NDArray[np.float64]]) -> Iterator[bytes]:
    """A dict of float64 arrays as Python 2's protocol 2 writes it, in parts to be joined."""
    yield b"\x80\x02}("
    for name, array in arrays.items():
        yield _string(name.encode("ascii"))
        yield b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + _string(b"b") + b"\x87R"
        yield b"(K\x01" + b"(" + b"".join(b"J" + struct.pack("<i", n) for n in array.shape) + b"t"
        yield b"cnumpy\ndtype\n" + _string(b"f8") + b"K\x00K\x01\x87R"
        yield b"(K\x03" + _string(b"<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        yield _string(np.ascontiguousarray(array, dtype="<f8").tobytes())
        yield b"tb"
    yield b"u."


def _string(value: bytes) -> bytes:
    """A Python 2 str: SHORT_BINSTRING or BINSTRING."""
    return (b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))) + value


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return value
    raise pickle.UnpicklingError(f"{type(value).__name__} where a string belongs")
