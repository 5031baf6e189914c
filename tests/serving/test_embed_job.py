"""The job: one line when it cannot be done, a plan that starts nothing, and the way to the answers at the end."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import ray

from emod.catalog import Experiment
from emod.shards import ShardStore
from tests.ingest.copies import tree
from tests.serving.conftest import Registry
from tests.serving.test_embed import embedding  # noqa: F401 - a fixture

JOB = str(Path(__file__).resolve().parents[2] / "jobs" / "embed.py")


@pytest.fixture
def job(
    store: ShardStore, registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    for name in ("EMOD_DATA", "EMOD_STORE", "EMOD_RUNS", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)

    def run(*flags: str) -> tuple[int, str, str]:
        settings = (f"addresses.store={store.url}", f"addresses.runs={registry.runs}", "embed.windows_per_object=25")
        monkeypatch.setattr(sys, "argv", [JOB, *(word for each in settings for word in ("--set", each)), *flags])
        code = 0
        try:
            runpy.run_path(JOB, run_name="__main__")
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", refuse)


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
    job: Callable[..., tuple[int, str, str]], no_ray: None, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    code, out, err = job(*flags)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    for word in words:
        assert word in err


def test_a_dry_run_says_how_much_there_is(
    job: Callable[..., tuple[int, str, str]], no_ray: None, tmp_path: Path
) -> None:
    code, out, _ = job("--model", "models:/emod@candidate", "--out", str(tmp_path / "out"), "--dry-run")
    assert code == 0
    plan = f"plan: embed 216 windows of dasps, deap, seed_iv as 12 objects into {tmp_path}/out, by emod version 2\n"
    assert out.endswith(plan)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_one_says_where_it_is_and_how_to_read_it(
    job: Callable[..., tuple[int, str, str]],
    embedding: Path,  # noqa: F811
    make_experiment: Callable[..., Experiment],
) -> None:
    before = tree(embedding)
    code, out, _ = job("--model", "models:/emod/1", "--out", str(embedding), "--set", "embed.batch=16")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "SIMULATED recordings: these answers say nothing about people"
    assert lines[2] == "deap: 72 windows in 4 objects; flags: none"
    assert f"{embedding}: by emod version 1; unchanged, nothing computed" in lines
    assert tree(embedding) == before
    how = lines[-1].removeprefix("read it: ")
    assert len(eval(how, {"pandas": pd})) == 216
