"""How a recording becomes windows: filter, ICA, reference, window length, scale.

These are choices of a run. What an owner already did to a corpus is a fact of its corpus catalog, not of this model.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from emod.catalog.strict import Strict

__all__ = ["IcaSettings", "QualitySettings", "SignalSettings"]

ElectrodeAction = Literal["interpolate", "reject", "keep"]
WindowAction = Literal["reject", "keep"]


class IcaSettings(Strict):
    """Removal of ocular and muscle components, fitted once per recording."""

    enabled: bool = Field(default=True, description="false: no ICA")
    method: Literal["picard", "fastica"] = Field(default="picard", description="algorithm of the fit")
    high_pass_hz: float = Field(default=1.0, gt=0, description="of the copy it is fitted on, as MNE advises")
    variance: float = Field(default=0.999, gt=0, lt=1, description="share of variance the fitted components explain")
    n_components: int | None = Field(default=None, ge=2, description="a fixed number instead of a share of variance")
    ocular: bool = Field(default=True, description="remove components of eyes")
    ocular_correlation: float = Field(
        default=0.8, gt=0, lt=1, description="with the frontal electrodes at 1-10 Hz, at and above which one is removed"
    )
    muscle: bool = Field(default=True, description="remove components of muscles")
    muscle_score: float = Field(default=0.5, gt=0, lt=1, description="threshold of mne's find_bads_muscle")
    fit_hz: float = Field(default=100.0, ge=60, description="the fitted copy is decimated to at least this rate")
    fit_minutes: float = Field(default=10.0, gt=0, description="at most so many minutes of samples enter the fit")
    seed: int = Field(default=0, ge=0, lt=2**32, description="of the fit")

    @model_validator(mode="after")
    def _removes_something(self) -> IcaSettings:
        if self.enabled and not (self.ocular or self.muscle):
            raise ValueError("ica with ocular and muscle both false removes nothing: set ica.enabled to false")
        return self


class QualitySettings(Strict):
    """What counts as bad in a recording, and what is done about it.

    Bad electrodes are ``interpolate``d from the others for as long as they are bad, before the average reference and
    ICA; where that would be too many of them, and under ``reject``, the windows are left out. An electrode that is bad
    more than half of the time counts as bad throughout.
    """

    flat_uv: float = Field(default=0.1, gt=0, description="an electrode that moves by less within a second is flat")
    flat: ElectrodeAction = Field(default="interpolate", description="what happens to a flat electrode")
    noisy_z: float = Field(
        default=5.0, gt=0, description="robust z-score of log amplitude at 1-45 Hz among the electrodes, above which"
    )
    noisy_correlation: float = Field(
        default=0.4, gt=0, lt=1, description="with what the others predict, below which a loud electrode is noisy"
    )
    noisy_gain: float = Field(
        default=10.0,
        gt=1,
        description="times as loud as the median electrode and as those beside it: noisy whatever its correlation",
    )
    noisy: ElectrodeAction = Field(default="interpolate", description="what happens to a noisy electrode")
    most_interpolated: float = Field(
        default=0.15, ge=0, le=0.5, description="share of the electrodes; windows with more bad ones are rejected"
    )
    saturated_share: float = Field(
        default=0.01, gt=0, le=1, description="of a window's samples, as stored, at the recorder's rail"
    )
    saturated: WindowAction = Field(default="reject", description="what happens to a window with more")
    peak_uv: float = Field(default=1000.0, gt=0, description="largest magnitude in a window after cleaning")
    gross: WindowAction = Field(default="reject", description="what happens to a window with a larger one")
    clipped_share: float = Field(
        default=0.01, gt=0, le=1, description="of a window's values, beyond signal.clip robust scales"
    )
    clipped: WindowAction = Field(default="keep", description="what happens to a window with more")
    line_noise_db: float = Field(
        default=30.0, gt=0, description="of a recording as stored: power at the mains frequency over its neighbourhood"
    )
    line_noise: WindowAction = Field(default="keep", description="what happens to a recording with more")


class SignalSettings(Strict):
    """Stages from a recording to normalised windows; each can be switched off (EMOD, section Preprocessing)."""

    band_pass: bool = Field(default=True, description="false: no filter")
    band_hz: Annotated[tuple[float, float], Field(strict=False)] = Field(
        default=(0.3, 49.0), description="edges of the pass band"
    )
    top_transition_hz: float = Field(
        default=1.0, gt=0, description="above the upper edge; 1 Hz puts 50 Hz mains in the stop band"
    )
    quality: QualitySettings = Field(default_factory=QualitySettings)
    ica: IcaSettings = Field(default_factory=IcaSettings)
    reference: Literal["average", "none"] = Field(default="average", description="average: of all electrodes")
    window_s: float = Field(default=10.0, gt=0, description="length of a window")
    clip: float = Field(default=20.0, gt=0, description="largest magnitude of a normalised window, in robust scales")

    @model_validator(mode="after")
    def _ordered(self) -> SignalSettings:
        low, high = self.band_hz
        if not 0 < low < high:
            raise ValueError(f"band_hz {list(self.band_hz)} must be two rising frequencies above 0")
        return self

    def pass_band_hz(self, sfreq_hz: float) -> tuple[float, float | None]:
        """The edges a filter at this sampling rate gets; the upper one is None where it cannot be built.

        A signal whose Nyquist frequency lies below the end of the upper transition holds nothing to remove up there,
        so it is high-passed only.

        Raises:
            ValueError: If not even the lower edge lies below the Nyquist frequency.
        """
        low, high = self.band_hz
        if low >= sfreq_hz / 2:
            raise ValueError(f"band_hz starts at {low:g} Hz, at or above the Nyquist frequency of {sfreq_hz:g} Hz data")
        return low, (high if high + self.top_transition_hz <= sfreq_hz / 2 else None)
