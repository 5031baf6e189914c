"""Where an ingest keeps finished recordings until it publishes, and how folders that nobody needs are told apart.

A running ingest writes a sign of life into each of its folders every minute, and takes it away when it ends, however it
does, if it still can. A folder in which nothing has been written for ten minutes, by the store's own clock, belongs to
an ingest that is gone; the next one that finishes removes it. One that has published a corpus has replaced what others
began of it, so of that corpus it removes what bears no sign, or none for three minutes. An ingest that was only asleep
for so long finds its parts gone and computes them again: nothing wrong can come of it.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress

from emod import storage
from emod.errors import RequestError

__all__ = ["REPLACED_SILENCE_S", "SIGN_EVERY_S", "SILENCE_S", "clear_staging", "signs_of_life", "staging_url"]

SIGN_EVERY_S = 60.0
SILENCE_S = 600.0
REPLACED_SILENCE_S = 180.0

_FOLDER = "staging"
_SIGN = "alive"


def staging_url(store_url: str, *names: str) -> str:
    """URL of the store's staging folder, or of something in it."""
    return storage.join(store_url, _FOLDER, *names)


@contextmanager
def signs_of_life(folders: Sequence[str]) -> Iterator[None]:
    """Keeps these folders of `staging_url` from being taken for abandoned for the time of the block."""
    over = threading.Event()

    def sign() -> None:
        for folder in folders:
            try:
                storage.write_bytes(storage.join(folder, _SIGN), b"")
            except RequestError:
                continue  # the network's hiccup is not the end of an ingest; the next sign is soon

    def repeat() -> None:
        while not over.wait(SIGN_EVERY_S):
            sign()

    sign()
    thread = threading.Thread(target=repeat, name="emod-signs-of-life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for folder in folders:
            with suppress(RequestError):
                storage.remove_folder(storage.join(folder, _SIGN))


def clear_staging(store_url: str, own: Sequence[str] = (), published: Collection[str] = ()) -> None:
    """Removes what nobody can need: these folders, whatever has been silent, and half-written files of a local store.

    Args:
        store_url: The store.
        own: Folders of recordings that are published now. An ingest of the very same recordings that runs beside this
            one finds them in the store instead.
        published: Corpora that the store has now as they were asked for.
    """
    for folder in own:
        storage.remove_folder(folder)
    if not storage.exists(staging_url(store_url)):
        return
    clock = f"clock-{uuid.uuid4().hex}"
    storage.write_bytes(staging_url(store_url, clock), b"")  # the store says what time it is
    try:
        objects = storage.list_objects(staging_url(store_url))
        now_s = objects[clock].changed_s
    finally:
        storage.remove_folder(staging_url(store_url, clock))
    if now_s is None:
        return
    newest: dict[str, float] = {}
    for path, found in objects.items():
        folder = path.partition("/")[0]
        newest[folder] = max(newest.get(folder, 0.0), now_s if found.changed_s is None else found.changed_s)
    for folder, changed_s in newest.items():
        replaced = folder.rpartition("-")[0] in published
        signed = f"{folder}/{_SIGN}" in objects
        silent_s = now_s - changed_s
        if folder != clock and (silent_s > SILENCE_S or (replaced and not (signed and silent_s <= REPLACED_SILENCE_S))):
            storage.remove_folder(staging_url(store_url, folder))
    if storage.is_local(store_url):
        for path, found in storage.list_objects(store_url).items():
            if path.endswith(".partial") and found.changed_s is not None and now_s - found.changed_s > SILENCE_S:
                storage.remove_folder(storage.join(store_url, path))
