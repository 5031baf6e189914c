"""One side of the model bench: a process that takes one training step for each line it is sent.

``python -m tests.bench.model_step eager|ours WINDOWS`` prints, for each line of its input, a JSON line: seconds of the
step, loss, gradient norm and the peak of its memory so far. Both sides have the same weights, windows, optimiser and
threads; dropout is on and each draws its own.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from emod.catalog import EmodConfig, PretrainSettings, load_corpus
from emod.model import Emod
from emod.objective import contrastive_loss, va_weights
from emod.signal.montage import ELECTRODES, canonical_names
from tests.reference import eager

# The paper's eight, at the rates and montages that ingest gives them.
CORPORA = ("amigos", "deap", "dreamer", "mahnob_hci", "mdme", "mped", "seed_iv", "seed_vii")
WINDOW_S = 10.0


def make_batch(windows: int) -> tuple[list[tuple[Tensor, tuple[str, ...], float]], Tensor]:
    """Windows, electrode names and rate of each corpus, and the points of all on the plane."""
    generator = torch.Generator().manual_seed(0)
    corpora = []
    for name in CORPORA:
        catalog = load_corpus(name)
        channels = tuple(canonical_names(catalog.channels))
        shape = windows, len(channels), round(WINDOW_S * catalog.ingest_hz)
        corpora.append((torch.randn(shape, generator=generator), channels, catalog.ingest_hz))
    return corpora, torch.rand(len(CORPORA) * windows, 2, generator=generator) * 8 - 4


def make_step(
    side: str, windows: int, device: str = "cpu", precision: torch.dtype = torch.float32
) -> Callable[[], tuple[float, float]]:
    """One step of training of either side: loss and gradient norm. Autocast where the precision is not single."""
    corpora, va = make_batch(windows)
    corpora = [(eeg.to(device), channels, sfreq_hz) for eeg, channels, sfreq_hz in corpora]
    va = va.to(device)
    settings = PretrainSettings()
    torch.manual_seed(0)
    ours = Emod(EmodConfig()).to(device)
    ids = torch.arange(len(CORPORA), device=device).repeat_interleave(windows)
    model: torch.nn.Module = ours
    if side == "eager":
        plain = eager.EagerEmod(eager.Sizes(electrodes=len(ELECTRODES))).to(device)
        plain.load_state_dict(ours.state_dict())
        rows = [torch.tensor([ELECTRODES.index(n) for n in channels], device=device) for _, channels, _ in corpora]
        batch = [(eeg, sites, sfreq_hz) for (eeg, _, sfreq_hz), sites in zip(corpora, rows, strict=True)]
        model = plain

        def loss_of() -> Tensor:
            return eager.contrastive_loss(plain(batch), va, settings.temperature, settings.d_max)
    else:

        def loss_of() -> Tensor:
            with torch.autocast(device, precision, enabled=precision != torch.float32):
                embedding = torch.cat([ours.embed(*corpus) for corpus in corpora])
            z = ours.project(embedding.float(), ids)
            return contrastive_loss(z, va_weights(va, d_max=settings.d_max), settings.temperature)[0]

    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)

    def step() -> tuple[float, float]:
        optimiser.zero_grad()
        loss = loss_of()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimiser.step()
        return loss.item(), norm.item()

    return step


def main() -> None:
    side, windows, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    step = make_step(side, windows)
    for _ in sys.stdin:
        began = time.perf_counter()
        loss, norm = step()
        took_s = time.perf_counter() - began
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(json.dumps({"seconds": took_s, "loss": loss, "norm": norm, "peak_mb": peak_mb}), flush=True)


if __name__ == "__main__":
    main()
