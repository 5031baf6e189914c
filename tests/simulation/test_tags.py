from __future__ import annotations

import itertools

import numpy as np
import pytest

from emod.signal.montage import ELECTRODES
from emod.simulation import TAG_AMPLITUDE_UV, Passage, RecordingPlan, Tag, TagSignal, decode, session_code

RATES_HZ = (128.0, 200.0, 250.0, 256.0, 300.0, 500.0, 1000.0)


def plan(
    *passages: Passage,
    subject: str = "7",
    session: str = "2",
    channels: tuple[str, ...] = ("Oz",),
    sfreq_hz: float = 128.0,
) -> RecordingPlan:
    return RecordingPlan("deap", subject, session, channels, sfreq_hz, 50.0, (passages,))


def clip(trial: str, duration_s: float = 2.0) -> Passage:
    return Passage(duration_s, trial, "clip", 1.0, -1.0)


@pytest.mark.parametrize("sfreq_hz", RATES_HZ)
def test_every_electrode_says_its_own_name_at_every_rate(sfreq_hz: float) -> None:
    (eeg_uv,) = TagSignal().record(plan(clip("40", 2.37), channels=ELECTRODES, sfreq_hz=sfreq_hz))
    assert eeg_uv.shape == (len(ELECTRODES), round(2.37 * sfreq_hz))
    found = [decode(row, sfreq_hz) for row in eeg_uv]
    assert found == [Tag(7, 2, 40, name, False, 0) for name in ELECTRODES]


def test_every_subject_and_trial_number_is_read_back() -> None:
    for number in range(143):
        (eeg_uv,) = TagSignal().record(plan(clip(str(142 - number)), subject=f"S{number:02d}"))
        assert decode(eeg_uv[0], 128.0)[:3] == (number, 2, 142 - number)


def test_sessions_are_told_apart() -> None:
    names = [*(str(i) for i in range(16)), "first", "20140413"]
    found = [decode(TagSignal().record(plan(clip("1"), session=name))[0][0], 128.0).session for name in names]
    assert found == [session_code(name) for name in names]
    assert found[:16] == list(range(16))


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_the_tag_survives_a_recorder(dtype: type[np.generic]) -> None:
    (eeg_uv,) = TagSignal().record(plan(clip("3", 60.0), channels=ELECTRODES))
    stored = np.round(eeg_uv + 4200.0).astype(dtype)
    assert [decode(row, 128.0).channel for row in stored] == list(ELECTRODES)


def test_baseline_rest_and_stimulus_differ() -> None:
    (eeg_uv,) = TagSignal().record(plan(Passage(3.0, "9"), clip("9", 5.0), Passage(4.0)))
    bounds = np.cumsum([0, 3, 5, 4]) * 128
    baseline, stimulus, rest = (decode(eeg_uv[0, a:b], 128.0) for a, b in itertools.pairwise(bounds))
    assert (baseline.trial, baseline.rest) == (9, True)
    assert (stimulus.trial, stimulus.rest) == (9, False)
    assert (rest.trial, rest.rest) == (None, True)


@pytest.mark.parametrize("sfreq_hz", RATES_HZ)
@pytest.mark.parametrize("dropped", [1, 2, 77, 200])
def test_a_late_start_is_found_to_the_sample(sfreq_hz: float, dropped: int) -> None:
    for channel in ("Fp1", "O2"):
        (eeg_uv,) = TagSignal().record(plan(clip("12", 6.0), channels=(channel,), sfreq_hz=sfreq_hz))
        assert decode(eeg_uv[0, dropped:].round(), sfreq_hz).start == dropped % round(2 * sfreq_hz)


@pytest.mark.parametrize("sfreq_hz", RATES_HZ)
def test_a_start_one_second_late_is_found_where_every_digit_is_even(sfreq_hz: float) -> None:
    # every sine but the clock's then has a whole number of cycles in a second
    (eeg_uv,) = TagSignal().record(plan(clip("0", 4.0), subject="0", session="0", channels=("Fp1",), sfreq_hz=sfreq_hz))
    late = round(sfreq_hz) + 3
    assert decode(eeg_uv[0, late:], sfreq_hz).start == late


@pytest.mark.parametrize("foreign", [2, 64, 300, 384])
def test_samples_of_the_neighbouring_passage_are_refused(foreign: int) -> None:
    (eeg_uv,) = TagSignal().record(plan(clip("1", 3.0), clip("2", 60.0)))
    with pytest.raises(ValueError, match=r"another passage|more than one passage"):
        decode(eeg_uv[0, 384 - foreign :], 128.0)


@pytest.mark.parametrize("factor", [1e-6, 1e6, 0.1, 0.51, 1.2, -1.0])
def test_a_wrong_unit_is_noticed(factor: float) -> None:
    (eeg_uv,) = TagSignal().record(plan(clip("1", 3.0)))
    if factor == -1.0:  # a flipped sign is no wrong amplitude: it shows as a wrong start
        assert decode(-eeg_uv[0], 128.0).start != 0
    else:
        with pytest.raises(ValueError, match=r"wrong unit|are no part"):
            decode(factor * eeg_uv[0], 128.0)


def test_each_sine_is_written_at_the_documented_amplitude() -> None:
    (eeg_uv,) = TagSignal().record(plan(clip("1", 4.0)))
    assert eeg_uv[0].std() == pytest.approx(TAG_AMPLITUDE_UV * np.sqrt(9 / 2))  # clock, kind, session, three pairs


def test_pieces_follow_the_plan() -> None:
    two = RecordingPlan("seed", "1", "1", ("Oz",), 200.0, 50.0, ((clip("1"),), (clip("2"), Passage(1.0))))
    assert [piece.shape for piece in TagSignal().record(two)] == [(1, 400), (1, 600)]


def test_what_cannot_be_tagged_or_decoded_is_refused() -> None:
    with pytest.raises(ValueError, match=r"trial id 'anna'.*number from 0 to 142"):
        TagSignal().record(plan(clip("anna")))
    with pytest.raises(ValueError, match="trial id '143'"):
        TagSignal().record(plan(clip("143")))
    with pytest.raises(ValueError, match="electrode 'T3'"):
        TagSignal().record(plan(clip("1"), channels=("T3",)))
    with pytest.raises(ValueError, match="at least 256"):
        decode(np.zeros(255), 128.0)
    with pytest.raises(ValueError, match="wrong unit"):
        decode(np.zeros(256), 128.0)
    with pytest.raises(ValueError, match=r"wrong unit|no part"):
        decode(10 * np.random.default_rng(0).standard_normal(1000), 128.0)
