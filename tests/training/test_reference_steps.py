"""Three steps of pretraining against the equations alone: the frozen network, its loss, clipping, the cosine, AdamW.

Everything of the reference is in double precision and written here or in ``tests.reference``; the platform gives it the
weights it starts from and the windows of each batch. Dropout is off, since its chances are nobody's equation.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from emod.affect import va_region
from emod.catalog import PretrainSettings
from emod.signal.montage import ELECTRODES
from emod.training.pretrainer import Pretrainer
from tests.reference import eager
from tests.training.structured import CASES, CORPORA, D_MAX, SIZES, gradient

# The paper's, which are the defaults.
FIRST_RATE, LAST_RATE, DECAY, CLIP, TAU = 5e-4, 1e-7, 1e-4, 3.0, 0.07
STEPS = 3


class AdamW:
    """Loshchilov and Hutter (2019), algorithm 2, on one vector; betas and epsilon are PyTorch's."""

    def __init__(self, weights: Tensor) -> None:
        self.first, self.second, self.taken = torch.zeros_like(weights), torch.zeros_like(weights), 0

    def step(self, weights: Tensor, grad: Tensor, rate: float) -> Tensor:
        self.taken += 1
        self.first = 0.9 * self.first + 0.1 * grad
        self.second = 0.999 * self.second + 0.001 * grad**2
        mean, power = self.first / (1 - 0.9**self.taken), self.second / (1 - 0.999**self.taken)
        return weights - rate * DECAY * weights - rate * mean / (power.sqrt() + 1e-8)


def places_of_pairs(objective: str, va: Tensor, drawn: list[Tensor]) -> Tensor:
    """Points between which eq. 5 gives the weights of an objective: the plane's own, or one far place for each id."""
    if objective == "soft_va":
        return va
    if objective == "hard_va":
        ids = torch.from_numpy(va_region(va[:, 0].numpy(), va[:, 1].numpy()))
    else:  # each corpus' windows stand there twice, and some were drawn twice
        ids = torch.cat([1000 * number + picks.repeat(2) for number, picks in enumerate(drawn)])
    return torch.stack([100.0 * ids, torch.zeros(len(ids))], dim=1).double()


@pytest.mark.parametrize("statistics", ["corpus", "batch"])
@pytest.mark.parametrize("objective", ["soft_va", "hard_va", "augment"])
def test_steps_are_those_of_the_equations(objective: str, statistics: str) -> None:
    case = dataclasses.replace(CASES["soft_va without dropout"], objective=objective, statistics=statistics)
    ours, _ = case.pretrainer(torch.float64, learning_rate=FIRST_RATE)
    network = eager.EagerEmod(eager.Sizes(**SIZES, dropout=0.0, pool_dropout=0.0, electrodes=len(ELECTRODES))).double()
    network.load_state_dict(ours.model.state_dict())
    named = sorted(network.named_parameters())
    weights = torch.cat([parameter.detach().flatten() for _, parameter in named])
    optimiser = AdamW(weights)
    running = {"running_mean": torch.zeros(1).double(), "running_var": torch.ones(1).double()}

    for step, report in enumerate(ours.steps()):
        parts = ours._read(step)
        embeddings = [
            network.embed(
                part.windows,
                torch.tensor([ELECTRODES.index(name) for name in CORPORA[part.corpus][0]]),
                CORPORA[part.corpus][1],
            )
            for part in parts
        ]
        va = torch.cat([part.va for part in parts])
        drawn = [torch.from_numpy(picks) for picks in ours.plan.batch(step).values()]
        together = embeddings if statistics == "corpus" else [torch.cat(embeddings)]
        z = network.projection(together)
        loss = eager.contrastive_loss(z, places_of_pairs(objective, va, drawn), TAU, D_MAX)
        grad = torch.cat([g.flatten() for g in torch.autograd.grad(loss, [parameter for _, parameter in named])])
        norm = float(grad.norm())
        clipped = grad * min(1.0, CLIP / (norm + 1e-6))  # the millionth is PyTorch's
        rate = LAST_RATE + (FIRST_RATE - LAST_RATE) * (1 + math.cos(math.pi * step / STEPS)) / 2
        weights = optimiser.step(weights, clipped, rate)
        hidden = [network.projection.expand(embedding).detach() for embedding in together]
        for name, statistic in (("running_mean", Tensor.mean), ("running_var", Tensor.var)):
            fresh = torch.stack([statistic(part, dim=0) for part in hidden]).mean(dim=0)
            running[name] = 0.9 * running[name] + 0.1 * fresh

        assert norm > CLIP, "clipping takes part"
        assert abs(report.loss - loss.item()) <= 1e-12 * max(1, loss.item())
        assert report.gradient_norm == pytest.approx(norm, rel=1e-9)
        assert report.learning_rate == pytest.approx(rate, rel=1e-12)
        assert (gradient(ours.model) - clipped).norm() <= 1e-9 * clipped.norm()
        found = torch.cat([parameter.detach().flatten() for _, parameter in sorted(ours.model.named_parameters())])
        torch.testing.assert_close(found, weights, rtol=0, atol=1e-9)
        for name, value in running.items():
            torch.testing.assert_close(ours.model.state_dict()[f"projection.norm.{name}"], value, rtol=0, atol=1e-9)
        with torch.no_grad():
            for (_, parameter), value in zip(named, weights.split([p.numel() for _, p in named]), strict=True):
                parameter.copy_(value.view_as(parameter))
    assert step == STEPS - 1


def test_the_papers_schedule() -> None:
    """100 epochs of 274 steps: the first rate, half way, the last, and PyTorch's own recurrence all along."""
    ours, _ = CASES["soft_va"].pretrainer(torch.float32, epochs=100, steps_per_epoch=274)
    settings = PretrainSettings()
    assert (settings.learning_rate, settings.final_learning_rate) == (FIRST_RATE, LAST_RATE)
    assert (settings.weight_decay, settings.clip_norm, settings.temperature) == (DECAY, CLIP, TAU)
    assert ours.total_steps == 27_400
    assert ours.learning_rate(0) == FIRST_RATE
    assert ours.learning_rate(13_700) == pytest.approx((FIRST_RATE + LAST_RATE) / 2, rel=1e-12)
    assert ours.learning_rate(27_399) == pytest.approx(LAST_RATE, rel=1e-4)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=FIRST_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=27_400, eta_min=LAST_RATE)
    for step in range(27_400):
        assert ours.learning_rate(step) == pytest.approx(schedule.get_last_lr()[0], rel=1e-6)
        optimiser.step()
        schedule.step()


def test_every_weight_decays_without_a_gradient() -> None:
    """Rows of electrodes that no corpus has: AdamW's decay is all that moves them, by the rate times 1e-4 a step."""
    ours, _ = CASES["soft_va"].pretrainer(torch.float64)
    before = _absent_rows(ours)
    kept = math.prod(1 - report.learning_rate * DECAY for report in ours.steps())
    torch.testing.assert_close(_absent_rows(ours), before * kept, rtol=1e-12, atol=0)


def _absent_rows(pretrainer: Pretrainer) -> Tensor:
    present = {name for channels, *_ in CORPORA.values() for name in channels}
    table = pretrainer.model.encoder.electrodes
    assert table is not None
    return table.table.weight.detach()[[row for row, name in enumerate(ELECTRODES) if name not in present]].clone()
