"""The six networks of the paper's Figure 3: each lacks its part, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch

from emod.catalog.model import EmodConfig, Part
from emod.model import Emod, load_emod, save_weights

SMALL = EmodConfig(width=8, heads=2, groups=2, layers=2, feed_forward=16, projection_hidden=12, projection_width=6)
NAMES = ("Fp1", "Cz", "O2")
GONE = {
    "spectral_tokens": ("encoder.spectral.",),
    "temporal_tokens": ("encoder.temporal.",),
    "spatial_attention": (".spatial.", ".spatial_norm."),
    "temporal_attention": (".temporal.", ".temporal_norm."),
    "electrode_embedding": ("encoder.electrodes.",),
    "relative_encoding": (".offset_bias",),
}


def make(part: str | None) -> Emod:
    torch.manual_seed(0)
    model = Emod(SMALL.model_copy(update={"without": part})).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def embed(model: Emod, names: tuple[str, ...] = NAMES, order: tuple[int, ...] = (0, 1, 2)) -> torch.Tensor:
    eeg = torch.randn(2, 3, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return model.embed(eeg[:, list(order)], names, 32.0)


def test_all_six_are_here() -> None:
    assert set(GONE) == set(get_args(Part))


@pytest.mark.parametrize("part", GONE)
def test_only_its_parameters_are_gone(part: str) -> None:
    whole, less = make(None).state_dict(), make(part).state_dict()
    gone = {name for name in whole if any(piece in f".{name}" or name.startswith(piece) for piece in GONE[part])}
    if part == "temporal_attention":  # the tokenizer has a branch of that name
        gone = {name for name in gone if name.startswith("transformer.")}
    assert gone
    assert whole.keys() - less.keys() == gone
    assert less.keys() <= whole.keys()
    narrower = {name for name in less if less[name].shape != whole[name].shape}
    assert narrower == ({"encoder.fusion.weight"} if part.endswith("_tokens") else set())


@pytest.mark.parametrize("part", GONE)
def test_what_it_did_is_gone(part: str) -> None:
    """Without time's bias the order of tokens is nothing, without electrodes' names they are nothing, and so on."""
    model = make(part)
    renamed = embed(model, ("Cz", "O2", "Fp1"))
    assert torch.allclose(embed(model), renamed) == (part == "electrode_embedding")
    tokens = torch.randn(1, 3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    layer = model.transformer[0]
    order = [4, 2, 0, 1, 3]
    timeless = torch.allclose(layer(tokens[:, :, order]), layer(tokens)[:, :, order])
    assert timeless == (part in ("temporal_attention", "relative_encoding"))
    changed = tokens.clone()
    changed[:, 1] *= -2
    assert torch.allclose(layer(changed)[:, 0], layer(tokens)[:, 0]) == (part == "spatial_attention")
    changed = tokens.clone()
    changed[:, :, 1] *= -2
    assert torch.allclose(layer(changed)[:, :, 0], layer(tokens)[:, :, 0]) == (part == "temporal_attention")


@pytest.mark.parametrize("part", GONE)
def test_every_parameter_left_learns_and_is_saved(part: str, tmp_path: Path) -> None:
    model = make(part)
    embed(model).square().sum().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None and not name.startswith("projection.")]
    assert still == []
    save_weights(tmp_path, model.float(), model.config)
    loaded = load_emod(tmp_path)
    assert loaded.config.without == part
    torch.testing.assert_close(embed(loaded.double()), embed(model.double().eval()))
