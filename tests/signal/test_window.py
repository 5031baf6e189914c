"""Windows and their one scale."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from emod.signal.window import normalise, robust_scale_uv, window_length, window_starts


@pytest.mark.parametrize(
    ("window_s", "sfreq_hz", "samples"),
    [(10, 128, 1280), (1, 200, 200), (0.5, 125, 63), (0.5, 123, 62), (2.5, 1, 3), (0.1, 128, 13), (10, 100.04, 1000)],
)
def test_window_length_is_the_nearest_whole_number(window_s: float, sfreq_hz: float, samples: int) -> None:
    assert window_length(window_s, sfreq_hz) == samples


def test_a_window_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="no sample"):
        window_length(0.001, 128)
    with pytest.raises(ValueError, match="at least 1"):
        window_starts(0, 10, 0)


@pytest.mark.parametrize("start", [0, 3, 1000])
@pytest.mark.parametrize("length", range(0, 34))
def test_windows_tile_the_span(start: int, length: int) -> None:
    starts = window_starts(start, start + length, 8)
    covered = [sample for first in starts for sample in range(first, first + 8)]
    assert covered == list(range(start, start + 8 * (length // 8)))


def test_scale_is_the_median_absolute_deviation_over_all_electrodes() -> None:
    rng = np.random.default_rng(0)
    for shape in ((1, 7), (3, 50), (4, 5, 51), (2, 3, 4, 10)):
        window_uv = rng.standard_t(3, shape) * 10 + 5
        expected = scipy.stats.median_abs_deviation(window_uv.reshape(*shape[:-2], -1), axis=-1, scale="normal")
        np.testing.assert_allclose(robust_scale_uv(window_uv), expected, rtol=1e-12)
    gaussian = 12 * rng.standard_normal((32, 12800))
    assert robust_scale_uv(gaussian) == pytest.approx(12, rel=0.01)


def test_ratios_between_electrodes_survive_and_microvolt_return() -> None:
    rng = np.random.default_rng(1)
    gain = np.array([[1.0], [3.0], [0.2]])
    window_uv = gain * rng.standard_normal((3, 400)) + 7.0
    before = window_uv.copy()
    normalised, scale_uv = normalise(window_uv, clip=1e6)
    assert normalised.dtype == np.float32
    np.testing.assert_array_equal(window_uv, before)
    np.testing.assert_allclose(normalised * scale_uv, window_uv, rtol=1e-6)
    np.testing.assert_allclose(
        normalised.std(axis=1) / normalised.std(), window_uv.std(axis=1) / window_uv.std(), rtol=1e-5
    )
    rescaled, tenfold_uv = normalise(10 * window_uv, clip=1e6)
    np.testing.assert_allclose(rescaled, normalised, rtol=1e-6)
    assert tenfold_uv == pytest.approx(10 * scale_uv)


def test_windows_of_a_batch_have_their_own_scales() -> None:
    rng = np.random.default_rng(2)
    batch_uv = rng.standard_normal((3, 4, 100)) * np.array([1.0, 5.0, 50.0])[:, None, None]
    together, scales_uv = normalise(batch_uv, clip=20)
    for window_uv, normalised, scale_uv in zip(batch_uv, together, scales_uv, strict=True):
        alone, alone_uv = normalise(window_uv, clip=20)
        np.testing.assert_array_equal(normalised, alone)
        assert scale_uv == alone_uv


def test_clipping_touches_only_what_exceeds_it() -> None:
    window_uv = np.random.default_rng(3).standard_normal((2, 500))
    window_uv[0, 10], window_uv[1, 20] = 900.0, -900.0
    normalised, scale_uv = normalise(window_uv, clip=20)
    assert (normalised[0, 10], normalised[1, 20]) == (20, -20)
    inside = np.abs(window_uv) < 100
    np.testing.assert_allclose(normalised[inside] * scale_uv, window_uv[inside], rtol=1e-6)
    assert scale_uv < 1.2


def test_flat_windows_have_scale_zero_and_bad_values_are_refused() -> None:
    batch_uv = np.random.default_rng(4).standard_normal((2, 3, 50))
    batch_uv[1] = 4.0
    normalised, scale_uv = normalise(batch_uv, clip=20)
    assert scale_uv[0] > 0 == scale_uv[1]
    assert np.isfinite(normalised).all()
    assert not normalised[1].any()
    for bad in (np.nan, np.inf):
        batch_uv[0, 1, 2] = bad
        with pytest.raises(ValueError, match="not finite"):
            normalise(batch_uv, clip=20)
