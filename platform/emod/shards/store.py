"""Reading a store: metadata as an Arrow table, windows as tensors, straight from memory-mapped shards.

Shards on object storage are copied to a cache of this machine (`emod.shards.cache`) when they are first wanted. Opening
reads the manifest only. torch is imported when windows are first read: whoever only writes shards does without.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from emod import storage
from emod.cli import Tick, progress
from emod.errors import DataError, RequestError
from emod.shards.cache import ShardCache
from emod.shards.format import METADATA, TENSOR, CorpusEntry, Manifest, ShardEntry
from emod.shards.versions import newest_manifest

if TYPE_CHECKING:
    import torch

__all__ = ["ShardStore", "cached_copy"]

_READS_AT_ONCE = 16
# One stream of an object store fills no network; each holds its shard's pages while it is checked.
_COPIES_AT_ONCE = 8


def cached_copy(path: str, sha256: str) -> Path:
    """Where this machine keeps its copy of a remote store's file, if it has one."""
    return ShardCache().path_of(path, sha256)


class ShardStore:
    """One version of a store.

    Args:
        url: The store's folder, any URL fsspec reads.
        manifest: The version to read.
        cache: Folder for copies of remote shards; default ``$EMOD_CACHE``, else this user's cache folder.
    """

    def __init__(self, url: str, manifest: Manifest, *, cache: str | None = None) -> None:
        self.url = url
        self.manifest = manifest
        self._cache = ShardCache(Path(cache) if cache else None)
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
            DataError: If a shard is missing, or cannot be opened. Checksums are compared by `verify`, and of copies
                of a remote store.
            RequestError: If copies of a remote store have no room here.
        """
        if unit not in ("normalised", "uv"):
            raise ValueError(f"unit {unit!r} is none that windows come in; give 'normalised' or 'uv' (microvolt)")
        reader, wanted = self._reader(corpus), _row_numbers(rows)
        windows: npt.NDArray[np.float32] = reader.gather(wanted, half=False).numpy()
        if unit == "uv":
            windows *= reader.scale_uv[wanted, None, None]
        return windows

    def half_windows(self, corpus: str, rows: npt.ArrayLike) -> torch.Tensor:
        """As `windows`, (n, C, T) float16 as stored, in pinned memory where there is a GPU to move them to.

        Half as many bytes to move; converted there, they are what `windows` gives.
        """
        return self._reader(corpus).gather(_row_numbers(rows), half=True)

    def fetch(self, corpora: Iterable[str], tell: Callable[[str], None] | None = None) -> None:
        """Brings all shards of these corpora here, where the store is remote; else it only opens them.

        Reading windows does the same, a corpus at a time, when it is first asked for them.

        Args:
            corpora: Which.
            tell: Called with a few words whenever a shard has come; without it a bar or lines go to stderr.

        Raises:
            DataError, RequestError: As `windows`; that they cannot all be here at once is said first.
        """
        names = tuple(corpora)
        total = sum(shard.tensors_bytes for name in names for shard in self._entry(name).shards)
        if not storage.is_local(self.url):
            self._cache.check_room(total, f"{storage.redact(self.url)}, {', '.join(names)}")
        for name in names:
            self._reader(name).map_shards(tell)

    @property
    def fetched_bytes(self) -> int:
        """What this object has copied from a remote store; once what training needs is here, it rests."""
        return self._cache.fetched_bytes

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
            self._readers[corpus] = _CorpusReader(corpus, self.url, self._entry(corpus), self._cache)
        return self._readers[corpus]


def _row_numbers(rows: npt.ArrayLike) -> npt.NDArray[np.int64]:
    given = np.asarray(rows)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise IndexError(f"rows are {given.dtype} of shape {given.shape}; give whole row numbers (n,)")
    return given.astype(np.int64)


class _CorpusReader:
    """Memory-mapped shards of one corpus."""

    def __init__(self, name: str, url: str, entry: CorpusEntry, cache: ShardCache) -> None:
        self._name = name
        self._url = url
        self._entry = entry
        self._cache = cache
        self._blocks: tuple[list[torch.Tensor], npt.NDArray[np.int64]] | None = None

    @cached_property
    def metadata(self) -> pa.Table:
        tables = []
        for shard in self._entry.shards:
            with self._open(shard.metadata, shard.metadata_sha256) as stream, _worded(stream.name):
                tables.append(pq.read_table(stream))
        return pa.concat_tables(tables) if tables else METADATA.empty_table()

    @cached_property
    def scale_uv(self) -> npt.NDArray[np.float32]:
        scale: npt.NDArray[np.float32] = self.metadata["scale_uv"].to_numpy().astype(np.float32)
        return scale

    def map_shards(self, tell: Callable[[str], None] | None = None) -> tuple[list[torch.Tensor], npt.NDArray[np.int64]]:
        """(n, C, T) float16 views of all record batches, and the row at which each begins (the total at the end)."""
        if self._blocks is None:
            views = []
            for stream in self._tensors(tell):
                with stream, _worded(stream.name):
                    views += _map_tensors(stream)
            self._blocks = views, np.cumsum([0, *(len(view) for view in views)], dtype=np.int64)
        return self._blocks

    def _tensors(self, tell: Callable[[str], None] | None) -> Iterator[BinaryIO]:
        """The files of tensors, opened, in order; those that are not here are fetched, several at once."""
        shards = self._entry.shards
        absent = 0
        if not storage.is_local(self._url):
            paths = (self._cache.path_of(shard.tensors, shard.tensors_sha256) for shard in shards)
            absent = sum(shard.tensors_bytes for shard, path in zip(shards, paths, strict=True) if not path.is_file())
        if not absent:
            yield from (self._open(shard.tensors, shard.tensors_sha256) for shard in shards)
            return
        print(
            f"copying {absent / 1e6:,.1f} MB of {self._name} from {storage.redact(self._url)} to {self._cache.folder}",
            file=sys.stderr,
        )
        total = sum(shard.tensors_bytes for shard in shards)
        with _told(self._name, total, tell) as advance, ThreadPoolExecutor(_COPIES_AT_ONCE) as copies:
            opened = [copies.submit(self._open, shard.tensors, shard.tensors_sha256) for shard in shards]
            try:
                for shard, stream in zip(shards, opened, strict=True):
                    yield stream.result()
                    advance(shard.tensors_bytes)
            finally:
                copies.shutdown(wait=False, cancel_futures=True)  # one that failed ends the rest

    def gather(self, rows: npt.NDArray[np.int64], *, half: bool) -> torch.Tensor:
        import torch

        views, starts = self.map_shards()
        if rows.size and not 0 <= rows.min() <= rows.max() < starts[-1]:
            raise IndexError(f"rows {rows.min()}..{rows.max()} asked for where the corpus holds 0..{starts[-1] - 1}")
        shape = views[0].shape[1:] if views else (len(self._entry.channels), 0)
        if half:
            out = torch.empty((len(rows), *shape), dtype=torch.float16, pin_memory=torch.cuda.is_available())
        else:
            out = torch.empty((len(rows), *shape), dtype=torch.float32)
        blocks = np.searchsorted(starts, rows, side="right") - 1
        for position, (block, row) in enumerate(zip(blocks.tolist(), rows.tolist(), strict=True)):
            out[position].copy_(views[block][row - int(starts[block])])
        return out

    def _open(self, path: str, sha256: str) -> BinaryIO:
        """A file of the store: itself where the store is local, a right copy elsewhere."""
        url = storage.join(self._url, path)
        if not storage.is_local(url):
            return self._cache.open(url, sha256)
        try:
            return open(url.removeprefix("file://"), "rb")
        except FileNotFoundError:
            what = "a shard of the manifest is missing; restore it or run jobs/ingest.py again"
            raise DataError(f"{storage.redact(url)}: {what}") from None


@contextmanager
def _told(corpus: str, total: int, tell: Callable[[str], None] | None) -> Iterator[Tick]:
    """Progress in bytes: on stderr in megabytes, or as words to whoever is told."""
    done = 0
    with progress(f"copy {corpus}, MB", _megabytes(total)) if tell is None else nullcontext() as bar:

        def advance(steps: int = 1, note: str = "") -> None:
            nonlocal done
            before, done = done, done + steps
            if bar is not None:
                bar(_megabytes(done) - _megabytes(before))
            elif tell is not None:
                tell(f"copying {corpus}: {done / 1e6:,.1f} of {total / 1e6:,.1f} MB")

        yield advance


def _megabytes(size: int) -> int:
    return math.ceil(size / 10**6)


@contextmanager
def _worded(path: str) -> Iterator[None]:
    """A file that Arrow or mmap cannot open is bad data, not a defect of the platform."""
    try:
        yield
    except (pa.ArrowInvalid, ValueError, OSError) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: not a whole shard ({what}); restore it") from None


def _map_tensors(stream: BinaryIO) -> list[torch.Tensor]:
    """(n, C, T) float16 tensors over a shard's mapped pages, one a record batch; nothing is copied.

    The map outlives the stream. torch converts float16 about four times as fast as numpy does, so the views are
    torch's. It refuses read-only memory, hence a private map: a write would copy the page, and nobody writes.
    """
    import torch

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
