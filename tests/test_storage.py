"""Objects behind URLs: whole or not there, and errors in one line without anybody's password."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs
from fsspec.implementations.local import LocalFileSystem

from emod import storage
from emod.errors import DataError, RequestError
from emod.storage import UnreachableError

pytest_plugins = ["tests.shards.honouring_s3"]


@pytest.fixture(params=["path", "file", "memory", "s3"])
def top(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder's URL on each kind of store."""
    if request.param == "path":
        yield str(tmp_path)
    elif request.param == "file":
        yield f"file://{tmp_path}"
    elif request.param == "memory":
        yield f"memory://{tmp_path.name}"
        storage.remove_folder(f"memory://{tmp_path.name}")
    else:
        yield request.getfixturevalue("s3_server").url("storage", tmp_path.name)


def test_objects_come_and_go_alike_everywhere(top: str, tmp_path: Path) -> None:
    url = storage.join(top, "a", "b.bin")
    assert not storage.exists(url)
    storage.write_bytes(url, b"hello")
    assert storage.exists(url)
    assert storage.exists(storage.join(top, "a"))
    assert (storage.read_bytes(url, at_most=5), storage.size_bytes(url)) == (b"hello", 5)
    first = storage.stamp(url)
    assert storage.stamp(url) == first
    storage.write_bytes(url, b"HELLO, again")
    assert storage.stamp(url) != first
    assert storage.read_bytes(url, at_most=100) == b"HELLO, again"
    with storage.open_binary(url) as stream:
        stream.seek(7)
        assert (stream.read(3), stream.tell()) == (b"aga", 10)

    local, fetched = tmp_path / "to-upload", tmp_path / "fetched"
    local.write_bytes(b"x" * 1000)
    storage.upload(str(local), storage.join(top, "a", "c", "d.bin"))
    storage.download(storage.join(top, "a", "c", "d.bin"), str(fetched))
    assert fetched.read_bytes() == local.read_bytes()
    assert storage.list_files(storage.join(top, "a")) == {"b.bin": 12, "c/d.bin": 1000}
    assert list(storage.list_files(f"{top}/a/")) == ["b.bin", "c/d.bin"]

    storage.remove_folder(storage.join(top, "a", "c"))
    storage.remove_folder(storage.join(top, "a", "never-there"))
    assert storage.list_files(storage.join(top, "a")) == {"b.bin": 12}


@pytest.mark.parametrize(
    "ask",
    [
        storage.list_files,
        storage.size_bytes,
        storage.stamp,
        lambda url: storage.read_bytes(url, at_most=10),
        lambda url: storage.download(url, os.devnull),
        lambda url: storage.open_binary(url).__enter__(),
    ],
)
def test_what_is_not_there_is_a_wrong_request(top: str, ask: Callable[[str], Any]) -> None:
    url = storage.join(top, "nowhere")
    with pytest.raises(RequestError, match=r"nowhere: no such \w+; check the URL") as caught:
        ask(url)
    assert "\n" not in str(caught.value)


def test_large_object_is_not_read(top: str) -> None:
    url = storage.join(top, "big.bin")
    storage.write_bytes(url, b"x" * 11)
    with pytest.raises(DataError, match="11 bytes where at most 10"):
        storage.read_bytes(url, at_most=10)


def test_join_has_one_slash_between_parts() -> None:
    assert storage.join("s3://b/x/", "y", "z.bin") == "s3://b/x/y/z.bin"
    assert storage.join("s3://b/x//") == "s3://b/x"
    assert [storage.is_local(url) for url in ("/a/b", "a", "file:///a", "s3://a/b", "memory://a")] == [1, 1, 1, 0, 0]


@pytest.mark.parametrize("write", ["bytes", "upload", "create"])
def test_failed_write_leaves_the_old_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str) -> None:
    """The disk fills half-way: readers see what was there before, whole, and nothing else is left."""
    path, source = tmp_path / "store" / "x.bin", tmp_path / "source"
    source.write_bytes(b"new" * 100)
    if write != "create":
        storage.write_bytes(str(path), b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    writers = {
        "bytes": lambda: storage.write_bytes(str(path), b"new"),
        "upload": lambda: storage.upload(str(source), str(path)),
        "create": lambda: storage.create_bytes(str(path), b"new"),
    }
    with pytest.raises(RequestError, match=r"cannot write it .*No space left"):
        writers[write]()
    assert [one.read_bytes() for one in path.parent.iterdir()] == ([] if write == "create" else [b"old"])


def test_two_writers_of_one_object_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ingest run again while a worker of the killed one is still writing the same part."""
    url, move, moved = str(tmp_path / "part.arrow"), os.replace, []

    def interrupted(source: str, target: str) -> None:
        if not moved:
            moved.append(source)
            storage.write_bytes(url, b"the same part")
        move(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    storage.write_bytes(url, b"the same part")
    assert os.listdir(tmp_path) == ["part.arrow"]
    assert Path(url).read_bytes() == b"the same part"


def test_a_name_is_given_once(tmp_path: Path, honouring_s3: str) -> None:
    for top in (str(tmp_path), f"file://{tmp_path}/other", f"memory://{tmp_path.name}", f"{honouring_s3}/once"):
        assert storage.honours_create(top), top
        assert not storage.exists(top) or not storage.list_files(top), "the probe leaves nothing behind"
        url = storage.join(top, "a", "version")
        assert storage.create_bytes(url, b"first")
        assert not storage.create_bytes(url, b"second")
        assert storage.read_bytes(url, at_most=10) == b"first"
        assert list(storage.list_files(top)) == ["a/version"]
    storage.remove_folder(f"memory://{tmp_path.name}")


@pytest.mark.parametrize("kind", ["path", "s3"])
def test_of_many_who_create_one_name_one_does(kind: str, tmp_path: Path, honouring_s3: str) -> None:
    top = str(tmp_path) if kind == "path" else f"{honouring_s3}/many"
    for number in range(5):
        url = storage.join(top, str(number))
        with ThreadPoolExecutor(12) as pool:
            told = list(pool.map(lambda who, url=url: storage.create_bytes(url, str(who).encode()), range(12)))
        assert sum(told) == 1
        assert storage.read_bytes(url, at_most=10) == str(told.index(True)).encode()


def test_a_server_that_overwrites_is_found_out(s3_server: Any) -> None:
    """rclone takes the condition and ignores it."""
    top = s3_server.url("storage", "overwrites")
    assert not storage.honours_create(top)
    assert not storage.exists(top)


def test_a_disk_without_links_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert not storage.honours_create(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_a_store_nobody_vouches_for_is_not_trusted(tmp_path: Path) -> None:
    """fsspec's own way to create is to look and then to write: two at once would both do it."""
    assert not storage.honours_create(f"dir::file://{tmp_path}")


def test_a_store_that_cannot_be_written_says_so_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RequestError, match="cannot write it"):
        storage.honours_create(str(tmp_path / "file" / "store"))


@pytest.mark.parametrize(
    ("statuses", "answer"), [((412,), False), ((409, 409, 412), False), ((409, None), True), ((500,), None)]
)
def test_answers_of_conditional_writes(
    monkeypatch: pytest.MonkeyPatch, statuses: tuple[int | None, ...], answer: bool | None
) -> None:
    """Servers other than AWS leave out which condition failed; AWS says 409 while another write is under way."""
    left = list(statuses)

    class Server:
        def pipe_file(self, path: str, data: bytes, mode: str) -> None:
            assert mode == "create"
            if (status := left.pop(0)) is not None:
                cause = Exception()
                cause.response = {"ResponseMetadata": {"HTTPStatusCode": status}}  # type: ignore[attr-defined]
                raise OSError(22, "said the server") from cause

    monkeypatch.setattr(storage, "_filesystem", lambda url: (Server(), "bucket/x"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    if answer is None:
        with pytest.raises(RequestError, match="cannot write it"):
            storage.create_bytes("s3://bucket/x", b"")
    else:
        assert storage.create_bytes("s3://bucket/x", b"") is answer
    assert not left


def test_an_object_that_vanishes_while_it_is_read(honouring_s3: str) -> None:
    """Small reads, large ones, and all that is left."""
    url = f"{honouring_s3}/vanishing"
    for read in (lambda stream: stream.read(10), lambda stream: stream.read(2**24), lambda stream: stream.read()):
        storage.write_bytes(url, bytes(2**25))
        with storage.open_binary(url) as stream:
            storage.remove_folder(url)
            with pytest.raises(storage.NoSuchObjectError, match="vanishing: no such object"):
                read(stream)


def test_a_network_that_fails_while_an_object_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * 100)

    class Failing(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            raise ConnectionResetError(104, "reset by peer at s3://me:hush@host")

    monkeypatch.setattr(LocalFileSystem, "open", lambda self, path, mode: Failing())
    with storage.open_binary(str(path)) as stream, pytest.raises(RequestError, match="cannot read it") as caught:
        stream.read(10)
    assert "hush" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_reading_in_any_steps_gives_the_same_bytes(top: str) -> None:
    """In steps around the buffer's and the pieces' sizes, and by seeking, as HDF5 and MATLAB readers do."""
    content = os.urandom(9 * 2**20 + 77)
    url = storage.join(top, "large")
    storage.write_bytes(url, content)
    for step in (2**16 - 1, 2**20, 9 * 2**20, len(content) + 5):
        with storage.open_binary(url) as stream:
            assert b"".join(iter(lambda stream=stream, step=step: stream.read(step), b"")) == content
    with storage.open_binary(url) as stream:
        assert stream.seek(-10, os.SEEK_END) == len(content) - 10
        assert stream.read() == content[-10:]
        stream.seek(5)
        assert (stream.read(3), stream.tell()) == (content[5:8], 8)
        target = bytearray(9 * 2**20)
        stream.seek(0)
        assert stream.readinto(target) == len(target)
        assert target == content[: len(target)]


def test_one_listing_gives_every_stamp(top: str) -> None:
    for name in ("a/x", "a/b/y", "z"):
        storage.write_bytes(storage.join(top, name), name.encode())
    found = storage.list_objects(top)
    assert {path: one.size_bytes for path, one in found.items()} == {"a/b/y": 5, "a/x": 3, "z": 1}
    assert {path: one.stamp for path, one in found.items()} == {p: storage.stamp(storage.join(top, p)) for p in found}
    assert all(one.changed_s is not None and abs(one.changed_s - time.time()) < 3600 for one in found.values())
    assert list(storage.list_files(top, recursive=False)) == ["z"]


def test_links_are_what_they_lead_to(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "data" / "link"
    target.write_bytes(b"1")
    link.parent.mkdir()
    link.symlink_to(target)
    (link.parent / "loop").symlink_to("loop")
    first = storage.list_objects(str(link.parent))["link"]
    assert first.stamp == storage.stamp(str(link))
    os.utime(target, ns=(0, 0))
    assert storage.list_objects(str(link.parent))["link"].stamp != first.stamp
    target.unlink()
    gone = storage.list_objects(str(link.parent))
    assert gone.keys() == {"link", "loop"}  # listed, so that somebody can say what is wrong with them
    assert gone["link"].stamp != first.stamp
    for name in ("link", "loop"):
        with pytest.raises(storage.NoSuchObjectError, match=name):
            storage.stamp(str(link.parent / name))


def test_what_lies_below_what(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "other-name").symlink_to(root)
    assert storage.path_below(str(root / "a" / "b"), str(root)) == "a/b"
    assert storage.path_below(f"{root}/", str(root)) == ""
    assert storage.path_below(f"file://{root}/store", f"{tmp_path}/other-name/") == "store"
    assert storage.path_below(f"{root}-old/x", str(root)) is None
    assert storage.path_below("memory://a/b/c", "memory://a") == "b/c"
    assert storage.path_below("memory:/" + str(root / "a"), str(root)) is None


@pytest.mark.parametrize("url", ["s4://bucket/x", "gopher://a/b"])
def test_unknown_kind_of_store_is_one_line(url: str) -> None:
    with pytest.raises(RequestError, match="use a path or a URL that fsspec reads") as caught:
        storage.exists(url)
    assert "\n" not in str(caught.value)
    assert url in str(caught.value)


def test_wrong_key_is_refused_in_one_line(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret-than-the-servers")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        for ask in (storage.list_files, storage.size_bytes):
            with pytest.raises(RequestError, match="check credentials") as caught:
                ask(s3_server.url("storage"))
            assert "\n" not in str(caught.value)
            assert "another-secret" not in str(caught.value)
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("s3://bucket/key", "s3://bucket/key"),
        ("ftp://me:secret@host/x y", "ftp://***@host/x y"),
        ("see https://u:p/w@d@host/a?sig=abc&x=1 and /local?x", "see https://***@host/a?*** and /local?x"),
        ("s3://b/a@2x.png", "s3://b/a@2x.png"),
        ("no such file: 12:30 a@b", "no such file: 12:30 a@b"),
    ],
)
def test_passwords_and_signatures_are_cut_out(text: str, clean: str) -> None:
    assert storage.redact(text) == clean


@pytest.mark.parametrize(
    "error", [FileNotFoundError("x"), PermissionError("no"), OSError(5, "I/O"), ConnectionError("down"), TimeoutError()]
)
def test_no_error_tells_a_password(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Neither our words nor the first line of the store's own."""
    error.args = (*error.args[:-1], f"{error.args[-1] if error.args else ''} at memory://me:hush@host/x?sig=hush\nmore")

    def fail(self: Any, *args: Any, **options: Any) -> None:
        raise error

    memory = type(fsspec.filesystem("memory"))
    for name in ("info", "find", "exists", "size", "_open", "get_file", "pipe_file", "put_file", "rm"):
        monkeypatch.setattr(memory, name, fail)
    url = "memory://me:hush@host/x?sig=hush"
    asks = [storage.exists, storage.list_files, storage.list_objects, storage.stamp, storage.size_bytes]
    if not isinstance(error, FileNotFoundError):  # what is not there is removed
        asks.append(storage.remove_folder)
    for ask in asks:
        with pytest.raises(RequestError) as caught:
            ask(url)
        assert "hush" not in str(caught.value)
        assert "\n" not in str(caught.value)
        # What may pass is told from what will not.
        assert isinstance(caught.value, UnreachableError) == (type(error) in {OSError, ConnectionError, TimeoutError})
    with pytest.raises(RequestError) as caught:
        storage.write_bytes(url, b"")
    assert "hush" not in str(caught.value)


def test_an_object_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(DataError, match="more than the 1000 bytes"):
        storage.read_bytes("/dev/zero", at_most=1000)
