"""A batch in parts against the whole: values, gradients, and bits that no number of threads changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from emod.catalog import EmodConfig
from emod.model import Emod
from emod.model import emod as module
from emod.model.in_parts import run_in_parts

NAMES = ("Fp1", "Cz", "O2")
CONFIG = EmodConfig(width=16, heads=4, groups=2, layers=2, feed_forward=32)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def step(threads: int, rows: int, monkeypatch: pytest.MonkeyPatch, *, double: bool = False) -> list[Tensor]:
    """Embeddings of seven windows in training, and all gradients."""
    torch.manual_seed(0)
    model = Emod(CONFIG).train()
    model = model.double() if double else model
    eeg = torch.randn(7, 3, 200).to(next(model.parameters()).dtype)
    torch.set_num_threads(threads)
    monkeypatch.setattr(module, "_VALUES", rows * CONFIG.width)
    embedding = model.embed(eeg, NAMES, 50.0, torch.arange(7))
    (embedding.cos() * torch.arange(16)).sum().backward()
    return [embedding.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def test_parts_make_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = (step(2, rows, monkeypatch, double=True) for rows in (10_000, 3 * 20 * 2))
    assert len(whole) == len(parts) > 20
    for mine, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for mine, other in zip(step(threads, 1, monkeypatch), step(1, 1, monkeypatch), strict=True):
        assert torch.equal(mine, other)


def test_parts_run_at_once_each_on_one_thread() -> None:
    torch.set_num_threads(2)
    weight = torch.ones(2, requires_grad=True)
    both = threading.Barrier(2)

    class Meet(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            both.wait(timeout=60)
            return x.clone()

        @staticmethod
        def backward(ctx: object, *grads: Tensor) -> Tensor:
            both.wait(timeout=60)
            return grads[0]

    def rows(x: Tensor) -> Tensor:
        assert torch.get_num_threads() == 1
        met: Tensor = Meet.apply(x * weight)  # type: ignore[no-untyped-call]
        return met

    parts = [(torch.full((1, 2), float(number)),) for number in range(2)]
    out = run_in_parts(rows, parts, [weight])
    assert out.tolist() == [[0, 0], [1, 1]]
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.tolist() == [1, 1]
    assert torch.get_num_threads() == 2
    found: list[int] = []
    newcomer = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    newcomer.start()
    newcomer.join()
    assert found == [2]


def test_only_what_asks_gets_a_gradient() -> None:
    torch.set_num_threads(2)
    frozen, wanted, idle = torch.ones(2), torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    parts = [(torch.full((1, 2), float(number)),) for number in range(3)]
    out = run_in_parts(lambda x: x * frozen * wanted, parts, [frozen, wanted, idle])
    grads = torch.autograd.grad(out.sum(), [wanted, idle], retain_graph=True, allow_unused=True)
    assert grads[0].tolist() == [3, 3]
    assert grads[1] is None
    assert torch.autograd.grad(out.sum(), wanted)[0].tolist() == [3, 3]
    with torch.no_grad():
        assert not run_in_parts(lambda x: x * wanted, parts, [wanted]).requires_grad
    assert not run_in_parts(lambda x: x * frozen, parts, [frozen]).requires_grad


def test_what_fails_in_a_part_is_told() -> None:
    torch.set_num_threads(2)

    def refuse(x: Tensor) -> Tensor:
        raise ValueError("no such electrode")

    with pytest.raises(ValueError, match="no such electrode"):
        run_in_parts(refuse, [(torch.ones(1),), (torch.ones(1),)], [])
