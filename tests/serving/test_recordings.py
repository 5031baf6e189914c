"""Straight from recordings: what a store made of them would have given, and bad ones are named, not fatal."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from emod.catalog import Experiment
from emod.errors import DataError, RequestError
from emod.ingest import ingest, plan_ingest
from emod.ingest.withdrawal import withdraw
from emod.serving import embed, list_windows
from emod.serving.embed import _Cleaning
from emod.shards import ShardStore
from tests.ingest.conftest import serial  # noqa: F401 - a fixture
from tests.ingest.copies import SIGNAL, contents, simulate, tree
from tests.serving.conftest import CLASSES, Registry
from tests.serving.test_embed import run, table

KEPT = ["s01", "s03"]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings of DEAP; the second one cannot be read."""
    root = simulate("deap", tmp_path_factory.mktemp("recordings") / "DEAP")
    (bad,) = root.rglob("s02.dat")
    whole = bad.rename(root.parent / "s02.whole")
    bad.write_bytes(whole.read_bytes()[:5000])
    return root


@pytest.fixture(scope="module")
def make_recordings(
    make_experiment: Callable[..., Experiment], copy: Path, registry: Registry
) -> Callable[..., Experiment]:
    def make(root: Path = copy, store: Path | None = None, **sections: Any) -> Experiment:
        addresses = {"data": {"deap": str(root)}, "runs": registry.runs, "store": store and str(store)}
        return make_experiment(corpora=["deap"], addresses=addresses, **sections)

    return make


@pytest.fixture(scope="module")
def embedding(
    ray_cluster: None,
    make_recordings: Callable[..., Experiment],
    registry: Registry,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("embedding of recordings") / "out"
    embedded, notes = run(make_recordings(), registry, out, recordings=True)
    assert embedded.computed == 2
    assert sorted(note.rpartition(": ")[2] for note in notes) == ["6 windows", "6 windows", "not read"]
    (problem,) = embedded.summary["problems"]
    assert (problem["subject"], problem["code"]) == ("s02", "unreadable")
    assert embedded.summary["corpora"]["deap"]["windows"] == 12
    return out


def test_the_numbers_are_those_of_a_store(
    serial: None,  # noqa: F811
    embedding: Path,
    make_recordings: Callable[..., Experiment],
    registry: Registry,
    tmp_path: Path,
) -> None:
    experiment = make_recordings(store=tmp_path / "store").model_copy(update={"signal": SIGNAL})
    ingest(experiment, plan_ingest(experiment))
    store = ShardStore.open(experiment.addresses.store_url())
    servable, metadata = registry.fetch().servable, store.metadata("deap")
    stored = torch.from_numpy(store.windows("deap", range(12)))
    scale_uv = torch.from_numpy(metadata["scale_uv"].to_numpy().copy())
    wanted = servable.answer(stored, scale_uv, store.channels("deap"), store.sfreq_hz("deap"))
    found = table(embedding).set_index("window_id").loc[metadata["window_id"].to_pylist()].reset_index()
    assert sorted(found["subject"].unique()) == KEPT
    identity = ["window_id", "corpus", "subject", "session", "trial", "stimulus", "start_s"]
    pd.testing.assert_frame_equal(found[identity], metadata.select(identity).to_pandas())
    numbers = ["valence", "arousal", *(f"p_{word}" for word in CLASSES)]
    np.testing.assert_allclose(found[numbers], wanted[numbers], atol=1e-6)
    np.testing.assert_allclose(np.stack(found["embedding"]), np.stack(wanted["embedding"]), atol=1e-6)
    assert found["flags"].to_list() == wanted["flags"].to_list()
    assert found["valence"].std() > 1e-4

    # Through the door that people use: microvolt that was cleaned already. Stored windows have a float16's rounding.
    windows_uv = store.windows("deap", range(12), unit="uv")
    asked = servable.predict(windows_uv, store.channels("deap"), sfreq_hz=store.sfreq_hz("deap"), cleaned=True)
    np.testing.assert_allclose(found[numbers], asked[numbers], atol=1e-3)


@pytest.mark.long
def test_a_mended_recording_is_read_and_the_others_are_kept(
    ray_cluster: None,
    embedding: Path,
    copy: Path,
    make_recordings: Callable[..., Experiment],
    registry: Registry,
    tmp_path: Path,
) -> None:
    """It is one of the same copy: whose windows they are is in the objects' names."""
    out = Path(shutil.copytree(embedding, tmp_path / "out"))
    (bad,) = copy.rglob("s02.dat")
    damaged = bad.read_bytes()
    before = contents(out)
    try:
        shutil.copyfile(copy.parent / "s02.whole", bad)
        embedded, notes = run(make_recordings(), registry, out, recordings=True)
    finally:
        bad.write_bytes(damaged)
    assert (embedded.computed, embedded.removed, embedded.summary["problems"]) == (1, 0, [])
    assert sum(note.endswith("finished before") for note in notes) == 2
    assert sorted(table(out)["subject"].unique()) == ["s01", "s02", "s03"]
    assert before.items() - {("embedding.json", before["embedding.json"])} <= contents(out).items()


def test_who_withdrew_is_neither_read_nor_left_in_the_folder(
    serial: None,  # noqa: F811
    embedding: Path,
    make_recordings: Callable[..., Experiment],
    registry: Registry,
    tmp_path: Path,
) -> None:
    """The rest is whole without them, so no worker is started."""
    experiment = make_recordings(store=tmp_path / "store").model_copy(update={"signal": SIGNAL})
    ingest(experiment, plan_ingest(experiment))
    withdraw(experiment.addresses.store_url(), "deap", ["s03"])
    out = Path(shutil.copytree(embedding, tmp_path / "out"))
    model = registry.fetch()
    cleaned, windows = list_windows(experiment, model, None, recordings=True)
    assert [piece.path.partition("-")[0] for piece in windows.pieces] == ["deap/s01_1", "deap/s02_1"]
    assert "s03" in [problem["subject"] for problem in windows.problems]
    finished = replace(windows, pieces=windows.pieces[:1])  # the other one cannot be read, and would be tried
    embedded = embed(cleaned, model, finished, str(out))
    assert (embedded.computed, embedded.removed) == (0, 1)
    assert table(out)["subject"].unique().tolist() == ["s01"]
    assert embedded.summary["windows"] == 6


def test_a_problem_stops_a_strict_embedding(make_recordings: Callable[..., Experiment], registry: Registry) -> None:
    experiment, windows = list_windows(
        make_recordings(ingest={"strict": True}), registry.fetch(), None, recordings=True
    )
    (bad,) = [number for number, piece in enumerate(windows.pieces) if "s02" in piece.path]
    row = _Cleaning(experiment, windows, windows.pieces)({"piece": bad})
    assert row["kind"] == "DataError"
    assert "s02" in row["message"]


def test_an_address_that_is_missing_names_both_places(
    make_experiment: Callable[..., Experiment], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EMOD_DATA", raising=False)
    with pytest.raises(RequestError, match=r"addresses\.data\.seed_v is not given.*EMOD_DATA"):
        list_windows(make_experiment(), registry.fetch(), ["seed_v"], recordings=True)


@pytest.mark.long
def test_recordings_of_which_none_can_be_read_are_no_embedding(
    ray_cluster: None, make_recordings: Callable[..., Experiment], registry: Registry, copy: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(copy, tmp_path / "DEAP"))
    for path in root.rglob("*.dat"):
        path.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"corpus deap has no usable window; first problem: .*s01.*has no embedding\.json"
    ):
        run(make_recordings(root), registry, tmp_path / "out", recordings=True)
    assert sorted(tree(tmp_path / "out")) == ["claim.json"]
