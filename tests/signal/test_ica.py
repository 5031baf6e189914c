"""ICA against recordings whose brain signal, blinks and muscle bursts are known apart."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import mne
import numpy as np
import numpy.typing as npt
import pytest

from emod.catalog.signal import IcaSettings, SignalSettings
from emod.signal import clean as clean_module
from emod.signal.clean import Cleaned, clean_recording

Array = npt.NDArray[np.float64]
NO_ICA = SignalSettings(ica=IcaSettings(enabled=False))


def run(eeg_uv: Array, planted: Any, settings: SignalSettings, n_pieces: int = 1, **options: Any) -> Cleaned:
    edges = np.linspace(0, eeg_uv.shape[1], n_pieces + 1).astype(int)
    pieces = list(itertools.pairwise(edges))
    return clean_recording(eeg_uv, pieces, planted.channels, planted.sfreq_hz, settings, **options)


@pytest.fixture(scope="module")
def reference(planted: Any) -> dict[str, Array]:
    """Each ingredient through the same filter and reference: the chain is linear while ICA is off."""
    parts = {"brain": planted.brain_uv, "blinks": planted.blinks_uv, "muscle": planted.muscle_uv}
    return {name: run(part, planted, NO_ICA).eeg_uv for name, part in parts.items()}


@pytest.fixture(scope="module")
def cleaned(planted: Any) -> Cleaned:
    return run(planted.recording_uv, planted, SignalSettings(), n_pieces=4)


def left_over(out_uv: Array, brain_uv: Array, artefact_uv: Array) -> float:
    """Share of the artefact's variance still in the signal, at the electrode that saw it best."""
    row = int(artefact_uv.std(axis=1).argmax())
    course = artefact_uv[row] - artefact_uv[row].mean()
    return float(((out_uv[row] - brain_uv[row]) @ course / (course @ course)) ** 2)


def correlation(a_uv: Array, b_uv: Array) -> Array:
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(a_uv, b_uv, strict=True)])


def test_planted_blinks_and_bursts_go_and_the_brain_stays(
    planted: Any, reference: dict[str, Array], cleaned: Cleaned
) -> None:
    brain_uv = reference["brain"]
    dirty_uv = sum(reference.values())
    assert left_over(dirty_uv, brain_uv, reference["blinks"]) > 0.9
    assert left_over(cleaned.eeg_uv, brain_uv, reference["blinks"]) < 0.01
    assert left_over(cleaned.eeg_uv, brain_uv, reference["muscle"]) < 0.02
    before, after = correlation(dirty_uv, brain_uv), correlation(cleaned.eeg_uv, brain_uv)
    assert before[0] < 0.4 < 0.75 < after[0]
    assert after.mean() > 0.93 > before.mean() + 0.1
    error_uv2 = ((cleaned.eeg_uv - brain_uv) ** 2).mean()
    assert error_uv2 < 0.05 * ((dirty_uv - brain_uv) ** 2).mean()
    for kind, electrodes in (("ocular", 1), ("muscle", 2)):
        assert sum(component.kind == kind for component in cleaned.report.removed) == electrodes
    assert cleaned.report.stages == ("band_pass", "average_reference", "ica")


def test_alpha_at_the_back_of_the_head_is_kept(planted: Any, reference: dict[str, Array], cleaned: Cleaned) -> None:
    for name in ("O1", "O2"):
        row = planted.channels.index(name)
        alpha = [
            mne.filter.filter_data(signal[row], planted.sfreq_hz, 8, 12, verbose="error")
            for signal in (reference["brain"], cleaned.eeg_uv)
        ]
        assert np.corrcoef(alpha)[0, 1] > 0.98
        assert alpha[1].std() == pytest.approx(alpha[0].std(), rel=0.1)


def test_the_average_reference_survives_ica(cleaned: Cleaned) -> None:
    np.testing.assert_allclose(cleaned.eeg_uv.mean(axis=0), 0, atol=1e-9)


def test_a_clean_recording_loses_nothing(planted: Any, reference: dict[str, Array]) -> None:
    done = run(planted.brain_uv, planted, SignalSettings())
    assert done.report.removed == ()
    np.testing.assert_array_equal(done.eeg_uv, reference["brain"])


class CountedIca(mne.preprocessing.ICA):  # type: ignore[misc]
    """Counts fits and keeps what they saw."""

    fits: list[dict[str, Any]] = []  # noqa: RUF012

    def fit(self, inst: Any, **options: Any) -> Any:
        sfreq_hz = inst.info["sfreq"]
        power = np.abs(np.fft.rfft(inst.get_data(picks="eeg")[0])) ** 2
        slow = power[np.fft.rfftfreq(inst.n_times, 1 / sfreq_hz) < 0.2].sum() / power.sum()
        self.fits.append({"sfreq_hz": sfreq_hz, "n": inst.n_times, "slow": slow})
        return super().fit(inst, **options)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(mne.preprocessing, "ICA", CountedIca)
    CountedIca.fits = []
    return CountedIca.fits


def test_ica_is_fitted_once_on_all_pieces_of_a_high_passed_decimated_copy(
    planted: Any, fits: list[dict[str, Any]]
) -> None:
    time_s = np.arange(planted.recording_uv.shape[1]) / 128
    drift_uv = planted.recording_uv + 300 * np.sin(2 * np.pi * 0.05 * time_s)
    settings = SignalSettings(band_pass=False, reference="none", ica=IcaSettings(fit_hz=60, fit_minutes=0.5))
    run(drift_uv, planted, settings, n_pieces=5)
    assert len(fits) == 1
    assert fits[0]["sfreq_hz"] == 64
    assert fits[0]["n"] == 3 * 8 * 64  # three sections of eight seconds: half a minute at 60 Hz is not exceeded
    assert fits[0]["slow"] < 0.1  # 0.99 without the high-pass


def test_sections_for_the_fit_are_spread_over_the_recording() -> None:
    everything = clean_module._spread_sections([700, 64], 64.0, 764)
    assert [list(itertools.chain(*(range(*pair) for pair in kept))) for kept in everything] == [
        list(range(700)),
        list(range(64)),
    ]
    some = clean_module._spread_sections([6400] * 4, 64.0, 6400)  # 40 sections of 10 s, a quarter of them
    assert [len(kept) for kept in some] == [3, 2, 2, 3]
    assert sum(stop - start for kept in some for start, stop in kept) == 6400
    assert (some[0][0], some[3][-1]) == ((0, 640), (5760, 6400))


@pytest.mark.parametrize(
    ("changes", "stages_done", "kinds"),
    [
        ({}, {"ocular"}, {"muscle"}),
        ({}, {"muscle", "band_pass"}, {"ocular"}),
        ({"muscle": False}, set(), {"ocular"}),
        ({"ocular": False}, set(), {"muscle"}),
        ({"method": "fastica"}, set(), {"ocular", "muscle"}),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, set) else str(value),  # one name in every process
)
def test_only_the_kinds_sought_are_removed(
    planted: Any, changes: dict[str, Any], stages_done: set[str], kinds: set[str]
) -> None:
    settings = SignalSettings(ica=IcaSettings(n_components=12, **changes))
    done = run(planted.recording_uv, planted, settings, stages_done=stages_done)
    assert {component.kind for component in done.report.removed} == kinds
    assert done.report.n_components == 12


@pytest.mark.parametrize(
    ("settings", "stages_done", "note"),
    [
        (SignalSettings(), {"ocular", "muscle"}, "ICA skipped: the owner removed the artefacts already"),
        (SignalSettings(ica=IcaSettings(muscle=False)), {"ocular"}, "ICA skipped: the owner"),
        (NO_ICA, set(), None),
    ],
    ids=["both", "the only one", "switched off"],
)
def test_without_anything_to_seek_no_ica_is_fitted(
    planted: Any, fits: list[dict[str, Any]], settings: SignalSettings, stages_done: set[str], note: str | None
) -> None:
    done = run(planted.recording_uv, planted, settings, stages_done=stages_done)
    assert fits == []
    assert done.report.n_components is None
    np.testing.assert_array_equal(done.eeg_uv, run(planted.recording_uv, planted, NO_ICA).eeg_uv)
    assert any(text.startswith(note) for text in done.report.notes) if note else done.report.notes == ()


def test_too_little_to_fit_is_a_note(planted: Any) -> None:
    short = clean_recording(planted.recording_uv[:, :5000], [(0, 5000)], planted.channels, 128, SignalSettings())
    assert short.report.notes == ("ICA skipped: 5000 samples, 5120 needed at 128 Hz",)
    few = clean_recording(planted.recording_uv[:6], [(0, 80 * 128)], planted.channels[:6], 128, SignalSettings())
    assert few.report.notes == ("ICA skipped: 6 electrodes, fewer than 8",)
    off = clean_recording(planted.recording_uv[:6], [(0, 80 * 128)], planted.channels[:6], 128, NO_ICA)
    np.testing.assert_array_equal(few.eeg_uv, off.eeg_uv)


@pytest.mark.parametrize("kind", ["zeros", "one source", "copies"])
def test_signals_ica_cannot_unmix_do_not_stop_the_job(planted: Any, kind: str) -> None:
    eeg_uv = planted.recording_uv.copy()
    if kind == "zeros":
        eeg_uv[:] = 0
    elif kind == "one source":
        eeg_uv = np.outer(np.arange(16.0), eeg_uv[0])
    else:
        eeg_uv[1::2] = eeg_uv[::2]
    done = run(eeg_uv, planted, SignalSettings())
    assert np.isfinite(done.eeg_uv).all()
    if kind != "copies":
        assert done.report.n_components is None
        assert done.report.notes[-1].startswith("ICA skipped: it could not be fitted")
        np.testing.assert_array_equal(done.eeg_uv, run(eeg_uv, planted, NO_ICA).eeg_uv)


def test_the_seed_decides_everything(planted: Any, cleaned: Cleaned) -> None:
    again = run(planted.recording_uv, planted, SignalSettings(), n_pieces=4)
    np.testing.assert_array_equal(again.eeg_uv, cleaned.eeg_uv)
    assert again.report == cleaned.report


def test_a_large_cap_uses_places_too(plant: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    channels = """
        Fp1 Fpz Fp2 AF3 AF4 F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 T7 C5 C3 C1 Cz C2 C4 C6 T8
        TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO5 PO3 POz PO4 PO6 PO8 CB1 O1 Oz O2 CB2
    """
    # Five minutes more would only cost time here.
    monkeypatch.setattr(clean_module, "SAMPLES_PER_SQUARED_SIGNAL", 2)
    recording = plant(tuple(channels.split()), 128.0, 62.0, seed=3)
    done = run(recording.recording_uv, recording, SignalSettings(ica=IcaSettings(n_components=24)))
    assert sorted(component.kind for component in done.report.removed) == ["muscle", "muscle", "ocular"]
    assert all(component.score < 0.98 for component in done.report.removed if component.kind == "muscle")


def test_a_cap_without_frontal_pairs_says_that_eyes_were_not_sought(planted: Any) -> None:
    kept = [i for i, name in enumerate(planted.channels) if name not in {"Fp1", "Fp2", "F7", "F8"}]
    names = [planted.channels[i] for i in kept]
    done = clean_recording(planted.recording_uv[kept], [(0, 80 * 128)], names, 128, SignalSettings())
    assert "ocular components not searched for: no frontal pair of electrodes" in done.report.notes
    assert {component.kind for component in done.report.removed} == {"muscle"}
