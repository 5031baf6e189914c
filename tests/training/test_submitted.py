"""A job submitted over HTTP to machines that do not have the repository; a worker and a whole machine are killed.

The short form of tests/drill.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient

from emod.catalog import Experiment, SignalSettings, dump_yaml, with_overrides
from emod.training.backbone import load_pretrained
from tests.machines import Machines, machines
from tests.training.tiny_store import write_tiny_store

STEPS = 160


def steps_logged(uri: str) -> list[int]:
    """Of the loss, in MLflow; none before the run is there."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tests")
    runs = [] if experiment is None else client.search_runs([experiment.experiment_id])
    return [point.step for point in client.get_metric_history(runs[0].info.run_id, "loss")] if runs else []


def wait_for_step(uri: str, step: int, job: subprocess.Popen[str]) -> None:
    while max(steps_logged(uri), default=0) < step:
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.1)


def kill_a_training_worker(cluster: Machines) -> None:
    (number,) = cluster.processes("worker-1", "ray::RayTrainWorker")
    os.kill(number, signal.SIGKILL)


def test_a_submitted_pretraining_outlives_a_worker_and_a_machine(
    make_pretrain_experiment: Callable[..., Experiment], new_runs: Callable[[], tuple[Path, str]], tmp_path: Path
) -> None:
    """No step is lost and none is logged twice; the same command again finds it finished, and no secret is told."""
    runs, uri = new_runs()
    experiment = make_pretrain_experiment(
        runs, steps_per_epoch=STEPS // 2, checkpoint_every_steps=20, watch_every_steps=STEPS, max_failures=4
    )
    write_tiny_store(str(tmp_path / "store"), settings=SignalSettings().model_dump(mode="json"))
    experiment = with_overrides(experiment, [f"addresses.store={tmp_path / 'store'}"])
    (tmp_path / "tests.yaml").write_text(dump_yaml(experiment))
    command = ("python", "jobs/pretrain.py", "--experiment", str(tmp_path / "tests.yaml"))
    planted = secrets.token_hex(20)
    with machines(2, {"OMP_NUM_THREADS": "1", "AWS_SECRET_ACCESS_KEY": planted}) as cluster:
        refused = cluster.submit(*command, token="0" * 64, own_code=False)
        assert "token is invalid" in refused.communicate()[0]
        assert refused.returncode == 1
        job = cluster.submit(*command, own_code=False)
        wait_for_step(uri, 20, job)
        kill_a_training_worker(cluster)
        wait_for_step(uri, max(steps_logged(uri)) + 30, job)
        cluster.kill("worker-2")
        cluster.start("worker-3")
        told = job.communicate()[0]
        assert job.returncode == 0, told
        again = cluster.submit(*command)
        assert "finished before" in again.communicate()[0]
        assert again.returncode == 0
        wrong = cluster.submit(*command, "--set", "pretrain.rounds=0")
        assert "pretrain.rounds = 0" in wrong.communicate()[0]
        assert wrong.returncode == 2, "the job's own exit code"
        files = [path for folder in (cluster.folder, runs) for path in folder.rglob("*") if path.is_file()]
        assert len(files) > 50
        assert not [path for path in files if re.search(f"{planted}|{cluster.token}".encode(), path.read_bytes())]
    assert len(re.findall(r"resumed at step \d+", told)) >= 2, told
    assert steps_logged(uri) == list(range(1, STEPS + 1))
    assert load_pretrained(str(runs), "backbone").simulated
