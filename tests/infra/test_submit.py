"""Exit codes of infra/submit.py where no cluster is needed; tests/training/test_submitted.py has the others."""

import importlib.util
import threading
from collections.abc import Iterator
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
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    assert submit.main(job) == 75
    said = capsys.readouterr().err
    assert "secret" not in said
    for words in ("give the job after --", "holds a password", "http://127.0.0.1:9: Failed to connect"):
        assert words in said


class _FallsSilent(BaseHTTPRequestHandler):
    """A head that takes a job and says nothing more, as behind a tunnel whose far end is gone."""

    over = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/api/version":
            self._answer(b'{"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""}')
        elif self.path.startswith("/api/packages/"):
            self._answer(b"{}")
        else:
            self.over.wait()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b'{"job_id": "raysubmit_1", "submission_id": "raysubmit_1"}')

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def silent_head() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _FallsSilent)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    _FallsSilent.over.set()
    server.shutdown()


def test_a_head_that_falls_silent_is_not_waited_for(
    silent_head: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", silent_head)
    monkeypatch.setattr(submit, "PATIENCE_S", 0.5)
    monkeypatch.setattr(submit, "LOOK_EVERY_S", 0.1)
    assert submit.main(["--", "python", "jobs/ingest.py"]) == 75
    assert "has not answered for 0.5 s" in capsys.readouterr().err
