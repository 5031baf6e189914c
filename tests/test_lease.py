"""Two drivers of one run on one machine; tests/training/test_submitted.py has them on one cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from emod.catalog import Experiment, load_experiment
from emod.errors import RequestError
from emod.lease import one_driver

HOLDS = """
import sys, time
from emod.catalog import load_experiment
from emod.lease import hold
with hold(load_experiment("pretrain", [f"addresses.runs={sys.argv[1]}"]), "mine"):
    print("held", flush=True)
    time.sleep(600)
"""


@one_driver(lambda experiment: experiment.pretrain.run_name)
def train(experiment: Experiment, answer: str) -> str:
    return answer


def test_a_run_has_one_driver_and_whoever_dies_lets_go(tmp_path: Path) -> None:
    def asked(folder: Path, run_name: str) -> Experiment:
        return load_experiment("pretrain", [f"addresses.runs={folder}", f"pretrain.run_name={run_name}"])

    other = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(RequestError, match=r"/mine: another job on this machine is at this run; .* another run_name"):
        train(asked(tmp_path, "mine"), "trained")
    assert train(asked(tmp_path, "another"), "trained") == "trained"
    assert train(asked(tmp_path / "elsewhere", "mine"), "trained") == "trained"
    other.kill()
    other.communicate()
    for _ in range(2):
        assert train(asked(tmp_path, "mine"), "trained") == "trained"
