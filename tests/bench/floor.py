"""The least time a training step can take on this machine: its work over the machine's own rates, measured here.

The sum, over the operations of the step, of the larger of multiplications' time and memory's. An operation's bytes are
its operands and its result once, so that what can be fused into a neighbour costs nothing: norms, residuals, dropout,
GroupNorm's statistics. Nothing is computed twice. GELU, its derivative and the exponentials of softmax are no
multiplications of matrices; they are summed apart, at the rates of PyTorch's own kernels on what caches hold.

Shapes: C electrodes, L points of a branch's axis, N tokens, R rows of tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from emod.catalog import EmodConfig
from emod.model.emod import count_tokens
from tests.bench.model_step import make_batch
from tests.bench.ratio import seconds

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Operation:
    """What an operation cannot do without.

    Attributes:
        flops: Multiplications and additions of its products.
        size: Bytes of operands and result.
        gelu: Evaluations of GELU.
        slope: Of its derivative.
        exp: Exponentials of softmax.
    """

    flops: float = 0.0
    size: float = 0.0
    gelu: float = 0.0
    slope: float = 0.0
    exp: float = 0.0


@dataclass(frozen=True)
class Rates:
    """Of this machine, per second: floating-point operations, bytes, evaluations."""

    flops: float
    size: float
    gelu: float
    slope: float
    exp: float

    def products_s(self, step: list[Operation]) -> float:
        """Time of products and memory."""
        return sum(max(op.flops / self.flops, op.size / self.size) for op in step)

    def evaluations_s(self, step: list[Operation]) -> float:
        """Time of GELU, its derivative and softmax."""
        return sum(op.gelu / self.gelu + op.slope / self.slope + op.exp / self.exp for op in step)


def step_operations(windows: int, config: EmodConfig) -> list[Operation]:
    """Forward and backward of the eight corpora's windows, and the optimiser."""
    operations: list[Operation] = []
    for eeg, _, sfreq_hz in make_batch(1)[0]:
        _, electrodes, samples = eeg.shape
        tokens = count_tokens(samples, sfreq_hz, config.token_rate_hz)
        operations += _network(windows, electrodes, samples, tokens, config)
    rows = windows * len(make_batch(1)[0])
    operations += _linear(rows, config.width, config.projection_hidden)
    operations += _linear(rows, config.projection_hidden, config.projection_width)
    width = config.width
    parameters = config.layers * (8 + 2 * config.feed_forward / width) * width**2 + 4 * width**2
    return [*operations, Operation(size=7 * FLOAT * parameters)]  # AdamW: four read, three written


def _network(windows: int, electrodes: int, samples: int, tokens: int, config: EmodConfig) -> Iterator[Operation]:
    width, rows = config.width, windows * electrodes * tokens
    for points in (samples, samples // 2 + 1):
        values = windows * electrodes * points
        flops, size = 2 * config.kernel * width * values, FLOAT * (values + rows * width)
        yield Operation(flops, size, gelu=width * values)
        yield Operation(flops, size, slope=width * values)  # the signal gets no gradient
    yield from _linear(rows, 2 * width, width)
    yield Operation(gelu=rows * width, slope=rows * width)
    for _ in range(config.layers):
        for items in (electrodes, tokens):
            yield from _linear(rows, width, 3 * width)
            product = 2 * rows * items * width
            yield Operation(2 * product, 4 * FLOAT * rows * width, exp=config.heads * rows * items)
            yield Operation(4 * product, 7 * FLOAT * rows * width)
            yield from _linear(rows, width, width)
        yield from _linear(rows, width, config.feed_forward)
        yield Operation(gelu=rows * config.feed_forward, slope=rows * config.feed_forward)
        yield from _linear(rows, config.feed_forward, width)


def _linear(rows: int, inputs: int, outputs: int) -> Iterator[Operation]:
    """Forward, gradient of the input, gradient of the weight."""
    for _ in range(3):
        yield Operation(2 * rows * inputs * outputs, FLOAT * (rows * (inputs + outputs) + inputs * outputs))


def measure_rates(rounds: int = 5) -> Rates:
    """The best of a few rounds each, with as many threads as torch has now."""
    flops = 0.0
    for rows in (1024, 4096):
        for inputs, outputs in ((128, 384), (512, 128), (512, 512)):
            x, weight, out = torch.randn(rows, inputs), torch.randn(inputs, outputs), torch.empty(rows, outputs)
            flops = max(flops, 2 * out.numel() * inputs * _per_second(torch.mm, x, weight, out=out, rounds=rounds))
    big, copy = torch.randn(2**26), torch.empty(2**26)
    size = 2 * FLOAT * big.numel() * _per_second(copy.copy_, big, calls=1, rounds=rounds)
    x, y = torch.randn(2**18), torch.empty(2**18)
    table, shares = torch.randn(4096, 64), torch.empty(4096, 64)
    aten = torch.ops.aten
    return Rates(
        flops,
        size,
        gelu=x.numel() * _per_second(aten.gelu.out, x, out=y, rounds=rounds),
        slope=x.numel() * _per_second(aten.gelu_backward.grad_input, x, x, grad_input=y, rounds=rounds),
        exp=table.numel() * _per_second(aten._softmax.out, table, -1, False, out=shares, rounds=rounds),
    )


def _per_second(action: Callable[..., Any], *given: Any, rounds: int, calls: int = 20, **named: Any) -> float:
    """Calls per second."""
    return calls / min(seconds(lambda: [action(*given, **named) for _ in range(calls)]) for _ in range(rounds))
