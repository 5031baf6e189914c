"""1, 2, 3, 8 and 10 workers, with parts of unequal length, against one process, on windows with structure."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ranks import run_ranks
from tests.training.structured import CASES, GROUPS, run_rank, take_steps

Found = dict[tuple[str, str], dict[str, Any]]
RUNS = [(size, case) for size, cases in GROUPS.items() for case in cases]
each_run = pytest.mark.parametrize(("size", "case"), RUNS)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Found]]:
    """Group size -> what each rank found."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(run_rank, max(GROUPS), str(folder))
    return {size: [load(folder / f"{size}-{rank}.pt") for rank in range(size)] for size in GROUPS}


def load(path: Path) -> Found:
    found: Found = torch.load(path, weights_only=True)
    return found


@functools.cache
def alone(case: str, kind: str) -> dict[str, Any]:
    """What one process without a group finds."""
    return take_steps(case, kind, None)


def of_rank_0(ranks: dict[int, list[Found]], size: int, case: str, kind: str) -> dict[str, Any]:
    """What every rank of the group found, which is the same to the bit: they must not drift apart."""
    first, *others = [found[case, kind] for found in ranks[size]]
    for other in others:
        assert other["told"] == first["told"]
        assert torch.equal(other["gradients"], first["gradients"])
        for name, value in first["state"].items():
            assert torch.equal(other["state"][name], value), name
    return first


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_the_batches_are_what_they_are_meant_to_be() -> None:
    """Anchors without a positive, weights of exactly 0, parts that differ in length and parts that are empty."""
    still = alone("soft_va", "double, still")
    assert all(anchors > 0 for _, _, anchors, _ in still["told"])
    pretrainer, store = CASES["soft_va"].pretrainer(torch.float64)
    parts = {size: [pretrainer.plan.batch(0, rank=r, world_size=size) for r in range(size)] for size in (8, 10)}
    for size, lengths in ((8, {4, 5}), (10, {3, 4})):
        assert {sum(map(len, part.values())) for part in parts[size]} == lengths
    assert any(rows.size == 0 for part in parts[10] for rows in part.values())
    va = torch.cat([torch.from_numpy(store.selected[n].va[rows]) for n, rows in pretrainer.plan.batch(0).items()])
    distances = torch.cdist(va, va)
    assert bool((distances == 5).any())
    assert bool((distances > 5).any())
    assert len(distances.unique()) < 60


@each_run
def test_double_precision(ranks: dict[int, list[Found]], size: int, case: str) -> None:
    """Loss, gradient norm, gradient and, after three steps, weights and the projection's running statistics.

    Adam divides by the root of a second moment, so a weight whose gradient is rounding alone moves by rounding over
    1e-8 of a rate: hence 1e-8 for weights, 1e-5 of what three steps can move them.
    """
    found, wanted = of_rank_0(ranks, size, case, "double, learning"), alone(case, "double, learning")
    for step, (told, expected) in enumerate(zip(found["told"], wanted["told"], strict=True)):
        assert abs(told[0] - expected[0]) <= 1e-12
        assert told[1] == pytest.approx(expected[1], rel=1e-9)
        assert told[2:] == expected[2:]
        assert relative(found["gradients"][step], wanted["gradients"][step]) <= 1e-9
    assert found["state"].keys() == wanted["state"].keys()
    for name, value in wanted["state"].items():
        torch.testing.assert_close(found["state"][name], value, rtol=0, atol=1e-8, msg=name)
    for name in ("projection.norm.running_mean", "projection.norm.running_var"):
        fresh = float(name.endswith("var"))
        assert not torch.allclose(wanted["state"][name], torch.full_like(wanted["state"][name], fresh), atol=1e-3)


@each_run
def test_single_precision(ranks: dict[int, list[Found]], size: int, case: str) -> None:
    """Three batches of one network. The loss is near 10 here, so 1e-6 is of its size; the gradient's error is that of
    all three batches together: with one, chance alone makes the ratio of two roundings as large as 1.9."""
    exact = alone(case, "double, still")
    found, plain = of_rank_0(ranks, size, case, "single, still"), alone(case, "single, still")
    for told, expected, one in zip(found["told"], exact["told"], plain["told"], strict=True):
        assert told[0] == pytest.approx(expected[0], rel=1e-6)
        assert told[0] == pytest.approx(one[0], rel=1e-6)
        assert told[2:] == expected[2:]
    error = relative(found["gradients"].double(), exact["gradients"])
    assert error <= 2 * relative(plain["gradients"].double(), exact["gradients"])
    for name in ("projection.norm.running_mean", "projection.norm.running_var"):
        torch.testing.assert_close(found["state"][name].double(), exact["state"][name], rtol=1e-5, atol=1e-6)
