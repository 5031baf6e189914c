"""The feed-forward part in one pass against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emod.model import feed_forward as module
from emod.model.feed_forward import feed_forward, feed_forward_plain
from tests.model.same import assert_same


@pytest.mark.parametrize("tokens", [1, 7, 2048])
@pytest.mark.parametrize("dropped", [False, True])
def test_equals_plain_pytorch(tokens: int, dropped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TOKENS", tokens)
    torch.manual_seed(0)
    expand, contract = nn.Linear(4, 6, dtype=torch.float64), nn.Linear(6, 4, dtype=torch.float64)
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    keep = (torch.rand(2, 3, 5, 6) > 0.5).to(torch.int8) if dropped else None
    scale = 2.0

    def plain() -> Tensor:
        found: Tensor = contract(F.gelu(expand(x)) * (1 if keep is None else keep * scale))
        return found

    inputs = (x, *expand.parameters(), *contract.parameters())
    for ours in (feed_forward, feed_forward_plain):  # on a CPU, elsewhere
        assert_same(lambda ours=ours: ours(x, expand, contract, keep, scale), plain, inputs)


def test_without_gradients_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """In evaluation, whose weights ask for gradients all the same."""
    kept: list[bool] = []
    forward = module._FeedForward.forward
    monkeypatch.setattr(
        module._FeedForward,
        "forward",
        staticmethod(
            lambda ctx, x, keep, scale, learns, *rest: (
                kept.append(learns),
                forward(ctx, x, keep, scale, learns, *rest),
            )[1]
        ),
    )
    expand, contract = nn.Linear(4, 6), nn.Linear(6, 4)
    with torch.no_grad():
        feed_forward(torch.randn(2, 4), expand, contract, None, 1.0)
    feed_forward(torch.randn(2, 4), expand, contract, None, 1.0)
    assert kept == [False, True]
