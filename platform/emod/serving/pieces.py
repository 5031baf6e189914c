"""What a batch embedding covers, cut into pieces: each is one recording, or a run of rows of one shard, and one object.

Listing decodes nothing. Which pieces there are, and what each is called, follows from the windows alone: whoever lists
them again finds the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from emod import storage
from emod.catalog import Experiment, SignalSettings
from emod.corpora import RecordingRef
from emod.errors import RequestError
from emod.ingest import IngestPlan, plan_recordings, settings_that_differ
from emod.shards import Manifest, ShardStore

__all__ = ["Piece", "RowsPiece", "Windows", "recordings_to_embed", "store_to_embed"]


@dataclass(frozen=True)
class RowsPiece:
    """Rows of one shard.

    Attributes:
        corpus: Its corpus.
        shard: Number of the shard in its corpus.
        start: First row, counted in the shard.
        stop: One past the last.
        first: The first one's row number in the corpus.
    """

    corpus: str
    shard: int
    start: int
    stop: int
    first: int

    @property
    def path(self) -> str:
        """Of its object: rows of the corpus, the last one included."""
        return f"{self.corpus}/{self.first:08d}-{self.first + self.stop - self.start - 1:08d}.parquet"


@dataclass(frozen=True)
class Piece:
    """One recording, or rows of a store.

    Attributes:
        corpus: Its corpus.
        path: Of its object, below the folder of objects.
        steps: What it advances a progress bar by: windows of a store, one of recordings.
        what: What is read.
    """

    corpus: str
    path: str
    steps: int
    what: RowsPiece | RecordingRef


@dataclass(frozen=True)
class Windows:
    """What is embedded.

    Attributes:
        source: Where windows come from.
        corpora: Names, sorted.
        simulated: Whether any of them is simulated.
        identity: JSON-able: equal for equal windows, whatever recordings come or go.
        pieces: All of it.
        problems: What could not even be listed, and who withdrew; of recordings only.
        plans: Of recordings: corpus -> plan.
        manifest: Of a store.
    """

    source: Literal["store", "recordings"]
    corpora: tuple[str, ...]
    simulated: bool
    identity: dict[str, Any]
    pieces: tuple[Piece, ...]
    problems: tuple[dict[str, str | None], ...] = ()
    plans: tuple[IngestPlan, ...] = ()
    manifest: Manifest | None = None


def store_to_embed(experiment: Experiment, corpora: Sequence[str] | None, settings: SignalSettings) -> Windows:
    """Windows of the newest version of the experiment's store.

    Args:
        experiment: With the store's address and how much lies in an object.
        corpora: Which of it; None: all.
        settings: What the model wants windows to be made with.

    Raises:
        RequestError: If there is no store, it lacks a corpus, or its windows were made otherwise.
    """
    store = ShardStore.open(experiment.addresses.store_url())
    names = tuple(sorted(set(corpora or store.corpora)))
    identity = store.manifest.hash_of(names)
    wanted = settings.model_dump(mode="json")
    if different := settings_that_differ("signal", store.manifest.settings, wanted, here="in the model"):
        raise RequestError(
            f"{storage.redact(store.url)} was made otherwise than what the model learned from: {'; '.join(different)}; "
            "ingest with the model's settings into another store, or use --recordings"
        )
    most = experiment.embed.windows_per_object
    pieces = []
    for name in names:
        first = 0
        for number, shard in enumerate(store.manifest.corpora[name].shards):
            for start in range(0, shard.rows, most):
                rows = RowsPiece(name, number, start, min(start + most, shard.rows), first + start)
                pieces.append(Piece(name, rows.path, rows.stop - rows.start, rows))
            first += shard.rows
    return Windows(
        source="store",
        corpora=names,
        simulated=store.is_simulated(names),
        identity={"manifest": identity, "windows_per_object": most},
        pieces=tuple(pieces),
        manifest=store.manifest,
    )


def recordings_to_embed(experiment: Experiment, corpora: Sequence[str] | None) -> Windows:
    """Recordings at the experiment's addresses, cleaned as its signal settings say.

    Args:
        experiment: With the model's signal settings.
        corpora: Which; None: all of the experiment.

    Raises:
        RequestError: If an address is missing or holds nothing of its corpus.
    """
    names = tuple(sorted(set(corpora or experiment.corpora)))
    addresses = experiment.addresses.resolve(names)
    plans = plan_recordings(experiment.model_copy(update={"corpora": names, "addresses": addresses}))
    return Windows(
        source="recordings",
        corpora=names,
        simulated=any(plan.simulated for plan in plans),
        identity={"treatment": {plan.corpus: plan.treatment for plan in plans}},
        # By its mark: what has changed is read again.
        pieces=tuple(
            Piece(plan.corpus, f"{plan.corpus}/{ref.key}-{plan.marks[ref.key]}.parquet", 1, ref)
            for plan in plans
            for ref in plan.references
        ),
        problems=tuple(problem for plan in plans for problem in plan.problems),
        plans=tuple(plans),
    )
