"""Ingest on Ray Data: recordings of every corpus -> part files -> shards -> one manifest.

Each recording is one task of constant size, so memory is bounded by the recordings in flight and the work spreads over
a cluster. A part is there whole or not at all, under a name that says what it was made from; an ingest run again finds
finished recordings by their parts, and corpora whose recordings, settings and code did not change by the store's own
entry. Tasks whose worker or node dies run again elsewhere. Nothing of a new version is visible before its manifest is.

A recording that could not be read is listed with its reason and tried again when its object, the settings or the code
change, or when the ingest that met it is run again before it has published.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import ray.data

import emod
from emod import storage
from emod.catalog import Experiment
from emod.corpora import Corpus, CorpusError, Problem, Recording, RecordingRef, open_corpus
from emod.errors import DataError, RequestError
from emod.ingest.findings import sum_cleaning, write_findings
from emod.ingest.fingerprint import corpus_fingerprint, recording_marks, treatment
from emod.ingest.recording import RecordingWindows, make_windows
from emod.ingest.staging import clear_staging, signs_of_life, staging_url
from emod.ingest.withdrawal import entry_without, withdrawal_problem
from emod.monitoring import count, log
from emod.shards import (
    CorpusEntry,
    Manifest,
    RecordingEntry,
    ShardEntry,
    ShardStore,
    group_parts,
    newest_manifest,
    pack_shard,
    publish_change,
    read_part_summary,
    write_part,
)

__all__ = [
    "IngestPlan",
    "RecordingReader",
    "check_cpus",
    "ingest",
    "plan_ingest",
    "plan_recordings",
    "settings_that_differ",
]

# A recording that takes its worker with it every time would be tried for ever.
_MOST_ATTEMPTS = 5
_ROUNDS = 5
_READS_AT_ONCE = 16


@dataclass(frozen=True)
class IngestPlan:
    """What one corpus needs.

    Attributes:
        corpus: Its name.
        root: Its top folder.
        simulated: Whether this copy was simulated.
        channels: Canonical electrode names.
        sfreq_hz: Rate of the windows.
        references: Its recordings, without those of subjects who withdrew.
        problems: What could not even be listed, and who withdrew.
        treatment: Of everything that turns recordings into windows.
        fingerprint: Of the treatment and the packing.
        marks: Key -> mark of each recording.
        entry: The store's entry where nothing changed, else None.
        damaged: Files of the store's entry for which it is made again though nothing changed: missing or cut off.
    """

    corpus: str
    root: str
    simulated: bool
    channels: tuple[str, ...]
    sfreq_hz: float
    references: tuple[RecordingRef, ...]
    problems: tuple[dict[str, str | None], ...]
    treatment: str
    fingerprint: str
    marks: dict[str, str]
    entry: CorpusEntry | None
    damaged: tuple[str, ...] = ()

    def is_done_by(self, entry: CorpusEntry | None) -> bool:
        """Whether an entry was made from these very recordings in this very way."""
        if entry is None or entry.fingerprint != self.fingerprint:
            return False
        return {key: recording.mark for key, recording in entry.recordings.items()} == self.marks


def plan_ingest(experiment: Experiment) -> list[IngestPlan]:
    """Lists what there is to do, decoding nothing.

    Raises:
        RequestError: If an address is missing or holds nothing of its corpus, a corpus lies where the store is, or the
            store holds other corpora cleaned with other settings.
    """
    store_url = experiment.addresses.store_url()
    roots = {name: experiment.addresses.root_of(name) for name in experiment.corpora}
    current = newest_manifest(store_url)
    _refuse_mixture(experiment, current)
    plans = []
    for name, root in roots.items():
        if storage.path_below(store_url, root) == "":
            raise RequestError(f"{store_url} is also addresses.data.{name}; give the store a folder of its own")
        plans.append(_compared(_plan_corpus(experiment, name, root, current), store_url, current))
    return plans


def plan_recordings(experiment: Experiment) -> list[IngestPlan]:
    """As `plan_ingest`, for whoever wants windows and no store: nothing is done yet.

    Who has withdrawn from the store at ``addresses.store``, where there is one, is left out.

    Raises:
        RequestError: If an address is missing or holds nothing of its corpus.
    """
    store_url = experiment.addresses.store
    current = newest_manifest(store_url) if store_url else None
    roots = {name: experiment.addresses.root_of(name) for name in experiment.corpora}
    return [replace(_plan_corpus(experiment, name, root, current), entry=None) for name, root in roots.items()]


def _plan_corpus(experiment: Experiment, name: str, root: str, current: Manifest | None) -> IngestPlan:
    """A plan with the store's entry, whatever that was made from."""
    corpus = open_corpus(name, root, strict=experiment.ingest.strict)
    everybody = corpus.references()
    references, problems = _consenting(corpus, everybody, current)
    objects = storage.list_objects(root)
    treated = treatment(corpus, everybody, experiment, objects)
    return IngestPlan(
        corpus=name,
        root=root,
        simulated=corpus.simulated is not None,
        channels=corpus.channels,
        sfreq_hz=corpus.catalog.ingest_hz,
        references=references,
        problems=problems,
        treatment=treated,
        fingerprint=corpus_fingerprint(treated, experiment),
        marks=recording_marks(corpus, references, treated, objects),
        entry=current.corpora.get(name) if current else None,
    )


def _compared(plan: IngestPlan, store_url: str, current: Manifest | None) -> IngestPlan:
    """A plan with the store's entry where that was made from the same and is whole, else without."""
    if current is None or not plan.is_done_by(plan.entry):
        return replace(plan, entry=None)
    damaged = ShardStore(store_url, current).damaged_files(plan.corpus)
    return replace(plan, entry=None, damaged=damaged) if damaged else plan


def _consenting(
    corpus: Corpus, references: Sequence[RecordingRef], current: Manifest | None
) -> tuple[tuple[RecordingRef, ...], tuple[dict[str, str | None], ...]]:
    """The recordings of a copy without those of subjects who withdrew, and what there is to say about the rest."""
    withdrawn = set(current.withdrawn.get(corpus.name, ())) if current else set()
    gone = [withdrawal_problem(ref.source, ref.subject) for ref in references if ref.subject in withdrawn]
    kept = tuple(ref for ref in references if ref.subject not in withdrawn)
    return kept, tuple(asdict(problem) for problem in [*corpus.problems, *gone])


def ingest(
    experiment: Experiment, plans: Sequence[IngestPlan], on_recording: Callable[[str], None] = lambda note: None
) -> Manifest:
    """Brings the store to what the experiment asks for. Ray must be running.

    Corpora of the store's last version that are not asked for stay, so a store grows corpus by corpus. Others may
    ingest into the store at the same time: see `emod.shards.versions`. Where two bring the same corpus, one of them
    is the newest, whole.

    Args:
        experiment: What to ingest and how.
        plans: From `plan_ingest`.
        on_recording: Called once for each recording that is done, with a few words about it.

    Returns:
        The store's newest manifest; the one that was there, if nothing had to be done.

    What is damaged of a corpus that did not change is written again; its version stays where it comes out the same.

    Raises:
        DataError: If a corpus yields no window. Nothing is published then.
        RequestError: If the store holds other corpora cleaned with other settings, or as `check_cpus`.
    """
    store_url = experiment.addresses.store_url()
    todo = [plan for plan in plans if plan.entry is None]
    if todo:
        check_cpus(experiment)
    folders = [_staging(store_url, plan) for plan in todo]
    # What a store cannot do is found out before hours are spent.
    exclusive = bool(todo) and storage.honours_create(staging_url(store_url))
    with signs_of_life(folders):
        made = {plan.corpus: _ingest_corpus(experiment, plan, store_url, on_recording) for plan in todo}
        if experiment.ingest.strict:
            # Of an earlier run that was not strict: its parts and its entries are found again, with their problems.
            for entry in [*(plan.entry for plan in plans if plan.entry), *made.values()]:
                _refuse_problems(entry)

        def change(current: Manifest | None) -> Manifest | None:
            _refuse_mixture(experiment, current)
            corpora, withdrawn = (current.corpora, current.withdrawn) if current else ({}, {})
            for name, entry in made.items():
                if gone := entry.subjects & set(withdrawn.get(name, ())):  # since this ingest was planned
                    if (others := entry_without(store_url, name, entry, gone)) is None:
                        raise DataError(f"{store_url}: every subject of {name} has withdrawn; nothing was published")
                    made[name] = others
            if all(corpora.get(name) == entry for name, entry in made.items()):
                return None
            return Manifest(
                version=1,
                emod_version=emod.__version__,
                settings=experiment.signal.model_dump(mode="json"),
                corpora=dict(sorted({**corpora, **made}.items())),
                brought=tuple(sorted(made)),
                withdrawn=withdrawn,
            )

        manifest = publish_change(store_url, change, exclusive=exclusive)
    assert manifest is not None, "either there was a version or one was published"
    if not manifest.corpora.keys() >= made.keys():
        raise RequestError(
            f"{store_url}: an ingest with other signal settings has published at the same moment; run this one again"
        )
    with suppress(RequestError):  # all is published; what is left lying about is removed by the next
        clear_staging(store_url, folders, [plan.corpus for plan in plans])
    return manifest


def check_cpus(experiment: Experiment) -> None:
    """Whether a recording gets the CPUs that it is to have: Ray waits for ever, and in silence, for what is not there.

    Before Ray runs, it is compared with the cluster that Ray would start here. A cluster that is not this process' own
    may grow, so there it is only said.

    Raises:
        RequestError: If no node has as many.
    """
    wanted, foreign = experiment.ingest.cpus_per_recording, bool(os.environ.get("RAY_ADDRESS"))
    if ray.is_initialized():
        # A task runs on one node, however many there are.
        has = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
    elif foreign:
        return
    else:
        has = ray._private.utils.get_num_cpus()
    if wanted <= has:
        return
    message = f"ingest.cpus_per_recording is {wanted:g} and the largest node of the cluster has {has:g} CPU"
    if not foreign:
        raise RequestError(f"{message}; set it to what is there")
    print(f"{message}; waiting for it to grow", file=sys.stderr)


def _refuse_mixture(experiment: Experiment, current: Manifest | None) -> None:
    asked = experiment.signal.model_dump(mode="json")
    if current is None or current.settings == asked:
        return
    if kept := sorted(current.corpora.keys() - set(experiment.corpora)):
        different = "; ".join(settings_that_differ("signal", current.settings, asked))
        raise RequestError(
            f"{experiment.addresses.store_url()} holds {', '.join(kept)} cleaned with other signal settings: "
            f"{different}; set them so, ingest all of its corpora together, or choose another store"
        )


def settings_that_differ(name: str, there: Any, asked: Any, *, here: str = "here") -> list[str]:
    """Each setting that differs, with both values."""
    if isinstance(there, dict) and isinstance(asked, dict):
        keys = sorted(there.keys() | asked.keys())
        pairs = ((f"{name}.{key}", there.get(key), asked.get(key)) for key in keys)
        return [line for pair in pairs for line in settings_that_differ(*pair, here=here)]
    return [] if there == asked else [f"{name} is {there} there and {asked} {here}"]


def _refuse_problems(entry: CorpusEntry) -> None:
    for problem in (Problem(**fields) for fields in entry.problems):  # type: ignore[arg-type]
        if not problem.known:
            raise CorpusError(problem)


def _ingest_corpus(
    experiment: Experiment, plan: IngestPlan, store_url: str, on_recording: Callable[[str], None]
) -> CorpusEntry:
    """The corpus' entry, all its shards written.

    Its parts vanish where an ingest of the very same recordings, running beside this one, has published them: then
    that one's entry is the answer.
    """
    for _ in range(_ROUNDS):
        try:
            return _pack_corpus(experiment, plan, store_url, _finish_recordings(experiment, plan, on_recording))
        except storage.NoSuchObjectError:
            current = newest_manifest(store_url)
            done = (
                _compared(replace(plan, entry=current.corpora.get(plan.corpus)), store_url, current)
                if current
                else plan
            )
            if done.entry is not None:
                return done.entry
    raise DataError(
        f"{_staging(store_url, plan)}: finished recordings vanish from it; see what removes them, then run again"
    )


def _finish_recordings(
    experiment: Experiment, plan: IngestPlan, on_recording: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Key -> what is known of each recording, in recording order, once every one has its part or its reason."""
    staging = _staging(experiment.addresses.store_url(), plan)
    found = _read_summaries(plan, staging)
    for key in found:
        on_recording(f"{plan.corpus} {key}: finished before")
    count("recordings", len(found), run=experiment.name, corpus=plan.corpus, ended="before")
    todo = [ref for ref in plan.references if ref.key not in found]
    failed = {}
    for row in _run(todo, _RecordingTask(plan, experiment, staging), experiment.ingest.cpus_per_recording):
        _tell_operator(experiment.name, plan.corpus, row)
        if not row["n_windows"]:
            failed[row["key"]] = row["problems"]
        on_recording(f"{plan.corpus} {row['key']}: {row['n_windows']} windows")
    found = _read_summaries(plan, staging) if todo else found
    summaries = {}
    for ref in plan.references:
        if ref.key in found:
            summaries[ref.key] = found[ref.key]
        elif ref.key in failed:
            summaries[ref.key] = {"n_windows": 0, "problems": failed[ref.key], "cleaning": None, "quality": {}}
        else:
            raise storage.NoSuchObjectError(f"{staging}: the part of {ref.key} has vanished; run again")
    return summaries


def _read_summaries(plan: IngestPlan, staging: str) -> dict[str, dict[str, Any]]:
    """Key -> summary of each part that is there and whole, with its size in bytes."""
    there = storage.list_files(staging) if storage.exists(staging) else {}
    names = {ref.key: name for ref in plan.references if (name := _part_name(plan, ref)) in there}
    with ThreadPoolExecutor(_READS_AT_ONCE) as reads:
        summaries = reads.map(_read_whole, (storage.join(staging, name) for name in names.values()))
        return {
            key: {**summary, "bytes": there[name]}
            for (key, name), summary in zip(names.items(), summaries, strict=True)
            if summary is not None
        }


def _read_whole(url: str) -> dict[str, Any] | None:
    """Summary of a part; None where it is not there, or a crash of the machine has left half of it."""
    try:
        return read_part_summary(url)
    except (storage.NoSuchObjectError, pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
        if isinstance(error, RequestError) and not isinstance(error, storage.NoSuchObjectError):
            raise
        return None


def _pack_corpus(
    experiment: Experiment, plan: IngestPlan, store_url: str, summaries: dict[str, dict[str, Any]]
) -> CorpusEntry:
    problems = [*plan.problems, *(problem for summary in summaries.values() for problem in summary["problems"])]
    references = {ref.key: ref for ref in plan.references}
    full = [key for key, summary in summaries.items() if summary["n_windows"]]
    if not full:
        first = f"; first problem: {problems[0]['source']}: {problems[0]['message']}" if problems else ""
        raise DataError(f"{plan.root}: corpus {plan.corpus} has no usable trial{first}; nothing was published")

    urls = [storage.join(_staging(store_url, plan), _part_name(plan, references[key])) for key in full]
    groups = group_parts([summaries[key]["bytes"] for key in full], experiment.ingest.shard_mb * 2**20)
    jobs = [{"number": number, "parts": [urls[index] for index in group]} for number, group in enumerate(groups)]
    packed = {row["number"]: row["entry"] for row in _run(jobs, _PackTask(store_url, plan.corpus), 1.0)}
    shards = tuple(ShardEntry.model_validate_json(packed[number]) for number in range(len(jobs)))
    who = {key: {"subject": ref.subject, "session": ref.session} for key, ref in references.items()}
    findings = {
        key: {
            **who[key],
            "n_windows": summary["n_windows"],
            "problems": summary["problems"],
            "cleaning": summary["cleaning"],
            **summary["quality"],
        }
        for key, summary in summaries.items()
    }
    return CorpusEntry(
        fingerprint=plan.fingerprint,
        simulated=plan.simulated,
        channels=plan.channels,
        sfreq_hz=plan.sfreq_hz,
        window_s=experiment.signal.window_s,
        n_windows=sum(shard.rows for shard in shards),
        n_recordings=len(full),
        n_subjects=len({references[key].subject for key in full}),
        shards=shards,
        problems=tuple(problems),
        cleaning=sum_cleaning(summary["cleaning"] for summary in summaries.values() if summary["cleaning"]),
        recordings={
            key: RecordingEntry(**who[key], mark=plan.marks[key], n_windows=summary["n_windows"])
            for key, summary in summaries.items()
        },
        quality=write_findings(store_url, plan.corpus, findings),
    )


class RecordingReader:
    """Reads, cleans and windows recordings of one corpus, each in a Ray task.

    Args:
        plan: Of the corpus.
        experiment: Its signal settings, and whether the first problem stops everything.
    """

    def __init__(self, plan: IngestPlan, experiment: Experiment) -> None:
        self._corpus = open_corpus(plan.corpus, plan.root)
        self._strict = experiment.ingest.strict
        self._signal = experiment.signal

    def make_windows(self, ref: RecordingRef) -> RecordingWindows | tuple[Problem, ...]:
        """The windows of a recording; why there are none, where nothing of it can be used.

        Raises:
            CorpusError: At the first problem, where the experiment is strict.
            RequestError, DataError: If the store of the recordings fails.
        """
        try:
            recording = self._read(ref)
        except CorpusError as error:
            if self._strict:
                raise
            return error.problems
        self._refuse(recording.problems)
        made = make_windows(recording, self._corpus.catalog, self._signal)
        self._refuse(made.problems)
        return made

    def _read(self, ref: RecordingRef) -> Recording:
        """The recording. An object that is gone, or that kills whoever reads it, is a problem of this recording only.

        Raises:
            CorpusError: If nothing of it can be used.
            RequestError: If the store fails; the message has no URL that may hold a name.
        """
        if (attempt := _attempt()) >= _MOST_ATTEMPTS:
            message = f"{attempt} workers died over it; check the object and the memory of the nodes"
            raise CorpusError(ref.problem("unreadable", message))
        try:
            return self._corpus.read(ref)
        except storage.NoSuchObjectError:
            message = "the object, or a table that belongs to it, is not there; copy it again"
        except (RequestError, DataError) as error:
            if isinstance(error, CorpusError) or not ref.objects:
                raise
            raise type(error)(_without_names(str(error), ref)) from None
        raise CorpusError(ref.problem("unreadable", message))

    def _refuse(self, problems: Sequence[Problem]) -> None:
        if self._strict and (wrong := [problem for problem in problems if not problem.known]):
            raise CorpusError(wrong[0])


class _RecordingTask(RecordingReader):
    """Writes the part of one recording. What comes back is small."""

    def __init__(self, plan: IngestPlan, experiment: Experiment, staging: str) -> None:
        super().__init__(plan, experiment)
        self._plan = plan
        self._staging = staging

    def __call__(self, ref: RecordingRef) -> dict[str, Any]:
        url = storage.join(self._staging, _part_name(self._plan, ref))
        # By an earlier attempt whose worker died after it, or by an ingest beside this one.
        if storage.exists(url) and (summary := _read_whole(url)) is not None:
            return _row(ref, summary["n_windows"], summary["problems"])
        made = self.make_windows(ref)
        if not isinstance(made, RecordingWindows):
            return _row(ref, 0, [asdict(problem) for problem in made])
        summary = {
            "subject": ref.subject,
            "n_windows": len(made.rows),
            "problems": [asdict(problem) for problem in made.problems],
            "cleaning": made.cleaning,
            "quality": made.quality,
        }
        write_part(url, made.windows, made.rows, summary)
        return _row(ref, len(made.rows), summary["problems"])


def _row(ref: RecordingRef, n_windows: int, problems: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"key": ref.key, "n_windows": n_windows, "problems": list(problems)}


def _tell_operator(run: str, corpus: str, row: dict[str, Any]) -> None:
    codes = [problem["code"] for problem in row["problems"]]
    n_windows = row["n_windows"]
    log("recording finished", run=run, corpus=corpus, recording=row["key"], windows=n_windows, problems=codes)
    count("recordings", run=run, corpus=corpus, ended="windows" if n_windows else "nothing")
    count("windows", n_windows, run=run, corpus=corpus)
    for code in codes:
        count("problems", run=run, corpus=corpus, code=code)


class _PackTask:
    """Packs one group of parts into a shard."""

    def __init__(self, store_url: str, corpus: str) -> None:
        self._store_url = store_url
        self._corpus = corpus

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        entry = pack_shard(self._store_url, f"shards/{self._corpus}", job["number"], job["parts"])
        return {"number": job["number"], "entry": entry.model_dump_json()}


_ERRORS: dict[str, type[RequestError | DataError]] = {
    kind.__name__: kind for kind in (storage.NoSuchObjectError, RequestError, DataError)
}


def _run(items: Sequence[Any], task: Callable[[Any], dict[str, Any]], num_cpus: float) -> Iterator[dict[str, Any]]:
    """Runs a task for each item on Ray Data and yields what comes back, in the order of finishing.

    A request or data error inside a task stops the run with its own one-line message, not with a worker's traceback,
    and is not tried again: it travels as a row. What Ray does try again is a task whose worker or node has died.
    """
    if not items:
        return

    def guarded(row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"result": json.dumps(task(items[row["item"]])), "kind": "", "message": ""}
        except (RequestError, DataError) as error:
            kind = next(name for name, known in _ERRORS.items() if isinstance(error, known))
            return {"result": "", "kind": kind, "message": str(error)}

    rows = ray.data.from_items([{"item": i} for i in range(len(items))], override_num_blocks=len(items))
    # Read ahead, each result would be held back until the next one is there: hours, for long recordings.
    results = rows.map(guarded, num_cpus=num_cpus)
    done = results.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow")
    for row in (row for table in done for row in table.to_pylist()):
        if row["kind"]:
            raise _ERRORS[row["kind"]](row["message"])
        yield json.loads(row["result"])


def _attempt() -> int:
    """How often this very task has been started before: each time its worker or node died."""
    worker = ray._private.worker.global_worker
    return int(worker.core_worker.get_current_task_attempt_number()) if worker.connected else 0


def _staging(store_url: str, plan: IngestPlan) -> str:
    return staging_url(store_url, f"{plan.corpus}-{plan.treatment[:16]}")


def _part_name(plan: IngestPlan, ref: RecordingRef) -> str:
    return f"{ref.key}-{plan.marks[ref.key]}.arrow"


def _without_names(message: str, ref: RecordingRef) -> str:
    """A store's message about objects whose names nobody may see."""
    for url in ref.objects:
        for name in (storage.redact(url), url.partition("://")[2] or url, url.rpartition("/")[2]):
            message = message.replace(name, ref.source)
    return message
