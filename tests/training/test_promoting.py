"""The gate before champion: a model that learned passes, one that did not is told why, and there is a way back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from mlflow import MlflowClient
from scipy.stats import ttest_1samp

from emod.catalog import Experiment, ServingSettings, SignalSettings, with_overrides
from emod.errors import DataError, RequestError
from emod.evaluation import Split, Target, clips_of, divide, summarise_target
from emod.model import Emod, EmodClassifier
from emod.promoting import Gate, Promotion, _better, promote
from emod.promotion_report import print_card, print_promotion
from emod.shards import ShardStore, WindowPool
from emod.tracking import TrainedOn, ensure_run, register_model
from emod.tracking.champion import champion_of, champions, crown, roll_back, version_of
from emod.training import trained_corpus
from emod.training.finetuner import Finetuner, TrainingRows
from emod.training.networks import new_classifier
from emod.workflow import SCORED_ON, _registered_before, classes_of
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
        self.client.set_tag(run_id, SCORED_ON, self.store.manifest.hash_of(("seed_iv",)))
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
                backbone_manifest="cd" * 32,
            ),
            results=["It is only a test."],
        )

    def better(self, own: npt.NDArray[np.float64], other: npt.NDArray[np.float64], margin: float = 0.0) -> Gate:
        """The gate between two sets of answers to the test windows, (n, K) probabilities."""
        pool = WindowPool(self.store, ("seed_iv",))
        outputs = {"version 1": [[other]], "version 2": [[own]]}
        summary = summarise_target([self.target], [self.split], outputs, clips=clips_of(pool.metadata))
        (gate,) = _better(summary, margin, crowned=True)
        return gate

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
    subjects = [f"s{number:02d}" for number in range(1, 16)]
    write_tiny_store(url, settings=SignalSettings().model_dump(mode="json"), subjects=subjects)
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
        "unseen",
        "signal",
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
        "cd" * 32,
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
    assert not gates["unseen"].passed
    assert "6 of 6 test subjects" in gates["unseen"].said
    assert gates["champion, version 1"].said == "judged on the same windows"
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
    # The code that travels with the version, not that of this process.
    damaged = Path(source.removeprefix("file://"), "code", "emod", "tracking", "servable.py")
    damaged.write_text("raise RuntimeError('damaged')\n")
    found = registry.ask("promote.calibration_error=0.0001", "promote.latency_ms=0.001")
    gates = by_name(found)
    failed = {name for name, gate in gates.items() if not gate.passed}
    assert failed == set(gates) - {"unseen", "signal"}
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
        crown(client, "emod", version, [], instead_of=champion_of(client, "emod"))
    assert champions(client, "emod") == ["1", "2", "3"]
    assert roll_back(client, "emod") == ("3", "2")
    assert champion_of(client, "emod") == "2"
    assert client.get_model_version("emod", "3").tags["emod.rolled_back"] == "true"
    assert roll_back(client, "emod") == ("2", "1")
    with pytest.raises(RequestError, match="none before it"):
        roll_back(client, "emod")
    assert champion_of(client, "emod") == "1"
    crown(client, "emod", "3", [], instead_of="1")
    assert "emod.rolled_back" not in client.get_model_version("emod", "3").tags


def test_a_way_back_is_kept_whatever_happened_before(client: MlflowClient) -> None:
    """A crash on the way, a champion set by hand, another one crowned meanwhile."""
    crown(client, "emod", "1", [], instead_of=None)
    client.set_registered_model_tag("emod", "emod.champions", json.dumps(["1", "2"]))  # and then it crashed
    assert champion_of(client, "emod") == "1"
    crown(client, "emod", "2", [], instead_of="1")
    assert champions(client, "emod") == ["1", "2"]
    assert roll_back(client, "emod", move=False) == ("2", "1")
    assert champion_of(client, "emod") == "2"
    client.set_registered_model_alias("emod", "champion", "3")  # by hand
    with pytest.raises(RequestError, match="version 3 became champion meanwhile"):
        crown(client, "emod", "1", [], instead_of="2")
    crown(client, "emod", "1", [], instead_of="3")
    assert roll_back(client, "emod") == ("1", "3")


@pytest.fixture
def client(new_runs: Callable[[], tuple[Path, str]]) -> MlflowClient:
    """A registry with three versions of nothing."""
    found = MlflowClient(new_runs()[1])
    found.create_registered_model("emod")
    for number in (1, 2, 3):
        found.create_model_version("emod", f"/nowhere/{number}")
    return found


def test_a_version_that_a_crash_left_without_its_alias_gets_it(client: MlflowClient) -> None:
    run_id = ensure_run(client.tracking_uri, "tests", "tuned", {})
    version = client.create_model_version("emod", "/nowhere/4", run_id=run_id).version
    client.set_registered_model_alias("emod", "candidate", "2")
    assert _registered_before(client, "emod", run_id, ServingSettings(), "candidate") == str(version)
    assert version_of(client, "emod", "candidate") == str(version)
    client.create_model_version("emod", "/nowhere/5")
    client.set_registered_model_alias("emod", "candidate", "5")
    assert _registered_before(client, "emod", run_id, ServingSettings(), "candidate") == str(version)
    assert version_of(client, "emod", "candidate") == "5"


def test_better_is_better_for_people_not_on_average(registry: Registry) -> None:
    """The bound is that of Student's t over people; the margin is held against it."""
    true, people = registry.target.codes[registry.split.test], registry.split.owners[registry.split.test]
    right = np.eye(4)[true]
    wrong = np.eye(4)[(true + 1) % 4]
    names = sorted(set(people))
    assert len(names) == 6
    helped = np.isin(people, names[:4])[:, None]
    mixed = np.where(helped, right, wrong)
    gate = registry.better(mixed, wrong)
    differences = np.array([1.0] * 4 + [0.0] * 2)
    bound = ttest_1samp(differences, 0).confidence_interval()
    assert f"+0.667 [{bound.low:+.3f}, {bound.high:+.3f}] over 6 subjects" in gate.said
    assert gate.passed == (bound.low > 0)
    assert gate.passed
    assert not registry.better(mixed, wrong, margin=bound.low + 0.01).passed
    # Two are helped and one is harmed: better on average, not for people.
    two, one = (np.isin(people, names[part])[:, None] for part in (slice(4, 6), slice(0, 1)))
    again = registry.better(np.where(two, right, np.where(one, wrong, mixed)), mixed)
    assert again.said.startswith("+0.167")
    assert not again.passed


def test_a_champion_that_cannot_be_judged_bars_nobody(registry: Registry) -> None:
    """It has learned from those who are tested; and what gives no numbers is told so, without a traceback."""
    everybody = registry.store.metadata("seed_iv")["subject"].to_pylist()
    model = registry.learned(12)
    registry.register(model, split=None, audit=[], subjects=everybody)
    crown(registry.client, "emod", "1", [], instead_of=None)
    registry.register(model, split=registry.split.record(), audit=[], subjects=registry.own())
    gates = by_name(registry.ask())
    assert gates["champion, version 1"].said.startswith("not compared: it has learned from 6 of 6 test subjects")
    assert gates["better than majority class"].passed
    assert champion_of(registry.client, "emod") == "2"
    # One that cannot be fetched is not passed over, one that is damaged is.
    folder = Path(registry.client.get_model_version("emod", "2").source.removeprefix("file://"), "artifacts", "emod")
    registry.register(model, split=registry.split.record(), audit=[], subjects=registry.own())
    away = folder.rename(folder.with_name("away"))
    with pytest.raises(RequestError, match="champion = models:/emod/2"):
        registry.ask()
    away.rename(folder)
    (folder / "card.json").write_text("{}")
    assert "not compared: emod version 2: " in by_name(registry.ask())["champion, version 2"].said
    with torch.no_grad():
        next(iter(model.parameters())).fill_(float("nan"))
    registry.register(model, split=registry.split.record(), audit=[], subjects=registry.own())
    found = registry.ask()
    assert "gives no number for" in by_name(found)["better"].said
    assert not found.passed


def test_windows_that_were_cleaned_otherwise_are_no_test(registry: Registry) -> None:
    """Nor are those that the store held before."""
    settings = SignalSettings(band_hz=(1.0, 20.0))
    other = replace(registry, experiment=registry.experiment.model_copy(update={"signal": settings}))
    version = other.register(registry.learned(0), split=registry.split.record(), audit=[], subjects=registry.own())
    run_id = registry.client.get_model_version("emod", version).run_id
    registry.client.set_tag(run_id, SCORED_ON, "e" * 64)
    gates = by_name(registry.ask())
    assert not gates["signal"].passed
    assert "signal.band_hz" in gates["signal"].said
    assert not gates["evaluation"].passed
    assert "on windows eeeeeeeeeeee" in gates["evaluation"].said
