"""Two ranks take the steps of one: python -m tests.gpu. Over NCCL, a GPU each; ``gloo`` after it means two processes.

In single precision, on windows with structure, with dropout on. Weights first stay as they are, so that loss and
gradient of each step are compared; then they learn, and must stay equal on both ranks to the bit. Exit code 1 where
that is not so, 2 where there are fewer than two GPUs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

from emod.catalog import EmodConfig, PretrainSettings
from emod.training.pretrainer import Pretrainer
from tests.training.structured import D_MAX, SIZES, STILL, StructuredStore

STEPS = 6
LEARNING = {"learning_rate": 5e-3}
# Of the loss, and of the gradient's norm: a batch that is cut elsewhere is summed in another order.
LOSS, GRADIENT = 1e-5, 1e-4


def take_steps(device: torch.device, group: dist.ProcessGroup | None, rates: dict[str, float]) -> dict[str, Any]:
    """Losses and gradients of some steps, and the weights after the last."""
    store = StructuredStore()
    config = EmodConfig(**SIZES | {"width": 16}, dropout=0.2, pool_dropout=0.2)  # narrower ones take no kernel of ours
    settings = PretrainSettings(epochs=1, steps_per_epoch=STEPS, rounds=1, d_max=D_MAX, **rates)
    pretrainer = Pretrainer(store, store.selected, config, settings, seed=5, device=device, group=group)
    losses, gradients = [], []
    for report in pretrainer.steps():
        losses.append(report.loss)
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in pretrainer.model.parameters()]
        gradients.append(torch.cat([gradient.ravel() for gradient in found]).cpu())
    weights = torch.cat([value.ravel().float() for value in pretrainer.model.state_dict().values()]).cpu()
    return {"losses": losses, "gradients": gradients, "weights": weights}


def run_rank(rank: int, backend: str, folder: str) -> None:
    """Both kinds of steps with another rank, and on rank 0 alone as well."""
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    group = dist.group.WORLD
    found = {"still": take_steps(device, group, STILL), "learning": take_steps(device, group, LEARNING)}
    dist.destroy_process_group()
    if rank == 0:
        found["alone"] = take_steps(device, None, STILL)
    torch.save(found, f"{folder}/{rank}.pt")


def compare(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """What is not as it should be; the two ranks' findings."""
    wrong = []
    for kind in ("still", "learning"):
        same = torch.equal(first[kind]["weights"], second[kind]["weights"])
        if not same or first[kind]["losses"] != second[kind]["losses"]:
            wrong.append(f"{kind}: the two ranks drifted apart")
    for step in range(STEPS):
        loss, wanted = first["still"]["losses"][step], first["alone"]["losses"][step]
        if not abs(loss - wanted) <= LOSS * abs(wanted):
            wrong.append(f"step {step + 1}: loss {loss:.9g} of two ranks, {wanted:.9g} of one")
        gradient, expected = first["still"]["gradients"][step], first["alone"]["gradients"][step]
        if not (gradient - expected).norm() <= GRADIENT * expected.norm():
            wrong.append(
                f"step {step + 1}: gradients differ by {float((gradient - expected).norm() / expected.norm())}"
            )
    return wrong


def main(backend: str = "nccl") -> int:
    """Checks, and says what came of it."""
    if backend == "nccl" and (found := torch.cuda.device_count()) < 2:
        print(f"NCCL needs two GPUs and this machine has {found}; run this where there are two", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="emod-two-ranks-") as folder:
        # CUDA does not survive a fork; without it a fork spares both ranks their imports.
        method = "spawn" if backend == "nccl" else "fork"
        torch.multiprocessing.start_processes(run_rank, args=(backend, folder), nprocs=2, start_method=method)
        first, second = (torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in (0, 1))
    wrong = compare(first, second)
    for line in wrong:
        print(line, file=sys.stderr)
    if not wrong:
        print(
            f"two ranks over {backend} take the steps of one: {STEPS} losses within {LOSS:g}, gradients within "
            f"{GRADIENT:g} of their norm, weights of both ranks equal"
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
