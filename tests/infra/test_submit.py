"""Exit codes of infra/submit.py where no cluster is needed; tests/training/test_submitted.py has the others."""

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from tests.infra.rendering import INFRA

spec = importlib.util.spec_from_file_location("submit", INFRA / "submit.py")
assert spec is not None
assert spec.loader is not None
submit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(submit)


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 2, 2),
        (JobStatus.FAILED, 3, 3),
        (JobStatus.FAILED, -9, 137),
        (JobStatus.STOPPED, -15, 143),
        (JobStatus.FAILED, None, 1),
    ],
)
def test_the_code_is_the_jobs_own(status: JobStatus, driver: int | None, code: int) -> None:
    found = JobDetails(type=JobType.SUBMISSION, status=status, entrypoint="python", driver_exit_code=driver)
    assert submit.code_of("raysubmit_1", found) == code


def test_what_is_wrong_here_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = ["--", "python", "jobs/ingest.py"]
    assert submit.main(["python", "jobs/ingest.py"]) == 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://reader:secret@mlflow.lab:5000")
    assert submit.main(job) == 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.lab:5000")
    for signed in ("https://lab.example.org/deap?sig=secret", "s3://key:se/cret@bucket/deap"):
        monkeypatch.setenv("EMOD_DATA", signed)
        assert submit.main(job) == 2
    monkeypatch.setenv("EMOD_DATA", "s3://bucket/deap")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:10")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://me:secret@127.0.0.1:9")
    assert submit.main(job) == 75
    said = capsys.readouterr().err
    assert "secret" not in said
    assert "se/cret" not in said
    for words in ("give the job after --", "holds a password", "http://***@127.0.0.1:9: Failed to connect"):
        assert words in said


TRACEBACK = b'Traceback (most recent call last):\n  File "job_head.py", line 425, in submit_job\n'


class _Head(BaseHTTPRequestHandler):
    """A head, or what stands in front of one, that takes a job and then falls silent, as a tunnel with no far end."""

    over = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/api/version":
            self._answer(b'{"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""}')
        elif self.path.startswith("/api/packages/"):
            self._answer(b"{}")
        else:
            self.asked()

    def asked(self) -> None:
        self.over.wait()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b'{"job_id": "raysubmit_1", "submission_id": "raysubmit_1"}')

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _answer(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _IsNotReady(_Head):
    """As Ray answers in a cluster's first seconds."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(TRACEBACK + b"RuntimeError: No available agent to submit job, please try again later.", 500)


class _IsAway(_Head):
    """A proxy in front of none."""

    def do_GET(self) -> None:
        self._answer(b"<html>Bad gateway</html>", 502)


class _PassesOnARefusal(_Head):
    """As Ray's head does what its agent said."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(TRACEBACK + b"RuntimeError: Request failed with status code 400: a wrong environment.", 500)


class _Refuses(_Head):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b"a wrong runtime environment", 400)


class _TakesNothing(_Head):
    def do_POST(self) -> None:
        self.over.wait()


class _IsAnother(_Head):
    """A new head at the address of one that was lost."""

    def asked(self) -> None:
        self._answer(f"Job {self.path.split('/')[3]} does not exist".encode(), 404)


class _AnswersSometimes(_Head):
    """Two questions of three are left open; the job ends at the twelfth or after."""

    questions = 0

    def asked(self) -> None:
        if self.path.endswith("/logs/tail"):
            self.over.wait()
        elif self.path.endswith("/logs"):
            self._answer(b'{"logs": ""}')
        else:
            type(self).questions += 1
            if self.questions % 3:
                self.over.wait()
            status = b'"SUCCEEDED", "driver_exit_code": 0' if self.questions >= 12 else b'"RUNNING"'
            self._answer(b'{"type": "SUBMISSION", "entrypoint": "python", "status": ' + status + b"}")


class _HasNoWebSockets(_Head):
    """A proxy that knows plain HTTP alone; the job ends at the third question or after."""

    questions = 0

    def asked(self) -> None:
        if self.path.endswith("/logs/tail"):
            self._answer(b"no upgrade here", 400)
        elif self.path.endswith("/logs"):
            self._answer(b'{"logs": "all that it printed"}')
        else:
            type(self).questions += 1
            status = b'"FAILED", "driver_exit_code": 3' if self.questions >= 3 else b'"RUNNING"'
            self._answer(b'{"type": "SUBMISSION", "entrypoint": "python", "status": ' + status + b"}")


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[type[_Head]], str]]:
    """The address of such a head."""
    _Head.over.clear()
    servers: list[ThreadingHTTPServer] = []
    for head in (_AnswersSometimes, _HasNoWebSockets):
        monkeypatch.setattr(head, "questions", 0)

    def serving(head: type[_Head]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), head)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield serving
    _Head.over.set()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def submit_to(serving: Callable[[type[_Head]], str], monkeypatch: pytest.MonkeyPatch) -> Callable[[type[_Head]], int]:
    """The exit code of a submission to such a head, by somebody who looks often."""
    monkeypatch.setattr(submit, "LOOK_EVERY_S", 0.1)

    def submit_to(head: type[_Head]) -> int:
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", serving(head))
        return int(submit.main(["--", "python", "jobs/ingest.py"]))

    return submit_to


@pytest.mark.parametrize(
    ("head", "code", "said"),
    [
        (_Head, 75, "no answer for 0.5 s"),
        (_IsNotReady, 75, "No available agent to submit job, please try again later; ray job status raysubmit_"),
        (_IsAway, 75, "502 Server Error: Bad Gateway"),
        (_TakesNothing, 75, "no answer; ray job status raysubmit_"),
        (_IsAnother, 75, "any more: its head was lost, and the job with it"),
        (_PassesOnARefusal, 2, "500: RuntimeError: Request failed with status code 400: a wrong environment"),
        (_Refuses, 2, "400: a wrong runtime environment"),
    ],
)
def test_what_may_pass_is_told_from_what_will_not(
    submit_to: Callable[[type[_Head]], int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    head: type[_Head],
    code: int,
    said: str,
) -> None:
    if head is _Head:
        monkeypatch.setattr(submit, "ANSWER_S", 0.2)
        monkeypatch.setattr(submit, "PATIENCE_S", 0.5)
    if head is _TakesNothing:
        monkeypatch.setattr(submit, "SENDING_S", 2.0)
    assert submit_to(head) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("submit.py: http://127.0.0.1:")
    assert said in last


def test_requests_that_stay_open_do_not_add_up(
    submit_to: Callable[[type[_Head]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "ANSWER_S", 0.3)
    assert submit_to(_AnswersSometimes) == 0
    assert _AnswersSometimes.questions >= 12


def test_nobody_reads_what_the_job_prints(serving: Callable[[type[_Head]], str]) -> None:
    """As `submit.py ... 2>&1 | head -1`."""
    command = [sys.executable, str(INFRA / "submit.py"), "--", "python", "jobs/ingest.py"]
    environment = os.environ | {"RAY_API_SERVER_ADDRESS": serving(_HasNoWebSockets)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as job:
        assert job.stdout is not None
        assert job.stdout.readline().startswith("raysubmit_")
        job.stdout.close()
        assert job.wait(60) == 130


def test_output_that_cannot_be_followed_comes_at_the_end(
    submit_to: Callable[[type[_Head]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit_to(_HasNoWebSockets) == 3
    told = capsys.readouterr()
    assert told.out == "all that it printed"
    assert told.err.count("its output does not come") == 1
    assert _HasNoWebSockets.questions >= 3
