"""The note that a simulated copy of a corpus carries: SIMULATED.json at its top folder.

Written last, so a copy without it is either real or half-written. It tells a reader by how much trials were shortened,
and keeps simulated and real recordings apart for good. It says nothing about single recordings.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError

from emod import storage
from emod.catalog.strict import Strict
from emod.errors import DataError

__all__ = ["MARKER_NAME", "SimulatedMarker", "read_marker", "scaled_seconds", "write_marker"]

MARKER_NAME = "SIMULATED.json"
_MAX_BYTES = 64 * 1024


class SimulatedMarker(Strict):
    """What was simulated, and with which settings."""

    simulated: Literal[True] = True
    corpus: str
    subjects: int = Field(ge=1)
    sessions: int = Field(ge=1, description="per subject")
    trials: int = Field(ge=1, description="per session")
    time_scale: float = Field(gt=0, le=1, description="see scaled_seconds")
    signal: str = Field(description="class that made the microvolts")
    settings: str = Field(description="fingerprint of the SimulateSettings")
    note: str = "Simulated recordings in the published layout of this corpus; nobody was recorded."


def scaled_seconds(published_s: float, time_scale: float) -> float:
    """Length of a shortened trial: whole seconds, at least 2; the published length where ``time_scale`` is 1."""
    return published_s if time_scale == 1.0 else min(published_s, max(2.0, float(round(published_s * time_scale))))


def read_marker(root: str) -> SimulatedMarker | None:
    """The marker of a copy, or None where there is none.

    Raises:
        DataError: If there is one that cannot be read.
    """
    url = storage.join(root, MARKER_NAME)
    if not storage.exists(url):
        return None
    try:
        return SimulatedMarker.model_validate_json(storage.read_bytes(url, at_most=_MAX_BYTES))
    except ValidationError as error:
        what = error.errors(include_url=False)[0]["msg"]
        raise DataError(f"{url}: not a marker of this platform ({what}); simulate the copy again") from None


def write_marker(root: str, marker: SimulatedMarker) -> None:
    """Puts the marker at a copy's top folder."""
    storage.write_bytes(storage.join(root, MARKER_NAME), marker.model_dump_json(indent=2).encode() + b"\n")
