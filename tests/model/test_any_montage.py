"""Any electrodes, 1 s to 60 s at any rate: against the frozen reference, and what no order of electrodes may change."""

from __future__ import annotations

import copy
import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from emod.catalog import EmodConfig
from emod.model import Emod, count_tokens
from emod.model.attention import AxialLayer
from emod.signal.montage import ALIASES, ELECTRODES
from tests.reference import eager

SIZES = {
    "width": 8,
    "heads": 2,
    "groups": 2,
    "layers": 2,
    "feed_forward": 16,
    "projection_hidden": 12,
    "projection_width": 6,
}
RATES_HZ = (100.0, 128.0, 200.0, 250.0, 256.0, 300.0, 500.0, 1000.0)
SECONDS = (1.0, 1.5, 2.3, 10.0, 60.0)
NEUROSCAN = tuple(name for name in ELECTRODES if name not in {"A1", "A2", "M1", "M2", "T9", "T10"})[:62]
EPOC = ("AF3", "F7", "F3", "FC5", "T7", "P7", "O1", "O2", "P8", "T8", "FC6", "F4", "F8", "AF4")

# Electrodes, rate, samples, tokens.
SHAPES = [
    (("Cz",), 1000.0, 60_000, 300),
    (("T7", "T8"), 300.0, 450, 7),
    (("Fp1", "Cz", "O2"), 250.0, 375, 7),
    (EPOC, 128.0, 7680, 300),
    (EPOC, 256.0, 256, 5),
    (NEUROSCAN, 200.0, 2000, 50),
    (NEUROSCAN, 500.0, 500, 5),
    (ELECTRODES, 100.0, 150, 7),
]


def network() -> Emod:
    """In double precision, without dropout, no parameter at its start: the relative bias is zero there."""
    torch.manual_seed(0)
    model = Emod(EmodConfig(**SIZES, dropout=0.0, pool_dropout=0.0)).double()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def reference(model: Emod) -> eager.EagerEmod:
    sizes = eager.Sizes(**SIZES, dropout=0.0, pool_dropout=0.0, electrodes=len(ELECTRODES))
    plain = eager.EagerEmod(sizes).double()
    plain.load_state_dict(model.state_dict())
    return plain.eval()


def signal(windows: int, electrodes: int, samples: int, seed: int = 0) -> Tensor:
    """A rhythm with a strength for each electrode, on noise and a slow drift."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(windows, electrodes, samples, dtype=torch.float64, generator=generator)
    strength = torch.rand(windows, electrodes, 1, dtype=torch.float64, generator=generator)
    time = torch.linspace(0, 1, samples, dtype=torch.float64)
    return 0.5 * noise + 2 * strength * torch.sin(400 * time) + torch.cos(3 * time)


def sites(names: tuple[str, ...]) -> Tensor:
    return torch.tensor([ELECTRODES.index(name) for name in names])


@pytest.mark.parametrize(("names", "sfreq_hz", "samples", "tokens"), SHAPES)
def test_tokens_and_embedding_are_the_references(
    names: tuple[str, ...], sfreq_hz: float, samples: int, tokens: int
) -> None:
    """The spans of tokens, 300 of them with a bias for 50 offsets, one electrode and all that have a row."""
    model = network()
    plain, eeg = reference(model), signal(2, len(names), samples)
    with torch.no_grad():
        found = model.tokens(eeg, names, sfreq_hz)
        assert found.shape == (2, len(names), tokens, 8)
        wanted = plain.tokens(eeg, sites(names), sfreq_hz)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)
        torch.testing.assert_close(model.embed(eeg, names, sfreq_hz), plain.pool(wanted), rtol=0, atol=1e-11)


def test_the_papers_own_size() -> None:
    """Width 128, three layers, sixteen heads, 25 taps; ten seconds of a headset of 14."""
    torch.manual_seed(0)
    model = Emod(EmodConfig()).double().eval()
    plain = eager.EagerEmod(eager.Sizes(electrodes=len(ELECTRODES))).double()
    plain.load_state_dict(model.state_dict())
    eeg = signal(1, 14, 1280)
    with torch.no_grad():
        found, wanted = model.tokens(eeg, EPOC, 128.0), plain.eval().tokens(eeg, sites(EPOC), 128.0)
    assert found.shape == (1, 14, 50, 128)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("names", "sfreq_hz", "samples"), [(("Cz",), 1000.0, 60_000), (EPOC, 128.0, 7680)])
def test_a_minute_in_single_precision_is_as_exact_as_the_reference(
    names: tuple[str, ...], sfreq_hz: float, samples: int
) -> None:
    """Gradient of every weight, from sums over as many points as a window may have."""
    exact, eeg = network(), signal(2, len(names), samples)
    plain = reference(exact)
    given = eeg, sites(names), sfreq_hz
    goal = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def slopes(model: torch.nn.Module, embedding: Tensor) -> Tensor:
        named = [p for name, p in sorted(model.named_parameters()) if not name.startswith("projection.")]
        return torch.cat([g.flatten().double() for g in torch.autograd.grad((embedding * goal).sum(), named)])

    wanted = slopes(plain, plain.embed(*given))
    rounded, mine = copy.deepcopy(plain).float(), copy.deepcopy(exact).float()
    error = (slopes(mine, mine.embed(eeg.float(), names, sfreq_hz)) - wanted).norm()
    assert error <= 2 * (slopes(rounded, rounded.embed(eeg.float(), *given[1:])) - wanted).norm()


@pytest.mark.parametrize("sfreq_hz", RATES_HZ)
@pytest.mark.parametrize("seconds", SECONDS)
def test_every_rate_and_length(seconds: float, sfreq_hz: float) -> None:
    samples = round(seconds * sfreq_hz)
    tokens = max(1, math.floor(5 * samples / Fraction(sfreq_hz)))
    assert tokens in {math.floor(5 * seconds), math.floor(5 * Fraction(str(seconds)))}
    with torch.no_grad():
        found = network().tokens(signal(1, 2, samples), ("Fp1", "O2"), sfreq_hz)
    assert found.shape == (1, 2, tokens, 8)
    assert found.isfinite().all()


@given(samples=st.integers(1, 10**6), rate=st.fractions(Fraction(1), Fraction(2000), max_denominator=1000))
def test_the_number_of_tokens_is_the_formulas(samples: int, rate: Fraction) -> None:
    """In exact arithmetic, with the rate as the nearest double; a margin of 1e-9 counts as whole."""
    exact = Fraction(5 * samples) / Fraction(float(rate))
    assert count_tokens(samples, float(rate)) in {max(1, math.floor(exact + Fraction(k, 10**9))) for k in (0, 1, 2)}


@settings(max_examples=20, deadline=None)
@given(
    order=st.integers(1, 62).flatmap(lambda n: st.permutations(range(n))),
    shift=st.integers(0, len(ELECTRODES) - 1),
    sfreq_hz=st.sampled_from(RATES_HZ),
    seed=st.integers(0, 99),
)
def test_electrodes_in_another_order_reorder_tokens_and_nothing_else(
    order: list[int], shift: int, sfreq_hz: float, seed: int
) -> None:
    names = tuple(ELECTRODES[(shift + i) % len(ELECTRODES)] for i in range(len(order)))
    others = tuple(names[i] for i in order)
    eeg, model = signal(2, len(names), round(1.2 * sfreq_hz), seed), network()
    with torch.no_grad():
        here, there = model.tokens(eeg, names, sfreq_hz), model.tokens(eeg[:, order], others, sfreq_hz)
        torch.testing.assert_close(there, here[:, order], rtol=0, atol=1e-11)
        one, other = model.embed(eeg, names, sfreq_hz), model.embed(eeg[:, order], others, sfreq_hz)
        torch.testing.assert_close(other, one, rtol=0, atol=1e-11)
        one, other = model(eeg, names, sfreq_hz), model(eeg[:, order], others, sfreq_hz)
        torch.testing.assert_close(other, one, rtol=0, atol=1e-11)


def test_training_does_not_see_the_order_of_electrodes() -> None:
    """Gradients of the loss' rows, batch statistics included."""
    order, names = [3, 0, 4, 1, 2], ("Fp1", "AF3", "Cz", "O2", "T7")
    goal = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slopes = []
    for places in (list(range(5)), order):
        model = network().train()
        z = model(signal(4, 5, 256)[:, places], tuple(names[i] for i in places), 128.0)
        slopes.append(torch.autograd.grad((z * goal).sum(), list(model.parameters())))
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-10)


def test_an_electrode_is_its_name_however_it_is_written() -> None:
    """Old names and any case are the same row; exchanging two names is not the same window."""
    model, eeg = network(), signal(1, 6, 128)
    old = tuple(ALIASES)
    wanted = model.embed(eeg, tuple(ALIASES[name] for name in old), 128.0)
    assert torch.equal(model.embed(eeg, old, 128.0), wanted)
    assert torch.equal(model.embed(eeg, tuple(name.lower() for name in old), 128.0), wanted)
    assert not torch.allclose(model.embed(eeg, (old[1], old[0], *old[2:]), 128.0), wanted)


def test_an_electrode_may_be_a_mixture_of_others() -> None:
    model = Emod(EmodConfig(**SIZES)).double().eval()
    eeg = torch.randn(2, 3, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    encoder = model.encoder
    assert encoder.electrodes is not None
    rows = encoder.electrodes.table.weight.detach()
    f3, fc5 = (rows[ELECTRODES.index(name)] for name in ("F3", "FC5"))
    mixed = encoder.electrodes(["Cz", {"f3": 0.25, "FC5": 0.75}, {"T3": 1.0}])
    expected = torch.stack([rows[ELECTRODES.index("Cz")], 0.25 * f3 + 0.75 * fc5, rows[ELECTRODES.index("T7")]])
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-15)
    own, alone = ("Cz", "Oz", "T7"), ("Cz", {"Oz": 1.0}, {"T7": 1.0})
    assert torch.equal(model.embed(eeg, own, 200.0), model.embed(eeg, alone, 200.0))
    blend = ("Cz", {"O1": 0.5, "O2": 0.5}, "T7")
    stand_in = copy.deepcopy(model)
    with torch.no_grad():
        halves = (rows[ELECTRODES.index("O1")] + rows[ELECTRODES.index("O2")]) / 2
        stand_in.encoder.electrodes.table.weight[ELECTRODES.index("Oz")] = halves
    torch.testing.assert_close(model.tokens(eeg, blend, 200.0), stand_in.tokens(eeg, own, 200.0))
    assert torch.equal(encoder.electrodes.table.weight, rows), "the network's own rows stay as they are"
    for wrong, said in ((["Cz", {"EKG": 1.0}], "'EKG' is not a 10-10 name"), ([{"T3": 0.5, "T7": 0.5}], "given twice")):
        for network in (model, Emod(EmodConfig(**SIZES, without="electrode_embedding")).double().eval()):
            with pytest.raises(ValueError, match=said):
                network.tokens(eeg[:, : len(wrong)], wrong, 200.0)


@pytest.mark.parametrize("offset", [-49, 49])
def test_the_bias_of_the_last_offset_is_that_of_all_beyond(offset: int) -> None:
    """A minute is 300 tokens. Where R at +-49 alone lets attention through, a query mixes all that is as far or
    farther; where nothing is that far, everything alike."""
    torch.manual_seed(0)
    layer = AxialLayer(EmodConfig(**SIZES, max_offset=49)).double().eval()
    temporal, spatial, contract = layer.temporal, layer.spatial, layer.feed_forward[3]
    assert temporal is not None
    assert spatial is not None
    tokens = torch.randn(2, 1, 300, 8, dtype=torch.float64)
    with torch.no_grad():
        for parameter in (*temporal.parameters(), *spatial.output.parameters(), *contract.parameters()):
            parameter.zero_()
        temporal.qkv.weight[16:] = torch.eye(8)
        temporal.output.weight.copy_(torch.eye(8))
        temporal.offset_bias[:, offset + 49] = 60.0
        added = layer(tokens) - tokens
    position = torch.arange(300)
    distance = position[:, None] - position
    mixes = ((distance >= 49) if offset > 0 else (distance <= -49)).double()
    mixes[mixes.sum(dim=1) == 0] = 1
    wanted = mixes / mixes.sum(dim=1, keepdim=True) @ F.layer_norm(tokens, (8,))
    torch.testing.assert_close(added, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int16])
def test_another_precision_is_one_clear_line(dtype: torch.dtype) -> None:
    """MNE gives doubles, files integers; networks are single."""
    with pytest.raises(ValueError, match=rf"eeg is {dtype}, the network float64: give eeg\.to\(torch\.float64\)"):
        network().embed(torch.zeros(2, 1, 64, dtype=dtype), ("Cz",), 128.0)


def test_autocast_changes_nothing_on_a_cpu() -> None:
    """It belongs to one thread; parts run in others."""
    torch.manual_seed(0)
    model, eeg = Emod(EmodConfig(**SIZES)).eval(), torch.randn(3, 2, 128)
    wanted = model.embed(eeg, ("Cz", "Pz"), 128.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.embed(eeg, ("Cz", "Pz"), 128.0), wanted)


@pytest.mark.parametrize(
    ("shape", "names", "said"),
    [
        ((2, 1, 0), ("Cz",), r"eeg of shape \(2, 1, 0\): give windows x electrodes x samples, at least one of each"),
        ((2, 0, 64), (), r"eeg of shape \(2, 0, 64\)"),
        ((1, 64), ("Cz",), r"eeg of shape \(1, 64\)"),
        ((2, 2, 64), ("Cz", "EOG"), r"electrode 'EOG' is not a 10-10 name \(nearest: \w+\): correct the channel list"),
        ((2, 2, 64), ("P7", "t5"), "electrode P7 is given twice, as 'P7' and 't5'"),
    ],
)
def test_what_it_cannot_take_is_one_clear_line(shape: tuple[int, ...], names: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        network().embed(torch.zeros(shape, dtype=torch.float64), names, 128.0)
    assert "\n" not in str(caught.value)
