"""Plausible EEG for any electrodes and any rate: dipoles in a sphere, rhythms that emotion moves, and artefacts.

Dipoles under named 10-10 sites carry a 1/f background and theta, alpha, beta and gamma rhythms; MNE's four-layer
sphere maps them to the electrodes. Valence and arousal shift the log-power of rhythms, linearly in the plane's
coordinates (sizes in `emod.catalog.simulation.SimulationSettings`):

- frontal alpha falls on the left and rises on the right with valence (Coan and Allen 2004),
- posterior alpha falls with arousal (alpha and arousal in Koelstra et al. 2012, DEAP),
- beta and gamma rise with arousal (gamma: Mueller et al. 1999; beta: project decision),
- gamma rises, less, with valence (Koelstra et al. 2012).

The literature does not agree on size, nor everywhere on sign (DEAP's own gamma falls with arousal): these directions
are the simulator's definition, not a finding.

Each subject answers with a slope of its own about the common one. Beside that, every rhythm fluctuates from trial to
trial and drifts through the session, whatever the emotion. With effect 0 nothing depends on valence or arousal.

Every draw is a function of the seed and of names (corpus, subject, session, piece, electrode, ...), never of the
order of calls, of other recordings, or of which electrodes are beside one. Clips leave no trace of their own, two
clips of equal valence and arousal are drawn alike, unless `clip_log_power_sd` gives them one: what is bright or loud in
a film moves everybody's rhythms too, and a network can learn to recognise it. Eyes and muscles lie outside the sphere
and are dipoles in an infinite medium, scaled to a peak at the scalp. Not modelled: connectivity, evoked responses,
epilepsy, sleep, sweat, loose electrodes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from emod.catalog.simulation import SimulationSettings
from emod.signal.montage import positions
from emod.simulation.plan import Passage, RecordingPlan, passage_samples, piece_samples

__all__ = ["BrainSimulator"]

Array = npt.NDArray[np.float64]

_BACKGROUND = """
Fp1 Fp2 AF3 AF4 F7 F5 F3 F1 Fz F2 F4 F6 F8
FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 T7 C5 C3 C1 Cz C2 C4 C6 T8
TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO3 POz PO4 PO8 O1 Oz O2
"""
# Sites above the dipoles of each rhythm; a rhythm is what shares one log-power.
_RHYTHMS: dict[str, tuple[str, ...]] = {
    "background": tuple(_BACKGROUND.split()),
    "theta": ("AFz", "Fz", "FCz"),
    "alpha_posterior": ("P3", "Pz", "P4", "PO7", "PO3", "PO4", "PO8", "O1", "Oz", "O2"),
    "alpha_left": ("AF3", "F5", "F3"),
    "alpha_right": ("AF4", "F6", "F4"),
    "beta": ("F3", "F4", "FC5", "FC6", "FT7", "FT8", "C3", "C4"),
    "gamma": ("AF3", "AF4", "F5", "F6", "FT7", "FT8", "T7", "T8", "TP7", "TP8"),
}
_N_RHYTHMS = len(_RHYTHMS)
_RHYTHM_OF_DIPOLE = np.repeat(np.arange(_N_RHYTHMS), [len(sites) for sites in _RHYTHMS.values()])
_MUSCLES = ("F7", "F8", "FT9", "FT10", "T9", "T10", "TP9", "TP10", "AF7", "AF8")
_EARS = ("A1", "A2")  # the recorder's reference

# In head radii, x right, y front, z up. Eyes lie below Fp1 and Fp2; what counts is their direction and distance.
_EYES = np.array([[-0.34, 0.92, -0.6], [0.34, 0.92, -0.6]])
_BLINK_AXIS = np.array([0.0, 0.6, 0.8])
_SACCADE_AXIS = np.array([1.0, 0.0, 0.0])
_MUSCLE_RADIUS = 0.92
_BLOCK_S = 16.0  # one stationary stretch of noise; neighbours overlap by half


@dataclass(frozen=True)
class _Head:
    """One subject under one cap: leads per source in microvolt per unit of that source, ears as reference."""

    dipoles: Array  # (C, S), microvolt per nAm
    blink: Array  # (C,), 1 at the mean of Fp1 and Fp2
    saccade: Array  # (C,), 1 between F8 and F7
    muscles: Array  # (C, M), 1 at each muscle's own site


@dataclass(frozen=True)
class _Physiology:
    """What makes a subject (and a session of it) differ from the next."""

    exponent: float
    alpha_hz: float
    log_power: Array  # (R,)
    drift_per_hour: Array  # (R,)
    slopes: Array  # (R, 2), log-power per unit of valence and of arousal
    blink_uv: float
    blinks_per_minute: float
    saccade_uv: float


class BrainSimulator:
    """A `SignalSource` of physiological EEG; equal settings and plan give equal arrays."""

    def __init__(self, settings: SimulationSettings) -> None:
        self.settings = settings

    def record(self, plan: RecordingPlan) -> list[Array]:
        """One (C, T) microvolt array per piece, rows in the order of ``plan.channels``, against linked ears.

        ``average_reference`` replaces the ears by the mean of the plan's electrodes.

        Raises:
            ValueError: If an electrode of the plan is unknown or given twice, or the rate is below 64 Hz.
        """
        if plan.sfreq_hz < 64:
            raise ValueError(f"sfreq_hz is {plan.sfreq_hz}; the simulator needs at least 64 to hold alpha and beta")
        head = self._head(plan)
        body = self._physiology(plan)
        pieces = []
        elapsed_s = 0.0
        for index, piece in enumerate(plan.pieces):
            eeg_uv = self._brain(plan, index, piece, head, body, elapsed_s)
            if plan.artefacts:
                self._add_artefacts(eeg_uv, plan, index, head, body)
            if plan.band_hz is not None:
                _band_pass(eeg_uv, plan.band_hz, plan.sfreq_hz)
            if plan.average_reference:
                eeg_uv -= eeg_uv.mean(axis=0)
            pieces.append(eeg_uv)
            elapsed_s += sum(passage.duration_s for passage in piece)
        return pieces

    def _rng(self, *names: object) -> np.random.Generator:
        """A generator that depends on the seed and on these names only."""
        words = [zlib.crc32(f"{type(name).__name__}:{name}".encode()) for name in names]
        return np.random.Generator(np.random.SFC64(np.random.SeedSequence([self.settings.seed, *words])))

    def _head(self, plan: RecordingPlan) -> _Head:
        s = self.settings
        names = (*plan.channels, *(ear for ear in _EARS if ear not in plan.channels))
        subject = self._rng("anatomy", plan.corpus, plan.subject)
        radius_m = s.head_radius_m + s.head_radius_sd_m * _clipped_normal(subject)
        gain = np.exp(s.gain_sd * _clipped_normal(subject))

        outward = np.concatenate([positions(sites) for sites in _RHYTHMS.values()])
        places_m = radius_m * s.cortex_radius * outward + s.dipole_jitter_m * _clipped_normal(subject, outward.shape)
        # jitter must not push a dipole into the skull, which begins at 0.9 head radii
        depth_m = np.linalg.norm(places_m, axis=1, keepdims=True)
        places_m *= np.minimum(1.0, 0.86 * radius_m / depth_m)
        moments = _unit(outward + s.dipole_tilt * subject.standard_normal(outward.shape))

        cap = self._rng("cap", plan.corpus, plan.subject, plan.session)
        turn = _rotation(np.deg2rad(s.cap_shift_deg) * cap.standard_normal(3))
        offsets = [
            self._rng("electrode", plan.corpus, plan.subject, plan.session, name).standard_normal(3) for name in names
        ]
        electrodes = _unit(positions(names) @ turn.T + np.deg2rad(s.electrode_offset_deg) * np.array(offsets))

        frontal = positions(("Fp1", "Fp2", "F7", "F8"))
        blink = _far_dipoles(_EYES, _BLINK_AXIS, electrodes).sum(axis=1)
        blink /= _far_dipoles(_EYES, _BLINK_AXIS, frontal[:2]).sum(axis=1).mean()
        saccade = _far_dipoles(_EYES, _SACCADE_AXIS, electrodes).sum(axis=1)
        left, right = _far_dipoles(_EYES, _SACCADE_AXIS, frontal[2:]).sum(axis=1)
        saccade /= right - left
        fixed = positions(_MUSCLES)
        muscles = np.stack(
            [
                _far_dipoles(_MUSCLE_RADIUS * site[None], site, electrodes)[:, 0]
                / _far_dipoles(_MUSCLE_RADIUS * site[None], site, site[None])[0, 0]
                for site in fixed
            ],
            axis=1,
        )
        dipoles = gain * _sphere_leads(electrodes * radius_m, radius_m, places_m, moments)
        ears = [names.index(ear) for ear in _EARS]
        n = len(plan.channels)
        return _Head(*((lead - lead[ears].mean(axis=0))[:n] for lead in (dipoles, blink, saccade, muscles)))

    def _physiology(self, plan: RecordingPlan) -> _Physiology:
        s = self.settings
        subject = self._rng("physiology", plan.corpus, plan.subject)
        session = self._rng("physiology", plan.corpus, plan.subject, plan.session)
        own = subject.standard_normal(_N_RHYTHMS)
        # left and right frontal alpha are one rhythm with a small standing asymmetry
        left, right = (list(_RHYTHMS).index(name) for name in ("alpha_left", "alpha_right"))
        own[right] = own[left] + 0.3 * own[right]
        sensitivity = 1.0 + s.sensitivity_sd * subject.standard_normal(5)
        edges = {
            "alpha_posterior": (0.0, s.arousal_posterior_alpha * sensitivity[0]),
            "alpha_left": (-s.valence_frontal_alpha * sensitivity[1], 0.0),
            "alpha_right": (s.valence_frontal_alpha * sensitivity[1], 0.0),
            "beta": (0.0, s.arousal_beta * sensitivity[2]),
            "gamma": (s.valence_gamma * sensitivity[3], s.arousal_gamma * sensitivity[4]),
        }
        slopes = np.array([edges.get(name, (0.0, 0.0)) for name in _RHYTHMS]) * s.effect_size / 4.0
        return _Physiology(
            exponent=max(0.3, s.background_exponent + s.background_exponent_sd * float(subject.standard_normal())),
            alpha_hz=float(subject.uniform(*s.alpha_peak_hz)),
            log_power=s.subject_log_power_sd * own + s.session_log_power_sd * session.standard_normal(_N_RHYTHMS),
            drift_per_hour=s.drift_log_power_sd_per_hour * session.standard_normal(_N_RHYTHMS),
            slopes=slopes,
            blink_uv=s.blink_uv * float(np.exp(0.2 * _clipped_normal(subject))),
            blinks_per_minute=s.blinks_per_minute * float(np.exp(0.4 * _clipped_normal(subject))),
            saccade_uv=s.saccade_uv * float(np.exp(0.2 * _clipped_normal(subject))),
        )

    def _log_power(
        self, plan: RecordingPlan, index: int, piece: tuple[Passage, ...], body: _Physiology, elapsed_s: float
    ) -> tuple[Array, Array]:
        """Knots (K,) in samples and log-power (K, R) between which it runs linearly."""
        s = self.settings
        knots: list[float] = []
        levels: list[Array] = []
        start = 0
        for number, passage in enumerate(piece):
            # a trial's baseline shares the trial's fluctuation; what belongs to no trial has its own
            name = ("trial", passage.trial) if passage.trial is not None else ("gap", index, number)
            fluctuation = self._rng("trial", plan.corpus, plan.subject, plan.session, *name).standard_normal(_N_RHYTHMS)
            stop = start + passage_samples(passage, plan.sfreq_hz)
            level = body.log_power + s.trial_log_power_sd * fluctuation
            if passage.stimulus is not None:
                trace = self._rng("clip", plan.corpus, passage.stimulus).standard_normal(_N_RHYTHMS)
                level = level + s.clip_log_power_sd * trace
            if passage.valence is not None and passage.arousal is not None:
                level = level + body.slopes @ np.array([passage.valence, passage.arousal])
            settled = start if number == 0 else min(start + s.transition_s * plan.sfreq_hz, (start + stop) / 2)
            for knot in (settled, stop):
                hours = (elapsed_s + knot / plan.sfreq_hz) / 3600.0
                knots.append(knot)
                levels.append(level + body.drift_per_hour * hours)
            start = stop
        return np.array(knots), np.array(levels)

    def _brain(
        self,
        plan: RecordingPlan,
        index: int,
        piece: tuple[Passage, ...],
        head: _Head,
        body: _Physiology,
        elapsed_s: float,
    ) -> Array:
        """(C, T) brain and sensor noise of one piece."""
        s = self.settings
        n_samples = piece_samples(piece, plan.sfreq_hz)
        knots, levels = self._log_power(plan, index, piece, body, elapsed_s)
        half = round(_BLOCK_S * plan.sfreq_hz / 2)
        spectra = self._rhythm_spectra(_frequencies_hz(half, plan.sfreq_hz), body)[_RHYTHM_OF_DIPOLE]
        eeg_uv = np.zeros((len(plan.channels), n_samples))
        for block, inside, of_block, fade in _blocks(n_samples, half):
            rng = self._rng("brain", plan.corpus, plan.subject, plan.session, index, block)
            noise = _shaped_noise(rng, spectra, 2 * half)[:, of_block]
            samples = np.arange(inside.start, inside.stop)
            gain = np.stack([np.exp(0.5 * np.interp(samples, knots, level)) for level in levels.T])
            noise *= (gain * fade)[_RHYTHM_OF_DIPOLE]
            eeg_uv[:, inside] += head.dipoles @ noise
        for row, name in enumerate(plan.channels):
            rng = self._rng("sensor", plan.corpus, plan.subject, plan.session, index, name)
            eeg_uv[row] += s.sensor_noise_uv * rng.standard_normal(n_samples)
        return eeg_uv

    def _rhythm_spectra(self, frequencies_hz: Array, body: _Physiology) -> Array:
        """(R, F) power of one dipole per rhythm, in nAm squared, the sum over F being the mean square."""
        s = self.settings
        f = frequencies_hz
        alpha = np.exp(-0.5 * ((f - body.alpha_hz) / s.alpha_width_hz) ** 2)
        shapes = {
            "background": ((s.background_knee_hz + f) ** -body.exponent, s.background_moment_nam),
            "theta": (np.exp(-0.5 * (f - s.theta_hz) ** 2), s.theta_moment_nam),
            "alpha_posterior": (alpha, s.alpha_moment_nam),
            "alpha_left": (alpha, s.frontal_alpha_moment_nam),
            "alpha_right": (alpha, s.frontal_alpha_moment_nam),
            "beta": (np.exp(-0.5 * ((f - s.beta_hz) / s.beta_width_hz) ** 2), s.beta_moment_nam),
            "gamma": (_plateau(f, s.gamma_hz), s.gamma_moment_nam),
        }
        # The moment is that of the whole rhythm: at a low rate the part above Nyquist is lost, not squeezed below it.
        wide = np.arange(f[1], 500.0, f[1])
        whole = {
            "background": ((s.background_knee_hz + wide) ** -body.exponent).sum(),
            "gamma": _plateau(wide, s.gamma_hz).sum(),
        }
        power = np.stack([shape * moment**2 / whole.get(name, shape.sum()) for name, (shape, moment) in shapes.items()])
        power[:, 0] = 0.0
        return power

    def _add_artefacts(self, eeg_uv: Array, plan: RecordingPlan, index: int, head: _Head, body: _Physiology) -> None:
        """Adds blinks, eye movements, muscle, mains and electrode drift to one piece, in place."""
        s = self.settings
        n_samples = eeg_uv.shape[1]
        minutes = n_samples / plan.sfreq_hz / 60.0
        where = (plan.corpus, plan.subject, plan.session, index)

        blinks = np.zeros(n_samples)
        eyes = self._rng("eyes", *where)
        last = -n_samples
        for onset in np.sort(eyes.integers(0, n_samples, eyes.poisson(body.blinks_per_minute * minutes))):
            rise_s, fall_s = eyes.uniform(0.08, 0.13), eyes.uniform(0.15, 0.28)
            if onset - last < 0.5 * plan.sfreq_hz:  # a lid that is down cannot close
                continue
            last = onset
            _add_at(blinks, onset, _lobe(rise_s, fall_s, plan.sfreq_hz) * np.exp(0.15 * _clipped_normal(eyes)))
        gaze = np.zeros(n_samples)
        for _ in range(eyes.poisson(s.saccades_per_minute * minutes)):
            # out and back: gaze stays near the middle of the screen
            held = np.ones(max(1, round(eyes.uniform(0.3, 2.0) * plan.sfreq_hz)))
            ramp = np.linspace(0.0, 1.0, max(2, round(0.05 * plan.sfreq_hz)))
            _add_at(gaze, int(eyes.uniform(0, n_samples)), np.r_[ramp, held, ramp[::-1]] * eyes.normal())
        blinks *= body.blink_uv
        gaze *= body.saccade_uv
        for row, (blink, saccade) in enumerate(zip(head.blink, head.saccade, strict=True)):
            eeg_uv[row] += blink * blinks + saccade * gaze  # row by row: an hour at 1 kHz has no room for a copy

        envelopes = np.full((len(_MUSCLES), n_samples), s.muscle_tonic_uv)
        bursts = self._rng("muscle bursts", *where)
        for envelope in envelopes:
            for _ in range(bursts.poisson(s.muscle_bursts_per_minute * minutes)):
                length = max(2, round(bursts.uniform(0.4, 2.0) * plan.sfreq_hz))
                height = s.muscle_burst_uv * np.exp(0.4 * _clipped_normal(bursts))
                _add_at(envelope, int(bursts.uniform(0, n_samples)), height * np.hanning(length))
        half = round(_BLOCK_S * plan.sfreq_hz / 2)
        frequencies_hz = _frequencies_hz(half, plan.sfreq_hz)
        emg = _plateau(frequencies_hz, s.muscle_hz)
        emg = np.tile(emg / max(emg.sum(), 1e-12), (len(_MUSCLES), 1))
        slow = np.where((frequencies_hz > 0) & (frequencies_hz < 0.5), (0.05 + frequencies_hz) ** -2.0, 0.0)
        slow /= slow.sum()
        for block, inside, of_block, fade in _blocks(n_samples, half):
            noise = _shaped_noise(self._rng("muscle", *where, block), emg, 2 * half)[:, of_block]
            eeg_uv[:, inside] += head.muscles @ (noise * envelopes[:, inside] * fade)
            drift = np.stack(
                [
                    _shaped_noise(self._rng("drift", *where, block, name), slow[None], 2 * half)[0]
                    for name in plan.channels
                ]
            )
            eeg_uv[:, inside] += s.drift_uv * drift[:, of_block] * fade

        phase = 2 * np.pi * plan.mains_hz * np.arange(n_samples) / plan.sfreq_hz
        common = self._rng("mains", *where).uniform(0, 2 * np.pi)
        for row, name in enumerate(plan.channels):
            lead = self._rng("mains", plan.corpus, plan.subject, plan.session, name)
            amplitude_uv = s.mains_uv * np.exp(0.4 * _clipped_normal(lead))
            shift = common + 0.3 * lead.standard_normal()
            for harmonic, share in ((1, 1.0), (3, 0.15)):
                if harmonic * plan.mains_hz < plan.sfreq_hz / 2:
                    eeg_uv[row] += share * amplitude_uv * np.sin(harmonic * (phase + shift))


def _sphere_leads(electrodes_m: Array, radius_m: float, places_m: Array, moments: Array) -> Array:
    """(C, S) microvolt per nAm of dipoles in MNE's four-layer sphere, against infinity.

    Args:
        electrodes_m: (C, 3) on the sphere of ``radius_m``.
        radius_m: Head radius.
        places_m: (S, 3), inside the skull.
        moments: (S, 3) unit rows.
    """
    import mne  # a second at import; plans and tags do not need it

    names = [str(i) for i in range(len(electrodes_m))]
    info = mne.create_info(names, 1000.0, "eeg", verbose="error")
    places = dict(zip(names, electrodes_m, strict=True))
    info.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"), verbose="error")
    sphere = mne.make_sphere_model((0.0, 0.0, 0.0), radius_m, verbose="error")
    sources = mne.setup_volume_source_space(pos={"rr": places_m, "nn": moments}, verbose="error")
    forward: Any = mne.make_forward_solution(
        info, None, sources, sphere, meg=False, eeg=True, mindist=0.0, verbose="error"
    )
    leads = np.asarray(forward["sol"]["data"], dtype=np.float64).reshape(len(names), -1, 3)
    assert leads.shape[1] == len(places_m), "a dipole was left out: it lies outside the brain"
    volt_per_am: Array = np.einsum("csk,sk->cs", leads, moments)
    return volt_per_am * 1e-3


def _far_dipoles(places: Array, axis: Array, electrodes: Array) -> Array:
    """(C, N) potential of unit dipoles in an infinite medium, up to a constant: p.r / |r|^3."""
    arrow = electrodes[:, None] - places
    potential: Array = (arrow @ axis) / np.linalg.norm(arrow, axis=2) ** 3
    return potential


def _frequencies_hz(half: int, sfreq_hz: float) -> Array:
    """Frequencies of a block of twice ``half`` samples."""
    return np.asarray(np.arange(half + 1) * (sfreq_hz / (2 * half)), dtype=np.float64)


def _shaped_noise(rng: np.random.Generator, power: Array, n_samples: int) -> Array:
    """(S, T) Gaussian noise, row s having the spectrum ``power[s]`` (S, F), whose sum is its mean square; T is even."""
    from scipy import fft

    used = int(np.flatnonzero(power.any(axis=0)).max(initial=0)) + 1  # nothing is drawn where nothing is wanted
    parts = rng.standard_normal((2, len(power), used))
    spectrum = (parts[0] + 1j * parts[1]) * np.sqrt(power[:, :used]) * (n_samples / 2)
    noise: Array = fft.irfft(spectrum, n_samples, axis=1)
    return noise


def _blocks(n_samples: int, half: int) -> Iterator[tuple[int, slice, slice, Array]]:
    """Half-overlapping blocks that cover a piece: number, its samples in the piece and in the block, its fade.

    The squared fades of the two blocks over any sample add to one, so independent noise keeps its power.
    """
    fade = np.sin(np.pi * (np.arange(2 * half) + 0.5) / (2 * half))
    for block in range(-(-n_samples // half) + 1):
        first = (block - 1) * half
        inside = slice(max(0, first), min(n_samples, first + 2 * half))
        of_block = slice(inside.start - first, inside.stop - first)
        yield block, inside, of_block, fade[of_block]


def _band_pass(eeg_uv: Array, band_hz: tuple[float, float], sfreq_hz: float) -> None:
    """Filters in place: zero-phase Butterworth, fourth order each way.

    An edge at or below 0, or at or above Nyquist, is not applied.
    """
    from scipy import signal

    low, high = band_hz
    edges = [(low, "highpass")] * (low > 0) + [(high, "lowpass")] * (high < sfreq_hz / 2)
    for edge_hz, kind in edges:
        sections = signal.butter(4, edge_hz, kind, fs=sfreq_hz, output="sos")
        for row in eeg_uv:
            row[:] = signal.sosfiltfilt(sections, row)


def _plateau(frequencies_hz: Array, band_hz: tuple[float, float]) -> Array:
    """1 inside a band, falling over 3 Hz on each side."""
    low, high = band_hz
    outside = np.maximum(np.maximum(low - frequencies_hz, frequencies_hz - high), 0.0)
    shape: Array = np.exp(-0.5 * (outside / 3.0) ** 2) * (outside < 12.0)
    return shape


def _lobe(rise_s: float, fall_s: float, sfreq_hz: float) -> Array:
    """A blink: up in ``rise_s``, down in ``fall_s``, smooth, peak 1."""
    up = np.arange(0.0, rise_s, 1 / sfreq_hz) / rise_s
    down = np.arange(0.0, fall_s, 1 / sfreq_hz) / fall_s
    return np.concatenate([0.5 - 0.5 * np.cos(np.pi * up), 0.5 + 0.5 * np.cos(np.pi * down)])


def _add_at(signal: Array, start: int, shape: Array) -> None:
    """Adds a shape from a sample on, in place; what runs over the end is lost."""
    stop = min(len(signal), start + len(shape))
    signal[start:stop] += shape[: stop - start]


def _clipped_normal(rng: np.random.Generator, size: Any = None) -> Any:
    """Normal draws cut at two sd, for anatomy, where a rare extreme would be a monster."""
    return np.clip(rng.standard_normal(size), -2.0, 2.0)


def _unit(rows: Array) -> Array:
    unit: Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _rotation(angles: Array) -> Array:
    """(3, 3) rotation by a rotation vector in radians."""
    from scipy.spatial.transform import Rotation

    matrix: Array = Rotation.from_rotvec(angles).as_matrix()
    return matrix
