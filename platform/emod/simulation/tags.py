"""A signal that says where it came from: subject, session, trial, electrode, rest or stimulus, and its first sample.

Readers are tested on it. A trial taken from its neighbour, rows in another order, a baseline read as stimulus, one
sample too many, volts taken for microvolts: each changes what `decode` finds or makes it refuse. It looks nothing
like EEG and must not be filtered; for plausible signals see `brain`.

Each number is written as digits, each digit as one sine of 10 microvolt whose frequency is taken from that digit's
own grid. All frequencies are multiples of 0.5 Hz between 1.5 and 47 Hz, so two seconds separate them exactly, and
every sine starts at phase zero with its passage, so phases tell the offset inside the passage (modulo two seconds).
"""

from __future__ import annotations

import re
import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from emod.signal.montage import ELECTRODES
from emod.simulation.plan import Passage, RecordingPlan, passage_samples

__all__ = ["TAG_AMPLITUDE_UV", "Tag", "TagSignal", "decode", "session_code", "subject_code"]

TAG_AMPLITUDE_UV = 10.0

_STEP_HZ = 0.5
_FIRST_HZ = 2.0
_CLOCK_HZ = 1.5  # always present: with either kind's frequency it makes the common period two seconds, never less
_PERIOD_S = 1.0 / _STEP_HZ
_BASE = 12
_SESSIONS = 16
_NO_TRIAL = _BASE * _BASE - 1
# digit grids in order of frequency: (name, number of values)
_GRIDS = (
    ("kind", 2),
    ("session", _SESSIONS),
    ("subject_high", _BASE),
    ("subject_low", _BASE),
    ("trial_high", _BASE),
    ("trial_low", _BASE),
    ("channel_high", _BASE),
    ("channel_low", _BASE),
)
_START = {name: sum(size for _, size in _GRIDS[:i]) for i, (name, _) in enumerate(_GRIDS)}
_SEARCH_S = 8.0  # frequencies are read from at most this much; the residual is checked over everything
_MAX_RESIDUAL_UV = 2.0  # coarsest recorder step in use is 1 uV; a single foreign sample is off by tens


class Tag(NamedTuple):
    """What a tagged stretch of one channel says about itself.

    ``trial`` is the number at the end of its id (None: outside any trial), ``subject`` and ``session`` are
    `subject_code` and `session_code` of theirs, ``channel`` the canonical electrode name, ``rest`` the passage's kind,
    ``start`` the offset of its first sample from the beginning of the passage, modulo two seconds, in samples.
    """

    subject: int
    session: int
    trial: int | None
    channel: str
    rest: bool
    start: int


class TagSignal:
    """A `SignalSource` whose every sample carries its subject, session, trial, electrode and kind.

    ``artefacts``, ``band_hz``, ``average_reference`` and ``mains_hz`` of a plan are ignored: the tag must survive.
    """

    def record(self, plan: RecordingPlan) -> list[npt.NDArray[np.float64]]:
        """One (C, T) microvolt array per piece.

        Raises:
            ValueError: If a trial id does not end in a number in range, or an electrode is unknown.
        """
        channels = [_channel_code(name) for name in plan.channels]
        return [
            np.concatenate([_passage(plan, passage, channels) for passage in piece], axis=1) for piece in plan.pieces
        ]


def session_code(session: str) -> int:
    """The tag of a session: the number at its end modulo 16, or a hash modulo 16 where it ends in no number.

    It tells neighbouring sessions apart, not all sessions of a large corpus.
    """
    return _number_or_hash(session) % _SESSIONS


def subject_code(subject: str) -> int:
    """The tag of a subject: as `session_code`, modulo 144."""
    return _number_or_hash(subject) % _BASE**2


def _number_or_hash(name: str) -> int:
    number = re.search(r"\d+$", name)
    return int(number.group()) if number else zlib.crc32(name.encode())


def decode(eeg_uv: npt.NDArray[Any], sfreq_hz: float) -> Tag:
    """Read the tag of one channel of one passage, or of any stretch of it that is at least two seconds long.

    Args:
        eeg_uv: (T,) as read back, in microvolt; a constant offset is allowed, and rounding to 1 microvolt.
        sfreq_hz: At least 100.

    Raises:
        ValueError: If it is shorter than two seconds, holds something other than one passage's tag (the residual
            exceeds 2 microvolt anywhere), or is not in microvolt (an amplitude is off 10 by more than 10 %).
    """
    samples = np.asarray(eeg_uv, dtype=np.float64)
    assert samples.ndim == 1, samples.shape
    period = round(_PERIOD_S * sfreq_hz)
    if len(samples) < period:
        raise ValueError(f"{len(samples)} samples are too few to decode; give at least {period} (two seconds)")
    time_s = np.arange(len(samples)) / sfreq_hz
    searched = min(len(samples), round(_SEARCH_S * sfreq_hz)) // period * period
    grid_hz = _FIRST_HZ + _STEP_HZ * np.arange(sum(size for _, size in _GRIDS))
    centred = samples[:searched] - samples[:searched].mean()
    spectrum = np.abs(np.exp(-2j * np.pi * grid_hz[:, None] * time_s[:searched]) @ centred)
    digits = {name: int(np.argmax(spectrum[_START[name] : _START[name] + size])) for name, size in _GRIDS}

    frequencies_hz = np.array([_CLOCK_HZ, *(_frequency_hz(name, digit) for name, digit in digits.items())])
    phase = 2 * np.pi * frequencies_hz * time_s[:, None]
    design = np.concatenate([np.sin(phase), np.cos(phase), np.ones((len(samples), 1))], axis=1)
    weights = np.linalg.solve(design.T @ design, design.T @ samples)
    n = len(frequencies_hz)
    phasors = weights[:n] + 1j * weights[n : 2 * n]
    amplitudes_uv = np.abs(phasors)
    if np.any(np.abs(amplitudes_uv / TAG_AMPLITUDE_UV - 1) > 0.1):
        raise ValueError(
            f"sines of {amplitudes_uv.min():.4g}..{amplitudes_uv.max():.4g} where {TAG_AMPLITUDE_UV} uV were written: "
            "wrong unit, or more than one passage"
        )
    residual_uv = float(np.max(np.abs(samples - design @ weights)))
    if residual_uv > _MAX_RESIDUAL_UV:
        raise ValueError(f"{residual_uv:.3g} uV are no part of one tag: samples of another passage are in it")
    turns = np.exp(-2j * np.pi * frequencies_hz * (np.arange(period) / sfreq_hz)[:, None])
    start = int(np.argmax((turns @ phasors).real))

    trial = _BASE * digits["trial_high"] + digits["trial_low"]
    channel = _BASE * digits["channel_high"] + digits["channel_low"]
    if channel >= len(ELECTRODES):
        raise ValueError(f"channel code {channel} belongs to no electrode: this is not a tag")
    return Tag(
        subject=_BASE * digits["subject_high"] + digits["subject_low"],
        session=digits["session"],
        trial=None if trial == _NO_TRIAL else trial,
        channel=ELECTRODES[channel],
        rest=digits["kind"] == 1,
        start=start,
    )


def _passage(plan: RecordingPlan, passage: Passage, channels: list[int]) -> npt.NDArray[np.float64]:
    """(C, T) tag of one passage."""
    subject = subject_code(plan.subject)
    trial = _NO_TRIAL if passage.trial is None else _trial_code(passage.trial)
    time_s = np.arange(passage_samples(passage, plan.sfreq_hz)) / plan.sfreq_hz
    shared_hz = [
        _CLOCK_HZ,
        _frequency_hz("kind", int(passage.rest)),
        _frequency_hz("session", session_code(plan.session)),
        _frequency_hz("subject_high", subject // _BASE),
        _frequency_hz("subject_low", subject % _BASE),
        _frequency_hz("trial_high", trial // _BASE),
        _frequency_hz("trial_low", trial % _BASE),
    ]
    shared = np.sin(2 * np.pi * np.array(shared_hz)[:, None] * time_s).sum(axis=0)
    high_hz = np.array([_frequency_hz("channel_high", code // _BASE) for code in channels])
    low_hz = np.array([_frequency_hz("channel_low", code % _BASE) for code in channels])
    own = np.sin(2 * np.pi * high_hz[:, None] * time_s) + np.sin(2 * np.pi * low_hz[:, None] * time_s)
    return np.asarray(TAG_AMPLITUDE_UV * (shared + own), dtype=np.float64)


def _frequency_hz(grid: str, digit: int) -> float:
    return _FIRST_HZ + _STEP_HZ * (_START[grid] + digit)


def _trial_code(trial: str) -> int:
    """The number at the end of a trial's id, 0..142."""
    number = re.search(r"\d+$", trial)
    if number is None or int(number.group()) >= _NO_TRIAL:
        raise ValueError(f"trial id {trial!r} cannot be tagged; it must end in a number from 0 to {_NO_TRIAL - 1}")
    return int(number.group())


def _channel_code(name: str) -> int:
    if name not in ELECTRODES:
        raise ValueError(f"electrode {name!r} cannot be tagged; give canonical names (emod.signal.montage)")
    code = ELECTRODES.index(name)
    assert code < _BASE * _BASE, "more electrodes than tag codes"
    return code
