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
from tests.servers import mlflow_server
from tests.training.tiny_store import write_tiny_store

STEPS = 120


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
    database = Path(uri.removeprefix("sqlite:///"))
    with mlflow_server(database, tmp_path) as address:
        variables = {
            "OMP_NUM_THREADS": "1",
            "AWS_SECRET_ACCESS_KEY": planted,
            "MLFLOW_TRACKING_URI": address.replace("://", f"://reader:{planted}@"),
        }
        told = outlive(command, variables, uri, runs, planted)
    assert len(re.findall(r"resumed at step \d+", told)) >= 2, told
    assert steps_logged(uri) == list(range(1, STEPS + 1))
    assert load_pretrained(str(runs), "backbone").simulated
    assert planted.encode() not in database.read_bytes()


def outlive(command: tuple[str, ...], variables: dict[str, str], uri: str, runs: Path, planted: str) -> str:
    """What the job printed under which a worker and a machine were killed."""
    with machines(2, variables) as cluster:
        refused = cluster.submit(*command, token="0" * 64)
        job = cluster.submit(*command, own_code=False)
        assert "token" in refused.communicate()[0]
        assert refused.returncode == 2
        wait_for_step(uri, 20, job)
        second = cluster.submit(*command)
        kill_a_training_worker(cluster)
        wait_for_step(uri, max(steps_logged(uri)) + 30, job)
        cluster.kill("worker-2")
        cluster.start("worker-3")
        assert "another job on this cluster is at this run" in second.communicate()[0]
        assert second.returncode == 2
        told = job.communicate()[0]
        assert job.returncode == 0, told
        again = cluster.submit(*command)
        assert "finished before" in (more := again.communicate()[0])
        assert again.returncode == 0
        files = [path for folder in (cluster.folder, runs) for path in folder.rglob("*") if path.is_file()]
        assert len(files) > 50
        secret = re.compile(f"{planted}|{cluster.token}")
        assert not [path for path in files if re.search(secret.pattern.encode(), path.read_bytes())]
        assert not secret.search(told + more)
    return str(told)
