"""Batch embedding is the model's own answer to every window, once, whatever happens on the way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from emod.catalog import Experiment
from emod.errors import RequestError
from emod.serving import Embedded, embed, find_model, list_windows
from emod.shards import ShardStore
from tests.ingest.copies import contents, tree
from tests.serving.conftest import CLASSES, SIGNAL, Registry
from tests.training.tiny_store import write_tiny_store

IDS = ["window_id", "corpus", "subject", "session", "trial", "stimulus", "start_s"]


def run(
    experiment: Experiment, registry: Registry, out: Path | str, corpora: list[str] | None = None, **asked: Any
) -> tuple[Embedded, list[str]]:
    """What the job does, and what its progress bar is told."""
    model = registry.fetch(asked.pop("model", "models:/emod/1"))
    cleaned, windows = list_windows(experiment, model, corpora, recordings=asked.pop("recordings", False))
    notes: list[str] = []
    return embed(cleaned, model, windows, str(out), lambda steps, note: notes.append(note)), notes


def table(out: Path | str) -> pd.DataFrame:
    """All answers, in the order of their windows' names."""
    frame = pd.read_parquet(f"{out}/windows")
    return frame.sort_values("window_id", ignore_index=True)


@pytest.fixture(scope="module")
def embedding(
    ray_cluster: None,
    make_experiment: Callable[..., Experiment],
    registry: Registry,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Of the whole store, by two workers."""
    out = tmp_path_factory.mktemp("embedding") / "out"
    embedded, notes = run(make_experiment(embed={"workers": 2, "batch": 16, "windows_per_object": 25}), registry, out)
    assert (embedded.computed, embedded.removed, len(notes)) == (12, 0, 12)
    assert embedded.summary == json.loads((out / "embedding.json").read_text())
    return out


def test_every_window_once_with_the_answers_of_the_bare_model(
    embedding: Path, store: ShardStore, registry: Registry
) -> None:
    found = table(embedding)
    servable = registry.fetch().servable
    assert not found["window_id"].duplicated().any()
    assert len(found) == sum(len(store.metadata(name)) for name in store.corpora) == 216
    for name in store.corpora:
        metadata = store.metadata(name)
        bare = servable.answer(
            torch.from_numpy(store.windows(name, range(72))),
            torch.from_numpy(metadata["scale_uv"].to_numpy().copy()),
            store.channels(name),
            store.sfreq_hz(name),
        )
        own = found.set_index("window_id").loc[metadata["window_id"].to_pylist()].reset_index()
        pd.testing.assert_frame_equal(own[IDS], metadata.select(IDS).to_pandas())
        for column in ("valence", "arousal", *(f"p_{word}" for word in CLASSES)):
            np.testing.assert_allclose(own[column], bare[column], atol=1e-6)
        np.testing.assert_allclose(np.stack(own["embedding"]), np.stack(bare["embedding"]), atol=1e-6)
        assert own["flags"].to_list() == bare["flags"].to_list()
    assert found["flags"].unique().tolist() != [""], "something is flagged, or nothing was compared"
    assert found["valence"].std() > 0


def test_plain_readers_need_neither_ray_nor_this_project(embedding: Path, registry: Registry) -> None:
    """pyarrow and pandas alone, in a process that has seen nothing else."""
    code = (
        "import json, sys\n"
        "import pandas, pyarrow.parquet as pq\n"
        f"folder = {str(embedding / 'windows')!r}\n"
        "frame = pandas.read_parquet(folder)\n"
        "schema = pq.read_schema(sorted(__import__('glob').glob(folder + '/deap/*.parquet'))[0])\n"
        "print(json.dumps({\n"
        "    'modules': sorted({'ray', 'emod', 'torch'} & set(sys.modules)),\n"
        "    'rows': len(frame), 'width': len(frame['embedding'][0]), 'kind': type(frame['embedding'][0]).__name__,\n"
        "    'types': {name: str(schema.field(name).type) for name in schema.names},\n"
        "    'about': {key.decode(): value.decode() for key, value in schema.metadata.items()},\n"
        "}))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["modules"] == []
    assert (told["rows"], told["width"], told["kind"]) == (216, 8, "ndarray")
    assert list(told["types"]) == [*IDS, "valence", "arousal", *(f"p_{word}" for word in CLASSES), "embedding", "flags"]
    assert told["types"]["embedding"].startswith("fixed_size_list<")
    assert told["types"]["valence"] == "float"
    model = registry.fetch()
    assert told["about"]["emod.model"] == "models:/emod/1"
    assert told["about"]["emod.weights"] == model.weights
    assert told["about"]["emod.simulated"] == "true"


def test_the_summary_counts_what_lies_there(embedding: Path, store: ShardStore) -> None:
    summary = json.loads((embedding / "embedding.json").read_text())
    found = table(embedding)
    assert summary["manifest"] == store.manifest.hash
    assert (summary["windows"], summary["simulated"], summary["problems"]) == (216, True, [])
    for name, entry in summary["corpora"].items():
        own = found[found["corpus"] == name]
        flags = own["flags"].str.split(",").explode()
        assert entry["windows"] == len(own)
        assert entry["objects"] == len(list((embedding / "windows" / name).iterdir())) == 4
        assert entry["flags"] == flags[flags != ""].value_counts().to_dict()
    assert summary["corpora"]["seed_iv"]["flags"]["untrained_rate"] == 72
    assert "untrained_rate" not in summary["corpora"]["deap"]["flags"]


def test_the_same_again_computes_nothing(
    embedding: Path, make_experiment: Callable[..., Experiment], registry: Registry
) -> None:
    before = tree(embedding)
    embedded, notes = run(make_experiment(), registry, embedding)
    assert (embedded.computed, embedded.removed) == (0, 0)
    assert all(note.endswith("finished before") for note in notes)
    assert len(notes) == 12
    assert tree(embedding) == before


@pytest.mark.parametrize(
    ("asked", "sections", "words"),
    [
        ({"model": "models:/emod@candidate"}, {}, 'version = "1", not "2"'),
        ({"corpora": ["deap"]}, {}, 'corpora = ["dasps", "deap", "seed_iv"], not ["deap"]'),
        ({}, {"embed": {"windows_per_object": 20}}, "windows_per_object = 25, not 20"),
    ],
)
def test_another_model_or_other_windows_are_refused(
    embedding: Path,
    make_experiment: Callable[..., Experiment],
    registry: Registry,
    asked: dict[str, Any],
    sections: dict[str, Any],
    words: str,
) -> None:
    before = tree(embedding)
    with pytest.raises(RequestError) as refused:
        run(make_experiment(**sections), registry, embedding, **asked)
    assert words in str(refused.value)
    assert "choose another --out" in str(refused.value)
    assert tree(embedding) == before


def test_a_folder_of_somebody_else_is_left_alone(
    make_experiment: Callable[..., Experiment], registry: Registry, tmp_path: Path
) -> None:
    (tmp_path / "windows").mkdir()
    (tmp_path / "windows" / "thesis.doc").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(RequestError, match=r"holds files that no embedding has written; choose another --out"):
        run(make_experiment(), registry, tmp_path)
    assert tree(tmp_path) == before


def test_a_store_made_otherwise_is_refused(
    make_experiment: Callable[..., Experiment], registry: Registry, tmp_path: Path
) -> None:
    other = str(tmp_path / "store")
    write_tiny_store(other, settings=SIGNAL.model_copy(update={"window_s": 4.0}).model_dump(mode="json"))
    experiment = make_experiment(addresses={"store": other, "runs": registry.runs})
    with pytest.raises(RequestError, match=r"signal\.window_s is 4\.0 there and 2\.0 in the model"):
        list_windows(experiment, registry.fetch(), None, recordings=False)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("models:/emod", "give models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("models:/emod@champion", "--model = models:/emod@champion: "),
        ("models:/emod/7", "register it, or name another"),
        ("outputs/model", "give models:/NAME@ALIAS"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch, wanted: str, words: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(RequestError) as refused:
        find_model(make_experiment(), wanted)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_without_a_database_nothing_is_made(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(RequestError, match=r"addresses\.runs = .*: no MLflow database there; .*MLFLOW_TRACKING_URI"):
        find_model(make_experiment(addresses={"runs": str(tmp_path / "runs")}), "models:/emod/1")
    assert list(tmp_path.iterdir()) == []


def test_what_was_lost_is_computed_again_and_comes_out_the_same(
    ray_cluster: None, embedding: Path, make_experiment: Callable[..., Experiment], registry: Registry, tmp_path: Path
) -> None:
    """An object that is gone, one that a crash of the machine cut off, and what a killed writer left behind."""
    out = Path(shutil.copytree(embedding, tmp_path / "out"))
    first, second, *_ = sorted((out / "windows" / "deap").iterdir())
    first.unlink()
    second.write_bytes(second.read_bytes()[:-100])
    (out / "windows" / "deap" / f"{first.name}.0123abcd.partial").write_bytes(b"PAR1")
    embedded, notes = run(make_experiment(), registry, out)
    assert embedded.computed == 2
    assert sum(note.endswith("finished before") for note in notes) == 10
    assert contents(out) == contents(embedding)
