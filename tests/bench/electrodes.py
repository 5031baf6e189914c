"""What it costs to answer electrodes that a model never saw from the trained sites nearest to them.

``python -m tests.bench.electrodes`` trains a small network on simulated recordings with a strong effect, four corners
of the plane, and scores it on subjects it has not seen. Then half of the electrodes, drawn at random, count as never
seen: their rows are a mean of the nearest of the other half, or random ones, or the electrodes are left out. The
network itself has seen all electrodes, so nothing but the rows differs between the columns.
"""

from __future__ import annotations

import copy
import itertools
import statistics
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from emod.catalog import EmodConfig, SimulationSettings, load_corpus
from emod.model import Emod, EmodClassifier
from emod.model.electrodes import ROW_OF_ELECTRODE, Electrode
from emod.signal.montage import canonical_names, nearest_sites
from emod.signal.window import normalise
from emod.simulation import BrainSimulator
from emod.simulation.plan import Passage, RecordingPlan

MONTAGES = ("deap", "seed_iv")  # whose caps are worn: 32 and 62 electrodes
CORNERS = tuple(itertools.product((-3.0, 3.0), repeat=2))
SUBJECTS, TEST_SUBJECTS = 32, 8
TRIALS, TRIAL_S, WINDOW_S, SFREQ_HZ = 16, 8.0, 4.0, 100.0
EPOCHS, BATCH, LEARNING_RATE = 20, 32, 3e-3
HALVES = 10
NETWORK = EmodConfig(width=16, layers=1, heads=4, feed_forward=32, kernel=15, dropout=0.1, pool_dropout=0.1)


def simulate(channels: tuple[str, ...]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Windows (subjects, windows, C, T), normalised, and the corner of each (subjects, windows)."""
    brain = BrainSimulator(SimulationSettings(effect="strong"))
    windows, codes = [], []
    per_trial = int(TRIAL_S // WINDOW_S)
    for subject in range(SUBJECTS):
        order = np.random.default_rng(subject).permutation(TRIALS) % len(CORNERS)
        pieces = tuple((Passage(TRIAL_S, str(trial), "clip", *CORNERS[code]),) for trial, code in enumerate(order))
        plan = RecordingPlan(
            "bench", str(subject), "1", channels, SFREQ_HZ, 50.0, pieces, artefacts=False, average_reference=True
        )
        cut = [np.split(trial_uv, per_trial, axis=1) for trial_uv in brain.record(plan)]
        windows.append(normalise(np.concatenate(cut), clip=20.0)[0])
        codes.append(np.repeat(order, per_trial))
    return np.stack(windows), np.stack(codes)


def train(windows: npt.NDArray[np.float32], codes: npt.NDArray[np.int64], channels: tuple[str, ...]) -> EmodClassifier:
    """A classifier of the corners from fresh weights; arguments (n, C, T) and (n,)."""
    torch.manual_seed(0)
    classifier = EmodClassifier(Emod(NETWORK), len(CORNERS)).train()
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    steps = EPOCHS * (len(windows) // BATCH)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(windows))[: len(windows) // BATCH * BATCH].split(BATCH):
            logits = classifier(torch.from_numpy(windows[rows]), channels, SFREQ_HZ)
            loss = F.cross_entropy(logits, torch.from_numpy(codes[rows]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            fall.step()
    return classifier.eval()


def balanced_accuracy(
    classifier: EmodClassifier,
    windows: npt.NDArray[np.float32],
    codes: npt.NDArray[np.int64],
    channels: Sequence[Electrode],
) -> float:
    """Mean over the corners of the share of its windows that are recognised."""
    with torch.inference_mode():
        found = classifier(torch.from_numpy(windows), channels, SFREQ_HZ).argmax(dim=1).numpy()
    return float(np.mean([(found[codes == code] == code).mean() for code in range(len(CORNERS))]))


def without_half(
    classifier: EmodClassifier,
    windows: npt.NDArray[np.float32],
    codes: npt.NDArray[np.int64],
    channels: tuple[str, ...],
    seed: int,
) -> dict[str, float]:
    """Balanced accuracies with a random half of the electrodes answered in each of the ways."""
    generator = np.random.default_rng(seed)
    unseen = {channels[row] for row in generator.permutation(len(channels))[: len(channels) // 2]}
    seen = tuple(name for name in channels if name not in unseen)
    nearest = [nearest_sites(name, seen) if name in unseen else name for name in channels]
    kept = windows[:, [name not in unseen for name in channels]]
    untrained = copy.deepcopy(classifier)
    embedding = untrained.backbone.encoder.electrodes
    assert embedding is not None
    rows = [ROW_OF_ELECTRODE[name] for name in unseen]
    with torch.no_grad():
        fresh = generator.normal(0, 0.02, (len(rows), NETWORK.width))  # as the table is drawn
        embedding.table.weight[rows] = torch.from_numpy(fresh).float()
    return {
        "nearest": balanced_accuracy(classifier, windows, codes, nearest),
        "left out": balanced_accuracy(classifier, kept, codes, seen),
        "random": balanced_accuracy(untrained, windows, codes, channels),
    }


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    table = Table(title=f"balanced accuracy, chance {1 / len(CORNERS):.2f}; mean (least to most) of {HALVES} halves")
    for heading in ("electrodes", "own rows", "half nearest", "half left out", "half random"):
        table.add_column(heading)
    for montage in MONTAGES:
        channels = canonical_names(load_corpus(montage).channels)
        windows, codes = simulate(channels)
        train_rows, test_rows = slice(None, -TEST_SUBJECTS), slice(-TEST_SUBJECTS, None)
        shape = (-1, *windows.shape[2:])
        classifier = train(windows[train_rows].reshape(shape), codes[train_rows].ravel(), channels)
        test = windows[test_rows].reshape(shape), codes[test_rows].ravel()
        own = balanced_accuracy(classifier, *test, channels)
        found = [without_half(classifier, *test, channels, seed) for seed in range(HALVES)]
        cells = [
            f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
            for values in ([each[how] for each in found] for how in ("nearest", "left out", "random"))
        ]
        table.add_row(str(len(channels)), f"{own:.3f}", *cells)
    Console(width=None).print(table)


if __name__ == "__main__":
    main()
