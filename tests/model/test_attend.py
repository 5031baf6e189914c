"""Attention in blocks against PyTorch's own, values and gradients, for every way to cut the sequences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from emod.model import attend as module
from emod.model.attend import attend


def by_pytorch(qkv: Tensor, bias: Tensor | None) -> Tensor:
    outer, length, inner, _, heads, width = qkv.shape
    q, k, v = qkv.permute(3, 0, 2, 4, 1, 5).reshape(3, outer * inner, heads, length, width)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return mixed.view(outer, inner, heads, length, width).permute(0, 3, 1, 2, 4)


@pytest.mark.parametrize("logits", [1, 200, 2**19])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("outer", "length", "inner"), [(1, 1, 1), (7, 5, 1), (2, 6, 9), (3, 4, 2)])
def test_equals_pytorchs(
    outer: int, length: int, inner: int, biased: bool, logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOGITS", logits)
    torch.manual_seed(0)
    qkv = torch.randn(outer, length, inner, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, length, length, dtype=torch.float64, requires_grad=True) if biased else None
    weights = torch.randn(outer, length, inner, 3, 2, dtype=torch.float64)
    wanted = [qkv] if bias is None else [qkv, bias]
    ours, theirs = attend(qkv, bias), by_pytorch(qkv, bias)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    for mine, other in zip(
        torch.autograd.grad((ours * weights).sum(), wanted),
        torch.autograd.grad((theirs * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-13)


def test_large_logits_do_not_overflow() -> None:
    qkv = torch.full((1, 4, 1, 3, 1, 2), 60.0, requires_grad=True)
    out = attend(qkv, None)
    out.sum().backward()
    torch.testing.assert_close(out, torch.full((1, 4, 1, 1, 2), 60.0))
    assert qkv.grad is not None
    assert qkv.grad.isfinite().all()
