"""The job that evaluates: what it counts without data, and what it refuses in a line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from emod.catalog import experiment_names, load_experiment
from emod.evaluation import PROTOCOLS
from emod.training.evaluating import evaluation_settings

ROOT = Path(__file__).resolve().parents[2]


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "jobs/evaluate.py", *flags], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("experiment", "counts"),
    [
        ("faced", "10,332 windows, 1 fold(s), the first with {'train': 6720, 'validation': 1680, 'test': 1932}"),
        ("seed_v", "117,744 windows, 1 fold(s), the first with {'train': 34432, 'validation': 42960, 'test': 40352}"),
        ("seed", "30,375 windows, 1 fold(s), the first with {'train': 10125, 'validation': 10125, 'test': 10125}"),
    ],
)
def test_the_papers_counts_come_without_data(experiment: str, counts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMOD_STORE", raising=False)
    found = run("--experiment", experiment, "--dry-run")
    assert found.returncode == 0, found.stderr
    assert counts in found.stdout


def test_what_cannot_be_asked_is_one_line() -> None:
    for flags, told in (
        (["finetune.split.protocol=loso"], "finetune.split.protocol"),
        (["finetune.split.shots=3"], "shots belongs to protocol few_shot"),
        (["finetune.split.accept=[windows]"], "finetune.split.accept"),
        (["evaluate.methods={A: [pretrain.rounds=1]}"], "methods.A"),
    ):
        found = run("--experiment", "faced", "--dry-run", *(part for flag in flags for part in ("--set", flag)))
        assert found.returncode == 2, found.stdout
        assert told in found.stderr
        assert len(found.stderr.strip().splitlines()) == 1, found.stderr


def test_every_shipped_evaluation_asks_one_question() -> None:
    loaded = {name: load_experiment(name) for name in experiment_names()}
    shipped = [name for name, found in loaded.items() if found.evaluate is not None and found.ablation is None]
    assert {
        "evaluate",
        "faced",
        "seed_v",
        "seed",
        "faced-simulated",
        "seed_v-simulated",
        "seed-simulated",
        "dasps",
    } <= set(shipped)
    for name in shipped:
        evaluation_settings(load_experiment(name))


def test_the_front_door_names_every_protocol() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in PROTOCOLS if f"`{name}`" not in text] == []
