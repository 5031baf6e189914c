"""Every part that states its own derivative, and the network with its loss, against finite differences in float64.

Dropout is on where there is any: for fixed keys it is a function like others.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from emod.catalog import EmodConfig
from emod.model import AttentionPool, Emod, ProjectionHead
from emod.model.attention import AxialLayer
from emod.model.dropout import WindowDropout
from emod.model.feed_forward import feed_forward
from emod.model.tokenizer import TripleDomainEncoder
from emod.objective import contrastive_loss, va_weights

TINY = EmodConfig(
    width=4,
    heads=2,
    groups=2,
    kernel=3,
    layers=1,
    feed_forward=6,
    max_offset=2,
    dropout=0.3,
    pool_dropout=0.3,
    projection_hidden=5,
    projection_width=3,
)
KEYS = torch.tensor([11, 12])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def varied(module: nn.Module) -> nn.Module:
    """In double precision and training, no parameter at its start."""
    torch.manual_seed(0)
    module = module.double().train()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def check(module: nn.Module, call: Callable[..., Tensor], *inputs: Tensor, fast: bool = False) -> bool:
    """Derivatives of ``call(module, *inputs)`` in all parameters, and in the inputs that ask for one."""
    names, values = zip(*module.named_parameters(), strict=True)

    class Bound(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *given: Tensor) -> Tensor:
            return call(self.module, *given)

    def output(*given: Tensor) -> Tensor:
        weights = {f"module.{name}": value for name, value in zip(names, given[len(inputs) :], strict=True)}
        found: Tensor = torch.func.functional_call(Bound(), weights, given[: len(inputs)])
        return found

    weights = [value.detach().clone().requires_grad_() for value in values]
    return torch.autograd.gradcheck(output, (*inputs, *weights), fast_mode=fast)


@pytest.mark.parametrize(("samples", "tokens"), [(11, 3), (8, 2), (4, 5)])
def test_tokenizer(samples: int, tokens: int) -> None:
    """Filters, GroupNorm and fusion, through the moments of patches and the spans of tokens."""
    eeg = draw(2, 2, samples)
    encoder = varied(TripleDomainEncoder(TINY.model_copy(update={"without": "electrode_embedding"})))
    assert check(encoder, lambda encoder: encoder(eeg, ("Cz", "Pz"), tokens)[..., :2])


@pytest.mark.parametrize("part", [None, "spatial_attention", "temporal_attention", "relative_encoding"])
def test_layer(part: str | None) -> None:
    layer = varied(AxialLayer(TINY.model_copy(update={"without": part})))
    tokens = draw(2, 3, 4, 4).requires_grad_()
    assert check(layer, lambda layer, tokens: layer(tokens, KEYS), tokens)


def test_feed_forward() -> None:
    keep = (draw(2, 3, 5, seed=9) > 0).to(torch.int8)
    maps = varied(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 4)))
    tokens = draw(2, 3, 4).requires_grad_()
    assert check(maps, lambda maps, tokens: feed_forward(tokens, maps[0], maps[1], keep, 1.4), tokens)


def test_dropout() -> None:
    x = draw(2, 3, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: WindowDropout(0.4, 3)(x, KEYS), (x,))


def test_pool() -> None:
    pool = varied(AttentionPool(4, 0.3))
    assert check(pool, lambda pool, tokens: pool(tokens, KEYS), draw(2, 3, 4, 4).requires_grad_())


@pytest.mark.parametrize("statistics", ["corpus", "batch"])
def test_projection(statistics: str) -> None:
    head = varied(ProjectionHead(TINY.model_copy(update={"projection_statistics": statistics})))
    groups = torch.tensor([1, 0, 1, 0, 0])
    assert check(head, lambda head, embedding: head(embedding, groups), draw(5, 4).requires_grad_())


def test_weights_of_pairs_and_loss_of_rows() -> None:
    """Rows without a positive, pairs of weight 0 and pairs at exactly ``d_max`` among them."""
    va = torch.tensor([[0, 0], [3, 2], [-1, -1], [3, 2], [-4, 4], [4, -4]], dtype=torch.float64)
    weights = va_weights(va, d_max=5.0)
    assert weights[1, 2] == 0 < weights[0, 2]
    rows = nn.functional.normalize(draw(6, 3), dim=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: contrastive_loss(rows, weights, 0.2)[0], (rows,))


def test_a_second_derivative_is_refused() -> None:
    """None of the parts has one; a gradient penalty would be wrong without a word."""
    model = varied(Emod(TINY))
    length = model.embed(draw(2, 2, 20), ("Cz", "Pz"), 20.0).square().sum()
    (slope,) = torch.autograd.grad(length, [model.encoder.fusion.weight], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.square().sum().backward()


@pytest.mark.parametrize("statistics", ["corpus", "batch"])
def test_the_loss_of_the_network(statistics: str) -> None:
    """Two corpora that share nothing, from samples to the loss, in a random direction of all weights."""
    model = varied(Emod(TINY.model_copy(update={"projection_statistics": statistics})))
    windows = draw(3, 2, 20), draw(3, 1, 30, seed=1)
    va = torch.tensor([[0, 0], [3, 2], [-1, 1], [0, 0], [3, 2], [4, -4]], dtype=torch.float64)
    keys = torch.arange(3)

    def loss(model: Emod) -> Tensor:
        first = model.embed(windows[0], ("Cz", "Pz"), 20.0, keys)
        second = model.embed(windows[1], ("Oz",), 25.0, keys + 3)
        z = model.project(torch.cat([first, second]), torch.tensor([0, 0, 0, 1, 1, 1]))
        return contrastive_loss(z, va_weights(va, d_max=5.0), 0.5)[0]

    assert check(model, loss, fast=True)
