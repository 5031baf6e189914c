"""What a fine-tuned network looks at, and where it puts windows: for the pictures of a report."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from emod.evaluation import Target
from emod.model import Emod, EmodClassifier
from emod.shards import WindowPool

__all__ = ["electrode_importance", "embed_windows"]

Rows = npt.NDArray[np.int64]

# One forward pass for each electrode: enough windows to rank them, few enough to wait for.
_WINDOWS = 256


def embed_windows(backbone: Emod, pool: WindowPool, rows: Rows, batch: int) -> npt.NDArray[np.float32]:
    """(n, D) embeddings of the rows given, in their order."""
    found = np.empty((len(rows), backbone.config.width), dtype=np.float32)
    for first in range(0, len(rows), batch):
        for positions, windows, channels, sfreq_hz in pool.read(rows[first : first + batch]):
            with torch.inference_mode():
                embedded = backbone.embed(torch.from_numpy(windows), channels, sfreq_hz)
            found[first + positions] = embedded.numpy()
    return found


def electrode_importance(
    network: EmodClassifier, pool: WindowPool, target: Target, rows: Rows, batch: int
) -> npt.NDArray[np.float64] | None:
    """How much worse the answers become where an electrode is flat, electrode by electrode.

    Of at most 256 of the rows, spread evenly: the fall of the mean probability of the true class, or on the plane the
    rise of the mean squared distance. An electrode whose loss others make up for looks unimportant.

    Returns:
        (C,) in the order of the corpus' electrodes, or None where rows are of several montages.
    """
    if len(pool.corpora) > 1:
        return None
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(_WINDOWS, len(rows))).astype(np.int64))]
    (group,) = pool.read(chosen)
    windows, channels, sfreq_hz = torch.from_numpy(group[1]), group[2], group[3]

    def quality(eeg: torch.Tensor) -> float:
        with torch.inference_mode():
            outputs = torch.cat([network(part, channels, sfreq_hz) for part in torch.split(eeg, batch)])
        if target.points is not None:
            return -float((outputs - torch.from_numpy(target.points[chosen]).to(outputs)).square().mean())
        codes = torch.from_numpy(target.codes[chosen])
        return float(outputs.softmax(dim=1).gather(1, codes[:, None]).mean())

    whole = quality(windows)
    falls = np.empty(len(channels))
    for index in range(len(channels)):
        flat = windows.clone()
        flat[:, index] = 0
        falls[index] = whole - quality(flat)
    return falls
