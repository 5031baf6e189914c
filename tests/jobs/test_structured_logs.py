"""Lines for machines: a job whose driver and workers say run and corpus in JSON."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from emod import cli, monitoring

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
def test_an_ingest_says_what_it_does_in_json(tmp_path: Path) -> None:
    """Each recording once, with its corpus; progress too; what is for people stays as it is."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "EMOD_", "MLFLOW_"))}
    environment = clean | {"RAY_LOGGING_CONFIG_ENCODING": "JSON", "OMP_NUM_THREADS": "1"}

    def run(job: str, *flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *flags]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)

    size = ("--subjects", "2", "--trials", "2", "--time-scale", "0.2")
    run("simulate", "--corpus", "deap", "--out", "deap", *size)
    places = ("addresses.data.deap=deap", "addresses.store=store", "corpora=[deap]", "finetune=null")
    told = run("ingest", "--experiment", "drill", *(word for place in places for word in ("--set", place)))
    lines = [json.loads(line) for line in told.stderr.splitlines() if line.startswith("{")]
    finished = [line for line in lines if line.get("event") == "recording finished"]
    assert [(line["run"], line["corpus"], line["problems"]) for line in finished] == [("drill", "deap", [])] * 2
    assert {line["recording"] for line in finished} == {"s01_1", "s02_1"}
    assert all(line["windows"] > 0 and line["job_id"] for line in finished)
    assert [line["done"] for line in lines if line["message"] == "ingest"][-1] == 2
    assert "deap: " in told.stdout
    assert "ingest: " not in told.stderr, "no line for people among those"


def test_a_line_has_its_facts(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="emod"):
        monitoring.log("checkpoint written", run="first", step=20)
    (record,) = caplog.records
    assert record.getMessage() == "checkpoint written: run=first step=20"
    assert (record.event, record.run, record.step) == ("checkpoint written", "first", 20)  # type: ignore[attr-defined]


def test_operators_see_a_bar_from_its_start_until_it_is_closed(ray_cluster: None) -> None:
    def shown() -> dict[str, float]:
        return {name: value for (name, tags), value in monitoring._newest.items() if ("part", "two of \\xe9") in tags}

    with cli.progress("two of é", 2) as advance:
        assert shown() == {"done": 0, "planned": 2}
        advance(1)
        assert shown() == {"done": 1, "planned": 2}
    assert shown() == {}


def test_progress_is_for_people_unless_ray_writes_for_machines(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO, logger="emod"), cli.progress("ingest", 2) as advance:
        advance(1, "one")
        monkeypatch.setenv("RAY_LOGGING_CONFIG_ENCODING", "JSON")
        advance(1, "two")
    assert capsys.readouterr().err == "ingest: 1/2 one\n"
    (record,) = caplog.records
    assert (record.done, record.total, record.note) == (2, 2, "two")  # type: ignore[attr-defined]
