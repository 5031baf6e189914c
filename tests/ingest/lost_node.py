"""An ingest on a cluster of two nodes, one of which is killed in the middle of a recording.

python tests/ingest/lost_node.py EXPERIMENT_JSON FOLDER

The head has no CPU for tasks, so every recording runs on one of two more nodes, real raylets of this machine. When the
first recording pauses inside ICA, its node's raylet is killed with SIGKILL, and its workers with it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    """Ingests, kills, and prints what came of it."""
    path, folder = sys.argv[1:]
    os.environ |= {"EMOD_TEST_FOLDER": folder, "EMOD_TEST_MOMENT": "ica"}
    import ray.data

    from emod.catalog import Experiment
    from emod.ingest import ingest, plan_ingest
    from tests.ingest.interrupted import hook_tasks
    from tests.nodes import kill_node, leave, start_nodes

    experiment = Experiment.model_validate_json(Path(path).read_text())
    nodes = start_nodes(2)
    ray.data.DataContext.get_current().enable_progress_bars = False
    hook_tasks()
    killed: list[dict[str, object]] = []

    def kill() -> None:
        marker = Path(folder, "reached.json")
        while not marker.exists():
            time.sleep(0.05)
        told = json.loads(marker.read_text())
        kill_node(nodes[told["node"]])
        killed.append(told)

    threading.Thread(target=kill, daemon=True).start()
    notes: list[str] = []
    manifest = ingest(experiment, plan_ingest(experiment), notes.append)
    leave(version=manifest.version, notes=notes, killed=killed)


if __name__ == "__main__":
    main()
