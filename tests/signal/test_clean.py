"""Filter, resampling and reference of a recording; ICA is off here."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from emod.catalog.signal import IcaSettings, SignalSettings
from emod.signal.clean import clean_recording
from emod.signal.montage import ELECTRODES

Array = npt.NDArray[np.float64]
NO_ICA = IcaSettings(enabled=False)


def settings(**changes: Any) -> SignalSettings:
    return SignalSettings(ica=NO_ICA, **changes)


def clean(eeg_uv: Array, sfreq_hz: float, chosen: SignalSettings, **options: Any) -> Array:
    return clean_recording(
        eeg_uv, [(0, eeg_uv.shape[1])], ELECTRODES[: len(eeg_uv)], sfreq_hz, chosen, **options
    ).eeg_uv


def sines(frequencies_hz: list[float], sfreq_hz: float, seconds: float) -> Array:
    time_s = np.arange(int(seconds * sfreq_hz)) / sfreq_hz
    return 10 * np.sin(2 * np.pi * np.outer(frequencies_hz, time_s))


@pytest.mark.parametrize("sfreq_hz", [128, 200, 250, 256, 300])
def test_mains_falls_by_30_db_and_the_band_passes(sfreq_hz: int) -> None:
    frequencies_hz = [1.0, 4.0, 10.0, 30.0, 45.0, 50.0, 60.0]
    eeg_uv = sines(frequencies_hz, sfreq_hz, 40)
    inner = slice(12 * sfreq_hz, -12 * sfreq_hz)
    out_uv = clean(eeg_uv, sfreq_hz, settings(reference="none"))
    gain_db = 20 * np.log10(out_uv[:, inner].std(axis=1) / eeg_uv[:, inner].std(axis=1))
    assert (np.abs(gain_db[:5]) < 1).all(), gain_db
    assert (gain_db[5:] < -30).all(), gain_db
    # Zero phase: what passes is not shifted in time.
    np.testing.assert_allclose(out_uv[:5, inner], eeg_uv[:5, inner], atol=0.1)


def test_offsets_of_millivolts_and_slow_drift_vanish() -> None:
    eeg_uv = sines([10.0, 10.0, 0.05], 128, 60) + np.array([[4000.0], [-9000.0], [0.0]])
    out_uv = clean(eeg_uv, 128, settings(reference="none"))
    np.testing.assert_allclose(out_uv[:2].mean(axis=1), 0, atol=0.2)
    np.testing.assert_allclose(out_uv[:2, 1500:-1500], sines([10.0] * 2, 128, 60)[:, 1500:-1500], atol=0.1)
    assert out_uv[2, 1500:-1500].std() < 0.1 * eeg_uv[2].std()
    # A piece shorter than the filter keeps no offset either.
    assert abs(clean(eeg_uv[:2, :256], 128, settings(reference="none"))).max() < 15


def test_pieces_do_not_leak_into_each_other() -> None:
    eeg_uv = np.random.default_rng(0).standard_normal((4, 3000))
    pieces = [(0, 1000), (1000, 2100), (2100, 3000)]
    struck_uv = eeg_uv.copy()
    struck_uv[0, 990] += 1e6
    names = ELECTRODES[:4]
    quiet = clean_recording(eeg_uv, pieces, names, 128, settings())
    struck = clean_recording(struck_uv, pieces, names, 128, settings())
    assert np.abs(struck.eeg_uv - quiet.eeg_uv)[:, :1000].max() > 1e4
    np.testing.assert_array_equal(struck.eeg_uv[:, 1000:], quiet.eeg_uv[:, 1000:])
    for start, stop in pieces:
        alone_uv = clean(eeg_uv[:, start:stop], 128, settings())
        np.testing.assert_allclose(quiet.eeg_uv[:, start:stop], alone_uv, atol=1e-12)
    assert "3 of 3 pieces are shorter than the filter's 11.0 s" in quiet.report.notes


def test_each_stage_can_be_switched_off() -> None:
    eeg_uv = np.random.default_rng(1).standard_normal((5, 2000)) + 30
    pieces = [(0, 2000)]
    names = ELECTRODES[:5]

    def result(**changes: Any) -> tuple[Array, tuple[str, ...]]:
        done = clean_recording(eeg_uv, pieces, names, 128, settings(**changes))
        return done.eeg_uv, done.report.stages

    both_uv, both = result()
    filtered_uv, filtered = result(reference="none")
    referenced_uv, referenced = result(band_pass=False)
    nothing_uv, nothing = result(band_pass=False, reference="none")
    assert (both, filtered, referenced, nothing) == (
        ("band_pass", "average_reference"),
        ("band_pass",),
        ("average_reference",),
        (),
    )
    np.testing.assert_array_equal(nothing_uv, eeg_uv)
    np.testing.assert_allclose(referenced_uv, eeg_uv - eeg_uv.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(both_uv.mean(axis=0), 0, atol=1e-12)
    assert np.abs(filtered_uv.mean(axis=0)).max() > 0.1
    np.testing.assert_allclose(both_uv, filtered_uv - filtered_uv.mean(axis=0), atol=1e-12)


def test_ratios_between_electrodes_survive_the_filter() -> None:
    gain = np.array([[1.0], [2.0], [-0.5]])
    eeg_uv = gain * np.random.default_rng(2).standard_normal((1, 2000))
    out_uv = clean(eeg_uv, 128, settings(reference="none"))
    np.testing.assert_allclose(out_uv, gain * out_uv[:1], atol=1e-9)


def test_cleaning_twice_changes_little_and_an_owners_stages_are_repeated() -> None:
    eeg_uv = np.random.default_rng(3).standard_normal((6, 128 * 40))
    once_uv = clean(eeg_uv, 128, settings())
    twice_uv = clean(once_uv, 128, settings(), stages_done=frozenset({"band_pass", "average_reference"}))
    assert (twice_uv - once_uv).std() < 0.08 * once_uv.std()
    np.testing.assert_allclose(twice_uv.mean(axis=0), 0, atol=1e-12)
    assert (clean(eeg_uv, 128, settings(), stages_done=("band_pass",)) == once_uv).all()


def test_read_only_input_is_left_alone() -> None:
    eeg_uv = np.random.default_rng(4).standard_normal((4, 1500)).astype(np.float32)
    before = eeg_uv.copy()
    eeg_uv.flags.writeable = False
    out_uv = clean_recording(eeg_uv, [(0, 700), (700, 1500)], ELECTRODES[:4], 128, settings(), resample_hz=100).eeg_uv
    np.testing.assert_array_equal(eeg_uv, before)
    assert out_uv.dtype == np.float64
    assert not np.shares_memory(out_uv, eeg_uv)


def test_resampling_keeps_the_signal_the_pieces_and_the_places() -> None:
    seconds, old_hz, new_hz = 20, 1000, 200
    eeg_uv = np.concatenate([sines([10.0, 150.0], old_hz, seconds), sines([20.0, 150.0], old_hz, seconds)], axis=1)
    eeg_uv = np.concatenate([eeg_uv, eeg_uv[:, :7]], axis=1)
    pieces = [(0, 20_000), (20_000, 40_007)]
    done = clean_recording(eeg_uv, pieces, ["C3", "C4"], old_hz, settings(reference="none"), resample_hz=new_hz)
    assert (done.sfreq_hz, done.pieces) == (200, ((0, 4000), (4000, 8001)))
    assert done.report.stages == ("band_pass", "resample")
    expected_uv = sines([10.0], new_hz, seconds)[0]
    np.testing.assert_allclose(done.eeg_uv[0, 1200:2800], expected_uv[1200:2800], atol=0.1)
    # 150 Hz would fold to 50 Hz without a filter in front.
    assert np.abs(done.eeg_uv[1, 1200:2800]).max() < 0.1
    assert done.locate(0, 20_000) == (0, 4000)
    assert done.locate(25_000, 26_000) == (5000, 5200)
    assert done.locate(40_006, 40_007) == (8001, 8001)
    with pytest.raises(ValueError, match=r"span 19000\.\.21000 is not inside one piece"):
        done.locate(19_000, 21_000)
    same = clean_recording(eeg_uv, pieces, ["C3", "C4"], old_hz, settings())
    assert same.pieces == tuple(pieces)
    assert same.locate(123, 456) == (123, 456)


def test_places_are_counted_from_the_start_of_their_piece() -> None:
    # Each length rounds up by 0.4 sample, so places counted from the recording's start would be one off in the third.
    pieces = [(0, 20_003), (20_003, 40_006), (40_006, 60_009)]
    done = clean_recording(np.zeros((2, 60_009)), pieces, ["C3", "C4"], 1000, settings(), resample_hz=200)
    assert done.pieces == ((0, 4001), (4001, 8002), (8002, 12_003))
    assert done.locate(41_006, 60_009) == (8202, 12_003)


def test_a_low_rate_is_high_passed_only() -> None:
    eeg_uv = sines([0.05, 10.0, 43.0], 90, 40)
    done = clean_recording(eeg_uv, [(0, 3600)], ["C3", "Cz", "C4"], 90, settings(reference="none"))
    assert done.report.stages == ("high_pass",)
    inner = slice(1080, -1080)
    assert done.eeg_uv[0, inner].std() < 0.1 * eeg_uv[0].std()
    np.testing.assert_allclose(done.eeg_uv[1:, inner], eeg_uv[1:, inner], atol=0.1)


def test_memory_stays_near_two_copies() -> None:
    eeg_uv = np.random.default_rng(5).standard_normal((32, 200_000))
    tracemalloc.start()
    clean(eeg_uv, 200, settings())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * eeg_uv.nbytes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pieces": [(0, 400), (500, 1000)]}, "without gap"),
        ({"pieces": [(0, 600), (500, 1000)]}, "without gap"),
        ({"pieces": [(0, 400)]}, "must cover 0..1000"),
        ({"pieces": [(10, 1000)]}, "must cover 0..1000"),
        ({"pieces": [(0, 0), (0, 1000)]}, "start < stop"),
        ({"pieces": []}, "one or more"),
        ({"channels": ["Fp1", "Fp2"]}, r"shape \(3, 1000\) for 2 channels"),
        ({"channels": ["Fp1", "Fp2", "Fp9"]}, "'Fp9' is not a 10-10 name"),
        ({"channels": ["T3", "Cz", "T7"]}, "given twice"),
        ({"stages_done": {"notch"}}, r"\['notch'\]: known stages are"),
        ({"sfreq_hz": 0}, "sfreq_hz is 0"),
        ({"resample_hz": -1.0}, "resample_hz is -1.0"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"pieces": [(0, 1000)], "channels": ["Fp1", "Fp2", "Cz"], "sfreq_hz": 128}
    with pytest.raises(ValueError, match=message):
        clean_recording(np.ones((3, 1000)), settings=settings(), **(arguments | change))


def test_a_bad_value_names_its_electrode() -> None:
    eeg_uv = np.ones((3, 1000))
    eeg_uv[1, 5] = np.nan
    with pytest.raises(ValueError, match=r"electrode Fp2 .* not finite"):
        clean_recording(eeg_uv, [(0, 1000)], ["Fp1", "FP2", "Cz"], 128, settings())
