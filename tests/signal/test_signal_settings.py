"""What SignalSettings accepts and refuses."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from emod.catalog.signal import IcaSettings, SignalSettings


def test_yaml_lists_and_whole_numbers_are_accepted() -> None:
    text = "band_hz: [1, 40]\nwindow_s: 5\nica: {enabled: false, fit_hz: 128}\n"
    settings = SignalSettings.model_validate(yaml.safe_load(text))
    assert settings.band_hz == (1.0, 40.0)
    assert settings.window_s == 5.0
    assert settings.ica == IcaSettings(enabled=False, fit_hz=128.0)
    assert SignalSettings.model_validate(settings.model_dump()) == settings
    assert SignalSettings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"band_hz": [49, 0.3]}, r"band_hz \[49.0, 0.3\] must be two rising"),
        ({"band_hz": [0, 40]}, "must be two rising frequencies above 0"),
        ({"band_hz": ["0.3", 49]}, "valid number"),
        ({"band_hz": [0.3]}, "Field required"),
        ({"clip": 0}, "greater than 0"),
        ({"window_s": "10"}, "valid number"),
        ({"reference": "mastoids"}, "'average' or 'none'"),
        ({"top_transition_hz": float("nan")}, "finite"),
        ({"window": 10}, "Extra inputs"),
        ({"ica": {"ocular": False, "muscle": False}}, "removes nothing: set ica.enabled to false"),
        ({"ica": {"method": "infomax"}}, "'picard' or 'fastica'"),
    ],
    ids=str,
)
def test_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SignalSettings.model_validate(wrong)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SignalSettings().clip = 3.0  # type: ignore[misc]


@pytest.mark.parametrize(("sfreq_hz", "top_hz"), [(128, 49.0), (100, 49.0), (99.9, None), (90, None)])
def test_upper_edge_needs_its_transition_below_nyquist(sfreq_hz: float, top_hz: float | None) -> None:
    assert SignalSettings().pass_band_hz(sfreq_hz) == (0.3, top_hz)


def test_no_pass_band_below_nyquist() -> None:
    with pytest.raises(ValueError, match="30 Hz, at or above the Nyquist frequency of 60 Hz"):
        SignalSettings(band_hz=(30.0, 40.0)).pass_band_hz(60)
