"""Flags, exit codes and progress that every job shares."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from emod import cli
from emod.catalog import load_experiment
from emod.cli import experiment_parser, progress, run_job, show_plan
from emod.errors import DataError, RequestError

SOURCE = str(Path(__file__).resolve().parents[1] / "platform")


def fail_with(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RequestError("seed = -1: give a number from 0 up"), 2, "seed = -1: give a number from 0 up"),
        (DataError("s01.dat is cut off;\n  fetch it again\r\n"), 3, "s01.dat is cut off; fetch it again"),
    ],
)
def test_expected_failures_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, said: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/jobs/pretrain.py"])
    with pytest.raises(SystemExit) as stopped:
        run_job(fail_with(error))
    assert stopped.value.code == code
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"pretrain.py: {said}\n")


def test_a_defect_keeps_its_traceback() -> None:
    """A ValueError is no request error, though RequestError is a ValueError."""
    done = subprocess.run(
        [sys.executable, "-c", "from emod.cli import run_job\nrun_job(lambda: int('x'))"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": SOURCE},
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "invalid literal" in done.stderr


def test_success_and_interruption(capsys: pytest.CaptureFixture[str]) -> None:
    run_job(lambda: None)
    with pytest.raises(SystemExit) as stopped:
        run_job(fail_with(KeyboardInterrupt()))
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "stopped\n"


def test_secrets_stay_out_of_a_failures_line(capsys: pytest.CaptureFixture[str]) -> None:
    secret = "s3://key:hunter2@bucket/shards and https://host/x?signature=hunter2"
    with pytest.raises(SystemExit):
        run_job(fail_with(RequestError(f"{secret}: no such object")))
    told = capsys.readouterr().err
    assert "hunter2" not in told
    assert "s3://***@bucket/shards" in told


@pytest.mark.parametrize("arguments", [["--sett", "a=1"], ["surplus"], ["--experiment"], ["--dry-run=yes"]])
def test_wrong_flags_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    parser = experiment_parser("What it does.", default="pretrain")
    with pytest.raises(SystemExit) as stopped:
        run_job(lambda: parser.parse_args(arguments) and None)
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert arguments[0].partition("=")[0] in told
    assert "--help" in told, "the cure"


def test_flags_of_every_job() -> None:
    parser = experiment_parser("What it does.", default="pretrain")
    assert vars(parser.parse_args([])) == {"experiment": "pretrain", "overrides": [], "dry_run": False}
    given = parser.parse_args(["--set", "a.b=1", "--set", "a.b=2", "--experiment", "x.yaml", "--dry-run"])
    assert vars(given) == {"experiment": "x.yaml", "overrides": ["a.b=1", "a.b=2"], "dry_run": True}


def test_a_plan_shows_the_experiment_and_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    experiment = load_experiment("pretrain", ["addresses.store=s3://key:hunter2@bucket/shards", "seed=17"])
    show_plan(experiment, ["reads s3://key:hunter2@bucket/shards"])
    told = capsys.readouterr().out
    assert "hunter2" not in told
    assert "\nseed: 17\n" in told
    assert "store: s3://***@bucket/shards\n" in told
    assert told.endswith("plan: reads s3://***@bucket/shards\n")


def test_progress_off_a_terminal_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("ingest", 40) as advance:
        for done in range(40):
            advance(1, f"s{done + 1:02}.dat")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [f"ingest: {done}/40 s{done:02}.dat" for done in (1, *range(4, 41, 4))]


def test_progress_off_a_terminal_is_told_at_first_and_each_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(cli.time, "monotonic", lambda: now)
    with progress("pretrain", 27_400) as advance:
        for step in range(4):
            now += 25.0
            advance(1 if step else 0, f"loss {step}")
    assert capsys.readouterr().err.splitlines() == ["pretrain: 0/27400 loss 0", "pretrain: 3/27400 loss 3"]


def test_progress_tells_the_end_whatever_the_strides(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("pretrain", 7) as advance:
        for steps in (3, 0, 3, 1):
            advance(steps)
    assert capsys.readouterr().err.splitlines() == ["pretrain: 3/7", "pretrain: 6/7", "pretrain: 7/7"]


def test_progress_of_unknown_length_tells_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("list", None) as advance:
        advance()
        advance(2, "more")
    assert capsys.readouterr().err.splitlines() == ["list: 1", "list: 3 more"]


def on_a_terminal(code: str) -> str:
    """What Python code writes to a terminal of 100 columns."""
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "PYTHONPATH": SOURCE, "TERM": "xterm-256color", "COLUMNS": "100"},
    )
    os.close(follower)
    told = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # the last writer is gone
            break
        if not piece:
            break
        told += piece
    os.close(leader)
    assert child.wait() == 0, told.decode()
    return told.decode()


def test_progress_on_a_terminal_is_a_bar() -> None:
    told = on_a_terminal(
        "from emod.cli import progress\n"
        "with progress('pretrain', 40) as advance:\n"
        "    for step in range(40): advance(1, f'loss {step}')\n"
    )
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", told)
    assert plain != told, "no colour, no cursor movement: not a bar"
    last = plain.split("\r")[-1] if "40/40" in plain.split("\r")[-1] else plain
    assert re.search(r"pretrain\s+━{10,}\s+40/40 .*loss 39", last)
    assert "pretrain: 4/40" not in plain


def run_script(name: str, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A job as a user starts it."""
    script = Path(SOURCE).parent / "jobs" / f"{name}.py"
    return subprocess.run(
        [sys.executable, str(script), *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": SOURCE, **environment},
    )


@pytest.mark.parametrize(
    ("job", "flags"),
    [
        ("doctor", ["--corpus", "mylab", "--root", "nowhere"]),
        ("ingest", ["--set", "corpora=[mylab]", "--set", "addresses.data.mylab=x", "--set", "addresses.store=y"]),
    ],
)
def test_a_wrong_electrode_in_a_users_catalog_is_one_line(tmp_path: Path, job: str, flags: list[str]) -> None:
    readme = (Path(SOURCE).parent / "catalogs" / "README.md").read_text()
    (tmp_path / "corpora").mkdir()
    text = readme.split("```yaml\n")[1].split("```")[0].replace("O1, O2]", "O1, O3]")
    (tmp_path / "corpora" / "mylab.yaml").write_text(text)
    done = run_script(job, *flags, EMOD_CATALOGS=str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith(f"{job}.py: mylab.yaml: channels: electrode 'O3' is not a 10-10 name")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--subjects", "24"], "--subjects 24: "),
        (["--subjects", "1", "--trials", "99"], "--trials 99: "),
        (["--subjects", "0"], "--subjects 0: "),
        (["--subjects", "1", "--seed", "-1"], "--seed -1: "),
        (["--subjects", "1", "--time-scale", "nan"], "--time-scale nan: "),
    ],
)
def test_simulate_blames_the_flag_that_was_typed(tmp_path: Path, flags: list[str], said: str) -> None:
    done = run_script("simulate", "--corpus", "dasps", "--out", str(tmp_path / "copy"), *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith(f"simulate.py: {said}")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("addresses.storr=s3://key:hunter2@bucket/x", "addresses.storr=s3://***@bucket/x: unknown key"),
        (f"addresses.data=s3://key:{'hunter2' * 20}@bucket/x", "addresses.data=s3://***@bucket/x: read as"),
    ],
)
def test_what_was_typed_is_repeated_without_its_secret(
    capsys: pytest.CaptureFixture[str], typed: str, said: str
) -> None:
    with pytest.raises(SystemExit):
        run_job(lambda: load_experiment("pretrain", [typed]) and None)
    told = capsys.readouterr().err
    assert "hunter2" not in told
    assert f"--set {said}" in told
