"""What a bench reports: a figure, what it is measured against in the same run, and the bound it is held to."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
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
