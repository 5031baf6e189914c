"""Random batches of 36 windows (62 x 2000) from the store, against LMDB with pickles (the released code's format).

All files lie in the page cache; every reader ends with a float32 tensor.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import lmdb
import numpy as np
import torch

from emod.shards import CorpusEntry, Manifest, ShardStore, pack_shard, publish, write_part
from tests.bench.ratio import Figure, seconds

WINDOWS, CHANNELS, SAMPLES, BATCH, BATCHES = 1080, 62, 2000, 36, 60


def measure(folder: Path) -> list[Figure]:
    """Windows per second of the store, and how many times the pickles' rate that is."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    windows = rng.standard_normal((WINDOWS, CHANNELS, SAMPLES)).astype(np.float16)
    store = _store(str(folder / "store"), windows)
    pickled = {dtype: _lmdb(folder / dtype, windows, dtype) for dtype in ("float64", "float32")}
    batches = rng.integers(0, WINDOWS, (BATCHES, BATCH))

    def from_store() -> None:
        for rows in batches:
            torch.from_numpy(store.windows("seed_iv", rows))

    def from_pickles(environment: lmdb.Environment) -> None:
        with environment.begin(buffers=True) as transaction:
            for rows in batches:
                found = [pickle.loads(transaction.get(b"%06d" % row))["sample"] for row in rows]
                torch.from_numpy(np.stack(found)).float()

    rows = batches[0]
    np.testing.assert_array_equal(store.windows("seed_iv", rows), windows[rows].astype(np.float32))
    for warm_up in (from_store, *(lambda e=e: from_pickles(e) for e in pickled.values())):
        warm_up()
    rate: dict[str, float] = {}
    for _ in range(3):  # interleaved, so that a slow spell of the machine meets all of them; the best of three counts
        for name, action in {
            "store": from_store,
            **{dtype: lambda e=e: from_pickles(e) for dtype, e in pickled.items()},
        }.items():
            rate[name] = max(rate.get(name, 0.0), BATCHES * BATCH / seconds(action))
    detail = ", ".join(f"{name} {value:,.0f} windows/s" for name, value in rate.items())
    return [
        Figure("store, random windows/s", rate["store"], 4000, True, detail),
        Figure("store / LMDB float64 pickles", rate["store"] / rate["float64"], 3.0, True, detail),
        Figure("store / LMDB float32 pickles", rate["store"] / rate["float32"], 1.0, True, detail),
    ]


def _store(url: str, windows: np.ndarray) -> ShardStore:
    names = tuple(f"electrode{n}" for n in range(CHANNELS))
    half = WINDOWS // 2
    shards = []
    for number, part in enumerate((windows[:half], windows[half:])):
        rows = [
            {
                "window_id": f"seed_iv/{number}/1/1/{index}", "corpus": "seed_iv", "subject": str(number),
                "session": "1", "trial": "1", "stimulus": "clip", "start_s": 10.0 * index, "valence": 0.0,
                "arousal": 0.0, "emotion": "neutral", "label_kind": "emotion", "va_region": 4, "scale_uv": 1.0,
                "source": "bench", "peak_uv": 5.0, "clipped_share": 0.0, "saturated_share": 0.0, "n_interpolated": 0,
            }
            for index in range(len(part))
        ]  # fmt: skip
        write_part(f"{url}/parts/{number}.arrow", part, rows, {})
        shards.append(pack_shard(url, "shards/seed_iv", number, [f"{url}/parts/{number}.arrow"]))
    entry = CorpusEntry(
        fingerprint="bench", simulated=True, channels=names, sfreq_hz=200.0, window_s=10.0, n_windows=WINDOWS,
        n_recordings=2, n_subjects=2, shards=tuple(shards), problems=(), cleaning={},
    )  # fmt: skip
    publish(url, Manifest(version=1, emod_version="bench", settings={}, corpora={"seed_iv": entry}))
    return ShardStore.open(url)


def _lmdb(folder: Path, windows: np.ndarray, dtype: str) -> lmdb.Environment:
    folder.mkdir(parents=True)
    environment = lmdb.open(os.fspath(folder), map_size=4 * windows.size * np.dtype(dtype).itemsize)
    with environment.begin(write=True) as transaction:
        for index, window in enumerate(windows):
            transaction.put(b"%06d" % index, pickle.dumps({"sample": window.astype(dtype), "label": (0.0, 0.0)}))
    return environment
