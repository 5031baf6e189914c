"""The GPU's kernel against the CPU's path: in Triton's interpreter (`make test-triton`), or on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from emod.model.pooled_convolution import _pad, pooled_convolution, token_spans

pytestmark = pytest.mark.triton
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def both(
    shape: tuple[int, int, int], n_tokens: int, width: int, taps: int, products: torch.dtype
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Tokens and the gradients of filters and biases: of the CPU's path, of the kernel."""
    from emod.model.pooled_kernel import PooledKernel

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    weight = torch.randn(shape[0], width, taps, generator=generator) / taps**0.5
    bias = torch.randn(shape[0], width, generator=generator)
    weights = torch.randn(shape[0], shape[1], n_tokens, width, generator=generator)
    start, length = token_spans(shape[2], n_tokens)
    found = []
    for device in ("cpu", DEVICE):
        w, b = (tensor.to(device).requires_grad_() for tensor in (weight, bias))
        if not found:
            out = pooled_convolution(x, w, b, n_tokens)
        else:
            where = start.to(device), length.to(device), int(length.max())
            out = PooledKernel.apply(_pad(x, taps).to(device), w, b, *where, products)  # type: ignore[no-untyped-call]
        grads = torch.autograd.grad((out * weights.to(device)).sum(), (w, b))
        found.append((out.detach().cpu(), *(grad.cpu() for grad in grads)))
    return found


@pytest.mark.parametrize(
    ("shape", "n_tokens", "width", "taps"),
    [
        ((2, 3, 130), 5, 16, 7),  # spans of 26 points
        ((1, 2, 64), 10, 16, 25),  # uneven spans
        ((2, 2, 300), 7, 32, 25),
        ((1, 5, 101), 20, 16, 25),
        ((1, 1, 9), 12, 16, 5),  # more tokens than points
        ((1, 1, 300), 2, 16, 24),  # spans longer than a block
    ],
)
def test_single_precision(shape: tuple[int, int, int], n_tokens: int, width: int, taps: int) -> None:
    wanted, found = both(shape, n_tokens, width, taps, torch.float32)
    torch.testing.assert_close(found[0], wanted[0], rtol=0, atol=2e-6)
    for mine, other in zip(found[1:], wanted[1:], strict=True):
        assert (mine - other).norm() <= 1e-6 * other.norm()


def test_half_precision_products() -> None:
    """bfloat16 on a GPU; the interpreter multiplies no such matrices, float16 stands in."""
    products, tolerance = (torch.bfloat16, 2e-2) if DEVICE == "cuda" else (torch.float16, 3e-3)
    wanted, found = both((2, 3, 200), 10, 32, 25, products)
    for mine, other in zip(found, wanted, strict=True):
        assert (mine - other).norm() <= tolerance * other.norm()
