"""The feed-forward's second half in one pass against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from emod.model import hidden as module
from emod.model.hidden import contract_hidden


@pytest.mark.parametrize("tokens", [1, 7, 2048])
@pytest.mark.parametrize("dropped", [False, True])
def test_equals_plain_pytorch(tokens: int, dropped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TOKENS", tokens)
    torch.manual_seed(0)
    shapes = ((2, 3, 5, 6), (4, 6), (4,))
    hidden, weight, bias = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    keep = torch.rand(hidden.shape) > 0.5 if dropped else None
    scale = 2.0 if dropped else 1.0
    wanted = F.linear(F.gelu(hidden) * (keep * scale if keep is not None else 1), weight, bias)
    found = contract_hidden(hidden, keep, scale, weight, bias)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)
    weights = torch.randn(found.shape, dtype=torch.float64)
    inputs = (hidden, weight, bias)
    for mine, other in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((wanted * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-13)
