"""The gate before champion: a model that learned passes, one that did not is told why, and there is a way back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from emod.catalog import Experiment, SignalSettings, with_overrides
from emod.errors import DataError, RequestError
from emod.evaluation import Split, Target, divide
from emod.model import Emod, EmodClassifier
from emod.promoting import Gate, Promotion, promote
from emod.promotion_report import print_card, print_promotion
from emod.shards import ShardStore, WindowPool
from emod.tracking import TrainedOn, ensure_run, register_model
from emod.tracking.champion import champion_of, champions, crown, roll_back
from emod.training import trained_corpus
from emod.training.finetuner import Finetuner, TrainingRows
from emod.training.networks import new_classifier
from emod.workflow import classes_of
from tests.training.tiny_store import write_tiny_store


@dataclass
class Registry:
    """An experiment, its store, and versions made as jobs/finetune.py makes them."""

    experiment: Experiment
    store: ShardStore
    uri: str
    target: Target
    split: Split

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def learned(self, epochs: int, seed: int = 0) -> EmodClassifier:
        settings = self.experiment.finetune
        assert settings is not None
        torch.manual_seed(seed)
        settings = settings.model_copy(update={"epochs": max(1, epochs), "batch": 8, "learning_rate": 1e-2})
        network = new_classifier(Emod(self.experiment.model), self.target, settings)
        finetuner = Finetuner(
            network,
            WindowPool(self.store, settings.corpora),
            settings,
            self.target,
            TrainingRows.of(self.split),
            seed=seed,
            device=torch.device("cpu"),
        )
        for _ in range(epochs):
            next(finetuner.epochs())
        return network.eval()

    def register(
        self, model: EmodClassifier, *, split: dict[str, Any] | None, audit: list[dict[str, Any]], subjects: list[str]
    ) -> str:
        run_id = ensure_run(self.uri, "tests", f"tuned-{len(self.client.search_model_versions())}", {})
        if split is not None:
            self.client.log_dict(run_id, split, "split.json")
        self.client.log_dict(run_id, {"audit": audit}, "audit.json")
        return register_model(
            uri=self.uri,
            run_id=run_id,
            model=model,
            plane=None,
            classes=classes_of(self.target),
            settings=self.experiment.signal,
            trained_on=TrainedOn(
                manifest="ab" * 32,
                simulated=True,
                corpora={"seed_iv": trained_corpus(self.store, "seed_iv", subjects)},
            ),
            results=["It is only a test."],
        )

    def own(self) -> list[str]:
        """Who trained."""
        return [name.partition("/")[2] for name in self.split.subjects["train"]]

    def ask(self, *overrides: str, version: str = "@candidate") -> Promotion:
        return promote(with_overrides(self.experiment, overrides), self.store, f"models:/emod{version}")


@pytest.fixture
def registry(
    make_experiment: Callable[..., Experiment], new_runs: Callable[[], tuple[Path, str]], tmp_path: Path
) -> Registry:
    runs, uri = new_runs()
    url = str(tmp_path / "store")
    write_tiny_store(url, settings=SignalSettings().model_dump(mode="json"))
    tune = {
        "corpus": "seed_iv",
        "split": {"protocol": "subjects_and_clips", "validation": 0.2, "test": 0.4},
        "backbone": "none",
        "dropout": 0.0,
    }
    limits = {"calibration_error": 0.9, "latency_ms": 60000.0}
    experiment = make_experiment(
        runs, corpora=["seed_iv"], addresses={"store": url, "runs": str(runs)}, finetune=tune, promote=limits
    )
    store = ShardStore.open(url)
    settings = experiment.finetune
    assert settings is not None
    target, whole = divide(WindowPool(store, settings.corpora).metadata, settings, "emotion")
    return Registry(experiment, store, uri, target, whole.keep(target.rows))


def by_name(promotion: Promotion) -> dict[str, Gate]:
    return {gate.name: gate for gate in promotion.gates}


def test_one_that_learned_becomes_champion_and_an_equal_one_does_not(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    model = registry.learned(12)
    first = registry.register(model, split=registry.split.record(), audit=[], subjects=registry.own())
    found = registry.ask()
    assert found.passed, found.gates
    assert {gate.name for gate in found.gates} == {
        "evaluation",
        "audit",
        "unseen, version 1",
        "better than majority class",
        "better than clip's labels",
        "better than participant's labels",
        "calibration",
        "latency",
        "round trip",
    }
    assert champion_of(registry.client, "emod") == first
    passed = json.loads(registry.client.get_model_version("emod", first).tags["emod.gates"])
    assert [gate["name"] for gate in passed] == [gate.name for gate in found.gates]
    print_promotion(found, moved=True)
    assert "champion of emod is version 1 now" in capsys.readouterr().out
    print_card(registry.uri, "models:/emod@champion")
    card = capsys.readouterr().out
    for words in (
        "simulated recordings",
        "## Intended use",
        "It is only a test.",
        "Zheng",
        "Licence",
        "Fp2",
        "ab" * 32,
    ):
        assert words in card

    with pytest.raises(RequestError, match="is the champion already"):
        registry.ask()
    # The same weights again: no better, and it has learned from everybody who is tested.
    everybody = registry.store.metadata("seed_iv")["subject"].to_pylist()
    registry.register(model, split=None, audit=[], subjects=everybody)
    again = registry.ask()
    assert not again.passed
    gates = by_name(again)
    assert not gates["better than version 1"].passed
    assert "+0.000 [+0.000, +0.000]" in gates["better than version 1"].said
    assert not gates["evaluation"].passed
    assert not gates["unseen, version 2"].passed
    assert "2 of 2 test subjects" in gates["unseen, version 2"].said
    assert gates["unseen, version 1"].passed
    assert champion_of(registry.client, "emod") == first
    with pytest.raises(DataError, match=r"version 2 does not become champion: .*better than version 1"):
        print_promotion(again, moved=True)


def test_knowing_the_clip_is_no_merit(registry: Registry) -> None:
    """Where everybody saw the same clips, who knows the clip knows the word: no model can be above that."""
    registry.register(registry.learned(0), split=registry.split.record(), audit=[], subjects=registry.own())
    gate = by_name(registry.ask("finetune.split.protocol=subjects"))["better than clip's labels"]
    assert not gate.passed
    assert "declare a protocol that keeps them apart" in gate.said


@pytest.mark.long
def test_one_that_fails_everywhere_is_told_all_of_it(registry: Registry) -> None:
    elsewhere = {**registry.split.record(), "hash": "f" * 64, "protocol": "clips"}
    accepted = {"code": "subjects", "severity": "leak", "accepted_by": "user"}
    version = registry.register(registry.learned(0), split=elsewhere, audit=[accepted], subjects=registry.own())
    source = registry.client.get_model_version("emod", version).source
    Path(source.removeprefix("file://"), "served.py").write_text("raise RuntimeError('damaged')\n")
    found = registry.ask("promote.calibration_error=0.0001", "promote.latency_ms=0.001")
    gates = by_name(found)
    failed = {name for name, gate in gates.items() if not gate.passed}
    assert failed == set(gates) - {"unseen, version 1"}
    assert "hash ffffffffffff; declared is subjects_and_clips, hash" in gates["evaluation"].said
    assert "1 leak accepted by hand: subjects" in gates["audit"].said
    assert "short" in gates["better than majority class"].said
    assert "above" in gates["calibration"].said
    assert "ms above" in gates["latency"].said
    assert "cannot serve its own example" in gates["round trip"].said
    assert champion_of(registry.client, "emod") is None
    assert champions(registry.client, "emod") == []


@pytest.mark.long
def test_one_for_other_classes_cannot_be_compared(registry: Registry) -> None:
    registry.register(registry.learned(0), split=registry.split.record(), audit=[], subjects=registry.own())
    found = registry.ask("finetune.targets=[valence]")
    assert "does not answer low_valence, high_valence" in by_name(found)["better"].said


def test_rollback_goes_to_the_one_before_and_no_further(registry: Registry) -> None:
    client = registry.client
    with pytest.raises(RequestError, match="no registered model"):
        roll_back(client, "emod")
    model = registry.learned(0)
    for number in (1, 2, 3):
        version = registry.register(model, split=None, audit=[], subjects=registry.own())
        assert version == str(number)
        crown(client, "emod", version, [])
    assert champions(client, "emod") == ["1", "2", "3"]
    assert roll_back(client, "emod") == ("3", "2")
    assert champion_of(client, "emod") == "2"
    assert client.get_model_version("emod", "3").tags["emod.rolled_back"] == "true"
    assert roll_back(client, "emod") == ("2", "1")
    with pytest.raises(RequestError, match="none before it"):
        roll_back(client, "emod")
    assert champion_of(client, "emod") == "1"
