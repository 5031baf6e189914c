"""Objects behind URLs, through fsspec: a path, s3://, gs://, az:// all read and write alike.

Credentials come from the environment or the platform's own chain; no function here takes or prints one.
Errors of a store become one line with the URL and the cure.
"""

from __future__ import annotations

import os
import posixpath
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import fsspec
from fsspec.core import url_to_fs

from emod.errors import DataError, RequestError

__all__ = [
    "download",
    "exists",
    "is_local",
    "join",
    "list_files",
    "open_binary",
    "read_bytes",
    "redact",
    "remove_folder",
    "size_bytes",
    "stamp",
    "upload",
    "write_bytes",
]


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


def list_files(url: str) -> dict[str, int]:
    """Every file below a folder, as path relative to it -> size in bytes, sorted by path.

    Raises:
        RequestError: If the folder does not exist or the store cannot be reached.
    """
    fs, root = _filesystem(url)
    with _worded(url, "list"):
        fs.invalidate_cache()
        found: dict[str, dict[str, Any]] = fs.find(root, detail=True)
        if not found and not fs.isdir(root):
            raise RequestError(f"{redact(url)}: no such folder; check the URL")
    prefix = root.rstrip("/") + "/"
    return {path.removeprefix(prefix): int(info["size"] or 0) for path, info in sorted(found.items())}


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
        info = fs.info(path)
    return f"{info['size']}-{info.get('ETag') or info.get('mtime') or info.get('LastModified') or info.get('created')}"


def size_bytes(url: str) -> int:
    """Size of an object."""
    fs, path = _filesystem(url)
    with _worded(url, "look up"):
        return int(fs.size(path))


@contextmanager
def open_binary(url: str) -> Iterator[IO[bytes]]:
    """A seekable binary file for reading; on object stores ranges are fetched as they are read."""
    fs, path = _filesystem(url)
    with _worded(url, "read"):
        stream: IO[bytes] = fs.open(path, "rb")
    with stream:
        yield stream


def read_bytes(url: str, *, at_most: int) -> bytes:
    """Contents of a small object.

    Raises:
        DataError: If the object is larger than ``at_most`` bytes, so that nobody's typo fills the memory.
    """
    if (size := size_bytes(url)) > at_most:
        raise DataError(f"{redact(url)}: {size} bytes where at most {at_most} are expected; check the object")
    with open_binary(url) as stream:
        return stream.read()


def write_bytes(url: str, data: bytes) -> None:
    """Writes an object whole: on a local disk under another name first, so no reader sees half of it."""
    fs, path = _filesystem(url)
    with _worded(url, "write"):
        if is_local(url):
            fs.makedirs(posixpath.dirname(path), exist_ok=True)
            partial = _partial(path)
            fs.pipe_file(partial, data)
            fs.mv(partial, path)
        else:
            fs.pipe_file(path, data)


def upload(path: str, url: str) -> None:
    """Copies a local file to a URL, whole: a reader sees all of it or nothing."""
    fs, target = _filesystem(url)
    with _worded(url, "write"):
        if is_local(url):
            fs.makedirs(posixpath.dirname(target), exist_ok=True)
            partial = _partial(target)
            fs.put_file(path, partial)
            fs.mv(partial, target)
        else:
            fs.put_file(path, target)


def download(url: str, path: str) -> None:
    """Copies an object to a local file."""
    fs, source = _filesystem(url)
    with _worded(url, "read"):
        fs.get_file(source, path)


def remove_folder(url: str) -> None:
    """Removes a folder and what it holds; one that is not there is no error."""
    fs, path = _filesystem(url)
    with _worded(url, "remove"):
        if fs.exists(path):
            fs.rm(path, recursive=True)


def _partial(path: str) -> str:
    """Where a file grows until it is whole; a name of its own for each writer, as two may write the same file."""
    return f"{path}.{uuid.uuid4().hex[:8]}.partial"


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
        raise RequestError(f"{redact(url)}: no such object; check the URL") from None
    except PermissionError as error:
        raise RequestError(
            f"{redact(url)}: the store refuses to {verb} it ({_first_line(error)}); check credentials and rights"
        ) from None
    except (OSError, ConnectionError, TimeoutError) as error:
        raise RequestError(
            f"{redact(url)}: cannot {verb} it ({_first_line(error)}); check the address and the network"
        ) from None
    except Exception as error:
        # botocore and its like raise their own trees (EndpointConnectionError, NoCredentialsError, ClientError).
        if type(error).__module__.partition(".")[0] not in {"botocore", "aiobotocore", "aiohttp", "gcsfs", "azure"}:
            raise
        raise RequestError(
            f"{redact(url)}: cannot {verb} it ({_first_line(error)}); check address, credentials and network"
        ) from None


def _first_line(error: BaseException) -> str:
    return redact((str(error).splitlines() or [type(error).__name__])[0])
