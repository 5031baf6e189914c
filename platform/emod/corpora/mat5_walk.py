"""Walks a MATLAB 5 file forwards without decoding it: what lies where, how large it says it is, one array at a time.

For files whose arrays are too many or too large to be decoded together. Nested cells and structs are entered one by
one, whatever is not wanted is inflated in blocks and dropped, and a single array of numbers or text is handed to
`scipy.io.loadmat` as a file of its own, so that SciPy does all decoding and never sees an object, a nesting, a
declared size or a type that nobody checked. Layout after "MAT-File Format" (MathWorks), level 5. Level 4 and MATLAB
7.3 (HDF5) are not read.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import scipy.io

__all__ = ["CutShortError", "Matrix", "Place", "WalkError", "Walker", "variables"]

_HEADER = 128
_BLOCK = 1 << 18
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {6: "double", 7: "single", 8: "int8", 9: "uint8", 10: "int16", 11: "uint16", 12: "int32", 13: "uint32"}
_KINDS = _NUMBERS | {14: "int64", 15: "uint64", 1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse"}
_COMPLEX, _LOGICAL = 0x08, 0x02  # of the second byte of an array's flags
_PLAIN = {*_NUMBERS.values(), "int64", "uint64", "char"}
# Types in which numbers and text may be stored, and their bytes. SciPy takes a type it does not know for an address.
_STORED = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
_STORED_TEXT = {1, 2, 3, 4, 5, 6, 16, 17, 18}
_MAX_VARIABLES = 1000
_MAX_DIMENSIONS = 8
_MAX_NAME, _MAX_FIELDS = 64, 256
_MAX_TRAILER = 1024  # of a compressed variable, behind its array


class WalkError(Exception):
    """The file is not what MATLAB writes; the message says what was found, for people."""


class CutShortError(WalkError):
    """The file ends before it should: what was read up to there is whole."""


@dataclass(frozen=True)
class Matrix:
    """One array as it declares itself; a walker that has entered it stands at its content.

    Attributes:
        name: "" inside cells and structs.
        kind: MATLAB's class: "double", "char", "cell", "struct", ...
        shape: Its dimensions.
        fields: Names of a struct's fields, in order of storage.
        real: False where it has an imaginary part.
        stop: Where it ends, in inflated bytes.
        head: Flags and dimensions as stored.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    fields: tuple[str, ...]
    real: bool
    stop: int
    head: bytes

    @property
    def count(self) -> int:
        """Number of its elements."""
        return math.prod(self.shape)

    @property
    def numeric(self) -> bool:
        """Whether it holds real numbers."""
        return self.real and self.kind in _PLAIN and self.kind != "char"


@dataclass(frozen=True)
class Place:
    """Where a walker stood: it can go on from there, also in another opening of the same file."""

    offset: int
    left: int
    whole: bool
    order: str
    inflate: Any
    ready: bytes
    position: int

    def resume(self, stream: IO[bytes]) -> Walker:
        """A walker at this place."""
        walker = Walker(stream, self.offset, self.left, self.whole, self.order, compressed=False)
        walker._inflate = self.inflate.copy() if self.inflate else None
        walker._ready, walker.position = self.ready, self.position
        return walker


class Walker:
    """Moves forwards through one variable of a file, at most one block of it in memory.

    Args:
        stream: Seekable.
        offset: Of the variable's content in the file.
        left: Bytes of it that the file holds from there on.
        whole: Whether these are all that it should have.
        order: "<" or ">".
        compressed: Whether the content is deflated.
    """

    def __init__(self, stream: IO[bytes], offset: int, left: int, whole: bool, order: str, *, compressed: bool) -> None:
        self._stream = stream
        self._offset = offset
        self._left = left
        self._whole = whole
        self._order = order
        self._inflate = zlib.decompressobj() if compressed else None
        self._ready = b""
        self.position = 0

    def place(self) -> Place:
        """Where it stands, to come back to."""
        inflate = self._inflate.copy() if self._inflate else None
        return Place(self._offset, self._left, self._whole, self._order, inflate, self._ready, self.position)

    def enter(self, within: Matrix | None = None, *, at_most: int | None = None) -> Matrix:
        """Reads the head of the array that begins here and stands at its content.

        Args:
            within: The array that holds it; it must not be larger.
            at_most: Bytes it may declare.

        Raises:
            WalkError: If no array begins here, or it declares more than there is room for.
        """
        kind, size, _ = self._tag()
        if kind != _MATRIX:
            raise WalkError(f"data of type {kind} where an array belongs")
        stop = self.position + size
        if within is not None and stop > within.stop:
            raise WalkError(f"an array of {size} bytes in {within.kind} that has {within.stop - self.position} left")
        if at_most is not None and size > at_most:
            raise WalkError(f"an array of {size} bytes where at most {at_most} are expected")
        if size == 0:  # MATLAB's short form of []
            flags = struct.pack(f"{self._order}IIII", 6, 8, 6, 0)
            return Matrix("", "double", (0, 0), (), True, stop, flags + struct.pack(f"{self._order}IIii", 5, 8, 0, 0))
        flags = self._element(6, 8)
        shape = self._element(5, 4 * _MAX_DIMENSIONS)
        name = self._element(1, _MAX_NAME)
        word = int.from_bytes(flags[:4], "little" if self._order == "<" else "big")
        dimensions = struct.unpack(f"{self._order}{len(shape) // 4}i", shape[: len(shape) // 4 * 4])
        if len(flags) != 8 or len(dimensions) < 2 or min(dimensions) < 0:
            raise WalkError(f"an array with {len(flags)} bytes of flags and dimensions {dimensions}")
        what = _KINDS.get(word & 0xFF, f"class {word & 0xFF}")
        fields: tuple[str, ...] = ()
        if what == "struct":
            width = self._element(5, 4)
            length = int.from_bytes(width, "little" if self._order == "<" else "big")
            names = self._element(1, _MAX_NAME * _MAX_FIELDS)
            if not 0 < length <= _MAX_NAME or len(names) % length:
                raise WalkError(f"a struct whose {len(names)} bytes of field names are {length} each")
            fields = tuple(_text(names[at : at + length]) for at in range(0, len(names), length))
        if self.position > stop:
            raise WalkError(f"an array of {size} bytes whose head alone is larger")
        head = struct.pack(f"{self._order}II", 6, 8) + flags
        head += struct.pack(f"{self._order}II", 5, len(shape)) + _padded(shape)
        real = not word >> 8 & _COMPLEX
        return Matrix(_text(name), what, dimensions, fields, real, stop, head)

    def leave(self, matrix: Matrix) -> None:
        """Skips what is left of an array that was entered."""
        self._skip(matrix.stop - self.position)

    def load(self, matrix: Matrix, *, at_most: int) -> npt.NDArray[Any]:
        """The array just entered, decoded by SciPy, and leaves it.

        Args:
            matrix: As `enter` returned it.
            at_most: Elements it may have.

        Raises:
            WalkError: If it is anything but real numbers or text, or larger.
        """
        size = matrix.stop - self.position
        if matrix.kind not in _PLAIN or not matrix.real:
            raise WalkError(f"{'' if matrix.real else 'complex '}{matrix.kind} where plain numbers or text belong")
        if matrix.count > at_most or size > 8 * at_most + 16:
            raise WalkError(f"an array of {matrix.shape} in {size} bytes where at most {at_most} numbers are expected")
        if size == 0 and matrix.count == 0:
            return np.empty(matrix.shape)
        content = self._read(size)
        _check_data(content, matrix, self._order)
        header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{self._order}HH", 0x0100, 0x4D49)
        named = matrix.head + struct.pack(f"{self._order}II", 1, 1) + _padded(b"x")
        tag = struct.pack(f"{self._order}II", _MATRIX, len(named) + size)
        file = io.BytesIO(b"".join((header, tag, named, content)))
        try:
            loaded: npt.NDArray[Any] = scipy.io.loadmat(file, chars_as_strings=True)["x"]
        except Exception as error:
            # SciPy words damage in many classes; the bytes are already here, so it is never the store's fault.
            what = " ".join(str(error).split()) or type(error).__name__
            raise WalkError(f"an array of {matrix.shape} that cannot be decoded ({what})") from None
        return loaded

    def finish(self) -> None:
        """Reads a compressed variable to its end, where its checksum is compared.

        Raises:
            WalkError: If something else follows the array, or the checksum is wrong.
        """
        trailer = 0
        while self._inflate and not self._inflate.eof:
            trailer += len(self._ready)
            self._ready = b""
            if trailer > _MAX_TRAILER:
                raise WalkError("more data behind its variable")
            self._fill()

    def _tag(self) -> tuple[int, int, bytes | None]:
        """Type and size of the element here, and its content where it stands in the tag itself."""
        raw = self._read(8)
        kind, size = struct.unpack(f"{self._order}II", raw)
        if kind >> 16:
            if kind >> 16 > 4:
                raise WalkError(f"a small element of {kind >> 16} bytes")
            return kind & 0xFFFF, kind >> 16, raw[4 : 4 + (kind >> 16)]
        return kind, size, None

    def _element(self, wanted: int, at_most: int) -> bytes:
        """Content of a small element of the array's head, padding skipped."""
        kind, size, content = self._tag()
        if kind != wanted or size > at_most:
            raise WalkError(f"{size} bytes of type {kind} where at most {at_most} of type {wanted} belong")
        if content is None:
            content = self._read(size)
            self._skip(-size % 8)
        return content

    def _read(self, size: int) -> bytes:
        parts = []
        while size > len(self._ready):
            parts.append(self._ready)
            size -= len(self._ready)
            self.position += len(self._ready)
            self._ready = b""
            self._fill()
        parts.append(self._ready[:size])
        self._ready = self._ready[size:]
        self.position += size
        return b"".join(parts)

    def _skip(self, size: int) -> None:
        if size < 0:
            raise WalkError("an array inside another that ends before it")
        while size > len(self._ready):
            size -= len(self._ready)
            self.position += len(self._ready)
            self._ready = b""
            if self._inflate is None:
                jump = min(size, self._left)
                self._offset, self._left, self.position, size = (
                    self._offset + jump,
                    self._left - jump,
                    self.position + jump,
                    size - jump,
                )
                if size:
                    raise self._too_short()
                return
            self._fill()
        self._ready = self._ready[size:]
        self.position += size

    def _fill(self) -> None:
        """Gets the next bytes ready, at least one."""
        assert not self._ready
        while not self._ready:
            if self._inflate is None:
                self._ready = self._next_block()
                continue
            if self._inflate.eof:
                raise WalkError("a compressed variable that inflates to less than it declares")
            block = self._inflate.unconsumed_tail or self._next_block()
            try:
                self._ready = self._inflate.decompress(block, _BLOCK)
            except zlib.error as error:
                raise WalkError(f"a compressed variable that cannot be inflated ({error})") from None
            if self._inflate.eof:
                return  # it may have held nothing more than its checksum

    def _next_block(self) -> bytes:
        self._stream.seek(self._offset)
        block = self._stream.read(min(_BLOCK, self._left))
        if not block:
            raise self._too_short()
        self._offset += len(block)
        self._left -= len(block)
        return block

    def _too_short(self) -> WalkError:
        return WalkError("a variable that ends inside an array") if self._whole else CutShortError("it ends too early")


def variables(stream: IO[bytes]) -> Iterator[Walker]:
    """A walker at the beginning of each variable of a file, in order of storage.

    Args:
        stream: Seekable.

    Raises:
        CutShortError: If the file ends inside the list of variables; what lies inside the last one is its walker's.
        WalkError: If it is no MATLAB 5 file, or has more variables than anybody saves.
    """
    end = stream.seek(0, 2)
    stream.seek(0)
    header = stream.read(_HEADER)
    order = {b"IM": "<", b"MI": ">"}.get(header[126:])
    if order is None or struct.unpack(f"{order}H", header[124:126]) != (0x0100,):
        what = "a MATLAB 7.3 (HDF5) file" if header[124:126] in (b"\x00\x02", b"\x02\x00") else f"{end} bytes"
        raise (CutShortError if len(header) < _HEADER else WalkError)(f"no header of a MATLAB 5 file but {what}")
    offset = _HEADER
    for _ in range(_MAX_VARIABLES):
        if offset >= end:
            return
        stream.seek(offset)
        tag = stream.read(8)
        if len(tag) < 8:
            raise CutShortError("it ends too early")
        kind, size = struct.unpack(f"{order}II", tag)
        whole = offset + 8 + size <= end
        if kind == _COMPRESSED:
            yield Walker(stream, offset + 8, min(size, end - offset - 8), whole, order, compressed=True)
        elif kind == _MATRIX:
            yield Walker(stream, offset, min(size + 8, end - offset), whole, order, compressed=False)
        else:
            raise WalkError(f"data of type {kind} where a variable belongs")
        offset += 8 + size
        if offset > end:
            raise CutShortError(f"it ends {offset - end} bytes too early")
    raise WalkError(f"more than {_MAX_VARIABLES} variables")


def _check_data(content: bytes, matrix: Matrix, order: str) -> None:
    """Refuses the data element of a plain array if its type or size is not what the array declares."""
    kind, size = struct.unpack(f"{order}II", content[:8].ljust(8, b"\x00"))
    room = len(content) - 8
    if kind >> 16:
        kind, size, room = kind & 0xFFFF, kind >> 16, 4
    text = matrix.kind == "char"
    fits = kind in _STORED_TEXT if text else kind in _STORED and _STORED[kind] * matrix.count == size
    if not fits or size > room:
        raise WalkError(f"an array of {matrix.shape} with {size} bytes of type {kind} in {len(content)}")


def _padded(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % 8)


def _text(raw: bytes) -> str:
    return raw.split(b"\x00")[0].decode("latin-1")
