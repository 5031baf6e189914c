"""Steps of pretraining: the same for any number of workers, in a fixed order, resumable to the bit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.distributed as dist

from emod.catalog import EmodConfig, PretrainSettings
from emod.errors import DataError
from emod.model.dropout import WindowDropout
from emod.objective import contrastive_loss
from emod.shards import ShardStore
from emod.training import pretrainer as module
from emod.training.pretrainer import PretrainCorpus, Pretrainer, StepReport, _Part, make_plan, select_windows

CORPORA = ("dasps", "deap", "seed_iv")
CPU = torch.device("cpu")


def settings_of(**changes: Any) -> PretrainSettings:
    plain: dict[str, Any] = {"epochs": 1, "steps_per_epoch": 6, "rounds": 1, "learning_rate": 5e-3}
    return PretrainSettings(**(plain | changes))


def new_pretrainer(
    store: ShardStore, config: EmodConfig, settings: PretrainSettings, corpora: tuple[str, ...] = CORPORA, **others: Any
) -> Pretrainer:
    selected = select_windows(store, corpora, others.pop("held_out", {}))
    return Pretrainer(store, selected, config, settings, seed=3, device=CPU, **others)


class Spy(ShardStore):
    """A store that tells which rows were read, after each read."""

    def __init__(self, store: ShardStore, after: Callable[[str, list[int]], None]) -> None:
        super().__init__(store.url, store.manifest)
        self.after = after

    def windows(self, corpus: str, rows: npt.ArrayLike, **kind: Any) -> npt.NDArray[np.float32]:
        windows = super().windows(corpus, rows, **kind)
        self.after(corpus, np.asarray(rows).tolist())
        return windows


class DoubleStore(ShardStore):
    """A store in double precision: in float32 Adam turns the rounding of a gradient near 0 into a full step."""

    def windows(self, corpus: str, rows: npt.ArrayLike, **kind: Any) -> npt.NDArray[Any]:
        return super().windows(corpus, rows, **kind).astype(np.float64)


def train_in_double(
    store_url: str, config: EmodConfig, group: dist.ProcessGroup | None
) -> tuple[list[StepReport], dict[str, torch.Tensor]]:
    store = DoubleStore(store_url, ShardStore.open(store_url).manifest)
    selected = select_windows(store, CORPORA, {})
    wide = {
        name: PretrainCorpus(c.rows, c.va.astype(np.float64), c.channels, c.sfreq_hz)  # type: ignore[arg-type]
        for name, c in selected.items()
    }
    pretrainer = Pretrainer(store, wide, config, settings_of(clip_norm=0.5), seed=3, device=CPU, group=group)
    pretrainer.model.double()
    return list(pretrainer.steps()), pretrainer.model.state_dict()


def run_rank(rank: int, world_size: int, store_url: str, config: EmodConfig, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    # Each size of group is one run; every rank must help to make every group.
    for size in range(2, world_size + 1):
        group = dist.new_group(list(range(size)))
        if rank < size:
            assert group is not None
            reports, weights = train_in_double(store_url, config, group)  # type: ignore[arg-type]
            told = [(r.loss, r.gradient_norm, r.anchors_alone, r.n_windows) for r in reports]
            torch.save({"told": told, "weights": weights}, f"{folder}/{size}-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.long  # test_world_sizes has fewer steps of more cases
def test_workers_take_the_steps_of_one(store_url: str, tiny: EmodConfig, tmp_path: Path) -> None:
    """27 windows over 2, 3 and 4 workers, dropout on: parts differ in length, between workers and between corpora."""
    assert min(tiny.dropout, tiny.pool_dropout) > 0
    plan = new_pretrainer(ShardStore.open(store_url), tiny, settings_of()).plan
    sizes = [sum(map(len, plan.batch(0, rank=rank, world_size=4).values())) for rank in range(4)]
    assert sizes == [7, 7, 7, 6]

    reports, weights = train_in_double(store_url, tiny, None)
    torch.multiprocessing.spawn(run_rank, args=(4, store_url, tiny, str(tmp_path)), nprocs=4)
    untrained = Pretrainer(
        ShardStore.open(store_url),
        select_windows(ShardStore.open(store_url), CORPORA, {}),
        tiny,
        settings_of(),
        seed=3,
        device=CPU,
    ).model.state_dict()
    moved = {name for name in weights if not torch.equal(weights[name].float(), untrained[name])}
    assert {"encoder", "transformer", "pool", "projection"} <= {name.partition(".")[0] for name in moved}
    assert any(report.gradient_norm > 0.5 for report in reports), "clipping takes part"
    for world_size in (2, 3, 4):
        for rank in range(world_size):
            found = torch.load(tmp_path / f"{world_size}-{rank}.pt", weights_only=True)
            assert len(found["told"]) == len(reports) == 6
            for (loss, norm, alone, n_windows), report in zip(found["told"], reports, strict=True):
                assert loss == pytest.approx(report.loss, rel=1e-10)
                assert norm == pytest.approx(report.gradient_norm, rel=1e-8)
                assert (alone, n_windows) == (report.anchors_alone, 27)
            assert found["weights"].keys() == weights.keys()
            for name, weight in weights.items():
                torch.testing.assert_close(found["weights"][name], weight, rtol=1e-7, atol=1e-9, msg=name)


def test_the_rate_is_the_cosine_of_torch(store: ShardStore, tiny: EmodConfig) -> None:
    settings = settings_of(epochs=5, steps_per_epoch=7, learning_rate=3e-3, final_learning_rate=1e-5)
    pretrainer = new_pretrainer(store, tiny, settings)
    assert pretrainer.total_steps == 35
    reference = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=35, eta_min=1e-5)
    for step in range(35):
        assert pretrainer.learning_rate(step) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        reference.step()
        schedule.step()


def test_each_step_uses_its_rate(store: ShardStore, tiny: EmodConfig) -> None:
    pretrainer = new_pretrainer(store, tiny, settings_of())
    for step, report in enumerate(pretrainer.steps()):
        assert report.learning_rate == pretrainer.learning_rate(step)
        assert [group["lr"] for group in pretrainer.optimiser.param_groups] == [report.learning_rate]
        assert pretrainer.next_step == step + 1


def test_an_epoch_is_the_plans_unless_said(store: ShardStore, tiny: EmodConfig) -> None:
    pretrainer = new_pretrainer(store, tiny, settings_of(steps_per_epoch=None, epochs=2))
    assert pretrainer.steps_per_epoch == 72 // 9
    assert pretrainer.total_steps == 16


@pytest.mark.parametrize("stop", [1, 4])
def test_resuming_changes_no_bit(store: ShardStore, tiny: EmodConfig, stop: int) -> None:
    """With dropout on, and with other random numbers drawn in between."""
    whole = new_pretrainer(store, tiny, settings_of())
    losses = [report.loss for report in whole.steps()]
    assert len(set(losses)) == 6

    first = new_pretrainer(store, tiny, settings_of())
    steps = first.steps()
    before = [next(steps).loss for _ in range(stop)]
    steps.close()
    second = new_pretrainer(store, tiny, settings_of())
    second.model.load_state_dict(first.model.state_dict())
    second.optimiser.load_state_dict(first.optimiser.state_dict())
    second.next_step = first.next_step
    torch.manual_seed(99)
    after = [report.loss for report in second.steps()]
    assert before + after == losses
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], weight), name


def test_no_two_windows_share_their_chances(store: ShardStore, tiny: EmodConfig) -> None:
    """At no place of the network, in no window of two batches: one place counts on from the key as the next does."""
    pretrainer = new_pretrainer(store, tiny, settings_of())
    places = 4 * tiny.layers + 2
    keys = torch.cat([pretrainer._keys(step).flatten() for step in (0, 1)])
    masks = torch.cat([WindowDropout(0.5, place).keep((len(keys), 256), keys) for place in range(places)])
    assert len({tuple(mask) for mask in masks.tolist()}) == places * 2 * 27


def test_dropout_differs_between_steps(store: ShardStore, tiny: EmodConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch and frozen weights: only dropout is left to change the loss."""
    frozen = settings_of(learning_rate=1e-30, final_learning_rate=0.0, weight_decay=0.0)
    pretrainer = new_pretrainer(store, tiny, frozen)
    first = pretrainer.plan.batch(0)
    monkeypatch.setattr(pretrainer.plan, "batch", lambda step, **ranks: first)
    losses = [report.loss for report in pretrainer.steps()]
    assert len(set(losses)) == len(losses)


def test_the_loss_falls_where_there_is_structure(store: ShardStore, tiny: EmodConfig) -> None:
    settings = settings_of(steps_per_epoch=60, rounds=2, learning_rate=1e-2)
    losses = [report.loss for report in new_pretrainer(store, tiny, settings).steps()]
    assert np.mean(losses[-10:]) < np.mean(losses[:5]) - 0.3


def test_anchors_alone_are_counted(store: ShardStore, tiny: EmodConfig) -> None:
    """With a reach below the distance of any two points, no window has a positive."""
    (report,) = new_pretrainer(store, tiny, settings_of(steps_per_epoch=1, d_max=1e-9), ("deap",)).steps()
    drawn = make_plan(select_windows(store, ("deap",), {}), settings_of(), 3).batch(0)["deap"]
    assert report.anchors_alone == sum(np.count_nonzero(drawn == row) == 1 for row in drawn)


def test_a_loss_that_is_not_finite_names_step_and_windows(store: ShardStore, tiny: EmodConfig) -> None:
    clean = new_pretrainer(store, tiny, settings_of())
    victim = int(clean.plan.batch(2)["deap"][5])
    early = {int(row) for step in range(2) for row in clean.plan.batch(step)["deap"]}
    assert victim not in early

    class Damaged(ShardStore):
        def windows(self, corpus: str, rows: npt.ArrayLike, **kind: Any) -> npt.NDArray[np.float32]:
            windows = super().windows(corpus, rows, **kind)
            if corpus == "deap":
                windows[np.asarray(rows) == victim, 1, 3] = np.nan
            return windows

    pretrainer = new_pretrainer(Damaged(store.url, store.manifest), tiny, settings_of())
    steps = pretrainer.steps()
    next(steps)
    next(steps)
    weights = {name: weight.clone() for name, weight in pretrainer.model.named_parameters()}
    with pytest.raises(DataError) as caught:
        next(steps)
    message = str(caught.value)
    assert pretrainer.next_step == 2
    assert message.startswith("step 3: the loss is not finite: corpus deap: windows ")
    assert store.metadata("deap")["window_id"][victim].as_py() in message
    assert "\n" not in message
    for name, weight in pretrainer.model.named_parameters():
        assert torch.equal(weight, weights[name]), f"{name} took the bad step"


def test_a_loss_that_diverged_on_good_windows_says_so(store: ShardStore, tiny: EmodConfig) -> None:
    pretrainer = new_pretrainer(store, tiny, settings_of())
    with torch.no_grad():
        pretrainer.model.projection.contract.bias.fill_(torch.inf)
    with pytest.raises(DataError, match=r"step 1: .*not finite.*every window of its batch is finite.*learning_rate"):
        next(pretrainer.steps())


def test_a_gradient_that_is_not_finite_takes_no_step(store: ShardStore, tiny: EmodConfig) -> None:
    """The loss of it is finite: the second step stops, after what the first has learned."""
    pretrainer = new_pretrainer(store, tiny, settings_of())
    steps = pretrainer.steps()
    next(steps)
    weight = pretrainer.model.projection.contract.weight
    weight.register_hook(lambda gradient: torch.full_like(gradient, torch.nan))
    learned = {name: value.clone() for name, value in pretrainer.model.state_dict().items()}
    with pytest.raises(DataError, match=r"^step 2: the gradient is not finite: every window of its batch is finite"):
        next(steps)
    for name, value in pretrainer.model.named_parameters():
        assert torch.equal(value, learned[name]), name
    assert pretrainer.next_step == 1


def test_subjects_held_out_are_never_drawn(store: ShardStore, tiny: EmodConfig) -> None:
    held_out = {"deap": frozenset({"s2", "s5"}), "seed_iv": frozenset({"s1"})}
    drawn: dict[str, set[int]] = {name: set() for name in CORPORA}
    spy = Spy(store, lambda corpus, rows: drawn[corpus].update(rows))
    pretrainer = new_pretrainer(spy, tiny, settings_of(steps_per_epoch=40), held_out=held_out)
    for _ in pretrainer.steps():
        pass
    for name in CORPORA:
        subjects = np.array(store.metadata(name)["subject"].to_pylist())
        seen = {str(subjects[row]) for row in drawn[name]}
        assert seen == {"s1", "s2", "s3", "s4", "s5", "s6"} - held_out.get(name, frozenset())


def test_points_follow_their_windows(store: ShardStore, tiny: EmodConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """With subjects held out, row numbers of the plan and of the store differ."""
    read: list[tuple[str, int]] = []
    points: list[npt.NDArray[np.float32]] = []

    def weigh(va: torch.Tensor, *, d_max: float) -> torch.Tensor:
        points.append(va.numpy().copy())
        return weights(va, d_max=d_max)

    weights = module.va_weights
    monkeypatch.setattr(module, "va_weights", weigh)
    spy = Spy(store, lambda corpus, rows: read.extend((corpus, row) for row in rows))
    pretrainer = new_pretrainer(spy, tiny, settings_of(steps_per_epoch=3), held_out={"deap": frozenset({"s1"})})
    for _ in pretrainer.steps():
        pass
    wanted = [[store.metadata(corpus)[axis][row].as_py() for axis in ("valence", "arousal")] for corpus, row in read]
    np.testing.assert_allclose(np.concatenate(points), wanted, rtol=1e-6)
    regions = [store.metadata(corpus)["va_region"][row].as_py() for corpus, row in read if corpus == "deap"]
    assert regions == list(range(9)) * 3


def test_no_window_left_is_bad_data(store: ShardStore) -> None:
    with pytest.raises(DataError, match="deap has no window left"):
        select_windows(store, ("deap",), {"deap": frozenset({"s1", "s2", "s3", "s4", "s5", "s6"})})


def test_gradients_are_clipped(store: ShardStore, tiny: EmodConfig) -> None:
    def gradient(pretrainer: Pretrainer) -> torch.Tensor:
        return torch.cat([p.grad.ravel() for p in pretrainer.model.parameters() if p.grad is not None])

    free, clipped = (new_pretrainer(store, tiny, settings_of(clip_norm=norm)) for norm in (1e9, 0.01))
    reports = [next(pretrainer.steps()) for pretrainer in (free, clipped)]
    whole, cut = gradient(free), gradient(clipped)
    assert whole.norm() > 0.02
    assert cut.norm() == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(cut / cut.norm(), whole / whole.norm(), rtol=1e-4, atol=1e-6)
    # Reported is the norm before clipping.
    for report in reports:
        assert report.gradient_norm == pytest.approx(whole.norm().item(), rel=1e-5)


def test_corpora_of_one_montage_go_through_together(
    store: ShardStore, tiny: EmodConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever order each has its electrodes; what comes back is in the plan's order."""
    pretrainer = new_pretrainer(store, tiny, settings_of())
    pretrainer.model.eval()  # dropout follows the places of electrodes
    montages = {"a": ("Fp1", "Cz", "O2"), "b": ("O2", "Fp1", "Cz"), "c": ("Fp1", "Cz")}
    nothing = np.zeros(0, dtype=np.int64), np.zeros((0, 2), dtype=np.float32)
    pretrainer._corpora = {name: PretrainCorpus(*nothing, names, 50.0) for name, names in montages.items()}
    torch.manual_seed(0)
    parts = [
        _Part(name, number, torch.randn(3, len(names), 100), torch.randn(3, 2), *2 * [torch.arange(3) + 10 * number])
        for number, (name, names) in enumerate(montages.items())
    ]
    alone = [pretrainer.model.embed(p.windows, montages[p.corpus], 50.0, p.keys) for p in parts]
    passes = []
    embed = pretrainer.model.embed
    monkeypatch.setattr(pretrainer.model, "embed", lambda *given: passes.append(len(given[0])) or embed(*given))
    embedding, va, ids, pairs = pretrainer._embed(parts)
    torch.testing.assert_close(embedding, torch.cat(alone), rtol=0, atol=1e-6)
    assert torch.equal(va, torch.cat([part.va for part in parts]))
    assert ids.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert torch.equal(pairs, torch.cat([part.pairs for part in parts]))
    assert passes == [6, 3]


def first_loss(
    store: ShardStore, tiny: EmodConfig, objective: str, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> tuple[Pretrainer, StepReport, torch.Tensor, torch.Tensor]:
    """The first step without dropout, and the rows and weights that its loss saw."""
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        "emod.training.pretrainer.contrastive_loss",
        lambda z, weights, temperature: seen.extend((z, weights)) or contrastive_loss(z, weights, temperature),
    )
    still = tiny.model_copy(update={"dropout": 0.0, "pool_dropout": 0.0})
    pretrainer = new_pretrainer(store, still, settings_of(objective=objective, **changes))
    return pretrainer, next(pretrainer.steps()), *seen


def test_hard_va_attracts_within_a_region(store: ShardStore, tiny: EmodConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrainer, report, _, weights = first_loss(store, tiny, "hard_va", monkeypatch)
    regions = []
    for name, picks in pretrainer.plan.batch(0).items():
        regions += store.metadata(name)["va_region"].take(picks).to_pylist()
    same = np.equal.outer(regions, regions) & ~np.eye(len(regions), dtype=bool)
    assert np.array_equal(weights.numpy(), same)
    assert report.n_windows == len(regions) == 27


def test_augment_attracts_two_views_of_one_window(
    store: ShardStore, tiny: EmodConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window that was drawn twice has four views, which all attract."""
    pretrainer, report, z, weights = first_loss(store, tiny, "augment", monkeypatch, rounds=2)
    assert (report.n_windows, len(z), report.anchors_alone) == (54, 108, 0)
    drawn = [[(name, row) for row in picks.tolist()] * 2 for name, picks in pretrainer.plan.batch(0).items()]
    views = [view for corpus in drawn for view in corpus]
    same = [[one == other for other in views] for one in views]
    assert np.array_equal(weights.numpy(), np.array(same) & ~np.eye(108, dtype=bool))
    assert len(set(views)) < 54, "one was drawn twice"
    partner = weights.argmax(dim=1)
    # Views of one window are near each other in a fresh network, some of them the very same signal.
    similar = (z @ z.T)[torch.arange(108), partner]
    assert 0 < int((similar > 1 - 1e-5).sum()) < 108


def test_scratch_takes_no_step(store: ShardStore, tiny: EmodConfig) -> None:
    assert list(new_pretrainer(store, tiny, settings_of(objective="scratch")).steps()) == []


def test_batches_are_read_in_order_and_one_ahead(store: ShardStore, tiny: EmodConfig) -> None:
    reads: list[tuple[str, list[int]]] = []
    read_whole = [threading.Event() for _ in range(6)]

    def note(corpus: str, rows: list[int]) -> None:
        reads.append((corpus, rows))
        if corpus == CORPORA[-1]:
            read_whole[len(reads) // len(CORPORA) - 1].set()

    class Watched(Pretrainer):
        def _take_step(self, *told: Any) -> StepReport:
            ahead = min(self.next_step + 2, 6)
            assert read_whole[ahead - 1].wait(30), f"batch {ahead - 1} is not read while step {self.next_step} is taken"
            assert len(reads) == ahead * len(CORPORA), "one batch ahead, no more: memory is bounded"
            return super()._take_step(*told)

    spy = Spy(store, note)
    pretrainer = Watched(spy, select_windows(spy, CORPORA, {}), tiny, settings_of(), seed=3, device=CPU)
    for report in pretrainer.steps():
        assert 0 <= report.data_wait_s <= report.step_s
    planned = [(name, rows.tolist()) for step in range(6) for name, rows in pretrainer.plan.batch(step).items()]
    assert reads == planned


def test_windows_for_a_gpu_are_the_same(store: ShardStore, tiny: EmodConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come in half precision, as they are stored, and are converted there."""
    losses = [report.loss for report in new_pretrainer(store, tiny, settings_of()).steps()]
    halves: list[torch.dtype] = []

    def windows(self: Pretrainer, name: str, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        halves.append((found := self._store.half_windows(name, rows)).dtype)
        return found

    monkeypatch.setattr(Pretrainer, "_windows", windows)
    assert [report.loss for report in new_pretrainer(store, tiny, settings_of()).steps()] == losses
    assert set(halves) == {torch.float16}


def test_reading_fails_loudly(store: ShardStore, tiny: EmodConfig) -> None:
    """An error of the reading thread reaches the loop, with the step whose windows were to be read."""

    def refuse(corpus: str, rows: list[int]) -> None:
        if set(rows) == set(pretrainer.plan.batch(2)[corpus].tolist()):
            raise DataError("shard 7 is damaged")

    pretrainer = new_pretrainer(Spy(store, refuse), tiny, settings_of())
    first = {int(row) for row in pretrainer.plan.batch(2)["dasps"]}
    with pytest.raises(DataError) as caught:
        list(pretrainer.steps())
    told, _, reason = str(caught.value).partition(" cannot be read: ")
    assert reason == "shard 7 is damaged"
    assert told.startswith("step 3: corpus dasps: windows ")
    assert told.endswith(f" and {len(first) - 4} more")
    ids = {store.metadata("dasps")["window_id"][row].as_py() for row in first}
    assert set(told.partition("windows ")[2].partition(" and ")[0].split(", ")) < ids
