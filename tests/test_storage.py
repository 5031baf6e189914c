"""Objects behind URLs: whole or not there, and errors in one line without anybody's password."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs
from fsspec.implementations.local import LocalFileSystem

from emod import storage
from emod.errors import DataError, RequestError


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


@pytest.mark.parametrize("write", ["bytes", "upload"])
def test_failed_write_leaves_the_old_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str) -> None:
    """The disk fills half-way: readers see what was there before, whole."""
    path, source = tmp_path / "store" / "x.bin", tmp_path / "source"
    source.write_bytes(b"new" * 100)
    storage.write_bytes(str(path), b"old")

    def half(self: Any, first: str, second: Any, *args: Any, **options: Any) -> None:
        target = first if write == "bytes" else second
        Path(target).write_bytes(b"new")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalFileSystem, "pipe_file" if write == "bytes" else "put_file", half)
    with pytest.raises(RequestError, match=r"cannot write it .*No space left"):
        storage.write_bytes(str(path), b"new") if write == "bytes" else storage.upload(str(source), str(path))
    assert path.read_bytes() == b"old"


def test_two_writers_of_one_object_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ingest run again while a worker of the killed one is still writing the same part."""
    url, move, moved = str(tmp_path / "part.arrow"), LocalFileSystem.mv, []

    def interrupted(self: Any, source: str, target: str, **options: Any) -> None:
        if not moved:
            moved.append(source)
            storage.write_bytes(url, b"the same part")
        move(self, source, target, **options)

    monkeypatch.setattr(LocalFileSystem, "mv", interrupted)
    storage.write_bytes(url, b"the same part")
    assert os.listdir(tmp_path) == ["part.arrow"]
    assert Path(url).read_bytes() == b"the same part"


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
    for ask in (storage.exists, storage.list_files, storage.stamp, storage.size_bytes, storage.remove_folder):
        with pytest.raises(RequestError) as caught:
            ask(url)
        assert "hush" not in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(RequestError) as caught:
        storage.write_bytes(url, b"")
    assert "hush" not in str(caught.value)
