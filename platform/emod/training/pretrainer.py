"""One step of contrastive pretraining, on any number of workers. It knows torch.distributed and no Ray.

Every worker embeds its part of the batch; embeddings, points and corpus ids are gathered; every worker then computes
the same projection, with statistics of the global batch, and the same loss. Gradients of the backbone are summed over
workers and those of the head, equal on all, are averaged: W workers take the step that one would.

Shapes: B windows of the global batch, b of this worker, D width.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from emod.affect import N_REGIONS, va_region
from emod.catalog import EmodConfig, PretrainSettings
from emod.errors import DataError
from emod.model import Emod
from emod.model.dropout import GOLDEN, mix
from emod.objective import augment, contrastive_loss, gather_rows, same_id_weights, va_weights
from emod.sampling import RegionBalancedPlan
from emod.shards import ShardStore

__all__ = ["PretrainCorpus", "Pretrainer", "StepReport", "make_plan", "select_windows"]

Rows = npt.NDArray[np.int64]

# Windows that a message names of each corpus.
_NAMED = 4


@dataclass(frozen=True)
class PretrainCorpus:
    """The windows of one corpus that pretraining may see.

    Attributes:
        rows: (n,) row numbers in the store.
        va: (n, 2) their points on the plane, float32.
        channels: Electrode names.
        sfreq_hz: Sampling rate.
    """

    rows: Rows
    va: npt.NDArray[np.float32]
    channels: tuple[str, ...]
    sfreq_hz: float


@dataclass(frozen=True)
class StepReport:
    """What one step did. Seconds are this worker's."""

    loss: float
    learning_rate: float
    gradient_norm: float
    anchors_alone: int
    n_windows: int
    step_s: float
    data_wait_s: float


def select_windows(
    store: ShardStore, corpora: tuple[str, ...], held_out: dict[str, frozenset[str]]
) -> dict[str, PretrainCorpus]:
    """All windows of the corpora, less those of held-out subjects.

    Args:
        store: An open store.
        corpora: Names.
        held_out: corpus -> subjects that a later evaluation must not have been seen by.

    Raises:
        DataError: If a corpus has no window left.
    """
    selected = {}
    for name in corpora:
        metadata = store.metadata(name)
        subjects = np.asarray(metadata["subject"].to_pylist(), dtype=object)
        rows = np.flatnonzero(~np.isin(subjects, list(held_out.get(name, ()))))
        if not rows.size:
            raise DataError(f"{store.url}: corpus {name} has no window left to pretrain on; ingest more subjects")
        va = np.stack([metadata[axis].to_numpy() for axis in ("valence", "arousal")], axis=1)[rows]
        selected[name] = PretrainCorpus(rows, va.astype(np.float32), store.channels(name), store.sfreq_hz(name))
    return selected


def make_plan(corpora: dict[str, PretrainCorpus], settings: PretrainSettings, seed: int) -> RegionBalancedPlan:
    """The order of all batches. Its row numbers count within each corpus' selected windows."""
    return RegionBalancedPlan(
        {name: va_region(corpus.va[:, 0], corpus.va[:, 1]) for name, corpus in corpora.items()},
        rounds=settings.rounds,
        seed=seed,
        empty=settings.empty_regions,
    )


class Pretrainer:
    """Model, plan, optimiser and schedule of one worker.

    Args:
        store: Where windows come from.
        corpora: From `select_windows`, equal on every worker.
        config: The network.
        settings: The schedule.
        seed: Of initial weights, batches and dropout.
        device: Where to compute.
        group: Ranks that share the batch; None is one worker.
    """

    def __init__(
        self,
        store: ShardStore,
        corpora: dict[str, PretrainCorpus],
        config: EmodConfig,
        settings: PretrainSettings,
        *,
        seed: int,
        device: torch.device,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self._store = store
        self._corpora = corpora
        self._settings = settings
        self._seed = seed
        self._device = device
        self._group = group
        self._rank = 0 if group is None else dist.get_rank(group)
        self._world_size = 1 if group is None else dist.get_world_size(group)
        self.plan = make_plan(corpora, settings, seed)
        self.steps_per_epoch = settings.steps_per_epoch or self.plan.steps_per_epoch
        self.total_steps = 0 if settings.objective == "scratch" else settings.epochs * self.steps_per_epoch
        torch.manual_seed(seed)
        self.model = Emod(config).to(device)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.next_step = 0
        self._by_distance = settings.objective == "soft_va"

    def learning_rate(self, step: int) -> float:
        """Cosine from the first rate to the last over all steps, in closed form, so that any step can be resumed at."""
        first, last = self._settings.learning_rate, self._settings.final_learning_rate
        return last + (first - last) * (1 + float(np.cos(np.pi * step / self.total_steps))) / 2

    def steps(self) -> Iterator[StepReport]:
        """Runs from ``next_step`` to the end, reading the next batch while one is computed.

        Raises:
            DataError: If windows of a batch cannot be read, or the loss or the gradient is not finite. It names the
                step, counted from 1 as in MLflow, the corpus and the windows.
        """
        self.model.train()
        if self.next_step >= self.total_steps:
            return
        with ThreadPoolExecutor(max_workers=1) as reader:
            waiting: Future[list[_Part]] = reader.submit(self._read, self.next_step)
            while self.next_step < self.total_steps:
                began = time.perf_counter()
                parts = waiting.result()
                data_wait_s = time.perf_counter() - began
                if self.next_step + 1 < self.total_steps:
                    waiting = reader.submit(self._read, self.next_step + 1)
                report = self._take_step(parts, began, data_wait_s)
                self.next_step += 1
                yield report

    def _read(self, step: int) -> list[_Part]:
        drawn = self.plan.batch(step, rank=self._rank, world_size=self._world_size)
        places = self.plan.parts(self._rank, self._world_size)
        keys = self._keys(step)
        return [
            self._part(step, name, number, picks, keys[number, places[name]])
            for number, (name, picks) in enumerate(drawn.items())
            if picks.size
        ]

    def _part(self, step: int, name: str, number: int, picks: Rows, keys: Tensor) -> _Part:
        corpus = self._corpora[name]
        try:
            windows = self._windows(name, corpus.rows[picks])
        except DataError as error:
            found = self._named(name, np.unique(corpus.rows[picks]))
            raise DataError(f"step {step + 1}: {found} cannot be read: {error}") from None
        va = torch.from_numpy(corpus.va[picks])
        if self._settings.objective == "augment":
            # Two views of each window, each with chances of its own; all views of one drawn twice attract.
            ids = torch.from_numpy(corpus.rows[picks]) * len(self.plan.corpora) + number
            seconds = mix(keys.clone())
            views = torch.cat([augment(windows, mix(keys + 1)), augment(windows, mix(seconds + 1))])
            return _Part(name, number, views, va.repeat(2, 1), torch.cat([keys, seconds]), ids.repeat(2))
        pairs = torch.from_numpy(va_region(va[:, 0].numpy(), va[:, 1].numpy()).astype(np.int64))
        return _Part(name, number, windows, va, keys, pairs)

    def _windows(self, name: str, rows: Rows) -> Tensor:
        """Windows of a corpus: in single precision, or as stored where a GPU converts them (see `_in_order`)."""
        if self._device.type == "cuda" and self._settings.objective != "augment":
            return self._store.half_windows(name, rows)
        return torch.from_numpy(self._store.windows(name, rows))

    def _keys(self, step: int) -> Tensor:
        """(corpora, places) int64: what chance each window of the global batch gets, whoever computes it."""
        shape = len(self.plan.corpora), N_REGIONS * self.plan.rounds
        first = np.random.SeedSequence([self._seed, step]).generate_state(1, np.uint64).view(np.int64)[0]
        # Mixed: the places of the network count on from a key, and would meet the keys of the next windows.
        return mix(torch.arange(int(np.prod(shape))).mul_(GOLDEN).add_(int(first))).view(shape)

    def _take_step(self, parts: list[_Part], began: float, data_wait_s: float) -> StepReport:
        rate = self.learning_rate(self.next_step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        rows = self._embed(parts)
        if self._group is not None:
            rows = tuple(gather_rows(part, self._group)[0] for part in rows)
        embedding, va, corpus_ids, pairs = rows
        z = self.model.project(embedding, corpus_ids)
        weights = va_weights(va, d_max=self._settings.d_max) if self._by_distance else same_id_weights(pairs)
        loss, alone = contrastive_loss(z, weights, self._settings.temperature)
        if not torch.isfinite(loss):
            raise DataError(self._not_finite("loss"))
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._share_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._settings.clip_norm)
        if not torch.isfinite(norm):
            raise DataError(self._not_finite("gradient"))
        self.optimiser.step()
        return StepReport(
            loss=loss.item(),
            learning_rate=rate,
            gradient_norm=norm.item(),
            anchors_alone=int(alone),
            n_windows=N_REGIONS * self.plan.rounds * len(self.plan.corpora),
            step_s=time.perf_counter() - began,
            data_wait_s=data_wait_s,
        )

    def _embed(self, parts: list[_Part]) -> tuple[Tensor, ...]:
        """Embeddings, points, corpus ids and pair ids of this worker's windows, in the plan's order.

        Corpora of one montage, rate and length go through the network together.
        """
        together: dict[tuple[tuple[str, ...], float, int], list[_Part]] = {}
        for part in parts:
            corpus = self._corpora[part.corpus]
            kind = tuple(sorted(corpus.channels)), corpus.sfreq_hz, part.windows.shape[2]
            together.setdefault(kind, []).append(part)
        embeddings: dict[int, Tensor] = {}
        for (names, sfreq_hz, _), members in together.items():
            windows = torch.cat([self._in_order(part, names) for part in members])
            keys = torch.cat([part.keys for part in members])
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._settings.precision == "bfloat16"):
                found = self.model.embed(windows, names, sfreq_hz, self._moved(keys))
            sizes = [len(part.va) for part in members]
            embeddings |= {part.number: rows for part, rows in zip(members, torch.split(found, sizes), strict=True)}
        ids = torch.cat([torch.full((len(part.va),), part.number) for part in parts])
        points = torch.cat([part.va for part in parts])
        pairs = torch.cat([part.pairs for part in parts])
        embedding = torch.cat([embeddings[part.number] for part in parts])
        return embedding, self._moved(points), self._moved(ids), self._moved(pairs)

    def _in_order(self, part: _Part, names: tuple[str, ...]) -> Tensor:
        """A part's windows on the device, with these electrodes, all of which it has, in this order."""
        windows = self._moved(part.windows)
        if windows.dtype == torch.float16:
            windows = windows.float()
        channels = self._corpora[part.corpus].channels
        return windows if channels == names else windows[:, [channels.index(name) for name in names]]

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)

    def _share_gradients(self) -> None:
        """Sums the backbone's gradients over workers and averages the head's, in one collective."""
        if self._group is None:
            return
        parameters = list(self.model.parameters())
        head = {id(parameter) for parameter in self.model.projection.parameters()}
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat, group=self._group)
        for parameter, summed in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
            shared = summed / self._world_size if id(parameter) in head else summed
            parameter.grad = shared.view_as(parameter)

    def _not_finite(self, what: str) -> str:
        """Why, in one line. All windows of the batch are read again, those of other workers too."""
        bad = []
        for name, picks in self.plan.batch(self.next_step).items():
            rows = np.unique(self._corpora[name].rows[picks])
            whole = np.isfinite(self._store.windows(name, rows)).all(axis=(1, 2))
            if not whole.all():
                bad.append(self._named(name, rows[~whole]))
        if bad:
            why = f"{'; '.join(bad)} hold values that are not finite; ingest their recordings again"
        else:
            why = (
                "every window of its batch is finite, so training diverged, or a shard is damaged; lower "
                "pretrain.learning_rate, or check the shards with ShardStore.verify()"
            )
        return f"step {self.next_step + 1}: the {what} is not finite: {why}"

    def _named(self, corpus: str, rows: Rows) -> str:
        """Windows of a corpus by their ids."""
        ids = self._store.metadata(corpus)["window_id"].take(rows[:_NAMED]).to_pylist()
        more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
        return f"corpus {corpus}: windows {', '.join(ids)}{more}"


@dataclass(frozen=True)
class _Part:
    """This worker's windows of one corpus in one step: their points, keys of chance, and ids that make pairs."""

    corpus: str
    number: int
    windows: Tensor
    va: Tensor
    keys: Tensor
    pairs: Tensor
