"""Reading a store: metadata as an Arrow table, windows as tensors, straight from memory-mapped shards.

Shards on object storage are copied once to a local cache and checked against their checksum. Opening reads the
manifest only. torch is imported when windows are first read: whoever only writes shards does without.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from emod import storage
from emod.errors import DataError, RequestError
from emod.shards.format import METADATA, TENSOR, CorpusEntry, Manifest, ShardEntry
from emod.shards.versions import newest_manifest

if TYPE_CHECKING:
    import torch

__all__ = ["ShardStore", "cached_copy"]

_READS_AT_ONCE = 16


def cached_copy(path: str, sha256: str) -> Path:
    """Where this machine keeps its copy of a remote store's file, if it has one."""
    return _copy_in(_default_cache(), path, sha256)


def _default_cache() -> Path:
    default = os.path.join(tempfile.gettempdir(), f"emod-cache-{os.getuid()}")
    return Path(os.environ.get("EMOD_CACHE") or default)


def _copy_in(cache: Path, path: str, sha256: str) -> Path:
    return cache / f"{sha256}{Path(path).suffix}"


class ShardStore:
    """One version of a store.

    Args:
        url: The store's folder, any URL fsspec reads.
        manifest: The version to read.
        cache: Folder for copies of remote shards; default ``$EMOD_CACHE``, else a folder of this user's below the
            system's temporary one.
    """

    def __init__(self, url: str, manifest: Manifest, *, cache: str | None = None) -> None:
        self.url = url
        self.manifest = manifest
        self._cache = Path(cache) if cache else _default_cache()
        self._readers: dict[str, _CorpusReader] = {}

    @classmethod
    def open(cls, url: str, *, cache: str | None = None) -> ShardStore:
        """Opens the newest complete version.

        Raises:
            RequestError: If there is no store at this URL.
            DataError: If its manifest is not valid.
        """
        manifest = newest_manifest(url)
        if manifest is None:
            raise RequestError(
                f"{storage.redact(url)}: no shard store here (no manifest); run jobs/ingest.py first or check the URL"
            )
        return cls(url, manifest, cache=cache)

    @property
    def corpora(self) -> tuple[str, ...]:
        """Names of the corpora in this version, sorted."""
        return tuple(sorted(self.manifest.corpora))

    def is_simulated(self, corpora: Iterable[str]) -> bool:
        """Whether any of these corpora is simulated."""
        return any(self._entry(name).simulated for name in corpora)

    def channels(self, corpus: str) -> tuple[str, ...]:
        """Canonical electrode names, in tensor order."""
        return self._entry(corpus).channels

    def sfreq_hz(self, corpus: str) -> float:
        """Sampling rate of the windows."""
        return self._entry(corpus).sfreq_hz

    def window_s(self, corpus: str) -> float:
        """Length of a window in seconds."""
        return self._entry(corpus).window_s

    def metadata(self, corpus: str) -> pa.Table:
        """One row per window, in store order; columns of ``emod.shards.METADATA``."""
        return self._reader(corpus).metadata

    def windows(
        self, corpus: str, rows: npt.ArrayLike, *, unit: Literal["normalised", "uv"] = "normalised"
    ) -> npt.NDArray[np.float32]:
        """Windows by row number of ``metadata``, in the order asked for.

        Args:
            corpus: A corpus of this store.
            rows: (n,) integers in 0..n_windows-1; repeats are fine.
            unit: ``normalised`` as the model reads them, or ``uv`` for microvolt.

        Returns:
            (n, C, T) float32.

        Raises:
            ValueError: If the unit is neither.
            IndexError: If a row is out of range, or no row number at all: a mask, a fraction.
            DataError: If a shard is missing, or cannot be opened. Only `verify` and the download of a remote shard
                compare checksums.
        """
        if unit not in ("normalised", "uv"):
            raise ValueError(f"unit {unit!r} is none that windows come in; give 'normalised' or 'uv' (microvolt)")
        reader = self._reader(corpus)
        given = np.asarray(rows)
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            raise IndexError(f"rows are {given.dtype} of shape {given.shape}; give whole row numbers (n,)")
        wanted = given.astype(np.int64)
        windows = reader.gather(wanted)
        if unit == "uv":
            windows *= reader.scale_uv[wanted, None, None]
        return windows

    def damaged_files(self, corpus: str) -> tuple[str, ...]:
        """Files of a corpus that are missing, cut off or not what the manifest says, as paths below the store.

        Of tensors, which are large, the size is compared; `verify` reads them.
        """
        entry = self._entry(corpus)
        folders = {
            str(PurePosixPath(path).parent) for shard in entry.shards for path in (shard.tensors, shard.metadata)
        }
        sizes: dict[str, int] = {}
        for folder in folders:
            if storage.exists(url := storage.join(self.url, folder)):
                sizes |= {f"{folder}/{name}": size for name, size in storage.list_files(url, recursive=False).items()}
        small = {shard.metadata: shard.metadata_sha256 for shard in entry.shards}
        with ThreadPoolExecutor(_READS_AT_ONCE) as reads:
            right = reads.map(lambda item: item[0] in sizes and self._sha256(item[0]) == item[1], small.items())
            damaged = [path for path, whole in zip(small, right, strict=True) if not whole]
        damaged += [shard.tensors for shard in entry.shards if sizes.get(shard.tensors) != shard.tensors_bytes]
        if entry.quality is not None and self._verify_quality(entry.quality):
            damaged.append(entry.quality)
        return tuple(sorted(damaged))

    def _sha256(self, path: str) -> str:
        with storage.open_binary(storage.join(self.url, path)) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]

    def verify(self) -> list[str]:
        """Recomputes every checksum and row count; an empty list means the store is whole."""
        found: list[str] = []
        for corpus in self.corpora:
            entry = self._entry(corpus)
            rows = 0
            for shard in entry.shards:
                problems = self._verify_shard(shard)
                found += [f"{corpus}: {problem}" for problem in problems]
                rows += shard.rows
            if rows != entry.n_windows:
                found.append(f"{corpus}: shards hold {rows} windows where the manifest says {entry.n_windows}")
            if entry.quality is not None:
                found += [f"{corpus}: {problem}" for problem in self._verify_quality(entry.quality)]
        return found

    def _verify_quality(self, path: str) -> list[str]:
        """The name holds the checksum."""
        try:
            found = self._sha256(path)[:16]
        except RequestError as error:
            return [f"{path}: missing ({error})"]
        if Path(path).stem.endswith(f"-{found}"):
            return []
        return [f"{path}: checksum {found} where its name says another"]

    def _verify_shard(self, shard: ShardEntry) -> list[str]:
        tables = []
        for path, expected in ((shard.tensors, shard.tensors_sha256), (shard.metadata, shard.metadata_sha256)):
            url = storage.join(self.url, path)
            try:
                with storage.open_binary(url) as stream:
                    if (found := hashlib.file_digest(stream, "sha256").hexdigest()) != expected:  # type: ignore[arg-type]
                        return [f"{path}: checksum {found[:16]} where the manifest says {expected[:16]}"]
                    stream.seek(0)
                    data = pa.BufferReader(stream.read())
            except RequestError as error:
                return [f"{path}: missing ({error})"]
            tables.append(pa.ipc.open_file(data).read_all() if path == shard.tensors else pq.read_table(data))
        tensors, metadata = tables
        if not tensors.num_rows == metadata.num_rows == shard.rows:
            return [
                f"{shard.tensors}: {tensors.num_rows} tensors, {metadata.num_rows} rows, manifest says {shard.rows}"
            ]
        if tensors["window_id"].to_pylist() != metadata["window_id"].to_pylist():
            return [f"{shard.tensors}: window ids differ from {shard.metadata}"]
        return []

    def _entry(self, corpus: str) -> CorpusEntry:
        if corpus not in self.manifest.corpora:
            held = ", ".join(self.corpora)
            raise RequestError(f"corpus {corpus!r} is not in the store {storage.redact(self.url)}; it holds {held}")
        return self.manifest.corpora[corpus]

    def _reader(self, corpus: str) -> _CorpusReader:
        if corpus not in self._readers:
            self._readers[corpus] = _CorpusReader(self.url, self._entry(corpus), self._cache)
        return self._readers[corpus]


class _CorpusReader:
    """Memory-mapped shards of one corpus."""

    def __init__(self, url: str, entry: CorpusEntry, cache: Path) -> None:
        self._url = url
        self._entry = entry
        self._cache = cache

    @cached_property
    def metadata(self) -> pa.Table:
        tables = []
        for shard in self._entry.shards:
            path = self._local(shard.metadata, shard.metadata_sha256)
            with _worded(path):
                tables.append(pq.read_table(path))
        return pa.concat_tables(tables) if tables else METADATA.empty_table()

    @cached_property
    def scale_uv(self) -> npt.NDArray[np.float32]:
        scale: npt.NDArray[np.float32] = self.metadata["scale_uv"].to_numpy().astype(np.float32)
        return scale

    @cached_property
    def _blocks(self) -> tuple[list[torch.Tensor], npt.NDArray[np.int64]]:
        """(n, C, T) float16 views of all record batches, and the row at which each begins (the total at the end)."""
        views = []
        for shard in self._entry.shards:
            path = self._local(shard.tensors, shard.tensors_sha256)
            with _worded(path):
                views += _map_tensors(path)
        starts = np.cumsum([0, *(len(view) for view in views)], dtype=np.int64)
        return views, starts

    def gather(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        import torch

        views, starts = self._blocks
        if rows.size and not 0 <= rows.min() <= rows.max() < starts[-1]:
            raise IndexError(f"rows {rows.min()}..{rows.max()} asked for where the corpus holds 0..{starts[-1] - 1}")
        shape = views[0].shape[1:] if views else (len(self._entry.channels), 0)
        out = torch.empty((len(rows), *shape), dtype=torch.float32)
        blocks = np.searchsorted(starts, rows, side="right") - 1
        for position, (block, row) in enumerate(zip(blocks.tolist(), rows.tolist(), strict=True)):
            out[position].copy_(views[block][row - int(starts[block])])
        return out.numpy()

    def _local(self, path: str, sha256: str) -> str:
        """A local path of a store's file: its own where the store is local, a checked copy elsewhere."""
        url = storage.join(self._url, path)
        cached = _copy_in(self._cache, path, sha256)
        local = Path(url.removeprefix("file://")) if storage.is_local(url) else cached
        if local.is_file():
            return str(local)
        if not storage.exists(url):
            what = "a shard of the manifest is missing; restore it or run jobs/ingest.py again"
            raise DataError(f"{storage.redact(url)}: {what}")
        # Recordings of people: nobody else on this machine may read the copies.
        self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._cache.stat().st_uid != os.getuid():
            raise RequestError(f"{self._cache}: the cache folder is somebody else's; set EMOD_CACHE to one of your own")
        with tempfile.TemporaryDirectory(dir=self._cache) as scratch:
            fresh = Path(scratch) / "download"
            storage.download(url, str(fresh))
            with fresh.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            if found != sha256:
                what = f"checksum {found[:16]} where the manifest says {sha256[:16]}; restore the shard"
                raise DataError(f"{storage.redact(url)}: {what}")
            fresh.replace(cached)
        return str(cached)


@contextmanager
def _worded(path: str) -> Iterator[None]:
    """A file that Arrow or mmap cannot open is bad data, not a defect of the platform."""
    try:
        yield
    except (pa.ArrowInvalid, ValueError, OSError) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: not a whole shard ({what}); restore it, or remove it if it is a cached copy"
        ) from None


def _map_tensors(path: str) -> list[torch.Tensor]:
    """(n, C, T) float16 tensors over a shard's mapped pages, one a record batch; nothing is copied.

    torch converts float16 about four times as fast as numpy does, so the views are torch's. It refuses read-only
    memory, hence a private map: a write would copy the page, and nobody writes.
    """
    import torch

    with open(path, "rb") as stream:
        memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    buffer = pa.py_buffer(memory)
    reader = pa.ipc.open_file(buffer)
    views = []
    for index in range(reader.num_record_batches):
        batch = reader.get_batch(index)
        column = batch.column(batch.schema.get_field_index(TENSOR))
        values = column.storage.flatten()
        offset = values.buffers()[1].address - buffer.address + 2 * values.offset
        flat = torch.frombuffer(memory, dtype=torch.float16, offset=offset, count=len(values))
        views.append(flat.view(len(batch), *column.type.shape))
    return views
