"""Objects behind URLs, through fsspec: a path, s3://, gs://, az:// all read and write alike.

Credentials come from the environment or the platform's own chain; no function here takes or prints one.
Errors of a store become one line with the URL and the cure.
"""

from __future__ import annotations

import errno
import io
import os
import posixpath
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import IO, TYPE_CHECKING, Any, cast

import fsspec
from fsspec.core import url_to_fs

from emod.errors import DataError, RequestError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = [
    "NoSuchObjectError",
    "StoredObject",
    "UnreachableError",
    "create_bytes",
    "download",
    "exists",
    "honours_create",
    "is_local",
    "join",
    "list_files",
    "list_objects",
    "open_binary",
    "path_below",
    "read_bytes",
    "redact",
    "remove_folder",
    "size_bytes",
    "stamp",
    "upload",
    "write_bytes",
]


class NoSuchObjectError(RequestError):
    """What a URL names is not there, or not any more."""


class UnreachableError(RequestError):
    """The network or a server failed, which may pass: whoever can try again may."""


@dataclass(frozen=True)
class StoredObject:
    """What a listing says of one object.

    Attributes:
        size_bytes: Its size.
        stamp: As `stamp` gives it.
        changed_s: When it was written, in seconds of the store's own clock; None where the store does not say.
    """

    size_bytes: int
    stamp: str
    changed_s: float | None


_CREATE_ATTEMPTS = 5
_PIECE_BYTES = 8 * 2**20

# A password may hold / and @, so the last @ of the word ends it. Signed URLs keep their signature in the query.
_USER = re.compile(r"(?<=://)(?:[^\s/@]*:\S*|[^\s/@]+)@")
_QUERY = re.compile(r"(?<=://)(\S*?)\?\S+")


def redact(text: str) -> str:
    """The text with user names, passwords and queries of every URL in it replaced by ``***``."""
    return _QUERY.sub(r"\1?***", _USER.sub("***@", text))


def join(url: str, *parts: str) -> str:
    """URL of something below a folder's URL."""
    return posixpath.join(url.rstrip("/"), *parts) if parts else url.rstrip("/")


def is_local(url: str) -> bool:
    """Whether a URL names a file or folder of this machine."""
    return "://" not in url or url.startswith("file://")


def path_below(url: str, folder: str) -> str | None:
    """Path of what a URL names relative to a folder's URL: "" for the folder itself, None if it is not below it."""
    (fs, path), (other, top) = _filesystem(url), _filesystem(folder)
    if type(fs) is not type(other):
        return None
    pairs = [(path, top)]
    if is_local(url):
        pairs.append((os.path.realpath(path), os.path.realpath(top)))  # one folder may have several names
    for inner, outer in pairs:
        if f"{inner.rstrip('/')}/".startswith(f"{outer.rstrip('/')}/"):
            return inner.removeprefix(outer).strip("/")
    return None


def list_files(url: str, *, recursive: bool = True) -> dict[str, int]:
    """Every file below a folder, or in it, as path relative to it -> size in bytes, sorted by path.

    Raises:
        NoSuchObjectError: If the folder does not exist.
        RequestError: If the store cannot be reached.
    """
    return {path: int(info["size"] or 0) for path, info in _find(url, recursive=recursive).items()}


def list_objects(url: str) -> dict[str, StoredObject]:
    """As `list_files`, with what tells one state of an object from another. One listing, however many there are."""
    found = {}
    for path, info in _find(url).items():
        if info.get("islink"):  # a listing describes the link, a stamp what it leads to
            try:
                status = os.stat(info["name"])
                info = info | {"size": status.st_size, "mtime": status.st_mtime}
            except OSError:
                pass  # it leads nowhere; the link itself is all there is to say
        found[path] = StoredObject(int(info["size"] or 0), _stamp_of(info), _changed_s(info))
    return found


def _find(url: str, *, recursive: bool = True) -> dict[str, dict[str, Any]]:
    fs, root = _filesystem(url)
    with _worded(url, "list"):
        fs.invalidate_cache()
        found: dict[str, dict[str, Any]] = fs.find(root, detail=True, maxdepth=None if recursive else 1)
        if not found and not fs.isdir(root):
            raise NoSuchObjectError(f"{redact(url)}: no such folder; check the URL")
    prefix = root.rstrip("/") + "/"
    return {path.removeprefix(prefix): info for path, info in sorted(found.items())}


def exists(url: str) -> bool:
    """Whether an object or folder is there.

    Raises:
        RequestError: If the store cannot be reached or refuses.
    """
    fs, path = _filesystem(url)
    with _worded(url, "look up"):
        fs.invalidate_cache()
        return bool(fs.exists(path))


def stamp(url: str) -> str:
    """A short text that changes when an object does: its size with the store's ETag, or with its time of change."""
    fs, path = _filesystem(url)
    with _worded(url, "look up"):
        return _stamp_of(fs.info(path))


def _stamp_of(info: dict[str, Any]) -> str:
    return f"{info['size']}-{info.get('ETag') or _changed_s(info)}"


def _changed_s(info: dict[str, Any]) -> float | None:
    times = (info.get(name) for name in ("LastModified", "mtime", "modified", "created"))
    when = next((time for time in times if time is not None), None)
    return when.timestamp() if isinstance(when, datetime) else when


def size_bytes(url: str) -> int:
    """Size of an object."""
    fs, path = _filesystem(url)
    with _worded(url, "look up"):
        return int(fs.size(path))


@contextmanager
def open_binary(url: str) -> Iterator[IO[bytes]]:
    """A seekable binary file for reading; on object stores ranges are fetched as they are read.

    Errors of the store are worded when it is opened and at every read: it may vanish, or the network fail, in between.
    """
    fs, path = _filesystem(url)
    with _worded(url, "read"):
        stream: IO[bytes] = fs.open(path, "rb")
    with io.BufferedReader(_WordedStream(url, stream), buffer_size=2**16) as buffered:
        yield cast(IO[bytes], buffered)


class _WordedStream(io.RawIOBase):
    """A stream whose failures name its URL and the cure."""

    def __init__(self, url: str, stream: IO[bytes]) -> None:
        self._url = url
        self._stream = stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        with _worded(self._url, "read"):
            # In pieces: a remote filesystem fills a buffer from a copy of its own.
            return int(cast(io.BufferedReader, self._stream).readinto(memoryview(buffer)[:_PIECE_BYTES]))

    def readall(self) -> bytes:
        with _worded(self._url, "read"):
            return self._stream.read()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _worded(self._url, "read"):
            return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def fileno(self) -> int:
        return self._stream.fileno()

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def read_bytes(url: str, *, at_most: int) -> bytes:
    """Contents of a small object.

    Raises:
        DataError: If the object is larger than ``at_most`` bytes, so that nobody's typo fills the memory.
    """
    if (size := size_bytes(url)) > at_most:
        raise DataError(f"{redact(url)}: {size} bytes where at most {at_most} are expected; check the object")
    with open_binary(url) as stream:
        data = stream.read(at_most + 1)  # a device claims 0 bytes and never ends
    if len(data) > at_most:
        raise DataError(f"{redact(url)}: more than the {at_most} bytes that are expected; check the object")
    return data


def write_bytes(url: str, data: bytes) -> None:
    """Writes an object whole: on a local disk under another name first, so no reader sees half of it."""
    fs, path = _filesystem(url)
    with _worded(url, "write"):
        if is_local(url):
            with _growing(path) as partial:
                _write_through(partial, data)
                os.replace(partial, path)
        else:
            fs.pipe_file(path, data)


def upload(path: str, url: str) -> None:
    """Copies a local file to a URL, whole: a reader sees all of it or nothing."""
    fs, target = _filesystem(url)
    with _worded(url, "write"):
        if is_local(url):
            with _growing(target) as partial:
                shutil.copyfile(path, partial)
                _write_through(partial)
                os.replace(partial, target)
        else:
            fs.put_file(path, target)


def create_bytes(url: str, data: bytes) -> bool:
    """Writes an object whole if none of that name is there; False if there is one, which stays as it is.

    Of several who create one name at the same time exactly one is told True, on stores for which `honours_create`
    says so; elsewhere the last one's object may replace the others'.
    """
    fs, path = _filesystem(url)
    if is_local(url):
        with _worded(url, "write"), _growing(path) as partial:
            _write_through(partial, data)
            try:
                os.link(partial, path)  # unlike a rename it replaces nothing
            except FileExistsError:
                return False
            return True
    for attempt in range(_CREATE_ATTEMPTS):
        with _worded(url, "write"):
            try:
                fs.pipe_file(path, data, mode="create")
                return True
            except OSError as error:
                status = _http_status(error)
                if isinstance(error, FileExistsError) or status == HTTPStatus.PRECONDITION_FAILED:
                    return False
                # S3's answer while somebody else is writing the name.
                if status != HTTPStatus.CONFLICT or attempt == _CREATE_ATTEMPTS - 1:
                    raise
        time.sleep(0.1 * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def _http_status(error: OSError) -> int | None:
    """Status of the answer that s3fs made an error of."""
    response = getattr(error.__cause__, "response", None) or {}
    status: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


def honours_create(folder_url: str) -> bool:
    """Whether the store below a folder keeps what is there when the same name is created again; it is tried.

    S3 offers this by a condition (If-None-Match), which some servers ignore without a word. A store that is not known
    to decide it in one step counts as one that does not, whatever it answers here.

    Raises:
        RequestError: If the store cannot be reached or written to.
    """
    fs, _ = _filesystem(folder_url)
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    if not protocols & {"file", "local", "memory", "s3", "gs"}:
        return False
    url = join(folder_url, f"probe-{uuid.uuid4().hex}")
    write_bytes(join(url, "reachable"), b"")  # what fails here fails for everything
    try:
        first, second = (create_bytes(join(url, "created"), data) for data in (b"first", b"second"))
        return first and not second and read_bytes(join(url, "created"), at_most=16) == b"first"
    except (RequestError, DataError):
        return False  # such as a disk without hard links
    finally:
        remove_folder(url)


def download(url: str, path: str) -> None:
    """Copies an object to a local file."""
    fs, source = _filesystem(url)
    with _worded(url, "read"):
        fs.get_file(source, path)


def remove_folder(url: str) -> None:
    """Removes a folder and what it holds; one that is not there is no error."""
    fs, path = _filesystem(url)
    with _worded(url, "remove"), suppress(FileNotFoundError):  # somebody else may be removing it, too
        if fs.exists(path):
            fs.rm(path, recursive=True)


@contextmanager
def _growing(path: str) -> Iterator[str]:
    """Where a local file grows until it is whole; a name of its own for each writer, as two may write the same file."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = f"{path}.{uuid.uuid4().hex[:8]}.partial"
    try:
        yield partial
    finally:
        with suppress(FileNotFoundError):
            os.unlink(partial)


def _write_through(path: str, data: bytes | None = None) -> None:
    """Writes the data, if any, and waits until the disk has the file: a name that is there must hold it all."""
    with open(path, "ab" if data is None else "wb") as stream:
        if data is not None:
            stream.write(data)
            stream.flush()
        os.fsync(stream.fileno())


def _filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    # Some S3 servers answer a request for a range with the checksum of the whole object, and botocore then refuses it.
    # What must be right has a checksum of its own, in the manifest.
    os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    try:
        with _worded(url, "connect to"):  # some filesystems connect when they are made
            fs, path = url_to_fs(url)
    except RequestError:
        raise
    except (ValueError, ImportError) as error:
        raise RequestError(
            f"{redact(url)}: {str(error).splitlines()[0]}; use a path or a URL that fsspec reads"
        ) from None
    return fs, path


@contextmanager
def _worded(url: str, verb: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise NoSuchObjectError(f"{redact(url)}: no such object; check the URL") from None
    except PermissionError as error:
        raise RequestError(
            f"{redact(url)}: the store refuses to {verb} it ({_first_line(error)}); check credentials and rights"
        ) from None
    except (OSError, ConnectionError, TimeoutError) as error:
        if error.errno == errno.ELOOP:
            raise NoSuchObjectError(f"{redact(url)}: a link that leads to itself; check the object") from None
        kind = RequestError if is_local(url) else UnreachableError
        raise kind(
            f"{redact(url)}: cannot {verb} it ({_first_line(error)}); check the address and the network"
        ) from None
    except Exception as error:
        # botocore and its like raise their own trees (EndpointConnectionError, NoCredentialsError, ClientError).
        if type(error).__module__.partition(".")[0] not in {"botocore", "aiobotocore", "aiohttp", "gcsfs", "azure"}:
            raise
        # What botocore and aiohttp call their connection's faults; a missing credential is none.
        passing = {base.__name__ for base in type(error).__mro__} & {"HTTPClientError", "ClientConnectionError"}
        kind = UnreachableError if passing else RequestError
        raise kind(
            f"{redact(url)}: cannot {verb} it ({_first_line(error)}); check address, credentials and network"
        ) from None


def _first_line(error: BaseException) -> str:
    return redact((str(error).splitlines() or [type(error).__name__])[0])
