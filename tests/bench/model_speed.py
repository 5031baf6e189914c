"""A training step of ours beside the plain eager one: time and peak memory, taken in turns in one run.

Both sides have the same allocator, twice: glibc as it is, which is what a plain script gets, and told to keep memory as
our jobs tell it, which spares a side that materialises large activations about a third of its time.
"""

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
ALLOCATORS: dict[str, dict[str, str]] = {"glibc as it is": {}, "memory kept": KEEP_MEMORY}


def measure(windows: int = WINDOWS, rounds: int = ROUNDS) -> list[Figure]:
    """The two ratios of the paper's network on the eight corpora's shapes, by allocator; then the floor."""
    sides = [(allocator, name) for allocator in ALLOCATORS for name in ("eager", "ours")]
    took: dict[tuple[str, str], list[float]] = {side: [] for side in sides}
    peak_mb = dict.fromkeys(sides, 0.0)
    for _ in range(rounds):
        # Never two at once: systems take memory away from a side that waits.
        for side in sides:
            with _side(*side, windows) as process:
                _step(process)  # warms up
                steps = [_step(process) for _ in range(STEPS)]
            took[side] += [step["seconds"] for step in steps]
            peak_mb[side] = max(peak_mb[side], *(step["peak_mb"] for step in steps))
    median = {side: statistics.median(values) for side, values in took.items()}
    figures = []
    for allocator in ALLOCATORS:
        eager, ours = (allocator, "eager"), (allocator, "ours")
        detail = ", ".join(
            f"{name} {median[allocator, name]:.2f} s, {8 * windows / median[allocator, name]:.1f} windows/s, "
            f"{peak_mb[allocator, name]:.0f} MB"
            for name in ("eager", "ours")
        )
        time, memory = median[ours] / median[eager], peak_mb[ours] / peak_mb[eager]
        figures += [
            Figure(f"step: ours / eager, CPU, {allocator}", time, 0.4, False, detail),
            Figure(f"step's peak memory: ours / eager, {allocator}", memory, 0.4, False, detail),
        ]
    floor_s, work = _floor(windows)
    return [
        *figures,
        *(
            Figure(f"step: {name} / floor, {allocator}", median[allocator, name] / floor_s, math.inf, False, work)
            for allocator, name in sides
        ),
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
def _side(allocator: str, name: str, windows: int) -> Iterator[subprocess.Popen[str]]:
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    environment = {**plain, **ALLOCATORS[allocator], "OMP_NUM_THREADS": str(THREADS)}
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
