"""Neuroscan CNT: MNE finds the same, and what the header says is checked against what is there."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import mne
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emod.corpora import neuroscan_cnt
from emod.corpora.neuroscan_cnt import CntHeader, read_cnt_header, read_cnt_samples, write_cnt

LABELS = ("FP1", "CZ", "VEO")
SENSITIVITY = 3125 / 512
SAMPLES = 1200
START = 900 + 75 * 3


def digital(samples: int = SAMPLES) -> np.ndarray:
    return np.random.default_rng(1).integers(-(2**23), 2**23, (3, samples)).astype(np.int32)


def written(values: np.ndarray | None = None) -> bytes:
    stream = io.BytesIO()
    values = digital() if values is None else values
    write_cnt(stream, LABELS, 1000, SENSITIVITY, iter([values[:, :500], values[:, 500:]]))
    return stream.getvalue()


def patched(content: bytes, *changes: tuple[str, int, float]) -> bytes:
    copy = bytearray(content)
    for kind, at, value in changes:
        struct.pack_into(kind, copy, at, value)
    return bytes(copy)


def header_of(content: bytes) -> CntHeader:
    return read_cnt_header(io.BytesIO(content), len(content))


def read(content: bytes, rows: list[int]) -> np.ndarray:
    stream = io.BytesIO(content)
    return read_cnt_samples(stream, read_cnt_header(stream, len(content)), rows)


def by_mne(content: bytes, folder: Path, **options: str) -> np.ndarray:
    (folder / "a.cnt").write_bytes(content)
    raw = mne.io.read_raw_cnt(folder / "a.cnt", preload=True, verbose="error", **options)
    assert raw.info["sfreq"] == 1000
    assert tuple(raw.ch_names) == LABELS
    return raw.get_data() * 1e6


def test_header_says_what_was_written() -> None:
    header = header_of(written())
    assert (header.labels, header.sfreq_hz, header.block, header.sample_bytes) == (LABELS, 1000.0, 1, 4)
    assert (header.declared, header.samples, header.doubt, header.start) == (SAMPLES, SAMPLES, "", START)
    assert header.steps_uv == pytest.approx((1e6 / 2**25,) * 3)


def test_samples_are_those_of_mne_and_of_arithmetic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calibrated = patched(
        written(), ("<h", 900 + 47, -321), ("<f", 900 + 59, 5.5), ("<f", 975 + 71, 1.25), ("<h", 975 + 47, 77)
    )
    theirs = by_mne(calibrated, tmp_path)
    exact = np.stack([(digital()[0] + 321.0) * 5.5 / 204.8, (digital()[1] - 77.0) * SENSITIVITY * 1.25 / 204.8])
    for block_bytes in (2**24, 12 * 7, 1):
        monkeypatch.setattr(neuroscan_cnt, "_BLOCK_BYTES", block_bytes)
        ours = read(calibrated, [1, 0])
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs[[1, 0]], rtol=2.0**-23)
        np.testing.assert_allclose(ours, exact[[1, 0]], rtol=2.0**-24)


def test_whole_steps_survive_float32() -> None:
    """Up to the amplifier's 24 bits, neighbouring digital values stay apart and nearest to their own step."""
    values = digital()
    ours = read(written(values), [0, 1, 2])
    np.testing.assert_array_equal(np.rint(ours.astype(np.float64) / (1e6 / 2**25)), values)


def test_sixteen_bits_are_read_as_mne_reads_them(tmp_path: Path) -> None:
    values = (digital() >> 8).astype("<i2")
    content = written()[:START] + values.T.tobytes() + struct.pack("<Bii", 1, 0, 0)
    content = patched(content, ("<i", 886, START + values.nbytes))
    assert header_of(content).sample_bytes == 2
    np.testing.assert_allclose(read(content, [0, 1, 2]), by_mne(content, tmp_path), rtol=2.0**-23)


@pytest.mark.parametrize("block", [40, 48])
def test_blocks_of_one_channel_are_read_as_mne_reads_them(tmp_path: Path, block: int) -> None:
    values = digital()
    ordered = values.reshape(3, -1, block).transpose(1, 0, 2)
    content = written()[:START] + np.ascontiguousarray(ordered, "<i4").tobytes() + struct.pack("<Bii", 1, 0, 0)
    content = patched(content, ("<i", 894, 4 * block))
    assert header_of(content).block == block
    ours = read(content, [0, 1, 2])
    np.testing.assert_allclose(ours, by_mne(content, tmp_path), rtol=2.0**-23)
    np.testing.assert_allclose(ours, values * SENSITIVITY / 204.8, rtol=2.0**-24)


@pytest.mark.parametrize("block", [40, 48])
def test_block_that_is_not_whole_is_left_out(block: int) -> None:
    values = digital()
    ordered = np.ascontiguousarray(values.reshape(3, -1, block).transpose(1, 0, 2), "<i4").tobytes()
    whole = patched(written()[:START] + ordered + struct.pack("<Bii", 1, 0, 0), ("<i", 894, 4 * block))
    cut = whole[: START + 12 * (10 * block + 7)]
    assert header_of(cut).samples == 10 * block
    np.testing.assert_array_equal(read(cut, [2, 0]), read(whole, [2, 0])[:, : 10 * block])


@pytest.mark.parametrize("wrong", [0, -5, 17, SAMPLES + 1])
def test_space_up_to_the_event_table_wins_over_the_number_written(tmp_path: Path, wrong: int) -> None:
    content = patched(written(), ("<i", 864, wrong))
    header = header_of(content)
    assert (header.samples, header.sample_bytes) == (SAMPLES, 4)
    assert str(wrong) in header.doubt
    theirs = by_mne(patched(content, ("<i", 864, SAMPLES)), tmp_path)
    np.testing.assert_allclose(read(content, [0, 1, 2]), theirs, rtol=2.0**-23)


@pytest.mark.parametrize("events_at", [0, -7, 2**31 - 1])
def test_number_written_serves_where_the_event_table_is_nowhere(events_at: int) -> None:
    header = header_of(patched(written(), ("<i", 886, events_at)))
    assert (header.samples, header.sample_bytes) == (SAMPLES, 4)
    assert "32 bits are assumed" in header.doubt


@pytest.mark.parametrize("left", [0, 1, 599, SAMPLES - 1])
def test_object_cut_short_keeps_the_samples_that_are_whole(left: int) -> None:
    content = written()[: START + 12 * left + 5]
    header = header_of(content)
    assert (header.declared, header.samples, header.doubt) == (SAMPLES, left, "")
    np.testing.assert_array_equal(read(content, [1]), read(written(), [1])[:, :left])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("<B", 0, 0), "no Neuroscan CNT"),
        (("<H", 370, 0), "0 channels"),
        (("<H", 370, 60000), "60000 channels"),
        (("<H", 370, 500), "cut short inside its header"),
        (("<H", 376, 0), "at 0 Hz"),
        (("<i", 894, 2**31 - 1), "blocks of"),
        (("<i", 894, 4 * 4000), "blocks of 4000 samples"),
    ],
)
def test_header_that_lies_is_refused(change: tuple[str, int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        header_of(patched(written(), change))


def test_numbers_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="samples of 3 channels"):
        header_of(patched(written(), ("<i", 864, 0), ("<i", 886, 0)))
    with pytest.raises(ValueError, match="samples of 3 channels"):
        header_of(patched(written(), ("<i", 864, 2**31 - 1), ("<i", 886, -1)))


def test_calibration_that_is_no_number_is_zero() -> None:
    assert header_of(patched(written(), ("<f", 900 + 59, float("nan")))).steps_uv[0] == 0


def test_stream_that_ends_early_is_no_silence() -> None:
    header = header_of(written())
    with pytest.raises(ValueError, match=r"ended 1[0-9]* bytes early"):
        read_cnt_samples(io.BytesIO(written()[:-20]), header, [0])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(366, 896), st.binary(min_size=4, max_size=4)), min_size=1, max_size=4))
def test_garbage_in_the_header_is_refused_or_read_within_bounds(changes: list[tuple[int, bytes]]) -> None:
    content = bytearray(written())
    for at, value in changes:
        content[at : at + 4] = value
    try:
        header = header_of(bytes(content))
    except ValueError:
        return
    there = len(content) - header.start
    assert 0 <= header.samples * len(header.labels) * header.sample_bytes <= there
    stream = io.BytesIO(bytes(content))
    assert read_cnt_samples(stream, header, [0]).shape == (1, header.samples)
