"""Copies of remote shards: fetched once, right when used, within their bound, whoever else is at work or was killed."""

from __future__ import annotations

import math
import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem

from emod.errors import DataError, RequestError
from emod.shards import ShardStore
from emod.shards.cache import ShardCache
from tests.shards.test_store import copies_in, memory_url, write_store

__all__ = ["memory_url"]

KB = 1000


class Counted(LocalFileSystem):
    """Files of this disk under another protocol, so that they count as remote; each download leaves a line."""

    protocol = "counted"

    def get_file(self, rpath: str, lpath: str, **kind: Any) -> None:  # type: ignore[override]
        with open(f"{os.path.dirname(rpath)}/downloads.log", "a") as log:
            log.write(f"{os.path.basename(rpath)}\n")
        time.sleep(float(os.environ.get("EMOD_TEST_DOWNLOAD_S", "0")))
        super().get_file(rpath, lpath, **kind)


fsspec.register_implementation("counted", Counted, clobber=True)


class Remote:
    """A folder of files that count as remote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def put(self, name: str, size: int) -> tuple[str, str]:
        """URL and checksum of a new file."""
        data = np.random.default_rng(len(name) + size).bytes(size) + name.encode()
        (self.folder / name).write_bytes(data[-size:])
        return f"counted://{self.folder}/{name}", sha256(data[-size:]).hexdigest()

    @property
    def downloads(self) -> list[str]:
        log = self.folder / "downloads.log"
        return log.read_text().split() if log.exists() else []


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(tmp_path / "remote")


def use(cache: ShardCache, file: tuple[str, str]) -> None:
    with cache.open(*file) as stream:
        assert sha256(stream.read()).hexdigest() == file[1]


def use_elsewhere(folder: str, file: tuple[str, str]) -> None:
    """In a process of its own."""
    use(ShardCache(Path(folder)), file)


def test_several_processes_and_threads_fetch_once(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOD_TEST_DOWNLOAD_S", "0.5")
    files = [remote.put(f"{n}.arrow", 50 * KB + n) for n in range(3)]
    cache = tmp_path / "cache"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=use_elsewhere, args=(str(cache), file)) for file in [files[0]] * 3]
    for worker in workers:
        worker.start()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: use(ShardCache(cache), files[n % 3]), range(24)))
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert sorted(remote.downloads) == ["0.arrow", "1.arrow", "2.arrow"]
    assert len(copies_in(cache)) == 3


DOWNLOAD = """
import sys
from pathlib import Path
import tests.shards.test_cache as t
t.use(t.ShardCache(Path(sys.argv[1]), limit_bytes=100_000), (sys.argv[2], sys.argv[3]))
"""


def test_a_killed_download_leaves_neither_a_lock_nor_its_room_taken(remote: Remote, tmp_path: Path) -> None:
    first, second = remote.put("a.arrow", 60 * KB), remote.put("b.arrow", 60 * KB)
    cache = tmp_path / "cache"
    child = subprocess.Popen(
        [sys.executable, "-c", DOWNLOAD, str(cache), *first],
        env={**os.environ, "EMOD_TEST_DOWNLOAD_S": "600", "PYTHONPATH": os.pathsep.join(("platform", "."))},
        cwd=Path(__file__).parents[2],
    )
    try:
        while not list(cache.glob("*.partial")) or not remote.downloads:
            assert child.poll() is None
            time.sleep(0.02)
        # While it is alive its 60 kB are spoken for.
        with pytest.raises(RequestError, match=r"more are wanted beside"):
            use(ShardCache(cache, limit_bytes=100 * KB), second)
    finally:
        child.kill()
        child.wait()
    use(ShardCache(cache, limit_bytes=100 * KB), second)
    assert copies_in(cache) == {f"{second[1]}.arrow"}
    use(ShardCache(cache), first)
    assert copies_in(cache) == {f"{second[1]}.arrow", f"{first[1]}.arrow"}


def test_what_was_used_longest_ago_goes_first(remote: Remote, tmp_path: Path) -> None:
    a, b, c, d = (remote.put(f"{name}.arrow", 40 * KB) for name in "abcd")
    cache = ShardCache(tmp_path / "cache", limit_bytes=130 * KB)
    for file in (a, b, c, a):
        use(cache, file)
        time.sleep(0.02)  # file systems count time in ticks
    use(cache, d)
    assert copies_in(cache.folder) == {f"{file[1]}.arrow" for file in (a, c, d)}
    use(cache, a)
    assert remote.downloads == ["a.arrow", "b.arrow", "c.arrow", "d.arrow"]


def test_copies_in_use_stay(remote: Remote, tmp_path: Path) -> None:
    """For as long as a stream or a map of it is open, in whatever process."""
    a, b = remote.put("a.arrow", 60 * KB), remote.put("b.arrow", 60 * KB)
    cache = ShardCache(tmp_path / "cache", limit_bytes=100 * KB)
    stream = cache.open(*a)
    with pytest.raises(RequestError) as caught:
        cache.open(*b)
    message = str(caught.value)
    assert all(part in message for part in ("b.arrow", "in use", "EMOD_CACHE_GB", str(cache.folder)))
    assert "\n" not in message
    assert copies_in(cache.folder) == {f"{a[1]}.arrow"}
    stream.close()
    use(cache, b)
    assert copies_in(cache.folder) == {f"{b[1]}.arrow"}


def test_maps_of_a_store_hold_its_copies(memory_url: str, tmp_path: Path) -> None:
    written = write_store(memory_url, parts=((300,), (300,)))
    other = write_store(f"{memory_url}/other", parts=((300,), (300,)), corpus="dasps")
    cache = tmp_path / "cache"
    store, rival = (ShardStore.open(url, cache=str(cache)) for url in (written.url, other.url))
    shards = written.manifest.corpora["deap"].shards
    for opened in (store, rival):
        opened._cache.limit_bytes = int(1.5 * sum(shard.tensors_bytes for shard in shards))
    store.windows("deap", [0])
    with pytest.raises(RequestError, match="EMOD_CACHE_GB"):
        rival.windows("dasps", [0])
    assert {f"{shard.tensors_sha256}.arrow" for shard in shards} <= copies_in(cache)
    np.testing.assert_array_equal(store.windows("deap", range(600)), written.windows)
    del store, opened
    np.testing.assert_array_equal(rival.windows("dasps", range(600)), other.windows)
    assert not {f"{shard.tensors_sha256}.arrow" for shard in shards} <= copies_in(cache), "nobody uses them any more"


def test_a_store_that_can_never_fit_is_refused_before_it_is_copied(
    memory_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOD_CACHE_GB", "0.000001")
    write_store(memory_url)
    store = ShardStore.open(memory_url, cache=str(tmp_path / "cache"))
    with pytest.raises(RequestError, match=r"deap.*EMOD_CACHE_GB") as caught:
        store.fetch(["deap"])
    assert "\n" not in str(caught.value)
    assert copies_in(tmp_path / "cache") == set()


@pytest.mark.parametrize("given", ["0", "-3", "lots", "inf", "nan"])
def test_a_bound_is_a_number(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOD_CACHE_GB", given)
    with pytest.raises(RequestError, match=f"EMOD_CACHE_GB = {given}"):
        ShardCache()


def test_without_a_bound_the_disk_keeps_a_twentieth(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Disk:
        total, free = 1000 * KB, 120 * KB

    monkeypatch.setattr("emod.shards.cache.shutil.disk_usage", lambda folder: Disk)
    cache = ShardCache(tmp_path / "cache")
    use(cache, remote.put("a.arrow", 60 * KB))
    Disk.free -= 60 * KB
    with pytest.raises(RequestError, match=r"may hold 0\.00 GB \(what the disk has to spare\).*EMOD_CACHE"):
        cache.open(*remote.put("b.arrow", 80 * KB))


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "bit, times set back", "bit, unseen"])
def test_a_damaged_copy_is_fetched_again(
    memory_url: str, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    written = write_store(memory_url)
    cache = tmp_path / "cache"
    ShardStore.open(memory_url, cache=str(cache)).windows("deap", [0])
    shard = written.manifest.corpora["deap"].shards[0]
    copy = cache / f"{shard.tensors_sha256}.arrow"
    status, note = copy.stat(), cache / "state" / f"{copy.name}.checked"
    if damage.startswith("bit"):
        flip(copy, status.st_size // 2)
    else:
        os.truncate(copy, 0 if damage == "empty" else status.st_size // 2)
    if damage == "bit, times set back":
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    if damage == "bit, unseen":  # the disk itself forgot it: nothing tells but the daily check
        now = copy.stat()
        note.write_text(f"{now.st_ino}-{now.st_size}-{now.st_ctime_ns} {time.time() - 90_000}")
    capsys.readouterr()
    store = ShardStore.open(memory_url, cache=str(cache))
    np.testing.assert_array_equal(store.windows("deap", range(15)), written.windows)
    said = capsys.readouterr().err
    assert "damaged" in said
    assert copy.name in said
    assert sha256(copy.read_bytes()).hexdigest() == shard.tensors_sha256


def test_a_right_copy_is_checked_and_not_fetched_again(remote: Remote, tmp_path: Path) -> None:
    """One that was touched, or comes from a version without notes."""
    cache, file = ShardCache(tmp_path / "cache"), remote.put("a.arrow", 10 * KB)
    use(cache, file)
    copy = cache.path_of(*file)
    copy.touch()
    use(cache, file)
    (cache.folder / "state" / f"{copy.name}.checked").unlink()
    use(cache, file)
    (remote.folder / "a.arrow").unlink()
    use(cache, file)
    assert remote.downloads == ["a.arrow"]


def test_checksums_are_computed_once_a_day(remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, file = ShardCache(tmp_path / "cache"), remote.put("a.arrow", 10 * KB)
    use(cache, file)
    hashed: list[Path] = []
    computed = sys.modules["emod.shards.cache"]._sha256  # type: ignore[attr-defined]
    monkeypatch.setattr("emod.shards.cache._sha256", lambda path: hashed.append(path) or computed(path))
    use(cache, file)
    assert hashed == []
    later = time.time() + 25 * 3600
    monkeypatch.setattr("emod.shards.cache.time.time", lambda: later)
    use(cache, file)
    use(cache, file)
    assert hashed == [cache.path_of(*file)]


def test_a_wrong_download_takes_no_room(remote: Remote, tmp_path: Path) -> None:
    cache, (url, right) = ShardCache(tmp_path / "cache", limit_bytes=15 * KB), remote.put("a.arrow", 10 * KB)
    for _ in range(2):
        with pytest.raises(DataError, match=r"a\.arrow: checksum"):
            cache.open(url, "0" * 64)
    assert copies_in(cache.folder) == set()
    with pytest.raises(DataError, match=r"gone\.arrow: a shard of the manifest is missing"):
        cache.open(url.replace("a.arrow", "gone.arrow"), right)
    use(cache, (url, right))


def test_copies_lie_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EMOD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ShardCache().folder == tmp_path / "emod"
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="set EMOD_CACHE"):
        ShardCache(tmp_path / "file" / "below").open("memory://a/b.arrow", "0" * 64)


def test_a_copy_is_announced_once(memory_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it goes and how much it is; then how far it has come, in words for whoever asks."""
    written = write_store(memory_url, parts=((300,), (300,)))
    size = sum(shard.tensors_bytes for shard in written.manifest.corpora["deap"].shards) / 1e6
    told: list[str] = []
    for tell in (None, told.append):
        cache = tmp_path / ("lines" if tell is None else "told")
        ShardStore.open(memory_url, cache=str(cache)).fetch(["deap"], tell)
        lines = capsys.readouterr().err.splitlines()
        assert lines[0] == f"copying {size:.1f} MB of deap from {memory_url} to {cache}"
        assert (lines[-1] == f"copy deap, MB: {math.ceil(size)}/{math.ceil(size)}") == (tell is None)
        ShardStore.open(memory_url, cache=str(cache)).fetch(["deap"], tell)
        assert capsys.readouterr().err == ""
    assert len(told) == 2
    assert told[-1] == f"copying deap: {size:.1f} of {size:.1f} MB"


def test_a_local_store_is_copied_nowhere(tmp_path: Path) -> None:
    written = write_store(str(tmp_path / "store"))
    store = ShardStore.open(written.url, cache=str(tmp_path / "cache"))
    store.fetch(["deap"])
    np.testing.assert_array_equal(store.windows("deap", range(15)), written.windows)
    assert not (tmp_path / "cache").exists()
