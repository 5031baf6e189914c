"""One, two, three and eight gloo ranks with uneven parts give the loss and the gradients of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from emod.objective import gather_rows, va_contrastive_loss
from tests.ranks import run_ranks

PARTS = ((14,), (9, 5), (6, 0, 8), (2, 3, 0, 2, 4, 1, 1, 1))
POINTS = ((0.0, 0.0), (3.0, 2.0), (-1.0, -1.0), (-1.0, 2.0), (4.0, -4.0))  # the second and third are 5 apart


def make_problem(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, nn.Module, nn.Module]:
    """Windows that follow points of few places, corpus ids, a part before the gather and one with statistics after."""
    torch.manual_seed(0)
    va = torch.tensor([POINTS[i % 4] for i in range(13)] + [POINTS[4]])  # the last has no positive
    x = torch.randn(14, 5) + va @ torch.randn(2, 5) + 3
    before = nn.Sequential(nn.Linear(5, 6), nn.GELU())
    after = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 4))
    return x.to(dtype), va.to(dtype), torch.arange(14) % 3, before.to(dtype), after.to(dtype)


def collect(module: nn.Module) -> Tensor:
    return torch.cat([p.grad.ravel() for p in module.parameters() if p.grad is not None])


def solve(dtype: torch.dtype, part: slice, group: dist.ProcessGroup | None) -> dict[str, Any]:
    """Loss and gradients with the gather inside a model, and of rows that the loss gathers itself."""
    x, va, corpus, before, after = make_problem(dtype)
    embedding, points, ids, offset = before(x[part]), va[part], corpus[part], 0
    if group is not None:
        embedding, offset = gather_rows(embedding, group)
        points, ids = gather_rows(points, group)[0], gather_rows(ids, group)[0]
    loss = va_contrastive_loss(F.normalize(after(embedding), dim=1), points)
    loss.backward()
    rows = F.normalize(x[part], dim=1).requires_grad_()
    direct = va_contrastive_loss(rows, va[part], group=group)
    direct.backward()
    norm = after[1]
    assert isinstance(norm, nn.BatchNorm1d)
    return {
        "offset": offset,
        "corpus": ids,
        "loss": loss.detach(),
        "before": collect(before),
        "after": collect(after),
        "direct": direct.detach(),
        "rows": rows.grad,
        "statistics": torch.stack([norm.running_mean, norm.running_var]),  # type: ignore[list-item]
    }


def run_rank(rank: int, world_size: int, folder: str) -> None:
    for sizes in PARTS:
        group = dist.new_group(list(range(len(sizes))))
        if rank < len(sizes):
            assert isinstance(group, dist.ProcessGroup)
            part = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
            found = {str(dtype): solve(dtype, part, group) for dtype in (torch.float64, torch.float32)}
            torch.save(found, f"{folder}/{len(sizes)}-{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, dict[str, Any]]]]:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(run_rank, max(map(len, PARTS)), str(folder))
    return {
        len(sizes): [torch.load(folder / f"{len(sizes)}-{r}.pt", weights_only=True) for r in range(len(sizes))]
        for sizes in PARTS
    }


def gradients(ranks: list[dict[str, Any]]) -> dict[str, Tensor]:
    """What the convention of ``emod.objective.gather`` makes of the ranks' gradients, in double precision."""
    return {
        "rows": torch.cat([rank["rows"] for rank in ranks]).double(),
        "before": torch.stack([rank["before"] for rank in ranks]).double().sum(dim=0),
        "after": torch.stack([rank["after"] for rank in ranks]).double().mean(dim=0),
    }


@pytest.mark.parametrize("sizes", PARTS)
def test_ranks_equal_one_process(ranks: dict[int, list[dict[str, dict[str, Any]]]], sizes: tuple[int, ...]) -> None:
    one = solve(torch.float64, slice(None), None)
    found = [rank["torch.float64"] for rank in ranks[len(sizes)]]
    for rank, result in enumerate(found):
        assert result["offset"] == sum(sizes[:rank])
        assert result["corpus"].tolist() == one["corpus"].tolist()
        for loss in ("loss", "direct"):
            assert abs(result[loss] - one[loss]) <= 1e-12
            assert result[loss] == found[0][loss], "no rank may be a bit away from the others"
        torch.testing.assert_close(result["statistics"], one["statistics"], rtol=0, atol=1e-12)
    wanted = gradients([one])
    for name, gradient in gradients(found).items():
        assert (gradient - wanted[name]).norm() <= 1e-9 * wanted[name].norm()


@pytest.mark.parametrize("sizes", PARTS)
def test_single_precision_is_as_exact_as_one_processs(
    ranks: dict[int, list[dict[str, dict[str, Any]]]], sizes: tuple[int, ...]
) -> None:
    one, plain = solve(torch.float64, slice(None), None), solve(torch.float32, slice(None), None)
    found = [rank["torch.float32"] for rank in ranks[len(sizes)]]
    for loss in ("loss", "direct"):
        assert abs(found[0][loss].double() - one[loss]) <= 1e-6 * max(1, one[loss])
    wanted, rounded = gradients([one]), gradients([plain])
    for name, gradient in gradients(found).items():
        assert (gradient - wanted[name]).norm() <= 2 * (rounded[name] - wanted[name]).norm()


def test_gathered_rows_have_their_derivative(tmp_path: Path) -> None:
    """By finite differences, in a group of one: what a rank's rows get from the rows of all."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        group = dist.group.WORLD
        assert group is not None
        rows = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
        assert torch.autograd.gradcheck(lambda given: gather_rows(given, group)[0], (rows,))
    finally:
        dist.destroy_process_group()
