"""A step of pretraining under Ray Train beside the same step without it: one process each, and two gloo processes each.

Under Ray Train it is the whole worker loop, as jobs/pretrain.py runs it: metrics to MLflow and to Ray, the progress
bar's line, a checkpoint at the default period. Under torch.distributed it is `Pretrainer.steps` and nothing else. Both
sides have the paper's network, the same windows, weights, threads and allocator.

All workers stay alive and take turns of a few steps, so that what else the machine does meets both alike; a side that
waits blocks on a socket. While the plain side of one process has its turn Ray's own processes are stopped, but for two
that idle, so that what they cost is in the ratio. With two, a core each, they run during both: the ratio is of what Ray
Train and the worker loop add to a step. Ray starts workers at nice 15, which is nothing on a machine of their
own and much beside others: here it is 0, as theirs.
"""

from __future__ import annotations

import importlib
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np
import ray
from scipy.stats import bootstrap

from emod.catalog import Experiment
from emod.catalog.load import validate
from emod.shards import ShardStore
from emod.tracking import ensure_run
from emod.training import pretrain
from emod.training.launch import KEEP_MEMORY
from tests.bench.ratio import Figure, without_ray
from tests.training.tiny_store import write_tiny_store

PAIRS = 24
TURN = 6  # the checkpoint of step 100 falls inside a turn
SIDES = ("ray", "plain")
MONTAGE = ("Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "FC5", "FC1", "FC2", "FC6", "T7", "C3", "Cz", "C4", "T8")


def measure(folder: Path, pairs: int = PAIRS) -> list[Figure]:
    """The ratios of both steps: medians over pairs of turns."""
    return [_compared(folder / str(ranks), pairs, ranks) for ranks in (1, 2)]


def _compared(folder: Path, pairs: int, ranks: int) -> Figure:
    folder.mkdir()
    shapes = {"deap": (MONTAGE, 128.0, 4.0), "seed_iv": (MONTAGE[::-1], 200.0, 4.0)}
    write_tiny_store(str(folder / "store"), shapes)
    raw = {
        "name": "bench",
        "description": "Ray Train beside torch.distributed",
        "corpora": list(shapes),
        "addresses": {"store": str(folder / "store"), "runs": str(folder / "runs")},
        "pretrain": {
            "epochs": 1,
            "steps_per_epoch": (pairs + 1) * TURN,
            "rounds": 1,
            "workers": ranks,
            "max_failures": 0,
        },
    }
    experiment = validate(Experiment, raw, origin="bench")
    address = str(folder / "turns")
    with Listener(address, family="AF_UNIX") as listener, ThreadPoolExecutor(max_workers=2) as others:
        turns_taken = others.submit(_take_turns, listener, pairs, ranks)
        plain = others.submit(_under_torch, experiment, address, folder, ranks)
        plain.add_done_callback(lambda done: done.exception() and listener.close())
        _under_ray(experiment, address, folder)  # here, since Ray wants the main thread
        plain.result()
        took = turns_taken.result()
    ratios, of_cpu = (np.array(took["ray"]) / np.array(took["plain"])).T
    interval = bootstrap((ratios,), np.median, method="percentile", rng=0).confidence_interval
    ms = {side: 1000 * statistics.median(wall for wall, _ in turns) / TURN for side, turns in took.items()}
    detail = (
        f"95 % {interval.low:.3f}..{interval.high:.3f} of {pairs} pairs of {TURN} steps; "
        f"Ray Train {ms['ray']:.1f} ms, without {ms['plain']:.1f} ms a step; "
        f"of the workers' CPU time {np.median(of_cpu):.3f}"
    )
    name, bound = ("one process", 1.05) if ranks == 1 else ("torch.distributed", 1.03)
    return Figure(f"step: Ray Train / {name}", float(np.median(ratios)), bound, False, detail)


def _take_turns(listener: Listener, pairs: int, ranks: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds, and CPU seconds of all ranks, of every turn of each side but the first, which warms up."""
    lines: dict[str, list[Connection]] = {side: [] for side in SIDES}
    for _ in range(ranks * len(SIDES)):
        line = listener.accept()
        lines[line.recv()].append(line)
    took: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for pair in range(pairs + 1):
        for side in SIDES if pair % 2 else SIDES[::-1]:
            with without_ray() if side == "plain" and ranks == 1 else nullcontext():
                for line in lines[side]:
                    line.send("go")
                walls, busy = zip(*(line.recv() for line in lines[side]), strict=True)
            took[side].append((max(walls), sum(busy)))
    return {side: seconds[1:] for side, seconds in took.items()}


def _paced(side: str, address: str, turn: int) -> Callable[[], None]:
    """Makes this process' Pretrainer take turns. A nested function, as workers cannot import this file."""

    def pace() -> None:
        import time
        from multiprocessing.connection import Client

        from emod.training.pretrainer import Pretrainer

        line = Client(address, family="AF_UNIX")
        line.send(side)
        untouched = Pretrainer.steps

        def steps(self: Pretrainer) -> Any:
            line.recv()
            began, busy = time.perf_counter(), time.process_time()
            for report in untouched(self):
                yield report
                if self.next_step % turn == 0:
                    line.send((time.perf_counter() - began, time.process_time() - busy))
                    if self.next_step < self.total_steps:
                        line.recv()
                        began, busy = time.perf_counter(), time.process_time()

        Pretrainer.steps = steps  # type: ignore[method-assign]

    return pace


def _under_ray(experiment: Experiment, address: str, folder: Path) -> None:
    pace = _paced("ray", address, TURN)
    module = importlib.import_module("emod.training.pretrain")  # the package holds a function of that name

    def loop(config: dict[str, Any]) -> None:
        pace()
        importlib.import_module("emod.training.pretrain")._pretrain_worker(config)

    module._pretrain_worker = loop  # type: ignore[attr-defined]
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    ray.init(
        address="local",
        num_cpus=experiment.pretrain.workers,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _system_config={"worker_niceness": 0},
    )
    try:
        store = ShardStore.open(experiment.addresses.store_url())
        run_id = ensure_run(uri, "bench", "bench", {})
        pretrain(experiment, store, tracking=(uri, run_id), advance=lambda steps=1, note="": None)
    finally:
        ray.shutdown()


def _under_torch(experiment: Experiment, address: str, folder: Path, ranks: int) -> None:
    command = [sys.executable, "-m", "tests.bench.ray_step", experiment.model_dump_json(), address, str(folder)]
    environment = {**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen([*command, str(rank)], env=environment, cwd=Path(__file__).parents[2]) for rank in range(ranks)
    ]
    codes = [rank.wait() for rank in running]
    if any(codes):
        raise RuntimeError(f"ranks ended with {codes}")


def _rank(experiment_json: str, address: str, folder: str, rank: str) -> None:
    """One process of the plain side."""
    import torch
    import torch.distributed as dist

    from emod.training.pretrainer import Pretrainer, select_windows

    experiment = Experiment.model_validate_json(experiment_json)
    torch.set_num_threads(experiment.pretrain.threads_per_worker)
    world_size = experiment.pretrain.workers
    assert isinstance(world_size, int)
    if world_size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=int(rank), world_size=world_size)
    _paced("plain", address, TURN)()
    store = ShardStore.open(experiment.addresses.store_url())
    pretrainer = Pretrainer(
        store,
        select_windows(store, experiment.corpora, {}),
        experiment.model,
        experiment.pretrain,
        seed=experiment.seed,
        device=torch.device("cpu"),
        group=dist.group.WORLD if world_size > 1 else None,
    )
    for _ in pretrainer.steps():
        pass
    if world_size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    _rank(*sys.argv[1:])
