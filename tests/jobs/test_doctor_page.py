"""jobs/doctor.py: exit codes, a page that fits a terminal, and JSON that says the same."""

from __future__ import annotations

import io
import json
import os
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from emod.catalog import SimulateSettings, load_corpus
from emod.corpora import open_corpus, simulate_corpus
from emod.corpora.doctor import Diagnosis, examine
from emod.simulation import TagSignal
from tests.jobs.conftest import ROOT, Job, Told, assert_refused

HERE = Path.cwd()  # a path in EMOD_DASPS is relative to where pytest began; jobs run elsewhere


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("doctor") / "deap"
    simulate_corpus("deap", str(root), SimulateSettings(subjects=4, trials=3, time_scale=0.03), TagSignal())
    return root


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Path:
    """A subject gone, an object cut short, a stray one, a table with two columns exchanged."""
    root = Path(shutil.copytree(whole, tmp_path / "deap"))
    folder, table = root / "data_preprocessed_python", root / "metadata_csv" / "participant_ratings.csv"
    (folder / "s02.dat").unlink()
    os.truncate(folder / "s03.dat", 40_000)
    (folder / "s04 (copy).dat").write_bytes(b"x")
    table.write_text(table.read_text().replace("Valence,Arousal", "Arousal,Valence"))
    return root


def doctor(job: Job, root: Path, *flags: str) -> Told:
    return job("doctor", "--corpus", "deap", "--root", str(root), *flags)


def words(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("flags", [(), ("--full", "--jobs", "1")])
def test_complete_copy_exits_with_0(job: Job, whole: Path, flags: tuple[str, ...]) -> None:
    told = doctor(job, whole, *flags)
    assert told.code == 0
    assert told.out.splitlines()[-1].startswith("complete: 4 subjects, 12 trials, as simulated")
    assert "FAULT" not in told.out
    assert told.err.splitlines()[-1] == "doctor: 4/4 subject s04 session 1"


def test_page_and_json_say_the_same(job: Job, damaged: Path, tmp_path: Path) -> None:
    told = doctor(job, damaged, "--json", str(tmp_path / "doctor.json"))
    assert told.code == 3
    written = json.loads((tmp_path / "doctor.json").read_text())
    diagnosis = Diagnosis.model_validate_json((tmp_path / "doctor.json").read_text())
    assert list(written) == list(Diagnosis.model_fields)  # the documented keys
    page = words(told.out)
    marks = {"good": "ok", "fault": "FAULT", "notice": "look", "unknown": "-"}
    for check in diagnosis.checks:
        assert f"{check.topic} {check.published} {check.found} {marks[check.state]} " in page, check
    for finding in diagnosis.findings:
        if finding.code != "label_disagreement":  # many of a kind are summed up
            assert finding.what in page
            assert f"-> {finding.cure}" in page
    assert {finding.subject for finding in diagnosis.findings if finding.topic == "labels"} == {"s01", "s04"}
    assert {(f.topic, f.code) for f in diagnosis.findings} == {
        ("subjects", "missing"),
        ("readable", "unreadable"),
        ("objects", "unexpected_object"),
        ("labels", "label_disagreement"),
    }
    for fact in diagnosis.uncertain:
        assert fact in page
    assert told.out.splitlines()[-1] == diagnosis.verdict
    assert diagnosis.verdict.startswith("NOT complete: subjects 3 of 4; ")

    only = doctor(job, damaged, "--json", "-")
    assert (only.code, json.loads(only.out)) == (3, written)


def test_page_fits_a_terminal_of_80_columns(damaged: Path) -> None:
    show = runpy.run_path(str(ROOT / "jobs" / "doctor.py"), run_name="doctor")["show"]
    page = io.StringIO()
    show(examine(open_corpus("deap", damaged)), Console(file=page, width=80, force_terminal=True, no_color=True))
    lines = re.sub(r"\x1b\[[\d;]*m", "", page.getvalue()).splitlines()
    assert max(map(len, lines[:-1])) <= 80  # the verdict stays one line
    table = "subject s04, session 1, trials 1-3, data_preprocessed_python/s04.dat [label_disagreement]"
    assert f"and 3 more: {table}" in words(" ".join(lines))


def test_page_in_a_pipe_is_not_wrapped(job: Job, damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    deep = damaged.parent / ("deep" * 30) / "deap"
    lines = doctor(job, Path(shutil.copytree(damaged, deep))).out.splitlines()
    assert str(deep) in lines
    table = "subject s04, session 1, trials 1-3, data_preprocessed_python/s04.dat [label_disagreement]"
    assert any(line.strip().startswith(f"and 3 more: {table}") for line in lines)
    assert [line for line in lines if line != line.rstrip()] == []
    assert "\x1b" not in "".join(lines)
    facts = [f" - {fact}" for fact in load_corpus("deap").uncertain]
    assert [line for line in lines if line in facts] == facts
    assert lines[-1].startswith("NOT complete: ")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--corpus", "deep", "--root", "x"), ("deep", "did you mean deap?")),
        (("--corpus", "deap", "--root", "nowhere"), ("nowhere", "top folder")),
        (("--corpus", "deap"), ("--root",)),
        (("--corpus", "deap", "--root", "x", "--jobs", "0"), ("--jobs 0",)),
    ],
)
def test_wrong_requests_are_one_line(job: Job, flags: tuple[str, ...], said: tuple[str, ...]) -> None:
    assert_refused(job("doctor", *flags), 2, "doctor.py: ", *said)


def test_folder_without_the_corpus_is_a_wrong_request(job: Job, whole: Path, tmp_path: Path) -> None:
    assert_refused(doctor(job, tmp_path), 2, "holds no data_preprocessed_python/", "top folder")
    data = whole / "data_preprocessed_python"
    assert_refused(doctor(job, data), 2, f"{data}: holds nothing of deap, but {whole} does; give that")
    assert_refused(doctor(job, data / "s01.dat"), 2, "s01.dat: a file;")


def test_dry_run_opens_nothing(job: Job, damaged: Path) -> None:
    told = doctor(job, damaged, "--dry-run")
    assert told.code == 0
    assert [line.split()[2] for line in told.out.splitlines()] == ["s01", "s03", "s04"]


def test_secrets_of_an_address_are_not_told(job: Job, monkeypatch: pytest.MonkeyPatch, whole: Path) -> None:
    from emod import storage

    monkeypatch.setattr(storage, "exists", lambda url: True)
    monkeypatch.setattr("emod.corpora.deap.Deap.references", lambda self: [])
    monkeypatch.setattr("emod.corpora.contract.read_marker", lambda root: None)
    monkeypatch.setattr("emod.corpora.doctor._find_tables", lambda corpus, plans: {})
    told = job("doctor", "--corpus", "deap", "--root", "s3://key:hunter2@lab/DEAP")
    assert told.code == 3
    assert "s3://***@lab/DEAP" in told.out
    assert "hunter2" not in told.out + told.err


@pytest.mark.real
def test_real_dasps_is_complete(job: Job) -> None:
    flags: Any = ("--corpus", "dasps", "--root", str(HERE / os.environ["EMOD_DASPS"]))
    for extra in ((), ("--full",)):
        told = job("doctor", *flags, *extra)
        assert told.code == 0, told.out
        assert told.out.splitlines()[-1].startswith("complete: 23 subjects, 276 trials, as published")
        assert "taken for the owner's recordings" in words(told.out)
