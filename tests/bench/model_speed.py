"""A training step of ours beside the plain eager one: time and peak memory, taken in turns in one run."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from emod.catalog import EmodConfig
from emod.training.launch import KEEP_MEMORY
from tests.bench.floor import measure_rates, step_operations
from tests.bench.ratio import Figure

WINDOWS = 4
ROUNDS = 3
STEPS = 3
THREADS = 2


def measure(windows: int = WINDOWS, rounds: int = ROUNDS) -> list[Figure]:
    """The two ratios of the paper's network on the eight corpora's shapes."""
    took: dict[str, list[float]] = {"eager": [], "ours": []}
    peak_mb = {"eager": 0.0, "ours": 0.0}
    for _ in range(rounds):
        # Never both at once: systems take memory away from a side that waits.
        for name in took:
            with _side(name, windows) as process:
                _step(process)  # warms up
                steps = [_step(process) for _ in range(STEPS)]
            took[name] += [step["seconds"] for step in steps]
            peak_mb[name] = max(peak_mb[name], *(step["peak_mb"] for step in steps))
    median = {name: statistics.median(values) for name, values in took.items()}
    rate = {name: 8 * windows / seconds for name, seconds in median.items()}
    detail = ", ".join(f"{n} {median[n]:.2f} s, {rate[n]:.1f} windows/s, {peak_mb[n]:.0f} MB" for n in median)
    floor_s, work = _floor(windows)
    return [
        Figure("step: ours / eager, CPU", median["ours"] / median["eager"], 0.4, False, detail),
        Figure("step's peak memory: ours / eager", peak_mb["ours"] / peak_mb["eager"], 0.4, False, detail),
        Figure("step: ours / floor", median["ours"] / floor_s, math.inf, False, work),
        Figure("step: eager / floor", median["eager"] / floor_s, math.inf, False, work),
        Figure("floor / eager", floor_s / median["eager"], math.inf, False, work),
    ]


def _floor(windows: int) -> tuple[float, str]:
    """Seconds, and what they are made of."""
    torch.set_num_threads(THREADS)
    rates, step = measure_rates(), step_operations(windows, EmodConfig())
    products_s, evaluations_s = rates.products_s(step), rates.evaluations_s(step)
    work = (
        f"floor: products {products_s:.2f} s ({sum(op.flops for op in step) / 1e9:.0f} Gflop at "
        f"{rates.flops / 1e9:.0f} Gflop/s, {rates.size / 1e9:.0f} GB/s), GELU, its derivative and softmax "
        f"{evaluations_s:.2f} s (at {rates.gelu / 1e9:.1f}, {rates.slope / 1e9:.1f}, {rates.exp / 1e9:.1f} G/s)"
    )
    return products_s + evaluations_s, work


@contextmanager
def _side(name: str, windows: int) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": str(THREADS)}  # one allocator for both
    command = [sys.executable, "-m", "tests.bench.model_step", name, str(windows), str(THREADS)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2], **pipes) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()


def _step(process: subprocess.Popen[str]) -> dict[str, float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("step\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a side of the bench ended with {process.wait()}")
    found: dict[str, float] = json.loads(line)
    return found
