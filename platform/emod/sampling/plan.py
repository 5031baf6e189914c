"""Region-balanced batches over corpora (EMOD, cross-corpus sampling).

In each round one window is drawn, with replacement, from each of the 9 va_regions of each corpus. A batch is a pure
function of (regions, seed, step): resuming needs the step alone, and the number of workers only decides how a batch is
cut. The plan yields row numbers; it reads no windows and keeps no state.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]

N_REGIONS = 9


@dataclass(frozen=True)
class _Corpus:
    """Rows of one corpus by region: region r holds rows[start[r] : start[r] + count[r]]."""

    rows: Rows
    start: Rows
    count: Rows
    key: int


def _index_corpus(name: str, va_regions: npt.ArrayLike) -> _Corpus:
    ids: npt.NDArray[Any] = np.asarray(va_regions)
    if ids.ndim != 1 or ids.size == 0:
        raise ValueError(f"corpus {name}: va_regions of shape {ids.shape}: give one id per window, at least one")
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"corpus {name}: va_regions are {ids.dtype}: give integers 0..8")
    outside = ids[(ids < 0) | (ids >= N_REGIONS)]
    if outside.size:
        raise ValueError(f"corpus {name}: va_region {outside[0]}: give integers 0..8")
    count = np.bincount(ids, minlength=N_REGIONS)
    rows = np.argsort(ids, kind="stable")
    return _Corpus(rows=rows, start=count.cumsum() - count, count=count, key=zlib.crc32(name.encode()))


class RegionBalancedPlan:
    """Batches of ``9 * rounds`` windows per corpus, balanced over va_regions as far as the corpus allows.

    A slot of a region that a corpus does not have is filled from its other regions. "round_robin": successive empty
    slots take successive non-empty regions, on through rounds and steps, so these extra draws never differ by more
    than one between regions. "nearest": the region whose centre is nearest on the plane, the lower id on a tie.

    A corpus' draws depend on its own name and regions only; other corpora in the plan do not change them.

    Args:
        va_regions: Per corpus, (n_windows,) integers 0..8: band(valence) + 3 * band(arousal) of each row.
        rounds: Rounds per batch, >= 1.
        seed: >= 0.
        empty: How empty slots are filled.

    Raises:
        ValueError: If there is no corpus, a corpus has no windows or an id outside 0..8, or a number is out of range.
    """

    def __init__(
        self,
        va_regions: Mapping[str, npt.ArrayLike],
        rounds: int = 4,
        seed: int = 0,
        empty: Literal["round_robin", "nearest"] = "round_robin",
    ) -> None:
        if not va_regions:
            raise ValueError("va_regions is empty: give at least one corpus")
        if rounds < 1:
            raise ValueError(f"rounds = {rounds}: give at least 1")
        if seed < 0:
            raise ValueError(f"seed = {seed}: give a number from 0 up")
        if empty not in ("round_robin", "nearest"):
            raise ValueError(f"empty = {empty!r}: give 'round_robin' or 'nearest'")
        self.rounds = rounds
        self.seed = seed
        self.empty = empty
        self._corpora = {name: _index_corpus(name, va_regions[name]) for name in sorted(va_regions)}

    @property
    def corpora(self) -> tuple[str, ...]:
        """Names in sorted order, which is also the order of every batch."""
        return tuple(self._corpora)

    @property
    def steps_per_epoch(self) -> int:
        """(all windows // corpora) // (9 * rounds), the authors' definition of an epoch, but at least 1."""
        n_windows = sum(corpus.rows.size for corpus in self._corpora.values())
        return max(1, n_windows // len(self._corpora) // (N_REGIONS * self.rounds))

    def batch(self, step: int, rank: int | None = None, world_size: int | None = None) -> dict[str, Rows]:
        """Row numbers of one step, or one rank's part of them.

        The parts, concatenated in rank order, are the whole batch. Their sizes differ by one at most, within each
        corpus and summed over corpora.

        Args:
            step: >= 0.
            rank: 0 <= rank < world_size; given together with ``world_size``, or not at all.
            world_size: >= 1.

        Returns:
            Per corpus, row numbers: round after round, in each round by region slot 0..8. ``9 * rounds`` of them
            without a rank.

        Raises:
            ValueError: If ``step``, ``rank`` or ``world_size`` is out of range.
        """
        if (rank is None) != (world_size is None):
            raise ValueError(f"rank = {rank}, world_size = {world_size}: give both or neither")
        whole = {name: self._draw(corpus, step) for name, corpus in self._corpora.items()}
        if rank is None or world_size is None:
            return whole
        return {name: whole[name][part] for name, part in self.parts(rank, world_size).items()}

    def parts(self, rank: int, world_size: int) -> dict[str, slice]:
        """Per corpus, which of the ``9 * rounds`` places of a batch are a rank's; the same at every step.

        Raises:
            ValueError: If ``rank`` is out of range.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank = {rank}: give 0 <= rank < world_size = {world_size}")
        share, left = divmod(N_REGIONS * self.rounds, world_size)
        parts = {}
        for number, name in enumerate(self._corpora):
            # The left-over rows of corpus 0 go to ranks 0, 1, ...; the next corpus carries on where it stopped.
            extra = (np.arange(world_size) - number * left) % world_size < left
            end = int((share + extra).cumsum()[rank])
            parts[name] = slice(end - share - int(extra[rank]), end)
        return parts

    def draws(self, step: int) -> dict[str, Rows]:
        """Per corpus, how many of the step's windows come from each va_region: (9,) counts, 0 where it has none."""
        return {
            name: np.bincount(self._regions(corpus, step).ravel(), minlength=N_REGIONS)
            for name, corpus in self._corpora.items()
        }

    def _draw(self, corpus: _Corpus, step: int) -> Rows:
        region = self._regions(corpus, step).ravel()
        # Raw words, since numpy keeps a bit generator's stream across releases but not what Generator makes of it;
        # the modulo's bias is below count / 2**64.
        words = np.random.PCG64(np.random.SeedSequence([self.seed, step, corpus.key])).random_raw(region.size)
        pick = (words % corpus.count[region].astype(np.uint64)).astype(np.int64)
        drawn: Rows = corpus.rows[corpus.start[region] + pick]
        return drawn

    def _regions(self, corpus: _Corpus, step: int) -> Rows:
        """(rounds, 9) region that each slot of the step draws from."""
        if step < 0:
            raise ValueError(f"step = {step}: give a number from 0 up")
        slots = np.tile(np.arange(N_REGIONS), (self.rounds, 1))
        full, empty = np.flatnonzero(corpus.count), np.flatnonzero(corpus.count == 0)
        if self.empty == "round_robin":
            turn = step * self.rounds * empty.size + np.arange(self.rounds * empty.size)
            slots[:, empty] = full[turn % full.size].reshape(self.rounds, empty.size)
        else:
            centre = np.stack([np.arange(N_REGIONS) % 3, np.arange(N_REGIONS) // 3], axis=1)
            squared = ((centre[empty, None] - centre[None, full]) ** 2).sum(axis=-1)
            slots[:, empty] = full[squared.argmin(axis=1)]
        return slots
