"""The bytes of a store: which columns a window has, how tensors lie in a shard, what a manifest says.

A store is a folder:

    manifest-000001.json                   one per version, written last; the newest is the store
    manifest-000001-<hash>.json            the same where the store cannot keep two from taking one name
    shards/<corpus>/<number>-<hash>.arrow    Arrow IPC, one row per window: window_id, window (float16, C x T)
    shards/<corpus>/<number>-<hash>.parquet  its metadata columns, row for row
    quality/<corpus>-<hash>.json           what was found in each recording
    staging/                               finished recordings of ingests that have not published

Tensors use Arrow's own fixed-shape type, so any Arrow reader opens them without this project. Files are immutable and
named by their content. Nothing here touches a disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from emod.catalog.strict import Strict
from emod.errors import RequestError

__all__ = [
    "METADATA",
    "TENSOR",
    "CorpusEntry",
    "Manifest",
    "RecordingEntry",
    "ShardEntry",
    "tensor_array",
    "window_schema",
]

TENSOR = "window"

METADATA = pa.schema(
    [
        pa.field("window_id", pa.string(), nullable=False),  # corpus/subject/session/trial/index: unique in a store
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("subject", pa.string(), nullable=False),
        pa.field("session", pa.string(), nullable=False),
        pa.field("trial", pa.string(), nullable=False),
        pa.field("stimulus", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),  # from the start of the trial's stimulus part
        pa.field("valence", pa.float64(), nullable=False),  # plane, [-4, 4]
        pa.field("arousal", pa.float64(), nullable=False),
        pa.field("rating_valence", pa.float64()),  # the corpus' own scale; null where words were given
        pa.field("rating_arousal", pa.float64()),
        pa.field("emotion", pa.string()),  # the corpus' own word; null where ratings were given
        pa.field("label_kind", pa.string(), nullable=False),  # which of the two was measured: rating or emotion
        pa.field("va_region", pa.int64(), nullable=False),  # 0..8
        pa.field("scale_uv", pa.float64(), nullable=False),  # microvolt by which the tensor was divided
        pa.field("peak_uv", pa.float64(), nullable=False),  # largest magnitude after cleaning
        pa.field("clipped_share", pa.float64(), nullable=False),  # of its values, where the tensor is clipped
        pa.field("saturated_share", pa.float64(), nullable=False),  # of its samples as stored, at the recorder's rail
        pa.field("n_interpolated", pa.int64(), nullable=False),  # electrodes replaced by what the others predict
        pa.field("source", pa.string(), nullable=False),  # object the window came from
    ]
)


class ShardEntry(Strict):
    """One shard as the manifest knows it. Paths are relative to the store."""

    tensors: str
    metadata: str
    rows: int = Field(gt=0)
    tensors_sha256: str
    metadata_sha256: str
    tensors_bytes: int


class RecordingEntry(Strict):
    """One recording as the manifest knows it."""

    subject: str
    session: str
    mark: str = Field(description="of its objects and of all that turns them into windows")
    n_windows: int = Field(ge=0, description="0 where nothing of it could be used")


class CorpusEntry(Strict):
    """One corpus of a store version."""

    fingerprint: str = Field(description="of the settings, the tables and the code that made the windows")
    simulated: bool
    channels: tuple[str, ...]
    sfreq_hz: float
    window_s: float
    n_windows: int
    n_recordings: int
    n_subjects: int
    shards: tuple[ShardEntry, ...]
    problems: tuple[dict[str, str | None], ...] = Field(description="what was skipped and why, in recording order")
    cleaning: dict[str, Any] = Field(description="what the stages did, summed over recordings")
    recordings: dict[str, RecordingEntry] = Field(
        default_factory=dict, description="by key, in row order; with those of which nothing could be used"
    )
    quality: str | None = Field(default=None, description="path of what was found in each recording")

    @property
    def subjects(self) -> frozenset[str]:
        """Subjects with a recording here, usable or not."""
        return frozenset(recording.subject for recording in self.recordings.values())


class Manifest(Strict):
    """One version of a store, complete when it can be read."""

    format: Literal[1] = 1
    version: int = Field(ge=1)
    emod_version: str
    settings: dict[str, Any] = Field(description="the signal settings every corpus went through")
    corpora: dict[str, CorpusEntry]
    parents: tuple[str, ...] = Field(default=(), description="names of the manifests this one was made from")
    brought: tuple[str, ...] = Field(default=(), description="corpora that this version changed")
    withdrawn: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="corpus -> subjects who withdrew their consent, sorted; never ingested again"
    )

    def encode(self) -> bytes:
        """The manifest's bytes."""
        return self.model_dump_json(indent=1).encode()

    def file_name(self, *, exclusive: bool = False) -> str:
        """Where the manifest lies in its store.

        Args:
            exclusive: By version only, for stores where one name can be taken once. Else by version and content: two
                different manifests never share a name.
        """
        if exclusive:
            return f"manifest-{self.version:06d}.json"
        return f"manifest-{self.version:06d}-{hashlib.sha256(self.encode()).hexdigest()[:16]}.json"

    @property
    def hash(self) -> str:
        """`hash_of` all its corpora."""
        return self.hash_of(self.corpora)

    def hash_of(self, corpora: Iterable[str]) -> str:
        """SHA-256 of what the windows of these corpora are, hex: the lineage of everything learned from them.

        It covers the shards' checksums and nothing that differs between two equal ingests, nor what other corpora the
        store holds or comes to hold.

        Raises:
            RequestError: If this version lacks one of them.
        """
        names = sorted(corpora)
        if absent := [name for name in names if name not in self.corpora]:
            held = ", ".join(sorted(self.corpora))
            raise RequestError(f"corpus {absent[0]!r} is not in version {self.version} of the store; it holds {held}")
        content = {
            name: [(shard.tensors_sha256, shard.metadata_sha256) for shard in self.corpora[name].shards]
            for name in names
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def window_schema(n_channels: int, n_samples: int) -> pa.Schema:
    """Schema of a part: the metadata columns, then the tensor."""
    return pa.schema(
        [*METADATA, pa.field(TENSOR, pa.fixed_shape_tensor(pa.float16(), (n_channels, n_samples)), nullable=False)]
    )


def tensor_array(windows: npt.NDArray[np.float16]) -> pa.Array:
    """Arrow column of (n, C, T) float16 windows, without a copy."""
    assert windows.dtype == np.float16
    _, n_channels, n_samples = windows.shape
    flat = pa.array(np.ascontiguousarray(windows).reshape(-1), type=pa.float16())
    storage = pa.FixedSizeListArray.from_arrays(flat, n_channels * n_samples)
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float16(), (n_channels, n_samples)), storage)
