"""The one-pass branch against plain PyTorch: values, gradients, whatever the size of its blocks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from emod.catalog import EmodConfig
from emod.model import pooled_convolution as fused
from emod.model.tokenizer import ConvolutionBranch
from tests.reference.eager import Branch, Sizes

CONFIG = EmodConfig(width=8, groups=2, heads=2, kernel=7)


def branches(kernel: int, dtype: torch.dtype = torch.float64) -> tuple[ConvolutionBranch, Branch]:
    """Ours and the reference with the same weights, none of them at its start."""
    config = CONFIG.model_copy(update={"kernel": kernel})
    torch.manual_seed(0)
    ours, reference = ConvolutionBranch(config).to(dtype), Branch(Sizes(width=8, groups=2, kernel=kernel)).to(dtype)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter)
    reference.load_state_dict(ours.state_dict())
    return ours, reference


def gradients(branch: torch.nn.Module, tokens: Tensor, weights: Tensor) -> Tensor:
    (tokens * weights).sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in branch.parameters() if parameter.grad is not None])


@settings(max_examples=40, deadline=None)
@given(
    electrodes=st.integers(1, 5),
    n_points=st.integers(1, 90),
    n_tokens=st.integers(1, 30),
    kernel=st.sampled_from([1, 4, 7]),
    block=st.sampled_from([1, 17, 64, 8192]),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_are_those_of_plain_pytorch(
    electrodes: int, n_points: int, n_tokens: int, kernel: int, block: int, seed: int
) -> None:
    ours, reference = branches(kernel)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, electrodes, n_points, dtype=torch.float64, generator=generator)
    weights = torch.randn(2, electrodes, n_tokens, 8, dtype=torch.float64, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "_VALUES", block * (kernel + 1 + CONFIG.width))
        tokens = ours(x, n_tokens)
        found = gradients(ours, tokens, weights)
    wanted = reference(x, n_tokens).permute(0, 2, 3, 1)
    torch.testing.assert_close(tokens, wanted, rtol=0, atol=1e-11)
    expected = gradients(reference, wanted, weights)
    assert (found - expected).norm() <= 1e-10 * expected.norm()


def test_no_derivative_is_wrong() -> None:
    """Of the filters and biases, one by one, by finite differences; the last span is shorter than the others."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 11, dtype=torch.float64, generator=generator)
    weight = torch.randn(2, 4, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    bias = torch.randn(2, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, b: fused.pooled_convolution(x, w, b, 4), (weight, bias))


@pytest.mark.parametrize("level", [0.0, 1e2])
def test_single_precision_is_as_good_as_plain_pytorchs(level: float) -> None:
    """A constant far above the signal's spread: the variance from moments must not drown in it."""
    ours, reference = branches(7, torch.float32)
    x = torch.randn(2, 4, 400, generator=torch.Generator().manual_seed(0)) + level
    exact = branches(7)[1](x.double(), 10).permute(0, 2, 3, 1)
    error = (ours(x, 10) - exact).abs().max()
    plain = (reference(x, 10).permute(0, 2, 3, 1) - exact).abs().max()
    assert error <= 4 * plain + 1e-6


def test_the_signal_may_ask_for_its_gradient() -> None:
    """Which training never does, and whoever explains an answer does."""
    ours, reference = branches(7)
    x = torch.randn(1, 3, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.testing.assert_close(ours(mine, 5), ours(x, 5), rtol=0, atol=1e-12)
    ours(mine, 5).square().sum().backward()
    reference(theirs, 5).square().sum().backward()
    assert mine.grad is not None
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_the_activation_is_never_stored() -> None:
    """What a forward pass keeps for the backward one grows with tokens, not with samples times filters."""
    branch = ConvolutionBranch(EmodConfig(width=64, groups=4, heads=4))
    x = torch.randn(1, 8, 2000)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        branch(x, 50)
    assert sum(kept) < 64 * 8 * 2000 / 10
