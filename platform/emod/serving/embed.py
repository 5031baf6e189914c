"""Batch embedding on Ray Data: windows -> a registered model, held by actors -> Parquet objects -> one summary.

    OUT/claim.json                       what model and what windows: nothing else may be written here
    OUT/windows/<corpus>/<piece>.parquet   answers to one piece (`emod.serving.pieces`), whole or not there
    OUT/embedding.json                   counts, flags and problems, written last: with it the embedding is whole

Of a store an actor reads its own shards, one batch ahead of the model. Recordings are read and cleaned in tasks of
their own, on whatever CPUs there are, so that a GPU is not kept waiting by filters. An embedding that was stopped goes
on with the pieces that have no object.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import ray
import ray.data
import torch
from ray.exceptions import RayActorError
from ray.util.annotations import RayDeprecationWarning

import emod
from emod import storage
from emod.catalog import Experiment, fingerprint
from emod.corpora import RecordingRef
from emod.errors import DataError, RequestError
from emod.ingest import IngestPlan, RecordingReader, RecordingWindows
from emod.serving.answers import IDENTITY, encode_answers, identity_of, read_summary
from emod.serving.pieces import Piece, RowsPiece, Windows, recordings_to_embed, store_to_embed
from emod.shards import Manifest, ShardStore
from emod.tracking import Registered, Servable, fetch_registered, registry_uri
from emod.training.launch import KEEP_MEMORY, check_room, claim_folder

__all__ = ["Embedded", "claim_embedding", "embed", "find_model", "list_windows"]

OBJECTS = "windows"
SUMMARY = "embedding.json"

# A piece that takes its worker with it every time would be tried for ever.
_MOST_RETRIES = 4
_READS_AT_ONCE = 16
# One at work, one waiting: more would wait behind a slow worker at the end.
_PIECES_AT_ONCE = 2


@dataclass(frozen=True)
class Embedded:
    """A whole embedding.

    Attributes:
        out: Its folder.
        summary: What ``embedding.json`` holds.
        computed: Objects that were written now.
        removed: Objects that were removed: of recordings that changed, are gone or were withdrawn.
    """

    out: str
    summary: dict[str, Any]
    computed: int
    removed: int


def find_model(experiment: Experiment, wanted: str) -> Registered:
    """The registered model that ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` names now.

    Raises:
        RequestError: If there is none, or nobody to ask.
        DataError: If what is registered is damaged.
    """
    return fetch_registered(registry_uri(experiment), wanted, field="--model")


def list_windows(
    experiment: Experiment, model: Registered, corpora: Sequence[str] | None, *, recordings: bool
) -> tuple[Experiment, Windows]:
    """What is to be embedded, and the experiment with the model's signal settings.

    Args:
        experiment: With addresses.
        model: What embeds it.
        corpora: Which; None: all of the store, or of the experiment's recordings.
        recordings: Straight from recordings instead of from the store.

    Raises:
        RequestError: As `store_to_embed` and `recordings_to_embed`.
    """
    settings = model.servable.card.settings
    cleaned = experiment.model_copy(update={"signal": settings})
    found = recordings_to_embed(cleaned, corpora) if recordings else store_to_embed(cleaned, corpora, settings)
    return cleaned, found


def claim_embedding(out: str, model: Registered, windows: Windows) -> None:
    """Ties a folder to a model and to windows: answers of two models look alike.

    Raises:
        RequestError: If the folder holds an embedding of another model or of other windows, or something else.
    """
    objects = storage.join(out, OBJECTS)
    if not storage.exists(storage.join(out, "claim.json")) and storage.exists(objects) and storage.list_files(objects):
        raise RequestError(f"{storage.redact(objects)} holds files that no embedding has written; choose another --out")
    card = model.servable.card
    claim = {
        "room": "embed",
        "model": model.name,
        "version": model.version,
        "weights": model.weights,
        "card": fingerprint(card),
        "source": windows.source,
        "corpora": list(windows.corpora),
        **windows.identity,
    }
    _, difference = claim_folder(out, claim)
    if difference:
        raise RequestError(
            f"{storage.redact(out)} was made with {difference}; choose another --out, set it back, or remove it"
        )


def embed(
    experiment: Experiment,
    model: Registered,
    windows: Windows,
    out: str,
    on_piece: Callable[[int, str], None] = lambda steps, note: None,
) -> Embedded:
    """Brings the folder to what is asked for; what is there already is kept. Ray must be running.

    Args:
        experiment: From `list_windows`.
        model: The same that listed the windows.
        windows: From `list_windows`.
        out: Any URL fsspec writes.
        on_piece: Called once for each piece that is done, with what it advances a bar by and a few words.

    Raises:
        RequestError: As `claim_embedding`, or if the cluster has no room for the workers.
        DataError: If a corpus has no window that could be used; the summary is not written then.
    """
    claim_embedding(out, model, windows)
    folder = storage.join(out, OBJECTS)
    found = _read_summaries(folder, windows.pieces)
    todo = [piece for piece in windows.pieces if piece.path not in found]
    for piece in windows.pieces:
        if piece.path in found:
            on_piece(piece.steps, f"{piece.path}: finished before")
    summary_url = storage.join(out, SUMMARY)
    if todo:
        storage.remove_folder(summary_url)
    about = _describe(model, windows)
    failed: dict[str, list[dict[str, str | None]]] = {}
    for receipt in _run(experiment, model.servable, windows, todo, folder, about):
        piece = todo[receipt["piece"]]
        if receipt["summary"] is None:
            failed[piece.path] = receipt["problems"]
            on_piece(piece.steps, f"{piece.path}: not read")
        else:
            found[piece.path] = receipt["summary"]
            on_piece(piece.steps, f"{piece.path}: {receipt['summary']['n_windows']} windows")
    summary = _summarise(out, model, windows, found, failed)
    strays = [] if not storage.exists(folder) else sorted(storage.list_files(folder).keys() - found.keys())
    for path in strays:
        storage.remove_folder(storage.join(folder, path))
    encoded = json.dumps(summary, indent=1).encode()
    if todo or strays or not storage.exists(summary_url):
        storage.write_bytes(summary_url, encoded)
    return Embedded(out, summary, len(todo) - len(failed), len([path for path in strays if path.endswith(".parquet")]))


def _describe(model: Registered, windows: Windows) -> dict[str, str]:
    """What made the answers, for the header of each object."""
    trained_on = model.servable.card.trained_on
    return {
        "version": emod.__version__,
        "model": f"models:/{model.name}/{model.version}",
        "weights": model.weights,
        "simulated": "true" if trained_on.simulated or windows.simulated else "false",
        "windows": json.dumps({"source": windows.source, **windows.identity}),
    }


def _read_summaries(folder: str, pieces: Sequence[Piece]) -> dict[str, dict[str, Any]]:
    """Path -> what each object that is there and whole says of its piece."""
    there = storage.list_files(folder) if storage.exists(folder) else {}
    paths = [piece.path for piece in pieces if piece.path in there]
    with ThreadPoolExecutor(_READS_AT_ONCE) as reads:
        summaries = reads.map(lambda path: read_summary(storage.join(folder, path)), paths)
        return {path: found for path, found in zip(paths, summaries, strict=True) if found is not None}


def _summarise(
    out: str,
    model: Registered,
    windows: Windows,
    found: dict[str, dict[str, Any]],
    failed: dict[str, list[dict[str, str | None]]],
) -> dict[str, Any]:
    """What ``embedding.json`` holds.

    Raises:
        DataError: If a corpus has no window.
    """
    corpora: dict[str, dict[str, Any]] = {}
    problems = list(windows.problems)
    for name in windows.corpora:
        paths = [piece.path for piece in windows.pieces if piece.corpus == name]
        read = [found[path] for path in paths if path in found]
        own = [problem for path in paths for problem in (found[path]["problems"] if path in found else failed[path])]
        flags: Counter[str] = Counter()
        for summary in read:
            flags.update(summary["flags"])
        count = sum(summary["n_windows"] for summary in read)
        if not count:
            first = "".join(f"; first problem: {problem['source']}: {problem['message']}" for problem in own[:1])
            raise DataError(f"corpus {name} has no usable window{first}; {storage.redact(out)} has no {SUMMARY}")
        corpora[name] = {"windows": count, "objects": len(read), "flags": dict(sorted(flags.items()))}
        problems += own
    card = model.servable.card
    return {
        "format": 1,
        "emod_version": emod.__version__,
        "model": {
            "name": model.name,
            "version": model.version,
            "weights": model.weights,
            "simulated": card.trained_on.simulated,
            "classes": list(card.classes),
            "plane": card.plane,
        },
        "simulated": card.trained_on.simulated or windows.simulated,
        "source": windows.source,
        **windows.identity,
        "windows": sum(entry["windows"] for entry in corpora.values()),
        "corpora": corpora,
        "problems": problems,
    }


def _run(
    experiment: Experiment,
    servable: Servable,
    windows: Windows,
    todo: Sequence[Piece],
    folder: str,
    about: dict[str, str],
) -> Iterator[dict[str, Any]]:
    """Embeds the pieces and yields a receipt for each, in the order of finishing.

    A request or data error in a worker stops the run with its own one-line message and is not tried again: it travels
    as a row. What Ray does try again is a worker or node that has died.
    """
    if not todo:
        return
    settings, ingest = experiment.embed, experiment.ingest
    workers = min(settings.workers, len(todo))
    gpu = ray.cluster_resources().get("GPU", 0) > 0 if settings.gpu is None else settings.gpu
    cleaning = ingest.cpus_per_recording if windows.source == "recordings" else 0.0
    check_room(
        {"CPU": workers * settings.cpus_per_worker + cleaning, **({"GPU": float(workers)} if gpu else {})},
        cure="embed.workers, embed.cpus_per_worker and embed.gpu",
        what="embedding",
    )
    rows = ray.data.from_items([{"piece": number} for number in range(len(todo))], override_num_blocks=len(todo))
    if windows.source == "recordings":
        rows = rows.map(_Cleaning(experiment, windows, todo), num_cpus=cleaning)
    with warnings.catch_warnings():
        # Ray 2.60 calls the last argument deprecated and has no other name for it.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        receipts = rows.map(
            _Embedder,
            fn_constructor_args=(
                experiment,
                servable,
                windows.manifest,
                tuple(todo),
                windows.plans,
                folder,
                about,
                gpu,
            ),
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=_PIECES_AT_ONCE),
            num_cpus=settings.cpus_per_worker,
            num_gpus=1 if gpu else 0,
            # With these, Ray Data also keeps the cleaning out of the actors.
            runtime_env={"env_vars": KEEP_MEMORY},
            max_task_retries=_MOST_RETRIES,
        )
    # Read ahead, each receipt would be held back until the next one is there.
    done = receipts.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow")
    try:
        for row in (row for table in done for row in table.to_pylist()):
            if row["kind"]:
                raise _ERRORS[row["kind"]](row["message"])
            yield {"piece": row["piece"], **json.loads(row["receipt"])}
    except RayActorError:
        raise DataError(
            f"{1 + _MOST_RETRIES} workers died over one piece; check the memory of the nodes, or lower embed.batch"
        ) from None


_ERRORS: dict[str, type[RequestError | DataError]] = {kind.__name__: kind for kind in (RequestError, DataError)}


def _failure(piece: int, error: RequestError | DataError, path: str) -> dict[str, Any]:
    kind = next(name for name, known in _ERRORS.items() if isinstance(error, known))
    return {"piece": piece, "kind": kind, "message": f"{path}: {error}", "receipt": ""}


class _Cleaning:
    """A recording's number -> its windows as ingest makes them, in one row."""

    def __init__(self, experiment: Experiment, windows: Windows, todo: Sequence[Piece]) -> None:
        self._readers = {plan.corpus: RecordingReader(plan, experiment) for plan in windows.plans}
        self._todo = tuple(todo)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        empty = {"kind": "", "message": "", "windows": b"", "rows": "[]", "problems": "[]", "usable": True}
        piece = self._todo[row["piece"]]
        assert isinstance(piece.what, RecordingRef)
        try:
            made = self._readers[piece.corpus].make_windows(piece.what)
        except (RequestError, DataError) as error:
            return {**empty, **_failure(row["piece"], error, piece.path)}
        problems = made.problems if isinstance(made, RecordingWindows) else made
        told = {**empty, "piece": row["piece"], "problems": json.dumps([asdict(problem) for problem in problems])}
        if not isinstance(made, RecordingWindows):
            return {**told, "usable": False}
        return {**told, "windows": made.windows.tobytes(), "rows": json.dumps(made.rows)}


class _Embedder:
    """Holds the model; writes the object of one piece and returns what there is to say about it."""

    def __init__(
        self,
        experiment: Experiment,
        servable: Servable,
        manifest: Manifest | None,
        todo: Sequence[Piece],
        plans: Sequence[IngestPlan],
        folder: str,
        about: dict[str, str],
        gpu: bool,
    ) -> None:
        torch.set_num_threads(max(1, int(experiment.embed.cpus_per_worker)))
        self._device = torch.device("cuda" if gpu else "cpu")
        self._servable = servable.to(self._device)
        self._experiment = experiment
        self._manifest = manifest
        self._todo = todo
        self._plans = {plan.corpus: plan for plan in plans}
        self._folder = folder
        self._about = about
        self._shard: tuple[tuple[str, int], ShardStore] | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if row.get("kind"):
            return {"piece": row["piece"], "kind": row["kind"], "message": row["message"], "receipt": ""}
        piece = self._todo[row["piece"]]
        try:
            receipt = self._embed(piece, row)
        except (RequestError, DataError) as error:
            return _failure(row["piece"], error, piece.path)
        return {"piece": row["piece"], "kind": "", "message": "", "receipt": json.dumps(receipt)}

    def _embed(self, piece: Piece, row: dict[str, Any]) -> dict[str, Any]:
        problems: list[dict[str, str | None]] = []
        if isinstance(piece.what, RowsPiece):
            identity, frames = self._answer_rows(piece.what)
        else:
            problems = json.loads(row["problems"])
            if not row["usable"]:
                return {"summary": None, "problems": problems}
            identity, frames = self._answer_recording(piece.corpus, json.loads(row["rows"]), row["windows"])
        words = Counter(word for frame in frames for flags in frame["flags"] for word in flags.split(",") if word)
        summary = {"n_windows": len(identity), "flags": dict(words), "problems": problems}
        encoded = encode_answers(
            identity,
            frames,
            classes=self._servable.card.classes,
            width=self._servable.backbone.config.width,
            about=self._about | {"summary": json.dumps(summary)},
        )
        storage.write_bytes(storage.join(self._folder, piece.path), encoded)
        return {"summary": summary}

    def _answer_rows(self, rows: RowsPiece) -> tuple[pa.Table, list[pd.DataFrame]]:
        store = self._store_of(rows.corpus, rows.shard)
        metadata = store.metadata(rows.corpus).slice(rows.start, rows.stop - rows.start)

        def read(start: int, stop: int) -> torch.Tensor:
            return store.half_windows(rows.corpus, np.arange(rows.start + start, rows.start + stop))

        frames = self._answer(
            read, metadata["scale_uv"].to_numpy(), store.channels(rows.corpus), store.sfreq_hz(rows.corpus)
        )
        return metadata.select(IDENTITY), frames

    def _store_of(self, corpus: str, number: int) -> ShardStore:
        """One shard as a store of its own: of a remote store, a node copies those shards alone that it embeds."""
        if self._shard is None or self._shard[0] != (corpus, number):
            assert self._manifest is not None
            entry = self._manifest.corpora[corpus]
            alone = entry.model_copy(update={"shards": (entry.shards[number],)})
            manifest = self._manifest.model_copy(update={"corpora": {corpus: alone}})
            self._shard = (corpus, number), ShardStore(self._experiment.addresses.store_url(), manifest)
        return self._shard[1]

    def _answer_recording(
        self, corpus: str, rows: list[dict[str, Any]], windows: bytes
    ) -> tuple[pa.Table, list[pd.DataFrame]]:
        identity, plan = identity_of(rows), self._plans[corpus]
        if not rows:
            return identity, []
        whole = torch.from_numpy(np.frombuffer(windows, np.float16).reshape(len(rows), len(plan.channels), -1).copy())
        scale_uv = np.array([row["scale_uv"] for row in rows])
        return identity, self._answer(lambda start, stop: whole[start:stop], scale_uv, plan.channels, plan.sfreq_hz)

    def _answer(
        self,
        read: Callable[[int, int], torch.Tensor],
        scale_uv: npt.NDArray[np.float64],
        channels: tuple[str, ...],
        sfreq_hz: float,
    ) -> list[pd.DataFrame]:
        """The model's answers, a frame for each batch; the next one is read meanwhile."""
        n, batch = len(scale_uv), self._experiment.embed.batch
        frames = []
        with ThreadPoolExecutor(1) as ahead:
            waiting = ahead.submit(read, 0, min(batch, n))
            for start in range(0, n, batch):
                stop = min(start + batch, n)
                windows = waiting.result()
                waiting = ahead.submit(read, stop, min(stop + batch, n))
                scale = torch.from_numpy(scale_uv[start:stop].copy())
                on_device = windows.to(self._device, non_blocking=True).float()
                frames.append(self._servable.answer(on_device, scale, channels, sfreq_hz))
        return frames
