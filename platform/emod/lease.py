"""One driver at a time for a run: two would write each of its points twice, and each other's checkpoints."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Concatenate, ParamSpec, TypeVar

import ray
from filelock import FileLock, Timeout
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from emod import storage
from emod.catalog import Experiment
from emod.errors import RequestError

__all__ = ["hold", "one_driver"]

_NAMESPACE = "emod-runs"

Given = ParamSpec("Given")
Made = TypeVar("Made")
Verb = Callable[Concatenate[Experiment, Given], Made]


def one_driver(run_name: Callable[[Experiment], str]) -> Callable[[Verb[Given, Made]], Verb[Given, Made]]:
    """A verb that holds the run of its experiment from its first line to its last."""

    def held(verb: Verb[Given, Made]) -> Verb[Given, Made]:
        @functools.wraps(verb)
        def holds(experiment: Experiment, /, *others: Given.args, **more: Given.kwargs) -> Made:
            with hold(experiment, run_name(experiment)):
                return verb(experiment, *others, **more)

        return holds

    return held


@contextmanager
def hold(experiment: Experiment, run_name: str) -> Iterator[None]:
    """Holds a run's folder for the time of the block, against other jobs of this cluster; without one, of this machine.

    Nothing has to run out when its driver is killed: the cluster, or the kernel, lets go of what a dead driver held.
    Two clusters do not know of each other.

    Args:
        experiment: Its runs' address.
        run_name: As in the experiment.

    Raises:
        RequestError: If another driver holds it.
    """
    url = storage.join(experiment.addresses.runs_url(), run_name)
    name = hashlib.sha256(url.encode()).hexdigest()
    on_cluster = bool(os.environ.get("RAY_ADDRESS"))
    where = "cluster" if on_cluster else "machine"
    refusal = RequestError(
        f"{storage.redact(url)}: another job on this {where} is at this run; wait for its end, stop it, or set another "
        "run_name"
    )
    if on_cluster:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
        try:
            # Its name is taken before this returns, and free when its driver is gone.
            holder = ray.remote(_Holder).options(name=name, namespace=_NAMESPACE, **options).remote()
        except ValueError:
            raise refusal from None
        try:
            yield
        finally:
            ray.kill(holder)
        return
    lock = FileLock(os.path.join(tempfile.gettempdir(), f"emod-run-{os.getuid()}-{name[:16]}.lock"))
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
