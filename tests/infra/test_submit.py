"""Exit codes of infra/submit.py where no cluster is needed; tests/training/test_submitted.py has the others."""

import importlib.util

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
    assert submit.main(job) == 2
    said = capsys.readouterr().err
    assert "secret" not in said
    for words in ("give the job after --", "holds a password", "http://127.0.0.1:9: Failed to connect"):
        assert words in said
