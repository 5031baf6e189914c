"""What the simulated brain and its recorder are: every number of the simulator, with its unit in its name.

The defaults are the committed values of catalogs/simulation.yaml (a test compares them). They were chosen from
physiology and from the look of spectra and scalp maps, before any method was compared on simulated data, and are not
tuned afterwards: a simulator fitted to a classifier proves nothing about it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from emod.catalog.strict import Strict

__all__ = ["EFFECT_SIZES", "SimulationSettings"]

EFFECT_SIZES = {"none": 0.0, "weak": 0.5, "medium": 1.0, "strong": 2.0}

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class SimulationSettings(Strict):
    """Parameters of `emod.simulation.BrainSimulator`.

    Log-power is the natural logarithm of power throughout. A shift at the plane's edge is what a valence or arousal of
    +4 adds to it at effect 1 in a subject of average sensitivity; it scales linearly with coordinate and effect.
    """

    effect: Literal["none", "weak", "medium", "strong"] | NotNegative = Field(
        default="medium", description="none 0, weak 0.5, medium 1, strong 2, or a number"
    )
    seed: int = Field(default=0, ge=0, description="of every draw")

    # What emotion does
    valence_frontal_alpha: float = Field(
        default=0.4, description="shift at the edge: added at right-frontal, subtracted at left-frontal alpha sources"
    )
    arousal_posterior_alpha: float = Field(default=-0.8, description="shift at the edge")
    arousal_beta: float = Field(default=0.5, description="shift at the edge")
    arousal_gamma: float = Field(default=0.7, description="shift at the edge")
    valence_gamma: float = Field(default=0.3, description="shift at the edge")
    sensitivity_sd: NotNegative = Field(default=0.5, description="between subjects, about 1; may turn negative")

    # What has nothing to do with emotion
    trial_log_power_sd: NotNegative = Field(default=0.35, description="per rhythm and trial")
    clip_log_power_sd: NotNegative = Field(
        default=0.0, description="per rhythm and clip, the same in everybody: a trace of the clip that is no emotion"
    )
    drift_log_power_sd_per_hour: NotNegative = Field(default=0.3, description="per rhythm and session, linear in time")
    session_log_power_sd: NotNegative = Field(default=0.2, description="per rhythm and session")
    subject_log_power_sd: NotNegative = Field(default=0.5, description="per rhythm and subject")
    transition_s: Positive = Field(default=1.0, description="time a rhythm takes to reach a new passage's power")

    # Rhythms; moments are the rms of one dipole
    background_moment_nam: NotNegative = Field(default=19.0, description="of each of the background dipoles")
    background_exponent: Positive = Field(default=1.3, description="mean of beta in power ~ (f0 + f) ** -beta")
    background_exponent_sd: NotNegative = Field(default=0.2, description="between subjects")
    background_knee_hz: Positive = Field(default=1.0, description="f0")
    theta_moment_nam: NotNegative = Field(default=9.0, description="of each midline frontal dipole")
    theta_hz: Positive = Field(default=6.0, description="middle of its Gaussian; sd 1 Hz")
    alpha_moment_nam: NotNegative = Field(default=14.0, description="of each posterior dipole")
    frontal_alpha_moment_nam: NotNegative = Field(default=8.0, description="of each frontal dipole")
    alpha_peak_hz: tuple[float, float] = Field(default=(8.5, 12.0), description="subjects are uniform in it")
    alpha_width_hz: Positive = Field(default=0.9, description="sd of the peak's Gaussian")
    beta_moment_nam: NotNegative = Field(default=7.0, description="of each dipole")
    beta_hz: Positive = Field(default=20.0, description="middle of its Gaussian")
    beta_width_hz: Positive = Field(default=5.0, description="sd of its Gaussian")
    gamma_moment_nam: NotNegative = Field(default=4.0, description="of each dipole")
    gamma_hz: tuple[float, float] = Field(default=(30.0, 70.0), description="flat between these, cut at Nyquist")

    # Head and cap
    head_radius_m: Positive = Field(default=0.09, description="mean over subjects")
    head_radius_sd_m: NotNegative = Field(default=0.003, description="between subjects")
    cortex_radius: float = Field(
        default=0.7,
        gt=0,
        le=0.8,
        description="of the dipoles, in head radii; a patch of cortex looks deeper than it is",
    )
    dipole_jitter_m: NotNegative = Field(default=0.005, description="between subjects, per axis, sd")
    dipole_tilt: NotNegative = Field(default=0.35, description="tangential over radial part of a dipole, sd")
    gain_sd: NotNegative = Field(default=0.2, description="between subjects, of the log of all brain amplitudes")
    cap_shift_deg: NotNegative = Field(default=2.0, description="rotation of the whole cap between sessions, sd")
    electrode_offset_deg: NotNegative = Field(default=1.5, description="of each electrode between sessions, sd")
    sensor_noise_uv: NotNegative = Field(default=0.7, description="sd, white")

    # Artefacts, absent from recordings that their owner cleaned
    blink_uv: NotNegative = Field(default=140.0, description="peak at the mean of Fp1 and Fp2, median over subjects")
    blinks_per_minute: NotNegative = Field(default=14.0, description="median over subjects")
    saccade_uv: NotNegative = Field(default=30.0, description="step at F8 against F7, half each, median over subjects")
    saccades_per_minute: NotNegative = Field(default=20.0, description="mean")
    muscle_burst_uv: NotNegative = Field(default=25.0, description="rms at the nearest electrode, median burst")
    muscle_tonic_uv: NotNegative = Field(default=2.0, description="rms between bursts")
    muscle_bursts_per_minute: NotNegative = Field(default=2.0, description="per muscle")
    muscle_hz: tuple[float, float] = Field(default=(20.0, 100.0), description="band, cut at Nyquist")
    mains_uv: NotNegative = Field(default=2.5, description="amplitude, median over electrodes")
    drift_uv: NotNegative = Field(default=12.0, description="rms of slow electrode potentials, below 0.5 Hz")

    @property
    def effect_size(self) -> float:
        """The effect as a number."""
        return EFFECT_SIZES[self.effect] if isinstance(self.effect, str) else self.effect

    @model_validator(mode="after")
    def _bands_rise(self) -> SimulationSettings:
        for name in ("alpha_peak_hz", "gamma_hz", "muscle_hz"):
            low, high = getattr(self, name)
            if not 0 < low < high:
                raise ValueError(f"{name} is [{low}, {high}]; give two rising positive frequencies")
        return self
