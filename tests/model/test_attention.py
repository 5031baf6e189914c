"""Axial attention and its layer against EMOD eq. 3 written out per head, query and key in float64."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from emod.catalog.model import EmodConfig
from emod.model.attention import AxialAttention, AxialLayer

Array = npt.NDArray[np.float64]
TINY = EmodConfig(width=6, heads=3, groups=2, kernel=3, layers=1, feed_forward=10, max_offset=2)


def naive_attention(attention: AxialAttention, x: Array) -> Array:
    """(L, D) -> (L, D)."""
    state = {name: value.detach().numpy() for name, value in attention.state_dict().items()}
    length, width = x.shape
    per_head = width // attention.heads
    q, k, v = np.split(x @ state["qkv.weight"].T + state["qkv.bias"], 3, axis=1)
    mixed = np.zeros_like(x)
    for h in range(attention.heads):
        part = slice(h * per_head, (h + 1) * per_head)
        for i in range(length):
            logits = np.array([q[i, part] @ k[j, part] / math.sqrt(per_head) for j in range(length)])
            if attention.max_offset is not None:
                m = attention.max_offset
                logits += [state["offset_bias"][h, min(max(i - j, -m), m) + m] for j in range(length)]
            p = np.exp(logits) / np.exp(logits).sum()
            mixed[i, part] = sum(p[j] * v[j, part] for j in range(length))
    out: Array = mixed @ state["output.weight"].T + state["output.bias"]
    return out


def naive_norm(norm: torch.nn.LayerNorm, x: Array) -> Array:
    gain, shift = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    centred = x - x.mean(axis=-1, keepdims=True)
    out: Array = centred / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5) * gain + shift
    return out


def test_layer_equals_the_equations() -> None:
    torch.manual_seed(1)
    layer = AxialLayer(TINY).double().eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    tokens = torch.randn(2, 3, 7, 6, dtype=torch.float64)  # 7 tokens: offsets beyond max_offset = 2 occur

    got = layer(tokens).detach().numpy()

    erf = np.vectorize(math.erf)
    first, second = (layer.feed_forward[i].state_dict() for i in (0, 3))
    for window, result in zip(tokens.numpy(), got, strict=True):
        x = window.copy()
        for n in range(x.shape[1]):
            x[:, n] += naive_attention(layer.spatial, naive_norm(layer.spatial_norm, window[:, n]))
        after_spatial = x.copy()
        for c in range(x.shape[0]):
            x[c] += naive_attention(layer.temporal, naive_norm(layer.temporal_norm, after_spatial[c]))
        hidden = naive_norm(layer.feed_forward_norm, x) @ first["weight"].numpy().T + first["bias"].numpy()
        hidden = hidden * (1 + erf(hidden / math.sqrt(2))) / 2
        x += hidden @ second["weight"].numpy().T + second["bias"].numpy()
        np.testing.assert_allclose(result, x, rtol=1e-10, atol=1e-10)


def test_time_bias_alone_can_shift_by_one_token() -> None:
    """The sign convention: R at +1 lets a query see the token before it."""
    attention = AxialAttention(4, heads=1, max_offset=3)
    with torch.no_grad():
        attention.qkv.weight.zero_()
        attention.qkv.bias.zero_()
        attention.qkv.weight[8:] = torch.eye(4)
        attention.output.weight.copy_(torch.eye(4))
        attention.output.bias.zero_()
        attention.offset_bias[0, 3 + 1] = 50.0
    x = torch.randn(1, 5, 4)
    torch.testing.assert_close(attention(x)[0, 1:], x[0, :-1])


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    layer = AxialLayer(TINY.model_copy(update={"dropout": 0.5}))
    tokens = torch.randn(1, 2, 3, 6)
    assert not torch.equal(layer(tokens, torch.tensor([1])), layer(tokens, torch.tensor([2])))
    assert torch.equal(layer(tokens, torch.tensor([1])), layer(tokens, torch.tensor([1])))
    layer.eval()
    assert torch.equal(layer(tokens, torch.tensor([1])), layer(tokens, torch.tensor([2])))
