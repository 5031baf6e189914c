"""The sharded tensor store: format, writer, reader, manifest and its versions."""

from emod.shards.format import METADATA, CorpusEntry, Manifest, RecordingEntry, ShardEntry
from emod.shards.pool import WindowPool
from emod.shards.store import ShardStore, cached_copy
from emod.shards.versions import list_manifests, newest_manifest, publish, publish_change, read_manifest
from emod.shards.writer import drop_subjects, group_parts, pack_shard, read_part_summary, write_part

__all__ = [
    "METADATA",
    "CorpusEntry",
    "Manifest",
    "RecordingEntry",
    "ShardEntry",
    "ShardStore",
    "WindowPool",
    "cached_copy",
    "drop_subjects",
    "group_parts",
    "list_manifests",
    "newest_manifest",
    "pack_shard",
    "publish",
    "publish_change",
    "read_manifest",
    "read_part_summary",
    "write_part",
]
