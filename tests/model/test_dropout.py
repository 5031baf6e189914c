"""Dropout by key: its bits, its share, its independence of everything but the key."""

from __future__ import annotations

import pytest
import torch

from emod.model.dropout import WindowDropout, _keep_at_once, draw_keys, keep_mask, mix


def split_mix(counter: int) -> int:
    """The published generator on Python's integers."""
    whole = 2**64 - 1
    z = counter & whole
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & whole
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & whole
    return z ^ (z >> 31)


def test_bits_are_those_of_splitmix64() -> None:
    counters = [0, 1, -1, -(2**63), 2**63 - 1, 1234567890123456789]
    found = mix(torch.tensor(counters))
    assert [value % 2**64 for value in found.tolist()] == [split_mix(counter) for counter in counters]
    # The generator's own published check: seed 1234567, first output.
    assert split_mix(1234567 + 0x9E3779B97F4A7C15) == 6457827717110365317


def test_values_take_their_words_in_order() -> None:
    """Word n of a window is the n-th output from its key, four values to a word, however many are mixed at a time."""
    key, values = 2**63 - 5, 4 * 2**15 + 6
    keep = keep_mask(torch.tensor([0, key]), values, 0.4)[1].tolist()
    for place in (0, 1, 2, 3, 4, 4 * 2**14 - 1, 4 * 2**14, 4 * 2**14 + 5, values - 1):
        bits = split_mix(key + (place // 4 + 1) * 0x9E3779B97F4A7C15) >> 16 * (place % 4) & 0xFFFF
        assert keep[place] == ((bits + 2**15) % 2**16 >= round(0.4 * 2**16))


def test_a_device_draws_what_a_cpu_does() -> None:
    keys, values = torch.tensor([0, 7, -3, 2**63 - 5]), 4 * 2**14 + 3
    for least in (-(2**15), 6554 - 2**15, 2**14):
        at_once = _keep_at_once(keys, values, least)
        assert torch.equal(at_once, keep_mask(keys, values, (least + 2**15) / 2**16))
        assert (least == -(2**15)) == bool(at_once.all())


@pytest.mark.parametrize("p", [0.0, 0.1, 0.25, 0.9])
def test_the_share_is_met(p: float) -> None:
    keep = keep_mask(torch.tensor([1, 2]), 200_000, p)
    assert keep.float().mean(dim=1).tolist() == pytest.approx([1 - p, 1 - p], abs=0.005)


def test_windows_and_neighbours_are_independent() -> None:
    keep = keep_mask(torch.arange(64), 4099, 0.5).double() - 0.5
    assert (keep @ keep.T / 4099 * 4 - torch.eye(64)).abs().max() < 0.08  # 5 / sqrt(4099)
    for lag in (1, 2, 3, 4, 8):
        assert ((keep[:, lag:] * keep[:, :-lag]).mean() * 4).abs() < 0.02


def test_a_window_gets_the_same_wherever_it_stands() -> None:
    drop = WindowDropout(0.5, place=3)
    x, keys = torch.randn(5, 3, 7), draw_keys(5, torch.device("cpu"))
    whole = drop(x, keys)
    for parts in ([0, 1], [4, 2, 3]):
        assert torch.equal(drop(x[parts], keys[parts]), whole[parts])


def test_places_draw_apart() -> None:
    x, keys = torch.ones(1, 1000), torch.tensor([5])
    masks = [WindowDropout(0.5, place)(x, keys) for place in range(20)]
    assert len({tuple(mask[0].tolist()) for mask in masks}) == 20


def test_what_stays_is_scaled_and_so_is_its_gradient() -> None:
    x = torch.randn(2, 50, requires_grad=True)
    out = WindowDropout(0.25, 0)(x, torch.tensor([1, 2]))
    out.sum().backward()
    stays = out != 0
    torch.testing.assert_close(out[stays], x[stays] / 0.75)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, stays / 0.75)


def test_evaluation_drops_nothing() -> None:
    x = torch.randn(2, 5)
    assert WindowDropout(0.5, 0).eval()(x, None) is x
