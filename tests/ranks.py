"""Ranks of a gloo group as processes of this machine.

One process starts and imports, then forks the others: importing costs more than what most tests compute.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing


def run_ranks(function: Callable[..., None], world_size: int, folder: str, *args: Any) -> None:
    """Calls ``function(rank, world_size, folder, *args)`` in every rank of a group, one thread each.

    The function is one that a new process can import. What it raises is raised here.
    """
    torch.multiprocessing.spawn(_fork, args=(function, world_size, folder, args), nprocs=1)


def _fork(_: int, function: Callable[..., None], world_size: int, folder: str, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    importlib.import_module("torch._dynamo")  # two seconds, which every rank's first step with an optimiser would take
    torch.multiprocessing.start_processes(
        _join, args=(function, world_size, folder, args), nprocs=world_size, start_method="fork"
    )


def _join(rank: int, function: Callable[..., None], world_size: int, folder: str, args: tuple[Any, ...]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    function(rank, world_size, folder, *args)
    dist.destroy_process_group()
