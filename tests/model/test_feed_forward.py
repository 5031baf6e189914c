"""The feed-forward part in one pass against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from emod.model import feed_forward as module
from emod.model.feed_forward import feed_forward


@pytest.mark.parametrize("tokens", [1, 7, 2048])
@pytest.mark.parametrize("dropped", [False, True])
def test_equals_plain_pytorch(tokens: int, dropped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TOKENS", tokens)
    torch.manual_seed(0)
    expand, contract = nn.Linear(4, 6, dtype=torch.float64), nn.Linear(6, 4, dtype=torch.float64)
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    keep = (torch.rand(2, 3, 5, 6) > 0.5).to(torch.int8) if dropped else None
    scale = 2.0
    wanted = contract(F.gelu(expand(x)) * (1 if keep is None else keep * scale))
    found = feed_forward(x, expand, contract, keep, scale)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)
    weights = torch.randn(found.shape, dtype=torch.float64)
    inputs = (x, *expand.parameters(), *contract.parameters())
    for mine, other in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((wanted * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-13)
    with torch.no_grad():
        assert torch.equal(feed_forward(x, expand, contract, keep, scale), found)
