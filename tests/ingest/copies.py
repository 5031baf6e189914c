"""Small simulated copies of corpora and what it takes to ingest them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emod.catalog import Addresses, Experiment, SimulateSettings
from emod.catalog.experiment import IngestSettings
from emod.catalog.signal import IcaSettings, SignalSettings
from emod.corpora import simulate_corpus
from emod.ingest import ingest, plan_ingest
from emod.shards import Manifest, ShardStore
from emod.simulation import BrainSimulator

SIGNAL = SignalSettings(window_s=2.0, ica=IcaSettings(enabled=False))
SMALL = SimulateSettings(subjects=3, trials=2, time_scale=0.1)  # DEAP: 6 s, so 3 windows a trial


def make_experiment(store: Path | str, data: Mapping[str, Path | str], **changes: Any) -> Experiment:
    """What a job is asked: these corpora into this store, without ICA, in shards that hold few recordings."""
    fields: dict[str, Any] = {
        "name": "test",
        "description": "small copies, no ICA",
        "corpora": tuple(data),
        "addresses": Addresses(data={name: str(root) for name, root in data.items()}, store=str(store)),
        "signal": SIGNAL,
        "ingest": IngestSettings(shard_mb=1),
    }
    return Experiment(**(fields | changes))


def simulate(name: str, root: Path | str, settings: SimulateSettings = SMALL) -> Path:
    """A simulated copy; returns its folder."""
    simulate_corpus(name, str(root), settings, BrainSimulator(settings.brain))
    return Path(root)


def run(experiment: Experiment) -> tuple[Manifest, list[str]]:
    """What a job does: plan, then ingest; the manifest and what was said on the way."""
    notes: list[str] = []
    return ingest(experiment, plan_ingest(experiment), notes.append), notes


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its size and time of change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(url: Path | str, corpus: str, *, cache: Path | None = None) -> list[tuple[dict[str, Any], bytes]]:
    """Everything a store holds of a corpus, in order: metadata and samples of each window."""
    store = ShardStore.open(str(url), cache=str(cache) if cache else None)
    metadata = store.metadata(corpus).to_pylist()
    windows = store.windows(corpus, range(len(metadata)))
    return [(row, window.tobytes()) for row, window in zip(metadata, windows, strict=True)]
