"""The windows of a whole copy of a corpus, from its catalog alone: a protocol can be counted without data."""

from __future__ import annotations

import pyarrow as pa

from emod.catalog import CorpusCatalog

__all__ = ["published_windows"]


def published_windows(catalog: CorpusCatalog, *, window_s: float) -> pa.Table:
    """One row per window, with the columns that protocols read.

    Trials and sessions are numbered as the owner does; a clip is its place in the session, and the session where
    sessions have clips of their own. Every trial gives its whole windows; what cleaning rejects is not known here.

    Args:
        catalog: Of the corpus.
        window_s: Seconds of a window.
    """
    absent = {
        (place.subject, place.session, trial)
        for place in catalog.missing
        for trial in place.trials or range(1, catalog.trials + 1)
    }
    rows = []
    orders = list((catalog.trial_emotions or {}).values())
    own_clips = isinstance(catalog.trial_s, dict) or len({tuple(order) for order in orders}) > 1
    for subject in catalog.subject_numbers:
        for session in map(str, range(1, catalog.sessions + 1)):
            words = (catalog.trial_emotions or {}).get(session) or (catalog.trial_emotions or {}).get("1")
            for trial in range(1, catalog.trials + 1):
                if (subject, session, trial) in absent:
                    continue
                for index in range(int(catalog.seconds_of(trial - 1, session) / window_s + 1e-9)):
                    rows.append(
                        {
                            "window_id": f"{catalog.name}/{subject}/{session}/{trial}/{index}",
                            "corpus": catalog.name,
                            "subject": str(subject),
                            "session": session,
                            "trial": str(trial),
                            "stimulus": f"{session}-{trial}" if own_clips else str(trial),
                            "start_s": index * window_s,
                            "emotion": words[trial - 1] if words else None,
                        }
                    )
    return pa.Table.from_pylist(rows)
