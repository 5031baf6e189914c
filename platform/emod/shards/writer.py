"""Recordings' windows -> part files -> shards -> a manifest.

A part holds one recording's windows and is written whole or not at all, so a killed ingest finds its finished
recordings again. Shards are packed from parts in recording order. The manifest comes last: before it nothing of a new
version can be seen (`emod.shards.versions`). It decides nothing about cleaning and knows no Ray.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from emod import storage
from emod.errors import DataError
from emod.shards.format import METADATA, TENSOR, ShardEntry, tensor_array, window_schema

__all__ = ["drop_subjects", "group_parts", "pack_shard", "read_part_summary", "write_part"]

_SUMMARY = b"emod.summary"


def write_part(
    url: str, windows: npt.NDArray[np.float16], rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
) -> None:
    """Writes one recording's windows whole.

    Args:
        url: Where; an object that is there is complete.
        windows: (n, C, T) float16, normalised; n may be 0.
        rows: n metadata rows with the columns of ``METADATA``.
        summary: What happened to the recording, JSON-able; it travels in the file's own header.
    """
    schema = window_schema(windows.shape[1], windows.shape[2]).with_metadata({_SUMMARY: json.dumps(summary).encode()})
    columns = pa.Table.from_pylist([dict(row) for row in rows], schema=METADATA).combine_chunks().columns
    arrays = [column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column for column in columns]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays([*arrays, tensor_array(windows)], schema=schema))
    storage.write_bytes(url, sink.getvalue().to_pybytes())


def read_part_summary(url: str) -> dict[str, Any]:
    """The summary in a part's header, without reading its windows."""
    with storage.open_binary(url) as stream, pa.ipc.open_file(pa.PythonFile(stream, mode="r")) as reader:
        summary: dict[str, Any] = json.loads(reader.schema.metadata[_SUMMARY])
        return summary


def group_parts(sizes: Sequence[int], limit_bytes: int) -> list[list[int]]:
    """Which parts share a shard: consecutive ones, as many as fit in ``limit_bytes``; a larger part stands alone."""
    groups: list[list[int]] = []
    filled = 0
    for index, size in enumerate(sizes):
        if not groups or filled + size > limit_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(index)
        filled += size
    return groups


def pack_shard(store_url: str, folder: str, number: int, part_urls: Sequence[str]) -> ShardEntry:
    """Packs parts into one shard, one part in memory at a time, and names it by its content.

    Args:
        store_url: The store.
        folder: Folder of the shard below the store, such as ``shards/deap``.
        number: Place of the shard in its corpus; only for people who list the folder.
        part_urls: At least one part with windows, in row order.

    Raises:
        NoSuchObjectError: If a part is not there any more.
    """

    def batches() -> Iterator[tuple[pa.RecordBatch, pa.Table]]:
        for url in part_urls:
            with storage.open_binary(url) as stream:
                part = pa.ipc.open_file(pa.BufferReader(stream.read()))
            for index in range(part.num_record_batches):
                batch = part.get_batch(index)
                metadata = pa.Table.from_batches([batch]).select(METADATA.names).replace_schema_metadata(None)
                yield batch.select(["window_id", TENSOR]).replace_schema_metadata(None), metadata

    entry = _write_shard(store_url, folder, number, batches())
    assert entry is not None, "a shard is packed from at least one part"
    return entry


def drop_subjects(store_url: str, shard: ShardEntry, subjects: Collection[str]) -> ShardEntry | None:
    """The shard without the windows of some subjects: itself where it holds none, None where it holds no other.

    The old shard stays; a new one is named by its content, and its remaining rows keep their order.

    Raises:
        DataError: If the shard is not what the manifest says.
    """
    with storage.open_binary(storage.join(store_url, shard.metadata)) as stream:
        metadata = pq.read_table(pa.BufferReader(stream.read()))
    keep = np.array([subject not in subjects for subject in metadata["subject"].to_pylist()])
    if keep.all():
        return shard
    if not keep.any():
        return None
    with tempfile.TemporaryDirectory(prefix="emod-shard-") as scratch:
        path = os.path.join(scratch, "whole.arrow")
        storage.download(storage.join(store_url, shard.tensors), path)
        if (found := _sha256(path)) != shard.tensors_sha256:
            what = f"checksum {found[:16]} where the manifest says {shard.tensors_sha256[:16]}; restore the shard"
            raise DataError(f"{storage.redact(store_url)}: {shard.tensors}: {what}")

        def batches() -> Iterator[tuple[pa.RecordBatch, pa.Table]]:
            with pa.memory_map(path) as memory:
                whole, start = pa.ipc.open_file(memory), 0
                for index in range(whole.num_record_batches):
                    batch = whole.get_batch(index)
                    rows = pa.array(keep[start : start + len(batch)])
                    part = metadata.slice(start, len(batch)).filter(rows)
                    start += len(batch)
                    if len(part):
                        yield batch.filter(rows), part

        name = PurePosixPath(shard.tensors)
        return _write_shard(store_url, str(name.parent), int(name.name.partition("-")[0]), batches())


def _write_shard(
    store_url: str, folder: str, number: int, batches: Iterable[tuple[pa.RecordBatch, pa.Table]]
) -> ShardEntry | None:
    """Writes tensors and metadata, each named by its content; None where there is no batch."""
    tables: list[pa.Table] = []
    with tempfile.TemporaryDirectory(prefix="emod-shard-") as scratch:
        path = os.path.join(scratch, "shard.arrow")
        writer = None
        for tensors, rows in batches:
            tables.append(rows)
            if writer is None:
                writer = pa.ipc.new_file(path, tensors.schema)
            writer.write_batch(tensors)
        if writer is None:
            return None
        writer.close()
        tensors_sha256, tensors_bytes = _sha256(path), Path(path).stat().st_size
        tensors_path = f"{folder}/{number:05d}-{tensors_sha256[:16]}.arrow"
        storage.upload(path, storage.join(store_url, tensors_path))
    metadata = pa.concat_tables(tables).combine_chunks()
    sink = pa.BufferOutputStream()
    pq.write_table(metadata, sink)
    encoded = sink.getvalue().to_pybytes()
    metadata_sha256 = hashlib.sha256(encoded).hexdigest()
    # By its own content: a label that changes leaves the tensors as they are, and the version before as it was.
    metadata_path = f"{folder}/{number:05d}-{metadata_sha256[:16]}.parquet"
    storage.write_bytes(storage.join(store_url, metadata_path), encoded)
    return ShardEntry(
        tensors=tensors_path,
        metadata=metadata_path,
        rows=metadata.num_rows,
        tensors_sha256=tensors_sha256,
        metadata_sha256=metadata_sha256,
        tensors_bytes=tensors_bytes,
    )


def _sha256(path: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
