"""An ingest that stops at a moment of the test's choosing, says so in a file, and waits to be killed.

python tests/ingest/interrupted.py EXPERIMENT_JSON FOLDER [MOMENT]

It is `jobs/ingest.py` but for the pause. The product knows nothing of it: functions are replaced here, in this process
and in the workers of its Ray. Of several processes that reach the moment one pauses; the others go on.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.data

MOMENTS = (
    "planned",
    "decoded",
    "ica",
    "part",
    "part written",
    "second recording done",
    "all recordings done",
    "shard",
    "tensors without metadata",
    "shards without manifest",
    "manifest",
    "manifest without clearing up",
)


def pause(moment: str) -> None:
    """Tells where this process is, once, and sleeps for ever."""
    marker = Path(os.environ["EMOD_TEST_FOLDER"], "reached.json")
    stack = [f"{frame.filename}:{frame.name}" for frame in traceback.extract_stack()]
    partial = marker.with_suffix(f".{os.getpid()}")
    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else None
    partial.write_text(json.dumps({"moment": moment, "pid": os.getpid(), "node": node, "stack": stack}))
    try:
        os.link(partial, marker)
    except FileExistsError:
        return
    time.sleep(3600)


def around(
    owner: Any,
    name: str,
    *,
    before: Callable[..., Any] = lambda *arguments, **options: None,
    after: Callable[..., Any] = lambda *arguments, **options: None,
) -> None:
    """Replaces a function by itself with something before and after it."""
    real = getattr(owner, name)

    @functools.wraps(real)
    def replaced(*arguments: Any, **options: Any) -> Any:
        before(*arguments, **options)
        result = real(*arguments, **options)
        after(*arguments, **options)
        return result

    setattr(owner, name, replaced)


class Hooked:
    """A task that brings the pause along to whichever worker runs it."""

    def __init__(self, task: Callable[[Any], dict[str, Any]]) -> None:
        self._task = task

    def __call__(self, item: Any) -> dict[str, Any]:
        hook()
        return self._task(item)


@functools.cache
def hook() -> None:
    """Puts the pause where $EMOD_TEST_MOMENT says, for good; in the driver, and in each worker at its first task."""
    moment = os.environ["EMOD_TEST_MOMENT"]
    if not moment:
        return

    from emod import storage
    from emod.ingest import pipeline
    from emod.shards import writer

    def here(*arguments: Any, **options: Any) -> None:
        pause(moment)

    def half(path: str, data: bytes | None = None) -> None:
        """Leaves half of a file under the name it has while it grows."""
        name = {"part": "_1-", "manifest": "manifest-"}[moment]
        if name in os.path.basename(path) and data:
            Path(path).write_bytes(data[: len(data) // 2])
            pause(moment)

    def half_shard(source: str, target: str) -> None:
        if "/shards/" in target:
            Path(target).write_bytes(Path(source).read_bytes()[:50_000])
            pause(moment)

    if moment == "planned":
        around(pipeline, "_ingest_corpus", before=here)
    elif moment == "decoded":
        around(pipeline._RecordingTask, "_read", after=here)
    elif moment == "ica":
        import picard

        around(picard, "picard", before=here)  # called by ICA.fit, from inside
    elif moment in {"part", "manifest"}:
        around(storage, "_write_through", before=half)
    elif moment == "part written":
        around(pipeline, "write_part", after=here)
    elif moment == "all recordings done":
        around(pipeline, "_pack_corpus", before=here)
    elif moment == "shard":
        around(storage.shutil, "copyfile", before=half_shard)
    elif moment == "tensors without metadata":
        around(writer.pq, "write_table", before=here)
    elif moment == "shards without manifest":
        around(pipeline, "publish_change", before=here)
    elif moment == "manifest without clearing up":
        around(pipeline, "clear_staging", before=here)
    elif moment != "second recording done":  # which is the driver's own
        raise AssertionError(f"no such moment: {moment}")


def hook_tasks() -> None:
    """Hooks this process, and every task that it sends to a worker."""
    from emod.ingest import pipeline

    hook()
    real = pipeline._run
    pipeline._run = lambda items, task, num_cpus: real(items, Hooked(task), num_cpus)


def main() -> None:
    """Ingests."""
    path, folder, *moment = sys.argv[1:]
    os.environ |= {"EMOD_TEST_FOLDER": folder, "EMOD_TEST_MOMENT": "".join(moment)}
    from emod.catalog import Experiment
    from emod.ingest import ingest, plan_ingest
    from tests.ingest.interrupted import hook_tasks  # as workers know it, not as __main__

    experiment = Experiment.model_validate_json(Path(path).read_text())
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    hook_tasks()
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        if moment == ["second recording done"] and len(notes) == 2:
            pause(moment[0])

    manifest = ingest(experiment, plan_ingest(experiment), note)
    print(json.dumps({"version": manifest.version, "notes": notes}))


if __name__ == "__main__":
    main()
