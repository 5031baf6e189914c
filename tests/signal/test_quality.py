"""Faults planted in recordings whose truth is known: found by name and number, and nothing else is found."""

from __future__ import annotations

import itertools
import os
import tracemalloc
from typing import Any

import mne
import numpy as np
import numpy.typing as npt
import pytest

from emod.catalog import SimulateSettings
from emod.catalog.signal import IcaSettings, QualitySettings, SignalSettings
from emod.corpora import open_corpus
from emod.signal import clean as clean_module
from emod.signal.clean import Cleaned, clean_recording
from emod.signal.montage import ELECTRODES, canonical_names, positions
from emod.signal.quality import (
    Inspection,
    Repair,
    inspect_recording,
    line_left_db,
    line_noise_db,
    measure_spectrum,
    plan_repair,
    spectrum_db,
    spline_weights,
)
from emod.simulation import BrainSimulator

Array = npt.NDArray[np.float64]
DEFAULT = QualitySettings()
NO_ICA = SignalSettings(ica=IcaSettings(enabled=False))
HZ = 128


def inspect(eeg_uv: Array, planted: Any, pieces: list[tuple[int, int]] | None = None, **changes: Any) -> Inspection:
    settings = DEFAULT.model_copy(update=changes)
    return inspect_recording(eeg_uv, pieces or [(0, eeg_uv.shape[1])], planted.channels, planted.sfreq_hz, settings)


def repair_of(inspection: Inspection, planted: Any, **changes: Any) -> Repair:
    return plan_repair(inspection, planted.channels, 50, DEFAULT.model_copy(update=changes))


def named(flags: npt.NDArray[np.bool_], planted: Any) -> dict[str, list[int]]:
    """Electrode -> the seconds it is marked in."""
    return {name: np.flatnonzero(row).tolist() for name, row in zip(planted.channels, flags, strict=True) if row.any()}


def row_of(planted: Any, name: str) -> int:
    return int(planted.channels.index(name))


def test_clean_eeg_with_blinks_and_muscle_raises_no_alarm(planted: Any) -> None:
    for eeg_uv in (planted.brain_uv, planted.recording_uv, planted.brain_uv + 4 * planted.blinks_uv):
        inspection = inspect(eeg_uv, planted)
        assert named(inspection.flat | inspection.noisy, planted) == {}
        assert inspection.rails.sum() == 0
        repair = repair_of(inspection, planted)
        assert not repair.interpolated.any()
        assert not repair.rejected.any()
        assert repair.hopeless is None


@pytest.mark.parametrize("level_uv", [0.0, -4000.0])
def test_a_dead_electrode_is_found_by_name(planted: Any, level_uv: float) -> None:
    eeg_uv = planted.recording_uv
    eeg_uv[row_of(planted, "C4")] = level_uv + 0.04 * np.sin(np.arange(eeg_uv.shape[1]))
    inspection = inspect(eeg_uv, planted)
    assert named(inspection.flat, planted) == {"C4": list(range(80))}
    assert not inspection.noisy.any()
    assert named(repair_of(inspection, planted).interpolated, planted) == {"C4": list(range(80))}
    assert named(inspect(eeg_uv, planted, flat_uv=0.01).flat, planted) == {}


def test_an_electrode_flat_in_one_piece_is_repaired_there_and_a_second_around(planted: Any) -> None:
    eeg_uv = planted.recording_uv
    row = row_of(planted, "P8")
    eeg_uv[row, 50 * HZ : 60 * HZ] = 7.0  # the third piece begins at 40 s, the fourth at 60 s
    pieces = [(20 * HZ * at, 20 * HZ * (at + 1)) for at in range(4)]
    inspection = inspect(eeg_uv, planted, pieces)
    assert named(inspection.flat, planted) == {"P8": list(range(50, 60))}
    repair = repair_of(inspection, planted)
    assert named(repair.interpolated, planted) == {"P8": list(range(49, 60))}
    assert not repair.rejected.any()
    spans = [(stretch.start // HZ, stretch.stop // HZ, stretch.interpolated) for stretch in repair.stretches]
    assert spans == [(0, 20, ()), (20, 40, ()), (40, 49, ()), (49, 60, (row,)), (60, 80, ())]


def test_an_electrode_flat_most_of_the_time_is_bad_throughout(planted: Any) -> None:
    eeg_uv = planted.recording_uv
    eeg_uv[3, : 41 * HZ] = 0.0
    repair = repair_of(inspect(eeg_uv, planted), planted)
    assert repair.interpolated[3].all()
    assert repair.interpolated.any(axis=1).sum() == 1


@pytest.mark.parametrize("names", [["Pz"], ["T7"], ["O1", "O2"]], ids=str)
def test_noisy_electrodes_are_found_by_name(planted: Any, names: list[str]) -> None:
    rng = np.random.default_rng(0)
    eeg_uv = planted.recording_uv
    for name in names:
        eeg_uv[row_of(planted, name)] += 150 * rng.standard_normal(eeg_uv.shape[1])
    inspection = inspect(eeg_uv, planted)
    assert list(named(inspection.noisy, planted)) == sorted(names, key=planted.channels.index)
    assert not inspection.flat.any()
    repair = repair_of(inspection, planted)
    assert repair.interpolated.all(axis=1).sum() == repair.interpolated.any(axis=1).sum() == len(names)
    assert not inspect(eeg_uv, planted, noisy_z=50.0, noisy_gain=50.0).noisy.any()


@pytest.mark.parametrize("gain", [25.0, 50.0])
def test_a_wrong_gain_is_found_though_the_electrode_resembles_its_neighbours(planted: Any, gain: float) -> None:
    for name in planted.channels:
        eeg_uv = planted.recording_uv
        eeg_uv[row_of(planted, name), 27 * HZ :] *= gain  # sections of 80 s: 0-27, 27-53, 53-80
        inspection = inspect(eeg_uv, planted)
        assert named(inspection.noisy, planted) == {name: list(range(27, 80))}
        repair = repair_of(inspection, planted)
        assert not repair.rejected.any()
        assert repair_of(inspection, planted, noisy="reject").rejected.sum() == 80  # most of the time: throughout
    assert named(inspect(eeg_uv, planted, noisy_gain=100.0).noisy, planted) == {}


def test_a_wrong_gain_of_two_electrodes_side_by_side_is_found(planted: Any) -> None:
    eeg_uv = planted.recording_uv
    eeg_uv[-2:] *= 50
    assert list(named(inspect(eeg_uv, planted).noisy, planted)) == ["O1", "O2"]


def test_a_wrong_gain_is_found_on_a_cap_whose_electrodes_differ_much(planted: Any) -> None:
    rng = np.random.default_rng(14)
    eeg_uv = planted.recording_uv * 10 ** rng.permutation(np.linspace(-0.6, 0.6, 16))[:, None]
    eeg_uv[row_of(planted, "C3")] *= 50 * eeg_uv.std(axis=1).mean() / eeg_uv[row_of(planted, "C3")].std()
    assert list(named(inspect(eeg_uv, planted).noisy, planted)) == ["C3"]


def test_a_wrong_gain_does_not_reach_the_average_reference(planted: Any) -> None:
    truth = clean_recording(planted.recording_uv, [(0, 80 * HZ)], planted.channels, HZ, NO_ICA).eeg_uv
    eeg_uv = planted.recording_uv
    eeg_uv[row_of(planted, "C3")] *= 50
    others = np.arange(16) != row_of(planted, "C3")

    def like_truth(**changes: Any) -> float:
        made = cleaned_with(eeg_uv, planted, NO_ICA, **changes).eeg_uv
        return float(min(np.corrcoef(a, b)[0, 1] for a, b in zip(made[others], truth[others], strict=True)))

    assert like_truth() > 0.98 > 0.5 > like_truth(noisy="keep")


def test_noise_of_one_part_is_found_in_that_part(planted: Any) -> None:
    eeg_uv = planted.recording_uv
    noise = 100 * np.random.default_rng(1).standard_normal(27 * HZ)
    eeg_uv[row_of(planted, "C3"), : 27 * HZ] += noise  # sections of 80 s: 0-27, 27-53, 53-80
    inspection = inspect(eeg_uv, planted)
    assert named(inspection.noisy, planted) == {"C3": list(range(27))}
    assert named(repair_of(inspection, planted).interpolated, planted) == {"C3": list(range(27))}


def frontal(planted: Any, width: float, peak_uv: float = 300.0) -> Array:
    """A source under the forehead that makes frontal electrodes several times louder than the others."""
    places = positions(planted.channels)
    gain = np.exp((places @ positions(["Fpz"])[0] - 1) / width)
    course = np.random.default_rng(12).standard_normal(planted.brain_uv.shape[1])
    return np.outer(peak_uv * gain / gain.max(), course)


# Of a source so narrow that two electrodes see it alone, as of two wrong gains, only less than noisy_gain is believed.
@pytest.mark.parametrize(("width", "peak_uv"), [(0.2, 300), (0.06, 60), (0.02, 60)])
def test_loud_electrodes_that_resemble_each_other_are_not_noisy(planted: Any, width: float, peak_uv: float) -> None:
    eeg_uv = planted.brain_uv + frontal(planted, width, peak_uv)
    assert eeg_uv[:2].std() > 8 * np.median(eeg_uv.std(axis=1))
    assert not inspect(eeg_uv, planted).noisy.any()


def test_a_broken_electrode_does_not_make_its_loud_neighbour_look_broken(planted: Any) -> None:
    eeg_uv = planted.brain_uv + frontal(planted, 0.2)
    eeg_uv[1] = 3000 * np.random.default_rng(13).standard_normal(eeg_uv.shape[1])
    assert named(inspect(eeg_uv, planted).noisy, planted) == {"Fp2": list(range(80))}


def test_mains_and_drift_alone_make_no_electrode_noisy(planted: Any) -> None:
    time_s = np.arange(planted.brain_uv.shape[1]) / HZ
    eeg_uv = planted.brain_uv.copy()
    eeg_uv[5] += 300 * np.sin(2 * np.pi * 50 * time_s) + 1000 * np.sin(2 * np.pi * 0.02 * time_s)
    assert not inspect(eeg_uv, planted).noisy.any()


def test_samples_at_the_rail_are_counted_exactly(planted: Any) -> None:
    eeg_uv = planted.recording_uv
    n = eeg_uv.shape[1]
    row = row_of(planted, "F3")
    swing = 400 * np.sin(2 * np.pi * 1.5 * np.arange(3 * HZ) / HZ)
    eeg_uv[row, 30 * HZ : 33 * HZ] += swing
    eeg_uv[row] = np.clip(eeg_uv[row], -250, 250)
    runs = [len(list(run)) for at_rail, run in itertools.groupby(np.abs(eeg_uv[row]) == 250) if at_rail]
    expected = sum(run for run in runs if run >= 3)
    assert expected > 100
    inspection = inspect(eeg_uv, planted)
    assert inspection.rails.sum(axis=1)[row] == expected
    assert inspection.rails.sum() == expected
    assert set(np.flatnonzero(inspection.rails[row])) == {30, 31, 32}
    repair = repair_of(inspection, planted)
    assert repair.look_at(30 * HZ, 33 * HZ) == (False, 0, pytest.approx(expected / (3 * HZ * 16)))
    assert repair.look_at(33 * HZ, 40 * HZ) == (False, 0, 0.0)
    assert repair.look_at(0, n) == (False, 0, pytest.approx(expected / (n * 16)))


def test_rails_of_an_interpolated_electrode_do_not_count(planted: Any) -> None:
    eeg_uv = planted.recording_uv
    noise = 900 * np.random.default_rng(9).standard_normal((1, 80 * 8)).repeat(16, axis=1)
    eeg_uv[row_of(planted, "Pz")] = np.clip(noise, -250, 250)
    inspection = inspect(eeg_uv, planted)
    assert inspection.rails[row_of(planted, "Pz")].sum() > 80 * HZ / 2
    assert repair_of(inspection, planted).look_at(10 * HZ, 20 * HZ) == (False, 1, 0.0)
    assert repair_of(inspection, planted, noisy="keep").look_at(10 * HZ, 20 * HZ)[2] > 0.5 / 16


def test_two_equal_extremes_are_no_rail(planted: Any) -> None:
    eeg_uv = planted.recording_uv.round()
    eeg_uv[2, 100:102] = eeg_uv[2].max() + 50
    assert inspect(eeg_uv, planted).rails.sum() == 0


@pytest.mark.parametrize("mains_hz", [50, 60])
@pytest.mark.parametrize("amplitude_uv", [0.0, 5.0, 50.0])
def test_line_noise_is_measured_in_decibel(mains_hz: int, amplitude_uv: float) -> None:
    sfreq_hz, sd_uv, seconds = 250, 10.0, 400
    rng = np.random.default_rng(2)
    time_s = np.arange(seconds * sfreq_hz) / sfreq_hz
    eeg_uv = sd_uv * rng.standard_normal((6, len(time_s))) + amplitude_uv * np.sin(2 * np.pi * mains_hz * time_s)
    spectrum = measure_spectrum(eeg_uv, [(0, len(time_s))], sfreq_hz)
    assert spectrum is not None
    found = line_noise_db(spectrum, mains_hz)
    assert found is not None
    # A Hann window of 2 s spreads a sine over 0.75 Hz; white noise of one side has 2 sd^2 / rate per Hz.
    floor = 2 * sd_uv**2 / sfreq_hz
    expected_db = 10 * np.log10((amplitude_uv**2 / 2 / 0.75 + floor) / floor)
    np.testing.assert_allclose(found, expected_db, atol=3.0)
    cleaned = clean_recording(eeg_uv, [(0, len(time_s))], ELECTRODES[:6], sfreq_hz, NO_ICA)
    after = measure_spectrum(cleaned.eeg_uv, cleaned.pieces, sfreq_hz)
    assert after is not None
    left = line_left_db(after, mains_hz)
    assert left is not None
    assert (left < -8).all()


def test_line_noise_beyond_the_nyquist_frequency_is_not_known(planted: Any) -> None:
    spectrum = measure_spectrum(planted.brain_uv[:, ::2], [(0, planted.brain_uv.shape[1] // 2)], HZ / 2)
    assert spectrum is not None
    assert line_noise_db(spectrum, 50) is None


def test_spectra_show_alpha_where_it_was_planted(planted: Any) -> None:
    spectrum = measure_spectrum(planted.brain_uv, [(0, planted.brain_uv.shape[1])], HZ)
    assert spectrum is not None
    hz, levels = spectrum_db(spectrum, planted.channels)
    assert (hz[0], hz[-1], len(hz)) == (0.5, 64.0, 128)
    assert set(levels) == {"all", "frontal", "central", "posterior"}
    alpha = {name: level[(hz >= 9) & (hz <= 11)].mean() for name, level in levels.items()}
    beside = {name: level[(hz >= 13) & (hz <= 15)].mean() for name, level in levels.items()}
    assert alpha["posterior"] - beside["posterior"] > 8 > alpha["frontal"] - beside["frontal"]
    assert (np.diff(spectrum.range_uv) > 0).all()


@pytest.mark.parametrize(
    ("changes", "n_interpolated", "n_rejected"),
    [
        ({}, 2, 0),
        ({"most_interpolated": 0.124}, 0, 80),
        ({"most_interpolated": 0.125}, 2, 0),
        ({"flat": "keep"}, 1, 0),
        ({"noisy": "keep"}, 1, 0),
        ({"flat": "keep", "noisy": "keep"}, 0, 0),
        ({"flat": "reject"}, 0, 80),
        ({"noisy": "reject"}, 0, 80),
    ],
    ids=str,
)
def test_settings_decide_what_happens_to_bad_electrodes(
    planted: Any, changes: dict[str, Any], n_interpolated: int, n_rejected: int
) -> None:
    eeg_uv = planted.recording_uv
    eeg_uv[row_of(planted, "C4")] = 0
    eeg_uv[row_of(planted, "Pz")] += 90 * np.random.default_rng(3).standard_normal(eeg_uv.shape[1])
    inspection = inspect(eeg_uv, planted)
    assert (named(inspection.flat, planted).keys(), named(inspection.noisy, planted).keys()) == ({"C4"}, {"Pz"})
    assert inspection.rails.sum() == 0  # a dead electrode is flat, not saturated
    repair = repair_of(inspection, planted, **changes)
    assert repair.interpolated.any(axis=1).sum() == n_interpolated
    assert repair.rejected.sum() == n_rejected
    if n_rejected:
        assert repair.hopeless is not None
        assert repair.hopeless[0] == "bad_electrodes"
        assert "C4" in repair.hopeless[1] or "Pz" in repair.hopeless[1]
    else:
        assert repair.hopeless is None


def test_a_cap_that_comes_off_costs_its_seconds_only(planted: Any) -> None:
    eeg_uv = planted.recording_uv
    eeg_uv[:, 12 * HZ : 15 * HZ] = 0.0
    repair = repair_of(inspect(eeg_uv, planted), planted)
    assert np.flatnonzero(repair.rejected).tolist() == [12, 13, 14]
    assert not repair.interpolated.any()
    assert repair.hopeless is None
    assert [repair.look_at(a * HZ, b * HZ)[0] for a, b in ((2, 12), (5, 13), (14, 24), (15, 25))] == [
        False,
        True,
        True,
        False,
    ]


def test_a_sample_more_or_less_touches_no_block(planted: Any) -> None:
    eeg_uv = planted.recording_uv
    eeg_uv[:, 12 * HZ : 15 * HZ] = 0.0
    repair = repair_of(inspect(eeg_uv, planted), planted)
    assert [repair.look_at(2 * HZ, 12 * HZ + more)[0] for more in (-1, 0, 1, 10)] == [False, False, False, True]


def test_line_noise_can_reject_a_recording(planted: Any) -> None:
    time_s = np.arange(planted.brain_uv.shape[1]) / HZ
    inspection = inspect(planted.brain_uv + 60 * np.sin(2 * np.pi * 50 * time_s), planted)
    assert repair_of(inspection, planted).hopeless is None
    hopeless = repair_of(inspection, planted, line_noise="reject").hopeless
    assert hopeless is not None
    assert hopeless[0] == "line_noise"
    assert repair_of(inspection, planted, line_noise="reject", line_noise_db=60.0).hopeless is None


def cleaned_with(eeg_uv: Array, planted: Any, settings: SignalSettings, **changes: Any) -> Cleaned:
    pieces = [(0, eeg_uv.shape[1])]
    repair = repair_of(inspect(eeg_uv, planted), planted, **changes)
    return clean_recording(eeg_uv, pieces, planted.channels, HZ, settings, repair=repair)


@pytest.mark.parametrize("name", ["C4", "Fz", "P7"])
def test_an_interpolated_electrode_is_near_the_truth_and_the_others_are_not_spoilt(planted: Any, name: str) -> None:
    row = row_of(planted, name)
    truth = clean_recording(planted.brain_uv, [(0, 80 * HZ)], planted.channels, HZ, NO_ICA).eeg_uv
    noise = 200 * np.random.default_rng(4).standard_normal(80 * HZ)
    eeg_uv = planted.brain_uv.copy()
    eeg_uv[row] += noise
    repaired = cleaned_with(eeg_uv, planted, NO_ICA)
    kept = cleaned_with(eeg_uv, planted, NO_ICA, noisy="keep")
    assert "interpolate" in repaired.report.stages
    assert "interpolate" not in kept.report.stages
    error = (repaired.eeg_uv - truth).std(axis=1) / truth.std(axis=1)
    spoilt = (kept.eeg_uv - truth).std(axis=1) / truth.std(axis=1)
    assert error[row] < 0.6 < 5 < spoilt[row]
    assert np.corrcoef(repaired.eeg_uv[row], truth[row])[0, 1] > 0.85
    others = np.arange(16) != row
    assert error[others].max() < 0.1 < 0.5 < spoilt[others].max()
    # No worse than the mean of the three nearest electrodes.
    places = positions(planted.channels)
    near = np.argsort(-(places @ places[row]))[1:4]
    neighbours = truth[near].mean(axis=0)
    assert error[row] < (neighbours - truth[row]).std() / truth[row].std()


def test_only_the_bad_stretch_is_replaced(planted: Any) -> None:
    eeg_uv = planted.recording_uv
    row = row_of(planted, "P8")
    eeg_uv[row, 50 * HZ : 60 * HZ] = eeg_uv[row, 50 * HZ]
    settings = NO_ICA.model_copy(update={"reference": "none"})
    repaired = cleaned_with(eeg_uv, planted, settings).eeg_uv
    kept = cleaned_with(eeg_uv, planted, settings, flat="keep").eeg_uv
    changed = np.flatnonzero((repaired != kept).any(axis=0))
    assert (changed[0], changed[-1]) == (49 * HZ, 61 * HZ - 1)
    assert np.flatnonzero((repaired != kept).any(axis=1)).tolist() == [row]
    weights = spline_weights(tuple(name for name in planted.channels if name != "P8"), ("P8",))
    part = slice(49 * HZ, 61 * HZ)
    others = np.arange(16) != row
    np.testing.assert_allclose(repaired[row, part], (weights @ kept[others, part])[0], atol=1e-9)


def test_a_repair_finds_its_place_after_resampling(planted: Any) -> None:
    eeg_uv = planted.recording_uv
    row = row_of(planted, "Cz") if "Cz" in planted.channels else 4
    eeg_uv[row, 20 * HZ : 30 * HZ] = 0.0
    repair = repair_of(inspect(eeg_uv, planted), planted)
    settings = NO_ICA.model_copy(update={"reference": "none"})
    pieces = [(0, 80 * HZ)]
    plain = clean_recording(eeg_uv, pieces, planted.channels, HZ, settings, resample_hz=100)
    done = clean_recording(eeg_uv, pieces, planted.channels, HZ, settings, resample_hz=100, repair=repair)
    changed = np.flatnonzero((done.eeg_uv != plain.eeg_uv).any(axis=0))
    assert (changed[0], changed[-1]) == (1900, 3099)


@pytest.mark.parametrize("n_bad", [1, 3])
def test_weights_are_those_of_mne(n_bad: int) -> None:
    names = canonical_names(["AF3", "F7", "F3", "FC5", "T7", "P7", "O1", "O2", "P8", "T8", "FC6", "F4", "F8", "AF4"])
    eeg = np.random.default_rng(5).standard_normal((14, 200))
    raw = mne.io.RawArray(eeg, mne.create_info(list(names), 128.0, "eeg"), verbose="error")
    places = dict(zip(names, 0.1 * positions(names), strict=True))
    raw.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"), verbose="error")
    bad = names[4 : 4 + n_bad]
    raw.info["bads"] = list(bad)
    expected = raw.interpolate_bads(origin=(0, 0, 0), verbose="error").get_data(picks=list(bad))
    sources = tuple(name for name in names if name not in bad)
    weights = spline_weights(sources, bad)
    np.testing.assert_allclose(weights @ eeg[[names.index(name) for name in sources]], expected, atol=1e-9)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)


def test_rejected_stretches_stay_out_of_the_fit_and_pieces_apart(planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[tuple[int, int], ...]] = []
    fit_copy = clean_module._fit_copy

    def watched(eeg_uv: Array, spans: tuple[tuple[int, int], ...], *others: Any) -> Any:
        seen.append(spans)
        return fit_copy(eeg_uv, spans, *others)

    monkeypatch.setattr(clean_module, "_fit_copy", watched)
    eeg_uv = planted.recording_uv
    eeg_uv[:, 30 * HZ : 34 * HZ] = 0.0
    eeg_uv[3, 60 * HZ : 65 * HZ] = 0.0  # repaired, so it may be fitted
    pieces = [(0, 50 * HZ), (50 * HZ, 80 * HZ)]
    repair = repair_of(inspect(eeg_uv, planted, pieces), planted)
    done = clean_recording(eeg_uv, pieces, planted.channels, HZ, SignalSettings(), repair=repair)
    assert done.report.stages == ("band_pass", "interpolate", "average_reference", "ica")
    assert seen == [((0, 30 * HZ), (34 * HZ, 50 * HZ), (50 * HZ, 80 * HZ))]
    assert done.eeg_uv.shape == eeg_uv.shape


def test_a_noisy_electrode_does_not_keep_ica_from_finding_blinks(planted: Any) -> None:
    eeg_uv = planted.recording_uv
    eeg_uv[row_of(planted, "O2")] += 300 * np.random.default_rng(6).standard_normal(eeg_uv.shape[1])
    done = cleaned_with(eeg_uv, planted, SignalSettings(ica=IcaSettings(n_components=15)))
    assert done.report.n_components == 14  # one electrode is a mixture of the others
    assert "ocular" in {component.kind for component in done.report.removed}
    np.testing.assert_allclose(done.eeg_uv.mean(axis=0), 0, atol=1e-9)


def test_memory_stays_far_below_a_copy() -> None:
    rng = np.random.default_rng(7)
    eeg_uv = rng.standard_normal((32, 200_000))
    eeg_uv[5] = 0
    pieces = [(0, 200_000)]
    tracemalloc.start()
    inspection = inspect_recording(eeg_uv, pieces, ELECTRODES[:32], 200.0, DEFAULT)
    repair = plan_repair(inspection, ELECTRODES[:32], 50, DEFAULT)
    assert tracemalloc.get_traced_memory()[1] < 0.3 * eeg_uv.nbytes
    tracemalloc.reset_peak()
    done = clean_recording(eeg_uv, pieces, ELECTRODES[:32], 200, NO_ICA, repair=repair)
    assert "interpolate" in done.report.stages
    assert tracemalloc.get_traced_memory()[1] < 2.5 * eeg_uv.nbytes
    tracemalloc.stop()


def test_pieces_shorter_than_a_segment_are_looked_at_too() -> None:
    eeg_uv = 10 * np.random.default_rng(8).standard_normal((5, 300))
    eeg_uv[2, 100:] = 0
    inspection = inspect_recording(eeg_uv, [(0, 100), (100, 300)], ELECTRODES[:5], 128.0, DEFAULT)
    assert inspection.blocks.tolist() == [[0, 100], [100, 300]]
    assert inspection.spectrum is None
    assert inspection.flat.tolist() == [[False, False]] * 2 + [[False, True]] + [[False, False]] * 2


@pytest.mark.parametrize("corpus", ["dasps", "deap", "seed_iv"])
def test_simulated_corpora_raise_no_alarm(corpus: str) -> None:
    opened = open_corpus(corpus, "nowhere")
    settings = SimulateSettings(
        subjects=2, sessions=1, trials=6, time_scale=min(1.0, 10 / opened.catalog.longest_trial_s)
    )
    simulator = BrainSimulator(settings.brain)
    for plan in opened.plan_recordings(settings):
        made = simulator.record(plan)
        edges = np.cumsum([0, *(piece.shape[1] for piece in made)]).tolist()
        eeg_uv = np.concatenate(made, axis=1)
        inspection = inspect_recording(eeg_uv, list(itertools.pairwise(edges)), opened.channels, plan.sfreq_hz, DEFAULT)
        assert not (inspection.flat | inspection.noisy).any()
        assert inspection.rails.sum() == 0


@pytest.mark.real
def test_what_is_noisy_in_real_recordings() -> None:
    """DASPS as its authors cleaned it: no flat electrode, no rails, and one electrode loose in one segment of 276."""
    folder = os.environ.get("EMOD_DASPS")
    if not folder:
        pytest.fail("EMOD_DASPS is not set: give the folder that holds S01preprocessed.mat and sam_ratings.csv")
    corpus = open_corpus("dasps", folder)
    found = []
    for recording in corpus.recordings():
        inspection = inspect_recording(
            recording.eeg_uv, recording.pieces, recording.channels, recording.sfreq_hz, DEFAULT
        )
        for row, piece in {(row, int(inspection.piece_of[at])) for row, at in np.argwhere(inspection.noisy).tolist()}:
            found.append((recording.subject, recording.channels[row], recording.spans[piece].trial))
        assert not inspection.flat.any(), recording.subject
        assert inspection.rails.sum() == 0, recording.subject
        assert inspection.spectrum is not None
        line_db = line_noise_db(inspection.spectrum, corpus.catalog.mains_hz)
        assert line_db is not None
        assert np.median(line_db) < 10, recording.subject
    # It swings by 600 uV there for five seconds, beside electrodes of 20 uV.
    assert found == [("S18", "AF4", "11")]
