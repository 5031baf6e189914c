"""The whole network and its loss against the frozen eager reference: values and every gradient, in both precisions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from emod.catalog import EmodConfig
from emod.model import Emod
from emod.objective import contrastive_loss, va_weights
from emod.signal.montage import ELECTRODES
from tests.reference import eager

SIZES = {"width": 16, "heads": 4, "groups": 2, "layers": 2, "feed_forward": 32}
PROJECTION = {"projection_hidden": 24, "projection_width": 12}
# Montage, samples and rate: even and uneven spans, one electrode, a second, more tokens than the bias has offsets.
CORPORA = (
    (("Fp1", "Cz", "O2"), 640, 128.0),
    (("T7", "Pz"), 400, 200.0),
    (("Cz",), 128, 128.0),
    (("O1", "O2"), 900, 60.0),
)
WINDOWS = 5


def pair(seed: int = 0) -> tuple[Emod, eager.EagerEmod]:
    """Ours and the reference in float64, no dropout, with the same weights, none of them at its start."""
    torch.manual_seed(seed)
    ours = Emod(EmodConfig(**SIZES, **PROJECTION, dropout=0.0, pool_dropout=0.0)).double()
    for parameter in ours.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    sizes = eager.Sizes(**SIZES, **PROJECTION, dropout=0.0, pool_dropout=0.0, electrodes=len(ELECTRODES))
    reference = eager.EagerEmod(sizes).double()
    reference.load_state_dict(ours.state_dict())
    return ours.train(), reference.train()


def batch() -> tuple[list[Tensor], Tensor]:
    """Windows with structure: rhythms whose strength follows their points on the plane."""
    generator = torch.Generator().manual_seed(1)
    va = torch.rand(len(CORPORA) * WINDOWS, 2, dtype=torch.float64, generator=generator) * 8 - 4
    windows = []
    for number, (names, samples, sfreq_hz) in enumerate(CORPORA):
        time = torch.arange(samples, dtype=torch.float64) / sfreq_hz
        points = va[number * WINDOWS : (number + 1) * WINDOWS]
        rhythm = points[:, :1, None] * torch.sin(63 * time) + points[:, 1:, None] * torch.sin(120 * time)
        noise = torch.randn(WINDOWS, len(names), samples, dtype=torch.float64, generator=generator)
        windows.append(rhythm / 4 + noise)
    return windows, va


def of_ours(model: Emod, windows: list[Tensor], va: Tensor) -> tuple[Tensor, Tensor]:
    dtype = next(model.parameters()).dtype
    embeddings = [
        model.embed(eeg.to(dtype), names, sfreq_hz) for eeg, (names, _, sfreq_hz) in zip(windows, CORPORA, strict=True)
    ]
    ids = torch.arange(len(CORPORA)).repeat_interleave(WINDOWS)
    z = model.project(torch.cat(embeddings), ids)
    loss = contrastive_loss(z, va_weights(va.to(dtype), d_max=5.0))[0]
    return loss.detach(), gradient(model, loss)


def of_reference(model: eager.EagerEmod, windows: list[Tensor], va: Tensor) -> tuple[Tensor, Tensor]:
    dtype = next(model.parameters()).dtype
    given = [
        (eeg.to(dtype), torch.tensor([ELECTRODES.index(name) for name in names]), sfreq_hz)
        for eeg, (names, _, sfreq_hz) in zip(windows, CORPORA, strict=True)
    ]
    loss = eager.contrastive_loss(model(given), va.to(dtype))
    return loss.detach(), gradient(model, loss)


def gradient(model: torch.nn.Module, loss: Tensor) -> Tensor:
    """Of all parameters, by name, as one vector."""
    named = sorted(model.named_parameters())
    parts = torch.autograd.grad(loss, [parameter for _, parameter in named])
    return torch.cat([part.flatten() for part in parts])


def test_double_precision() -> None:
    ours, reference = pair()
    windows, va = batch()
    (loss, grad), (wanted_loss, wanted) = of_ours(ours, windows, va), of_reference(reference, windows, va)
    assert abs(loss - wanted_loss) <= 1e-12 * wanted_loss.abs()
    assert (grad - wanted).norm() <= 1e-9 * wanted.norm()


@pytest.mark.parametrize("seed", range(4))
def test_single_precision_is_as_exact_as_the_references(seed: int) -> None:
    ours, reference = pair(seed)
    windows, va = batch()
    exact_loss, exact = of_reference(reference, windows, va)
    loss, grad = of_ours(copy.deepcopy(ours).float(), windows, va)
    _, plain = of_reference(copy.deepcopy(reference).float(), windows, va)
    assert abs(loss - exact_loss) <= 1e-6 * exact_loss.abs()
    assert (grad - exact).norm() <= 2 * (plain - exact).norm()
