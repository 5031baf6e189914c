"""Electrodes that stand still for a whole trial: found, and put into one problem a recording.

Such a trial is kept. One without any moving electrode holds no signal; that one is not.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from emod.corpora.contract import Eeg, Problem, RecordingRef

__all__ = ["NO_SIGNAL", "constant_rows", "report_flat"]

NO_SIGNAL = "every electrode is constant"
_NAMED = 8


def constant_rows(eeg_uv: Eeg) -> list[int]:
    """Rows of a (C, T) signal whose samples are all equal."""
    return [int(row) for row in np.flatnonzero(eeg_uv.min(axis=1) == eeg_uv.max(axis=1))]


def report_flat(ref: RecordingRef, channels: tuple[str, ...], flat: Mapping[str, list[int]]) -> list[Problem]:
    """One problem for all the trials kept with constant electrodes, or none.

    Args:
        ref: The recording.
        channels: C electrode names.
        flat: Trial -> rows that are constant in it.
    """
    if not flat:
        return []
    trials, rows = list(flat), sorted({row for rows in flat.values() for row in rows})
    electrodes = ", ".join(channels[row] for row in rows[:_NAMED]) + (", ..." if len(rows) > _NAMED else "")
    where = ", ".join(trials[:_NAMED]) + (", ..." if len(trials) > _NAMED else "")
    message = f"constant electrodes: {electrodes}, in {len(trials)} trials ({where}); kept, signal.quality.flat decides"
    return [ref.problem("flat", message, trials[0] if len(trials) == 1 else None)]
