"""What decides whether work that was done can be kept: marks of recordings and the fingerprint of what treats them.

A mark covers one recording's objects and everything that turns them into windows; equal marks mean equal windows. The
fingerprint covers the second half only, and how windows are packed. Nothing here decodes a recording.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import emod
from emod import storage
from emod.catalog import Experiment, corpus_names, fingerprint, load_emotion_words
from emod.corpora import Corpus, RecordingRef
from emod.errors import RequestError
from emod.storage import StoredObject

__all__ = ["corpus_fingerprint", "recording_marks", "treatment"]

# Label tables, markers and the like: whatever may change a label and is no recording.
_TABLE_BYTES = 2**20

# What turns recordings into windows: a change in any of these rooms makes a new version, except in what comes after.
_ROOMS = ("affect", "corpora", "ingest", "shards", "signal")
_NOT_WINDOWS = frozenset(
    {
        "corpora/doctor.py",
        "corpora/simulated_copy.py",
        "ingest/descendants.py",
        "ingest/report.py",
        "ingest/staging.py",
        "ingest/withdrawal.py",
        "shards/store.py",
        "shards/versions.py",
        "signal/serving.py",
    }
)
_LIBRARIES = ("h5py", "mne", "mne-bids", "numpy", "pymatreader", "python-picard", "scipy")
_PACKING = ("shard_mb",)
_RESOURCES = ("cpus_per_recording", "strict")
_LOOKUPS_AT_ONCE = 16


def treatment(
    corpus: Corpus, references: Sequence[RecordingRef], experiment: Experiment, objects: Mapping[str, StoredObject]
) -> str:
    """SHA-256 of all that turns recordings into windows: tables beside them, catalog, settings, code; hex.

    Args:
        corpus: The copy.
        references: All its recordings, whoever may be read: their objects are no tables.
        experiment: The settings.
        objects: Listing of the copy's top folder.
    """
    recorded = {path for ref in references for url in ref.urls if (path := storage.path_below(url, corpus.root))}
    # A store or a folder of runs below the copy grows with every ingest and is none of its tables.
    addresses = (experiment.addresses.store, experiment.addresses.runs)
    own = [path for url in addresses if url and (path := storage.path_below(url, corpus.root))]
    tables = {
        path: found.stamp
        for path, found in objects.items()
        if found.size_bytes < _TABLE_BYTES
        and path not in recorded
        and not any(path.startswith(f"{folder}/") for folder in own)
    }
    return _digest(
        {
            "tables": tables,
            "catalog": fingerprint(corpus.catalog),
            "words": [word.model_dump() for word in load_emotion_words() if word.corpus == corpus.name],
            "signal": fingerprint(experiment.signal),
            "ingest": fingerprint(experiment.ingest, exclude=(*_PACKING, *_RESOURCES)),
            "code": _code_hash(corpus),
            "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        }
    )


def corpus_fingerprint(treated: str, experiment: Experiment) -> str:
    """The treatment together with how windows are packed into shards; hex."""
    return _digest({"treatment": treated, "shard_mb": experiment.ingest.shard_mb})


def recording_marks(
    corpus: Corpus, references: Sequence[RecordingRef], treated: str, objects: Mapping[str, StoredObject]
) -> dict[str, str]:
    """Key -> mark of each recording, 16 hex digits. An object that is not there has a mark, too: it may come back.

    Raises:
        RequestError: If the store cannot be asked about an object; the message has no URL that may hold a name.
    """

    def stamp(ref: RecordingRef, url: str) -> str:
        path = storage.path_below(url, corpus.root)
        if path is not None and path in objects:
            return objects[path].stamp
        try:
            return storage.stamp(url)
        except storage.NoSuchObjectError:
            return "not there"
        except RequestError as error:
            if not ref.objects:
                raise
            del error
        raise RequestError(f"{ref.source}: one of its objects cannot be looked up; check rights and network")

    def mark(ref: RecordingRef) -> str:
        return _digest({"treatment": treated, "key": ref.key, "objects": [stamp(ref, url) for url in ref.urls]})[:16]

    with ThreadPoolExecutor(_LOOKUPS_AT_ONCE) as lookups:
        return dict(zip((ref.key for ref in references), lookups.map(mark, references), strict=True))


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _code_hash(corpus: Corpus) -> str:
    """Of the rooms that make windows, with this corpus' reader and no other; readers are named like catalogs."""
    package = Path(emod.__file__).parent
    own = {
        Path(inspect.getfile(kind)).resolve() for kind in type(corpus).__mro__ if kind.__module__.startswith("emod.")
    }
    readers = {package / "corpora" / f"{name}.py" for name in corpus_names()}
    digest = hashlib.sha256()
    rooms = sorted(path for room in _ROOMS for path in (package / room).rglob("*.py"))
    # The one catalog that computes: where the filter's edges lie at a rate.
    for path in [*rooms, package / "catalog" / "signal.py"]:
        name = path.relative_to(package).as_posix()
        if name not in _NOT_WINDOWS and (path not in readers or path.resolve() in own):
            digest.update(name.encode() + path.read_bytes())
    return digest.hexdigest()
