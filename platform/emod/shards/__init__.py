"""The sharded tensor store: format, writer, reader, manifest."""

from emod.shards.format import METADATA, CorpusEntry, Manifest, ShardEntry
from emod.shards.store import ShardStore, newest_manifest
from emod.shards.writer import group_parts, pack_shard, publish, read_part_summary, write_part

__all__ = [
    "METADATA",
    "CorpusEntry",
    "Manifest",
    "ShardEntry",
    "ShardStore",
    "group_parts",
    "newest_manifest",
    "pack_shard",
    "publish",
    "read_part_summary",
    "write_part",
]
