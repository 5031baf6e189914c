"""Versions of a store: which is the newest, and that nobody's corpus is lost when several publish at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from emod import storage
from emod.errors import RequestError
from emod.shards import (
    CorpusEntry,
    Manifest,
    RecordingEntry,
    list_manifests,
    newest_manifest,
    publish,
    publish_change,
    read_manifest,
)
from emod.shards import versions as versions_module

pytest_plugins = ["tests.shards.honouring_s3"]

EXCLUSIVE, LAST_WINS = True, False


def entry(made_by: str, subjects: tuple[str, ...] = ()) -> CorpusEntry:
    """An entry that says whose it is; its shards are of no concern here."""
    return CorpusEntry(
        fingerprint=made_by,
        simulated=True,
        channels=("Cz",),
        sfreq_hz=1.0,
        window_s=1.0,
        n_windows=0,
        n_recordings=0,
        n_subjects=0,
        shards=(),
        problems=(),
        cleaning={},
        recordings={
            f"{name}_1": RecordingEntry(subject=name, session="1", mark="0" * 16, n_windows=0) for name in subjects
        },
    )


def manifest(version: int, settings: str = "a", **corpora: CorpusEntry) -> Manifest:
    return Manifest(version=version, emod_version="0", settings={"are": settings}, corpora=corpora)


Change = Callable[[Manifest | None], Manifest | None]


def bring(name: str, what: CorpusEntry, settings: str = "a") -> Change:
    """What an ingest of one corpus asks for."""

    def change(current: Manifest | None) -> Manifest | None:
        corpora = current.corpora if current else {}
        if corpora.get(name) == what:
            return None
        base = current or manifest(1, settings)
        return base.model_copy(
            update={"settings": {"are": settings}, "corpora": {**corpora, name: what}, "brought": (name,)}
        )

    return change


def made_by(url: str) -> dict[str, str]:
    newest = newest_manifest(url)
    return {name: one.fingerprint for name, one in newest.corpora.items()} if newest else {}


@pytest.fixture
def interleave(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets something happen inside the next `publish` of this process, just before or just after it writes."""
    real = versions_module.publish

    def arrange(*, before: Callable[[], Any] | None = None, after: Callable[[], Any] | None = None) -> None:
        def interrupted(store_url: str, manifest: Manifest, *, exclusive: bool = False) -> str | None:
            monkeypatch.setattr(versions_module, "publish", real)
            if before:
                before()
            name = real(store_url, manifest, exclusive=exclusive)
            if after:
                after()
            return name

        monkeypatch.setattr(versions_module, "publish", interrupted)

    return arrange


def test_newest_is_the_highest_version_then_the_exclusive_name(tmp_path: Path) -> None:
    url = str(tmp_path)
    assert newest_manifest(url) is None
    assert newest_manifest(str(tmp_path / "nowhere")) is None
    first, low, high, taken = (
        manifest(1, deap=entry("first")),
        manifest(2, deap=entry("low")),
        manifest(2, deap=entry("high")),
        manifest(2, deap=entry("taken")),
    )
    low, high = sorted((low, high), key=lambda one: one.file_name())
    for one in (high, first, low):
        publish(url, one)
        (tmp_path / "manifest-000009.json.1a2b3c4d.partial").write_bytes(b"half")
    assert newest_manifest(url) == high
    publish(url, taken, exclusive=True)
    assert newest_manifest(url) == taken
    assert list_manifests(url) == [
        "manifest-000002.json",
        high.file_name(),
        low.file_name(),
        first.file_name(),
    ]


def test_a_version_is_taken_once(tmp_path: Path) -> None:
    url = str(tmp_path)
    mine, theirs = manifest(3, deap=entry("mine")), manifest(3, deap=entry("theirs"))
    assert publish(url, mine, exclusive=True) == "manifest-000003.json"
    assert publish(url, theirs, exclusive=True) is None
    assert publish(url, mine, exclusive=True) == "manifest-000003.json"  # its first answer was lost on the way
    assert newest_manifest(url) == mine


@pytest.fixture(params=["path", "honouring", "overwriting", "path, last wins"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, bool]]:
    """A store's URL and whether a name can be taken once there."""
    if request.param == "honouring":
        yield f"{request.getfixturevalue('honouring_s3')}/store", EXCLUSIVE
    elif request.param == "overwriting":
        yield request.getfixturevalue("s3_server").url("versions", tmp_path.name), LAST_WINS
    else:
        yield str(tmp_path / "store"), request.param == "path"


def test_many_at_once_lose_nothing(any_store: tuple[str, bool]) -> None:
    url, exclusive = any_store
    assert storage.honours_create(url) is exclusive or storage.is_local(url)
    names = [f"corpus_{number}" for number in range(6)]
    with ThreadPoolExecutor(len(names)) as pool:
        newest = list(pool.map(lambda name: publish_change(url, bring(name, entry(name)), exclusive=exclusive), names))
    assert made_by(url) == {name: name for name in names}
    for name, told in zip(names, newest, strict=True):
        assert told is not None
        assert told.corpora[name].fingerprint == name, "what one is told holds what it brought"
    found = [read_manifest(url, name) for name in list_manifests(url)]
    numbers = [one.version for one in found]
    if exclusive:
        assert numbers == list(range(len(names), 0, -1)), "each got a version of its own"
    for one in found:  # none of them is a mixture: each corpus is whole, as it was brought
        assert all(what == entry(name) for name, what in one.corpora.items())
        assert set(one.parents) <= set(list_manifests(url))


@pytest.mark.parametrize("exclusive", [EXCLUSIVE, LAST_WINS])
def test_nothing_new_is_not_published(tmp_path: Path, exclusive: bool) -> None:
    url = str(tmp_path)
    first = publish_change(url, bring("deap", entry("x")), exclusive=exclusive)
    assert publish_change(url, bring("deap", entry("x")), exclusive=exclusive) == first
    assert len(list_manifests(url)) == 1
    assert publish_change(str(tmp_path / "none"), lambda current: None, exclusive=exclusive) is None


def test_the_loser_of_a_version_takes_the_next(tmp_path: Path, interleave: Callable[..., None]) -> None:
    url = str(tmp_path)
    publish_change(url, bring("deap", entry("old")), exclusive=EXCLUSIVE)
    interleave(before=lambda: publish_change(url, bring("seed", entry("theirs")), exclusive=EXCLUSIVE))
    mine = publish_change(url, bring("deap", entry("mine")), exclusive=EXCLUSIVE)
    assert mine is not None
    assert (mine.version, mine.parents, mine.brought) == (3, ("manifest-000002.json",), ("deap",))
    assert made_by(url) == {"deap": "mine", "seed": "theirs"}


@pytest.mark.parametrize("when", ["before", "after"])
def test_two_equal_versions_are_merged_by_who_sees_both(
    tmp_path: Path, interleave: Callable[..., None], when: str
) -> None:
    """Whichever of the two names sorts last. Of two who look after writing, at least one sees both."""
    for number in range(8):
        url = str(tmp_path / str(number))
        publish_change(url, bring("deap", entry("old")), exclusive=LAST_WINS)
        brought = manifest(2, deap=entry("old"), seed=entry(f"theirs {number}"))
        theirs = brought.model_copy(update={"brought": ("seed",), "parents": tuple(list_manifests(url))})
        # Theirs is written by somebody who never looks again: killed, or gone with everything done.
        interleave(**{when: lambda url=url, theirs=theirs: publish(url, theirs)})
        mine = publish_change(url, bring("deap", entry(f"mine {number}")), exclusive=LAST_WINS)
        assert mine is not None
        assert made_by(url) == {"deap": f"mine {number}", "seed": f"theirs {number}"}
        assert (mine.version, len(mine.parents)) == (3, 2)
        assert newest_manifest(url) == mine


def test_a_writer_who_comes_late_starts_from_what_is_there(tmp_path: Path, interleave: Callable[..., None]) -> None:
    """Two versions have been published since it looked; its own, of a lower number, is seen by nobody."""
    url = str(tmp_path)

    def others() -> None:
        publish_change(url, bring("seed", entry("1")), exclusive=LAST_WINS)
        publish_change(url, bring("seed", entry("2")), exclusive=LAST_WINS)

    publish_change(url, bring("faced", entry("0")), exclusive=LAST_WINS)
    interleave(before=others)
    mine = publish_change(url, bring("deap", entry("mine")), exclusive=LAST_WINS)
    assert mine is not None
    assert mine.version == 4
    assert made_by(url) == {"deap": "mine", "seed": "2", "faced": "0"}


def test_readers_see_one_of_two_equal_versions_whole(tmp_path: Path) -> None:
    """And the next who publishes anything merges what a killed writer left unmerged."""
    url = str(tmp_path)
    both = [manifest(1, deap=entry("a")), manifest(1, seed=entry("b"))]
    for one in both:
        publish(url, one.model_copy(update={"brought": tuple(one.corpora)}))
    winner = newest_manifest(url)
    assert winner is not None
    assert [one.corpora for one in both].count(winner.corpora) == 1
    publish_change(url, bring("faced", entry("c")), exclusive=LAST_WINS)
    assert made_by(url) == {"deap": "a", "seed": "b", "faced": "c"}


def test_of_two_with_the_same_corpus_one_wins_whole(tmp_path: Path, interleave: Callable[..., None]) -> None:
    """Both end, on the same answer, though each would rather have its own."""
    for number in range(8):
        url = str(tmp_path / str(number))
        told: list[Manifest | None] = []
        theirs = bring("deap", entry("theirs"))
        interleave(
            before=lambda url=url, theirs=theirs, told=told: told.append(
                publish_change(url, theirs, exclusive=LAST_WINS)
            )
        )
        mine = publish_change(url, bring("deap", entry(f"mine {number}")), exclusive=LAST_WINS)
        assert mine is not None
        assert made_by(url)["deap"] in {"theirs", f"mine {number}"}
        assert newest_manifest(url) == mine


def test_a_corpus_that_was_replaced_afterwards_stays_replaced(tmp_path: Path, interleave: Callable[..., None]) -> None:
    """The other has seen this version and means to replace it: that is no loss to be made good."""
    url = str(tmp_path)
    interleave(after=lambda: publish_change(url, bring("deap", entry("newer")), exclusive=LAST_WINS))
    told = publish_change(url, bring("deap", entry("mine")), exclusive=LAST_WINS)
    assert told is not None
    assert (told.version, made_by(url)) == (2, {"deap": "newer"})


def test_other_settings_never_mix(tmp_path: Path) -> None:
    url = str(tmp_path)
    both = [manifest(1, "a", deap=entry("a")), manifest(1, "b", seed=entry("b"))]
    for one in both:
        publish(url, one.model_copy(update={"brought": tuple(one.corpora)}))
    winner = newest_manifest(url)
    assert winner is not None
    told = publish_change(url, lambda current: None, exclusive=LAST_WINS)
    assert told is not None
    assert (told.corpora, told.settings) == (winner.corpora, winner.settings)


def test_a_withdrawn_subject_wins_over_no_entry(tmp_path: Path) -> None:
    """Published at once: a version without the subject, and one made by an ingest that had not heard of it."""
    for order in itertools.permutations(("with", "without")):
        url = str(tmp_path / order[0])
        base = manifest(1, deap=entry("old", ("s1", "s2")))
        publish(url, base)
        without = base.model_copy(
            update={
                "version": 2,
                "corpora": {"deap": entry("without", ("s1",))},
                "brought": ("deap",),
                "withdrawn": {"deap": ("s2",)},
            }
        )
        for number in range(20):  # until the one with the subject sorts last, and so wins for readers
            with_it = base.model_copy(
                update={
                    "version": 2,
                    "corpora": {"deap": entry(f"with {number}", ("s1", "s2"))},
                    "brought": ("deap",),
                }
            )
            if (with_it.file_name() > without.file_name()) is (order[0] == "with"):
                break
        publish(url, without)
        publish(url, with_it)
        merged = publish_change(url, lambda current: None, exclusive=LAST_WINS)
        assert merged is not None
        assert merged.corpora["deap"].fingerprint == "without"
        assert merged.withdrawn == {"deap": ("s2",)}


def test_a_corpus_without_anybody_left_is_gone_from_a_merge(tmp_path: Path) -> None:
    url = str(tmp_path)
    publish(url, manifest(1, deap=entry("x", ("s1",)), seed=entry("y")))
    gone = manifest(2, seed=entry("y")).model_copy(
        update={"brought": ("deap",), "withdrawn": {"deap": ("s1",)}, "parents": tuple(list_manifests(url))}
    )
    other = manifest(2, deap=entry("x", ("s1",)), seed=entry("z")).model_copy(update={"brought": ("seed",)})
    publish(url, gone)
    publish(url, other)
    publish_change(url, lambda current: None, exclusive=LAST_WINS)
    assert made_by(url) == {"seed": "z"}


def test_an_unreadable_newest_version_names_itself(tmp_path: Path) -> None:
    (tmp_path / "manifest-000001.json").write_text("{}")
    with pytest.raises(Exception, match=r"manifest-000001\.json: not a manifest .*restore it") as caught:
        newest_manifest(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_version_purged_while_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path)
    publish(url, manifest(1, deap=entry("old")))
    read = storage.read_bytes

    def purged(source: str, *, at_most: int) -> bytes:
        monkeypatch.setattr(storage, "read_bytes", read)
        publish(url, manifest(2, deap=entry("new")))
        storage.remove_folder(source)
        return read(source, at_most=at_most)

    monkeypatch.setattr(storage, "read_bytes", purged)
    assert made_by(url) == {"deap": "new"}


def test_hash_of_some_corpora_ignores_the_others() -> None:
    small, large = manifest(1, deap=entry("x")), manifest(7, deap=entry("x"), seed=entry("y"))
    assert small.hash == small.hash_of(["deap"]) == large.hash_of(["deap"])
    assert large.hash == large.hash_of(["seed", "deap"]) == large.hash_of({"deap", "seed"})
    assert large.hash != small.hash
    with pytest.raises(RequestError, match=r"'faced' is not in version 7 .*deap, seed"):
        large.hash_of(["faced"])
