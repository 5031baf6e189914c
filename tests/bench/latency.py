"""What the registered model adds to its network: one window of the paper's corpora on a CPU, in process.

It registers a network of the paper's size with fresh weights and takes turns, in one
run: the bare forward pass on a window that is clean already, `Servable.predict` on a raw one, and MLflow's pyfunc
around that. Medians are compared, since other programs slow single calls down.
"""

from __future__ import annotations

from pathlib import Path

import mlflow.pyfunc
import numpy as np
import torch

from emod.catalog import EmodConfig, SignalSettings, load_corpus
from emod.model import Emod, EmodClassifier, PlaneHead
from emod.signal.montage import canonical_names
from emod.tracking import TrainedCorpus, TrainedOn, ensure_run, fetch_registered, register_model
from tests.bench.ratio import Figure, seconds

THREADS = 2
CALLS = 200
WARM_UP = 5
SFREQ_HZ, WINDOW_S = 128.0, 10.0
BOUND = 1.2


def measure(folder: Path, calls: int = CALLS) -> list[Figure]:
    """Ratios of medians to the bare forward pass."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    channels = canonical_names(load_corpus("deap").channels)
    classifier = EmodClassifier(Emod(EmodConfig()), 4).eval()
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    register_model(
        uri=uri,
        run_id=ensure_run(uri, "bench", "latency", {}),
        model=classifier,
        plane=PlaneHead(classifier.backbone.config.width).eval(),
        classes=("happy", "sad", "fear", "neutral"),
        settings=SignalSettings(),
        trained_on=TrainedOn(
            manifest="none",
            simulated=True,
            corpora={"deap": TrainedCorpus(channels=channels, sfreq_hz=SFREQ_HZ, licence="none")},
        ),
    )
    servable = fetch_registered(uri, "models:/emod@candidate", field="bench").servable
    mlflow.set_tracking_uri(uri)
    pyfunc = mlflow.pyfunc.load_model("models:/emod@candidate")
    raw_uv = np.random.default_rng(0).normal(0, 10, (1, len(channels), round(WINDOW_S * SFREQ_HZ))).astype(np.float32)
    window = torch.randn(raw_uv.shape)
    inputs = {"signal": raw_uv, "channels": np.array(channels)}

    def forward() -> None:
        with torch.inference_mode():
            classifier(window, channels, SFREQ_HZ)

    actions = {
        "forward pass": forward,
        "Servable.predict": lambda: servable.predict(raw_uv, channels, sfreq_hz=SFREQ_HZ, cleaned=False),
        "pyfunc": lambda: pyfunc.predict(inputs, params={"sfreq_hz": SFREQ_HZ}),
    }
    took: dict[str, list[float]] = {name: [] for name in actions}
    for call in range(WARM_UP + calls):
        for name, action in actions.items():
            each_s = seconds(action)
            if call >= WARM_UP:
                took[name].append(each_s)
    p50, p99 = ({name: float(np.percentile(times, q)) * 1e3 for name, times in took.items()} for q in (50, 99))
    detail = f"{calls} calls on {THREADS} threads; " + ", ".join(
        f"{name} p50 {p50[name]:.1f} ms, p99 {p99[name]:.1f} ms" for name in actions
    )
    bare_ms = p50["forward pass"]
    return [
        Figure(f"latency: {name} / forward pass", p50[name] / bare_ms, BOUND, False, detail)
        for name in ("Servable.predict", "pyfunc")
    ]
