"""A batch on a CPU in parts, as many at once as torch has threads.

Within an operation threads help little where tensors are small enough for caches, so every part goes through the
whole network on one thread, forward and backward. How a batch is cut does not depend on the number of threads, and
gradients of parts are summed in their order: where there are several, one thread or many give the same bits. A single
part has all threads to itself. Autocast is off: it belongs to the thread that asks for it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["run_in_parts"]

Part = tuple[Tensor | None, ...]
T = TypeVar("T")
R = TypeVar("R")


def run_in_parts(function: Callable[..., Tensor], parts: Sequence[Part], parameters: Sequence[Tensor]) -> Tensor:
    """The rows that ``function`` gives for each part, one after the other.

    Args:
        function: Of the tensors of a part, which get no gradient; returns rows.
        parts: At least one.
        parameters: Whatever else the rows depend on and gradients are wanted of.
    """
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    if torch.is_grad_enabled() and wanted:
        out: Tensor = _InParts.apply(function, parts, *wanted)  # type: ignore[no-untyped-call]
        return out
    return torch.cat(_map(lambda part: _run(function, part, differentiable=False), parts))


def _run(function: Callable[..., Tensor], part: Part, *, differentiable: bool) -> Tensor:
    with torch.set_grad_enabled(differentiable), torch.autocast("cpu", enabled=False):  # each thread's own
        return function(*part)


class _InParts(torch.autograd.Function):
    """Holds a graph for each part; the backward pass goes through them apart, too."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], parts: Sequence[Part], *parameters: Tensor) -> Tensor:
        ctx.parameters = parameters
        ctx.rows = _map(lambda part: _run(function, part, differentiable=True), parts)
        return torch.cat([rows.detach() for rows in ctx.rows])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grads = torch.split(grad_outputs[0], [len(rows) for rows in ctx.rows])

        def gradients(rows: Tensor, grad: Tensor) -> tuple[Tensor | None, ...]:
            of_part: tuple[Tensor | None, ...] = torch.autograd.grad(
                rows, ctx.parameters, grad, keep, allow_unused=True
            )
            return of_part

        keep: bool = torch._C._autograd._get_current_graph_task_keep_graph()  # whether the caller retains the graph
        of_parts = _map(lambda pair: gradients(*pair), list(zip(ctx.rows, grads, strict=True)))
        return None, None, *_map(_sum, list(zip(*of_parts, strict=True)))


def _sum(parts: Iterable[Tensor | None]) -> Tensor | None:
    return functools.reduce(
        lambda total, part: part if total is None else total if part is None else total + part, parts
    )


def _map(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    threads = min(torch.get_num_threads(), len(items))
    return (
        [function(item) for item in items]
        if threads == 1
        else list(_pool(torch.get_num_threads()).map(function, items))
    )


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads on which torch's operations use no others."""
    pool = ThreadPoolExecutor(threads, "emod-part")
    started = threading.Barrier(threads)

    def start() -> None:
        started.wait()
        torch.get_num_threads()  # a thread takes the common setting at the first question, and would do so later
        torch.set_num_threads(1)

    for future in [pool.submit(start) for _ in range(threads)]:
        future.result()
    torch.set_num_threads(threads)  # what each of them set holds for threads that come, too
    return pool
