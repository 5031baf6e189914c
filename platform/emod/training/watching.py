"""What is seen of a pretraining run while it goes on.

| each step | what it says |
| --- | --- |
| `loss`, `learning_rate`, `epoch`, `anchors_without_positive` | of the step, over all workers |
| `gradient_norm` | before clipping |
| `windows_per_s` | of the global batch, by the first worker's clock |
| `data_wait_share`, `memory_mb` | of the first worker; memory is its peak |
| `gpu_memory_mb`, `gpu_utilisation` | of the first worker: the peak, and the share of the last moment it was busy |
| `gpu_hours`, without GPUs `worker_hours` | workers times wall time, over all attempts of the run |

| each watch | of windows that training does not see |
| --- | --- |
| `alignment`, `uniformity` | of the projection (Wang and Isola 2020); positives are near on the plane |
| `va_rank_correlation`, and of each corpus | plane distance against cosine of the embedding, pairs of two people |
| `knn_balanced_accuracy/<corpus>`, `knn_chance/<corpus>` | emotion of held-out people by neighbours among the others |
| `watch_s` | seconds that watching took |

MLflow has them under these names, Ray's metrics as ``ray_emod_<name>`` with the tags run, rank and corpus. There are
also ``step``, ``total_steps``, ``attempts`` of the run, ``checkpoint_age_s``, and ``fetched_mb``, what this worker has
copied from a remote store. A figure that is not defined (the correlation within one person) is left out.

A watch is before the first step, after the last, and every `pretrain.watch_every_steps`. It looks at the validation
subjects of fine-tuning's corpus and at `pretrain.watch_subjects` of each other one. Nobody looks at test subjects.
Without either there is nobody to look at, and the second table is empty.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from emod.affect import N_REGIONS
from emod.catalog import Experiment
from emod.errors import DataError
from emod.evaluation import divide
from emod.evaluation.representation import alignment, emotion_classes, knn_scores, uniformity, va_rank_correlation
from emod.model import Emod
from emod.objective import gather_rows, va_weights
from emod.shards import ShardStore, WindowPool

__all__ = ["Costs", "HeldOutProbe", "watched_subjects", "word_watched"]

Rows = npt.NDArray[np.int64]

# Of each corpus, and as many of its training subjects. Two thousand windows of eight corpora go through the network
# in the time of two or three training steps.
_MOST_WINDOWS = 128
# Pairs grow with the square: those of 64 windows of eight corpora are 130,000.
_MOST_PAIRED = 64
# A training step computes about three times what a forward pass does; watching may cost a hundredth of the steps.
_SHARE = 0.01
_PASS_WINDOWS = 64


def watched_subjects(experiment: Experiment, store: ShardStore) -> dict[str, frozenset[str]]:
    """corpus -> subjects that pretraining is watched on and so does not see.

    Of fine-tuning's corpus its validation subjects; of any other the share `pretrain.watch_subjects`, at least one of
    three or more. Who that is depends on the subjects' names alone: runs of all seeds are watched on the same people.
    """
    watched: dict[str, frozenset[str]] = {}
    share = experiment.pretrain.watch_subjects
    chosen_by = asked_about(experiment, store, "validation")
    for name in experiment.pretrained_on:
        if name in chosen_by:
            watched[name] = chosen_by[name]
            continue
        subjects = sorted(set(store.metadata(name)["subject"].to_pylist()))
        if share and len(subjects) >= 3:
            order = np.random.default_rng(zlib.crc32(name.encode())).permutation(len(subjects))
            wanted = min(max(1, round(share * len(subjects))), len(subjects) - 2)
            watched[name] = frozenset(subjects[index] for index in order[:wanted])
    return watched


def asked_about(
    experiment: Experiment, store: ShardStore, role: Literal["validation", "test"]
) -> dict[str, frozenset[str]]:
    """corpus -> subjects of a role of fine-tuning's fold, of the corpora that are pretrained on."""
    settings = experiment.finetune
    if settings is None or not set(settings.corpora) & set(experiment.pretrained_on):
        return {}
    _, split = divide(WindowPool(store, settings.corpora).metadata, settings, settings.targets[0])
    found: dict[str, set[str]] = {name: set() for name in settings.corpora if name in experiment.pretrained_on}
    for key in split.subjects[role]:
        corpus, _, subject = key.partition("/")
        if corpus in found:
            found[corpus].add(subject)
    return {name: frozenset(subjects) for name, subjects in found.items()}


def word_watched(watched: Mapping[str, frozenset[str]]) -> str:
    """Who that is, in a line for people."""
    if not any(watched.values()):
        return "watched on nobody: set pretrain.watch_subjects, or add a finetune section"
    return "watched on subjects of " + ", ".join(f"{name}: {len(who)}" for name, who in watched.items() if who)


@dataclass(frozen=True)
class _Corpus:
    """Windows of one corpus that the probe embeds: ``queries`` of watched subjects, then references of others."""

    rows: Rows
    queries: int
    classes: npt.NDArray[np.str_]
    subjects: list[str]
    va: npt.NDArray[np.float64]


class HeldOutProbe:
    """A fixed set of held-out windows, and what the network makes of them.

    The windows are a function of the store and of the subjects alone. Watching draws no random number and changes
    nothing of the network.

    Args:
        store: Where windows come from.
        experiment: The run.
        held_out: corpus -> subjects that pretraining does not see; references come from none of them.
        device: Where the network is.
        group: Ranks that share the work; None is one worker.
    """

    def __init__(
        self,
        store: ShardStore,
        experiment: Experiment,
        held_out: Mapping[str, frozenset[str]],
        *,
        device: torch.device,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self._store = store
        self._device = device
        self._group = group
        self._rank = 0 if group is None else dist.get_rank(group)
        self._world_size = 1 if group is None else dist.get_world_size(group)
        self._d_max = experiment.pretrain.d_max
        self._corpora: dict[str, _Corpus] = {}
        for name, watched in watched_subjects(experiment, store).items():
            metadata = store.metadata(name)
            subjects = np.asarray(metadata["subject"].to_pylist(), dtype=object)
            queries = np.flatnonzero(np.isin(subjects, list(watched)))
            others = np.flatnonzero(~np.isin(subjects, list(watched | held_out.get(name, frozenset()))))
            generator = np.random.default_rng(zlib.crc32(name.encode()))
            drawn = [generator.permutation(rows)[:_MOST_WINDOWS] for rows in (queries, others)]
            rows = np.concatenate(drawn)
            chosen = metadata.take(rows)
            va = np.stack([chosen[axis].to_numpy() for axis in ("valence", "arousal")], axis=1)
            people = [f"{name}/{subject}" for subject in subjects[rows]]
            self._corpora[name] = _Corpus(rows, len(drawn[0]), emotion_classes(chosen), people, va)
        total = sum(len(corpus.rows) for corpus in self._corpora.values())
        batch = N_REGIONS * experiment.pretrain.rounds * len(experiment.pretrained_on)
        self.every_steps = experiment.pretrain.watch_every_steps or max(1, math.ceil(total / (3 * _SHARE * batch)))

    def due(self, done: int, total_steps: int) -> bool:
        """Whether to watch after so many steps."""
        return bool(self._corpora) and (done % self.every_steps == 0 or done == total_steps)

    def measure(self, model: Emod) -> dict[str, float]:
        """Every figure that is defined; a collective of the group, whose first rank alone is told.

        Returns:
            Metric -> value; nothing on other ranks.
        """
        began = time.perf_counter()
        training = model.training
        model.eval()
        try:
            # no_grad: what the network caches must serve training too, which tensors of inference_mode cannot.
            with torch.no_grad():
                embedding = self._embed(model)
                z = model.project(embedding)
        finally:
            model.train(training)
        if self._rank:
            return {}
        rows = torch.nn.functional.normalize(embedding.double(), dim=1).cpu().numpy()
        found = self._figures(rows, z.double().cpu().numpy())
        return {name: value for name, value in found.items() if math.isfinite(value)} | {
            "watch_s": time.perf_counter() - began
        }

    def _embed(self, model: Emod) -> Tensor:
        """(n, D) embeddings of all windows, corpus after corpus; each rank computes its share of every corpus."""
        shares = [self._share(rank) for rank in range(self._world_size)]
        parts = [torch.empty(0, model.config.width, device=self._device)]
        for (name, corpus), mine in zip(self._corpora.items(), shares[self._rank], strict=True):
            channels, sfreq_hz = self._store.channels(name), self._store.sfreq_hz(name)
            for start in range(mine.start, mine.stop, _PASS_WINDOWS):
                rows = corpus.rows[start : min(start + _PASS_WINDOWS, mine.stop)]
                read = self._store.windows(name, rows)
                if (bad := rows[~np.isfinite(read).all(axis=(1, 2))]).size:
                    ids = ", ".join(self._store.metadata(name)["window_id"].take(bad[:4]).to_pylist())
                    raise DataError(
                        f"corpus {name}: {len(bad)} windows to watch on hold values that are not finite, as {ids}; "
                        "ingest their recordings again"
                    )
                windows = torch.from_numpy(read).to(self._device)
                parts.append(model.embed(windows, channels, sfreq_hz))
        embedding = torch.cat(parts)
        if self._group is None:
            return embedding
        everyone, _ = gather_rows(embedding, self._group)
        starts = np.cumsum([0, *(len(corpus.rows) for corpus in self._corpora.values())])[:-1]
        place = [start + np.arange(s.start, s.stop) for share in shares for start, s in zip(starts, share, strict=True)]
        return everyone[torch.from_numpy(np.argsort(np.concatenate(place))).to(self._device)]

    def _share(self, rank: int) -> list[range]:
        """Which windows of each corpus are a rank's."""
        cuts = [
            np.linspace(0, len(corpus.rows), self._world_size + 1).astype(int).tolist()
            for corpus in self._corpora.values()
        ]
        return [range(cut[rank], cut[rank + 1]) for cut in cuts]

    def _figures(self, embedding: npt.NDArray[np.float64], z: npt.NDArray[np.float64]) -> dict[str, float]:
        found: dict[str, float] = {}
        paired, start = [], 0
        for name, corpus in self._corpora.items():
            whole = embedding[start : start + len(corpus.rows)]
            some = slice(min(corpus.queries, _MOST_PAIRED))
            paired.append(np.arange(start, start + some.stop))
            found[f"va_rank_correlation/{name}"] = va_rank_correlation(
                whole[some], corpus.va[some], corpus.subjects[some]
            )
            asked, known = slice(corpus.queries), slice(corpus.queries, None)
            scores = knn_scores(whole[known], corpus.classes[known], whole[asked], corpus.classes[asked])
            found[f"knn_balanced_accuracy/{name}"] = scores.balanced_accuracy
            found[f"knn_chance/{name}"] = scores.chance
            start += len(corpus.rows)
        rows = np.concatenate(paired)
        va = np.concatenate([corpus.va for corpus in self._corpora.values()])[rows]
        subjects = np.concatenate([corpus.subjects for corpus in self._corpora.values()])[rows]
        weights = va_weights(torch.from_numpy(va), d_max=self._d_max).numpy()
        found["alignment"] = alignment(z[rows], weights)
        found["uniformity"] = uniformity(z[rows])
        found["va_rank_correlation"] = va_rank_correlation(embedding[rows], va, subjects)
        return found


class Costs:
    """What a run takes: hours of its workers over all attempts, and the state of this worker's GPU.

    Args:
        workers: How many share each step.
        device: Of this worker; the others have the same kind.
        before: What was logged last for this run, by name: earlier attempts, with the steps that a crash threw away.
            None on every worker but the first, which counts for all.
    """

    _SAMPLE_EVERY_S = 1.0

    def __init__(self, workers: int, device: torch.device, before: Mapping[str, float] | None) -> None:
        self._workers = workers
        self._device = device
        self._name = "gpu_hours" if device.type == "cuda" else "worker_hours"
        self._before = None if before is None else before.get(self._name, 0.0)
        self._began = time.monotonic()
        self._sample_at = -math.inf

    def read(self) -> dict[str, float]:
        """The metrics of this moment; utilisation at most once a second."""
        now = time.monotonic()
        found: dict[str, float] = {}
        if self._before is not None:
            found[self._name] = self._before + self._workers * (now - self._began) / 3600
        if self._device.type == "cuda":
            found["gpu_memory_mb"] = torch.cuda.max_memory_allocated(self._device) / 2**20
            if now >= self._sample_at:
                self._sample_at = now + self._SAMPLE_EVERY_S
                try:
                    found["gpu_utilisation"] = torch.cuda.utilization(self._device) / 100
                except Exception:  # a slice of a GPU has none, nor a machine without NVML; training goes on
                    self._sample_at = math.inf
        return found
