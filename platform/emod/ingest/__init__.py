"""Ingest on Ray Data: recordings -> windows -> shards."""

from emod.ingest.pipeline import IngestPlan, check_cpus, ingest, plan_ingest
from emod.ingest.recording import RecordingWindows, make_windows

__all__ = ["IngestPlan", "RecordingWindows", "check_cpus", "ingest", "make_windows", "plan_ingest"]
