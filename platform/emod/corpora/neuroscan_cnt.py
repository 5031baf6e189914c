"""Neuroscan CNT: a header checked against the object's size, samples by row in blocks, and a writer.

Values are those of mne.io.read_raw_cnt, which a test compares. MNE itself is not used: it opens no file that lost its
event table by being cut short, wants a file on this machine, and copies each block of a file of a gigabyte several
times. Events are not read. It knows no corpus.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

__all__ = ["CntHeader", "read_cnt_header", "read_cnt_samples", "write_cnt"]

# Places in SETUP (900 bytes) and in each ELECTLOC (75 bytes), after the owner's sethead.h.
_SETUP_BYTES, _ELECTRODE_BYTES = 900, 75
_CHANNELS_AT, _RATE_AT, _SAMPLES_AT, _EVENTS_AT, _BLOCK_AT = 370, 376, 864, 886, 894
_PLACE_AT, _BASELINE_AT, _SENSITIVITY_AT, _CALIBRATION_AT = 19, 47, 59, 71
_SCALE = 204.8  # microvolt = (value - baseline) * sensitivity * calibration / 204.8
_MOST_CHANNELS = 512
_MOST_BLOCK = 4096
_BLOCK_BYTES = 16 * 1024**2


@dataclass(frozen=True)
class CntHeader:
    """What a CNT says it holds, and how much of it is there.

    Attributes:
        labels: Of all channels, in file order.
        sfreq_hz: Sampling rate.
        declared: Samples of each channel, as recorded.
        samples: Those of them that are there.
        sample_bytes: 2 or 4.
        doubt: What in the header contradicts itself, or "".
        start: First byte of the samples.
        block: Successive samples of one channel; 1 where channels alternate from sample to sample.
        steps_uv: Microvolt per digital step, by channel.
        baselines: Digital value of 0 microvolt, by channel.
    """

    labels: tuple[str, ...]
    sfreq_hz: float
    declared: int
    samples: int
    sample_bytes: int
    doubt: str
    start: int
    block: int
    steps_uv: tuple[float, ...]
    baselines: tuple[int, ...]


def read_cnt_header(stream: IO[bytes], size_bytes: int) -> CntHeader:
    """Reads the header and nothing else.

    The space between header and event table tells how many samples there are and of how many bytes; where the event
    table lies outside the object, the object was cut short, or the number of samples that is written tells, taken as
    of 32 bits.

    Args:
        stream: At its beginning.
        size_bytes: Of the whole object.

    Raises:
        ValueError: If it is no CNT, or its numbers contradict each other so that nothing can be read.
    """
    setup = stream.read(_SETUP_BYTES)
    if len(setup) < _SETUP_BYTES or not setup.startswith(b"Version 3"):
        raise ValueError(f"no Neuroscan CNT: it begins with {setup[:12]!r}")
    count, rate = struct.unpack_from("<H", setup, _CHANNELS_AT)[0], struct.unpack_from("<H", setup, _RATE_AT)[0]
    written, events = struct.unpack_from("<i", setup, _SAMPLES_AT)[0], struct.unpack_from("<i", setup, _EVENTS_AT)[0]
    block_bytes = struct.unpack_from("<i", setup, _BLOCK_AT)[0]
    if not 1 <= count <= _MOST_CHANNELS or rate == 0:
        raise ValueError(f"{count} channels at {rate} Hz")
    table = stream.read(_ELECTRODE_BYTES * count)
    if len(table) < _ELECTRODE_BYTES * count:
        raise ValueError(f"cut short inside its header, after {_SETUP_BYTES + len(table)} bytes")
    start = _SETUP_BYTES + len(table)
    declared, sample_bytes, doubt = _count_samples(count, written, events - start, size_bytes - start)
    block = max(1, block_bytes // sample_bytes)
    if block > min(_MOST_BLOCK, declared):
        raise ValueError(f"blocks of {block} samples, {declared} in all")
    samples = min(declared, (size_bytes - start) // (count * sample_bytes))
    rows = [table[at : at + _ELECTRODE_BYTES] for at in range(0, len(table), _ELECTRODE_BYTES)]
    names = (row[:10].split(b"\0")[0].strip().decode("latin-1") for row in rows)
    labels = tuple("".join(letter if letter.isprintable() else "?" for letter in name) for name in names)
    steps = tuple(_float(row, _SENSITIVITY_AT) * _float(row, _CALIBRATION_AT) / _SCALE for row in rows)
    return CntHeader(
        labels=labels,
        sfreq_hz=float(rate),
        declared=declared,
        samples=samples // block * block,
        sample_bytes=sample_bytes,
        doubt=doubt,
        start=start,
        block=block,
        steps_uv=steps,
        baselines=tuple(struct.unpack_from("<h", row, _BASELINE_AT)[0] for row in rows),
    )


def read_cnt_samples(stream: IO[bytes], header: CntHeader, rows: Sequence[int]) -> npt.NDArray[np.float32]:
    """Samples of some channels, in the order of ``rows``; beside them one block of 16 MB is held.

    Returns:
        (len(rows), header.samples) microvolt. A float32 is exact to 2^-24 of the value: 0.001 at 20 mV, and less than
        one step of 0.03 up to the amplifier's limit of 24 bits.

    Raises:
        ValueError: If fewer bytes come than the header was told are there.
    """
    count, chosen = len(header.labels), list(rows)
    steps_uv = np.array([header.steps_uv[row] for row in chosen])[:, None]
    baselines = np.array([header.baselines[row] for row in chosen])[:, None]
    samples_uv = np.empty((len(chosen), header.samples), np.float32)
    at_once = max(1, _BLOCK_BYTES // (count * header.sample_bytes * header.block)) * header.block
    stream.seek(header.start)
    for first in range(0, header.samples, at_once):
        n = min(at_once, header.samples - first)
        wanted = n * count * header.sample_bytes
        if len(content := stream.read(wanted)) < wanted:
            raise ValueError(f"it ended {wanted - len(content)} bytes early while it was read")
        values = np.frombuffer(content, f"<i{header.sample_bytes}").reshape(-1, count, header.block)
        digital = values[:, chosen].swapaxes(0, 1).reshape(len(chosen), n).astype(np.float64)
        samples_uv[:, first : first + n] = (digital - baselines) * steps_uv
    return samples_uv


def write_cnt(
    stream: IO[bytes],
    labels: Sequence[str],
    sfreq_hz: int,
    sensitivity: float,
    blocks: Iterable[npt.NDArray[np.integer[Any]]],
) -> None:
    """Writes a CNT of 32 bits without events, block by block: nothing is held.

    Args:
        stream: Seekable, at its beginning.
        labels: Of all channels, at most 9 characters each.
        sfreq_hz: Sampling rate.
        sensitivity: Microvolt per digital step, times 204.8.
        blocks: (C, n) digital values, one stretch of time after the other.
    """
    stream.write(bytes(_SETUP_BYTES))
    for n, label in enumerate(labels):
        row = bytearray(_ELECTRODE_BYTES)
        row[: len(label)] = label.encode()
        turn = 2 * math.pi * n / len(labels)  # places on the screen: any that differ
        struct.pack_into("<ff", row, _PLACE_AT, math.cos(turn), math.sin(turn))
        struct.pack_into("<f", row, _SENSITIVITY_AT, sensitivity)
        struct.pack_into("<f", row, _CALIBRATION_AT, 1.0)
        stream.write(row)
    samples = 0
    for block in blocks:
        stream.write(np.ascontiguousarray(block.T, "<i4").tobytes())
        samples += block.shape[1]
    events = stream.tell()
    stream.write(struct.pack("<Bii", 1, 0, 0))  # an event table of type 1, empty
    setup = bytearray(_SETUP_BYTES)
    setup[:11] = b"Version 3.0"
    setup[225:235], setup[235:247] = b"01/01/16".ljust(10, b"\0"), b"12:00:00".ljust(12, b"\0")
    for at, kind, value in (
        (_CHANNELS_AT, "<H", len(labels)),
        (_RATE_AT, "<H", sfreq_hz),
        (_SAMPLES_AT, "<i", samples),
        (_EVENTS_AT, "<i", events),
        (_BLOCK_AT, "<i", 1),
    ):
        struct.pack_into(kind, setup, at, value)
    stream.seek(0)
    stream.write(setup)


def _count_samples(count: int, written: int, between: int, there: int) -> tuple[int, int, str]:
    """(samples as recorded, bytes of one, doubt) from the number written, the bytes up to the event table, and those
    that follow the header.
    """
    for sample_bytes in (4, 2):
        if written > 0 and between == written * count * sample_bytes:
            return written, sample_bytes, ""
    if 0 < between <= there and between % (4 * count) == 0:
        return between // (4 * count), 4, f"{written} samples are written, {between // (4 * count)} of 32 bits fit"
    if 0 < written * count * 4 <= there:
        return (
            written,
            4,
            f"its event table is said to lie {between} bytes from the samples' start; 32 bits are assumed",
        )
    raise ValueError(f"{written} samples of {count} channels in {between} bytes, {there} there")


def _float(row: bytes, at: int) -> float:
    value: float = struct.unpack_from("<f", row, at)[0]
    return value if math.isfinite(value) else 0.0
