"""The paper's network over a store by jobs/embed.py against the bare loop of the model, on the same windows of one run.

The bare side is a plain process: it loads the model, then reads batches of the store, answers them and keeps the
answers. It has the job's allocator, so that the ratio is about Ray Data and Parquet alone. Both sides are timed once
they are warm: the loop after its first batch, the job from its first object to its last.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
import torch

from emod.catalog import EmodConfig, Experiment, SignalSettings, load_corpus
from emod.model import Emod, EmodClassifier, PlaneHead
from emod.serving import embed, list_windows
from emod.shards import CorpusEntry, Manifest, ShardStore, pack_shard, publish, write_part
from emod.signal.montage import canonical_names
from emod.tracking import Registered, TrainedCorpus, TrainedOn, load_servable, save_servable
from emod.training.launch import KEEP_MEMORY
from tests.bench.ratio import Figure

CORPUS, WINDOW_S = "deap", 10.0
ROUNDS, OBJECTS, PER_OBJECT, BATCH = 3, 24, 32, 32


def measure(folder: Path, rounds: int = ROUNDS, objects: int = OBJECTS) -> list[Figure]:
    """The ratio of speed with one worker, and that of the speed-ups of two."""
    settings = SignalSettings(window_s=WINDOW_S)
    write_store(folder / "store", objects * PER_OBJECT, settings)
    write_model(folder / "model", settings)
    took: dict[tuple[str, int], list[float]] = {(side, n): [] for side in ("bare", "job") for n in (1, 2)}
    for number in range(rounds):
        for workers in (1, 2):
            took["bare", workers].append(_bare(folder, objects * PER_OBJECT, workers))
            took["job", workers].append(_job(folder, folder / f"out-{number}-{workers}", workers))
    median = {side: statistics.median(values) for side, values in took.items()}
    detail = json.dumps({f"{side} x{n}, ms a window": [round(1e3 * t, 2) for t in took[side, n]] for side, n in took})
    # Of each round, whose two sides met the same machine.
    ratios = [bare / job for bare, job in zip(took["bare", 1], took["job", 1], strict=True)]
    speed_up = {side: median[side, 1] / median[side, 2] for side in ("bare", "job")}
    return [
        Figure("embedding / bare model loop, 1 worker", statistics.median(ratios), 0.9, True, detail),
        Figure(
            "speed-up of 2 workers: embedding / bare",
            speed_up["job"] / speed_up["bare"],
            0.9,
            True,
            f"embedding {speed_up['job']:.2f}, bare {speed_up['bare']:.2f}",
        ),
    ]


def write_store(folder: Path, n_windows: int, settings: SignalSettings) -> None:
    """Noise at the rate and the montage that ingest gives the corpus, in one shard."""
    rng, catalog = np.random.default_rng(0), load_corpus(CORPUS)
    channels = canonical_names(catalog.channels)
    windows = rng.standard_normal((n_windows, len(channels), round(WINDOW_S * catalog.ingest_hz)), dtype=np.float32)
    rows = [
        {
            "window_id": f"{CORPUS}/s01/1/{n}/0", "corpus": CORPUS, "subject": "s01", "session": "1", "trial": str(n),
            "stimulus": "clip", "start_s": 0.0, "valence": 0.0, "arousal": 0.0, "rating_valence": 5.0,
            "rating_arousal": 5.0, "label_kind": "rating", "va_region": 4, "scale_uv": 10.0, "source": "bench",
            "peak_uv": 50.0, "clipped_share": 0.0, "saturated_share": 0.0, "n_interpolated": 0,
        }
        for n in range(n_windows)
    ]  # fmt: skip
    write_part(str(folder / "staging" / "part.arrow"), windows.astype(np.float16), rows, {})
    shard = pack_shard(str(folder), f"shards/{CORPUS}", 0, [str(folder / "staging" / "part.arrow")])
    entry = CorpusEntry(
        fingerprint="bench", simulated=True, channels=channels, sfreq_hz=catalog.ingest_hz, window_s=WINDOW_S,
        n_windows=n_windows, n_recordings=1, n_subjects=1, shards=(shard,), problems=(), cleaning={},
    )  # fmt: skip
    made_with = settings.model_dump(mode="json")
    publish(str(folder), Manifest(version=1, emod_version="bench", settings=made_with, corpora={CORPUS: entry}))


def write_model(folder: Path, settings: SignalSettings) -> None:
    """The paper's network with fresh weights, a head for three classes and one for the plane."""
    torch.manual_seed(0)
    catalog = load_corpus(CORPUS)
    facts = TrainedCorpus(channels=canonical_names(catalog.channels), sfreq_hz=catalog.ingest_hz, licence="none")
    save_servable(
        folder,
        EmodClassifier(Emod(EmodConfig()), 3).eval(),
        PlaneHead(EmodConfig().width).eval(),
        classes=("low", "middle", "high"),
        settings=settings,
        trained_on=TrainedOn(manifest="ab" * 32, simulated=True, corpora={CORPUS: facts}),
    )


def _job(folder: Path, out: Path, workers: int) -> float:
    """Seconds a window between the first object and the last, on a Ray of its own."""
    experiment = Experiment(
        name="bench",
        description="embedding",
        corpora=(CORPUS,),
        addresses={"store": str(folder / "store")},  # type: ignore[arg-type]
        embed={"workers": workers, "batch": BATCH, "windows_per_object": PER_OBJECT},  # type: ignore[arg-type]
    )
    model = Registered("bench", "1", load_servable(folder / "model"), "none")
    cleaned, windows = list_windows(experiment, model, None, recordings=False)
    ray.init(address="local", num_cpus=workers, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    arrived: list[float] = []
    try:
        embed(cleaned, model, windows, str(out), lambda steps, note: arrived.append(time.perf_counter()))
    finally:
        ray.shutdown()
    # Workers start one after the other: from when each has had one.
    return (arrived[-1] - arrived[workers - 1]) / (PER_OBJECT * (len(arrived) - workers))


def _bare(folder: Path, n_windows: int, processes: int) -> float:
    """Seconds a window of so many processes that share the windows, from when all are warm until the last is done."""
    bounds = np.linspace(0, n_windows, processes + 1).astype(int)
    with ExitStack() as sides:
        loops = [sides.enter_context(_loop(folder, *span)) for span in itertools.pairwise(bounds)]
        for loop in loops:
            _line(loop)
        began = time.perf_counter()
        for loop in loops:
            _go(loop)
        for loop in loops:
            _line(loop)
        return (time.perf_counter() - began) / n_windows


@contextmanager
def _loop(folder: Path, first: int, stop: int) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.bench.embed_speed", str(folder), str(first), str(stop)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2], **pipes) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()


def _go(loop: subprocess.Popen[str]) -> None:
    assert loop.stdin is not None
    loop.stdin.write("go\n")
    loop.stdin.flush()


def _line(loop: subprocess.Popen[str]) -> None:
    assert loop.stdout is not None
    if not loop.stdout.readline():
        raise RuntimeError(f"a side of the bench ended with {loop.wait()}")


def main() -> None:
    """The bare loop over rows of the store; it says when it is warm, is told to go, and says when it is done."""
    folder, first, stop = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    store, servable = ShardStore.open(str(folder / "store")), load_servable(folder / "model")
    channels, sfreq_hz = store.channels(CORPUS), store.sfreq_hz(CORPUS)
    scale_uv = torch.full((BATCH,), 10.0, dtype=torch.float64)

    def answer(start: int) -> Any:
        rows = np.arange(start, min(start + BATCH, stop))
        windows = torch.from_numpy(store.windows(CORPUS, rows))
        return servable.answer(windows, scale_uv[: len(rows)], channels, sfreq_hz)

    answer(first)
    print("warm", flush=True)
    sys.stdin.readline()
    frames = [answer(start) for start in range(first, stop, BATCH)]
    print("done", sum(len(frame) for frame in frames), flush=True)


if __name__ == "__main__":
    main()
