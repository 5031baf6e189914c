"""Ingest on Ray Data: recordings -> windows -> shards."""

from emod.ingest.pipeline import (
    IngestPlan,
    RecordingReader,
    check_cpus,
    ingest,
    plan_ingest,
    plan_recordings,
    settings_that_differ,
)
from emod.ingest.recording import RecordingWindows, make_windows

__all__ = [
    "IngestPlan",
    "RecordingReader",
    "RecordingWindows",
    "check_cpus",
    "ingest",
    "make_windows",
    "plan_ingest",
    "plan_recordings",
    "settings_that_differ",
]
