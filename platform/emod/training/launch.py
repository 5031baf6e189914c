"""Training loops on Ray Train: start, watch, start again after a crash, and stop for good at the platform's own errors.

What a loop resumes from is its own affair (emod.training.checkpoint). It knows no model.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import fsspec
import pyarrow.fs
import ray
import ray.train
from ray.exceptions import RayTaskError
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from emod import storage
from emod.cli import Tick
from emod.errors import DataError, RequestError

__all__ = [
    "KEEP_MEMORY",
    "NamedWork",
    "TrainResources",
    "Watch",
    "check_room",
    "claim_folder",
    "claim_run",
    "finish_tasks",
    "launch",
    "ray_storage",
]


# glibc hands every large tensor back to the kernel and faults its pages in again at the next step, which doubles the
# time of a step on a CPU (measured: 45 against 21 ms a window of 62 x 800). With these it keeps them, in one arena: Ray
# Train's loop runs in a thread, and a thread's own arena hands them back whatever the thresholds.
KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**33),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}


# Held-out subjects by name are its only part that grows.
_CLAIM_BYTES = 2**20


@ray.remote(num_cpus=0)
class _Board:
    """Where workers say how far they are; the driver reads it for its progress bar."""

    def __init__(self) -> None:
        self._done = 0
        self._note = ""

    def post(self, done: int, note: str) -> None:
        self._done, self._note = done, note

    def read(self) -> tuple[int, str]:
        return self._done, self._note


class Watch:
    """A worker's line to the driver's progress bar."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def post(self, done: int, note: str) -> None:
        """Says how many units of work are done."""
        self._board.post.remote(done, note)


class TrainResources:
    """How many workers a run has, or at least and at most, and what each gets."""

    def __init__(self, workers: int | tuple[int, int], cpus_per_worker: float, gpu: bool, max_failures: int) -> None:
        self.scaling = ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": cpus_per_worker, **({"GPU": 1} if gpu else {})},
        )
        self.failure = ray.train.FailureConfig(max_failures=max_failures)


class _Refusals(ray.train.UserCallback):  # type: ignore[misc]
    """Ends the run, and with it every worker, at an error that the next attempt would meet again.

    Ray Train counts any exception of a worker as a failure that may pass; one of the controller it does not try again.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for failure in worker_exceptions.values():
            if isinstance(failure, (RequestError, DataError)) and not isinstance(failure, storage.UnreachableError):
                raise failure


def claim_run(runs_url: str, run_name: str, claim: Mapping[str, Any], *, room: str) -> str:
    """Ties a run's name to what decides its weights: resumed with anything else it would continue somebody else's run.

    Returns what tells this run from every other of that name, such as one in a folder that was removed since.

    Args:
        runs_url: Where runs lie.
        run_name: The run's name below ``runs_url``.
        claim: JSON-able; what a resume must not change. Workers and other resources may.
        room: Section of the experiment that holds ``run_name``.

    Raises:
        RequestError: If the name belongs to a run with another claim.
    """
    held, difference = claim_folder(storage.join(runs_url, run_name), {"room": room, **claim})
    if difference:
        raise RequestError(
            f"run {run_name!r} in {storage.redact(runs_url)} was made with {difference}; "
            f"set it back, choose another {room}.run_name, or remove that folder"
        )
    return held


def claim_folder(url: str, claim: Mapping[str, Any]) -> tuple[str, str | None]:
    """Ties a folder to what decides its content: the first claim holds.

    Args:
        url: The folder, made if need be.
        claim: JSON-able.

    Returns:
        What tells this folder from one of the same name that was removed, and the first setting that is not what the
        folder was made with, with both values; None where all are.
    """
    wanted: dict[str, Any] = json.loads(json.dumps(claim))
    claimed = storage.join(url, "claim.json")
    if not storage.exists(claimed):
        storage.create_bytes(claimed, json.dumps({**wanted, "id": uuid.uuid4().hex}).encode())
    held = json.loads(storage.read_bytes(claimed, at_most=_CLAIM_BYTES))
    return str(held["id"]), _difference(held, wanted)


def _difference(held: Any, wanted: Any, field: str = "") -> str | None:
    """The first leaf that is not as wanted, and both its values."""
    if isinstance(held, dict) and isinstance(wanted, dict):
        below = (_difference(held.get(key), wanted[key], f"{field}.{key}".lstrip(".")) for key in wanted)
        return next(filter(None, below), None)
    if held == wanted:
        return None
    first, second = (text if len(text := json.dumps(value)) <= 60 else f"{text[:57]}..." for value in (held, wanted))
    return f"{field} = {first}, not {second}"


def launch(
    loop: Callable[[dict[str, Any]], None],
    config: dict[str, Any],
    *,
    run_name: str,
    runs_url: str,
    resources: TrainResources,
    advance: Tick,
) -> None:
    """Runs a training loop on Ray Train to its end.

    Args:
        loop: Runs on every worker, again when a worker or its node was lost; gets ``config`` with a `Watch` under
            ``"watch"``.
        config: JSON-able.
        run_name: The run's name below ``runs_url``.
        runs_url: Storage path, any URL fsspec writes.
        resources: What each worker gets.
        advance: The driver's progress bar.

    Raises:
        RequestError, DataError: As raised by a worker; all of them stop, and none is started again, unless it is a
            server that cannot be reached, which counts as a lost worker.
        ray.train.TrainingFailedError: If workers failed otherwise, more often than allowed.
    """
    each, least = resources.scaling.resources_per_worker or {}, resources.scaling.min_workers
    check_room(
        {kind: amount * least for kind, amount in each.items()}, cure="gpu, workers or cpus_per_worker of its section"
    )
    # Beside the driver, as Ray puts what leads the workers: a node that is lost takes none of it along.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = _Board.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    filesystem, path = ray_storage(runs_url)
    trainer = TorchTrainer(
        loop,
        train_loop_config={**config, "watch": Watch(board)},
        scaling_config=resources.scaling,
        run_config=ray.train.RunConfig(
            name=run_name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=resources.failure,
            worker_runtime_env={"env_vars": KEEP_MEMORY},
            callbacks=[_Refusals()],
        ),
    )
    stop = threading.Event()
    mirror = threading.Thread(target=_mirror, args=(board, advance, stop), daemon=True)
    mirror.start()
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        failures = (
            [error.controller_failure]
            if isinstance(error, ray.train.ControllerError)
            else list(getattr(error, "worker_failures", {}).values())
        )
        for failure in failures:
            if isinstance(failure, (RequestError, DataError)):
                raise failure from None
        raise
    finally:
        stop.set()
        mirror.join()


def check_room(wanted: Mapping[str, float], *, cure: str, what: str = "training") -> None:
    """Ray waits for ever, and in silence, for what a fixed cluster does not have.

    A cluster that is not this process' own may grow, so there it is only said.

    Args:
        wanted: Resource -> how much of it, all at once.
        cure: The fields that ask for it.
        what: Asks for it.

    Raises:
        RequestError: If this process' own cluster has less.
    """
    has = ray.cluster_resources()
    for kind, amount in wanted.items():
        if amount > has.get(kind, 0):
            message = f"{what} wants {amount:g} {kind} and the cluster has {has.get(kind, 0):g}"
            if not os.environ.get("RAY_ADDRESS"):
                raise RequestError(f"{message}; set {cure} to what is there")
            print(f"{message}; waiting for it to grow", file=sys.stderr)


class NamedWork(Protocol):
    """What a Ray task was started for."""

    @property
    def name(self) -> str:
        """Stands before what goes wrong in it."""


W = TypeVar("W", bound=NamedWork)


def finish_tasks(waiting: dict[Any, W], finish: Callable[[W, Any], None]) -> None:
    """Waits for Ray tasks in the order in which they end; one that fails for good does not stop the others.

    Args:
        waiting: Task -> what it works on; emptied.
        finish: Told each and what it returned.

    Raises:
        RequestError, DataError: The first that a task raised, after all others have ended, with its name before it.
    """
    failures: list[RequestError | DataError] = []
    try:
        while waiting:
            (task,), _ = ray.wait(list(waiting), num_returns=1)
            work = waiting.pop(task)
            try:
                result = ray.get(task)
            except RayTaskError as error:
                if not isinstance(error.cause, RequestError | DataError):
                    raise
                failures.append(type(error.cause)(f"{work.name}: {error.cause}"))
                continue
            finish(work, result)
    finally:
        for task in waiting:
            ray.cancel(task, force=True)
    if failures:
        raise failures[0]


def _mirror(board: Any, advance: Tick, stop: threading.Event) -> None:
    shown, said = 0, ""
    while True:
        last = stop.wait(0.5)
        done, note = ray.get(board.read.remote())
        if done > shown or note != said:
            advance(max(0, done - shown), note)
            shown, said = max(done, shown), note
        if last:
            return


def ray_storage(url: str) -> tuple[pyarrow.fs.FileSystem | None, str]:
    """Local paths go to Ray as they are; the rest through fsspec, since pyarrow's own S3 refuses some servers."""
    if storage.is_local(url):
        return None, str(Path(url.removeprefix("file://")).resolve())
    filesystem, path = fsspec.core.url_to_fs(url)
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)), path
