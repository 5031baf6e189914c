"""BDF: another reader finds the same, and a header that lies is not believed."""

from __future__ import annotations

import io
import re
import struct

import edfio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emod.corpora.bdf import digitise, encode_bdf, read_bdf_channels, read_bdf_header

LABELS = ("Fp1", "Cz", "EXG1", "Status")
RATE = 64


def digital(seconds: int = 3) -> np.ndarray:
    values = np.random.default_rng(0).integers(-(2**23), 2**23, (4, RATE * seconds)).astype(np.int32)
    values[3] = -(2**16)
    return values


def encoded(seconds: int = 3) -> bytes:
    return encode_bdf(LABELS, digital(seconds), RATE)


def header_of(content: bytes):
    return read_bdf_header(io.BytesIO(content), len(content))


def patched(at: int, width: int, text: str) -> bytes:
    content = bytearray(encoded())
    content[at : at + width] = text.ljust(width).encode("latin-1")
    return bytes(content)


def test_header_says_what_was_written() -> None:
    header = header_of(encoded())
    assert header.labels == LABELS
    assert header.units == ("uV", "uV", "uV", "Boolean")
    assert header.sfreq_hz == (64.0,) * 4
    assert header.seconds == 3.0


def test_samples_are_those_of_an_independent_reader() -> None:
    other = edfio.read_bdf(io.BytesIO(encoded()))
    eeg_uv, _ = read_bdf_channels(io.BytesIO(encoded()), ["Cz", "Fp1"])
    assert eeg_uv.dtype == np.float32
    for row, name in enumerate(["Cz", "Fp1"]):
        theirs = other.get_signal(name).data
        np.testing.assert_allclose(eeg_uv[row], theirs, rtol=2.0**-24, atol=1e-9)


def test_samples_are_those_of_the_format_by_hand() -> None:
    content, values = encoded(), digital()
    body = content[256 * 5 :]
    for channel, sample in ((0, 0), (0, 63), (0, 64), (1, 191), (3, 100)):
        record, within = divmod(sample, RATE)
        at = 3 * (record * 4 * RATE + channel * RATE + within)
        assert struct.unpack("<i", body[at : at + 3] + b"\0")[0] == values[channel, sample] % 2**24
    eeg_uv, _ = read_bdf_channels(io.BytesIO(content), ["Fp1"])
    exact = -262144 + (values[0].astype(np.float64) + 8388608) / 16777215 * 524287
    np.testing.assert_allclose(eeg_uv[0], exact, rtol=2.0**-24, atol=1e-9)


def test_microvolts_come_back_to_half_a_step_and_are_clipped_beyond_the_range() -> None:
    values_uv = np.array([[-300_000.0, -262_144.0, -20_000.3, 0.0, 17.123, 262_143.0, 1e9] + [0.0] * 57])
    content = encode_bdf(["Cz", "Status"], np.concatenate([digitise(values_uv), np.zeros((1, 64), np.int32)]), RATE)
    eeg_uv, _ = read_bdf_channels(io.BytesIO(content), ["Cz"])
    assert np.abs(eeg_uv[0] - np.clip(values_uv[0], -262144, 262143)).max() <= 0.5 / 32 + 0.008


@pytest.mark.parametrize("high_bits", [0, 0x010000, 0x7F0000, -(2**16), -(2**23)])
def test_triggers_are_found_below_the_amplifiers_own_bits(high_bits: int) -> None:
    values = digital()
    values[3] = high_bits
    values[3, 20:30] |= 268
    values[3, 30:40] |= 12  # another code at once is the same pulse, and not the one it begins with
    values[3, 150] |= 1
    values[3, 100:] ^= 2**17  # a change of the amplifier's state is no trigger
    assert read_bdf_channels(io.BytesIO(encode_bdf(LABELS, values, RATE)), ["Cz"])[1] == [(20, 268), (150, 1)]


def test_trigger_that_is_on_from_the_start_counts() -> None:
    values = digital()
    values[3, :5] |= 268
    assert read_bdf_channels(io.BytesIO(encode_bdf(LABELS, values, RATE)), ["Cz"])[1] == [(0, 268)]


@pytest.mark.parametrize("lost", [1, 767, 768, 769, 768 * 2 + 5])
def test_object_cut_short_says_how_much_is_missing(lost: int) -> None:
    with pytest.raises(ValueError, match=re.escape(f"cut short: {lost / 768:.1f} of 3 s are missing")):
        header_of(encoded()[:-lost])


@pytest.mark.parametrize(
    ("at", "width", "text", "message"),
    [
        (0, 8, "0", "no BDF"),
        (184, 8, "1024", "header of 1024 bytes for 4 channels"),
        (236, 8, "-1", "-1 records"),
        (236, 8, "0", "0 records"),
        (236, 8, "99999999", "cut short: 99999996.0 of"),
        (236, 8, "2", "768 bytes beyond the 2 records"),
        (236, 8, "3.0", "no whole number"),
        (236, 8, "\xb2", "no whole number"),
        (244, 8, "0", "never closed"),
        (244, 8, "nan", "no number"),
        (244, 8, "1e999", "not finite"),
        (252, 4, "0", "for 0 channels"),
        (252, 4, "9999", "for 9999 channels"),
        (252, 4, "-4", "for -4 channels"),
        (256 + 4 * 104, 8, "262143", "Fp1 ranges from 262143 to 262143"),
        (256 + 4 * 104, 8, "low", "range of Fp1: 'low' is no number"),
        (256 + 4 * 216, 8, "0", "0 samples a record"),
        (256 + 4 * 216, 8, "-64", "samples a record"),
        (256 + 4 * 216, 8, "99999999", "cut short"),
    ],
)
def test_header_that_lies_is_refused(at: int, width: int, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        header_of(patched(at, width, text))


def test_labels_are_fit_for_a_message() -> None:
    assert header_of(patched(256, 16, "F\x1b\n\x93 \xb5V")).labels[0] == "F??? \xb5V"


def test_object_cut_short_anywhere_is_refused() -> None:
    content = encoded()
    for length in [*range(0, 1400, 37), *range(1400, len(content), 211)]:
        with pytest.raises(ValueError, match=r"no BDF|cut short"):
            header_of(content[:length])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_garbage_in_the_header_is_refused_or_read_within_bounds(data: st.DataObject) -> None:
    content = bytearray(encoded())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 256 * 5 - 9))
        content[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    try:
        header = header_of(bytes(content))
    except ValueError:
        return
    assert len(header.labels) == 4
    assert header.seconds * sum(header.sfreq_hz) * 3 == pytest.approx(len(content) - 256 * 5)


def test_part_of_a_second_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="no whole seconds"):
        encode_bdf(LABELS, digital()[:, :-1], RATE)
