"""The job that evaluates: what it counts without data, and what it refuses in a line."""

from __future__ import annotations

import pytest

from emod.catalog import experiment_names, load_experiment
from emod.evaluation import PROTOCOLS
from emod.training.evaluating import evaluation_settings
from tests.jobs.conftest import ROOT, Job, assert_refused


@pytest.mark.parametrize(
    ("experiment", "counts"),
    [
        ("faced", "10,332 windows, 1 fold(s), the first with {'train': 6720, 'validation': 1680, 'test': 1932}"),
        ("seed_v", "117,744 windows, 1 fold(s), the first with {'train': 34432, 'validation': 42960, 'test': 40352}"),
        ("seed", "30,375 windows, 1 fold(s), the first with {'train': 10125, 'validation': 10125, 'test': 10125}"),
    ],
)
def test_the_papers_counts_come_without_data(job: Job, experiment: str, counts: str) -> None:
    found = job("evaluate", "--experiment", experiment, "--dry-run")
    assert found.code == 0, found.err
    assert counts in found.out


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("finetune.split.protocol=loso", "finetune.split.protocol"),
        ("finetune.split.shots=3", "shots belongs to protocol few_shot"),
        ("finetune.split.accept=[windows]", "finetune.split.accept"),
        ("evaluate.methods={A: [pretrain.rounds=1]}", "methods.A"),
        ("finetune.rival_weights=labram.safetensors", "rival_weights are for rivals"),
    ],
)
def test_what_cannot_be_asked_is_one_line(job: Job, change: str, told: str) -> None:
    assert_refused(job("evaluate", "--experiment", "faced", "--dry-run", "--set", change), 2, told)


def test_an_ablation_says_what_it_would_do(job: Job) -> None:
    places = ("--set", "addresses.store=/nowhere/store", "--set", "addresses.runs=/nowhere/runs")
    found = job("ablate", "--experiment", "table3", "--dry-run", *places)
    assert found.code == 0, found.err
    assert "plan: 3 pretrainings on deap, seed_iv, seed_vii, amigos, mped, dreamer, mahnob_hci, mdme" in found.out
    assert (
        "plan: 75 fine-tunings a fold: EMOD, EMOD-Scratch, EMOD-Augment, EMOD-HardVA, and the first on shuffled"
        in found.out
    )
    wrong = job("ablate", "--experiment", "faced", "--dry-run", *places)
    assert_refused(wrong, 2, "experiment faced has no ablation section; use --experiment table3")
    wrong = job("evaluate", "--experiment", "table3", "--dry-run")
    assert_refused(wrong, 2, "experiment table3 has an ablation section; run it with jobs/ablate.py")


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
