"""Windows of several corpora of a store as one table, read in groups of one montage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emod.shards.store import ShardStore

__all__ = ["WindowGroup", "WindowPool"]

# Positions among the rows asked for, windows (n, C, T), electrodes, rate.
WindowGroup = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], tuple[str, ...], float]


class WindowPool:
    """Rows of one corpus after those of another, in the order given.

    Args:
        store: Where the windows are.
        corpora: Which of it, at least one.
    """

    def __init__(self, store: ShardStore, corpora: Sequence[str]) -> None:
        self.store = store
        self.corpora = tuple(corpora)

    @cached_property
    def metadata(self) -> pa.Table:
        """One row per window, as `ShardStore.metadata`."""
        return pa.concat_tables([self.store.metadata(name) for name in self.corpora])

    @cached_property
    def _first(self) -> npt.NDArray[np.int64]:
        sizes = [len(self.store.metadata(name)) for name in self.corpora]
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def read(self, rows: npt.ArrayLike) -> Iterator[WindowGroup]:
        """Normalised windows of the rows given, corpus by corpus."""
        wanted = np.asarray(rows, dtype=np.int64)
        place = np.searchsorted(self._first, wanted, side="right") - 1
        for index in np.unique(place):
            name = self.corpora[index]
            positions = np.flatnonzero(place == index)
            windows = self.store.windows(name, wanted[positions] - self._first[index])
            yield positions, windows, self.store.channels(name), self.store.sfreq_hz(name)
