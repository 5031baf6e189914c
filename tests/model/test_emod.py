"""Emod as a whole: its size, its symmetries, the inputs it takes and refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emod.catalog.model import EmodConfig
from emod.model import Emod, EmodClassifier, count_tokens
from emod.signal.montage import ELECTRODES

SMALL = EmodConfig(width=8, heads=2, groups=2, layers=2, feed_forward=16, projection_hidden=12, projection_width=6)
NAMES = ("Fp1", "AF3", "Cz", "O2", "T7")


@pytest.fixture
def model() -> Emod:
    torch.manual_seed(0)
    model = Emod(SMALL).double().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("offset_bias"):  # zero at first, which would hide what time order does
            torch.nn.init.normal_(parameter)
    return model


def draw_eeg(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def count_parameters(*modules: torch.nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_size_is_the_papers() -> None:
    """The released backbone has 845,384 parameters with 72 electrode rows and R of 99 x 8 per layer."""
    c = EmodConfig()
    branch = c.kernel * c.width + c.width + 2 * c.width
    encoder = 2 * branch + (2 * c.width + 1) * c.width + len(ELECTRODES) * c.width
    attention = 4 * (c.width + 1) * c.width
    feed_forward = (c.width + 1) * c.feed_forward + (c.feed_forward + 1) * c.width
    layer = 2 * attention + c.heads * (2 * c.max_offset + 1) + feed_forward + 3 * 2 * c.width
    released = 845_384 - 3 * 99 * 8 + 3 * 16 * 99 + (len(ELECTRODES) - 72) * 128

    model = Emod(c)

    assert encoder + c.layers * layer == released
    assert count_parameters(model.encoder, model.transformer) == released
    assert count_parameters(model.pool) == 2 * 128
    assert count_parameters(model.projection) == 128 * 512 + 2 * 512 + 512 * 128 + 128


def test_electrode_order_does_not_matter(model: Emod) -> None:
    eeg, order = draw_eeg(2, 5, 128), [3, 0, 4, 1, 2]
    names = [NAMES[i] for i in order]
    torch.testing.assert_close(model.tokens(eeg[:, order], names, 128.0), model.tokens(eeg, NAMES, 128.0)[:, order])
    torch.testing.assert_close(model.embed(eeg[:, order], names, 128.0), model.embed(eeg, NAMES, 128.0))
    assert not torch.allclose(model.embed(eeg[:, order], NAMES, 128.0), model.embed(eeg, NAMES, 128.0))


def test_windows_do_not_see_each_other(model: Emod) -> None:
    eeg = draw_eeg(3, 5, 128)
    torch.testing.assert_close(model(eeg, NAMES, 128.0)[1:2], model(eeg[1:2], NAMES, 128.0))


def test_time_order_matters(model: Emod) -> None:
    eeg = draw_eeg(1, 5, 128)
    assert not torch.allclose(model.embed(eeg, NAMES, 128.0), model.embed(eeg.roll(40, dims=-1), NAMES, 128.0))


@settings(max_examples=25, deadline=None)
@given(
    channels=st.lists(st.sampled_from(ELECTRODES), min_size=1, max_size=8, unique=True),
    seconds=st.floats(1.0, 60.0),
    sfreq_hz=st.sampled_from([4.0, 32.0, 100.0, 128.0, 200.0, 250.0, 299.7]),
)
def test_takes_any_electrodes_length_and_rate(channels: list[str], seconds: float, sfreq_hz: float) -> None:
    torch.manual_seed(0)
    model = Emod(SMALL).eval()
    eeg = torch.randn(1, len(channels), max(1, round(seconds * sfreq_hz)))
    n_tokens = max(1, int(5 * eeg.shape[2] / sfreq_hz + 1e-9))
    with torch.no_grad():
        tokens = model.tokens(eeg, channels, sfreq_hz)
        z = model(eeg, channels=channels, sfreq_hz=sfreq_hz)
    assert tokens.shape == (1, len(channels), n_tokens, 8)
    assert z.isfinite().all()
    torch.testing.assert_close(z.norm(dim=1), torch.ones(1))


@pytest.mark.parametrize(
    ("n_samples", "sfreq_hz", "n_tokens"),
    [
        (1280, 128.0, 50),
        (200, 200.0, 5),
        (2000, 200.0, 50),
        (1, 200.0, 1),
        (39, 200.0, 1),
        (80, 200.0, 2),
        (90, 99.9, 4),
    ],
)
def test_five_tokens_per_second(n_samples: int, sfreq_hz: float, n_tokens: int) -> None:
    assert count_tokens(n_samples, sfreq_hz) == n_tokens


def test_whole_numbers_of_tokens_survive_rounding() -> None:
    """18.4 tokens per second on 3.75 s are 69; in doubles the quotient falls just short of it."""
    assert 18.4 * 375 / 100.0 < 69
    assert count_tokens(375, 100.0, 18.4) == 69


def test_one_sample_is_enough(model: Emod) -> None:
    assert model.embed(draw_eeg(2, 1, 1), ["Cz"], 128.0).isfinite().all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"channels": ("Fp1", "AF3", "Cz", "O2", "X9")}, "X9"),
        ({"channels": ("Fp1", "AF3", "Cz", "T3", "T7")}, "T7"),
        ({"channels": ("Cz",)}, "1 names for 5 electrodes"),
        ({"sfreq_hz": 0.0}, "sfreq_hz = 0.0"),
        ({"sfreq_hz": float("nan")}, "sfreq_hz = nan"),
    ],
)
def test_refuses(model: Emod, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        model(draw_eeg(2, 5, 64), **({"channels": NAMES, "sfreq_hz": 128.0} | change))


def test_every_parameter_learns() -> None:
    """Pretraining reaches every parameter but the rows of absent electrodes; the classifier all but the projection."""
    torch.manual_seed(0)
    eeg, groups = torch.randn(6, 5, 64), torch.tensor([0, 0, 0, 1, 1, 1])
    model = Emod(SMALL)
    z = model.project(model.embed(eeg, NAMES, 64.0), groups)
    (z * torch.randn_like(z)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    table = model.encoder.electrodes.table.weight.grad
    assert table is not None
    assert {ELECTRODES[i] for i in table.any(dim=1).nonzero().ravel().tolist()} == set(NAMES)

    classifier = EmodClassifier(Emod(SMALL), n_classes=3)
    logits = classifier(eeg, NAMES, 64.0)
    assert logits.shape == (6, 3)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    idle = {name.split(".")[1] for name, p in classifier.named_parameters() if p.grad is None}
    assert idle == {"projection"}


def test_forward_is_embed_then_project(model: Emod) -> None:
    eeg = draw_eeg(3, 5, 64)
    torch.testing.assert_close(model(eeg, NAMES, 64.0), model.project(model.embed(eeg, NAMES, 64.0)))
    pooled = model.pool(model.tokens(eeg, NAMES, 64.0))
    torch.testing.assert_close(model.embed(eeg, NAMES, 64.0), pooled)
