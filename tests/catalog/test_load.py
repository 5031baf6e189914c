"""Catalogs load; a mistake in one becomes one line with the field, the value and the cure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from emod.catalog import (
    CorpusCatalog,
    Experiment,
    catalog_root,
    corpus_names,
    dump_yaml,
    experiment_names,
    fingerprint,
    load_corpus,
    load_experiment,
)
from emod.catalog.corpus import BidsLayout
from emod.errors import RequestError


@pytest.mark.parametrize("name", corpus_names())
def test_every_corpus_loads_and_says_how_to_get_it(name: str) -> None:
    corpus = load_corpus(name)
    assert corpus.name == name
    assert all((corpus.licence, corpus.access, corpus.citation))
    assert corpus.homepage.startswith("https://")


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_loads_and_survives_its_own_dump(name: str, tmp_path: Path) -> None:
    experiment = load_experiment(name)
    path = tmp_path / "dumped.yaml"
    path.write_text(dump_yaml(experiment))
    assert load_experiment(str(path)) == experiment


def test_the_papers_settings() -> None:
    experiment = load_experiment("pretrain")
    settings, model = experiment.pretrain, experiment.model
    assert (settings.epochs, settings.rounds, settings.learning_rate) == (100, 4, 5e-4)
    assert (settings.weight_decay, settings.final_learning_rate, settings.clip_norm) == (1e-4, 1e-7, 3.0)
    assert (settings.temperature, settings.d_max) == (0.07, 5.0)
    assert (model.width, model.layers, model.heads, model.feed_forward, model.kernel) == (128, 3, 16, 512, 25)
    assert (model.groups, model.token_rate_hz, model.max_offset, model.dropout, model.pool_dropout) == (
        4,
        5,
        49,
        0.1,
        0.25,
    )
    assert (experiment.signal.band_hz, experiment.signal.window_s) == ((0.3, 49.0), 10.0)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("pretrain.epoch=3", "pretrain.epoch: unknown key; did you mean epochs?"),
        ("signal.ica.seeds=3", "signal.ica.seeds: unknown key; did you mean seed?"),
        ("simulate.deap.subject=4", "simulate.deap.subject: unknown key; did you mean subjects?"),
        ("pretrain.epochs=many", 'pretrain.epochs = "many": Input should be a valid integer'),
        ("pretrain.learning_rate=1e-3", "write 1.0e-7"),
        ("pretrain.epochs=0", "pretrain.epochs = 0: Input should be greater than or equal to 1"),
        ("pretrain.learning_rate=.nan", "pretrain.learning_rate"),
        ("model.heads=5", "heads = 5 does not divide width = 16"),
        ("finetune.split.test=0.9", "leave no subject to train on"),
        ("corpora=[deap, deap]", "names a corpus twice"),
        ("corpora=[deap, seed_iv, seeds]", "corpus 'seeds' has no catalog; did you mean seed"),
        ("nonsense", "is not of the form a.b=c"),
        ("name.x=3", "name is a value, not a group of fields"),
        ("pretrain.epochs=[", "the value is not YAML"),
    ],
)
def test_a_mistake_is_one_line_with_the_cure(override: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        load_experiment("quickstart", [override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nname: b\n", "line 2: key 'name' stands twice"),
        ("name: [a\n", "mend the YAML there"),
        ("- a\n", "expected a mapping"),
        ("name: a\ndescription: b\n", "corpora is missing; add it"),
        (
            "name: a\ndescription: b\ncorpora: [deap]\nseed: !!python/object/apply:os.system [exit]\n",
            "could not determine a constructor",
        ),
    ],
)
def test_a_broken_file_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RequestError) as caught:
        load_experiment(str(path))
    assert said in str(caught.value)
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_experiment_names_the_nearest() -> None:
    with pytest.raises(RequestError, match="did you mean quickstart"):
        load_experiment("quikstart")


def test_overrides_apply_in_order_and_change_the_fingerprint() -> None:
    plain = load_experiment("quickstart")
    changed = load_experiment("quickstart", ["pretrain.rounds=1", "pretrain.rounds=3", "signal.band_hz=[1, 40]"])
    assert (changed.pretrain.rounds, changed.signal.band_hz) == (3, (1, 40))
    assert fingerprint(plain) == fingerprint(load_experiment("quickstart")) != fingerprint(changed)


def test_addresses_come_from_the_file_then_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMOD_DATA", "s3://lab/corpora/")
    monkeypatch.setenv("EMOD_STORE", "relative/store")
    monkeypatch.chdir(tmp_path)
    addresses = load_experiment("quickstart", ["addresses.data.deap=/disk/DEAP"]).addresses
    assert addresses.root_of("deap") == "/disk/DEAP"
    assert addresses.root_of("seed_iv") == "s3://lab/corpora/seed_iv"
    assert addresses.store_url() == str(tmp_path / "relative" / "store")
    with pytest.raises(RequestError, match=r"--set addresses.runs=URL or set EMOD_RUNS"):
        addresses.runs_url()


def test_models_are_frozen() -> None:
    experiment = load_experiment("quickstart")
    with pytest.raises(ValueError, match="frozen"):
        experiment.seed = 3  # type: ignore[misc]


def test_seed_iv_labels_are_the_owners_codes() -> None:
    """The owner's label rows, transcribed a second time as integers."""
    codes = {"neutral": 0, "sad": 1, "fear": 2, "happy": 3}
    rows = {
        "1": "1 2 3 0 2 0 0 1 0 1 2 1 1 1 2 3 2 2 3 3 0 3 0 3",
        "2": "2 1 3 0 0 2 0 2 3 3 2 3 2 0 1 1 2 1 0 3 0 1 3 1",
        "3": "1 2 2 1 3 3 3 1 1 2 1 0 2 3 3 0 2 3 0 0 2 0 1 0",
    }
    words = load_corpus("seed_iv").trial_emotions
    assert words is not None
    assert {session: " ".join(str(codes[word]) for word in row) for session, row in words.items()} == rows


def test_every_field_of_a_corpus_is_explained() -> None:
    """catalogs/README.md has a row for each, in code quotes."""
    text = (catalog_root() / "README.md").read_text()
    for model in (CorpusCatalog, BidsLayout):
        absent = [name for name in model.model_fields if not re.search(rf"^\|[^|]*`{name}`", text, re.MULTILINE)]
        assert absent == [], model.__name__
    for path in re.findall(r"\]\(([\w./]+)\)", text):
        assert (catalog_root() / path).exists(), path


def test_every_catalog_is_known_to_the_loader() -> None:
    for path in catalog_root().rglob("*.yaml"):
        assert yaml.safe_load(path.read_text()) is not None, path
    assert Experiment.model_config["extra"] == "forbid"
