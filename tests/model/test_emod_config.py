"""EmodConfig: the paper's sizes by default, and nothing that cannot be built."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from emod.catalog.model import EmodConfig


def test_defaults_are_the_papers() -> None:
    assert EmodConfig().model_dump() == {
        "width": 128,
        "layers": 3,
        "heads": 16,
        "feed_forward": 512,
        "kernel": 25,
        "groups": 4,
        "token_rate_hz": 5.0,
        "max_offset": 49,
        "dropout": 0.1,
        "pool_dropout": 0.25,
        "projection_width": 128,
        "projection_hidden": 512,
        "projection_statistics": "corpus",
        "without": None,
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heads": 12}, "heads = 12 does not divide width = 128"),
        ({"groups": 3}, "groups = 3 does not divide width = 128"),
        ({"layers": 0}, "layers"),
        ({"dropout": 1.0}, "dropout"),
        ({"token_rate_hz": float("nan")}, "token_rate_hz"),
        ({"width": "128"}, "width"),
        ({"projection_statistics": "gpu"}, "projection_statistics"),
        ({"depth": 3}, "depth"),
    ],
)
def test_refuses(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        EmodConfig(**change)


def test_is_frozen_and_survives_json() -> None:
    config = EmodConfig(width=32, heads=4)
    with pytest.raises(ValidationError, match="frozen"):
        config.width = 64
    assert EmodConfig.model_validate_json(config.model_dump_json()) == config


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, emod.catalog.model; print([m for m in ('torch', 'mne', 'ray', 'mlflow') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": "platform"}, capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr
