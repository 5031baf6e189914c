"""The job: one line when it cannot be done, a plan that starts nothing, and the way to the answers at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from emod.catalog import Experiment
from emod.shards import ShardStore
from tests.ingest.copies import tree
from tests.jobs.conftest import Job, Told, assert_refused
from tests.serving.conftest import Registry
from tests.serving.test_embed import embedding  # noqa: F401 - a fixture

Embed = Callable[..., Told]


@pytest.fixture
def embed(job: Job, store: ShardStore, registry: Registry) -> Embed:
    """Runs the job on the small store, by what is registered."""
    settings = (f"addresses.store={store.url}", f"addresses.runs={registry.runs}", "embed.windows_per_object=25")
    given = [word for each in settings for word in ("--set", each)]
    return lambda *flags: job("embed", *given, *flags)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--out", "x"), ("--model", "--help")),
        (("--model", "models:/emod/1"), ("--out", "--help")),
        (("--model", "models:/emod/9", "--out", "x"), ("--model = models:/emod/9", "register it")),
        (
            ("--model", "models:/emod/1", "--out", "x", "--set", "signal.window_s=4"),
            ("signal.window_s=4", "leave it out"),
        ),
        (("--model", "models:/emod/1", "--out", "x", "--corpora", "seed"), ("corpus 'seed'", "dasps, deap, seed_iv")),
        (("--model", "models:/emod/1", "--out", "x", "--set", "embed.batches=4"), ("did you mean batch?",)),
    ],
)
def test_a_wrong_request_is_one_line(
    embed: Embed, no_ray: None, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_refused(embed(*flags), 2, *words)


def test_a_dry_run_says_how_much_there_is(embed: Embed, no_ray: None, tmp_path: Path) -> None:
    told = embed("--model", "models:/emod@candidate", "--out", str(tmp_path / "out"), "--dry-run")
    assert told.code == 0
    plan = f"plan: embed 216 windows of dasps, deap, seed_iv as 12 objects into {tmp_path}/out, by emod version 2\n"
    assert told.out.endswith(plan)
    assert not (tmp_path / "out").exists()


def test_a_finished_one_says_where_it_is_and_how_to_read_it(
    embed: Embed,
    embedding: Path,  # noqa: F811
    make_experiment: Callable[..., Experiment],
) -> None:
    before = tree(embedding)
    told = embed("--model", "models:/emod/1", "--out", str(embedding), "--set", "embed.batch=16")
    assert told.code == 0
    lines = told.out.splitlines()
    assert lines[0] == "SIMULATED recordings: these answers say nothing about people"
    assert lines[2] == "deap: 72 windows in 4 objects; flags: none"
    assert f"{embedding}: by emod version 1; unchanged, nothing computed" in lines
    assert tree(embedding) == before
    how = lines[-1].removeprefix("read it: ")
    assert len(eval(how, {"pandas": pd})) == 216
