"""Broken and hostile forms of an object, made from a good one with scipy, h5py, struct and zipfile.

``mutants`` looks at the first bytes to know the format. Each form is made only when it is asked for. Nothing here reads
with, or imports, the platform.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

BOMB_BYTES = 3 * 2**30
_MIB = 2**20


@dataclass(frozen=True)
class Mutant:
    """One form of an object.

    Attributes:
        name: Unique for the object.
        make: Its bytes.
        reported: A reader must say something about it, whatever else it does.
        loose: Values may change without anybody being able to know; which trials there are may not.
        heavy: Among many of its kind: for the long tests.
    """

    name: str
    make: Callable[[], bytes]
    reported: bool = False
    loose: bool = False
    heavy: bool = False


def mutants(good: bytes, canary: Path, secret: Path, strangers: dict[str, bytes]) -> Iterator[Mutant]:
    """Every form this module knows of an object.

    Args:
        good: The object as the simulator wrote it.
        canary: A file that exists only if something was executed.
        secret: A file outside the copy that nothing may read.
        strangers: Objects of other corpora.
    """
    yield from _cut(good)
    yield from _flipped(good)
    for name, content in strangers.items():
        if content != good:
            other = content[:8] != good[:8]
            yield Mutant(f"a file of {name}", lambda content=content: content, reported=True, heavy=other)
    yield from _code(canary, heavy=not good.startswith(b"\x80"))
    if good.startswith(b"MATLAB 5.0"):
        yield from _matlab5(good)
    elif good.startswith((b"MATLAB 7.3", b"\x89HDF")):
        yield from _hdf5(good, secret)
    elif good.startswith(b"\x80"):
        yield from _pickles(good, canary)
    elif good.startswith(b"\xffBIOSEMI"):
        yield from _bdf(good)
    elif good.startswith(b"Version 3"):
        yield from _cnt(good)
    elif good.startswith(b"PK"):
        yield from _workbook(good, secret)
    elif good.lstrip().startswith(b"<"):
        yield from _xml(good, secret)
    else:
        yield from _text(good)


def _cut(good: bytes) -> Iterator[Mutant]:
    for percent in (0, 1, 10, 50, 90, 99):
        length = len(good) * percent // 100
        yield Mutant(f"cut at {percent} %", lambda length=length: good[:length], reported=percent < 1)
    yield Mutant("the first 128 bytes", lambda: good[:128], reported=len(good) > 128)
    yield Mutant("zeros", lambda: bytes(len(good)), reported=True)
    yield Mutant("noise", lambda: np.random.default_rng(0).bytes(min(len(good), _MIB)), reported=True)
    yield Mutant("noise after 128 bytes", lambda: good[:128] + np.random.default_rng(1).bytes(min(len(good), _MIB)))
    yield Mutant("twice", lambda: good + good, loose=True)


def _flipped(good: bytes) -> Iterator[Mutant]:
    rng = np.random.default_rng(len(good))

    def flip(places: list[int], bits: list[int]) -> bytes:
        content = bytearray(good)
        for place, bit in zip(places, bits, strict=True):
            content[place] ^= bit
        return bytes(content)

    for where, low, high, times in (("header", 0, 600, 60), ("middle", 0.3, 0.7, 20), ("end", 0.98, 1, 10)):
        start, stop = (int(edge * len(good)) if where != "header" else edge for edge in (low, high))
        for n in range(times):
            places = rng.integers(start, max(start + 1, min(stop, len(good))), size=1 + n % 4).tolist()
            bits = rng.integers(1, 256, size=len(places)).tolist()
            yield Mutant(
                f"{where} flipped, {places}",
                lambda places=places, bits=bits: flip(places, bits),
                loose=True,
                heavy=n >= (6 if where == "header" else 2),
            )


def _call(module: str, name: str, *arguments: Any, key: str | None = None) -> bytes:
    """A pickle (protocol 2) that calls something, alone or as a value of a dict."""
    packed = b"".join(pickle.dumps(argument, 2)[2:-1] for argument in arguments)
    body = f"c{module}\n{name}\n".encode() + b"(" + packed + b"tR"
    if key is not None:
        body = b"}" + pickle.dumps(key, 2)[2:-1] + body + b"s"
    return b"\x80\x02" + body + b"."


def _code(canary: Path, *, heavy: bool) -> Iterator[Mutant]:
    """Pickles that would run something, for readers of every format."""
    path = str(canary)
    calls: dict[str, tuple[Any, ...]] = {
        "os.system": ("posix", "system", f"touch {path}"),
        "subprocess": ("subprocess", "check_output", ["touch", path]),
        "exec": ("builtins", "exec", f"open({path!r}, 'w')"),
        "open": ("builtins", "open", path, "w"),
        "numpy.savetxt": ("numpy", "savetxt", path, [1]),
        "numpy.memmap": ("numpy", "memmap", path, "uint8", "w+", 0, (4,)),
        "numpy.testing": ("numpy.testing._private.utils", "runstring", f"open({path!r}, 'w')", {}),
        "numpy.f2py": ("numpy.f2py.crackfortran", "myeval", f"open({path!r}, 'w')"),
        "ten gigabytes": ("numpy", "zeros", 10 * 2**30),
        "ten gigabytes of bytes": ("builtins", "bytearray", 10 * 2**30),
        "ten gigabytes by a reconstruct": ("numpy.core.multiarray", "_reconstruct", float, (10 * 2**30,), b"d"),
        "numpy.fromfile": ("numpy", "fromfile", "/dev/zero", "uint8"),
        "copyreg": ("copyreg", "_reconstructor", float, object, None),
    }
    for name, (module, function, *arguments) in calls.items():
        for key in (None, "data"):
            content = _call(module, function, *arguments, key=key)
            yield Mutant(
                f"pickle of {name}, key {key}",
                lambda content=content: content,
                reported=True,
                heavy=heavy and (key is None or name != "os.system"),
            )


# MATLAB 5


def _save(variables: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables)
    return buffer.getvalue()


def _load(content: bytes) -> dict[str, Any]:
    loaded = scipy.io.loadmat(io.BytesIO(content))
    return {name: value for name, value in loaded.items() if not name.startswith("__")}


Place = tuple[tuple[Any, ...], np.ndarray[Any, Any]]


def _leaves(value: Any, path: tuple[Any, ...]) -> Iterator[Place]:
    """The arrays of numbers among variables, in cells and in structs, with the way there."""
    if isinstance(value, dict):
        for name, variable in value.items():
            yield from _leaves(variable, (*path, name))
    elif isinstance(value, np.ndarray) and value.dtype.names:
        for index in np.ndindex(value.shape):
            for name in value.dtype.names:
                yield from _leaves(value[index][name], (*path, index, name))
    elif isinstance(value, np.ndarray) and value.dtype == object:
        for index in np.ndindex(value.shape):
            yield from _leaves(value[index], (*path, index))
    elif isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        yield path, value


def _replaced(content: bytes, path: tuple[Any, ...], value: Any) -> bytes:
    """The file with one array exchanged; None removes it, where it is a variable."""
    variables = _load(content)
    holder: Any = variables
    for step in path[:-1]:
        holder = holder[step]
    if value is None:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return _save(variables)


def _edits(array: np.ndarray[Any, Any]) -> dict[str, tuple[Any, bool]]:
    """What is put in an array's place, and whether values may then differ unnoticed."""
    cell = np.empty((1, 1), dtype=object)
    cell[0, 0] = array
    small = array.size <= 100
    edits: dict[str, tuple[Any, bool]] = {
        "empty": (np.zeros((0, 0)), False),
        "text": ("hello", False),
        "a cell": (cell, False),
        "a struct": ({"a": array}, False),
        "complex": (array + 1j, False),
        "logical": (array > 0, small),
        "int8": (np.clip(array, -100, 100).astype(np.int8), False),
        "single": (array.astype(np.float32), True),
        "turned": (np.ascontiguousarray(array.T), False),
        "of three dimensions": (np.stack([array, array], axis=-1), False),
        "a row short": (array[:-1], array.shape[0] > array.shape[1]),
        "a column short": (array[:, :-1], array.shape[0] < array.shape[1]),
        "one row": (array[:1], False),
        "one number": (array[:1, :1], False),
        "sparse": (scipy.sparse.csc_matrix(array.astype(float)), False),
    }
    values = array.astype(np.float64)
    for name, number in (("nan", np.nan), ("infinite", np.inf), ("99", 99.0), ("-1", -1.0), ("1e300", 1e300)):
        changed = values.copy()
        changed[0, -1] = number
        edits[f"{name} in a corner"] = (changed, name in ("99", "-1", "1e300") and array.size > 100)
    edits["all nan"] = (np.full_like(values, np.nan), False)
    constant = values.copy()
    if array.size > 100:
        constant[(0, slice(None)) if array.shape[0] < array.shape[1] else (slice(None), 0)] = 7.0
        edits["a constant channel"] = (constant, False)
    return edits


def _matlab5(good: bytes) -> Iterator[Mutant]:
    variables = _load(good)
    leaves = list(_leaves(variables, ()))
    largest = sorted(leaves, key=lambda place: -place[1].size)
    smallest = [place for place in leaves if place[1].size <= 100]
    chosen = [largest[0], largest[-1], *smallest[:2], *smallest[-2:], leaves[0]]
    for n, (path, array) in enumerate({place[0]: place for place in chosen}.values()):
        if array.ndim != 2 or array.size == 0:
            continue
        label = "/".join(str(step) for step in path)
        for name, (value, loose) in _edits(array).items():
            yield Mutant(
                f"{label} {name}",
                lambda path=path, value=value: _replaced(good, path, value),
                loose=loose or (name == "a constant channel" and "baseline" in path),
                heavy=n >= 2,
            )
    for name in list(variables)[:3]:
        yield Mutant(f"without {name}", lambda name=name: _save({k: v for k, v in variables.items() if k != name}))
    yield Mutant("no variables", lambda: _save({}), reported=True)
    yield Mutant("written anew", lambda: _save(variables))
    yield Mutant("backwards", lambda: _save(dict(reversed(variables.items()))))
    yield Mutant("compressed", lambda: _compressed(variables))
    names = list(variables)
    for name in dict.fromkeys([names[0], names[-1], "junk"]):
        rest = {k: v for k, v in variables.items() if k != name}
        for kind, element in _elements(name).items():
            yield Mutant(
                f"{name} {kind}",
                lambda rest=rest, element=element: _save(rest) + element(),
                heavy=name != names[0] and (name != "junk" or not kind.startswith(("a bomb", "nested"))),
            )
            yield Mutant(
                f"{name} {kind}, first",
                lambda rest=rest, element=element: good[:128] + element() + _save(rest)[128:],
                heavy=True,
            )
    body = good[128:]
    yield Mutant("every variable twice", lambda: good + body)
    yield Mutant("100,000 variables", lambda: good + _matrix("x", 6, (1, 1), bytes(8)) * 100_000)
    yield Mutant("big-endian mark", lambda: good[:126] + b"MI" + body)
    yield Mutant("version 4", lambda: struct.pack("<5i", 0, 2**15, 2**15, 0, 2) + b"x\0" + body)


def _compressed(variables: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, do_compression=True)
    return buffer.getvalue()


def _tagged(kind: int, content: bytes, n_bytes: int | None = None) -> bytes:
    """A MATLAB 5 data element; ``n_bytes`` is what it claims to hold."""
    return struct.pack("<II", kind, len(content) if n_bytes is None else n_bytes) + content + bytes(-len(content) % 8)


def _matrix(
    name: str, cls: int, dims: tuple[int, ...], content: bytes, n_bytes: int | None = None, number: int = 9
) -> bytes:
    """A miMATRIX element. ``number`` 9 is miDOUBLE."""
    parts = _tagged(6, struct.pack("<II", cls, 0)) + _tagged(5, struct.pack(f"<{len(dims)}i", *dims))
    parts += _tagged(1, name.encode()) + (_tagged(number, content, n_bytes) if content or n_bytes else b"")
    return _tagged(14, parts)


def _bomb(head: bytes, n_zeros: int) -> bytes:
    """zlib stream of ``head`` and then zeros: blocks of a megabyte repeat, as each ends in a full flush."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(_MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    end = packer.flush()
    check = zlib.adler32(head)
    low, high = check & 0xFFFF, check >> 16
    blocks = n_zeros // _MIB
    high = (high + low * blocks * _MIB) % 65521
    return b"\x78\xda" + start + block * blocks + end + struct.pack(">I", high << 16 | low)


def _elements(name: str) -> dict[str, Callable[[], bytes]]:
    """A variable of this name that lies about itself."""

    def packed(dims: tuple[int, ...], claim: int, zeros: int) -> bytes:
        return _packed(_bomb(_head_of(name, dims, claim), zeros))

    def nested(depth: int) -> bytes:
        inner = _matrix("", 6, (1, 1), bytes(8))
        heads, length = [], len(inner)
        for label in [*[""] * depth, name]:
            heads.append(_cell_head(label, length))
            length += len(heads[-1])
        return b"".join(reversed(heads)) + inner

    huge = 2**31 - 1
    return {
        "claims a huge shape": lambda: _matrix(name, 6, (huge, huge), bytes(64)),
        "claims a shape below zero": lambda: _matrix(name, 6, (-4, -5), bytes(160)),
        "claims 400 dimensions": lambda: _matrix(name, 6, (1,) * 400, bytes(8)),
        "claims more bytes than there are": lambda: _matrix(name, 6, (62, 1000), bytes(64), n_bytes=2**31 - 8),
        "of few bytes for its shape": lambda: _matrix(name, 6, (62, 1000), bytes(64)),
        "of many bytes for its shape": lambda: _matrix(name, 6, (1, 1), bytes(_MIB)),
        "a bomb of its true size": lambda: packed((62, BOMB_BYTES // 62 // 8), 2**31 - 8, BOMB_BYTES),
        "a bomb of a small shape": lambda: packed((62, 1000), 2**31 - 8, BOMB_BYTES),
        "a bomb of text": lambda: _packed(_bomb(_head_of(name, (1, 2**30), 2**31 - 8, cls=4, number=4), BOMB_BYTES)),
        "a bomb as name": lambda: _packed(
            _bomb(_tagged(14, b"", 2**31) + _tagged(6, bytes(8)) + _tagged(5, bytes(8)) + _tagged(1, b"", 2**30), 2**30)
        ),
        "nested 500 times": lambda: nested(500),
        "nested 20,000 times": lambda: nested(20_000),
        "a function": lambda: _matrix(name, 16, (1, 1), bytes(64)),
        "an opaque object": lambda: _matrix(name, 17, (1, 1), bytes(64)),
        "an object": lambda: _matrix(name, 3, (1, 1), bytes(64)),
        "a sparse that lies": lambda: _matrix(name, 5, (huge, huge), bytes(64), number=5),
        "a cell of a billion": lambda: _tagged(
            14,
            _tagged(6, struct.pack("<II", 1, 0)) + _tagged(5, struct.pack("<2i", 1, 10**9)) + _tagged(1, name.encode()),
        ),
        "a struct of a billion": lambda: _tagged(
            14,
            _tagged(6, struct.pack("<II", 2, 0))
            + _tagged(5, struct.pack("<2i", 1, 10**9))
            + _tagged(1, name.encode())
            + struct.pack("<HHi", 5, 4, 8)
            + _tagged(1, b"a".ljust(8, b"\0")),
        ),
        "of unknown numbers": lambda: _matrix(name, 6, (62, 1000), bytes(8 * 62_000), number=77),
        "of an unknown class": lambda: _matrix(name, 99, (1, 1), bytes(8)),
    }


def _head_of(name: str, dims: tuple[int, ...], claim: int, cls: int = 6, number: int = 9) -> bytes:
    """Everything of a matrix up to its numbers."""
    parts = _tagged(6, struct.pack("<II", cls, 0)) + _tagged(5, struct.pack(f"<{len(dims)}i", *dims))
    parts += _tagged(1, name.encode()) + struct.pack("<II", number, claim)
    return struct.pack("<II", 14, min(2**32 - 1, len(parts) + claim)) + parts


def _packed(stream: bytes) -> bytes:
    return struct.pack("<II", 15, len(stream)) + stream


def _cell_head(name: str, content: int) -> bytes:
    """A cell of one element up to that element, which has so many bytes."""
    parts = _tagged(6, struct.pack("<II", 1, 0)) + _tagged(5, struct.pack("<2i", 1, 1)) + _tagged(1, name.encode())
    return struct.pack("<II", 14, len(parts) + content) + parts


# HDF5


def _hdf5(good: bytes, secret: Path) -> Iterator[Mutant]:
    with h5py.File(io.BytesIO(good), "r") as file:
        name = next(iter(file))
        values = file[name][()]
    head = good[: good.index(b"\x89HDF")]
    with h5py.File(secret, "w") as file:  # whatever follows a link finds samples there
        file.create_dataset(name, data=values + 1)
        offset = file[name].id.get_offset()

    def build(fill: Callable[[h5py.File], None]) -> bytes:
        buffer = io.BytesIO()
        with h5py.File(buffer, "w", userblock_size=len(head) or 0) as file:
            fill(file)
        return head + buffer.getvalue()[len(head) :]

    def put(value: Any, **options: Any) -> Callable[[], bytes]:
        return lambda: build(lambda file: file.create_dataset(name, data=value, **options))

    samples = values.copy()
    samples[0, 5, 3] = np.nan
    flat = values.copy()
    flat[-1, :, 0] = 3.0
    for label, value in {
        "nan": samples,
        "a constant channel": flat,
        "float64": values.astype("f8"),
        "int32": values.astype("i4"),
        "big-endian": values.astype(">f4"),
        "complex": values.astype("c8"),
        "text": np.array([b"x" * 100] * 10),
        "turned": values.T,
        "a segment short": values[:-1],
        "a channel short": values[..., :-1],
        "empty": values[:0],
        "a number": np.float32(1),
    }.items():
        yield Mutant(f"{name} {label}", put(value), reported=True)
    yield Mutant("another name", lambda: build(lambda file: file.create_dataset("other", data=values)), reported=True)
    yield Mutant("no variable", lambda: build(lambda file: None), reported=True)
    for label, options in {
        "gzip 9": {"compression": "gzip", "compression_opts": 9},
        "shuffled": {"compression": "gzip", "shuffle": True},
        "lzf": {"compression": "lzf"},
        "checked": {"fletcher32": True},
    }.items():
        yield Mutant(f"stored as {label}", put(values, **options))

    def external(file: h5py.File) -> None:
        file.create_dataset(name, values.shape, values.dtype, external=[(str(secret), offset, values.nbytes)])

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout(values.shape, values.dtype)
        layout[:] = h5py.VirtualSource(str(secret), name, values.shape)
        file.create_virtual_dataset(name, layout)

    def linked(file: h5py.File) -> None:
        file[name] = h5py.ExternalLink(str(secret), f"/{name}")

    def soft(file: h5py.File) -> None:
        file[name] = h5py.SoftLink(f"/{name}")

    def loop(file: h5py.File) -> None:
        file[name] = file["/"]

    def huge(file: h5py.File) -> None:
        file.create_dataset(name, (2**20, 2**20, 14), "f4", chunks=(1, 96, 14))

    def wide(file: h5py.File) -> None:
        room = (values.shape[0], 2**21, values.shape[2])
        options = {"maxshape": (None, None, None), "compression": "gzip"}
        file.create_dataset(name, values.shape, "f4", chunks=room, fillvalue=1, **options)
        # A chunk of 1.3 GB, of which the data set is a corner.
        file[name].id.write_direct_chunk((0, 0, 0), _bomb(b"", 4 * room[0] * room[1] * room[2]))

    def bomb(file: h5py.File) -> None:
        file.create_dataset(name, values.shape, "f4", chunks=values.shape, compression="gzip")
        file[name].id.write_direct_chunk((0, 0, 0), _bomb(b"", BOMB_BYTES))

    def twice(file: h5py.File) -> None:
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk(values.shape)
        settings.set_deflate(1)
        settings.set_deflate(1)
        space = h5py.h5s.create_simple(values.shape)
        data = h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F32LE, space, settings)
        inner = zlib.compress(_bomb(b"", BOMB_BYTES), 9)
        data.write_direct_chunk((0, 0, 0), inner)

    def crowd(file: h5py.File) -> None:
        for n in range(3000):
            file.create_group(f"g{n}")

    builds = (external, virtual, linked, soft, loop, huge, wide, bomb, twice, crowd)
    for fill in builds:
        yield Mutant(f"{name} {fill.__name__}", lambda fill=fill: build(fill), reported=True)


# Pickles


def _pickles(good: bytes, canary: Path) -> Iterator[Mutant]:
    loaded = pickle.loads(good, encoding="latin1")
    arrays = loaded if isinstance(loaded, dict) else {"": loaded}

    def dumped(changed: dict[str, Any], protocol: int = 2) -> bytes:
        content = pickle.dumps(changed if isinstance(loaded, dict) else changed[""], protocol)
        return content.replace(b"numpy._core", b"numpy.core") if protocol <= 2 else content

    for protocol in range(6):
        yield Mutant(f"protocol {protocol}", lambda protocol=protocol: dumped(arrays, protocol), heavy=protocol < 2)
    for name, array in arrays.items():
        values = array.copy()
        values.reshape(-1)[5] = np.nan
        flat = array.copy()
        flat.reshape(flat.shape[0], flat.shape[1] if flat.ndim > 2 else 1, -1)[0, 0] = 3.0
        edits: dict[str, Any] = {
            "nan": values,
            "flat": flat if array.ndim == 3 else np.full_like(array, 99.0),
            "float32": array.astype("f4"),
            "big-endian": array.astype(">f8"),
            "objects": array[:1, :1].astype(object),
            "text": array[:1, :1].astype("U8"),
            "complex": array.astype(complex),
            "turned": array.T.copy(),
            "in Fortran's order": np.asfortranarray(array),
            "short": array[:-1].copy(),
            "empty": array[:0].copy(),
            "a list": [1, 2, 3],
            "a dict": {"data": array[:1]},
            "none": None,
        }
        for label, value in edits.items():
            yield Mutant(f"{name} {label}", lambda name=name, value=value: dumped({**arrays, name: value}))
        if name:
            rest = {key: value for key, value in arrays.items() if key != name}
            yield Mutant(f"without {name}", lambda rest=rest: dumped(rest), reported=True)
    for length in (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff"):
        yield Mutant(
            f"a string of {length.hex()}", lambda length=length: b"\x80\x02}U\x04dataT" + length, reported=True
        )
    yield Mutant("a memo of two billion", lambda: b"\x80\x02]r\xff\xff\xff\x7f.", reported=True)
    yield Mutant("a line of 30 MB", lambda: b"\x80\x02c" + b"a" * 30_000_000, reported=True)
    yield Mutant(
        "a number of 3 MB", lambda: b"\x80\x02\x8b" + struct.pack("<i", 3_000_000) + b"\xff" * 3_000_000 + b"."
    )
    yield Mutant("tuples in tuples", lambda: b"\x80\x02)" + b"\x85" * 2_000_000 + b".", reported=True)
    yield Mutant("lists in lists", lambda: b"\x80\x02" + b"]" * 3_000_000 + b"a" * 2_999_999 + b".", reported=True)
    yield Mutant(
        "a doubling text", lambda: b"\x80\x02(" + b"X\x04\0\0\0aaaaq\0" + b"h\0" * 3_000_000 + b"t.", reported=True
    )
    shape = b"(" + b"J\xff\xff\xff\x7f" * 3 + b"t"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R(K\x01" + shape
    array += (
        b"cnumpy\ndtype\nU\x02f8K\0K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89U\x08abcdefghtb"
    )
    yield Mutant("a shape that lies", lambda: b"\x80\x02}U\x04data" + array + b"s.", reported=True)
    attack = _call("posix", "system", f"touch {canary}", key="labels")
    yield Mutant("code after the arrays", lambda: good[:-1] + attack[2:], reported=True)
    yield Mutant("code after the end", lambda: good + attack)


# BioSemi and Neuroscan


def _bdf(good: bytes) -> Iterator[Mutant]:
    signals = int(good[252:256])
    fields = {"header bytes": (184, 8), "records": (236, 8), "seconds": (244, 8), "signals": (252, 4)}
    at = 256
    widths = {
        "label": 16,
        "transducer": 80,
        "unit": 8,
        "low": 8,
        "high": 8,
        "least": 8,
        "most": 8,
        "filter": 80,
        "n": 8,
    }
    for name, width in widths.items():
        fields[f"first {name}"] = (at, width)
        fields[f"last {name}"] = (at + (signals - 1) * width, width)
        at += signals * width
    plain = ("header bytes", "records", "seconds", "signals", "first low", "first least", "first n")
    for name, (start, width) in fields.items():
        for text in ("", "0", "-1", "9" * width, "nan", "1e99", "\xff\xfe", "x"):
            content = text.encode("latin-1")[:width].ljust(width)
            yield Mutant(
                f"{name} {text!r}",
                lambda start=start, width=width, content=content: good[:start] + content + good[start + width :],
                loose=True,
                heavy=name not in plain or text in ("", "x", "\xff\xfe", "1e99"),
            )
    body = 256 * (signals + 1)
    yield Mutant("no samples", lambda: good[:body], reported=True)
    yield Mutant("samples of zero", lambda: good[:body] + bytes(len(good) - body), reported=True)
    yield Mutant("a record short", lambda: good[: len(good) - (len(good) - body) // int(good[236:244])], reported=True)
    yield Mutant("three bytes short", lambda: good[:-3], reported=True)
    yield Mutant("three bytes more", lambda: good + b"abc")
    yield Mutant("as EDF", lambda: b"0       " + good[8:], reported=True)


def _cnt(good: bytes) -> Iterator[Mutant]:
    fields = {"electrodes": (370, "<H"), "rate": (376, "<H"), "samples": (864, "<i"), "events": (886, "<i")}
    fields |= {"continuous type": (882, "<B"), "next file": (12, "<i"), "block": (894, "<i")}
    fields |= {"sensitivity": (900 + 59, "<f"), "calibration": (900 + 71, "<f"), "baseline": (900 + 47, "<h")}
    for name, (start, form) in fields.items():
        size = struct.calcsize(form)
        for bits in (
            b"\0" * size,
            b"\xff" * size,
            b"\xff" * (size - 1) + b"\x7f",
            b"\x01" + b"\0" * (size - 1),
            b"\0\x40\0\0"[:size],
        ):
            yield Mutant(
                f"{name} {bits.hex()}",
                lambda start=start, size=size, bits=bits: good[:start] + bits + good[start + size :],
                loose=True,
            )
    electrodes = struct.unpack_from("<H", good, 370)[0]
    yield Mutant("a name twice", lambda: good[:975] + good[900:910] + good[985:], reported=True)
    yield Mutant("a name unknown", lambda: good[:900] + b"XX99\0\0\0\0\0\0" + good[910:], reported=True)
    yield Mutant("only a header", lambda: good[: 900 + 75 * electrodes], reported=True)
    events = struct.unpack_from("<i", good, 886)[0]
    for kind in (0, 1, 2, 3, 255):
        lie = struct.pack("<Bii", kind, 2**31 - 1, 2**31 - 1)
        yield Mutant(
            f"an event table of type {kind}", lambda lie=lie: good[:events] + lie + good[events + 9 :], loose=True
        )


# Text, XML, workbooks


def _xml(good: bytes, secret: Path) -> Iterator[Mutant]:
    text = good.decode()
    declaration, _, rest = text.partition("?>")
    root = re.match(r"\s*<(\w+)", rest)
    assert root is not None

    def with_doctype(doctype: str, body: str = rest) -> bytes:
        return f"{declaration}?>\n<!DOCTYPE {root[1]} [{doctype}]>{body}".encode()

    laughs = '<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    attributes = re.findall(r'\s(\w+)="([^"]*)"', rest.partition(">")[0])
    name, value = attributes[-1]
    for label, entity in {
        "a billion laughs": laughs,
        "an external entity": f'<!ENTITY a11 SYSTEM "file://{secret}">',
        "an entity from the network": '<!ENTITY a11 SYSTEM "http://127.0.0.1:9/x">',
        "a parameter entity": f'<!ENTITY % p SYSTEM "file://{secret}"> %p;<!ENTITY a11 "5">',
        "a quadratic one": f'<!ENTITY a11 "{"x" * 50_000}">',
    }.items():
        many = "&a11;" * (20_000 if label == "a quadratic one" else 1)
        inner = rest.replace(f'{name}="{value}"', f'{name}="{value}{many if "external" not in label else ""}"', 1)
        inner = re.sub(r"(?<!/)>", f">{many}", inner, count=1)
        yield Mutant(label, lambda entity=entity, inner=inner: with_doctype(entity, inner), reported=True)
    outside = f'<!DOCTYPE {root[1]} SYSTEM "file://{secret}">'
    yield Mutant("an external document type", lambda: f"{declaration}?>{outside}{rest}".encode(), reported=True)
    yield Mutant("100,000 elements deep", lambda: f"{declaration}?>{'<a>' * 100_000}".encode(), reported=True)
    yield Mutant(
        "100,000 attributes",
        lambda: (declaration + "?><" + root[1] + " " + " ".join(f'a{n}="1"' for n in range(100_000)) + "/>").encode(),
        reported=True,
    )
    yield Mutant("as UTF-16", lambda: text.replace("UTF-8", "UTF-16").encode("utf-16"))
    yield Mutant("in no known encoding", lambda: good.replace(b"UTF-8", b"UTF-99"))
    for attribute, was in attributes:
        for new in (None, "", "nan", "99", "-1", "1e999", "9" * 5000, "\u0663", "true"):
            old = f' {attribute}="{was}"'
            changed = rest.replace(old, "" if new is None else f' {attribute}="{new}"', 1)
            yield Mutant(
                f"{attribute} {'gone' if new is None else new[:8]!r}",
                lambda changed=changed: f"{declaration}?>{changed}".encode(),
                loose=True,
                heavy=new not in (None, "nan"),
            )


def _text(good: bytes) -> Iterator[Mutant]:
    yield Mutant("NUL bytes", lambda: good.replace(b",", b"\0"))
    yield Mutant("as UTF-16", lambda: good.decode().encode("utf-16"))
    yield Mutant("with a byte order mark", lambda: b"\xef\xbb\xbf" + good)
    yield Mutant("an endless line", lambda: good + b"x" * 5_000_000)
    yield Mutant("an endless quote", lambda: b'"' + good * 3)
    yield Mutant("only commas", lambda: b"," * 1_000_000)
    yield Mutant("only brackets", lambda: b"[" * 500_000)
    yield Mutant("only digits", lambda: b"1" * 500_000)
    yield Mutant("only spaces", lambda: b" " * 500_000)
    yield Mutant("a million lines", lambda: good.splitlines()[0] + b"\n" + (good.splitlines()[-1] + b"\n") * 300_000)
    yield Mutant("beyond what is read", lambda: good + b"\n" * (17 * _MIB))
    for length in (8, 16, 24, len(good) // 3, len(good) // 2):
        yield Mutant(
            f"its first {length} bytes again and again", lambda length=length: good[:length] * (900_000 // length)
        )
    numbers = [match.span() for match in re.finditer(rb"\d+", good)]
    for start, stop in (numbers[0], numbers[len(numbers) // 2], numbers[-1]):
        for text in (b"", b"nan", b"99", b"-1", b"1e999", b"9" * 5000, b"x", b"0x10", b"1_0"):
            yield Mutant(
                f"{text[:8]!r} for the number at {start}",
                lambda start=start, stop=stop, text=text: good[:start] + text + good[stop:],
            )


def _workbook(good: bytes, secret: Path) -> Iterator[Mutant]:
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    sheet = next(name for name in parts if re.search(r"worksheets/sheet1?\.xml", name))

    def pack(changes: dict[str, bytes]) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in {**parts, **changes}.items():
                archive.writestr(name, content)
        return buffer.getvalue()

    def bomb(name: str) -> bytes:
        """A part that unpacks to gigabytes of blanks, written straight into the archive."""
        start = parts.get(name, b"<a>")
        cut = start.index(b">", start.index(b"?>") + 2 if b"?>" in start else 0) + 1
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        head = packer.compress(start[:cut]) + packer.flush(zlib.Z_FULL_FLUSH)
        block = packer.compress(b" " * _MIB) + packer.flush(zlib.Z_FULL_FLUSH)
        blocks = BOMB_BYTES // _MIB
        packed = head + block * blocks + packer.compress(start[cut:]) + packer.flush()
        marker = b"the bomb goes here"
        shell = pack({name: marker})
        # The stored part is exchanged, and its sizes in both directories of the archive.
        with zipfile.ZipFile(io.BytesIO(shell)) as archive:
            info = archive.getinfo(name)
        data_at = info.header_offset + 30 + len(name)
        content = bytearray(shell[:data_at] + packed + shell[data_at + info.compress_size :])
        grown = len(packed) - info.compress_size
        struct.pack_into("<II", content, info.header_offset + 18, len(packed), len(start) + BOMB_BYTES)
        entry = content.index(b"PK\x01\x02")
        while entry >= 0:
            length = struct.unpack_from("<H", content, entry + 28)[0]
            if content[entry + 46 : entry + 46 + length] == name.encode():
                struct.pack_into("<II", content, entry + 20, len(packed), len(start) + BOMB_BYTES)
            elif (offset := struct.unpack_from("<I", content, entry + 42)[0]) > info.header_offset:
                struct.pack_into("<I", content, entry + 42, offset + grown)
            entry = content.find(b"PK\x01\x02", entry + 4)
        end = content.rindex(b"PK\x05\x06")
        struct.pack_into("<I", content, end + 16, struct.unpack_from("<I", content, end + 16)[0] + grown)
        return bytes(content)

    laughs = '<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    for name in (sheet, "xl/sharedStrings.xml", "xl/workbook.xml", "xl/styles.xml"):
        yield Mutant(f"a bomb in {name}", lambda name=name: bomb(name))
    for label, doctype in {"laughs": laughs, "outside": f'<!ENTITY a11 SYSTEM "file://{secret}">'}.items():
        for name in (sheet, "xl/sharedStrings.xml"):
            if name in parts:
                content = parts[name]
                cut = content.index(b"?>") + 2 if b"?>" in content else 0
                evil = (
                    content[:cut]
                    + f"<!DOCTYPE x [{doctype}]>".encode()
                    + content[cut:].replace(b"<v>", b"<v>&a11;").replace(b"<t>", b"<t>&a11;")
                )
                yield Mutant(f"{label} in {name}", lambda name=name, evil=evil: pack({name: evil}), reported=True)
    content = parts[sheet]
    far = content.replace(b"</sheetData>", b'<row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>')
    yield Mutant("a cell at the far end", lambda: pack({sheet: far}))
    wide = re.sub(rb'<dimension ref="[^"]*"', b'<dimension ref="A1:XFD1048576"', content)
    yield Mutant("a dimension that lies", lambda: pack({sheet: wide}))
    yield Mutant("no cells", lambda: pack({sheet: re.sub(rb"<row.*</row>", b"", content, flags=re.DOTALL)}))
    yield Mutant("no sheet", lambda: pack({sheet: b""}))
    yield Mutant(
        "200,000 rows",
        lambda: pack(
            {sheet: content.replace(b"</sheetData>", b"<row><c><v>1</v></c></row>" * 200_000 + b"</sheetData>")}
        ),
    )
    yield Mutant("a zip of nothing", lambda: b"PK\x05\x06" + bytes(18), reported=True)
    if "xl/sharedStrings.xml" in parts:
        strings = parts["xl/sharedStrings.xml"]
        yield Mutant(
            "no strings", lambda: pack({"xl/sharedStrings.xml": re.sub(rb"<si>.*</si>", b"", strings, flags=re.DOTALL)})
        )


def special(path: Path, outside: Path, *, recording: bool) -> dict[str, tuple[Callable[[], None], bool]]:
    """What can stand in a file's place without being one: how to put it there, and whether it must be reported.

    Args:
        path: The file; gone when these are called.
        outside: A good file of the same name outside the copy.
        recording: A table that is a link to nothing is one that is not there.
    """

    def folder() -> None:
        path.mkdir()

    def folder_with_file() -> None:
        path.mkdir()
        (path / path.name).write_bytes(b"x")

    def link(target: str | Path) -> Callable[[], None]:
        return lambda: os.symlink(target, path)

    def inside() -> None:
        kept = path.with_name("kept")
        kept.write_bytes(outside.read_bytes())
        os.symlink(kept.name, path)

    return {
        "a folder": (folder, True),
        "a folder with a file": (folder_with_file, True),
        "a link out of the copy": (link(outside), True),
        "a link out of the copy and back": (link(f"../../../../../../../../../../..{outside}"), True),
        "a link to nothing": (link("nowhere"), recording),
        "a link to itself": (link(path.name), recording),
        "a link to the folder above": (link(".."), True),
        "a link to a device": (link("/dev/zero"), True),
        "a pipe": (lambda: os.mkfifo(path), True),
        "a link inside the copy": (inside, False),
    }
