"""An ingest on a cluster of two nodes, one of which is killed in the middle of a recording.

python tests/ingest/lost_node.py EXPERIMENT_JSON FOLDER

The head has no CPU for tasks, so every recording runs on one of two more nodes, real raylets of this machine. When the
first recording pauses inside ICA, its node's raylet is killed with SIGKILL, and its workers with it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    """Ingests, kills, and prints what came of it."""
    path, folder = sys.argv[1:]
    os.environ |= {"EMOD_TEST_FOLDER": folder, "EMOD_TEST_MOMENT": "ica"}
    import ray
    import ray.data
    from ray.cluster_utils import Cluster

    from emod.catalog import Experiment
    from emod.ingest import ingest, plan_ingest
    from tests.ingest.interrupted import hook_tasks

    experiment = Experiment.model_validate_json(Path(path).read_text())
    memory = 80 * 2**20
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": memory,
            "include_dashboard": False,
            # A node counts as lost after 6 s instead of half a minute.
            "_system_config": {"health_check_period_ms": 2000, "health_check_failure_threshold": 3},
        },
    )
    nodes = {node.node_id: node for node in (cluster.add_node(num_cpus=1, object_store_memory=memory) for _ in "ab")}
    ray.init(address=cluster.address, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    hook_tasks()
    killed: list[dict[str, object]] = []

    def kill() -> None:
        marker = Path(folder, "reached.json")
        while not marker.exists():
            time.sleep(0.05)
        told = json.loads(marker.read_text())
        raylet = nodes[told["node"]].all_processes["raylet"][0].process
        raylet.send_signal(signal.SIGKILL)
        raylet.wait()  # its workers ask the kernel whether it lives, and a child nobody has waited for still does
        killed.append(told)

    threading.Thread(target=kill, daemon=True).start()
    notes: list[str] = []
    manifest = ingest(experiment, plan_ingest(experiment), notes.append)
    alive = sum(node["Alive"] for node in ray.nodes())
    print(json.dumps({"version": manifest.version, "notes": notes, "killed": killed, "alive": alive}))
    sys.stdout.flush()
    os._exit(0)  # the cluster's own way down waits for the node that is gone


if __name__ == "__main__":
    main()
