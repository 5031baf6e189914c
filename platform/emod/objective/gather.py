"""Rows of all workers, as one differentiable tensor.

Convention: every rank computes the same global loss L from the gathered rows. The backward pass then needs no
communication: the local slice of dL/d(gathered) is exactly dL/d(local rows). For parameters
- before the gather (a backbone that made the local rows): each rank holds the share of its own rows; the one-process
  gradient is the SUM over ranks;
- after the gather (a head applied to all rows on every rank): each rank already holds the one-process gradient; the
  MEAN over ranks keeps it.
Averaging everything, as DistributedDataParallel does, is therefore right once the rows entering the gather have their
gradient multiplied by the world size. Nothing here reduces parameter gradients.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], rank: int, group: dist.ProcessGroup) -> Tensor:
        ctx.part = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        # Collectives want equal shapes: pad to the largest part, cut afterwards.
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        return grad_outputs[0][ctx.part], None, None, None


def gather_rows(rows: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, int]:
    """Concatenate the rows of all ranks in rank order; parts may differ in length.

    A collective: every rank of ``group`` calls it, with the same dtype and trailing shape. See the module's
    docstring for what its gradient means.

    Args:
        rows: (n_rank, ...), floats or integers, on the device of the group's backend; n_rank may be 0.
        group: The ranks to gather from, gloo or nccl.

    Returns:
        The (sum of n_rank, ...) rows, equal on every rank, and the position of this rank's first row in them.
    """
    rank, world_size = dist.get_rank(group), dist.get_world_size(group)
    count = torch.tensor([len(rows)], device=rows.device)
    gathered = [torch.empty_like(count) for _ in range(world_size)]
    dist.all_gather(gathered, count, group=group)
    counts = [int(n) for n in torch.cat(gathered).tolist()]
    everyone: Tensor = _GatherRows.apply(rows, counts, rank, group)  # type: ignore[no-untyped-call]
    return everyone, sum(counts[:rank])
