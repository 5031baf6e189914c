"""Everything that wants a GPU, in one call: python -m tests.bench.on_gpu. Exit code 1 where a bound is not kept.

Checks the kernels, then times the paper's step (288 windows of eight corpora) beside the eager reference in float32,
and says what the whole schedule would take. Nothing here has run yet: no GPU was at hand.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from tests.bench.model_step import make_step
from tests.bench.ratio import Figure

WINDOWS = 36
STEPS = 10
SCHEDULE_STEPS = 27_400
SCHEDULE_MINUTES = 20.0


def measure() -> list[Figure]:
    """Speed and memory of a step, and the length of the paper's schedule."""
    took: dict[str, float] = {}
    peak_gb: dict[str, float] = {}
    for side, precision in (("eager", torch.float32), ("ours", torch.bfloat16)):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        step = make_step(side, WINDOWS, "cuda", precision)
        for _ in range(3):
            step()
        seconds = []
        for _ in range(STEPS):
            torch.cuda.synchronize()
            began = time.perf_counter()
            step()
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        took[side] = statistics.median(seconds)
        peak_gb[side] = torch.cuda.max_memory_allocated() / 1e9
        del step
    detail = ", ".join(f"{side} {took[side] * 1e3:.0f} ms, {peak_gb[side]:.1f} GB" for side in took)
    minutes = SCHEDULE_STEPS * took["ours"] / 60
    return [
        Figure("windows/s: ours bf16 / eager fp32", took["eager"] / took["ours"], 6.0, True, detail),
        Figure("memory: ours bf16 / eager fp32", peak_gb["ours"] / peak_gb["eager"], 0.25, False, detail),
        Figure("minutes for 27,400 steps, extrapolated", minutes, SCHEDULE_MINUTES, False, detail),
    ]


def main() -> int:
    """Tests, then figures."""
    if not torch.cuda.is_available():
        print("no CUDA device here; run this on a machine that has one", file=sys.stderr)
        return 2
    root = Path(__file__).parents[2]
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "triton or gpu", "tests/model"]
    if subprocess.run(tests, cwd=root, check=False).returncode:
        return 1
    figures = measure()
    for figure in figures:
        sign = ">=" if figure.at_least else "<="
        print(f"{figure.name}: {figure.value:.2f} ({sign} {figure.bound:g}); {figure.detail}")
    return 0 if all(figure.kept for figure in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
