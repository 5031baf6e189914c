"""The contrastive loss against EMOD eq. 5-6 written out pair by pair in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from emod.objective import contrastive_loss, same_id_weights, va_contrastive_loss, va_weights


def draw(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit rows and points of the plane, float64."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 6, dtype=torch.float64, generator=generator)
    va = 8 * torch.rand(n, 2, dtype=torch.float64, generator=generator) - 4
    return z / z.norm(dim=1, keepdim=True), va


def naive_loss(z: list[list[float]], va: list[list[float]], tau: float, d_max: float) -> float:
    def similarity(i: int, j: int) -> float:
        return math.exp(sum(a * b for a, b in zip(z[i], z[j], strict=True)) / tau)

    total = 0.0
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        w = {j: max(0.0, 1 - math.dist(va[i], va[j]) / d_max) for j in others}
        if sum(w.values()) > 0:
            below = sum(similarity(i, k) for k in others)
            total -= sum(w[j] * math.log(similarity(i, j) / below) for j in others) / sum(w.values())
    return total / len(z)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 12), seed=st.integers(0, 99), tau=st.floats(0.05, 2.0), d_max=st.floats(0.3, 13.5))
def test_equals_the_equations(n: int, seed: int, tau: float, d_max: float) -> None:
    z, va = draw(n, seed)
    got = va_contrastive_loss(z, va, temperature=tau, d_max=d_max).item()
    assert got == pytest.approx(naive_loss(z.tolist(), va.tolist(), tau, d_max), rel=1e-12, abs=1e-12)


# Of words and of corners: pairs of weight exactly 0, some 5 apart to the bit, many ties.
FEW = [(0.0, 0.0), (3.0, 2.0), (-1.0, -1.0), (-1.0, 2.0), (4.0, -4.0), (-4.0, 4.0)]


@settings(max_examples=50, deadline=None)
@given(
    places=st.lists(st.integers(0, len(FEW) - 1), min_size=2, max_size=12),
    sources=st.lists(st.integers(0, 11), min_size=12, max_size=12),
    objective=st.sampled_from(["soft_va", "ids"]),
)
def test_equals_the_equations_where_windows_and_labels_repeat(
    places: list[int], sources: list[int], objective: str
) -> None:
    """A window drawn twice is a row twice; ids are places so far apart that other pairs weigh 0. In both precisions."""
    z = draw(12)[0][sources[: len(places)]]
    va = torch.tensor([FEW[place] if objective == "soft_va" else (100.0 * place, 0.0) for place in places]).double()
    weights = va_weights(va, d_max=5.0) if objective == "soft_va" else same_id_weights(torch.tensor(places))
    loss, alone = contrastive_loss(z, weights, 0.07)
    wanted = naive_loss(z.tolist(), va.tolist(), 0.07, 5.0)
    assert loss.item() == pytest.approx(wanted, rel=1e-12, abs=1e-12)
    near = [[math.dist(a, b) < 5 for b in va.tolist()] for a in va.tolist()]
    assert alone.item() == sum(sum(row) == 1 for row in near)  # none but itself
    single = contrastive_loss(z.float(), weights.float(), 0.07)[0]
    assert single.item() == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def test_gradient_is_that_of_the_equations() -> None:
    """Of the loss written pair by pair, in float64; and single precision as near to it as rounding of rows allows."""
    z, _ = draw(10)
    va = torch.tensor([FEW[i % len(FEW)] for i in (0, 1, 2, 3, 1, 0, 4, 5, 3, 2)]).double()
    rows, mine = z.clone().requires_grad_(), z.clone().requires_grad_()
    terms = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        w = [max(0.0, 1 - math.dist(va[i].tolist(), va[j].tolist()) / 5) for j in others]
        if sum(w) > 0:
            similar = torch.stack([torch.exp(sum(rows[i] * rows[j]) / 0.07) for j in others])
            terms.append(-(torch.tensor(w, dtype=torch.float64) * (similar / similar.sum()).log()).sum() / sum(w))
    (sum(terms) / len(z)).backward()
    va_contrastive_loss(mine, va).backward()
    assert rows.grad is not None
    assert mine.grad is not None
    assert (mine.grad - rows.grad).norm() <= 1e-12 * rows.grad.norm()
    single = z.float().requires_grad_()
    va_contrastive_loss(single, va.float()).backward()
    assert single.grad is not None
    assert (single.grad.double() - rows.grad).norm() <= 2e-6 * rows.grad.norm()


def test_defaults_are_the_papers() -> None:
    z, va = draw(10)
    assert va_contrastive_loss(z, va).item() == pytest.approx(naive_loss(z.tolist(), va.tolist(), 0.07, 5.0), rel=1e-12)


def test_weights_fall_linearly_with_distance() -> None:
    va = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 2.5], [-3.0, -4.0], [0.25, 0.0]])
    weights = va_weights(va, d_max=5.0)
    torch.testing.assert_close(weights[0], torch.tensor([0.0, 0.4, 0.5, 0.0, 0.95]))
    assert torch.equal(weights, weights.T)


def test_near_points_keep_their_precision() -> None:
    """Float32 points a thousandth apart, 60 of them: where the matrix-product form of the distance goes wrong."""
    va = torch.tensor([[4.0, 4.0 - 0.001 * i] for i in range(60)])
    wanted = 1 - (va[:, None].double() - va.double()).norm(dim=-1) / 5
    torch.testing.assert_close(va_weights(va, d_max=5.0).double(), wanted.fill_diagonal_(0), rtol=0, atol=1e-6)


def test_a_lonely_anchor_adds_zero_and_counts() -> None:
    z, _ = draw(5)
    va = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1], [-4, -4]], dtype=torch.float64)
    weights = va_weights(va, d_max=2.0)
    loss, alone = contrastive_loss(z, weights, 0.07)
    assert alone.item() == 1
    assert loss.item() == pytest.approx(naive_loss(z.tolist(), va.tolist(), 0.07, 2.0), rel=1e-12)
    no_weights, all_alone = contrastive_loss(z, torch.zeros(5, 5), 0.07)
    assert (no_weights.item(), all_alone.item()) == (0.0, 5)


def test_the_diagonal_of_the_weights_is_ignored() -> None:
    z, va = draw(6)
    weights = va_weights(va, d_max=5.0)
    with_diagonal = weights + 3 * torch.eye(6)
    assert contrastive_loss(z, with_diagonal)[0].item() == contrastive_loss(z, weights)[0].item()


def test_row_order_does_not_matter() -> None:
    z, va = draw(9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(va_contrastive_loss(z[order], va[order]), va_contrastive_loss(z, va))


def test_gradient_is_the_derivative() -> None:
    z, va = draw(7)
    va[0] = torch.tensor([40.0, 40.0])  # no positive pair
    assert torch.autograd.gradcheck(lambda rows: va_contrastive_loss(rows, va, 0.3), (z.requires_grad_(),))


def test_training_it_makes_neighbours_on_the_plane_neighbours_on_the_sphere() -> None:
    z, _ = draw(12)
    va = torch.tensor([[-3.0, -3.0]] * 6 + [[3.0, 3.0]] * 6)
    for _ in range(200):
        z = torch.nn.functional.normalize(z.detach(), dim=1).requires_grad_()
        va_contrastive_loss(z, va, temperature=0.5).backward()
        assert z.grad is not None
        z = z - z.grad
    similarity = (z @ z.T).detach()
    assert similarity[:6, :6].min() > similarity[:6, 6:].max()


def test_same_id_weights() -> None:
    weights = same_id_weights(torch.tensor([4, 1, 4, 4]))
    assert weights.tolist() == [[0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 0, 1], [1, 0, 1, 0]]


def test_two_views_of_each_window_give_info_nce() -> None:
    """With pairs as ids the loss is cross-entropy of each row's partner among all others (NT-Xent)."""
    z, _ = draw(6)
    logits = (z @ z.T / 0.07).fill_diagonal_(-torch.inf)
    wanted = torch.nn.functional.cross_entropy(logits, torch.tensor([3, 4, 5, 0, 1, 2]))
    loss, alone = contrastive_loss(z, same_id_weights(torch.tensor([0, 1, 2, 0, 1, 2])))
    torch.testing.assert_close(loss, wanted)
    assert alone.item() == 0


def test_refuses() -> None:
    z, va = draw(3)
    with pytest.raises(ValueError, match="d_max = 0"):
        va_contrastive_loss(z, va, d_max=0)
    with pytest.raises(ValueError, match="temperature = -1"):
        va_contrastive_loss(z, va, temperature=-1)
    with pytest.raises(ValueError, match="1 row"):
        va_contrastive_loss(z[:1], va[:1])


def test_points_may_be_whole_numbers_and_weights_are_one_for_each_pair() -> None:
    """Emotion words are whole points; a table of another size would be taken for every row's."""
    va = torch.tensor([[0, 0], [3, 2], [-1, 1]])
    torch.testing.assert_close(va_weights(va, d_max=5.0), va_weights(va.float(), d_max=5.0), rtol=0, atol=0)
    z = torch.nn.functional.normalize(torch.randn(4, 3), dim=1)
    with pytest.raises(ValueError, match=r"weights of shape \(1, 1\) for 4 rows: give one for each pair"):
        contrastive_loss(z, va_weights(va[:1], d_max=5.0))
