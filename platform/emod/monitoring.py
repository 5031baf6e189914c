"""What an operator sees of a job that goes on: metrics beside Ray's own, and log lines with run, corpus and step.

Metrics are in Ray's export as ``ray_emod_<name>``, where Prometheus finds them; counters end in ``_total``.

| metric | tags | of |
| --- | --- | --- |
| `done`, `planned` | `part`, `ray_job` | each open progress bar: recordings, steps; planned where it is known |
| `recordings_total` | `run`, `corpus`, `ended` | ingest: at their end, with windows, nothing, or before this job |
| `windows_total` | `run`, `corpus` | ingest: windows made |
| `problems_total` | `run`, `corpus`, `code` | ingest: what could not be used |
| `trials` | `run`, `state` | a sweep |
| others | `run`, `rank`, `corpus` | training, in emod.training.watching |

Log lines are for machines: with ``RAY_LOGGING_CONFIG_ENCODING=JSON`` each process of a job writes them as Ray writes
its own, one JSON object a line with job, node and worker in it; else they are not shown.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from functools import cache

import ray
from ray.util.metrics import Counter, Gauge

__all__ = ["Gauges", "count", "forget_progress", "gauge", "log", "tell_progress"]

_LOGGER = logging.getLogger("emod")
# Below the period of Ray's export.
_REPEAT_S = 5.0
# A metric and its tags.
_Series = tuple[str, tuple[tuple[str, str], ...]]
_newest: dict[_Series, float] = {}


def log(event: str, **facts: object) -> None:
    """A line for machines: what happened, and to what, in words and as fields of their own.

    Args:
        event: A few words, the same each time.
        facts: JSON-able, such as run, corpus, step.
    """
    told = " ".join(f"{name}={fact}" for name, fact in facts.items())
    _LOGGER.info("%s: %s", event, told, extra={"event": event, **facts})


def count(name: str, by: float = 1, **tags: str) -> None:
    """Adds to a counter, where Ray runs."""
    if ray.is_initialized() and by > 0:
        _counter(name, tuple(tags)).inc(by, _ascii(tags))


def gauge(name: str, value: float, **tags: str) -> None:
    """Sets a gauge, where Ray runs, until it is set again or this process ends."""
    if ray.is_initialized():
        series = name, tuple(_ascii(tags).items())
        _newest[series] = value
        _set(series, value)
        _repeat()


def tell_progress(part: str, done: int, total: int | None) -> None:
    """How far the bar of that label is."""
    if ray.is_initialized():
        tags = {"part": part, "ray_job": ray.get_runtime_context().get_job_id()}
        gauge("done", done, **tags)
        if total is not None:
            gauge("planned", total, **tags)


def forget_progress(part: str) -> None:
    """Lets go of a bar that is closed, finished or not: nobody shall wait for it."""
    of_part = "part", _ascii({"part": part})["part"]
    for series in [series for series in list(_newest) if series[0] in ("done", "planned") and of_part in series[1]]:
        _newest.pop(series, None)


class Gauges:
    """Metrics of one process: ``<name>/<corpus>`` becomes a tag, the rest is of corpus ``all``.

    Args:
        run_name: A tag.
        rank: A tag.
    """

    def __init__(self, run_name: str, rank: int) -> None:
        self._tags = {"run": run_name, "rank": str(rank)}

    def set(self, values: Mapping[str, float]) -> None:
        """Sets each to its newest value; those that are not finite keep the old one."""
        for key, value in values.items():
            if math.isfinite(value):
                name, _, corpus = key.partition("/")
                gauge(name, value, **self._tags, corpus=corpus or "all")


def _ascii(tags: Mapping[str, str]) -> dict[str, str]:
    """Ray's metrics know no other letters."""
    return {name: value.encode("ascii", "backslashreplace").decode() for name, value in tags.items()}


def _set(series: _Series, value: float) -> None:
    name, tags = series
    _gauge(name, tuple(tag for tag, _ in tags)).set(value, dict(tags))


@cache
def _repeat() -> None:
    """Sets all gauges again and again: Ray forgets the others, and one that stands still is what an alert is about."""

    def repeat() -> None:
        while True:
            time.sleep(_REPEAT_S)
            if not ray.is_initialized():
                _newest.clear()
            for series, value in list(_newest.items()):
                _set(series, value)

    threading.Thread(target=repeat, name="emod-gauges", daemon=True).start()


# Ray takes one object a name and process.
@cache
def _counter(name: str, tags: tuple[str, ...]) -> Counter:
    return Counter(f"emod_{name}", "see emod.monitoring", tags)


@cache
def _gauge(name: str, tags: tuple[str, ...]) -> Gauge:
    return Gauge(f"emod_{name}", "see emod.monitoring", tags)
