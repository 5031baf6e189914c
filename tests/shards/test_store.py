"""A store gives back what was written, in any order, and says what is wrong with it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emod import storage
from emod.errors import DataError, RequestError
from emod.shards import (
    METADATA,
    CorpusEntry,
    Manifest,
    ShardEntry,
    ShardStore,
    drop_subjects,
    group_parts,
    newest_manifest,
    pack_shard,
    publish,
    read_part_summary,
    write_part,
)

CHANNELS = ("Fp1", "Cz", "O2")
SFREQ_HZ, WINDOW_S = 50.0, 0.2
SHAPE = (len(CHANNELS), 10)


@dataclass(frozen=True)
class Written:
    """What went into a store, by hand."""

    url: str
    manifest: Manifest
    windows: npt.NDArray[np.float16]
    rows: list[dict[str, Any]]


def metadata_rows(corpus: str, subject: str, n: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    return [
        {
            "window_id": f"{corpus}/{subject}/1/1/{index}",
            "corpus": corpus,
            "subject": subject,
            "session": "1",
            "trial": "1",
            "stimulus": "clip",
            "start_s": index * WINDOW_S,
            "valence": float(rng.uniform(-4, 4)),
            "arousal": float(rng.uniform(-4, 4)),
            "rating_valence": None if index % 2 else 5.5,
            "rating_arousal": None if index % 2 else 3.25,
            "emotion": "sad" if index % 2 else None,
            "label_kind": "emotion" if index % 2 else "rating",
            "va_region": int(rng.integers(9)),
            "scale_uv": float(rng.uniform(1, 30)),
            "peak_uv": float(rng.uniform(30, 300)),
            "clipped_share": 0.0,
            "saturated_share": 0.0,
            "n_interpolated": index % 2,
            "source": f"{subject}.dat",
        }
        for index in range(n)
    ]


def entry_of(shards: Sequence[ShardEntry], **changes: Any) -> CorpusEntry:
    n_windows = sum(shard.rows for shard in shards)
    fields: dict[str, Any] = {
        "fingerprint": "f" * 64,
        "simulated": True,
        "channels": CHANNELS,
        "sfreq_hz": SFREQ_HZ,
        "window_s": WINDOW_S,
        "n_windows": n_windows,
        "n_recordings": 1,
        "n_subjects": 1,
        "shards": tuple(shards),
        "problems": (),
        "cleaning": {},
    }
    return CorpusEntry(**(fields | changes))


def manifest_of(corpora: dict[str, CorpusEntry], version: int = 1, emod_version: str = "0") -> Manifest:
    return Manifest(version=version, emod_version=emod_version, settings={}, corpora=corpora)


def write_store(
    url: str,
    parts: Sequence[Sequence[int]] = ((3, 1, 4), (2, 5)),
    corpus: str = "deap",
    subjects: Sequence[str] | None = None,
) -> Written:
    """A store of one corpus: shards of parts (record batches) of so many windows, of a subject each or a shard each."""
    rng = np.random.default_rng(7)
    shards, windows, rows = [], [], []
    for number, sizes in enumerate(parts):
        urls = []
        for index, n in enumerate(sizes):
            subject = subjects[number] if subjects else f"s{number}{index}"
            windows.append(rng.normal(0, 3, (n, *SHAPE)).astype(np.float16))
            rows.append(metadata_rows(corpus, subject, n, rng))
            urls.append(storage.join(url, "staging", f"{subject}.arrow"))
            write_part(urls[-1], windows[-1], rows[-1], {"n_windows": n, "subject": subject})
        shards.append(pack_shard(url, f"shards/{corpus}", number, urls))
    storage.remove_folder(storage.join(url, "staging"))
    manifest = manifest_of({corpus: entry_of(shards)})
    publish(url, manifest)
    return Written(url, manifest, np.concatenate(windows), [row for part in rows for row in part])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_store(str(tmp_path_factory.mktemp("store")))


@pytest.fixture
def memory_url(tmp_path: Path) -> Iterator[str]:
    url = f"memory://{tmp_path.name}"
    yield url
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


def copies_in(cache: Path) -> set[str]:
    """Whole and half copies; neither locks nor notes."""
    return {path.name for path in cache.iterdir() if path.suffix in (".arrow", ".parquet", ".partial")}


def file_of(store: Written, kind: str = "tensors", number: int = 0) -> Path:
    return Path(store.url, getattr(store.manifest.corpora["deap"].shards[number], kind))


def test_what_was_written_is_read(written: Written) -> None:
    store = ShardStore.open(written.url)
    assert store.corpora == ("deap",)
    assert store.channels("deap") == CHANNELS
    assert (store.sfreq_hz("deap"), store.window_s("deap"), store.is_simulated(["deap"])) == (SFREQ_HZ, WINDOW_S, True)
    metadata = store.metadata("deap")
    assert metadata.schema.equals(METADATA)
    assert metadata.to_pylist() == written.rows
    windows = store.windows("deap", np.arange(15))
    assert windows.dtype == np.float32
    assert windows.shape == (15, *SHAPE)
    np.testing.assert_array_equal(windows, written.windows)  # float16 to the bit
    assert store.verify() == []


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.integers(0, 14), max_size=40))
def test_rows_come_in_the_order_asked_for(written: Written, rows: list[int]) -> None:
    """Across shards and record batches, repeats and none at all included."""
    windows = ShardStore.open(written.url).windows("deap", rows)
    assert windows.shape == (len(rows), *SHAPE)
    np.testing.assert_array_equal(windows, written.windows[rows])


def test_half_windows_are_as_stored(written: Written) -> None:
    rows = [14, 2, 2, 7]
    halves = ShardStore.open(written.url).half_windows("deap", rows)
    np.testing.assert_array_equal(halves.numpy(), written.windows[rows])
    assert halves.numpy().dtype == np.float16
    with pytest.raises(IndexError, match="row"):
        ShardStore.open(written.url).half_windows("deap", [True])


def test_microvolt_is_the_tensor_times_its_own_scale(written: Written) -> None:
    rows = [14, 0, 8, 8, 3]
    scale = np.array([written.rows[row]["scale_uv"] for row in rows])
    uv = ShardStore.open(written.url).windows("deap", rows, unit="uv")
    assert uv.dtype == np.float32
    np.testing.assert_allclose(uv, written.windows[rows].astype(np.float64) * scale[:, None, None], rtol=1e-6)


@pytest.mark.parametrize("unit", ["mv", "UV", "normalized", ""])
def test_another_unit_is_refused(written: Written, unit: Any) -> None:
    with pytest.raises(ValueError, match=rf"unit '{unit}'.*'normalised' or 'uv'"):
        ShardStore.open(written.url).windows("deap", [0], unit=unit)


def test_what_a_reader_does_to_its_windows_stays_with_it(written: Written) -> None:
    store = ShardStore.open(written.url)
    store.windows("deap", [1])[:] = 99
    store.windows("deap", [1], unit="uv")
    np.testing.assert_array_equal(store.windows("deap", [1]), written.windows[[1]])
    assert store.verify() == []


@pytest.mark.parametrize("rows", [[15], [-1], [0, 3, 99], [-1, 15], [True, False], [0.5], [[0, 1]]])
def test_rows_that_are_no_row_numbers_stop(written: Written, rows: list[Any]) -> None:
    with pytest.raises(IndexError, match="row"):
        ShardStore.open(written.url).windows("deap", rows)


def test_a_corpus_without_shards_has_no_row(tmp_path: Path) -> None:
    publish(str(tmp_path), manifest_of({"deap": entry_of([])}))
    store = ShardStore.open(str(tmp_path))
    assert store.metadata("deap").schema.equals(METADATA)
    with pytest.raises(IndexError):
        store.windows("deap", [0])


def test_plain_arrow_opens_a_shard(written: Written) -> None:
    """In another process that never imports this package: published stores outlive it."""
    code = (
        "import sys, pyarrow as pa, pyarrow.parquet as pq\n"
        "table = pa.ipc.open_file(pa.memory_map(sys.argv[1])).read_all()\n"
        "tensors = table['window'].combine_chunks()\n"
        "first = tensors.to_numpy_ndarray()[0, 1, 2]\n"
        "print(table.column_names, tensors.type.shape, tensors.type.value_type, len(table), float(first))\n"
        "print(pq.read_table(sys.argv[2]).column_names)\n"
        "assert not {'emod', 'ray', 'torch'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-I", "-c", code, file_of(written), file_of(written, "metadata")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = f"['window_id', 'window'] [3, 10] halffloat 8 {float(written.windows[0, 1, 2])}"
    assert done.stdout.splitlines() == [expected, str(METADATA.names)]


def test_part_says_what_happened_to_its_recording(tmp_path: Path) -> None:
    url = str(tmp_path / "part.arrow")
    summary = {"n_windows": 0, "subject": "s01", "problems": [{"code": "flat", "message": "µV"}]}
    write_part(url, np.empty((0, *SHAPE), np.float16), [], summary)
    assert read_part_summary(url) == summary
    assert os.listdir(tmp_path) == ["part.arrow"]


@given(sizes=st.lists(st.integers(0, 50), max_size=30), limit=st.integers(1, 60))
def test_parts_are_grouped_in_order_and_to_size(sizes: list[int], limit: int) -> None:
    groups = group_parts(sizes, limit)
    assert [index for group in groups for index in group] == list(range(len(sizes)))
    filled = [sum(sizes[index] for index in group) for group in groups]
    assert all(total <= limit or len(group) == 1 for total, group in zip(filled, groups, strict=True))
    # As many as fit: the first part of a group did not fit into the group before.
    assert all(filled[k] + sizes[groups[k + 1][0]] > limit for k in range(len(groups) - 1))


def test_hash_is_of_the_windows_and_nothing_else(written: Written) -> None:
    entry = written.manifest.corpora["deap"]
    first, second = entry.shards
    same = [
        manifest_of({"deap": entry}, version=2, emod_version="9"),
        manifest_of({"deap": entry.model_copy(update={"problems": ({"code": "flat"},), "fingerprint": "0" * 64})}),
    ]
    assert {manifest.hash for manifest in same} == {written.manifest.hash}
    assert len({manifest.file_name() for manifest in [*same, written.manifest]}) == 3
    other = [
        manifest_of({"deap": entry_of([second, first])}),
        manifest_of({"deap": entry_of([first])}),
        manifest_of({"dasps": entry}),
        manifest_of({"deap": entry_of([first.model_copy(update={"tensors_sha256": "0" * 64}), second])}),
        manifest_of({"deap": entry_of([first.model_copy(update={"metadata_sha256": "0" * 64}), second])}),
    ]
    assert len({manifest.hash for manifest in [*other, written.manifest]}) == 6
    one, two = ("deap", entry), ("dasps", entry)
    assert manifest_of(dict([one, two])).hash == manifest_of(dict([two, one])).hash
    assert Manifest.model_validate_json(written.manifest.encode()) == written.manifest


def test_equal_windows_make_equal_shards(written: Written, tmp_path: Path) -> None:
    """Content names a shard, so an ingest run again writes the same files."""
    again = write_store(str(tmp_path))
    assert again.manifest.corpora == written.manifest.corpora
    shard = again.manifest.corpora["deap"].shards[1]
    assert shard.tensors == f"shards/deap/00001-{shard.tensors_sha256[:16]}.arrow"
    assert shard.tensors_bytes == file_of(again, number=1).stat().st_size


def test_newest_manifest_is_the_store(tmp_path: Path) -> None:
    url = str(tmp_path)
    assert newest_manifest(url) is None
    for version in (9, 2, 10):
        publish(url, manifest_of({"deap": entry_of([])}, version=version))
    (tmp_path / "manifest-000011-0123456789abcdef.json.partial").write_bytes(b"{")
    (tmp_path / "old").mkdir()
    newer = manifest_of({}, version=12)
    (tmp_path / "old" / newer.file_name()).write_bytes(newer.encode())
    found = newest_manifest(url)
    assert found is not None
    assert found.version == 10
    # Two ingests that publish the same version at once: whoever reads, and in whatever order they were written.
    rivals = [manifest_of({"deap": entry_of([], n_subjects=n)}, version=13) for n in (1, 2)]
    for rival in rivals:
        publish(url, rival)
    assert newest_manifest(url) == max(rivals, key=Manifest.file_name)


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"\xff\xfe", b'{"format": 2}', b"[]", b'{"format": 1, "version": 1, "corpora": {}}']
)
def test_damaged_manifest_is_one_line(tmp_path: Path, damage: bytes) -> None:
    written = write_store(str(tmp_path))
    path = tmp_path / written.manifest.file_name()
    path.write_bytes(damage)
    with pytest.raises(DataError, match=path.name) as caught:
        ShardStore.open(written.url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "nowhere", "empty", "file"])
def test_no_store_is_a_wrong_request(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no store")
    with pytest.raises(RequestError, match="no shard store here") as caught:
        ShardStore.open(str(tmp_path / name) if name else f"memory://{tmp_path.name}/none")
    assert "\n" not in str(caught.value)


def test_unknown_corpus_is_a_wrong_request(written: Written) -> None:
    store = ShardStore.open(written.url)
    for ask in (store.channels, store.metadata, lambda name: store.windows(name, [0])):
        with pytest.raises(RequestError, match=r"'daps' is not in the store .* it holds deap"):
            ask("daps")


def test_half_written_files_are_no_part_of_a_store(tmp_path: Path) -> None:
    written = write_store(str(tmp_path))
    for path in (file_of(written), file_of(written, "metadata")):
        path.with_name(f"{path.name}.partial").write_bytes(b"half")
    (tmp_path / "shards" / "deap" / "00002-0123456789abcdef.arrow").write_bytes(b"of a version never published")
    store = ShardStore.open(written.url)
    assert store.verify() == []
    np.testing.assert_array_equal(store.windows("deap", range(15)), written.windows)


@pytest.mark.parametrize("kind", ["tensors", "metadata"])
def test_one_flipped_bit_is_found(tmp_path: Path, kind: str) -> None:
    written = write_store(str(tmp_path))
    path = file_of(written, kind, 1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (problem,) = ShardStore.open(written.url).verify()
    assert "checksum" in problem
    assert str(path.relative_to(tmp_path)) in problem


@pytest.mark.parametrize("kind", ["tensors", "metadata"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
def test_missing_or_damaged_shard_is_named(tmp_path: Path, kind: str, damage: str) -> None:
    written = write_store(str(tmp_path))
    path = file_of(written, kind)
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    store = ShardStore.open(written.url)
    (problem,) = store.verify()
    assert ("missing" if damage == "missing" else "checksum") in problem
    with pytest.raises(DataError, match=path.name) as caught:
        store.windows("deap", [0], unit="uv")
    assert "\n" not in str(caught.value)


def test_changed_labels_leave_the_version_before_as_it_was(tmp_path: Path) -> None:
    """Same tensors, other labels: both versions can be read, before and after the manifest."""
    url = str(tmp_path)
    windows, rows = np.ones((3, *SHAPE), np.float16), metadata_rows("deap", "a", 3, np.random.default_rng(0))
    shards = []
    for label in (1.0, -1.0):
        part = storage.join(url, "staging", "a.arrow")
        write_part(part, windows, [row | {"valence": label} for row in rows], {})
        shards.append(pack_shard(url, "shards/deap", 0, [part]))
    assert shards[0].tensors == shards[1].tensors
    for shard, label in zip(shards, (1.0, -1.0), strict=True):
        store = ShardStore(url, manifest_of({"deap": entry_of([shard])}))
        assert store.verify() == []
        assert store.metadata("deap")["valence"].to_pylist() == [label] * 3


def test_subjects_are_dropped_from_the_shards_that_hold_them(tmp_path: Path) -> None:
    written = write_store(str(tmp_path), parts=((3, 1, 4), (2, 5), (6,)))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    shards = written.manifest.corpora["deap"].shards
    after = [drop_subjects(written.url, shard, {"s01", "s20"}) for shard in shards]
    assert after[1] is shards[1]
    assert after[2] is None
    first = after[0]
    assert first is not None
    assert (first.rows, first.tensors[:18]) == (7, "shards/deap/00000-")
    store = ShardStore(written.url, manifest_of({"deap": entry_of([first, shards[1]])}))
    assert store.verify() == []
    rows = [number for number, row in enumerate(written.rows) if row["subject"] in {"s00", "s02", "s10", "s11"}]
    np.testing.assert_array_equal(store.windows("deap", range(14)), written.windows[rows])
    assert store.metadata("deap").to_pylist() == [written.rows[number] for number in rows]
    assert store.metadata("deap").schema.equals(METADATA)
    assert {path: path.read_bytes() for path in before} == before
    again = drop_subjects(written.url, shards[0], {"s01", "s20"})
    assert again == first
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == len(before) + 2


def test_one_record_batch_of_several_subjects_is_cut_by_row(tmp_path: Path) -> None:
    """Parts hold one recording each; nobody says that every store's batches do."""
    url, rng = str(tmp_path), np.random.default_rng(0)
    windows = rng.normal(0, 3, (4, *SHAPE)).astype(np.float16)
    rows = [metadata_rows("deap", subject, 4, rng)[n] for n, subject in enumerate(("a", "b", "a", "c"))]
    part = storage.join(url, "staging", "p.arrow")
    write_part(part, windows, rows, {})
    shard = drop_subjects(url, pack_shard(url, "shards/deap", 3, [part]), {"a"})
    assert shard is not None
    store = ShardStore(url, manifest_of({"deap": entry_of([shard])}))
    assert store.verify() == []
    np.testing.assert_array_equal(store.windows("deap", [0, 1]), windows[[1, 3]])
    assert store.metadata("deap").to_pylist() == [rows[1], rows[3]]


def test_a_damaged_shard_is_not_copied_into_a_new_one(tmp_path: Path) -> None:
    written = write_store(str(tmp_path))
    path = file_of(written)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"checksum .*restore the shard"):
        drop_subjects(written.url, written.manifest.corpora["deap"].shards[0], {"s00"})


@pytest.mark.parametrize("kind", ["tensors", "metadata"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "longer", "folder"])
def test_damaged_files_are_found_without_reading_tensors(
    memory_url: str, tmp_path: Path, kind: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write_store(memory_url)
    opened = storage.open_binary

    def small_only(url: str) -> Any:
        assert not url.endswith(".arrow"), "a shard of a real store is large"
        return opened(url)

    monkeypatch.setattr(storage, "open_binary", small_only)
    assert ShardStore.open(memory_url).damaged_files("deap") == ()
    path = getattr(written.manifest.corpora["deap"].shards[1], kind)
    url = storage.join(memory_url, path)
    content = fsspec.filesystem("memory").cat_file(url)
    storage.remove_folder(storage.join(memory_url, "shards") if damage == "folder" else url)
    changed = {"empty": b"", "cut": content[:-40], "longer": content + b"x"}
    if damage in changed:
        storage.write_bytes(url, changed[damage])
    found = ShardStore.open(memory_url).damaged_files("deap")
    assert len(found) == (4 if damage == "folder" else 1)
    assert path in found


@pytest.mark.parametrize("damage", ["none", "missing", "changed"])
def test_findings_are_verified_too(tmp_path: Path, damage: str) -> None:
    written = write_store(str(tmp_path))
    content = b'{"recordings": {}}'
    name = f"quality/deap-{hashlib.sha256(content).hexdigest()[:16]}.json"
    if damage != "missing":
        storage.write_bytes(storage.join(written.url, name), content + (b" " if damage == "changed" else b""))
    entry = written.manifest.corpora["deap"].model_copy(update={"quality": name})
    store = ShardStore(written.url, manifest_of({"deap": entry}))
    problems = store.verify()
    assert store.damaged_files("deap") == (() if damage == "none" else (name,))
    if damage == "none":
        assert problems == []
    else:
        (problem,) = problems
        assert name in problem
        assert ("missing" if damage == "missing" else "checksum") in problem


def test_missing_folder_of_shards_is_listed_shard_by_shard(tmp_path: Path) -> None:
    written = write_store(str(tmp_path))
    storage.remove_folder(str(tmp_path / "shards"))
    problems = ShardStore.open(written.url).verify()
    assert [problem.count(".arrow: missing (") for problem in problems] == [1, 1]


def test_wrong_row_counts_are_found(written: Written, tmp_path: Path) -> None:
    first, second = written.manifest.corpora["deap"].shards

    def verify(entry: CorpusEntry) -> list[str]:
        return ShardStore(written.url, manifest_of({"deap": entry})).verify()

    assert verify(entry_of([first, second])) == []
    (problem,) = verify(entry_of([first, second], n_windows=16))
    assert problem == "deap: shards hold 15 windows where the manifest says 16"
    (problem,) = verify(entry_of([first.model_copy(update={"rows": 9}), second]))
    assert problem.endswith("8 tensors, 8 rows, manifest says 9")
    mixed = first.model_copy(
        update={"metadata": second.metadata, "metadata_sha256": second.metadata_sha256, "rows": second.rows}
    )
    (problem,) = verify(entry_of([mixed]))
    assert problem.endswith("8 tensors, 7 rows, manifest says 7")


def test_rows_of_other_windows_are_found(tmp_path: Path) -> None:
    """Tensors and metadata of equal length that do not belong together."""
    written = write_store(str(tmp_path), parts=((4,), (4,)))
    first, second = written.manifest.corpora["deap"].shards
    crossed = first.model_copy(update={"metadata": second.metadata, "metadata_sha256": second.metadata_sha256})
    (problem,) = ShardStore(written.url, manifest_of({"deap": entry_of([crossed])})).verify()
    assert "window ids differ" in problem


def test_remote_store_is_read_through_the_cache(memory_url: str, tmp_path: Path) -> None:
    written = write_store(memory_url)
    cache = tmp_path / "cache"
    store = ShardStore.open(memory_url, cache=str(cache))
    assert not cache.exists()  # opening reads the manifest only
    assert store.verify() == []
    rows = [14, 2, 2, 7]
    np.testing.assert_array_equal(store.windows("deap", rows), written.windows[rows])
    assert store.metadata("deap").to_pylist() == written.rows
    entry = written.manifest.corpora["deap"]
    expected = {f"{s.tensors_sha256}.arrow" for s in entry.shards} | {
        f"{s.metadata_sha256}.parquet" for s in entry.shards
    }
    assert copies_in(cache) == expected  # no half copy either
    assert cache.stat().st_mode & 0o077 == 0  # people's recordings, on a disk that others may read
    fsspec.filesystem("memory").rm(f"{memory_url.removeprefix('memory:/')}/shards", recursive=True)
    again = ShardStore.open(memory_url, cache=str(cache))
    np.testing.assert_array_equal(again.windows("deap", rows), written.windows[rows])


def test_url_may_end_in_a_slash(memory_url: str, tmp_path: Path) -> None:
    """On object stores ``a//b`` is another key than ``a/b``."""
    written = write_store(f"{memory_url}/")
    for url in (memory_url, f"{memory_url}/"):
        store = ShardStore.open(url, cache=str(tmp_path / "cache"))
        assert store.verify() == []
        np.testing.assert_array_equal(store.windows("deap", [9]), written.windows[[9]])
    assert not [path for path in fsspec.filesystem("memory").find("/") if "//" in path]


@pytest.mark.parametrize("kind", ["tensors", "metadata"])
@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_bad_remote_shard_is_never_used(memory_url: str, tmp_path: Path, kind: str, damage: str) -> None:
    written = write_store(memory_url)
    path = getattr(written.manifest.corpora["deap"].shards[1], kind)
    url = storage.join(memory_url, path)
    data = bytearray(storage.read_bytes(url, at_most=2**20))
    storage.remove_folder(url)
    if damage == "changed":
        data[len(data) // 2] ^= 1
        storage.write_bytes(url, bytes(data))
    store = ShardStore.open(memory_url, cache=str(tmp_path / "cache"))
    for _ in range(2):  # nothing bad stays behind in the cache
        with pytest.raises(DataError, match=os.path.basename(path)) as caught:
            store.windows("deap", [14], unit="uv")
        assert "\n" not in str(caught.value)
    bad = getattr(written.manifest.corpora["deap"].shards[1], f"{kind}_sha256")
    assert not [name for name in copies_in(tmp_path / "cache") if bad in name]


def test_s3_store(s3_server: Any, tmp_path: Path) -> None:
    written = write_store(s3_server.url("shards-test", "store"))
    store = ShardStore.open(written.url, cache=str(tmp_path / "cache"))
    assert store.verify() == []
    np.testing.assert_array_equal(store.windows("deap", range(15)), written.windows)
    assert store.metadata("deap").to_pylist() == written.rows

    path = s3_server.path("shards-test", "store", written.manifest.corpora["deap"].shards[0].tensors)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    damaged = ShardStore.open(written.url, cache=str(tmp_path / "other"))
    with pytest.raises(DataError, match="checksum"):
        damaged.windows("deap", [0])
    (problem,) = damaged.verify()
    assert "checksum" in problem
    np.testing.assert_array_equal(store.windows("deap", [0]), written.windows[[0]])  # its copy was checked


def test_cache_follows_the_environment(memory_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store(memory_url)
    monkeypatch.setenv("EMOD_CACHE", str(tmp_path / "from-environment"))
    ShardStore.open(memory_url).metadata("deap")
    assert len(copies_in(tmp_path / "from-environment")) == 2


def test_window_length_is_that_of_the_tensors(tmp_path: Path) -> None:
    """Half samples round up, as ingest cuts them: 0.5 s at 125 Hz are 63 samples, not Python's 62."""
    windows = np.arange(3 * 63, dtype=np.float16).reshape(1, 3, 63)
    url = str(tmp_path)
    part = storage.join(url, "staging", "a.arrow")
    write_part(part, windows, metadata_rows("deap", "a", 1, np.random.default_rng(0)), {})
    shard = pack_shard(url, "shards/deap", 0, [part])
    publish(url, manifest_of({"deap": entry_of([shard], sfreq_hz=125.0, window_s=0.5)}))
    np.testing.assert_array_equal(ShardStore.open(url).windows("deap", [0]), windows)
