"""Ingest on Ray Data: recordings -> windows -> shards."""

from emod.ingest.pipeline import IngestPlan, ingest, plan_ingest
from emod.ingest.recording import RecordingWindows, make_windows

__all__ = ["IngestPlan", "RecordingWindows", "ingest", "make_windows", "plan_ingest"]
