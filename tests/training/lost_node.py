"""Pretraining on a cluster of four nodes, one of which is killed in the middle of an epoch.

python tests/training/lost_node.py EXPERIMENT_JSON MLFLOW_URI RUN_ID FOLDER

The head has no CPU for workers; each of three more nodes, real raylets of this machine, has room for one. Of the two
that work, the first worker's is killed with SIGKILL after step 10, and the worker with it.
"""

from __future__ import annotations

import importlib
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    """Pretrains, kills, and prints what came of it."""
    experiment_json, uri, run_id, folder = sys.argv[1:]
    from emod.catalog import Experiment
    from emod.shards import ShardStore
    from emod.training import pretrain
    from tests.nodes import kill_node, leave, start_nodes
    from tests.training.disturb import disturb_pretraining

    experiment = Experiment.model_validate_json(experiment_json)
    nodes = start_nodes(3)
    marker = Path(folder, "stalled")
    importlib.import_module("emod.training.pretrain")._pretrain_worker = disturb_pretraining(
        10, str(marker), kill=False
    )  # type: ignore[attr-defined]

    def kill() -> None:
        while not marker.exists() or not marker.read_text():
            time.sleep(0.05)
        kill_node(nodes[marker.read_text()])

    threading.Thread(target=kill, daemon=True).start()
    notes: list[str] = []
    store = ShardStore.open(experiment.addresses.store_url())
    pretrain(experiment, store, tracking=(uri, run_id), advance=lambda steps=1, note="": notes.append(note))
    leave(notes=notes)


if __name__ == "__main__":
    main()
