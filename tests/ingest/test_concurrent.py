"""Several ingests into one store: nobody's corpus is lost, nobody's work is removed, and nothing is mixed.

They meet at moments that the tests choose, in one process; `tests.shards.test_versions` lets many meet by chance.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emod import storage
from emod.catalog.experiment import IngestSettings
from emod.errors import DataError, RequestError
from emod.ingest import ingest, pipeline, plan_ingest, staging
from emod.ingest.withdrawal import withdraw
from emod.shards import ShardStore, list_manifests, newest_manifest
from tests.ingest.copies import SIGNAL, make_experiment, rows, run

pytest_plugins = ["tests.shards.honouring_s3"]


@pytest.fixture(params=["path", "honouring", "overwriting"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A store on a disk, on a server that gives a name once, and on one that overwrites."""
    if request.param == "honouring":
        yield f"{request.getfixturevalue('honouring_s3')}/store"
    elif request.param == "overwriting":
        yield request.getfixturevalue("s3_server").url("concurrent", tmp_path.name)
    else:
        yield str(tmp_path / "store")


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], Any]], list[Any]]:
    """Lets something happen once, when a function of the pipeline is called next."""

    def arrange(name: str, happen: Callable[[], Any]) -> list[Any]:
        real, happened = getattr(pipeline, name), []

        def interrupted(*arguments: Any, **options: Any) -> Any:
            monkeypatch.setattr(pipeline, name, real)
            happened.append(happen())
            return real(*arguments, **options)

        monkeypatch.setattr(pipeline, name, interrupted)
        return happened

    return arrange


@pytest.mark.parametrize("moment", ["_finish_recordings", "_pack_corpus", "publish_change"])
def test_two_corpora_at_once_are_both_there(
    serial: None, small_copies: dict[str, Path], store_url: str, tmp_path: Path, during: Any, moment: str
) -> None:
    other = during(moment, lambda: run(make_experiment(store_url, {"dasps": small_copies["dasps"]})))
    mine, _ = run(make_experiment(store_url, {"deap": small_copies["deap"]}))
    assert [manifest.version for manifest, _ in other] == [1]
    assert (mine.version, tuple(mine.corpora)) == (2, ("dasps", "deap"))
    store = ShardStore.open(store_url, cache=str(tmp_path / "cache"))
    assert store.manifest == mine
    assert store.verify() == []
    for name in ("deap", "dasps"):
        alone = str(tmp_path / "alone" / name)
        run(make_experiment(alone, {name: small_copies[name]}))
        assert rows(store_url, name, cache=tmp_path / "cache") == rows(alone, name)
    left = storage.list_files(store_url)
    assert not [path for path in left if path.startswith("staging/")]
    exclusive = [name for name in list_manifests(store_url) if name.count("-") == 1]
    assert len(exclusive) == (0 if "concurrent" in store_url else 2)


@pytest.mark.parametrize("moment", ["_finish_recordings", "_pack_corpus", "publish_change"])
def test_twins_publish_one_version(
    serial: None, small_copies: dict[str, Path], store_url: str, tmp_path: Path, during: Any, moment: str
) -> None:
    """The same config twice at once. Who finishes first removes the parts; the other finds its corpus in the store."""
    experiment = make_experiment(store_url, {"deap": small_copies["deap"]})
    twin = during(moment, lambda: run(experiment)[0])
    mine, _ = run(experiment)
    assert twin == [mine]
    assert mine.version == 1
    assert newest_manifest(store_url) == mine
    assert ShardStore.open(store_url, cache=str(tmp_path / "cache")).verify() == []


def test_a_twin_that_has_published_ends_the_work(
    serial: None, small_copies: dict[str, Path], tmp_path: Path, during: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_experiment(tmp_path / "store", {"deap": small_copies["deap"]})
    during("_pack_corpus", lambda: run(experiment))
    made = pipeline._RecordingTask.__call__
    calls: list[str] = []
    monkeypatch.setattr(
        pipeline._RecordingTask, "__call__", lambda task, ref: (calls.append(ref.key), made(task, ref))[1]
    )
    run(experiment)
    # The twin finds the first one's parts; the first one, robbed of them, takes the twin's entry.
    assert calls == ["s01_1", "s02_1", "s03_1"]


def test_parts_that_vanish_are_made_again(
    serial: None, small_copies: dict[str, Path], tmp_path: Path, during: Any
) -> None:
    """Somebody removes one finished recording, half of another and all of staging: nothing is lost."""
    experiment = make_experiment(tmp_path / "store", {"deap": small_copies["deap"]})
    folder = tmp_path / "store" / "staging"

    def spoil() -> None:
        first, second, _ = sorted(folder.rglob("*.arrow"))
        first.unlink()
        second.write_bytes(second.read_bytes()[:1000])  # a machine that lost its power
        during("_pack_corpus", lambda: shutil.rmtree(folder))

    during("_pack_corpus", spoil)
    manifest, _ = run(experiment)
    assert manifest.version == 1
    run(make_experiment(tmp_path / "other", {"deap": small_copies["deap"]}))
    assert rows(tmp_path / "store", "deap") == rows(tmp_path / "other", "deap")


def test_parts_that_always_vanish_are_said(
    serial: None, small_copies: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = pipeline._pack_corpus

    def robbed(*arguments: Any) -> Any:
        shutil.rmtree(tmp_path / "store" / "staging")
        return pack(*arguments)

    monkeypatch.setattr(pipeline, "_pack_corpus", robbed)
    with pytest.raises(DataError, match="finished recordings vanish from it"):
        run(make_experiment(tmp_path / "store", {"deap": small_copies["deap"]}))
    assert newest_manifest(str(tmp_path / "store")) is None


def test_other_settings_at_the_same_time_are_refused_whole(
    serial: None, small_copies: dict[str, Path], store_url: str, during: Any
) -> None:
    other = SIGNAL.model_copy(update={"window_s": 1.0})
    during("publish_change", lambda: run(make_experiment(store_url, {"dasps": small_copies["dasps"]}, signal=other)))
    with pytest.raises(RequestError, match="holds dasps cleaned with other signal settings"):
        run(make_experiment(store_url, {"deap": small_copies["deap"]}))
    newest = newest_manifest(store_url)
    assert newest is not None
    assert (tuple(newest.corpora), newest.settings["window_s"]) == (("dasps",), 1.0)


def test_a_withdrawal_during_an_ingest_holds(
    serial: None, small_copies: dict[str, Path], store_url: str, tmp_path: Path, during: Any
) -> None:
    """The ingest has read the subject already; it publishes without."""
    data = {"deap": small_copies["deap"]}
    run(make_experiment(store_url, data))
    changed = make_experiment(store_url, data, signal=SIGNAL.model_copy(update={"window_s": 1.0}))
    during("publish_change", lambda: withdraw(store_url, "deap", ["s02"]))
    manifest, _ = run(changed)
    assert (manifest.version, manifest.withdrawn) == (3, {"deap": ("s02",)})
    assert manifest.corpora["deap"].subjects == {"s01", "s03"}
    assert {row["subject"] for row, _ in rows(store_url, "deap", cache=tmp_path / "cache")} == {"s01", "s03"}
    assert [plan.entry for plan in plan_ingest(changed)] == [manifest.corpora["deap"]]


def test_staging_of_others_is_theirs(
    serial: None, small_copies: dict[str, Path], tmp_path: Path, during: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an ingest that runs it stays, however long its recordings take; of one that is gone it does not."""
    store = tmp_path / "store"
    running = make_experiment(store, {"deap": small_copies["deap"]})
    monkeypatch.setattr(staging, "SIGN_EVERY_S", 0.02)
    (folder,) = [Path(pipeline._staging(str(store), plan)) for plan in plan_ingest(running)]
    abandoned = store / "staging" / "deap-0123456789abcdef"

    def another() -> None:
        abandoned.mkdir(parents=True)
        (abandoned / "s01_1-00.arrow").write_bytes(b"x")
        long_ago = time.time() - staging.SILENCE_S - 1
        half = store / "shards" / "deap" / "00000-00.arrow.1a2b3c4d.partial"
        half.parent.mkdir(parents=True, exist_ok=True)
        half.write_bytes(b"half of a shard")
        for path in (abandoned / "s01_1-00.arrow", half, *folder.iterdir()):
            os.utime(path, (long_ago, long_ago))
        for _ in range(500):  # the running one gives a sign of life
            if (folder / "alive").stat().st_mtime > long_ago + 1:
                break
            time.sleep(0.01)
        run(make_experiment(store, {"dasps": small_copies["dasps"]}))
        assert not abandoned.exists()
        assert not half.exists()
        assert len(list(folder.glob("*.arrow"))) == 3

    during("_pack_corpus", another)
    _, notes = run(running)
    assert len(notes) == 3, "no recording was computed twice"
    assert not folder.exists()


def test_young_staging_may_be_somebodys(serial: None, small_copies: dict[str, Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    young = store / "staging" / "dasps-0123456789abcdef"
    young.mkdir(parents=True)
    (young / "S01_1-00.arrow").write_bytes(b"x")
    experiment = make_experiment(store, {"deap": small_copies["deap"]})
    run(experiment)
    assert [path.name for path in (store / "staging").iterdir()] == [young.name]
    long_ago = time.time() - staging.SILENCE_S - 1
    os.utime(young / "S01_1-00.arrow", (long_ago, long_ago))
    run(experiment)  # nothing to do, and still the place to tidy up
    assert list((store / "staging").iterdir()) == []


@pytest.mark.parametrize("end", ["stopped", "killed", "running"])
def test_what_was_begun_with_other_settings_goes_when_the_corpus_is_published(
    serial: None, small_copies: dict[str, Path], store_url: str, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """It holds participants' windows that nobody will ask for; that of another corpus is none of this one's."""
    data = {"deap": small_copies["deap"]}
    first = make_experiment(store_url, data, signal=SIGNAL.model_copy(update={"window_s": 1.0}))
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_pack_corpus", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(first)
    staged = staging.staging_url(store_url)
    (folder,) = {path.partition("/")[0] for path in storage.list_files(staged)}
    assert not storage.exists(storage.join(staged, folder, "alive"))
    other = storage.join(staged, "dasps-0123456789abcdef", "S01_1-00.arrow")
    storage.write_bytes(other, b"x")
    if end != "stopped":
        storage.write_bytes(storage.join(staged, folder, "alive"), b"")
    if end == "killed":
        monkeypatch.setattr(staging, "REPLACED_SILENCE_S", 0.05)
        time.sleep(1.1)  # some stores tell whole seconds
    run(make_experiment(store_url, data))
    left = {path.partition("/")[0] for path in storage.list_files(staged)}
    assert left == {"dasps-0123456789abcdef"} | ({folder} if end == "running" else set())


def test_signs_of_life_end_with_the_ingest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "SIGN_EVERY_S", 0.01)
    folder = tmp_path / "staging" / "deap-0"
    with staging.signs_of_life([str(folder)]):
        assert (folder / "alive").exists()
    assert not (folder / "alive").exists()
    shutil.rmtree(folder)
    time.sleep(0.1)
    assert not folder.exists()


def test_a_store_that_fails_to_be_tidied_is_published(
    serial: None, small_copies: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str) -> None:
        if "probe-" not in url:
            raise RequestError(f"{url}: Directory not empty")

    monkeypatch.setattr(storage, "remove_folder", refuse)
    manifest, _ = run(make_experiment(tmp_path / "store", {"deap": small_copies["deap"]}))
    assert newest_manifest(str(tmp_path / "store")) == manifest


def test_problems_come_in_recording_order(
    serial: None, deap_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the tasks finish."""
    for name in ("s01", "s03"):
        path = deap_copy / "data_preprocessed_python" / f"{name}.dat"
        path.write_bytes(path.read_bytes()[:-1000])
    forward = pipeline._run
    entries = []
    for step, reverse in enumerate((False, True)):

        def backward(items: Any, task: Any, cpus: float, reverse: bool = reverse) -> Any:
            return forward(items[::-1] if reverse else items, task, cpus)

        monkeypatch.setattr(pipeline, "_run", backward)
        manifest, _ = run(make_experiment(tmp_path / str(step), {"deap": deap_copy}))
        entries.append(manifest.corpora["deap"])
    assert entries[0] == entries[1]
    assert [problem["subject"] for problem in entries[0].problems] == ["s01", "s03"]
    assert [(key, one.n_windows) for key, one in entries[0].recordings.items()] == [
        ("s01_1", 0),
        ("s02_1", 6),
        ("s03_1", 0),
    ]


def test_a_strict_ingest_does_not_stop_at_who_withdrew(
    serial: None, small_copies: dict[str, Path], tmp_path: Path
) -> None:
    experiment = make_experiment(tmp_path / "store", {"deap": small_copies["deap"]})
    run(experiment)
    withdraw(str(tmp_path / "store"), "deap", ["s01"])
    strict = make_experiment(
        tmp_path / "store",
        {"deap": small_copies["deap"]},
        ingest=IngestSettings(strict=True, shard_mb=2),  # packed anew
    )
    plans = plan_ingest(strict)
    assert [problem["code"] for problem in plans[0].problems] == ["left_out"]
    manifest = ingest(strict, plans)
    assert manifest.version == 3
    assert [problem["subject"] for problem in manifest.corpora["deap"].problems] == ["s01"]
