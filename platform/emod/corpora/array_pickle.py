"""Pickled numpy arrays, read without running anything the file names: a dict of them as Python 2 wrote it, or one array
as Python 3 writes it (protocols 0 to 5).

A pickle is a program. Here the five names that an array needs stand for inert records of this module, every other name
is refused, and numpy sees only a checked type, a checked shape and the raw bytes. It writes Python 2's form only: for
Python 3's the standard library will do.
"""

from __future__ import annotations

import functools
import math
import pickle
import pickletools
import reprlib
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt

__all__ = ["ArrayHeader", "dump_arrays", "load_array", "load_arrays", "peek_array", "peek_arrays"]

Array = npt.NDArray[Any]

_KINDS = "biuf"
_MAX_READS = 10_000
_MAX_DIMENSIONS = 64  # numpy's own limit
_INLINE_BYTES = 4096  # longer strings are samples
_ALLOWED = """
PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4
STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8
BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS
PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD
"""
_LONG_STRINGS = (  # opcode, format of its length, whether it is text
    (pickle.BINSTRING, "<i", False),
    (pickle.BINBYTES, "<I", False),
    (pickle.BINBYTES8, "<Q", False),
    (pickle.BYTEARRAY8, "<Q", False),
    (pickle.BINUNICODE, "<I", True),
    (pickle.BINUNICODE8, "<Q", True),
)


@dataclass(frozen=True)
class ArrayHeader:
    """Type and shape of an array."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class _Skipped(NamedTuple):
    """A string that was not read; None where its length in bytes is not that of its content."""

    n_bytes: int | None


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
            raise pickle.UnpicklingError(f"an array of type {_short(self.code)}; only plain numbers are read")
        return np.dtype(self.order + self.code)


class _Array:
    """Stands for numpy.ndarray: type, shape and samples, if they agree."""

    header: ArrayHeader | None = None
    values: Array | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, raw = state
        self.fill(raw, kind, shape, "F" if fortran else "C")

    def fill(self, raw: object, kind: object, shape: object, order: object, axes: object = None) -> None:
        """Takes the samples; ``axes`` says how to transpose what was stored in order C."""
        if not isinstance(kind, _Type) or not isinstance(raw, bytes | _Skipped):
            raise pickle.UnpicklingError("an array whose content is not raw numbers")
        dtype = kind.numpy_dtype()
        if not _is_whole_numbers(shape):
            raise pickle.UnpicklingError(f"an array of shape {_short(shape)}")
        n_bytes = raw.n_bytes if isinstance(raw, _Skipped) else len(raw)
        if n_bytes is not None and math.prod(shape) * dtype.itemsize != n_bytes:
            raise pickle.UnpicklingError(
                f"an array of shape {_short(shape)} and type {dtype} that holds {n_bytes} bytes"
            )
        if order == "K":
            if not _is_whole_numbers(axes) or sorted(axes) != list(range(len(shape))):
                raise pickle.UnpicklingError(f"an array of axes {_short(axes)}")
        elif order not in ("C", "F"):
            raise pickle.UnpicklingError(f"an array of order {_short(order)}")
        else:
            axes = tuple(range(len(shape)))
        self.header = ArrayHeader(dtype, tuple(shape[axis] for axis in axes))
        if isinstance(raw, bytes):
            self.values = np.frombuffer(raw, dtype).reshape(shape, order="F" if order == "F" else "C").transpose(axes)


class _Function:
    """Stands for a function of numpy or Python; this one cannot be called, and none takes a state."""

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("state for a function")


class _Reconstruct(_Function):
    """Stands for numpy.core.multiarray._reconstruct."""

    def __call__(self, cls: object, shape: object, code: object) -> _Array:
        return _Array()


class _FromBuffer(_Function):
    """Stands for numpy.core.numeric._frombuffer."""

    def __call__(self, raw: object, kind: object, shape: object, order: object, axes: object = None) -> _Array:
        array = _Array()
        array.fill(raw, kind, shape, order, axes)
        return array


class _Encode(_Function):
    """Stands for _codecs.encode, by which protocols 0 to 2 of Python 3 write bytes as Latin-1 text.

    What it makes in all is bounded: a file may ask for the same text a thousand times.
    """

    def __init__(self, at_most: int) -> None:
        self._left = at_most

    def __call__(self, text: object, encoding: object) -> bytes | _Skipped:
        if isinstance(text, _Skipped):
            return text
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError(f"a string encoded as {_short(encoding)}")
        self._left -= len(text)
        if self._left < 0:
            raise pickle.UnpicklingError("it asks for more bytes than it holds")
        return text.encode("latin-1")


class _Bounded:
    """A stream whose reads never ask for more than there is: a declared length must not reserve memory.

    Their number is bounded too: arrays are some hundred opcodes, and a key of a million nested tuples would overflow
    the interpreter's stack when it is hashed. Frames are not read ahead, so nothing in them escapes the count.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        here = stream.tell()
        self._end = stream.seek(0, 2)
        stream.seek(here)
        self.n_bytes = self._end - here
        self._frame_end = 0
        self._reads_left = _MAX_READS

    def read(self, n: int) -> bytes:
        """As a file's, but short reads are errors."""
        self._claim(n)
        return self._stream.read(n)

    def skip(self, n: int) -> None:
        """Leaves out what `read` would return."""
        self._claim(n)
        self._stream.seek(n, 1)

    def readline(self) -> bytes:
        """As a file's."""
        self._claim(1)
        end = self._frame_end if self._stream.tell() < self._frame_end else self._end
        line = self._stream.readline()
        if self._stream.tell() > end:
            raise pickle.UnpicklingError("a line goes beyond its frame")
        return line

    def frame(self, n: int) -> None:
        """The next ``n`` bytes are one frame."""
        here = self._stream.tell()
        if here < self._frame_end:
            raise pickle.UnpicklingError("a frame begins inside another")
        if n > self._end - here:
            raise EOFError(f"it declares a frame of {n} bytes, more than it holds")
        self._frame_end = here + n

    def _claim(self, n: int) -> None:
        here = self._stream.tell()
        end = self._frame_end if here < self._frame_end else self._end
        if not 0 <= n <= end - here:
            raise EOFError(f"it declares {n} bytes, more than it holds")
        self._reads_left -= 1
        if self._reads_left < 0:
            raise pickle.UnpicklingError(f"it has more than {_MAX_READS} parts, arrays some hundred")


class _Unpickler(pickle._Unpickler):
    """The standard library's Python unpickler: the C one reserves its memo by the largest index a file names."""

    read: Callable[[int], bytes]
    append: Callable[[object], None]

    def __init__(self, stream: IO[bytes], *, samples: bool) -> None:
        self._source = _Bounded(stream)
        self._samples = samples
        reconstruct, from_buffer = _Reconstruct(), _FromBuffer()
        self._known = {
            ("numpy.core.multiarray", "_reconstruct"): reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): reconstruct,
            ("numpy.core.numeric", "_frombuffer"): from_buffer,
            ("numpy._core.numeric", "_frombuffer"): from_buffer,
            ("numpy", "ndarray"): _Function(),
            ("numpy", "dtype"): _Type,
            ("_codecs", "encode"): _Encode(self._source.n_bytes),
        }
        # encoding "bytes": Python 2 strings stay bytes, so raw samples are not copied through a text.
        super().__init__(self._source, encoding="bytes")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(f"it asks for {_short(f'{module}.{name}')}, which no array needs")
        return self._known[module, name]

    def load_frame(self) -> None:
        self._source.frame(struct.unpack("<Q", self.read(8))[0])

    def load_long_string(self, length_format: str, text: bool) -> None:
        (n,) = struct.unpack(length_format, self.read(struct.calcsize(length_format)))
        if not self._samples and n > _INLINE_BYTES:
            self._source.skip(n)
            self.append(_Skipped(None if text else n))
        else:
            raw = self.read(n)
            self.append(raw.decode("utf-8", "surrogatepass") if text else raw)


_Unpickler.dispatch = {
    **{
        ord(opcode.code): pickle._Unpickler.dispatch[ord(opcode.code)]
        for opcode in pickletools.opcodes
        if opcode.name in _ALLOWED.split()
    },
    pickle.FRAME[0]: functools.partial(_Unpickler.load_frame),
    **{
        code[0]: functools.partial(_Unpickler.load_long_string, length_format=length_format, text=text)
        for code, length_format, text in _LONG_STRINGS
    },
}


def load_arrays(stream: IO[bytes]) -> dict[str, Array]:
    """The arrays of a pickled dict, read-only, without running code of the file.

    Args:
        stream: Seekable, at the start of the pickle.

    Raises:
        pickle.UnpicklingError: If it is anything but a dict of arrays of numbers, or is cut short.
    """
    loaded = _load(stream, samples=True)
    if not isinstance(loaded, dict) or not all(isinstance(value, _Array) for value in loaded.values()):
        raise pickle.UnpicklingError("not a dict of arrays")
    return {_text(key): value.values for key, value in loaded.items() if value.values is not None}


def peek_arrays(stream: IO[bytes]) -> tuple[dict[str, ArrayHeader], dict[str, Array]]:
    """Type and shape of each array of a pickled dict, and the values of those that are small.

    Samples of the others are skipped, but must be there.

    Args:
        stream: Seekable, at the start of the pickle.

    Raises:
        pickle.UnpicklingError: As `load_arrays`.
    """
    loaded = _load(stream, samples=False)
    if not isinstance(loaded, dict) or not all(isinstance(value, _Array) for value in loaded.values()):
        raise pickle.UnpicklingError("not a dict of arrays")
    headers = {_text(key): value.header for key, value in loaded.items() if value.header is not None}
    return headers, {_text(key): value.values for key, value in loaded.items() if value.values is not None}


def load_array(stream: IO[bytes]) -> Array:
    """The one array of a pickle, read-only, without running code of the file.

    Args:
        stream: Seekable, at the start of the pickle.

    Raises:
        pickle.UnpicklingError: If it is anything but one array of numbers, or is cut short.
    """
    loaded = _load(stream, samples=True)
    if not isinstance(loaded, _Array) or loaded.values is None:
        raise pickle.UnpicklingError("not one array")
    return loaded.values


def peek_array(stream: IO[bytes]) -> ArrayHeader:
    """Type and shape of the one array of a pickle; its samples are skipped, but must be there (protocol 0 reads them).

    Args:
        stream: Seekable, at the start of the pickle.

    Raises:
        pickle.UnpicklingError: As `load_array`.
    """
    loaded = _load(stream, samples=False)
    if not isinstance(loaded, _Array) or loaded.header is None:
        raise pickle.UnpicklingError("not one array")
    return loaded.header


def _load(stream: IO[bytes], *, samples: bool) -> object:
    try:
        return _Unpickler(stream, samples=samples).load()
    except (OSError, pickle.UnpicklingError):
        raise
    except Exception as error:
        # A damaged opcode shows as KeyError, IndexError, struct.error, ... : all mean the same here.
        what = _short(str(error)) if str(error) else "it ends too early"
        raise pickle.UnpicklingError(f"not a whole pickle of arrays ({type(error).__name__}: {what})") from None


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


def _is_whole_numbers(value: object) -> TypeGuard[tuple[int, ...]]:
    """Whether it is a short tuple of numbers that fit an index: longer ones take forever to multiply."""
    return (
        isinstance(value, tuple)
        and len(value) <= _MAX_DIMENSIONS
        and all(type(n) is int and 0 <= n < 2**63 for n in value)
    )


def _short(value: object) -> str:
    """For a message: one short line, whatever the file holds."""
    words = reprlib.Repr()
    words.maxstring = words.maxother = 120
    return words.repr(value)
