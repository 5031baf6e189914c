"""What fine-tuning starts from: a run, a folder, a registered model or nothing, and what is known of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from emod.catalog import EmodConfig, Experiment, SignalSettings
from emod.errors import RequestError
from emod.model import Emod, EmodClassifier, save_weights
from emod.tracking import TrainedCorpus, TrainedOn, ensure_run, register_model
from emod.training import Pretrained, load_backbone
from emod.training.pretrain import _export

SEEN = {"deap": ("s1", "s2")}
FACTS = {"deap": TrainedCorpus(channels=("Fp1", "O1"), sfreq_hz=20.0, licence="x", subjects=SEEN["deap"])}


@pytest.fixture
def network(tiny: EmodConfig) -> Emod:
    torch.manual_seed(3)
    return Emod(tiny).eval()


@pytest.fixture
def start_from(
    make_pretrain_experiment: Callable[..., Experiment], new_runs: Callable[[], tuple[Path, str]]
) -> Callable[[str | None], Experiment]:
    runs, _ = new_runs()

    def make(backbone: str | None) -> Experiment:
        return make_pretrain_experiment(runs, finetune={"backbone": backbone})

    return make


def assert_same(found: Emod, wanted: Emod) -> None:
    for name, weight in wanted.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight), name


def test_the_run_that_the_experiment_names(start_from: Callable[[str | None], Experiment], network: Emod) -> None:
    experiment = start_from(None)
    with pytest.raises(RequestError, match=r"no finished pretraining run 'backbone'"):
        load_backbone(experiment)
    _export(Pretrained(network, SEEN, "abc", True, FACTS), f"{experiment.addresses.runs_url()}/backbone/model")
    found = load_backbone(experiment)
    assert_same(found.model, network)
    assert (found.seen, found.manifest_hash, found.simulated, found.known) == (SEEN, "abc", True, True)


def test_a_folder_says_what_it_knows(
    start_from: Callable[[str | None], Experiment], network: Emod, tmp_path: Path
) -> None:
    """Weights alone leave open whom they have seen; beside them may lie who that was."""
    with pytest.raises(RequestError, match=r"finetune\.backbone = .*/none-here: no model\.json there; give a folder"):
        load_backbone(start_from(f"{tmp_path}/none-here"))
    (tmp_path / "bare").mkdir()
    save_weights(tmp_path / "bare", network, network.config)
    bare = load_backbone(start_from(f"{tmp_path}/bare"))
    assert_same(bare.model, network)
    assert (bare.seen, bare.known) == ({}, False)
    _export(Pretrained(network, SEEN, "abc", True, FACTS), f"{tmp_path}/whole")
    whole = load_backbone(start_from(f"{tmp_path}/whole"))
    assert (whole.seen, whole.known, whole.corpora) == (SEEN, True, FACTS)


@pytest.mark.parametrize("how", ["@candidate", "/1"])
def test_a_registered_model_brings_its_backbone_and_whom_it_has_seen(
    start_from: Callable[[str | None], Experiment], network: Emod, how: str
) -> None:
    experiment = start_from(f"models:/emod{how}")
    uri = f"sqlite:///{experiment.addresses.runs_url()}/mlflow.db"
    told = r"finetune\.backbone = models:/emod.*register it, or name another"
    with pytest.raises(RequestError, match=told) as caught:
        load_backbone(experiment)
    assert "\n" not in str(caught.value)
    run_id = ensure_run(uri, "tests", "tuned", {})
    classifier = EmodClassifier(network, 2).eval()
    for corpora, known in ((FACTS, True), ({"deap": FACTS["deap"].model_copy(update={"subjects": ()})}, False)):
        trained_on = TrainedOn(manifest="abc", simulated=True, corpora=corpora)
        version = register_model(
            uri=uri,
            run_id=run_id,
            model=classifier,
            plane=None,
            classes=("low", "high"),
            settings=SignalSettings(),
            trained_on=trained_on,
        )
        found = load_backbone(start_from(f"models:/emod/{version}"))
        assert_same(found.model, network)
        assert (found.known, found.simulated, found.manifest_hash) == (known, True, "abc")
        assert found.seen == {"deap": corpora["deap"].subjects}
    # By alias, the newest; by number, the one.
    assert load_backbone(experiment).known == (how == "/1")


def test_nothing_is_fresh_weights_of_the_seed(start_from: Callable[[str | None], Experiment]) -> None:
    experiment = start_from("none")
    state = torch.get_rng_state()
    first, second = load_backbone(experiment), load_backbone(experiment)
    assert torch.equal(torch.get_rng_state(), state), "whoever draws the head draws the same"
    assert_same(first.model, second.model)
    assert (first.seen, first.known) == ({}, True)
    raw = json.loads(experiment.model_dump_json()) | {"seed": 5}
    other = load_backbone(Experiment.model_validate_json(json.dumps(raw)))
    weights = zip(first.model.parameters(), other.model.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in weights)


@pytest.mark.parametrize("wrong", ["models:/emod", "models:/emod@", "models:/emod/newest"])
def test_an_address_that_names_no_model(start_from: Callable[[str | None], Experiment], wrong: str) -> None:
    with pytest.raises(RequestError, match=r"give models:/NAME@ALIAS or models:/NAME/VERSION"):
        load_backbone(start_from(wrong))
