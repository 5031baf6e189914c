"""`make test-gpu` checks two ranks over NCCL; the same command over gloo is what can be checked without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu.__main__ import STEPS, compare, main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
def test_over_gloo() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu", "gloo"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "platform"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("two ranks over gloo take the steps of one: ")


@pytest.mark.skipif(torch.cuda.device_count() >= 2, reason="there are two GPUs")
def test_without_two_gpus_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 2
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith("NCCL needs two GPUs and this machine has ")


def test_what_differs_is_told() -> None:
    def found(offset: float) -> dict[str, object]:
        return {
            "losses": [1.0 + offset] * STEPS,
            "gradients": [torch.tensor([1.0, offset])] * STEPS,
            "weights": torch.tensor([1.0 + offset]),
        }

    right = {kind: found(0.0) for kind in ("still", "learning", "alone")}
    assert compare(right, right) == []
    assert compare(right, right | {"learning": found(1e-6)}) == ["learning: the two ranks drifted apart"]
    assert len(compare(right | {"alone": found(1e-3)}, right)) == 2 * STEPS
    assert len(compare(right | {"alone": found(float("nan"))}, right)) == 2 * STEPS
