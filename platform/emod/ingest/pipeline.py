"""Ingest on Ray Data: recordings of every corpus -> part files -> shards -> one manifest.

Each recording is one task of constant size, so memory is bounded by the recordings in flight and the work spreads over
a cluster. A part is there whole or not at all; an ingest run again finds finished recordings by their parts, and
corpora whose recordings, settings and code did not change by their fingerprint. Nothing of a new version is visible
before its manifest is.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray.data

import emod
from emod import storage
from emod.catalog import Experiment, fingerprint, load_emotion_words
from emod.corpora import Corpus, CorpusError, Problem, RecordingRef, open_corpus
from emod.errors import DataError, RequestError
from emod.ingest.recording import make_windows
from emod.shards import (
    CorpusEntry,
    Manifest,
    ShardEntry,
    group_parts,
    newest_manifest,
    pack_shard,
    publish,
    read_part_summary,
    write_part,
)

__all__ = ["IngestPlan", "ingest", "plan_ingest"]

# What turns recordings into windows: a change in any of these rooms makes a new version of every corpus.
_TABLE_BYTES = 2**20
_CODE = ("affect", "corpora", "ingest", "shards", "signal")


@dataclass(frozen=True)
class IngestPlan:
    """What one corpus needs.

    Attributes:
        corpus: Its name.
        root: Its top folder.
        simulated: Whether this copy was simulated.
        channels: Canonical electrode names.
        sfreq_hz: Rate of the windows.
        references: Its recordings.
        problems: What could not even be listed.
        fingerprint: Of recordings, settings and code together.
        entry: The store's entry where nothing changed, else None.
    """

    corpus: str
    root: str
    simulated: bool
    channels: tuple[str, ...]
    sfreq_hz: float
    references: tuple[RecordingRef, ...]
    problems: tuple[dict[str, str | None], ...]
    fingerprint: str
    entry: CorpusEntry | None


def plan_ingest(experiment: Experiment) -> list[IngestPlan]:
    """Lists what there is to do, decoding nothing.

    Raises:
        RequestError: If an address is missing or holds nothing of its corpus.
    """
    current = newest_manifest(experiment.addresses.store_url())
    plans = []
    for name in experiment.corpora:
        root = experiment.addresses.root_of(name)
        corpus = open_corpus(name, root, strict=experiment.ingest.strict)
        references = tuple(corpus.references())
        mark = _fingerprint(corpus, references, experiment)
        entry = current.corpora.get(name) if current else None
        plans.append(
            IngestPlan(
                corpus=name,
                root=root,
                simulated=corpus.simulated is not None,
                channels=corpus.channels,
                sfreq_hz=corpus.catalog.ingest_hz,
                references=references,
                problems=tuple(asdict(problem) for problem in corpus.problems),
                fingerprint=mark,
                entry=entry if entry is not None and entry.fingerprint == mark else None,
            )
        )
    return plans


def ingest(
    experiment: Experiment, plans: Sequence[IngestPlan], on_recording: Callable[[str], None] = lambda note: None
) -> Manifest:
    """Brings the store to what the experiment asks for. Ray must be running.

    Corpora of the store's last version that are not asked for stay, so a store grows corpus by corpus.

    Args:
        experiment: What to ingest and how.
        plans: From `plan_ingest`.
        on_recording: Called once for each recording that is done, with a few words about it.

    Returns:
        The store's newest manifest; the one that was there, if nothing had to be done.

    Raises:
        DataError: If a corpus yields no window. Nothing is published then.
        RequestError: If the store holds other corpora cleaned with other settings.
    """
    store_url = experiment.addresses.store_url()
    settings = experiment.signal.model_dump(mode="json")
    current = newest_manifest(store_url)
    kept = {} if current is None else {name: e for name, e in current.corpora.items() if name not in experiment.corpora}
    if current is not None and kept and current.settings != settings:
        raise RequestError(
            f"{store_url} holds {', '.join(sorted(kept))} cleaned with other signal settings; "
            "ingest them together with these or choose another store"
        )
    entries = {plan.corpus: plan.entry or _ingest_corpus(experiment, plan, store_url, on_recording) for plan in plans}
    if experiment.ingest.strict:
        for entry in entries.values():
            # Of an earlier run that was not strict: its parts and its entries are found again, with their problems.
            for problem in entry.problems:
                raise CorpusError(Problem(**problem))  # type: ignore[arg-type]
    manifest = Manifest(
        version=1 if current is None else current.version + 1,
        emod_version=emod.__version__,
        settings=settings,
        corpora=dict(sorted({**kept, **entries}.items())),
    )
    if current is not None and current.corpora == manifest.corpora:
        return current
    publish(store_url, manifest)
    for plan in plans:
        storage.remove_folder(_staging(store_url, plan))
    return manifest


def _ingest_corpus(
    experiment: Experiment, plan: IngestPlan, store_url: str, on_recording: Callable[[str], None]
) -> CorpusEntry:
    staging = _staging(store_url, plan)
    finished = storage.list_files(staging) if storage.exists(staging) else {}
    todo = [ref for ref in plan.references if _part_name(ref) not in finished]
    for ref in plan.references:
        if _part_name(ref) in finished:
            on_recording(f"{plan.corpus} {ref.key}: finished before")
    problems = list(plan.problems)
    for row in _run(todo, _RecordingTask(plan, experiment, staging), experiment.ingest.cpus_per_recording):
        problems += row["problems"]
        on_recording(f"{plan.corpus} {row['key']}: {row['n_windows']} windows")

    parts = storage.list_files(staging) if storage.exists(staging) else {}
    urls = {ref.key: storage.join(staging, _part_name(ref)) for ref in plan.references if _part_name(ref) in parts}
    summaries = {key: read_part_summary(url) for key, url in urls.items()}
    problems += [problem for summary in summaries.values() for problem in summary["problems"]]
    full = [key for key, summary in summaries.items() if summary["n_windows"]]
    if not full:
        first = f"; first problem: {problems[0]['source']}: {problems[0]['message']}" if problems else ""
        raise DataError(f"{plan.root}: corpus {plan.corpus} has no usable trial{first}; nothing was published")

    groups = group_parts([parts[f"{key}.arrow"] for key in full], experiment.ingest.shard_mb * 2**20)
    jobs = [{"number": number, "parts": [urls[full[index]] for index in group]} for number, group in enumerate(groups)]
    packed = {row["number"]: row["entry"] for row in _run(jobs, _PackTask(store_url, plan.corpus), 1.0)}
    shards = tuple(ShardEntry.model_validate_json(packed[number]) for number in range(len(jobs)))
    return CorpusEntry(
        fingerprint=plan.fingerprint,
        simulated=plan.simulated,
        channels=plan.channels,
        sfreq_hz=plan.sfreq_hz,
        window_s=experiment.signal.window_s,
        n_windows=sum(shard.rows for shard in shards),
        n_recordings=len(full),
        n_subjects=len({summaries[key]["subject"] for key in full}),
        shards=shards,
        problems=tuple(problems),
        cleaning=_sum_cleaning([summary["cleaning"] for summary in summaries.values()]),
    )


class _RecordingTask:
    """Reads, cleans and windows one recording and writes its part. What comes back is small."""

    def __init__(self, plan: IngestPlan, experiment: Experiment, staging: str) -> None:
        self._corpus = open_corpus(plan.corpus, plan.root)
        self._strict = experiment.ingest.strict
        self._signal = experiment.signal
        self._staging = staging

    def __call__(self, ref: RecordingRef) -> dict[str, Any]:
        try:
            recording = self._corpus.read(ref)
        except CorpusError as error:
            if self._strict:
                raise
            return {"key": ref.key, "n_windows": 0, "problems": [asdict(problem) for problem in error.problems]}
        if self._strict and recording.problems:
            raise CorpusError(recording.problems[0])
        made = make_windows(recording, self._corpus.catalog, self._signal)
        if self._strict and made.problems:
            raise CorpusError(made.problems[0])
        summary = {
            "subject": ref.subject,
            "n_windows": len(made.rows),
            "problems": [asdict(problem) for problem in made.problems],
            "cleaning": made.cleaning,
        }
        write_part(storage.join(self._staging, _part_name(ref)), made.windows, made.rows, summary)
        return {"key": ref.key, "n_windows": len(made.rows), "problems": []}


class _PackTask:
    """Packs one group of parts into a shard."""

    def __init__(self, store_url: str, corpus: str) -> None:
        self._store_url = store_url
        self._corpus = corpus

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        entry = pack_shard(self._store_url, f"shards/{self._corpus}", job["number"], job["parts"])
        return {"number": job["number"], "entry": entry.model_dump_json()}


def _run(items: Sequence[Any], task: Callable[[Any], dict[str, Any]], num_cpus: float) -> Iterator[dict[str, Any]]:
    """Runs a task for each item on Ray Data and yields what comes back, in the order of finishing.

    A request or data error inside a task stops the run with its own one-line message, not with a worker's traceback.
    """
    if not items:
        return

    def guarded(row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"result": json.dumps(task(items[row["item"]])), "error": "", "exit_code": 0}
        except (RequestError, DataError) as error:
            return {"result": "", "error": str(error), "exit_code": error.exit_code}

    rows = ray.data.from_items([{"item": i} for i in range(len(items))], override_num_blocks=len(items))
    for row in rows.map(guarded, num_cpus=num_cpus).iter_rows():
        if row["error"]:
            raise (RequestError if row["exit_code"] == RequestError.exit_code else DataError)(row["error"])
        yield json.loads(row["result"])


def _staging(store_url: str, plan: IngestPlan) -> str:
    return storage.join(store_url, "staging", f"{plan.corpus}-{plan.fingerprint[:16]}")


def _part_name(ref: RecordingRef) -> str:
    return f"{ref.key}.arrow"


def _sum_cleaning(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stages run, components removed by kind, and notes, with the number of recordings each applies to."""
    return {
        "stages": dict(Counter(stage for report in reports for stage in report["stages"])),
        "removed": dict(sum((Counter(report["removed"]) for report in reports), Counter())),
        "notes": dict(Counter(note for report in reports for note in report["notes"])),
    }


def _fingerprint(corpus: Corpus, references: Sequence[RecordingRef], experiment: Experiment) -> str:
    content = {
        "recordings": [(ref.key, storage.stamp(ref.source)) for ref in references],
        "tables": [(path, storage.stamp(storage.join(corpus.root, path))) for path in _small_files(corpus.root)],
        "catalog": fingerprint(corpus.catalog),
        "words": [word.model_dump() for word in load_emotion_words() if word.corpus == corpus.name],
        "signal": fingerprint(experiment.signal),
        "shard_mb": experiment.ingest.shard_mb,
        "code": _code_hash(),
        "libraries": {name: importlib.metadata.version(name) for name in ("mne", "numpy", "python-picard", "scipy")},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _small_files(root: str) -> list[str]:
    """Label tables, markers and the like: whatever may change a label and is no recording."""
    return [path for path, size in storage.list_files(root).items() if size < _TABLE_BYTES]


def _code_hash() -> str:
    package = Path(emod.__file__).parent
    digest = hashlib.sha256()
    rooms = sorted(path for room in _CODE for path in (package / room).rglob("*.py"))
    # The one catalog that computes: where the filter's edges lie at a rate.
    for path in [*rooms, package / "catalog" / "signal.py"]:
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()
