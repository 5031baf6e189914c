"""Copies of remote shards on this machine: fetched once, bounded, checked.

A folder of this user's, shared by all processes of the machine:

    <sha256>.arrow, .parquet          a whole copy; whoever uses it holds a shared lock on it
    <sha256>.arrow.<size>.partial     a copy that is being fetched
    state/<sha256>.arrow.lock         held while the copy is fetched or checked
    state/<sha256>.arrow.checked      what the copy looked like when its checksum was right; its time is the last use
    state/room.lock                   held while room is made

Of several processes that want one shard, the first fetches it and the others wait. Where room is wanted, what was used
longest ago goes first; copies in use stay. A checksum is computed after the download, and again at the first use after
a day or after anything wrote to the file (1.7 GB/s measured, once a machine); a copy that is wrong is fetched again.
It knows nothing of what is in a shard.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from emod import storage
from emod.errors import DataError, RequestError

__all__ = ["ShardCache"]

_CHECK_AGAIN_S = 24 * 3600.0
# A disk that is full to the brim fails whoever writes next.
_SPARE_SHARE = 0.05


class ShardCache:
    """The copies in one folder.

    Args:
        folder: Where; default ``$EMOD_CACHE``, else this user's cache folder (``$XDG_CACHE_HOME/emod``).
        limit_bytes: What the folder may hold; default ``$EMOD_CACHE_GB``, else all of the disk but a twentieth.

    Raises:
        RequestError: If ``EMOD_CACHE_GB`` is not a number above 0.

    Attributes:
        fetched_bytes: What this object has copied.
    """

    def __init__(self, folder: Path | None = None, *, limit_bytes: int | None = None) -> None:
        self.folder = folder or _default_folder()
        self.limit_bytes = _given_limit() if limit_bytes is None else limit_bytes
        self.fetched_bytes = 0

    def path_of(self, path: str, sha256: str) -> Path:
        """Where the copy of a store's file lies, if there is one."""
        return self.folder / f"{sha256}{Path(path).suffix}"

    def check_room(self, wanted_bytes: int, what: str) -> None:
        """Refuses what can never be here all at once, before hours are spent on copying it.

        Raises:
            RequestError: If the folder may not hold so much.
        """
        self._prepare()
        if wanted_bytes > (limit := self._limit()):
            raise RequestError(
                f"{what}: {wanted_bytes / 1e9:.2f} GB of shards are to be here at once; {self._told(limit)}"
            )

    def open(self, url: str, sha256: str) -> BinaryIO:
        """A right copy of a remote file; it stays while the stream, or a map of it, is open.

        Raises:
            DataError: If the remote file is missing, or its checksum is not this one.
            RequestError: If there is no room for it, or the folder cannot be used.
        """
        self._prepare()
        copy = self.path_of(url, sha256)
        while (stream := _open_checked(copy)) is None:
            with FileLock(_state_of(copy, "lock")):
                if (stream := _open_checked(copy)) is not None:
                    return stream
                with suppress(FileNotFoundError):  # nobody has it open, so others may remove it to make room
                    look = _look(copy.stat())
                    if _sha256(copy) == sha256:
                        _write_note(copy, look)
                        continue
                    print(f"{copy}: the copy of {storage.redact(url)} is damaged; fetching it again", file=sys.stderr)
                    copy.unlink()
                self._fetch(url, copy, sha256)
        return stream

    def _prepare(self) -> None:
        # Recordings of people: nobody else on this machine may read the copies.
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.folder / "state").mkdir(exist_ok=True)
        except OSError as error:
            raise RequestError(
                f"{self.folder}: no cache can be made there ({error.strerror}); set EMOD_CACHE"
            ) from None
        if self.folder.stat().st_uid != os.getuid():
            raise RequestError(f"{self.folder}: the cache folder is somebody else's; set EMOD_CACHE to one of your own")

    def _fetch(self, url: str, copy: Path, sha256: str) -> None:
        """Called with the copy's lock."""
        try:
            size = storage.size_bytes(url)
        except storage.NoSuchObjectError:
            what = "a shard of the manifest is missing; restore it or run jobs/ingest.py again"
            raise DataError(f"{storage.redact(url)}: {what}") from None
        with self._room(url, copy, size) as partial:
            storage.download(url, str(partial))
            self.fetched_bytes += size
            if (found := _sha256(partial)) != sha256:
                what = f"checksum {found[:16]} where the manifest says {sha256[:16]}; restore the shard"
                raise DataError(f"{storage.redact(url)}: {what}")
            partial.replace(copy)
            with suppress(FileNotFoundError):
                _write_note(copy, _look(copy.stat()))

    @contextmanager
    def _room(self, url: str, copy: Path, size: int) -> Iterator[Path]:
        """Makes room for a copy and keeps it by the name of the partial file, which it gives."""
        partial = Path(f"{copy}.{size}.partial")
        with FileLock(self.folder / "state" / "room.lock"):
            wanted = size + self._reserved(besides=copy)
            held = {path: _size(path) for path in self._files(".arrow", ".parquet")}
            limit = self._limit()
            for old in sorted(held, key=_last_used):
                if wanted + sum(held.values()) <= limit:
                    break
                if _remove_unused(old):
                    held.pop(old)
            if wanted + sum(held.values()) > limit:
                used = sum(held.values()) + wanted - size
                raise RequestError(
                    f"{storage.redact(url)}: {size / 1e9:.2f} GB more are wanted beside {used / 1e9:.2f} GB in use; "
                    f"{self._told(limit)}"
                )
            partial.touch()
        try:
            yield partial
        finally:
            partial.unlink(missing_ok=True)

    def _reserved(self, *, besides: Path) -> int:
        """Bytes that others are fetching; what a killed process left half-fetched is removed."""
        total = 0
        for partial in self._files(".partial"):
            name, size = partial.name.removesuffix(".partial").rsplit(".", 1)
            if name == besides.name:
                partial.unlink()  # whoever holds its lock has not begun yet
                continue
            try:
                with FileLock(_state_of(self.folder / name, "lock"), timeout=0):
                    partial.unlink(missing_ok=True)
            except Timeout:
                total += int(size)
        return total

    def _files(self, *suffixes: str) -> list[Path]:
        return [path for path in self.folder.iterdir() if path.suffix in suffixes]

    def _limit(self) -> int:
        """What the folder may hold in all."""
        if self.limit_bytes is not None:
            return self.limit_bytes
        disk = shutil.disk_usage(self.folder)
        held = sum(_size(path) for path in self._files(".arrow", ".parquet", ".partial"))
        return held + disk.free - int(_SPARE_SHARE * disk.total)

    def _told(self, limit: int) -> str:
        bound = "EMOD_CACHE_GB" if self.limit_bytes is not None else "what the disk has to spare"
        cure = (
            "raise it, or set EMOD_CACHE to a larger disk"
            if self.limit_bytes is not None
            else "set EMOD_CACHE to a larger one"
        )
        return f"{self.folder} may hold {limit / 1e9:.2f} GB ({bound}): {cure}"


def _default_folder() -> Path:
    if given := os.environ.get("EMOD_CACHE"):
        return Path(given)
    from platformdirs import user_cache_path

    return user_cache_path("emod", appauthor=False)


def _given_limit() -> int | None:
    given = os.environ.get("EMOD_CACHE_GB")
    if not given:
        return None
    try:
        limit = int(float(given) * 1e9)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise RequestError(f"EMOD_CACHE_GB = {given}: give the gigabytes that copies of shards may take, above 0")
    return limit


def _open_checked(copy: Path) -> BinaryIO | None:
    """The copy, locked against removal, if nothing has changed since its checksum was right; None if something has."""
    try:
        stream = copy.open("rb")
    except FileNotFoundError:
        return None
    # Maps of the stream share its lock; it ends with the last of them, however the process ends.
    fcntl.flock(stream, fcntl.LOCK_SH)
    note = _state_of(copy, "checked")
    with suppress(OSError, ValueError):
        look, checked_s = note.read_text(encoding="ascii").split()
        status = os.fstat(stream.fileno())
        if status.st_nlink and look == _look(status) and 0 <= time.time() - float(checked_s) < _CHECK_AGAIN_S:
            os.utime(note)
            return stream
    stream.close()
    return None


def _state_of(copy: Path, kind: str) -> Path:
    return copy.parent / "state" / f"{copy.name}.{kind}"


def _write_note(copy: Path, look: str) -> None:
    """Called with the copy's lock, once the checksum of what looked like this was found right."""
    fresh = _state_of(copy, "fresh")
    fresh.write_text(f"{look} {time.time()}", encoding="ascii")
    fresh.replace(_state_of(copy, "checked"))


def _look(status: os.stat_result) -> str:
    """Unlike its time of modification, a file's time of change cannot be set back by whoever writes to it."""
    return f"{status.st_ino}-{status.st_size}-{status.st_ctime_ns}"


def _last_used(copy: Path) -> float:
    try:
        return _state_of(copy, "checked").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _remove_unused(copy: Path) -> bool:
    """Removes a copy that no process has open."""
    try:
        with copy.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            copy.unlink(missing_ok=True)
            _state_of(copy, "checked").unlink(missing_ok=True)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
