"""Two ways to one function: values, and gradients of everything that has one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def assert_same(ours: Callable[[], Tensor], plain: Callable[[], Tensor], inputs: Sequence[Tensor]) -> None:
    """In double precision; and without gradients, the same bits as with them."""
    found, wanted = ours(), plain()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)
    weights = torch.randn(found.shape, dtype=found.dtype)
    for mine, other in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((wanted * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(ours(), found)
