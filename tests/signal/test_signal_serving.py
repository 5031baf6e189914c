"""The torch chain against the MNE chain."""

from __future__ import annotations

import mne
import numpy as np
import pytest
import torch

from emod.catalog.signal import IcaSettings, SignalSettings
from emod.signal.clean import clean_recording
from emod.signal.montage import ELECTRODES
from emod.signal.serving import band_taps, clean_windows, normalise_windows
from emod.signal.window import normalise

NO_ICA = SignalSettings(ica=IcaSettings(enabled=False))


@pytest.mark.parametrize("band_hz", [(0.3, 49.0), (1.0, 40.0), (4.0, 45.0), (10.0, 30.0)], ids=str)
@pytest.mark.parametrize("sfreq_hz", [90, 99.99, 100, 128, 200, 250, 256, 300, 512, 1000])
def test_taps_equal_those_of_mne(sfreq_hz: float, band_hz: tuple[float, float]) -> None:
    settings = NO_ICA.model_copy(update={"band_hz": band_hz})
    low_hz, high_hz = settings.pass_band_hz(sfreq_hz)
    expected = mne.filter.create_filter(
        None, sfreq_hz, low_hz, high_hz, h_trans_bandwidth=settings.top_transition_hz, verbose="error"
    )
    taps = band_taps(settings, sfreq_hz)
    assert taps.shape == expected.shape
    np.testing.assert_allclose(taps, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("n_channels", "seconds"), [(1, 1.0), (14, 2.5), (32, 10.0), (8, 11.1), (5, 30.0)])
@pytest.mark.parametrize("sfreq_hz", [90, 128, 200, 250, 256, 300])
def test_windows_equal_recordings_of_one_piece(sfreq_hz: int, n_channels: int, seconds: float) -> None:
    n = int(seconds * sfreq_hz)
    rng = np.random.default_rng(n)
    eeg_uv = 5 * rng.standard_normal((3, n_channels, n)).cumsum(axis=-1) + 4000 * rng.standard_normal(
        (3, n_channels, 1)
    )
    settings = NO_ICA if n_channels > 1 else NO_ICA.model_copy(update={"reference": "none"})
    served, served_scale_uv = normalise_windows(clean_windows(torch.from_numpy(eeg_uv), sfreq_hz, settings), clip=20)
    for window_uv, got, got_scale_uv in zip(eeg_uv, served, served_scale_uv, strict=True):
        cleaned = clean_recording(window_uv, [(0, n)], ELECTRODES[:n_channels], sfreq_hz, settings)
        expected, scale_uv = normalise(cleaned.eeg_uv, clip=20)
        assert got_scale_uv.item() == pytest.approx(float(scale_uv), rel=1e-10)
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 20])
def test_very_short_windows_agree_too(n: int) -> None:
    eeg_uv = np.random.default_rng(n).standard_normal((1, 4, n))
    expected_uv = clean_recording(eeg_uv[0], [(0, n)], ELECTRODES[:4], 128, NO_ICA).eeg_uv
    np.testing.assert_allclose(clean_windows(torch.from_numpy(eeg_uv), 128, NO_ICA)[0].numpy(), expected_uv, atol=1e-11)


@pytest.mark.parametrize("changes", [{"band_pass": False}, {"reference": "none"}], ids=str)
def test_switches_act_alike(changes: dict[str, object]) -> None:
    eeg_uv = np.random.default_rng(0).standard_normal((1, 6, 900)) + 50
    settings = NO_ICA.model_copy(update=changes)
    expected_uv = clean_recording(eeg_uv[0], [(0, 900)], ELECTRODES[:6], 200, settings).eeg_uv
    served_uv = clean_windows(torch.from_numpy(eeg_uv), 200, settings)[0].numpy()
    np.testing.assert_allclose(served_uv, expected_uv, atol=1e-10)
    assert np.abs(served_uv - clean_windows(torch.from_numpy(eeg_uv), 200, NO_ICA)[0].numpy()).max() > 0.1


def test_windows_of_a_batch_do_not_mix_and_float32_is_enough_as_input() -> None:
    batch_uv = 30 * torch.randn(3, 5, 400, generator=torch.Generator().manual_seed(0))
    before = batch_uv.clone()
    together = clean_windows(batch_uv, 128, NO_ICA)
    assert together.dtype == torch.float64
    assert torch.equal(batch_uv, before)
    for window_uv, got in zip(batch_uv, together, strict=True):
        torch.testing.assert_close(clean_windows(window_uv[None], 128, NO_ICA)[0], got, rtol=0, atol=1e-12)


def test_flat_and_bad_windows_and_wrong_shapes() -> None:
    batch_uv = torch.randn(2, 3, 51, generator=torch.Generator().manual_seed(1))
    batch_uv[1] = 4.0
    normalised, scale_uv = normalise_windows(batch_uv, clip=20)
    assert scale_uv[0] > 0
    assert scale_uv[1] == 0
    assert not normalised[1].any()
    assert normalised.dtype == torch.float32
    batch_uv[0, 1, 2] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        normalise_windows(batch_uv, clip=20)
    with pytest.raises(ValueError, match=r"\(3, 51\): it must be \(B, C, T\)"):
        clean_windows(batch_uv[0], 128, NO_ICA)
