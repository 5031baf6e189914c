"""An ablation: arms pretrained and judged on the same benchmarks on a real Ray; what it refuses; what a person sees."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from emod.ablating import (
    _ingest,
    ablate,
    ablation_settings,
    benchmark_experiment,
    list_pretrainings,
    pretraining_experiment,
)
from emod.ablation_report import draw_ablation, print_ablation, render_ablation, write_ablation
from emod.catalog import load_corpus, load_experiment, load_paper
from emod.errors import RequestError
from emod.evaluating import Evaluated
from emod.evaluation_report import write_evaluation
from emod.shards import ShardStore, publish
from emod.training.backbone import digest_of
from emod.training.evaluating import train_and_answer

ADDRESSES = ["addresses.store=/nowhere/store", "addresses.runs=/nowhere/runs"]

SMALL = [
    "simulate={deap: {subjects: 3, trials: 4, time_scale: 0.4}, seed: {subjects: 3, time_scale: 0.03}}",
    "corpora=[deap, seed]",
    "pretrain.corpora=[deap]",
    "pretrain.steps_per_epoch=4",
    "pretrain.rounds=1",
    "pretrain.workers=1",
    "signal.ica.enabled=false",
    "finetune.corpus=seed",
    "finetune.epochs=2",
    "evaluate.seeds=2",
    "ablation.benchmarks={SEED: [finetune.split.protocol=seed_paper, signal.window_s=5]}",
    "ablation.arms={EMOD: [], EMOD-Scratch: [pretrain.objective=scratch],"
    " without spectral tokens: [model.without=spectral_tokens, finetune.backbone_rate=0.25]}",
]


def test_an_arm_changes_what_it_says_and_nothing_else() -> None:
    experiment = load_experiment("table3", ADDRESSES)
    assert len(experiment.pretrained_on) == 8
    arms = dict.fromkeys(arm for arm, _ in list_pretrainings(experiment))
    assert list(arms) == ["EMOD", "EMOD-Scratch", "EMOD-Augment", "EMOD-HardVA"]
    whole, *others = (pretraining_experiment(experiment, arm, 0) for arm in arms)
    assert whole.corpora == experiment.pretrained_on
    for other in others:
        assert other.pretrain.objective != whole.pretrain.objective
        same = {"objective": whole.pretrain.objective, "run_name": whole.pretrain.run_name}
        assert other.model_copy(update={"pretrain": other.pretrain.model_copy(update=same)}) == whole


def test_the_benchmarks_are_those_of_their_own_experiments() -> None:
    """Table 3 fine-tunes as --experiment faced, seed_v and seed do."""
    for shipped in ("table3", "figure3"):
        experiment = load_experiment(shipped, ADDRESSES)
        for name, own in (("FACED", "faced"), ("SEED-V", "seed_v"), ("SEED", "seed")):
            asked, alone = benchmark_experiment(experiment, name), load_experiment(own, ADDRESSES)
            assert (asked.finetune, asked.signal, asked.corpora) == (alone.finetune, alone.signal, alone.corpora)


def test_fresh_weights_are_drawn_anew_for_each_seed() -> None:
    experiment = load_experiment("table3", ADDRESSES)
    assert sorted(seed for arm, seed in list_pretrainings(experiment) if arm == "EMOD-Scratch") == [0, 1, 2, 3, 4]
    assert [seed for arm, seed in list_pretrainings(experiment) if arm == "EMOD"] == [0]
    methods = benchmark_experiment(experiment, "SEED").evaluate
    assert methods is not None
    assert methods.methods["EMOD"] == ('finetune.backbone="/nowhere/runs/table3-pretrain-emod-0/model"',)
    assert methods.methods["EMOD-Scratch"] == (
        'finetune.backbone="/nowhere/runs/table3-pretrain-emod-scratch-{seed}/model"',
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("ablation.arms={A: [], B: [signal.window_s=4]}", "ablation.arms.B: signal.window_s=4 is not of model or"),
        ("ablation.arms={A: [], B: ['pretrain.corpora=[deap]']}", "ablation.arms.B: pretrain.corpora=[deap] is not of"),
        ("ablation.arms={A: [], B: [finetune.backbone=none]}", "ablation.arms.B: finetune.backbone=none is not of"),
        ("ablation.arms={A: [], B: [finetune.method=eegnet]}", "ablation.arms.B: finetune.method = eegnet"),
        ("ablation.arms={A: [], B: ['finetune.targets=[valence]']}", "methods.B changes finetune.targets"),
        ("finetune.method=eegnet", "finetune.method = eegnet: arms are of method emod"),
        ("finetune.split.protocol=clips", "finetune.split.protocol: in an ablation arms and benchmarks decide"),
        ("finetune.backbone=none", "finetune.backbone: in an ablation"),
        ("evaluate.methods={EEGNet: [finetune.method=eegnet]}", "evaluate.methods: in an ablation"),
        ("ablation.benchmarks={A: [pretrain.rounds=2]}", "ablation.benchmarks.A: pretrain.rounds=2 is not of signal"),
        ("ablation.arms={A b: [], a-B: []}", "ablation.arms: two names are a-b in a path"),
        ("ablation.benchmarks={A: [finetune.corpus=deap]}", "ablation.benchmarks.A asks about deap, which every arm"),
        ("finetune.targets=[plane]", "finetune.targets names plane"),
        ("ablation=null", "no ablation section; use --experiment table3"),
    ],
)
def test_what_cannot_be_compared_is_refused(change: str, told: str) -> None:
    with pytest.raises(RequestError) as refused:
        ablation_settings(load_experiment("table3", [*ADDRESSES, change]))
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({}, True),
        ({"simulated": True}, False),
        ({"target": "valence"}, False),
        ({"people": 122}, False),
        ({"protocol": "subjects"}, False),
        ({"window_s": 5.0}, False),
    ],
)
def test_the_papers_figures_stand_beside_its_own_question_alone(change: dict[str, Any], shown: bool) -> None:
    """A whole real copy of FACED, nine words, the paper's split and windows; with any of it changed, nothing."""
    asked = {"simulated": False, "target": "emotion", "people": 123, "protocol": "faced_paper", "window_s": 10.0}
    asked |= change
    experiment = load_experiment("faced", [f"signal.window_s={asked['window_s']}"])
    evaluated = Evaluated(experiment, (), (), {}, {}, asked["simulated"], "", "")
    people = [str(number) for number in range(asked["people"])]
    split = SimpleNamespace(
        subjects={"train": people[:80], "validation": people[80:100], "test": people[100:]}, protocol=asked["protocol"]
    )
    summary: Any = SimpleNamespace(target=SimpleNamespace(name=asked["target"]), splits=(split,))
    found = evaluated.printed(summary, "EMOD")
    assert (found is not None) == shown
    assert found is None or found.balanced_accuracy == (62.87, 0.76)


def test_who_has_withdrawn_from_the_store_above_is_trained_on_nowhere(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ShardStore.open(store_url)
    gone = store.manifest.model_copy(update={"corpora": {}, "withdrawn": {"deap": ("s2", "elsewhere")}})
    publish(str(tmp_path), gone)
    experiment = load_experiment("figure3-simulated", [f"addresses.store={tmp_path}", "addresses.runs=/nowhere/runs"])
    varied = experiment.model_copy(update={"corpora": ("deap", "seed_iv")})
    monkeypatch.setattr("emod.workflow.ingest_corpora", lambda _: store)
    with pytest.raises(
        RequestError, match=r"still holds s2 of deap, withdrawn .*remove_subject.py .*--corpus deap --subject s2$"
    ):
        _ingest(experiment, varied)
    assert _ingest(experiment, varied.model_copy(update={"corpora": ("seed_iv",)})) is store


@pytest.mark.long
def test_an_ablation_end_to_end(
    ray_cluster: None,
    new_runs: Callable[[], tuple[Path, str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each arm on its own backbones; a second call trains nothing; the paper's figures stand beside real data alone."""
    runs, _ = new_runs()
    places = [f"addresses.data.{name}={tmp_path / name}" for name in ("deap", "seed")]
    experiment = load_experiment(
        "figure3-simulated", [*SMALL, *places, f"addresses.store={tmp_path / 'store'}", f"addresses.runs={runs}"]
    )
    ablated = ablate(experiment, lambda evaluated, store: write_evaluation(evaluated, store, command="c"))
    assert list(ablated.benchmarks) == ["SEED"]
    evaluated = ablated.benchmarks["SEED"]
    assert set(evaluated.backbones) == {
        f"{arm} of seed {seed}" for arm in ("EMOD", "EMOD-Scratch", "without spectral tokens") for seed in (0, 1)
    }
    assert evaluated.backbones["without spectral tokens of seed 1"].model.config.without == "spectral_tokens"
    assert len({digest_of(backbone.model) for backbone in evaluated.backbones.values()}) == 6
    store = ShardStore.open(str(tmp_path / "store" / "benchmark-seed"))
    for answers in evaluated.answers[-3:]:
        alone = train_and_answer(answers.training, evaluated.experiment, store, device=torch.device("cpu"))
        np.testing.assert_array_equal(alone.outputs, answers.outputs)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    # By its module's name: `emod.training.pretrain` is the function.
    monkeypatch.setattr(sys.modules["emod.training.pretrain"], "launch", refuse)
    again = ablate(experiment, lambda evaluated, store: "x/y/report.html")
    for name, first in ablated.benchmarks.items():
        for a, b in zip(first.answers, again.benchmarks[name].answers, strict=True):
            np.testing.assert_array_equal(a.outputs, b.outputs)
            assert a.seconds == b.seconds

    report = write_ablation(ablated, command="python jobs/ablate.py")
    page = Path(report).read_text(encoding="utf-8")
    assert "SIMULATED RECORDINGS" in page
    assert "the paper" not in page
    for name, url in ablated.reports.items():
        assert f"../{Path(url).parent.name}/report.html" in page, name
    assert Path(report).with_name("emotion.png").read_bytes().startswith(b"\x89PNG")
    print_ablation(ablated, report=report, seconds=60.0)
    shown = capsys.readouterr().out
    assert "SIMULATED" in shown
    assert "61.14" not in shown

    real = replace(ablated, benchmarks={n: replace(e, simulated=False) for n, e in ablated.benchmarks.items()})
    assert "the paper" not in render_ablation(real, command="c"), "three subjects are not the paper's fifteen"
    whole = load_corpus("seed").model_copy(update={"subjects": 3})
    monkeypatch.setattr("emod.evaluating.load_corpus", lambda name: whole)
    page = render_ablation(real, command="c")
    assert page.count("<td>the paper</td>") == 3
    assert "61.14 / 0.83" in page
    loss = load_paper().losses["without spectral tokens"]["seed"]
    assert f"{61.14 - loss:.2f}" in page
    labels = [text.get_text() for text in draw_ablation(real, "emotion").axes[0].get_legend().get_texts()]
    assert {"chance", "the paper"} < set(labels)
    mean = evaluated.summaries[0].methods[0].mean("balanced_accuracy")
    assert f"{100 * mean:.2f}" in page


def test_pretraining_from_another_seed_has_another_name() -> None:
    experiment = load_experiment("figure3-simulated", ADDRESSES)
    pretrainings = [pretraining_experiment(experiment, *each) for each in list_pretrainings(experiment)]
    assert len({varied.pretrain.run_name for varied in pretrainings}) == 7 * 3
