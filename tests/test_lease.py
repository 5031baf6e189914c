"""Two drivers of one run on one machine; tests/training/test_submitted.py has them on one cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emod.catalog import Experiment, load_experiment
from emod.errors import RequestError
from emod.lease import one_driver
from emod.workflow import on_ray

# As another who has other temporary files.
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


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_run_has_one_driver_and_whoever_dies_lets_go(tmp_path: Path) -> None:
    def asked(folder: Path | str, run_name: str) -> Experiment:
        return load_experiment("pretrain", [f"addresses.runs={folder}", f"pretrain.run_name={run_name}"])

    runs = tmp_path / "runs"
    runs.mkdir()
    (tmp_path / "link").symlink_to(runs)
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    holds = [sys.executable, "-c", HOLDS, str(runs)]
    with subprocess.Popen(holds, stdout=subprocess.PIPE, text=True, env=environment) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            for same in (runs, tmp_path / "link", f"file://{runs}"):
                with pytest.raises(
                    RequestError, match=r"/mine: another job on this machine is at this run; .* run_name"
                ):
                    train(asked(same, "mine"), "trained")
            assert train(asked(runs, "another"), "trained") == "trained"
            assert train(asked(tmp_path / "elsewhere", "mine"), "trained") == "trained"
        finally:
            other.kill()
    for _ in range(2):
        assert train(asked(runs, "mine"), "trained") == "trained"


def test_where_no_lock_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(RequestError, match=r"cache/emod/locks: no lock can be made there \(Not a directory\); set XDG"):
        train(load_experiment("pretrain", [f"addresses.runs={tmp_path}"]), "trained")


def test_a_cluster_is_joined_from_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through Ray Client a name that is taken would be found out too late."""
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(RequestError, match="RAY_ADDRESS=ray://head:10001: a job runs inside its cluster"), on_ray():
        pass
