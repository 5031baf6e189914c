"""One driver at a time for a run: two would write each of its points twice, and each other's checkpoints."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Concatenate, ParamSpec, TypeVar

import ray
from filelock import FileLock, Timeout
from platformdirs import user_cache_path
from ray.exceptions import ActorAlreadyExistsError
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
    """Holds a run's folder for the time of the block, against other jobs of this cluster.

    Without a cluster, against other jobs of this user on this machine, by a lock in the user's cache folder. Nothing
    has to run out when its driver is killed: the cluster, or the kernel, lets go of what a dead driver held. Two
    clusters do not know of each other.

    Args:
        experiment: Its runs' address.
        run_name: As in the experiment.

    Raises:
        RequestError: If another driver holds it, or no lock can be made.
    """
    url = storage.join(experiment.addresses.runs_url(), run_name)
    place = os.path.realpath(url.removeprefix("file://")) if storage.is_local(url) else url
    name = f"{run_name.replace('/', '-')}-{hashlib.sha256(place.encode()).hexdigest()[:16]}"
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
        except ActorAlreadyExistsError:
            raise refusal from None
        try:
            yield
        finally:
            ray.kill(holder)
        return
    folder = user_cache_path("emod", appauthor=False) / "locks"
    lock = FileLock(folder / f"{name}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise refusal from None
    except OSError as error:
        raise RequestError(f"{folder}: no lock can be made there ({error.strerror}); set XDG_CACHE_HOME") from None
    try:
        yield
    finally:
        lock.release()


class _Holder:
    """Does nothing but be there under its name."""
