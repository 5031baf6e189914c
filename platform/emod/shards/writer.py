"""Recordings' windows -> part files -> shards -> a manifest.

A part holds one recording's windows and is written whole or not at all, so a killed ingest finds its finished
recordings again. Shards are packed from parts in recording order. The manifest comes last: before it nothing of a new
version can be seen. It decides nothing about cleaning and knows no Ray.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from emod import storage
from emod.shards.format import METADATA, TENSOR, Manifest, ShardEntry, tensor_array, window_schema

__all__ = ["group_parts", "pack_shard", "publish", "read_part_summary", "write_part"]

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
    """
    tables: list[pa.Table] = []
    with tempfile.TemporaryDirectory(prefix="emod-shard-") as scratch:
        path = os.path.join(scratch, "shard.arrow")
        writer = None
        for url in part_urls:
            with storage.open_binary(url) as stream:
                part = pa.ipc.open_file(pa.BufferReader(stream.read()))
            for index in range(part.num_record_batches):
                batch = part.get_batch(index)
                tables.append(pa.Table.from_batches([batch]).select(METADATA.names).replace_schema_metadata(None))
                tensors = batch.select(["window_id", TENSOR]).replace_schema_metadata(None)
                if writer is None:
                    writer = pa.ipc.new_file(path, tensors.schema)
                writer.write_batch(tensors)
        assert writer is not None, "a shard is packed from at least one part"
        writer.close()
        tensors_sha256 = _sha256(path)
        stem = f"{folder}/{number:05d}-{tensors_sha256[:16]}"
        storage.upload(path, storage.join(store_url, f"{stem}.arrow"))
        tensors_bytes = os.path.getsize(path)
    metadata = pa.concat_tables(tables)
    sink = pa.BufferOutputStream()
    pq.write_table(metadata, sink)
    encoded = sink.getvalue().to_pybytes()
    storage.write_bytes(storage.join(store_url, f"{stem}.parquet"), encoded)
    return ShardEntry(
        tensors=f"{stem}.arrow",
        metadata=f"{stem}.parquet",
        rows=metadata.num_rows,
        tensors_sha256=tensors_sha256,
        metadata_sha256=hashlib.sha256(encoded).hexdigest(),
        tensors_bytes=tensors_bytes,
    )


def publish(store_url: str, manifest: Manifest) -> str:
    """Makes a new version of a store visible; returns the manifest's URL. Everything it names must be there already."""
    url = storage.join(store_url, manifest.file_name())
    storage.write_bytes(url, manifest.encode())
    return url


def _sha256(path: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
