"""Catalogs load; a mistake in one becomes one line with the field, the value and the cure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from emod.catalog import (
    Addresses,
    CorpusCatalog,
    EmodConfig,
    Experiment,
    FinetuneSettings,
    IngestSettings,
    PretrainSettings,
    SimulateSettings,
    SimulationSettings,
    SplitSettings,
    catalog_root,
    corpus_names,
    dump_yaml,
    experiment_names,
    fingerprint,
    load_corpus,
    load_experiment,
)
from emod.catalog.corpus import BidsLayout
from emod.catalog.fields import experiment_tables, with_tables
from emod.catalog.load import validate
from emod.catalog.wording import members
from emod.corpora import open_corpus
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
        ("pretrain.epoch=3", "--set pretrain.epoch=3: unknown key; did you mean epochs?"),
        ("signal.ica.seeds=3", "--set signal.ica.seeds=3: unknown key; did you mean seed?"),
        ("simulate.deap.subject=4", "--set simulate.deap.subject=4: unknown key; did you mean subjects?"),
        ("pretrain={epoch: 3}", "--set pretrain={epoch: 3}: pretrain.epoch: unknown key; did you mean epochs?"),
        ("pretrain.epochs=many", '--set pretrain.epochs=many: read as "many": give a whole number'),
        ("pretrain.learning_rate=1e-3", "give a number (YAML reads 1e-3 as text: write 1.0e-3)"),
        ("pretrain.learning_rate=2.5E7", "write 2.5e+7)"),
        ("pretrain.epochs=0", "--set pretrain.epochs=0: give 1 or more"),
        ("finetune.split.test=1", "give less than 1"),
        ("signal.ica.seed=4294967296", "give less than 4294967296"),
        ("pretrain.learning_rate=.nan", "--set pretrain.learning_rate=.nan: read as NaN: give a finite number"),
        ("pretrain.gpu=1", "give true or false"),
        ("description=on", "--set description=on: read as true: give text, in quotes"),
        ("name=3", "--set name=3: give text, in quotes"),
        ("name=a b", "A-Z a-z 0-9 _ . -, and no other"),
        ("signal.quality.flat=drop", "give interpolate, reject or keep"),
        ("signal.ica=false", "give fields: enabled, method,"),
        ("signal.band_hz=[1]", "--set signal.band_hz=[1]: give a list of 2 numbers"),
        ("signal.band_hz=[1, 2, 3]", "give a list of 2 numbers"),
        ("corpora=dasps", '--set corpora=dasps: read as "dasps": give a list of names: write [dasps]'),
        ("corpora=deap, dasps", "write [deap, dasps]"),
        ("corpora=[]", "--set corpora=[]: give at least 1"),
        ("corpora=[3]", "--set corpora=[3]: corpora.0 = 3: give text, in quotes"),
        ("simulate.deap.brain.effect=huge", "give none, weak, medium or strong, or a number"),
        ("simulate.deap.brain.effect=-1", "--set simulate.deap.brain.effect=-1: give 0 or more"),
        ("model.heads=5", "quickstart.yaml with --set model.heads=5: model: heads = 5 does not divide width = 16"),
        ("finetune.split.test=0.9", "leave no subject to train on"),
        ("corpora=[deap, deap]", "quickstart.yaml with --set corpora=[deap, deap]: corpora ['deap', 'deap'] names a"),
        ("addresses.data.daps=/copy", "--set addresses.data.daps=/copy: no corpus is called daps; did you mean dasps?"),
        ("addresses={data: {daps: /copy}}", "addresses.data.daps: no corpus is called daps; did you mean dasps?"),
        ("simulate.dep.subjects=2", "--set simulate.dep.subjects=2: no corpus is called dep; did you mean deap?"),
        ("pretrain={[a]: 1}", "the value is not YAML"),
        ("seed=" + "9" * 5000, "the value is not YAML"),
        ("corpora=&a [*a]", "stands inside what it names"),
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
        ("name: a\x00\n", "not YAML"),
        ("name: a\ncorpora: [deap]\n2020-01-01: b\n", "line 3: key"),
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


def places_of(model: type[BaseModel], below: str = "") -> Iterator[str]:
    """Dotted path of every field, groups included."""
    for name, field in model.model_fields.items():
        yield f"{below}{name}"
        kind = members(field.annotation)[0]
        key = ".dropout" if name == "space" else ".deap"
        inside, step = (get_args(kind)[1], key) if get_origin(kind) is dict else (kind, "")
        if isinstance(inside, type) and issubclass(inside, BaseModel):
            yield from places_of(inside, f"{below}{name}{step}.")


WRONG = (
    "null",
    "true",
    "-1",
    "0.5",
    "1.0e+300",
    ".inf",
    ".nan",
    "word",
    "''",
    "[]",
    "[1]",
    "[x, x, x]",
    "{}",
    "{x: 1}",
)


def assert_plain(message: str) -> None:
    """One line without a word of pydantic's or Python's."""
    assert "\n" not in message
    assert not re.search(r"Input should|should (have|match)|[Tt]uple|\bdict\b|valid |None\b|\bobject\b", message), (
        message
    )


def refusal(request: Callable[[], object]) -> str | None:
    """What a wrong request is told; None where it is not refused."""
    try:
        request()
    except RequestError as error:
        return str(error)
    return None


@pytest.mark.parametrize("place", [*places_of(Experiment)])
def test_no_wrong_value_of_any_field_is_answered_in_jargon(place: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "{name: a, description: b, corpora: [deap], finetune: {corpus: deap}, study: {arms: {a: [], b: []}}, "
        "ablation: {arms: {a: [], b: []}, benchmarks: {a: []}}, sweep: {space: {dropout: {low: 0, high: 0.5}}}}"
    )
    told = {text: refusal(partial(load_experiment, str(path), [f"{place}={text}"])) for text in WRONG}
    for text, message in told.items():
        if message is not None:
            assert_plain(message)
            # Where values are wrong only together, or name a corpus, they stand in the message.
            assert f"--set {place}={text}" in message or "corpus" in message
    assert any(told.values())


@pytest.mark.parametrize("place", [*places_of(CorpusCatalog)])
def test_no_wrong_value_of_a_corpus_is_answered_in_jargon(place: str) -> None:
    raw = yaml.safe_load((catalog_root() / "corpora" / "deap.yaml").read_text())
    *groups, last = place.split(".")
    node = raw
    for group in groups:
        node = node.setdefault(group, {})
    for text in WRONG:
        node[last] = yaml.safe_load(text)
        if message := refusal(partial(validate, CorpusCatalog, raw, origin="deap.yaml")):
            assert message.startswith("deap.yaml: ")
            assert_plain(message)


def test_a_whole_laboratorys_addresses_may_stand_in_a_file(tmp_path: Path) -> None:
    """Those of corpora that the run does not use do no harm."""
    path = tmp_path / "mine.yaml"
    text = "name: a\ndescription: b\ncorpora: [deap]\naddresses: {data: {deap: /a, %s: /b}}\n"
    path.write_text(text % "dasps")
    assert load_experiment(str(path)).addresses.data == {"deap": "/a", "dasps": "/b"}
    path.write_text(text % "daps")
    with pytest.raises(RequestError, match=r"mine\.yaml: addresses\.data\.daps: no corpus .*did you mean dasps\?"):
        load_experiment(str(path))


def test_the_flag_that_counts_is_blamed() -> None:
    with pytest.raises(RequestError, match=r"^--set seed=-2: give 0 or more$"):
        load_experiment("quickstart", ["seed=-1", "name=x", "seed=-2"])
    with pytest.raises(RequestError, match=r"^--set pretrain\.epochs=0: give"):
        load_experiment("quickstart", ["pretrain={run_name: x}", "pretrain.epochs=0"])


OWN = """
name: mylab
title: t
citation: c
homepage: h
licence: l
access: a
subjects: 2
sessions: 1
trials: 3
channels: [Fp1, Fp2, O1, O2]
sfreq_hz: 250
ingest_hz: 250
mains_hz: 50
baseline_s: 0
trial_s: [12]
label_kind: emotion
words: {happy: {valence: 3, arousal: 2}}
bids: {task: films, labels: events, emotion: emotion, stimulus: stim_file}
stages_done: []
"""


@pytest.fixture
def own_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes mylab.yaml with one piece of its text replaced, where the loader looks for it."""

    def write(old: str, new: str) -> None:
        assert old in OWN
        (tmp_path / "corpora").mkdir()
        (tmp_path / "corpora" / "mylab.yaml").write_text(OWN.replace(old, new))
        monkeypatch.setenv("EMOD_CATALOGS", str(tmp_path))

    return write


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("subjects: 2", "subject: 2", "subject: unknown key; did you mean subjects?"),
        ("trials: 3", "", "trials is missing; add it"),
        ("ingest_hz: 250", "ingest_hz: 300", "ingest_hz 300 exceeds sfreq_hz 250"),
        ("trial_s: [12]", "trial_s: long", 'trial_s = "long": give a list of numbers, or keys, each with a list'),
        ("trial_s: [12]", "trial_s: [long]", 'trial_s.0 = "long": give a number'),
        ("trial_s: [12]", "trial_s: {1: [long]}", 'trial_s.1.0 = "long": give a number'),
        ("trial_s: [12]", "trial_s: true", "trial_s = true: give a list of numbers"),
        ("mains_hz: 50", "mains_hz: 55", "mains_hz = 55: give 50 or 60"),
        ("[Fp1, Fp2, O1, O2]", "O1, O2", 'channels = "O1, O2": give a list of names: write [O1, O2]'),
        ("O1, O2]", "O1, O3]", "channels: electrode 'O3' is not a 10-10 name (nearest: PO3)"),
        ("O1, O2]", "O1, o1]", "channels: electrode O1 is given twice, as 'O1' and 'o1'"),
    ],
)
def test_a_mistake_in_ones_own_catalog_is_one_line(
    own_catalog: Callable[[str, str], None], old: str, new: str, said: str
) -> None:
    own_catalog(old, new)
    with pytest.raises(RequestError) as caught:
        open_corpus("mylab", "nowhere")
    assert str(caught.value).startswith(f"mylab.yaml: {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("new", "seconds"), [("12", (12.0,)), ("12.5", (12.5,)), ("[12]", (12.0,))])
def test_one_length_needs_no_brackets(
    own_catalog: Callable[[str, str], None], new: str, seconds: tuple[float, ...]
) -> None:
    own_catalog("trial_s: [12]", f"trial_s: {new}")
    assert load_corpus("mylab").trial_s == seconds


def test_one_length_a_session_needs_no_brackets() -> None:
    raw = yaml.safe_load((catalog_root() / "corpora" / "dasps.yaml").read_text())
    corpus = validate(CorpusCatalog, raw | {"trial_s": {1: 15, 2: [16]}}, origin="dasps.yaml")
    assert (corpus.seconds_of(3, "1"), corpus.seconds_of(3, "2")) == (15.0, 16.0)
    assert CorpusCatalog.model_validate(corpus.model_dump()) == corpus


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


def test_the_tables_of_experiment_fields_are_those_of_the_models() -> None:
    text = (catalog_root() / "README.md").read_text()
    assert with_tables(text) == text, "run: python -m emod.catalog.fields"
    tables = experiment_tables()
    leaves = [
        place for place in places_of(Experiment) if not any(p.startswith(f"{place}.") for p in places_of(Experiment))
    ]
    for place in leaves:
        by_key = place.replace(".deap", ".<corpus>").replace("space.dropout", "space.<setting>")
        group, _, field = by_key.rpartition(".")
        section = tables.split(f"### `{group}`\n")[1] if group else tables
        assert f"\n| `{field}` |" in section.split("\n### ")[0], place


@pytest.mark.parametrize(
    "model",
    [
        Addresses,
        EmodConfig,
        Experiment,
        FinetuneSettings,
        IngestSettings,
        PretrainSettings,
        SimulateSettings,
        SimulationSettings,
        SplitSettings,
    ],
)
def test_every_choice_says_what_it_means(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        group = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        assert group or field.description, f"{model.__name__}.{name}: give it a description"


def test_every_catalog_is_known_to_the_loader() -> None:
    for path in catalog_root().rglob("*.yaml"):
        assert yaml.safe_load(path.read_text()) is not None, path
    assert Experiment.model_config["extra"] == "forbid"
