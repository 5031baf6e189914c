"""One reader per corpus, one contract for all: list, read, simulate. Nothing is cleaned here."""

from __future__ import annotations

from emod.corpora.contract import (
    Corpus,
    CorpusError,
    Problem,
    Recording,
    RecordingHeader,
    RecordingRef,
    Trial,
    TrialSpan,
)
from emod.corpora.marker import MARKER_NAME, SimulatedMarker, read_marker
from emod.corpora.registry import READERS, open_corpus
from emod.corpora.simulated_copy import simulate_corpus

__all__ = [
    "MARKER_NAME",
    "READERS",
    "Corpus",
    "CorpusError",
    "Problem",
    "Recording",
    "RecordingHeader",
    "RecordingRef",
    "SimulatedMarker",
    "Trial",
    "TrialSpan",
    "open_corpus",
    "read_marker",
    "simulate_corpus",
]
