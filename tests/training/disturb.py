"""Training loops that stall or die where they are told to; run as a script, a driver that waits to be killed.

The loops are nested functions, which Ray sends to workers by value: workers cannot import a test's module.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Loop = Callable[[dict[str, Any]], None]


def disturb_pretraining(step: int, marker: str, *, kill: bool, upload: int | None = None) -> Loop:
    """Pretraining that stalls after so many steps are logged, or whose first worker then dies; once, with a marker.

    The marker names the node of the first worker.

    With ``upload``, the checkpoint of that step never gets beyond its first file, and the worker dies over it. The next
    attempt leaves in ``<marker>.from`` at which step it began.
    """

    def loop(config: dict[str, Any]) -> None:
        import ray
        import ray.train

        from emod import storage
        from emod.tracking import MetricLog
        from emod.training.pretrainer import Pretrainer

        untouched, log, copy = Pretrainer.steps, MetricLog.log, storage.upload
        uploading = threading.Event()

        def log_now(self: MetricLog, *told: Any) -> None:
            log(self, *told)
            self.flush()  # every point is sent at once, those past the last checkpoint too

        def copy_one(path: str, url: str) -> None:
            if upload is not None and f"/{upload:09d}-" in url and url.endswith("model.safetensors"):
                uploading.set()
                time.sleep(600)
            copy(path, url)

        def steps(self: Pretrainer) -> Any:
            if os.path.exists(marker):
                Path(f"{marker}.from").write_text(str(self.next_step))
            for report in untouched(self):
                yield report
                if self.next_step == step and not os.path.exists(marker):
                    if ray.train.get_context().get_world_rank() == 0:
                        assert upload is None or uploading.wait(60), "the upload has begun"
                        Path(marker).write_text(ray.get_runtime_context().get_node_id())
                        if kill:
                            os.kill(os.getpid(), signal.SIGKILL)
                    if not kill:
                        time.sleep(600)

        Pretrainer.steps, MetricLog.log = steps, log_now  # type: ignore[method-assign]
        if not os.path.exists(marker):
            storage.upload = copy_one
        importlib.import_module("emod.training.pretrain")._pretrain_worker(config)

    return loop


def disturb_finetuning(epoch: int, marker: str, kappas: tuple[float, ...], weights: str) -> Loop:
    """Fine-tuning with these validation kappas; it dies once before an epoch, and leaves each epoch's weights."""

    def loop(config: dict[str, Any]) -> None:
        import dataclasses

        from safetensors.torch import save_file

        from emod.training import finetuner

        train, scored, now = finetuner.Finetuner.train_epoch, finetuner.score, [0]

        def train_epoch(self: Any, rows: Any) -> float:
            now[0] = self.next_epoch
            if now[0] == epoch and not os.path.exists(marker):
                Path(marker).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            loss = train(self, rows)
            save_file(self.network.state_dict(), f"{weights}/{now[0] + 1}.safetensors")
            return loss

        def score(*told: Any, **more: Any) -> Any:
            return dataclasses.replace(scored(*told, **more), kappa=kappas[now[0]])

        finetuner.Finetuner.train_epoch, finetuner.score = train_epoch, score  # type: ignore[method-assign]
        importlib.import_module("emod.training.finetune").finetune_worker(config)

    return loop


def main(address: str, experiment_json: str, uri: str, run_id: str, step: str, marker: str) -> None:
    """A driver of its own on a running cluster."""
    import ray

    from emod.catalog import Experiment
    from emod.shards import ShardStore
    from emod.training import pretrain

    experiment = Experiment.model_validate_json(experiment_json)
    importlib.import_module("emod.training.pretrain")._pretrain_worker = disturb_pretraining(
        int(step), marker, kill=False
    )  # type: ignore[attr-defined]
    ray.init(address=address, log_to_driver=False)
    store = ShardStore.open(experiment.addresses.store_url())
    pretrain(experiment, store, tracking=(uri, run_id), advance=lambda *told: None)


if __name__ == "__main__":
    main(*sys.argv[1:])
