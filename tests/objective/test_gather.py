"""Several gloo ranks with uneven parts give the loss and the gradients of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from emod.objective import gather_rows, va_contrastive_loss


def make_problem() -> tuple[Tensor, Tensor, Tensor, nn.Module, nn.Module]:
    """Seven windows, their points and corpus ids, a part before the gather and a part (with batch statistics) after."""
    torch.manual_seed(0)
    x, va = torch.randn(7, 5), 8 * torch.rand(7, 2) - 4
    before = nn.Sequential(nn.Linear(5, 6), nn.GELU())
    after = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 4))
    return x, va, torch.arange(7) % 3, before, after


def collect(module: nn.Module) -> Tensor:
    return torch.cat([p.grad.ravel() for p in module.parameters() if p.grad is not None])


def run_rank(rank: int, sizes: tuple[int, ...], folder: str) -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(sizes))
    group = dist.group.WORLD
    assert group is not None
    x, va, corpus, before, after = make_problem()
    part = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))

    embedding, offset = gather_rows(before(x[part]), group)
    z = F.normalize(after(embedding), dim=1)
    loss = va_contrastive_loss(z, gather_rows(va[part], group)[0])
    loss.backward()

    rows = F.normalize(x[part], dim=1).requires_grad_()
    direct = va_contrastive_loss(rows, va[part], group=group)
    direct.backward()
    result = {
        "offset": offset,
        "corpus": gather_rows(corpus[part], group)[0],
        "loss": loss.detach(),
        "before": collect(before),
        "after": collect(after),
        "direct": direct.detach(),
        "rows": rows.grad,
    }
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("sizes", [(5, 2), (3, 0, 4)])
def test_ranks_equal_one_process(sizes: tuple[int, ...], tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_rank, args=(sizes, str(tmp_path)), nprocs=len(sizes))
    ranks: list[dict[str, Any]] = [torch.load(tmp_path / f"{rank}.pt") for rank in range(len(sizes))]

    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        x, va, corpus, before, after = make_problem()
    finally:
        torch.set_default_dtype(dtype)
    loss = va_contrastive_loss(F.normalize(after(before(x)), dim=1), va)
    loss.backward()
    rows = F.normalize(x, dim=1).requires_grad_()
    direct = va_contrastive_loss(rows, va)
    direct.backward()

    def close(got: Tensor, wanted: Tensor | None) -> bool:
        assert wanted is not None
        return bool((got - wanted).norm() <= 1e-9 * wanted.norm())

    for rank, result in enumerate(ranks):
        assert result["offset"] == sum(sizes[:rank])
        assert result["corpus"].tolist() == corpus.tolist()
        assert abs(result["loss"] - loss) < 1e-12
        assert abs(result["direct"] - direct) < 1e-12
    assert close(torch.cat([result["rows"] for result in ranks]), rows.grad)
    assert close(sum(result["before"] for result in ranks), collect(before))
    assert close(sum(result["after"] for result in ranks) / len(ranks), collect(after))
