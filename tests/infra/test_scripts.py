"""The scripts of infra/: clean, and doing what they say where that can be seen without a cluster."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from tests.conftest import S3Server
from tests.infra.rendering import INFRA, ROOT

SBATCH = INFRA / "slurm/emod.sbatch"


def test_shellcheck_has_nothing_to_say() -> None:
    beside = str(Path(sys.executable).parent)
    shellcheck = shutil.which("shellcheck", path=os.pathsep.join([beside, os.environ["PATH"]]))
    assert shellcheck, "no shellcheck: pip install --constraint constraints.txt --editable '.[test]'"
    told = subprocess.run([shellcheck, str(SBATCH)], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stdout


def _allocation(folder: Path, nodes: int) -> dict[str, str]:
    """An environment with a SLURM and a Ray of a few lines, which write down how they were called."""
    tools = folder / "bin"
    tools.mkdir()
    scripts = {
        # Without its options srun runs the rest here.
        "srun": 'echo "srun $*" >> "$TOLD"; while [[ ${1:-} == --* ]]; do shift; done; exec "$@"',
        "scontrol": """case $1 in
            show) printf "node%s\\n" $(seq "$NODES") ;;
            *) echo "scontrol $*" >> "$TOLD" ;;
        esac""",
        "hostname": "echo 192.0.2.1 fe80::1",
        "ray": 'echo "ray $* mode=$RAY_AUTH_MODE token=${#RAY_AUTH_TOKEN}" >> "$TOLD"; exec sleep 60',
        # `-` waits until Ray was started wherever it should be, `-c` makes a token, any other is the job.
        "python": """case $1 in
            -) until (($(grep -c "^ray start" "$TOLD") > (NODES > 1))); do sleep 0.1; done ;;
            -c) echo 0123456789abcdef ;;
            *) exec bash "$@" ;;
        esac""",
    }
    for name, script in scripts.items():
        (tools / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (tools / name).chmod(0o755)
    return {
        "PATH": f"{tools}:/usr/bin:/bin",
        "EMOD_VENV": str(folder),
        "TOLD": str(folder / "told"),
        "NODES": str(nodes),
        "SLURM_JOB_ID": "4711",
        "SLURM_CPUS_PER_TASK": "2",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_SUBMIT_DIR": str(ROOT),
    }


@pytest.mark.parametrize("code", [0, 2, 3])
def test_slurm_ends_as_its_job_ends_and_leaves_nothing(code: int, tmp_path: Path) -> None:
    job = tmp_path / "job"
    job.write_text(f'echo "job at $RAY_ADDRESS" >> "$TOLD"; exit {code}\n')
    environment = _allocation(tmp_path, nodes=3)
    ended = subprocess.run(["bash", str(SBATCH), "python", str(job)], env=environment, timeout=60)
    assert ended.returncode == code
    told = (tmp_path / "told").read_text()
    assert "job at 192.0.2.1:22110" in told
    started = [line for line in told.splitlines() if line.startswith("ray start")]
    assert len(started) == 2
    assert all("mode=token token=16" in line for line in started)
    assert "--nodes=2 --ntasks=2 --exclude=node1" in told
    assert "rm -rf /tmp/ray-4711" in told.splitlines()[-1]
    assert "0123456789abcdef" not in told, "the token stands on no command line"


def test_slurm_queues_again_when_time_is_up(tmp_path: Path) -> None:
    job = tmp_path / "job"
    job.write_text('sleep 1; kill -USR1 "$PPID"; exec sleep 30\n')
    ended = subprocess.run(
        ["bash", str(SBATCH), "python", str(job)], env=_allocation(tmp_path, nodes=1), timeout=60, capture_output=True
    )
    assert "scontrol requeue 4711" in (tmp_path / "told").read_text()
    assert ended.returncode not in (0, 2, 3), "a job that was stopped is not done"


def test_slurm_refuses_what_it_cannot_run(tmp_path: Path) -> None:
    environment = _allocation(tmp_path, nodes=1)
    assert subprocess.run(["bash", str(SBATCH)], env=environment, capture_output=True, timeout=60).returncode == 2
    environment["SLURM_SUBMIT_DIR"] = str(tmp_path)
    command = ["bash", str(SBATCH), "python", "x"]
    assert subprocess.run(command, env=environment, capture_output=True, timeout=60).returncode == 2


def test_buckets_are_made_once_and_kept(s3_server: S3Server) -> None:
    """Those of the compose file, on a real server."""
    names = ["made-shards", "made-mlflow"]
    command = [sys.executable, str(INFRA / "compose" / "create_buckets.py"), *names]
    first = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert first.stdout == "made bucket made-shards\nmade bucket made-mlflow\n"
    store = boto3.client("s3")
    store.put_object(Bucket=names[0], Key="kept", Body=b"1")
    assert subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout == ""
    assert store.get_object(Bucket=names[0], Key="kept")["Body"].read() == b"1"
