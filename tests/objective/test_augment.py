"""The views of Augment: how often, how much, and that only the key decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from emod.objective.augment import MASKED_SHARE, NOISE_SD, augment
from emod.objective.augment import _gaussian as gaussian

N = 600


def made() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    windows = torch.randn(N, 3, 200, generator=generator) * 5 + 2
    return windows, augment(windows, torch.arange(N))


def test_two_in_three_stay_and_the_rest_are_noise_and_masks_alike() -> None:
    windows, views = made()
    same = (views == windows).flatten(1).all(dim=1)
    masked = (views == 0).flatten(1).any(dim=1)
    counts = np.array([same.sum(), masked.sum(), (~same & ~masked).sum()])
    assert stats.chisquare(counts, N * np.array([4, 1, 1]) / 6).pvalue > 1e-3


def test_a_mask_is_one_span_of_a_fifth_over_all_electrodes() -> None:
    windows, views = made()
    starts = set()
    for window, view in zip(windows, views, strict=True):
        if not (view == 0).any():
            continue
        gone = (view == 0).all(dim=0)
        assert int(gone.sum()) == round(MASKED_SHARE * 200)
        first = int(gone.int().argmax())
        assert gone[first : first + 40].all()
        torch.testing.assert_close(view[:, ~gone], window[:, ~gone], rtol=0, atol=0)
        starts.add(first)
    assert min(starts) < 20 < 140 < max(starts) <= 160


def test_noise_is_a_tenth_of_the_windows_deviation() -> None:
    windows, views = made()
    ratios = [
        float((view - window).std() / window.std())
        for window, view in zip(windows, views, strict=True)
        if not torch.equal(view, window) and not (view == 0).any()
    ]
    assert len(ratios) > 50
    assert ratios == pytest.approx([NOISE_SD] * len(ratios), rel=0.15)


def test_the_gaussian_is_one() -> None:
    drawn = gaussian(7, 100_001)
    assert drawn.shape == (100_001,)
    assert stats.kstest(drawn.numpy(), "norm").pvalue > 1e-3
    assert abs(float((drawn[1:] * drawn[:-1]).mean())) < 0.02
    assert abs(float(torch.corrcoef(torch.stack([gaussian(7, 50_000), gaussian(8, 50_000)]))[0, 1])) < 0.02


def test_only_the_key_decides() -> None:
    windows, views = made()
    some = [5, 0, 599]
    assert torch.equal(augment(windows[some], torch.tensor(some)), views[some])
    assert not torch.equal(augment(windows, torch.arange(N) + N), views)
    assert torch.equal(windows, made()[0]), "the windows themselves are left alone"
