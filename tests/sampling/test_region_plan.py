"""Region-balanced batches: what each slot draws, what a step depends on, how ranks share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emod.sampling import RegionBalancedPlan

FULL = np.arange(90) * 7 % 9  # every region, ten windows each
WORDS = np.array([0, 4, 4, 7, 7, 7, 4, 0])  # regions 0, 4 and 7 only
CORPORA = {"deap": FULL, "seed_iv": WORDS}


def test_every_window_of_a_region_is_drawn_equally_often() -> None:
    plan = RegionBalancedPlan({"deap": FULL}, rounds=4, seed=1)
    drawn = np.bincount(np.concatenate([plan.batch(step)["deap"] for step in range(500)]), minlength=90)
    expected = 500 * 36 / 90
    chi_square = ((drawn - expected) ** 2 / expected).sum()
    assert 40 < chi_square < 140  # 81 degrees of freedom: mean 81, standard deviation 13


def test_a_step_is_a_pure_function() -> None:
    one, other = RegionBalancedPlan(CORPORA, seed=5), RegionBalancedPlan(dict(reversed(CORPORA.items())), seed=5)
    later = {step: one.batch(step) for step in range(6)}
    for step in (5, 2, 0):  # resumed anywhere, in any order
        batch = other.batch(step)
        assert list(batch) == list(later[step]) == ["deap", "seed_iv"]
        for corpus in batch:
            assert batch[corpus].tolist() == later[step][corpus].tolist()
    steps = {tuple(batch["deap"]) for batch in later.values()}
    assert len(steps) == 6
    assert one.batch(0)["deap"].tolist() != RegionBalancedPlan(CORPORA, seed=6).batch(0)["deap"].tolist()


def test_draws_are_pinned() -> None:
    """Rows that a run of another release or machine must find again when it resumes."""
    assert RegionBalancedPlan(CORPORA, rounds=1, seed=7).batch(3)["deap"].tolist() == [45, 49, 26, 84, 7, 29, 42, 10, 5]


def test_another_corpus_changes_nothing() -> None:
    alone, together = RegionBalancedPlan({"seed_iv": WORDS}), RegionBalancedPlan(CORPORA)
    assert alone.batch(4)["seed_iv"].tolist() == together.batch(4)["seed_iv"].tolist()


def test_corpora_with_equal_regions_draw_differently() -> None:
    batch = RegionBalancedPlan({"a": FULL, "b": FULL}).batch(0)
    assert batch["a"].tolist() != batch["b"].tolist()


@settings(max_examples=40, deadline=None)
@given(world_size=st.integers(1, 45), n_corpora=st.integers(1, 8), rounds=st.integers(1, 4))
def test_ranks_share_a_batch_evenly(world_size: int, n_corpora: int, rounds: int) -> None:
    plan = RegionBalancedPlan({f"c{i}": FULL for i in range(n_corpora)}, rounds=rounds)
    whole = plan.batch(2)
    parts = [plan.batch(2, rank=rank, world_size=world_size) for rank in range(world_size)]
    for corpus in whole:
        assert np.concatenate([part[corpus] for part in parts]).tolist() == whole[corpus].tolist()
        sizes = [part[corpus].size for part in parts]
        assert max(sizes) - min(sizes) <= 1
    totals = [sum(rows.size for rows in part.values()) for part in parts]
    assert max(totals) - min(totals) <= 1


def test_an_epoch_is_the_authors() -> None:
    n_windows = {"a": 79_070 - 7 * 5_000} | {f"c{i}": 5_000 for i in range(7)}
    plan = RegionBalancedPlan({name: np.zeros(n, dtype=int) for name, n in n_windows.items()}, rounds=4)
    assert plan.steps_per_epoch == 274
    assert RegionBalancedPlan({"a": WORDS}).steps_per_epoch == 1


def test_refuses() -> None:
    def plan(ids: Any = WORDS, **settings: Any) -> RegionBalancedPlan:
        return RegionBalancedPlan({"amigos": ids}, **settings)

    for ids, said in [
        ([], "amigos.*at least one"),
        ([[0, 1]], r"amigos.*\(1, 2\)"),
        ([0, 9], "amigos: va_region 9"),
        ([0, -1], "amigos: va_region -1"),
        ([0.0, 1.0], "amigos.*float64"),
    ]:
        with pytest.raises(ValueError, match=said):
            plan(ids)
    for key, value, said in [("rounds", 0, "rounds = 0"), ("seed", -1, "seed = -1"), ("empty", "skip", "'skip'")]:
        with pytest.raises(ValueError, match=said):
            plan(**{key: value})
    with pytest.raises(ValueError, match="at least one corpus"):
        RegionBalancedPlan({})
    with pytest.raises(ValueError, match="step = -1"):
        plan().batch(-1)
    with pytest.raises(ValueError, match="both or neither"):
        plan().batch(0, rank=1)
    for rank in (-1, 2):
        with pytest.raises(ValueError, match=f"rank = {rank}"):
            plan().batch(0, rank=rank, world_size=2)
