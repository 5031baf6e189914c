"""Pooling, grouped statistics and the projection, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emod.catalog.model import EmodConfig
from emod.model.heads import AttentionPool, GroupedBatchNorm, PlaneHead, ProjectionHead

TINY = EmodConfig(width=4, heads=2, groups=2, projection_hidden=6, projection_width=5)


def test_pool_is_two_softmax_means() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(4, dropout=0.25).double().eval()
    tokens = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    got = pool(tokens).detach().numpy()
    electrode, token = (s.weight.detach().numpy()[0] for s in (pool.electrode_score, pool.token_score))
    for window, result in zip(tokens.numpy(), got, strict=True):
        moments = []
        for n in range(5):
            w = np.exp(window[:, n] @ electrode)
            moments.append((w[:, None] * window[:, n]).sum(axis=0) / w.sum())
        w = np.exp(np.array(moments) @ token)
        np.testing.assert_allclose(result, (w[:, None] * moments).sum(axis=0) / w.sum(), rtol=1e-12)


def test_groups_are_normalised_apart_in_any_row_order() -> None:
    torch.manual_seed(0)
    groups = torch.tensor([7, 2, 7, 2, 2, 7, 5, 5])
    x = torch.randn(8, 3, dtype=torch.float64) * (1 + groups[:, None]) + groups[:, None]
    norm = GroupedBatchNorm(3).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)

    got = norm(x, groups).detach()

    means, variances = [], []
    for group in (2, 5, 7):
        rows = x[groups == group]
        wanted = (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias
        torch.testing.assert_close(got[groups == group], wanted.detach(), rtol=1e-12, atol=1e-12)
        means.append(rows.mean(0))
        variances.append(rows.var(0))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, 0.1 * torch.stack(means).mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * torch.stack(variances).mean(0))


def test_one_group_is_plain_batch_norm() -> None:
    x = torch.randn(6, 3)
    plain, grouped = torch.nn.BatchNorm1d(3), GroupedBatchNorm(3)
    torch.testing.assert_close(grouped(x, torch.full((6,), 4)), plain(x))
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(grouped.state_dict()[name], plain.state_dict()[name])


def test_evaluation_uses_running_statistics_whatever_the_groups() -> None:
    norm = GroupedBatchNorm(3)
    norm(torch.randn(6, 3), torch.tensor([0, 0, 0, 1, 1, 1]))
    norm.eval()
    x = torch.randn(4, 3)
    torch.testing.assert_close(norm(x, torch.tensor([0, 1, 1, 2])), norm(x))
    torch.testing.assert_close(norm(x)[:1], norm(x[:1]))


def test_a_group_of_one_row_is_refused_in_training() -> None:
    with pytest.raises(ValueError, match="more than 1 value"):
        GroupedBatchNorm(3)(torch.randn(3, 3), torch.tensor([0, 0, 1]))


@pytest.mark.parametrize("statistics", ["corpus", "batch"])
def test_projection_statistics_follow_the_config(statistics: str) -> None:
    """A corpus' own shift and gain vanish under "corpus" and stay under "batch"; rows have length one either way."""
    torch.manual_seed(0)
    head = ProjectionHead(TINY.model_copy(update={"projection_statistics": statistics})).double()
    embedding = torch.randn(10, 4, dtype=torch.float64)
    groups = torch.tensor([0] * 5 + [1] * 5)
    moved = torch.where(groups[:, None] == 1, 1000 + 50 * embedding, embedding)
    z, z_moved = head(embedding, groups), head(moved, groups)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(10, dtype=torch.float64))
    same = torch.allclose(z, z_moved, atol=1e-3)
    assert same == (statistics == "corpus")


def test_gradient_crosses_the_group_statistics() -> None:
    torch.manual_seed(0)
    norm = GroupedBatchNorm(2).double()
    x = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda rows: norm(rows, torch.tensor([1, 0, 1, 0, 0, 1])), (x,))


def test_plane_head_is_affine() -> None:
    head = PlaneHead(4)
    x = torch.randn(3, 4)
    torch.testing.assert_close(head(x), x @ head.weight.T + head.bias)
    assert head(x).shape == (3, 2)
