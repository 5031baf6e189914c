"""BDF, BioSemi's 24-bit form of EDF: a header checked against the object's size, samples by name, and a writer.

MNE decodes the samples. The header is read here first, because MNE takes a file that was cut short for a shorter
recording, and believes any count it is told. It knows no corpus, and no BDF+ annotations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

__all__ = ["STATUS", "BdfHeader", "digitise", "encode_bdf", "read_bdf_channels", "read_bdf_header"]

STATUS = "Status"
_DIGITAL = (-8388608, 8388607)
_PHYSICAL_UV = (-262144, 262143)
_STEP_UV = (_PHYSICAL_UV[1] - _PHYSICAL_UV[0]) / (_DIGITAL[1] - _DIGITAL[0])  # 1/32 but for the last digits

_MAGIC = b"\xffBIOSEMI"
_MOST_CHANNELS = 512
_TRIGGER_BITS = 0xFFFF  # above them lie BioSemi's own: CMS in range, battery, speed mode
# label, transducer, unit, physical min and max, digital min and max, prefilter, samples a record, reserved
_WIDTHS = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)


@dataclass(frozen=True)
class BdfHeader:
    """What a BDF says it holds, where that fits its size.

    Attributes:
        labels: Of all channels, in file order.
        units: Of all channels, as written.
        sfreq_hz: Of all channels.
        seconds: Length of the recording.
    """

    labels: tuple[str, ...]
    units: tuple[str, ...]
    sfreq_hz: tuple[float, ...]
    seconds: float


def read_bdf_header(stream: IO[bytes], size_bytes: int) -> BdfHeader:
    """Reads the header and nothing else.

    Args:
        stream: At its beginning.
        size_bytes: Of the whole object.

    Raises:
        ValueError: If it is no BDF, its numbers are no numbers, or they do not fit the size; where it was cut short
            the message says how many seconds are missing.
    """
    fixed = stream.read(256)
    if len(fixed) < 256 or not fixed.startswith(_MAGIC):
        raise ValueError(f"no BDF: it begins with {fixed[:8]!r}")
    header_bytes, records = _whole(fixed[184:192], "header bytes"), _whole(fixed[236:244], "records")
    record_s, count = _number(fixed[244:252], "record seconds"), _whole(fixed[252:256], "channels")
    if not 1 <= count <= _MOST_CHANNELS or header_bytes != 256 * (count + 1):
        raise ValueError(f"header of {header_bytes} bytes for {count} channels")
    if records < 1 or record_s <= 0:
        raise ValueError(f"{records} records of {record_s:g} s: it was never closed")
    rest = stream.read(256 * count)
    if len(rest) < 256 * count:
        raise ValueError(f"cut short inside its header, after {256 + len(rest)} of {header_bytes} bytes")
    fields, place = [], 0
    for width in _WIDTHS:
        fields.append([rest[place + width * row : place + width * (row + 1)] for row in range(count)])
        place += width * count
    labels, _, units, *ranges, _, samples, _ = fields
    for label, *limits in zip(labels, *ranges, strict=True):
        low, high, digital_low, digital_high = (_number(text, f"range of {_text(label)}") for text in limits)
        if low >= high or digital_low >= digital_high:
            raise ValueError(
                f"{_text(label)} ranges from {low:g} to {high:g}, digital {digital_low:g}..{digital_high:g}"
            )
    per_record = [_whole(text, "samples a record") for text in samples]
    if min(per_record) < 1:
        raise ValueError(f"{min(per_record)} samples a record")
    record_bytes = 3 * sum(per_record)
    if (missing := header_bytes + records * record_bytes - size_bytes) > 0:
        seconds = missing / record_bytes * record_s
        raise ValueError(f"cut short: {seconds:.1f} of {records * record_s:g} s are missing")
    if missing < 0:
        raise ValueError(f"{-missing} bytes beyond the {records} records that it declares")
    return BdfHeader(
        labels=tuple(map(_text, labels)),
        units=tuple(map(_text, units)),
        sfreq_hz=tuple(count / record_s for count in per_record),
        seconds=records * record_s,
    )


def read_bdf_channels(
    content: IO[bytes], labels: Sequence[str]
) -> tuple[npt.NDArray[np.float32], list[tuple[int, int]]]:
    """Samples of some channels, and the triggers.

    Args:
        content: A BDF whose header `read_bdf_header` has accepted, small enough for memory.
        labels: Channels wanted, as written in the file; all of one rate.

    Returns:
        (len(labels), T) microvolt, exact to 2^-24 of the value: 0.001 at an offset of 20 mV, half a step at full
        range; and (first sample, code there) of each trigger, which is any code in the low 16 bits of Status that
        follows 0.
    """
    import mne  # takes long to import, and listing a corpus needs none of it

    raw = mne.io.read_raw_bdf(content, include=[*labels, STATUS], preload=True, verbose="error")
    events = mne.find_events(
        raw,
        stim_channel=STATUS,
        mask=_TRIGGER_BITS,
        mask_type="and",
        consecutive=False,
        initial_event=True,
        shortest_event=1,
        verbose="error",
    )
    eeg_uv = np.empty((len(labels), raw.n_times), np.float32)
    for row, label in enumerate(labels):
        eeg_uv[row] = raw.get_data(picks=[label])[0] * 1e6
    return eeg_uv, [(int(sample), int(code)) for sample, _, code in events]


def digitise(eeg_uv: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int32]:
    """Digital values of microvolts, to the nearest step of 1/32; beyond the amplifier's range they are clipped."""
    steps = np.rint((eeg_uv - _PHYSICAL_UV[0]) / _STEP_UV) + _DIGITAL[0]
    digital: npt.NDArray[np.int32] = np.clip(steps, *_DIGITAL).astype(np.int32)
    return digital


def encode_bdf(labels: Sequence[str], digital: npt.NDArray[np.int32], sfreq_hz: int) -> bytes:
    """A BDF as BioSemi's ActiView writes it: records of one second, microvolt but for Status.

    Args:
        labels: One a row.
        digital: (C, T) with values of 24 bits, T whole seconds.
        sfreq_hz: Samples a second.

    Raises:
        ValueError: If T is no whole number of seconds.
    """
    count, samples = digital.shape
    if samples % sfreq_hz:
        raise ValueError(f"{samples} samples are no whole seconds at {sfreq_hz} Hz")
    status = [label == STATUS for label in labels]
    columns: tuple[list[Any], ...] = (
        list(labels),
        ["Triggers and Status" if own else "Active Electrode, pin type" for own in status],
        ["Boolean" if own else "uV" for own in status],
        [_DIGITAL[0] if own else _PHYSICAL_UV[0] for own in status],
        [_DIGITAL[1] if own else _PHYSICAL_UV[1] for own in status],
        [_DIGITAL[0]] * count,
        [_DIGITAL[1]] * count,
        ["No filtering" if own else "HP: DC; LP: 67 Hz" for own in status],
        [sfreq_hz] * count,
        ["Reserved"] * count,
    )
    fixed = ((80, ""), (80, ""), (8, "01.01.09"), (8, "00.00.00"), (8, 256 * (count + 1)), (44, "24BIT"))
    header = _MAGIC + b"".join(str(value).ljust(width).encode() for width, value in fixed)
    counts = ((8, samples // sfreq_hz), (8, 1), (4, count))
    header += b"".join(str(value).ljust(width).encode() for width, value in counts)
    for width, column in zip(_WIDTHS, columns, strict=True):
        header += b"".join(str(value)[:width].ljust(width).encode() for value in column)
    records = digital.astype("<i4").reshape(count, -1, sfreq_hz).swapaxes(0, 1)
    return header + np.ascontiguousarray(records).view(np.uint8).reshape(*records.shape, 4)[..., :3].tobytes()


def _text(field: bytes) -> str:
    """A field without blanks around it, fit for a message."""
    return "".join(letter if letter.isprintable() else "?" for letter in field.strip().decode("latin-1"))


def _whole(field: bytes, what: str) -> int:
    if not re.fullmatch(r"-?[0-9]+", _text(field)):
        raise ValueError(f"{what}: {_text(field)!r} is no whole number")
    return int(field)


def _number(field: bytes, what: str) -> float:
    if not re.fullmatch(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?", _text(field)):
        raise ValueError(f"{what}: {_text(field)!r} is no number")
    value = float(field)
    if not math.isfinite(value):
        raise ValueError(f"{what}: {_text(field)!r} is not finite")
    return value
