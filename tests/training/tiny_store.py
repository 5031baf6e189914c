"""A small shard store with structure in it, and a small network for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emod import storage
from emod.affect import va_region
from emod.catalog import Experiment
from emod.shards import CorpusEntry, Manifest, pack_shard, publish, write_part
from emod.training import Pretrained
from tests.training.structured import SIZES

SUBJECTS = ("s1", "s2", "s3", "s4", "s5", "s6")
WINDOWS_PER_SUBJECT = 12

# corpus -> electrodes, rate, seconds: nothing is shared.
SHAPES: dict[str, tuple[tuple[str, ...], float, float]] = {
    "dasps": (("Fz", "Pz", "Oz"), 16.0, 2.0),
    "deap": (("Fp1", "F3", "C3", "O1"), 20.0, 2.0),
    "seed_iv": (("Fp2", "F4", "C4", "P4", "O2"), 25.0, 3.0),
}
# At 64 Hz, so that bands fit, and patches of rivals too.
SHAPES_64 = {"seed_iv": (SHAPES["seed_iv"][0], 64.0, 2.0)}
# What the tests' evaluations compare.
METHODS = {
    "EMOD": ["finetune.backbone=none"],
    "EEGNet": ["finetune.method=eegnet"],
    "differential entropy": ["finetune.method=differential_entropy"],
}
# Emotion words of seed_iv, as points.
WORDS = {"happy": (3.0, 2.0), "sad": (-2.5, -1.5), "fear": (-2.0, 3.0), "neutral": (0.0, 0.0)}

TINY: dict[str, Any] = {**SIZES, "dropout": 0.1, "pool_dropout": 0.1}


@dataclass(frozen=True)
class PretrainRun:
    """A run that nobody disturbed."""

    experiment: Experiment
    uri: str
    run_id: str
    pretrained: Pretrained


def write_tiny_store(
    url: str,
    shapes: dict[str, tuple[tuple[str, ...], float, float]] = SHAPES,
    settings: dict[str, Any] | None = None,
    subjects: Sequence[str] = SUBJECTS,
) -> None:
    """Writes corpora of these shapes; the first two electrodes swing with valence and with arousal."""
    corpora = {}
    for number, (corpus, (channels, sfreq_hz, window_s)) in enumerate(shapes.items()):
        rng = np.random.default_rng(number)
        n_samples = int(sfreq_hz * window_s)
        time_s = np.arange(n_samples) / sfreq_hz
        parts = []
        for subject in subjects:
            rows: list[dict[str, Any]] = []
            for index in range(WINDOWS_PER_SUBJECT):
                word = list(WORDS)[index % len(WORDS)] if corpus == "seed_iv" else None
                valence, arousal = rng.uniform(-4, 4, 2).tolist() if word is None else WORDS[word]
                rows.append(
                    {
                        "window_id": f"{corpus}/{subject}/1/{index}/0",
                        "corpus": corpus,
                        "subject": subject,
                        "session": "1",
                        "trial": str(index),
                        "stimulus": f"clip-{index}",
                        "start_s": 0.0,
                        "valence": valence,
                        "arousal": arousal,
                        "rating_valence": valence if word is None else None,
                        "rating_arousal": arousal if word is None else None,
                        "emotion": word,
                        "label_kind": "rating" if word is None else "emotion",
                        "va_region": int(va_region(np.array([valence]), np.array([arousal]))[0]),
                        "scale_uv": 1.0,
                        "peak_uv": 5.0,
                        "clipped_share": 0.0,
                        "saturated_share": 0.0,
                        "n_interpolated": 0,
                        "source": f"{subject}.dat",
                    }
                )
            windows = 0.3 * rng.standard_normal((len(rows), len(channels), n_samples))
            for electrode, axis in enumerate(("valence", "arousal")):
                swing = np.array([row[axis] for row in rows])[:, None]
                windows[:, electrode] += 0.5 * (swing + 4) * np.sin(2 * np.pi * (electrode + 2) * time_s)
            parts.append(storage.join(url, "staging", f"{corpus}-{subject}.arrow"))
            write_part(parts[-1], windows.astype(np.float16), rows, {})
        shards = tuple(pack_shard(url, f"shards/{corpus}", n, half) for n, half in enumerate((parts[:3], parts[3:])))
        corpora[corpus] = CorpusEntry(
            fingerprint="f" * 64,
            simulated=True,
            channels=channels,
            sfreq_hz=sfreq_hz,
            window_s=window_s,
            n_windows=len(subjects) * WINDOWS_PER_SUBJECT,
            n_recordings=len(subjects),
            n_subjects=len(subjects),
            shards=shards,
            problems=(),
            cleaning={},
        )
    storage.remove_folder(storage.join(url, "staging"))
    publish(url, Manifest(version=1, emod_version="0", settings=settings or {}, corpora=corpora))
