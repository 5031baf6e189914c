"""A cluster of several nodes on this machine, real raylets each, one of which is killed; and drivers apart from pytest.

Such a cluster ends its own process (see `leave`), so whoever makes one is a script: `run_driver` runs it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
_MEMORY = 80 * 2**20


def start_nodes(count: int) -> dict[str, Any]:
    """Joins a new cluster whose head has no CPU, and so many nodes one each; id -> node."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": _MEMORY,
            "include_dashboard": False,
            # A node counts as lost after 6 s instead of half a minute.
            "_system_config": {"health_check_period_ms": 2000, "health_check_failure_threshold": 3},
        },
    )
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=_MEMORY) for _ in range(count)]
    ray.init(address=cluster.address, log_to_driver=False)
    return {node.node_id: node for node in nodes}


def kill_node(node: Any) -> None:
    """SIGKILL to a node's raylet, and with it to its workers."""
    raylet = node.all_processes["raylet"][0].process
    raylet.send_signal(signal.SIGKILL)
    raylet.wait()  # its workers ask the kernel whether it lives, and a child nobody has waited for still does


def leave(**told: Any) -> NoReturn:
    """Ends the driver with what it has to tell, and how many nodes are alive."""
    import ray

    print(json.dumps({**told, "alive": sum(node["Alive"] for node in ray.nodes())}), flush=True)
    os._exit(0)  # the cluster's own way down waits for the node that is gone


def run_driver(script: str, *arguments: str | Path, timeout_s: float) -> dict[str, Any]:
    """Runs a script of tests/ in a session of its own; returns what it told."""
    clean = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    driver = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / script), *map(str, arguments)],
        env=clean | {"PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = driver.communicate(timeout=timeout_s)
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
    assert driver.returncode == 0, err
    told: dict[str, Any] = json.loads(out.splitlines()[-1])
    return told
