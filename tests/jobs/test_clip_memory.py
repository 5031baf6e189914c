"""What a protocol that shares films is worth: recordings without any emotion, in which every film leaves a trace."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.long


def test_a_film_that_is_recognised_looks_like_emotion_until_films_are_kept_apart(tmp_path: Path) -> None:
    """The paper's protocol on SEED shows high accuracy, films apart show chance, and the report says which is which."""
    told = {}
    for protocol in ("seed_paper", "clips"):
        done = subprocess.run(
            [
                *(sys.executable, "jobs/evaluate.py", "--experiment", "clip-memory", "--out", str(tmp_path)),
                *("--set", f"finetune.split.protocol={protocol}", "--set", f"evaluate.run_name={protocol}"),
                *("--set", "evaluate.methods={differential entropy: [finetune.method=differential_entropy]}"),
                *("--set", "evaluate.seeds=1"),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=1800,
        )
        assert "SIMULATED recordings" in done.stdout
        told[protocol] = " ".join(done.stdout.split())
    found = {protocol: _balanced_accuracy(words) for protocol, words in told.items()}
    assert found["seed_paper"] > 0.6
    assert found["clips"] < 0.45
    assert "cannot tell a model that reads emotion from one that recognises clips" in told["seed_paper"]
    assert "Nothing here shows that emotion is read from EEG." in told["clips"]
    assert "cannot tell" not in told["clips"]
    page = (tmp_path / "runs" / "clips" / "report.html").read_text(encoding="utf-8")
    assert "Nothing here shows that emotion is read from EEG." in page
    splits = [json.loads(path.read_text()) for path in (tmp_path / "runs" / "clips" / "splits").glob("*.json")]
    assert splits


def _balanced_accuracy(words: str) -> float:
    """Of the method, from the terminal's table."""
    found = re.search(r"differential entropy +(0\.\d{3})", words)
    assert found, words
    return float(found.group(1))
