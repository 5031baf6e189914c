"""The whole plan against the text of the method, played slot by slot: which window, which rank, how long an epoch is.

The reference shares one thing with the plan, by definition: the random words of a step, one for each slot.
"""

from __future__ import annotations

import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from emod.affect import region_centre, va_region
from emod.sampling import RegionBalancedPlan

Regions = dict[str, list[int]]
CORPORA = st.dictionaries(
    st.sampled_from(["amigos", "deap", "dreamer", "mahnob_hci", "mdme", "mped", "seed_iv", "seed_vii"]),
    st.lists(st.integers(0, 8), min_size=1, max_size=30),
    min_size=1,
)
# Word tables as points of the plane (emod.md, section 1) fill few regions, and leave the corners empty.
WORDS = {
    "seed_iv": [(0, 0), (-1, 1), (-1, 2), (3, 2)],
    "seed_vii": [(3, 2), (0, 0), (-2, 1), (-1, 1), (-1, 2), (-1, 2), (0, 2)],
    "mped": [(0, 0), (3, 2), (2, 1), (-1, 2), (-1, 2), (-2, 1), (-1, 1)],
}


def nearest(region: int, present: list[int]) -> int:
    return min(present, key=lambda other: (np.linalg.norm(region_centre(other) - region_centre(region)), other))


def play(corpora: Regions, rounds: int, seed: int, step: int, empty: str) -> Regions:
    """Rows of a step: m rounds, in each one window of each of the nine regions of each corpus."""
    batch: Regions = {}
    for name in sorted(corpora):
        ids = corpora[name]
        present = sorted(set(ids))
        entropy = np.random.SeedSequence([seed, step, zlib.crc32(name.encode())])
        words = iter(np.random.PCG64(entropy).random_raw(9 * rounds).tolist())
        dealt = step * rounds * (9 - len(present))  # the turn of the round-robin goes on through steps
        batch[name] = []
        for _ in range(rounds):
            for slot in range(9):
                if slot in present:
                    region = slot
                elif empty == "nearest":
                    region = nearest(slot, present)
                else:
                    region = present[dealt % len(present)]
                    dealt += 1
                members = [row for row, other in enumerate(ids) if other == region]
                batch[name].append(members[next(words) % len(members)])
    return batch


def deal(batch: Regions, world_size: int) -> list[Regions]:
    """Each rank's rows: equal parts in rank order; who is due a left-over row goes on from corpus to corpus."""
    ranks: list[Regions] = [{} for _ in range(world_size)]
    due = 0
    for name, rows in batch.items():
        sizes = [len(rows) // world_size] * world_size
        for _ in range(len(rows) % world_size):
            sizes[due % world_size] += 1
            due += 1
        left = list(rows)
        for rank, size in enumerate(sizes):
            ranks[rank][name], left = left[:size], left[size:]
    return ranks


def plain(batch: dict[str, np.ndarray]) -> Regions:
    return {name: rows.tolist() for name, rows in batch.items()}


@settings(max_examples=60, deadline=None)
@given(
    corpora=CORPORA,
    rounds=st.integers(1, 4),
    seed=st.integers(0, 2**63),
    step=st.integers(0, 30_000),
    empty=st.sampled_from(["round_robin", "nearest"]),
    world_size=st.sampled_from([1, 2, 3, 8, 10]),
)
def test_batches_are_those_played_by_hand(
    corpora: Regions, rounds: int, seed: int, step: int, empty: str, world_size: int
) -> None:
    plan = RegionBalancedPlan(corpora, rounds=rounds, seed=seed, empty=empty)  # type: ignore[arg-type]
    wanted = play(corpora, rounds, seed, step, empty)
    assert plain(plan.batch(step)) == wanted
    assert list(plan.batch(step)) == sorted(corpora)
    assert sum(map(len, wanted.values())) == len(corpora) * 9 * rounds
    dealt = deal(wanted, world_size)
    assert [plain(plan.batch(step, rank=rank, world_size=world_size)) for rank in range(world_size)] == dealt
    counts = plan.draws(step)
    for name, ids in corpora.items():
        assert counts[name].tolist() == np.bincount([ids[row] for row in wanted[name]], minlength=9).tolist()


@pytest.mark.parametrize(("corpus", "filled"), [("seed_iv", 3), ("seed_vii", 4), ("mped", 5)])
def test_corpora_of_words_fill_few_regions_and_share_the_rest_evenly(corpus: str, filled: int) -> None:
    """As many as the method's text counts; each region gets its own slot in every round, and the empty slots of all
    steps so far differ by one at most between regions."""
    valence, arousal = np.array(WORDS[corpus] * 5).T
    ids = va_region(valence, arousal)
    present = sorted(set(ids.tolist()))
    assert len(present) == filled
    plan = RegionBalancedPlan({corpus: ids, "deap": np.arange(9)}, rounds=4)
    extra = np.zeros(9, dtype=int)
    for step in range(40):
        drawn = np.bincount(ids[plan.batch(step)[corpus]], minlength=9)
        assert drawn.sum() == 36
        extra[present] += drawn[present] - 4
        assert extra[present].min() >= 0
        assert np.ptp(extra[present]) <= 1
        assert np.delete(drawn, present).tolist() == [0] * (9 - filled)


def test_nearest_is_so_on_the_plane_whatever_is_empty() -> None:
    for mask in range(1, 512):
        present = [region for region in range(9) if mask >> region & 1]
        plan = RegionBalancedPlan({"a": present}, rounds=1, empty="nearest")
        wanted = [slot if slot in present else nearest(slot, present) for slot in range(9)]
        assert [present[row] for row in plan.batch(0)["a"]] == wanted


def test_the_papers_batch_on_eight_workers() -> None:
    """Eight corpora, four rounds: 288 windows, 36 of each rank, 4 or 5 of each corpus."""
    plan = RegionBalancedPlan({f"c{number}": np.arange(90) % 9 for number in range(8)}, rounds=4)
    parts = [plan.batch(7, rank=rank, world_size=8) for rank in range(8)]
    assert [sum(map(len, part.values())) for part in parts] == [36] * 8
    assert {len(rows) for part in parts for rows in part.values()} == {4, 5}


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(1, 3000), min_size=1, max_size=8), rounds=st.integers(1, 6))
def test_an_epoch_is_all_windows_over_corpora_over_a_corpus_share(counts: list[int], rounds: int) -> None:
    plan = RegionBalancedPlan({f"c{i}": np.zeros(n, dtype=int) for i, n in enumerate(counts)}, rounds=rounds)
    assert plan.steps_per_epoch == max(1, (sum(counts) // len(counts)) // (9 * rounds))


def test_another_process_draws_the_same() -> None:
    """With another seed of Python's own hashes, and the corpora in another order."""
    code = (
        "from emod.sampling import RegionBalancedPlan\n"
        "plan = RegionBalancedPlan({'mped': [4, 8, 4, 0], 'deap': [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8]}, seed=3)\n"
        "print({name: rows.tolist() for name, rows in plan.batch(11).items()})"
    )
    environment = {"PYTHONPATH": "platform", "PYTHONHASHSEED": "77"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    here = RegionBalancedPlan({"deap": [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8], "mped": [4, 8, 4, 0]}, seed=3)
    assert run.stdout.strip() == str(plain(here.batch(11)))


def test_draws_of_rounds_steps_seeds_and_corpora_are_independent() -> None:
    """Pairs of draws from a region of five windows fill the 5 x 5 table evenly."""
    ids = np.repeat(np.arange(9), 5)

    def draws(seed: int, name: str) -> np.ndarray:
        plan = RegionBalancedPlan({name: ids}, rounds=2, seed=seed)
        return np.stack([plan.batch(step)[name] % 5 for step in range(250)])

    first, seeded, named = draws(0, "deap"), draws(1, "deap"), draws(0, "mped")
    pairs = {
        "rounds": (first[:, :9], first[:, 9:]),
        "regions": (first[:, :-1], first[:, 1:]),
        "steps": (first[:-1], first[1:]),
        "seeds": (first, seeded),
        "corpora": (first, named),
    }
    for kind, (one, other) in pairs.items():
        table = np.zeros((5, 5))
        np.add.at(table, (one.ravel(), other.ravel()), 1)
        assert stats.chisquare(table.ravel()).pvalue > 1e-4, kind
