"""Writes a whole simulated copy of a corpus in its owner's layout, and says in a marker that it is one."""

from __future__ import annotations

from collections.abc import Callable

from emod import storage
from emod.catalog import SimulateSettings, fingerprint
from emod.corpora.marker import SimulatedMarker, write_marker
from emod.corpora.registry import open_corpus
from emod.errors import RequestError
from emod.simulation import RecordingPlan, SignalSource

__all__ = ["simulate_corpus"]


def simulate_corpus(
    name: str,
    root: str,
    settings: SimulateSettings,
    source: SignalSource,
    on_recording: Callable[[RecordingPlan], None] | None = None,
) -> SimulatedMarker:
    """Writes recordings, then tables, then the marker; one recording is in memory at a time.

    Args:
        name: Lower-case name of the corpus.
        root: URL of a folder that is empty or not there yet.
        settings: How much of the corpus.
        source: Makes the microvolts.
        on_recording: Called after each recording has been written.

    Returns:
        The marker as written.

    Raises:
        RequestError: If the corpus is unknown, has less than is asked for, or the folder holds something.
    """
    corpus = open_corpus(name, root)
    plans = corpus.plan_recordings(settings)
    if storage.exists(root) and storage.list_files(root):
        raise RequestError(f"{root}: not empty, and a simulated copy overwrites nothing; give an empty folder")
    for plan in plans:
        corpus.write_recording(plan, source.record(plan))
        if on_recording is not None:
            on_recording(plan)
    corpus.write_tables(plans)
    marker = SimulatedMarker(
        corpus=name,
        subjects=settings.subjects,
        sessions=settings.sessions or corpus.catalog.sessions,
        trials=settings.trials or corpus.catalog.trials,
        time_scale=settings.time_scale,
        signal=type(source).__name__,
        settings=fingerprint(settings),
    )
    write_marker(root, marker)
    return marker
