"""One driver at a time for a run: two would write each of its points twice, and each other's checkpoints."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from filelock import FileLock, Timeout

from emod.errors import RequestError

__all__ = ["hold"]

_OPTIONS = {"namespace": "emod-runs", "num_cpus": 0, "max_restarts": -1}


@contextmanager
def hold(run_id: str, name: str) -> Iterator[None]:
    """Holds a run for the time of the block, against other jobs of this cluster; without one, of this machine.

    Nothing has to run out when its driver is killed: the cluster, or the kernel, lets go of what a dead driver held.
    Two clusters do not know of each other.

    Args:
        run_id: MLflow's.
        name: For people.

    Raises:
        RequestError: If another driver holds it.
    """
    on_cluster = bool(os.environ.get("RAY_ADDRESS"))
    where = "cluster" if on_cluster else "machine"
    refusal = RequestError(
        f"run {name}: another job on this {where} is at it; wait for its end, stop it, or set another run_name"
    )
    if on_cluster:
        try:
            # Its name is taken before this returns. It goes with its driver, and comes again when its machine is lost.
            holder = ray.remote(_Holder).options(name=run_id, **_OPTIONS).remote()
        except ValueError:
            raise refusal from None
        try:
            yield
        finally:
            ray.kill(holder)
        return
    lock = FileLock(os.path.join(tempfile.gettempdir(), f"emod-run-{run_id}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise refusal from None
    try:
        yield
    finally:
        lock.release()


class _Holder:
    """Does nothing but be there under its name."""
