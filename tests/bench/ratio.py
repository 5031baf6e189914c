"""What a bench reports: a figure, what it is measured against in the same run, and the bound it is held to."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        name: What was measured.
        value: A ratio of two timings of one run, or a number with its unit in ``name``.
        bound: What it is held to.
        at_least: Whether the bound is a floor or a ceiling.
        detail: The timings behind it.
    """

    name: str
    value: float
    bound: float
    at_least: bool
    detail: str

    @property
    def kept(self) -> bool:
        """Whether the figure keeps its bound."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def seconds(action: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


@contextmanager
def without_ray() -> Iterator[None]:
    """Stops the Ray that this process started, so that the other side of a pair has the cores alone.

    All but its two servers: they idle, and whoever finds them silent for a minute ends itself.
    """
    stopped = list(_processes_of_ray())
    for number in stopped:
        os.kill(number, signal.SIGSTOP)
    try:
        yield
    finally:
        for number in stopped:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGCONT)


def _processes_of_ray() -> Iterator[int]:
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    for number in parents:
        above = number
        while above in parents and above != os.getpid():
            above = parents[above]
        with suppress(OSError):
            command = Path(f"/proc/{number}/cmdline").read_bytes().decode()
            server = command.partition("\0")[0].endswith(("/gcs_server", "/raylet"))
            if above == os.getpid() != number and not server and re.search(r"/ray/|^ray::", command):
                yield number
