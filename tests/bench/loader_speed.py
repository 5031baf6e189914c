"""Batches of the eight corpora's shapes from shards on this disk, as pretraining reads them, and from an S3 store once.

The store holds random windows of 10 s. All files lie in the page cache, as they do after the first epoch on a machine
with the memory for them; batches are drawn by the plan of the paper's four rounds.
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from emod import storage
from emod.affect import va_region
from emod.catalog import EmodConfig, PretrainSettings, load_corpus
from emod.shards import CorpusEntry, Manifest, ShardStore, pack_shard, publish, write_part
from emod.signal.montage import canonical_names
from emod.training.pretrainer import Pretrainer, select_windows
from tests.bench.model_step import CORPORA, WINDOW_S
from tests.bench.ratio import Figure, seconds
from tests.conftest import KEY, SECRET, free_port

WINDOWS, PART = 540, 60
BATCHES, REPEATS, STEPS = 10, 5, 8
THREADS = 2
# 27,400 steps of 288 windows in twenty minutes, and a fifth more.
TARGET = 1.2 * 27_400 * 288 / 1200


def measure(folder: Path) -> list[Figure]:
    """Windows a second of the loader, what a training step waits for it, and what a second start saves."""
    torch.set_num_threads(1)
    store = write_store(folder / "emod" / "store")
    local = ShardStore.open(str(store))
    return [*_loader(local), *_waiting(local), *_copying(folder, folder / "cache")]


def write_store(folder: Path) -> Path:
    """Random windows at the rates and montages that ingest gives the paper's corpora."""
    rng = np.random.default_rng(0)
    entries = {}
    for name in CORPORA:
        catalog = load_corpus(name)
        channels = tuple(canonical_names(catalog.channels))
        shape = PART, len(channels), round(WINDOW_S * catalog.ingest_hz)
        parts = []
        for subject in range(WINDOWS // PART):
            va = rng.uniform(-4, 4, (PART, 2))
            rows = [
                {
                    "window_id": f"{name}/{subject}/1/{n}/0", "corpus": name, "subject": str(subject), "session": "1",
                    "trial": str(n), "stimulus": "clip", "start_s": 0.0, "valence": valence, "arousal": arousal,
                    "rating_valence": valence, "rating_arousal": arousal, "label_kind": "rating",
                    "va_region": int(va_region(np.array([valence]), np.array([arousal]))[0]), "scale_uv": 1.0,
                    "source": "bench", "peak_uv": 5.0, "clipped_share": 0.0, "saturated_share": 0.0,
                    "n_interpolated": 0,
                }
                for n, (valence, arousal) in enumerate(va.tolist())
            ]  # fmt: skip
            parts.append(str(folder / "staging" / f"{name}-{subject}.arrow"))
            write_part(parts[-1], rng.standard_normal(shape, dtype=np.float32).astype(np.float16), rows, {})
        shards = tuple(pack_shard(str(folder), f"shards/{name}", n, parts[n * 3 : n * 3 + 3]) for n in range(3))
        entries[name] = CorpusEntry(
            fingerprint="bench", simulated=True, channels=channels, sfreq_hz=catalog.ingest_hz, window_s=WINDOW_S,
            n_windows=WINDOWS, n_recordings=len(parts), n_subjects=len(parts), shards=shards, problems=(), cleaning={},
        )  # fmt: skip
        storage.remove_folder(str(folder / "staging"))
    publish(str(folder), Manifest(version=1, emod_version="bench", settings={}, corpora=entries))
    return folder


def _loader(store: ShardStore) -> list[Figure]:
    """One reading thread, as every worker has."""
    pretrainer = _pretrainer(store, EmodConfig(width=16, layers=1, heads=4))
    first = seconds(lambda: pretrainer._read(0))
    walls, busy = [], []
    for repeat in range(REPEATS):
        cpu_s = time.thread_time()
        walls.append(seconds(lambda r=repeat: [pretrainer._read(r * BATCHES + n) for n in range(BATCHES)]))
        busy.append(time.thread_time() - cpu_s)
    windows = BATCHES * 288
    rate, of_cpu = windows / min(walls), windows / statistics.median(busy)
    span = f"{windows} windows in {min(walls):.3f}..{max(walls):.3f} s"
    detail = f"{span}, {of_cpu:,.0f} a CPU second; first batch {first:.2f} s"
    return [
        Figure("loader, windows/s, one thread", rate, 6000, True, detail),
        Figure("the same over 1.2 x the paper's schedule in 20 minutes", rate / TARGET, 1.0, True, detail),
    ]


def _waiting(store: ShardStore) -> list[Figure]:
    """The paper's network on 4 windows of each corpus: the share of one of nine workers."""
    pretrainer = _pretrainer(store, EmodConfig())
    pretrainer._rank, pretrainer._world_size = 0, 9
    torch.set_num_threads(THREADS)
    try:
        reports = [report for report, _ in zip(pretrainer.steps(), range(1 + STEPS), strict=False)]
    finally:
        torch.set_num_threads(1)
    assert {report.n_windows for report in reports} == {32}
    first, rest = reports[0], reports[1:]
    wait_s, step_s = sum(r.data_wait_s for r in rest), sum(r.step_s for r in rest)
    read_s = min(seconds(lambda n=n: pretrainer._read(n)) for n in range(5))
    detail = (
        f"{STEPS} steps of {step_s / STEPS:.2f} s wait {1e3 * wait_s / STEPS:.2f} ms each; the first waits "
        f"{1e3 * first.data_wait_s:.0f} ms; reading its 32 windows takes {1e3 * read_s:.1f} ms"
    )
    return [
        Figure("data wait of a CPU step", wait_s / step_s, 0.05, False, detail),
        Figure("loader / CPU step, windows/s", step_s / STEPS / read_s, 1.2, True, detail),
    ]


def _copying(folder: Path, cache: Path) -> list[Figure]:
    """The same store on an S3 server: copied and checked once, then opened from the cache."""
    with _s3(folder) as environment:
        os.environ.update(environment)

        def start() -> None:
            ShardStore.open("s3://emod/store", cache=str(cache)).fetch(CORPORA, lambda note: None)

        first, again = seconds(start), min(seconds(start) for _ in range(3))
    size = sum(path.stat().st_size for path in cache.glob("*.arrow"))
    for note in (cache / "state").glob("*.checked"):
        note.unlink()
    store = ShardStore("s3://emod/store", ShardStore.open(str(folder / "emod" / "store")).manifest, cache=str(cache))
    checked = seconds(lambda: store.fetch(CORPORA, lambda note: None))
    detail = (
        f"{size / 1e6:,.0f} MB: copied and checked in {first:.2f} s ({size / 1e6 / first:,.0f} MB/s), opened from the "
        f"cache in {again:.3f} s, with all checksums in {checked:.2f} s"
    )
    return [Figure("start from the cache / from S3", again / first, 0.1, False, detail)]


def _pretrainer(store: ShardStore, config: EmodConfig) -> Pretrainer:
    settings = PretrainSettings(rounds=4)
    return Pretrainer(store, select_windows(store, CORPORA, {}), config, settings, seed=0, device=torch.device("cpu"))


@contextlib.contextmanager
def _s3(folder: Path) -> Iterator[dict[str, str]]:
    """rclone serving a folder, whose folders are buckets; the environment that reaches it."""
    port = free_port()
    command = [os.path.join(sysconfig.get_path("scripts"), "rclone"), "--config", "/dev/null", "serve", "s3"]
    flags = ["--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}", str(folder)]
    server = subprocess.Popen([*command, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert server.poll() is None, "rclone stopped"
            time.sleep(0.05)
        yield {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
        }
    finally:
        server.terminate()
        server.wait(10)
