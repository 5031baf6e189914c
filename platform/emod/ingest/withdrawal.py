"""Subjects who withdrew their consent: a version of the store without them, and where they are still to be found.

The recordings themselves are not touched: whoever holds a copy must remove them there. Nothing here needs Ray.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import emod
from emod import storage
from emod.corpora import READERS, Corpus, Problem
from emod.errors import RequestError
from emod.ingest.findings import read_findings, sum_cleaning, write_findings
from emod.ingest.report import report_path
from emod.ingest.staging import staging_url
from emod.shards import (
    CorpusEntry,
    Manifest,
    ShardEntry,
    cached_copy,
    drop_subjects,
    list_manifests,
    newest_manifest,
    publish_change,
    read_manifest,
    read_part_summary,
)

__all__ = [
    "Remains",
    "check_subjects",
    "entry_without",
    "find_remains",
    "purge",
    "subject_ids",
    "withdraw",
    "withdrawal_problem",
]


def subject_ids(corpus: str, given: Iterable[str]) -> tuple[str, ...]:
    """Ids as the store holds them, sorted; a name becomes its pseudonym, and is told nowhere."""
    return tuple(sorted({_reader(corpus).subject_id(name) for name in given}))


def _reader(corpus: str) -> type[Corpus]:
    """Of a corpus without a module of its own, whose catalog may be gone, the contract's."""
    return READERS.get(corpus, Corpus)


def withdrawal_problem(source: str, subject: str) -> Problem:
    """The entry that tells why recordings of a subject are not in the store."""
    return Problem(source, subject, None, "left_out", "withdrew consent; never ingested into this store again")


def entry_without(store_url: str, corpus: str, entry: CorpusEntry, subjects: Collection[str]) -> CorpusEntry | None:
    """A corpus without some subjects: the entry itself if it holds none of them, None if it holds nobody else.

    Shards that hold them are written anew, the others are kept. What an ingest of the others alone would find is
    found in it: the same rows in the same order, and recordings with the same marks.
    """
    shards = [(shard, drop_subjects(store_url, shard, subjects)) for shard in entry.shards]
    kept = tuple(after for _, after in shards if after is not None)
    if kept == entry.shards and not entry.subjects & set(subjects):
        return entry
    if not kept:
        return None
    others = [row for shard in kept for row in _who(store_url, shard)]
    touched = [shard for shard, after in shards if after is not shard]
    sources = {row["subject"]: row["source"] for shard in touched for row in _who(store_url, shard)}
    gone = [withdrawal_problem(sources.get(subject, corpus), subject) for subject in sorted(subjects)]
    changes: dict[str, Any] = {
        "n_windows": sum(shard.rows for shard in kept),
        "n_subjects": len({row["subject"] for row in others}),
        "n_recordings": len({(row["subject"], row["session"]) for row in others}),
        "shards": kept,
        "problems": (
            *(problem for problem in entry.problems if problem["subject"] not in subjects),
            *(asdict(problem) for problem in gone),
        ),
        "recordings": {key: one for key, one in entry.recordings.items() if one.subject not in subjects},
    }
    if entry.quality is not None:
        findings = read_findings(store_url, entry.quality)
        rest = {key: found for key, found in findings.items() if found["subject"] not in subjects}
        changes["quality"] = write_findings(store_url, corpus, rest)
        changes["cleaning"] = sum_cleaning(found["cleaning"] for found in rest.values() if found["cleaning"])
    return entry.model_copy(update=changes)


def check_subjects(store_url: str, corpus: str, subjects: Sequence[str]) -> tuple[Manifest, dict[str, int]]:
    """The newest version, and how many windows it holds of each subject.

    Raises:
        RequestError: If the store is none, lacks the corpus, or has never heard of a subject.
    """
    current = newest_manifest(store_url)
    if current is None:
        raise RequestError(f"{storage.redact(store_url)}: no shard store here (no manifest); check the URL")
    entry, withdrawn = current.corpora.get(corpus), set(current.withdrawn.get(corpus, ()))
    if entry is None and not withdrawn:
        held = ", ".join(sorted(current.corpora))
        raise RequestError(f"corpus {corpus!r} is not in the store {storage.redact(store_url)}; it holds {held}")
    counts = dict.fromkeys((entry.subjects if entry else frozenset()) | withdrawn, 0)
    for shard in entry.shards if entry else ():
        for row in _who(store_url, shard):
            counts[row["subject"]] = counts.get(row["subject"], 0) + 1
    for subject in subjects:
        if subject not in counts:
            near = difflib.get_close_matches(subject, counts, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            if _reader(corpus).has_pseudonyms:  # one pseudonym that looks like another is somebody else's
                hint = "give the name exactly as its folder has it, or the pseudonym; "
            raise RequestError(
                f"subject {subject!r} is not in corpus {corpus} of {storage.redact(store_url)}; {hint}it holds "
                f"{', '.join(sorted(counts))}"
            )
    return current, {subject: counts[subject] for subject in subjects}


def withdraw(store_url: str, corpus: str, subjects: Sequence[str]) -> Manifest:
    """Publishes a version without any window of these subjects, which also keeps later ingests from reading them.

    Returns:
        The newest version; the one that was there if they are out of it already.

    Raises:
        RequestError: As `check_subjects`.
    """
    check_subjects(store_url, corpus, subjects)

    def change(current: Manifest | None) -> Manifest | None:
        assert current is not None, "manifests are never removed but for a newer one"
        corpora = dict(current.corpora)
        known = set(current.withdrawn.get(corpus, ()))
        before = corpora.pop(corpus, None)
        after = before and entry_without(store_url, corpus, before, subjects)
        if after == before and known >= set(subjects):
            return None
        return current.model_copy(
            update={
                "emod_version": emod.__version__,
                "corpora": dict(sorted({**corpora, **({corpus: after} if after else {})}.items())),
                "brought": (corpus,),
                "withdrawn": dict(sorted({**current.withdrawn, corpus: tuple(sorted(known | set(subjects)))}.items())),
            }
        )

    exclusive = storage.honours_create(staging_url(store_url))
    while True:
        manifest = publish_change(store_url, change, exclusive=exclusive)
        assert manifest is not None
        # An ingest that published at the same moment may have won where the store cannot tell who was first.
        if change(manifest) is None:
            return manifest


@dataclass(frozen=True)
class Remains:
    """Where subjects who withdrew are still to be found.

    Attributes:
        manifests: Name -> versions that hold or name them, newest first.
        files: Paths below the store: shards, findings, finished and half-written recordings, reports.
        copies: Paths of this machine: shards in the cache.
    """

    manifests: dict[str, Manifest]
    files: tuple[str, ...]
    copies: tuple[str, ...]


def find_remains(store_url: str, corpus: str, subjects: Collection[str]) -> Remains:
    """Looks into every file of the corpus, whoever wrote it and whether or not a version names it.

    A file that cannot be read as what it should be may hold them, and is listed.
    """
    files = tuple(
        path for path in storage.list_files(store_url) if _is_of(path, corpus) and _holds(store_url, path, subjects)
    )
    versions = {name: read_manifest(store_url, name) for name in list_manifests(store_url)}
    named = {
        name: manifest for name, manifest in versions.items() if _names(manifest.corpora.get(corpus), subjects, files)
    }
    copies = {
        str(copy)
        for manifest in named.values()
        for shard in manifest.corpora[corpus].shards
        for path, sha256 in ((shard.tensors, shard.tensors_sha256), (shard.metadata, shard.metadata_sha256))
        if path in files and (copy := cached_copy(path, sha256)).is_file()
    }
    listed = storage.list_files(store_url)
    reports = tuple(path for manifest in named.values() if (path := report_path(manifest)) in listed)
    return Remains(named, files + reports, tuple(sorted(copies)))


def purge(store_url: str, remains: Remains) -> None:
    """Removes what `find_remains` found. Versions go first: each is readable whole until it is gone."""
    for path in (*remains.manifests, *remains.files):
        storage.remove_folder(storage.join(store_url, path))
    for copy in remains.copies:
        Path(copy).unlink(missing_ok=True)


def _who(store_url: str, shard: ShardEntry) -> Iterator[dict[str, str]]:
    """Subject, session and source of each window of a shard."""
    with storage.open_binary(storage.join(store_url, shard.metadata)) as stream:
        table = pq.read_table(pa.BufferReader(stream.read()), columns=["subject", "session", "source"])
    yield from table.to_pylist()


def _is_of(path: str, corpus: str) -> bool:
    return path.startswith((f"shards/{corpus}/", f"staging/{corpus}-", f"quality/{corpus}-"))


def _holds(store_url: str, path: str, subjects: Collection[str]) -> bool:
    """Whether a file of the store holds one of the subjects, or cannot be read."""
    url = storage.join(store_url, path)
    try:
        if path.startswith("staging/"):
            return not path.endswith("/alive") and read_part_summary(url)["subject"] in subjects
        if path.startswith("quality/"):
            return any(found["subject"] in subjects for found in read_findings(store_url, path).values())
        with storage.open_binary(url) as stream:
            if path.endswith(".parquet"):
                return not set(subjects).isdisjoint(pq.read_table(stream, columns=["subject"])["subject"].to_pylist())
            ids_only = pa.ipc.IpcReadOptions(included_fields=[0])
            with pa.ipc.open_file(pa.PythonFile(stream, mode="r"), options=ids_only) as reader:
                ids = reader.read_all()["window_id"].to_pylist()
        return any(window_id.split("/")[1] in subjects for window_id in ids)
    except storage.NoSuchObjectError:
        return False  # gone since it was listed
    except (pa.ArrowException, json.JSONDecodeError, KeyError, ValueError, OSError) as error:
        if isinstance(error, RequestError):
            raise
        return True


def _names(entry: CorpusEntry | None, subjects: Collection[str], files: Collection[str]) -> bool:
    if entry is None:
        return False
    paths = {path for shard in entry.shards for path in (shard.tensors, shard.metadata)}
    return bool(entry.subjects & set(subjects)) or not paths.isdisjoint(files)
