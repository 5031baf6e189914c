"""Attention against its definition, values and gradients, for every way to cut the sequences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from emod.model import attend as module
from emod.model.attend import attend, attend_fused
from tests.model.same import assert_same

HEADS, WIDTH = 3, 6


def by_hand(x: Tensor, qkv: nn.Linear, output: nn.Linear, bias: Tensor | None) -> Tensor:
    """Head by head, from the definition."""
    width = WIDTH // HEADS
    mixed = []
    for head in range(HEADS):
        q, k, v = (part[..., head * width : (head + 1) * width] for part in qkv(x).chunk(3, dim=-1))
        logits = q @ k.transpose(1, 2) / math.sqrt(width) + (0 if bias is None else bias[head])
        mixed.append(logits.softmax(dim=-1) @ v)
    found: Tensor = output(torch.cat(mixed, dim=-1))
    return found


def linear_maps(dtype: torch.dtype) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    return nn.Linear(WIDTH, 3 * WIDTH, dtype=dtype), nn.Linear(WIDTH, WIDTH, dtype=dtype)


@pytest.mark.parametrize("logits", [1, 100, 2**18])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("count", "length"), [(1, 1), (7, 5), (4, 20)])
def test_equals_the_definition(
    count: int, length: int, biased: bool, logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOGITS", logits)
    qkv, output = linear_maps(torch.float64)
    x = torch.randn(count, length, WIDTH, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(HEADS, length, length, dtype=torch.float64, requires_grad=True) if biased else None
    inputs = [x, *qkv.parameters(), *output.parameters(), *([] if bias is None else [bias])]
    for ours in (attend, attend_fused):  # on a CPU, elsewhere
        assert_same(lambda ours=ours: ours(x, qkv, output, HEADS, bias), lambda: by_hand(x, qkv, output, bias), inputs)


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


def test_without_gradients_no_probabilities_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """In evaluation, whose weights ask for gradients all the same: they are most of its memory."""
    kept: list[bool] = []
    softmax = module._softmax
    monkeypatch.setattr(module, "_softmax", lambda logits, out: (kept.append(out is not None), softmax(logits, out))[1])
    qkv, output = linear_maps(torch.float32)
    with torch.no_grad():
        attend(torch.randn(2, 5, WIDTH), qkv, output, HEADS, None)
    assert kept == [False] * HEADS
    attend(torch.randn(2, 5, WIDTH), qkv, output, HEADS, None)
    assert kept[HEADS:] == [True] * HEADS
