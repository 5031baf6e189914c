"""Recordings without downloads: plans, a physiological simulator and a signal that carries its own identity."""

from __future__ import annotations

from emod.simulation.brain import BrainSimulator
from emod.simulation.plan import Passage, RecordingPlan, SignalSource, passage_samples, piece_samples
from emod.simulation.tags import TAG_AMPLITUDE_UV, Tag, TagSignal, decode, session_code, subject_code

__all__ = [
    "TAG_AMPLITUDE_UV",
    "BrainSimulator",
    "Passage",
    "RecordingPlan",
    "SignalSource",
    "Tag",
    "TagSignal",
    "decode",
    "passage_samples",
    "piece_samples",
    "session_code",
    "subject_code",
]
