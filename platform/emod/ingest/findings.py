"""What was found in each recording of a corpus, kept beside its windows: ``quality/<corpus>-<hash>.json``.

One file a corpus and version, named by its content, so it lasts as long as a version names it. It holds what
`emod.ingest.recording` measured; nothing is measured here.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from emod import storage

__all__ = ["read_findings", "sum_cleaning", "write_findings"]

_MOST_BYTES = 2**30


def write_findings(store_url: str, corpus: str, recordings: Mapping[str, Mapping[str, Any]]) -> str:
    """Writes what was found in each recording; returns the file's path below the store.

    Args:
        store_url: The store.
        corpus: Whose recordings.
        recordings: Key -> subject, session, n_windows, problems, cleaning and what quality says, in row order.
    """
    content = json.dumps({"recordings": recordings}, indent=1).encode()
    path = f"quality/{corpus}-{hashlib.sha256(content).hexdigest()[:16]}.json"
    storage.write_bytes(storage.join(store_url, path), content)
    return path


def read_findings(store_url: str, path: str) -> dict[str, dict[str, Any]]:
    """What `write_findings` was given."""
    content = storage.read_bytes(storage.join(store_url, path), at_most=_MOST_BYTES)
    recordings: dict[str, dict[str, Any]] = json.loads(content)["recordings"]
    return recordings


def sum_cleaning(reports: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Stages run, components removed by kind, and notes, with the number of recordings each applies to."""
    stages: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    for report in reports:
        stages.update(report["stages"])
        removed.update(report["removed"])
        notes.update(report["notes"])
    return {"stages": dict(stages), "removed": dict(removed), "notes": dict(notes)}
