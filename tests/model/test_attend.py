"""Attention in blocks against PyTorch's own, values and gradients, for every way to cut the sequences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emod.model import attend as module
from emod.model.attend import attend

HEADS, WIDTH = 3, 6


def by_pytorch(x: Tensor, qkv: nn.Linear, output: nn.Linear, bias: Tensor | None) -> Tensor:
    q, k, v = qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    found: Tensor = output(mixed.transpose(1, 2).flatten(2))
    return found


def linear_maps(dtype: torch.dtype) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    return nn.Linear(WIDTH, 3 * WIDTH, dtype=dtype), nn.Linear(WIDTH, WIDTH, dtype=dtype)


@pytest.mark.parametrize("logits", [1, 100, 2**18])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("count", "length"), [(1, 1), (7, 5), (4, 20)])
def test_equals_pytorchs(count: int, length: int, biased: bool, logits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOGITS", logits)
    qkv, output = linear_maps(torch.float64)
    x = torch.randn(count, length, WIDTH, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(HEADS, length, length, dtype=torch.float64, requires_grad=True) if biased else None
    weights = torch.randn_like(x)
    wanted = [x, *qkv.parameters(), *output.parameters(), *([] if bias is None else [bias])]
    ours, theirs = attend(x, qkv, output, HEADS, bias), by_pytorch(x, qkv, output, bias)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    for mine, other in zip(
        torch.autograd.grad((ours * weights).sum(), wanted),
        torch.autograd.grad((theirs * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(attend(x, qkv, output, HEADS, bias), ours)


@pytest.mark.parametrize("length", [4, 40])
def test_large_logits_do_not_overflow(length: int) -> None:
    qkv, output = linear_maps(torch.float32)
    with torch.no_grad():
        for linear in (qkv, output):
            linear.weight.copy_(torch.eye(WIDTH).repeat(len(linear.weight) // WIDTH, 1))
            linear.bias.zero_()
    x = torch.full((1, length, WIDTH), 60.0, requires_grad=True)
    out = attend(x, qkv, output, HEADS, None)
    out.sum().backward()
    torch.testing.assert_close(out, x.detach())
    assert x.grad is not None
    assert x.grad.isfinite().all()
