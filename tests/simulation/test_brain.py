from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from pydantic import ValidationError
from scipy.signal import welch

from emod.catalog.simulation import SimulationSettings
from emod.simulation import BrainSimulator, Passage, RecordingPlan
from emod.simulation.brain import _blocks, _far_dipoles, _shaped_noise, _sphere_leads

Array = npt.NDArray[np.float64]

SITES = ("Fp1", "Fp2", "F3", "F4", "F7", "F8", "Fz", "Cz", "T7", "T8", "P3", "P4", "O1", "O2")
# One rhythm at a time: everything else silent, so a log-power difference is the shift itself.
SILENT = {
    "background_moment_nam": 0.0,
    "theta_moment_nam": 0.0,
    "alpha_moment_nam": 0.0,
    "frontal_alpha_moment_nam": 0.0,
    "beta_moment_nam": 0.0,
    "gamma_moment_nam": 0.0,
    "sensor_noise_uv": 0.0,
    "sensitivity_sd": 0.0,
}

ARTEFACTS = ("blink_uv", "saccade_uv", "muscle_burst_uv", "muscle_tonic_uv", "mains_uv", "drift_uv")


def clip(valence: float, arousal: float, duration_s: float = 12.0, trial: str = "1", stimulus: str = "a") -> Passage:
    return Passage(duration_s, trial, stimulus, valence, arousal)


def cleaned(*passages: Passage, **changes: Any) -> RecordingPlan:
    plan = RecordingPlan("deap", "1", "1", SITES, 128.0, 50.0, (passages,), artefacts=False)
    return replace(plan, **changes)


def record(plan: RecordingPlan, **settings: Any) -> Array:
    (eeg_uv,) = BrainSimulator(SimulationSettings(**settings)).record(plan)
    return eeg_uv


def band_power(eeg_uv: Array, band_hz: tuple[float, float], sfreq_hz: float = 128.0) -> Array:
    frequencies_hz, power = welch(eeg_uv, sfreq_hz, nperseg=round(2 * sfreq_hz))
    inside = (frequencies_hz >= band_hz[0]) & (frequencies_hz <= band_hz[1])
    return np.asarray(power[..., inside].mean(axis=-1))


def log_ratio(a: Array, b: Array) -> Array:
    return np.asarray(np.log(np.mean(a**2, axis=1) / np.mean(b**2, axis=1)))


# --- what a draw depends on


def test_equal_plans_give_equal_arrays_whatever_was_recorded_before() -> None:
    plan = replace(cleaned(clip(1.0, 2.0)), artefacts=True)
    simulator = BrainSimulator(SimulationSettings())
    first = simulator.record(plan)[0]
    simulator.record(replace(plan, subject="2", session="9"))
    np.testing.assert_array_equal(simulator.record(plan)[0], first)
    np.testing.assert_array_equal(record(plan), first)


@pytest.mark.parametrize(
    "kind", ["background_moment_nam", "sensor_noise_uv", "muscle_tonic_uv", "blink_uv", "saccade_uv", "drift_uv"]
)
@pytest.mark.parametrize("change", ["corpus", "subject", "session", "seed", "piece"])
def test_every_name_and_the_seed_change_every_part_of_the_signal(kind: str, change: str) -> None:
    settings: dict[str, Any] = SILENT | dict.fromkeys(ARTEFACTS, 0.0) | {kind: 10.0}
    plan = cleaned(clip(0.0, 0.0, 60.0), artefacts=True)
    here = record(plan, **settings)
    if change == "piece":
        there = BrainSimulator(SimulationSettings(**settings)).record(replace(plan, pieces=plan.pieces * 2))[1]
    elif change == "seed":
        there = record(plan, **settings, seed=1)
    else:
        renamed: dict[str, Any] = {change: "other"}
        there = record(replace(plan, **renamed), **settings)
    assert here.std() > 0
    # differences, because a few cycles of slow drift correlate by chance
    pairs = zip(np.diff(here), np.diff(there), strict=True)
    assert np.mean([abs(np.corrcoef(a, b)[0, 1]) for a, b in pairs]) < 0.2


def test_a_montage_in_another_order_or_smaller_has_the_same_rows() -> None:
    plan = replace(cleaned(clip(3.0, -2.0, 20.0)), artefacts=True)
    whole = record(plan)
    order = np.random.default_rng(0).permutation(len(SITES))
    for chosen in (order, order[:3]):
        part = record(replace(plan, channels=tuple(SITES[i] for i in chosen)))
        np.testing.assert_allclose(part, whole[chosen], rtol=0, atol=1e-9)


def test_neighbouring_electrodes_share_sources() -> None:
    channels = ("O1", "Oz", "Fp1")
    correlation = np.asarray(np.corrcoef(record(cleaned(clip(0.0, 0.0, 60.0), channels=channels))))
    near, far = correlation[0, 1:]
    assert near > 0.5
    assert near > far + 0.2


# --- what emotion does


@pytest.mark.parametrize("artefacts", [False, True])
@pytest.mark.parametrize("effect", ["none", 0.0])
def test_without_effect_nothing_depends_on_the_labels(effect: Any, artefacts: bool) -> None:
    pieces = [
        (Passage(2.0, "1"), clip(v, a, 6.0, "1", s), Passage(1.0), clip(-a, v, 6.0, "2", s))
        for v, a, s in ((4.0, 4.0, "a"), (-4.0, 1.0, "b"), (0.0, 0.0, "c"))
    ]
    first, *others = (record(cleaned(*piece, artefacts=artefacts), effect=effect) for piece in pieces)
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_a_clip_leaves_no_trace_beside_its_state_and_rest_is_the_origin() -> None:
    here = record(cleaned(clip(0.0, 0.0, stimulus="a")), effect=1.0)
    np.testing.assert_array_equal(here, record(cleaned(clip(0.0, 0.0, stimulus="b")), effect=1.0))
    np.testing.assert_array_equal(here, record(cleaned(Passage(12.0, "1")), effect=1.0))
    assert np.abs(here - record(cleaned(clip(0.0, 4.0)), effect=1.0)).max() > 1.0


def test_a_clip_can_be_given_a_trace_that_everybody_shares() -> None:
    """Of its own power in every rhythm, whoever watches and whatever is felt; rest has none."""
    settings = SILENT | {"alpha_moment_nam": 10.0, "trial_log_power_sd": 0.0, "effect": 1.0}

    def shift(stimulus: str, subject: str, valence: float, **changes: Any) -> float:
        passage = clip(valence, 0.0, 40.0, stimulus=stimulus)
        with_trace = record(cleaned(passage, subject=subject, **changes), **settings, clip_log_power_sd=1.0)
        without = record(cleaned(passage, subject=subject, **changes), **settings)
        return float(log_ratio(with_trace, without).mean())

    first = shift("a", "1", 0.0)
    assert abs(first) > 0.05
    assert shift("a", "2", 3.0) == pytest.approx(first, abs=1e-6)
    assert abs(shift("b", "1", 0.0) - first) > 0.05
    assert abs(shift("a", "1", 0.0, corpus="amigos") - first) > 0.05
    rest = cleaned(Passage(12.0, "1"))
    np.testing.assert_array_equal(record(rest, **settings), record(rest, **settings, clip_log_power_sd=1.0))


@pytest.mark.parametrize(
    ("rhythm", "valence", "arousal", "site", "shift"),
    [
        ("alpha_moment_nam", 0.0, 1.0, "O1", -0.8),
        ("alpha_moment_nam", 1.0, 0.0, "O1", 0.0),
        ("beta_moment_nam", 0.0, 1.0, "F3", 0.5),
        ("beta_moment_nam", 1.0, 0.0, "F3", 0.0),
        ("gamma_moment_nam", 0.0, 1.0, "T7", 0.7),
        ("gamma_moment_nam", 1.0, 0.0, "T7", 0.3),
        ("background_moment_nam", 1.0, 1.0, "Cz", 0.0),
        ("theta_moment_nam", 1.0, 1.0, "Fz", 0.0),
    ],
)
@pytest.mark.parametrize(("effect", "size"), [("weak", 0.5), ("medium", 1.0), ("strong", 2.0), (1.5, 1.5)])
def test_log_power_moves_by_coordinate_times_effect(
    rhythm: str, valence: float, arousal: float, site: str, shift: float, effect: Any, size: float
) -> None:
    # 'valence, arousal' is the direction; at +-4 along it a rhythm stands 2 * shift * size apart
    settings = SILENT | {rhythm: 10.0, "effect": effect}
    up = record(cleaned(clip(4 * valence, 4 * arousal)), **settings)
    down = record(cleaned(clip(-4 * valence, -4 * arousal)), **settings)
    half = record(cleaned(clip(2 * valence, 2 * arousal)), **settings)
    row = SITES.index(site)
    assert log_ratio(up, down)[row] == pytest.approx(2 * shift * size, abs=1e-6)
    assert log_ratio(up, half)[row] == pytest.approx(0.5 * shift * size, abs=1e-6)


def test_valence_raises_right_frontal_alpha_over_left() -> None:
    settings = SILENT | {"frontal_alpha_moment_nam": 10.0, "effect": 1.0}
    up, down = (record(cleaned(clip(v, 0.0, 60.0)), **settings) for v in (4.0, -4.0))
    ratio = dict(zip(SITES, log_ratio(up, down), strict=True))
    # far-side dipoles leak a little into each site
    assert ratio["F4"] == pytest.approx(0.8, abs=0.25)
    assert ratio["F3"] == pytest.approx(-0.8, abs=0.25)
    calm, roused = (record(cleaned(clip(0.0, a)), **settings) for a in (-4.0, 4.0))
    np.testing.assert_array_equal(calm, roused)


def test_directions_show_at_the_scalp_with_the_committed_physiology() -> None:
    subjects = [str(i) for i in range(10)]

    def mean_log_band(valence: float, arousal: float, band_hz: tuple[float, float]) -> dict[str, float]:
        plans = [cleaned(clip(valence, arousal, 30.0), subject=subject) for subject in subjects]
        logs = [np.log(band_power(record(plan, effect=1.0), band_hz)) for plan in plans]
        return dict(zip(SITES, np.mean(logs, axis=0).tolist(), strict=True))

    roused, calm = (mean_log_band(0.0, a, (8.0, 12.5)) for a in (4.0, -4.0))
    assert roused["O1"] < calm["O1"] - 0.4
    assert roused["O2"] < calm["O2"] - 0.4
    for band_hz, site in (((15.0, 25.0), "F4"), ((35.0, 60.0), "T8")):
        assert mean_log_band(0.0, 4.0, band_hz)[site] > mean_log_band(0.0, -4.0, band_hz)[site] + 0.15
    glad, sad = (mean_log_band(v, 0.0, (8.0, 12.5)) for v in (4.0, -4.0))
    assert glad["F4"] - glad["F3"] > sad["F4"] - sad["F3"] + 0.2


def test_subjects_answer_with_slopes_of_their_own_about_the_common_one() -> None:
    settings = SILENT | {"alpha_moment_nam": 10.0, "effect": 1.0, "sensitivity_sd": 0.5}
    slopes = []
    for subject in range(30):
        up, down = (
            record(cleaned(clip(0.0, a, 2.0), subject=str(subject), channels=("O1",)), **settings) for a in (4.0, -4.0)
        )
        slopes.append(log_ratio(up, down)[0] / 2)
    # mean -0.8, sd 0.4; bounds at four standard errors of 30 draws
    assert np.mean(slopes) == pytest.approx(-0.8, abs=0.3)
    assert np.std(slopes) == pytest.approx(0.4, abs=0.2)


def test_power_changes_with_the_passage_and_has_settled_after_the_transition() -> None:
    settings = SILENT | {"alpha_moment_nam": 10.0, "effect": 1.0, "trial_log_power_sd": 0.0}
    moved = record(cleaned(Passage(8.0, "1"), clip(0.0, 4.0, 12.0)), **settings)
    still = record(cleaned(Passage(8.0, "1"), clip(0.0, 0.0, 12.0)), **settings)
    onset, settled = 8 * 128, 9 * 128
    np.testing.assert_array_equal(moved[:, :onset], still[:, :onset])
    np.testing.assert_allclose(moved[:, settled:], still[:, settled:] * np.exp(-0.4), atol=1e-9)


# --- what has nothing to do with emotion


def test_trials_fluctuate_and_a_baseline_fluctuates_with_its_trial() -> None:
    quiet = SILENT | {"alpha_moment_nam": 10.0, "drift_log_power_sd_per_hour": 0.0, "transition_s": 0.01}
    plan = cleaned(*(passage for i in range(40) for passage in (Passage(1.0, str(i)), clip(0.0, 0.0, 1.0, str(i)))))
    settled = slice(10, None)
    steady = record(plan, **quiet, trial_log_power_sd=0.0)[0].reshape(40, 2, 128)[..., settled]
    moving = record(plan, **quiet, trial_log_power_sd=0.35)[0].reshape(40, 2, 128)[..., settled]
    shift = np.log(np.mean(moving**2, axis=-1) / np.mean(steady**2, axis=-1))
    np.testing.assert_allclose(shift[:, 0], shift[:, 1], atol=1e-6)
    assert np.std(shift[:, 0]) == pytest.approx(0.35, abs=0.16)


def test_rhythms_drift_linearly_over_the_session_across_pieces() -> None:
    quiet: dict[str, Any] = SILENT | {"alpha_moment_nam": 10.0, "trial_log_power_sd": 0.0}
    plan = cleaned(pieces=tuple((clip(0.0, 0.0, 600.0, str(i)),) for i in range(3)), channels=("O1",), sfreq_hz=64.0)
    steady = BrainSimulator(SimulationSettings(**quiet, drift_log_power_sd_per_hour=0.0)).record(plan)
    moving = BrainSimulator(SimulationSettings(**quiet, drift_log_power_sd_per_hour=0.3)).record(plan)
    shift = np.array([log_ratio(m, s)[0] for m, s in zip(moving, steady, strict=True)])
    assert abs(shift[0]) > 1e-3
    np.testing.assert_allclose(shift / shift[0], [1.0, 3.0, 5.0], rtol=0.03)  # at 5, 15 and 25 minutes


def test_subjects_differ_in_anatomy_power_and_alpha_frequency() -> None:
    peaks_hz, powers, maps = [], [], []
    for subject in range(8):
        eeg_uv = record(cleaned(clip(0.0, 0.0, 40.0), subject=str(subject)))
        frequencies_hz, power = welch(eeg_uv, 128.0, nperseg=512)
        alpha = (frequencies_hz >= 7.5) & (frequencies_hz <= 13.0)
        occipital = power[[SITES.index("O1"), SITES.index("O2")]].mean(axis=0)
        peaks_hz.append(frequencies_hz[alpha][np.argmax(occipital[alpha])])
        frontal = power[[SITES.index("Fp1"), SITES.index("Fp2")]][:, alpha].mean()
        assert occipital[alpha].mean() > frontal
        powers.append(np.log(power.mean()))
        maps.append(np.log(power[:, alpha].mean(axis=1)))
    assert 8.0 <= min(peaks_hz) < max(peaks_hz) - 1.0 < 11.5
    assert np.std(powers) > 0.15
    assert np.std(np.array(maps) - np.mean(maps, axis=1, keepdims=True), axis=0).mean() > 0.15


def test_a_second_session_is_the_same_person() -> None:
    def log_spectrum(subject: str, session: str) -> Array:
        plan = cleaned(clip(0.0, 0.0, 30.0), subject=subject, session=session)
        # one trial's fluctuation is no trait; it would have to be averaged over many trials
        eeg_uv = record(plan, trial_log_power_sd=0.0)
        return np.asarray(np.log(welch(eeg_uv, 128.0, nperseg=256)[1][:, 2:80]))

    n = 16
    people = [[log_spectrum(str(s), k) for k in "12"] for s in range(n)]
    within = np.mean([np.abs(a - b).mean() for a, b in people])
    between = np.mean([np.abs(people[i][0] - people[j][1]).mean() for i in range(n) for j in range(n) if i != j])
    assert within < 0.75 * between


# --- what the recording looks like


def test_amplitudes_are_those_of_scalp_eeg() -> None:
    sd_uv = [
        record(cleaned(clip(0.0, 0.0, 30.0), subject=str(s), band_hz=(0.3, 60.0), average_reference=True)).std(axis=1)
        for s in range(8)
    ]
    assert 5.0 < np.median(sd_uv) < 20.0
    assert np.min(sd_uv) > 2.0
    assert np.max(sd_uv) < 40.0


def test_the_background_falls_as_its_exponent_says() -> None:
    settings = SILENT | {"background_moment_nam": 20.0, "background_exponent_sd": 0.0, "gain_sd": 0.0}
    frequencies_hz, power = welch(record(cleaned(clip(0.0, 0.0, 300.0)), **settings), 128.0, nperseg=512)
    inside = (frequencies_hz > 3) & (frequencies_hz < 50)
    slope, _ = np.polyfit(np.log(1.0 + frequencies_hz[inside]), np.log(power[:, inside].mean(axis=0)), 1)
    assert slope == pytest.approx(-1.3, abs=0.05)


def test_blinks_are_frontal_positive_and_of_their_documented_height() -> None:
    only = SILENT | dict.fromkeys(set(ARTEFACTS) - {"blink_uv"}, 0.0)
    frontal_peaks = []
    for subject in range(12):
        channels = ("Fp1", "Fp2", "Fz", "Pz", "Oz")
        plan = cleaned(clip(0.0, 0.0, 60.0), subject=str(subject), channels=channels, artefacts=True)
        eeg_uv = record(plan, **only)
        peak = eeg_uv[:, np.argmax(eeg_uv[0])]
        frontal_peaks.append(peak[:2].mean())
        assert peak[:2].min() > peak[2] > abs(peak[3:]).max()
        assert (eeg_uv[0] > peak[0] / 4).mean() < 0.25  # mostly the eyes are open
    assert 100.0 < np.median(frontal_peaks) < 250.0  # the largest of a minute, medium one 140


def test_gaze_is_opposite_at_the_two_temples() -> None:
    only = SILENT | dict.fromkeys(set(ARTEFACTS) - {"saccade_uv"}, 0.0)
    eeg_uv = record(cleaned(clip(0.0, 0.0, 60.0), artefacts=True), **only)
    assert np.corrcoef(eeg_uv[SITES.index("F7")], eeg_uv[SITES.index("F8")])[0, 1] < -0.95
    assert 10.0 < np.abs(eeg_uv[SITES.index("F8")] - eeg_uv[SITES.index("F7")]).max() < 300.0


def test_muscle_is_temporal_and_broad_band() -> None:
    only = SILENT | dict.fromkeys(("blink_uv", "saccade_uv", "mains_uv", "drift_uv"), 0.0)
    eeg_uv = record(cleaned(clip(0.0, 0.0, 120.0), sfreq_hz=256.0, artefacts=True), **only)
    rms = dict(zip(SITES, eeg_uv.std(axis=1), strict=True))
    assert min(rms["F7"], rms["F8"]) > 3 * rms["Cz"]
    assert band_power(eeg_uv, (25.0, 95.0), 256.0).mean() > 100 * band_power(eeg_uv, (1.0, 8.0), 256.0).mean()


@pytest.mark.parametrize("mains_hz", [50.0, 60.0])
def test_mains_stands_at_its_frequency_unless_the_owner_cleaned(mains_hz: float) -> None:
    plan = cleaned(clip(0.0, 0.0, 40.0), mains_hz=mains_hz, sfreq_hz=200.0, artefacts=True)
    frequencies_hz, power = welch(record(plan), 200.0, nperseg=800)
    above = frequencies_hz > 40
    assert set(frequencies_hz[above][np.argmax(power[:, above], axis=1)]) == {mains_hz}
    amplitude_uv = np.sqrt(2 * power[:, abs(frequencies_hz - mains_hz) < 1].sum(axis=1) * frequencies_hz[1])
    assert 1.0 < np.median(amplitude_uv) < 5.0
    clean = welch(record(replace(plan, artefacts=False)), 200.0, nperseg=800)[1]
    line = frequencies_hz == mains_hz
    beside = (abs(frequencies_hz - mains_hz) > 1) & (abs(frequencies_hz - mains_hz) < 6)
    np.testing.assert_array_less(clean[:, line].ravel(), 2.5 * clean[:, beside].mean(axis=1))


def test_the_owners_band_and_reference_are_kept() -> None:
    plan = cleaned(clip(1.0, 1.0, 40.0), sfreq_hz=200.0)
    whole = record(plan)
    owner = record(replace(plan, band_hz=(4.0, 45.0), average_reference=True))
    np.testing.assert_allclose(owner.mean(axis=0), 0.0, atol=1e-9)
    assert np.abs(whole.mean(axis=0)).max() > 1.0
    for outside_hz in ((0.5, 2.0), (60.0, 90.0)):
        assert band_power(owner, outside_hz, 200.0).max() < 0.02 * band_power(whole, outside_hz, 200.0).max()
    # inside the band the owner's cleaning changes nothing but the reference
    rereferenced = whole - whole.mean(axis=0)
    np.testing.assert_allclose(
        band_power(owner, (8.0, 30.0), 200.0), band_power(rereferenced, (8.0, 30.0), 200.0), rtol=0.05
    )


def test_an_edge_outside_the_spectrum_is_not_applied() -> None:
    plan = cleaned(clip(0.0, 0.0), sfreq_hz=128.0)
    np.testing.assert_array_equal(record(replace(plan, band_hz=(0.0, 75.0))), record(plan))


@pytest.mark.parametrize("sfreq_hz", [64.0, 128.0, 300.0, 1000.0])
def test_any_rate_keeps_lengths_and_the_power_it_can_hold(sfreq_hz: float) -> None:
    plan = cleaned(Passage(1.3, "1"), clip(0.0, 0.0, 20.01), sfreq_hz=sfreq_hz)
    eeg_uv = record(replace(plan, artefacts=True))
    assert eeg_uv.shape == (len(SITES), round(1.3 * sfreq_hz) + round(20.01 * sfreq_hz))
    assert np.isfinite(eeg_uv).all()
    gamma = SILENT | {"gamma_moment_nam": 4.0, "subject_log_power_sd": 0.0, "session_log_power_sd": 0.0}
    power = np.mean(record(plan, **gamma) ** 2)
    whole = np.mean(record(replace(plan, sfreq_hz=500.0), **gamma) ** 2)
    assert power < (0.3 if sfreq_hz == 64.0 else 1.4) * whole  # cut at Nyquist, not folded or squeezed below it


def test_what_cannot_be_simulated_is_refused() -> None:
    with pytest.raises(ValueError, match="sfreq_hz is 32"):
        record(cleaned(clip(0.0, 0.0), sfreq_hz=32.0))
    with pytest.raises(ValueError, match="'XX9'"):
        record(cleaned(clip(0.0, 0.0), channels=("Cz", "XX9")))
    with pytest.raises(ValueError, match="twice"):
        record(cleaned(clip(0.0, 0.0), channels=("Cz", "Cz")))


# --- the parts it is made of


def test_shaped_noise_has_the_power_it_was_given() -> None:
    power = np.zeros((2, 65))
    power[0, 8], power[1, 3:20] = 4.0, 0.5
    draws = np.stack([_shaped_noise(np.random.default_rng(i), power, 128) for i in range(400)])
    np.testing.assert_allclose((draws**2).mean(axis=(0, 2)), power.sum(axis=1), rtol=0.15)
    spectrum = np.abs(np.fft.rfft(draws[0], axis=1)) ** 2
    assert np.all(spectrum[power == 0] < 1e-18 * 128**2)


@pytest.mark.parametrize("n_samples", [1, 9, 10, 11, 35])
def test_blocks_cover_a_piece_with_constant_power(n_samples: int) -> None:
    power = np.zeros(n_samples)
    for _, inside, of_block, fade in _blocks(n_samples, 10):
        assert 0 <= of_block.start <= of_block.stop <= 20
        power[inside] += fade**2
    np.testing.assert_allclose(power, 1.0)


def test_a_radial_dipole_is_strongest_above_itself_and_falls_with_the_square_of_the_head() -> None:
    electrodes = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    up = np.array([[0.0, 0.0, 1.0]])
    small, large = (_sphere_leads(electrodes * r, r, 0.7 * r * up, up)[:, 0] for r in (0.08, 0.16))
    np.testing.assert_allclose(small, 4 * large, rtol=1e-3)
    assert small[0] > 0 > small[2]
    assert small[0] > 3 * max(abs(small[1:]))
    assert 0.05 < small[0] < 1.0  # 10 nAm make about 2 microvolt


def test_far_dipoles_follow_coulomb() -> None:
    place, axis = np.zeros((1, 3)), np.array([0.0, 0.0, 1.0])
    electrodes = np.array([[0.0, 0.0, 2.0], [0.0, 0.0, -2.0], [3.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
    np.testing.assert_allclose(_far_dipoles(place, axis, electrodes)[:, 0], [0.25, -0.25, 0.0, 1 / np.sqrt(8)])


# --- its settings


def test_the_committed_file_is_the_defaults() -> None:
    path = Path(__file__).parents[2] / "catalogs" / "simulation.yaml"
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert written == SimulationSettings().model_dump(mode="json")


@pytest.mark.parametrize(
    ("effect", "size"), [("none", 0.0), ("weak", 0.5), ("medium", 1.0), ("strong", 2.0), (0.7, 0.7), (2, 2.0)]
)
def test_effects_have_sizes(effect: Any, size: float) -> None:
    assert SimulationSettings(effect=effect).effect_size == size


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("effect", "huge"),
        ("effect", -0.1),
        ("seed", -1),
        ("blinks", 3.0),
        ("gamma_hz", (70.0, 30.0)),
        ("theta_hz", 0.0),
    ],
)
def test_settings_that_mean_nothing_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=field):
        SimulationSettings(**{field: value})
