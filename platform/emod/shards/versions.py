"""Versions of a store: which is the newest, and how the next one is published by several ingests at once.

A version is a manifest; it is written last and never changed. Where the store can refuse to take a name twice, the
name is the version and exactly one writer gets it. Where it cannot, the name also holds the content, so two writers may
publish the same version: the one whose name sorts last is the store for every reader, whole, and whoever notices (each
writer looks again after it has written) publishes the two merged as the next version. What can still happen there: a
writer that is killed in the moment between its own manifest and that second look may leave the other's corpora out of
the newest version, until the next ingest of anything, which merges them.

Nothing here writes a shard or knows what a recording is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from pydantic import ValidationError

from emod import storage
from emod.errors import DataError
from emod.shards.format import Manifest

__all__ = ["list_manifests", "newest_manifest", "publish", "publish_change", "read_manifest"]

_NAME = re.compile(r"manifest-(\d{6})(?:-[0-9a-f]{16})?\.json")
_MANIFEST_BYTES = 256 * 2**20


def list_manifests(url: str) -> list[str]:
    """Names of the manifests of a store, newest first; none where there is no store.

    Of one version, the name that only one writer can take comes first (``.`` sorts after ``-``), so that writer has
    never lost.
    """
    if not storage.exists(url):
        return []
    return sorted((name for name in storage.list_files(url, recursive=False) if _NAME.fullmatch(name)), reverse=True)


def read_manifest(url: str, name: str) -> Manifest:
    """One version of a store.

    Raises:
        NoSuchObjectError: If it is not there.
        DataError: If it is not a manifest.
    """
    source = storage.join(url, name)
    try:
        return Manifest.model_validate_json(storage.read_bytes(source, at_most=_MANIFEST_BYTES))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = ": ".join(part for part in (where, first["msg"]) if part)
        cure = "restore it, or remove it to return to the version before"
        raise DataError(f"{storage.redact(source)}: not a manifest ({what}); {cure}") from None


def newest_manifest(url: str) -> Manifest | None:
    """The newest complete version of a store, or None where there is none yet. Every reader picks the same."""
    while names := list_manifests(url):
        try:
            return read_manifest(url, names[0])
        except storage.NoSuchObjectError:
            continue  # purged in between: by then there is a newer one
    return None


def publish(store_url: str, manifest: Manifest, *, exclusive: bool = False) -> str | None:
    """Makes a new version of a store visible. Everything it names must be there already.

    Args:
        store_url: The store.
        manifest: The version.
        exclusive: Take the version's name, where the store honours that (`storage.honours_create`).

    Returns:
        The manifest's name; None if somebody else has taken the version.
    """
    name, content = manifest.file_name(exclusive=exclusive), manifest.encode()
    url = storage.join(store_url, name)
    if not exclusive:
        storage.write_bytes(url, content)
        return name
    if storage.create_bytes(url, content):
        return name
    # A write whose answer was lost on the way is repeated by the client, and then finds itself.
    return name if storage.read_bytes(url, at_most=_MANIFEST_BYTES) == content else None


def publish_change(
    store_url: str, change: Callable[[Manifest | None], Manifest | None], *, exclusive: bool
) -> Manifest | None:
    """Publishes what a change makes of the newest version, again and again until the newest version rests on it.

    Args:
        store_url: The store.
        change: Given the newest version, or None where there is none, the version wanted instead; None if nothing is
            missing from it. It sets neither the version's number nor its parents.
        exclusive: What `storage.honours_create` says of this store.

    Returns:
        The newest version.
    """
    mine: str | None = None
    while True:
        names = _heads(list_manifests(store_url))
        try:
            heads = [read_manifest(store_url, name) for name in names]
        except storage.NoSuchObjectError:
            continue  # as in `newest_manifest`
        current = _merge(heads)
        # Once this change is part of the newest version, what others make of it later is theirs to decide.
        done = mine is not None and _rests_on(store_url, names, mine)
        wanted = None if done else change(current)
        if wanted is None:
            if len(heads) < 2:
                return current
            wanted = current
        assert wanted is not None, "two heads merge to one"
        manifest = wanted.model_copy(
            update={"version": 1 + (current.version if current else 0), "parents": tuple(sorted(names))}
        )
        mine = publish(store_url, manifest, exclusive=exclusive) or mine


def _version(name: str) -> int:
    match = _NAME.fullmatch(name)
    assert match is not None, name
    return int(match[1])


def _heads(names: Sequence[str]) -> list[str]:
    """The manifests of the highest version, newest first: several only where they were published at once."""
    return [name for name in names if _version(name) == _version(names[0])]


def _merge(heads: Sequence[Manifest]) -> Manifest | None:
    """What several manifests of one version amount to; every writer who sees the same ones gets the same.

    The first wins where both brought the same corpus, except that an entry with a withdrawn subject never wins. One
    that was cleaned with other settings is left out: corpora of one store go through the same stages.
    """
    if not heads:
        return None
    first = heads[0]
    corpora, brought = dict(first.corpora), set(first.brought)
    withdrawn = {name: set(subjects) for name, subjects in first.withdrawn.items()}
    for other in heads[1:]:
        for name, subjects in other.withdrawn.items():
            withdrawn.setdefault(name, set()).update(subjects)
    for other in heads[1:]:
        if other.settings != first.settings:
            continue
        for name in other.brought:
            if name not in brought or (name in corpora and corpora[name].subjects & withdrawn.get(name, set())):
                corpora.pop(name, None)
                if name in other.corpora:  # else its last subject withdrew
                    corpora[name] = other.corpora[name]
                brought.add(name)
    return first.model_copy(
        update={
            "corpora": dict(sorted(corpora.items())),
            "brought": tuple(sorted(brought)),
            "withdrawn": {name: tuple(sorted(subjects)) for name, subjects in sorted(withdrawn.items())},
        }
    )


def _rests_on(store_url: str, names: Sequence[str], ancestor: str) -> bool:
    """Whether one of these manifests is the ancestor or was made from it."""
    open_names, seen = list(names), set(names)
    while open_names:
        if ancestor in seen:
            return True
        name = open_names.pop()
        if _version(name) <= _version(ancestor):
            continue
        try:
            parents = set(read_manifest(store_url, name).parents)
        except storage.NoSuchObjectError:
            continue  # purged
        open_names += parents - seen
        seen |= parents
    return ancestor in seen
