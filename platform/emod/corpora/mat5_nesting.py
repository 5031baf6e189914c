"""How deep arrays lie in arrays in a MATLAB 5 file: SciPy's reader follows them on the machine's stack and crashes.

It decodes nothing and holds one block in memory. What is no MATLAB 5 file is left to whoever opens it next.
"""

from __future__ import annotations

import struct
import zlib
from typing import IO, Protocol

__all__ = ["MAX_NESTING", "nests_too_deep"]

MAX_NESTING = 64
"""Cells and structs within each other that are plausible; SciPy survives some thousands."""

_HEADER = 128
_BLOCK = 1 << 18
_MATRIX, _COMPRESSED = 14, 15


class _Bytes(Protocol):
    def read(self, n: int, /) -> bytes: ...
    def skip(self, n: int, /) -> None: ...


def nests_too_deep(stream: IO[bytes]) -> bool:
    """Whether some array of a file lies more than `MAX_NESTING` deep in others.

    Args:
        stream: Seekable.
    """
    end = stream.seek(0, 2)
    stream.seek(0)
    order = {b"IM": "<", b"MI": ">"}.get(stream.read(_HEADER)[126:])
    offset = _HEADER
    while order and offset + 8 <= end:
        stream.seek(offset)
        kind, size = struct.unpack(f"{order}II", stream.read(8))
        offset += 8
        try:
            if kind == _COMPRESSED:
                inflated = _Inflated(stream, size)
                kind, inside = struct.unpack(f"{order}II", inflated.read(8))
                too_deep = kind == _MATRIX and _is_deep(inflated, inside, order)
            else:
                too_deep = kind == _MATRIX and _is_deep(_Stored(stream), size, order)
        except (EOFError, zlib.error):
            too_deep = False  # it ends too early, and whoever opens it says so
        if too_deep:
            return True
        offset += size
    return False


def _is_deep(content: _Bytes, size: int, order: str) -> bool:
    """Whether an array of so many bytes holds others too deep."""
    ends, position = [size], 0
    while ends:
        if position >= ends[-1]:
            ends.pop()
            continue
        kind, n = struct.unpack(f"{order}II", content.read(8))
        position += 8
        if kind >> 16:
            continue  # its data stand in the tag
        if kind == _MATRIX:
            ends.append(position + n)
            if len(ends) > MAX_NESTING:
                return True
        else:
            n += -n % 8
            content.skip(n)
            position += n
    return False


class _Stored:
    """Bytes as they stand in the file."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, n: int) -> bytes:
        found = self._stream.read(n)
        if len(found) < n:
            raise EOFError
        return found

    def skip(self, n: int) -> None:
        self._stream.seek(n, 1)


class _Inflated:
    """Bytes of a deflated stretch of the file."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self._left = size
        self._inflate = zlib.decompressobj()
        self._ready = b""

    def read(self, n: int) -> bytes:
        while len(self._ready) < n:
            self._ready += self._more()
        found, self._ready = self._ready[:n], self._ready[n:]
        return found

    def skip(self, n: int) -> None:
        while len(self._ready) < n:
            n -= len(self._ready)
            self._ready = self._more()
        self._ready = self._ready[n:]

    def _more(self) -> bytes:
        block = self._inflate.unconsumed_tail or self._stream.read(min(_BLOCK, self._left))
        if not block or self._inflate.eof:
            raise EOFError
        if not self._inflate.unconsumed_tail:
            self._left -= len(block)
        return self._inflate.decompress(block, _BLOCK)
