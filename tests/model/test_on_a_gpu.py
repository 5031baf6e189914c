"""The network on a GPU against the same on a CPU, whose parts have other kernels: `-m gpu`, where there is one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from emod.catalog import EmodConfig
from emod.model import Emod

CONFIG = EmodConfig(width=16, heads=2, groups=2, layers=2, feed_forward=32, dropout=0.2, pool_dropout=0.2)
NAMES = ("Fp1", "T7", "Cz", "P8", "O2")
KEYS = torch.arange(6)

pytestmark = pytest.mark.gpu


def embedding_and_slopes(model: Emod, eeg: Tensor, goal: Tensor, precision: torch.dtype) -> tuple[Tensor, Tensor]:
    device = next(model.parameters()).device
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        embedding = model.embed(eeg.to(device), NAMES, 128.0, KEYS.to(device))
    assert embedding.dtype == torch.float32
    weights = [p for name, p in sorted(model.named_parameters()) if not name.startswith("projection.")]
    slopes = torch.autograd.grad((embedding * goal.to(device)).sum(), weights)
    return embedding.detach().cpu(), torch.cat([slope.flatten() for slope in slopes]).cpu()


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.03)])
def test_it_is_the_network_of_a_cpu(precision: torch.dtype, tolerance: float) -> None:
    """In training, with the same dropout; embeddings and gradients by their relative norm."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    model = Emod(CONFIG).train()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    eeg, goal = torch.randn(6, 5, 640), torch.randn(6, 16)
    wanted = embedding_and_slopes(model, eeg, goal, torch.float32)
    found = embedding_and_slopes(copy.deepcopy(model).cuda(), eeg, goal, precision)
    for mine, other in zip(found, wanted, strict=True):
        assert (mine - other).norm() <= tolerance * other.norm()
