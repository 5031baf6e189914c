"""What the main job finds where there is something to find, and where there is nothing. Minutes each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

QUICKSTART = Path(__file__).resolve().parents[2] / "jobs" / "quickstart.py"

pytestmark = pytest.mark.long


def evaluate(effect: str, out: Path) -> dict[str, Any]:
    """Runs the quickstart at an effect size and returns the evaluation that it logged in MLflow."""
    effects = [f"--set=simulate.{corpus}.brain.effect={effect}" for corpus in ("deap", "seed_iv")]
    subprocess.run([sys.executable, str(QUICKSTART), "--out", str(out), *effects], check=True, timeout=1800)
    (found,) = (out / "runs" / "mlartifacts").rglob("evaluation.json")
    record: dict[str, Any] = json.loads(found.read_text())
    return record


def test_a_strong_effect_is_found_in_subjects_never_seen(tmp_path: Path) -> None:
    record = evaluate("strong", tmp_path / "strong")
    scores, interval = record["scores"], record["interval"]
    assert interval["low"] > scores["chance"]
    assert interval["low"] > record["majority"]["balanced_accuracy"]
    assert scores["weighted_f1"] > record["majority"]["weighted_f1"]


def test_no_effect_is_not_found(tmp_path: Path) -> None:
    record = evaluate("none", tmp_path / "none")
    assert record["interval"]["low"] <= record["scores"]["chance"] + 0.01
    assert abs(record["scores"]["balanced_accuracy"] - record["scores"]["chance"]) < 0.04
