"""Ingest on Ray beside the very same code in a plain loop: recordings, parts, packing, manifest, report of neither.

Both sides take turns over the same recordings into a new store each, with one worker's CPU. Ray is started once, which
is not counted, as starting Python is not; while the loop has its turn Ray's processes are stopped, but for two that
idle, so that what they cost is in the ratio. Ray starts workers at nice 15, which is nothing on a machine of their own
and much beside others: here it is 0.
"""

from __future__ import annotations

import importlib
import logging
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
from scipy.stats import bootstrap

from emod.catalog import load_experiment
from emod.ingest import ingest, plan_ingest
from emod.workflow import simulate_corpora
from tests.bench.ratio import Figure, seconds, without_ray

PAIRS = 20
RECORDINGS = 2


def measure(folder: Path, pairs: int = PAIRS, time_scale: float = 0.12) -> list[Figure]:
    """The ratio of both times: median over pairs of turns."""
    experiment = load_experiment(
        "pretrain",
        [
            "corpora=[seed_iv]",
            f"addresses.data.seed_iv={folder / 'seed_iv'}",
            f"addresses.store={folder / 'store'}",
            f"simulate.seed_iv.subjects={RECORDINGS}",
            "simulate.seed_iv.sessions=1",
            f"simulate.seed_iv.time_scale={time_scale}",
        ],
    )
    simulate_corpora(experiment)
    pipeline = importlib.import_module("emod.ingest.pipeline")
    on_ray = pipeline._run

    def turn(side: str) -> float:
        shutil.rmtree(folder / "store", ignore_errors=True)
        pipeline._run = on_ray if side == "ray" else _in_a_loop  # type: ignore[attr-defined]
        with nullcontext() if side == "ray" else without_ray():
            return seconds(lambda: ingest(experiment, plan_ingest(experiment)))

    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        logging_level="ERROR",
        _system_config={"worker_niceness": 0},
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    took: dict[str, list[float]] = {"ray": [], "plain": []}
    try:
        for pair in range(pairs + 1):  # the first one warms up
            for side in ("ray", "plain") if pair % 2 else ("plain", "ray"):
                took[side].append(turn(side))
    finally:
        ray.shutdown()
    ratios = np.array(took["ray"][1:]) / np.array(took["plain"][1:])
    interval = bootstrap((ratios,), np.median, method="percentile", rng=0).confidence_interval
    both = {side: statistics.median(each[1:]) for side, each in took.items()}
    detail = (
        f"95 % {interval.low:.3f}..{interval.high:.3f} of {pairs} pairs of {RECORDINGS} recordings; "
        f"Ray {both['ray']:.1f} s, a loop {both['plain']:.1f} s"
    )
    return [Figure("ingest: Ray / the same in a loop", float(np.median(ratios)), 1.10, False, detail)]


def _in_a_loop(items: Sequence[Any], task: Callable[[Any], dict[str, Any]], num_cpus: float) -> Iterator[Any]:
    """What `emod.ingest.pipeline._run` does, without Ray."""
    for item in items:
        yield task(item)
