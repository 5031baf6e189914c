"""Jobs run in this process, as people start them."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ("EMOD_DATA", "EMOD_STORE", "EMOD_RUNS", "MLFLOW_TRACKING_URI", "RAY_ADDRESS")


@dataclass(frozen=True)
class Told:
    """How a job ended and what it said."""

    code: int
    out: str
    err: str


Job = Callable[..., Told]


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Job:
    """Runs a job in this process, from an empty folder, without addresses in the environment."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def run(name: str, *flags: str) -> Told:
        path = str(ROOT / "jobs" / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [path, *flags])
        capsys.readouterr()
        code = 0
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        said = capsys.readouterr()
        assert list(here.iterdir()) == [], "nothing is left where the job was started"
        return Told(code, said.out, said.err)

    return run


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever starts a cluster, or work on one, fails."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


def assert_refused(told: Told, code: int, *words: str) -> None:
    """One line on stderr, and it names what the user must look for."""
    assert told.code == code, told
    assert told.out == ""
    assert told.err.count("\n") == 1, told.err
    assert told.err.endswith("\n")
    for word in words:
        assert word in told.err, told.err
