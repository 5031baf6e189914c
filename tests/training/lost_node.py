"""Pretraining on a cluster of four nodes, one of which is killed in the middle of an epoch.

python tests/training/lost_node.py EXPERIMENT_JSON MLFLOW_URI RUN_ID FOLDER

The head has no CPU for workers; each of three more nodes, real raylets of this machine, has room for one. Of the two
that work, the first worker's is killed with SIGKILL after step 10, and the worker with it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    """Pretrains, kills, and prints what came of it."""
    experiment_json, uri, run_id, folder = sys.argv[1:]
    import ray
    from ray.cluster_utils import Cluster

    from emod.catalog import Experiment
    from emod.shards import ShardStore
    from emod.training import pretrain
    from tests.training.disturb import disturb_pretraining

    experiment = Experiment.model_validate_json(experiment_json)
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
    nodes = {node.node_id: node for node in (cluster.add_node(num_cpus=1, object_store_memory=memory) for _ in "abc")}
    ray.init(address=cluster.address, log_to_driver=False)
    marker = Path(folder, "stalled")
    importlib.import_module("emod.training.pretrain")._pretrain_worker = disturb_pretraining(
        10, str(marker), kill=False
    )  # type: ignore[attr-defined]

    def kill() -> None:
        while not marker.exists() or not marker.read_text():
            time.sleep(0.05)
        raylet = nodes[marker.read_text()].all_processes["raylet"][0].process
        raylet.send_signal(signal.SIGKILL)
        raylet.wait()  # its workers ask the kernel whether it lives, and a child nobody has waited for still does

    threading.Thread(target=kill, daemon=True).start()
    notes: list[str] = []
    store = ShardStore.open(experiment.addresses.store_url())
    pretrain(experiment, store, tracking=(uri, run_id), advance=lambda steps=1, note="": notes.append(note))
    print(json.dumps({"notes": notes, "alive": sum(node["Alive"] for node in ray.nodes())}))
    sys.stdout.flush()
    os._exit(0)  # the cluster's own way down waits for the node that is gone


if __name__ == "__main__":
    main()
