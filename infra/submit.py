"""Submits a job to a Ray cluster, follows it, and ends with the job's own exit code, where `ray job submit` says 1.

    python infra/submit.py -- python jobs/pretrain.py --experiment pretrain --set pretrain.run_name=first

From the repository's root, where Ray is installed; RAY_API_SERVER_ADDRESS and RAY_AUTH_TOKEN as for `ray job submit`.
Interrupted, it leaves the job running and says how to follow or to stop it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
from pathlib import Path

import yaml
from ray.job_submission import JobStatus, JobSubmissionClient

ENVIRONMENT = Path(__file__).with_name("runtime-env.yaml")


async def follow(client: JobSubmissionClient, job: str) -> None:
    """Prints what the job prints."""
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)


def main(words: list[str]) -> int:
    """The job's exit code; 2 if it could not be submitted, 128 and its number where a signal ended it."""
    if not words or words[0] != "--" or len(words) == 1:
        print(
            "submit.py: give the job after --, as in: python infra/submit.py -- python jobs/ingest.py", file=sys.stderr
        )
        return 2
    address = os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265")
    environment = {**yaml.safe_load(ENVIRONMENT.read_text(encoding="utf-8")), "working_dir": "."}
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(
        logging.WARNING
    )  # that a connection was closed as it should be
    # runtime-env.yaml names them; Ray warns of each that it would leave out by itself.
    os.environ.setdefault("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", "")
    try:
        client = JobSubmissionClient(address)
        job = client.submit_job(entrypoint=shlex.join(words[1:]), runtime_env=environment)
    except (ConnectionError, RuntimeError) as error:
        print(f"submit.py: {address}: {(str(error).splitlines() or [''])[0]}", file=sys.stderr)
        return 2
    print(f"{job} at {address}", file=sys.stderr, flush=True)
    try:
        asyncio.run(follow(client, job))
        found = client.get_job_info(job)
    except KeyboardInterrupt:
        print(f"{job} goes on; ray job logs --follow {job}, ray job stop {job}", file=sys.stderr)
        return 130
    except (OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        print(f"submit.py: {address} is lost, and {job} with it: {reason}; submit it again there", file=sys.stderr)
        return 1
    if found.status != JobStatus.SUCCEEDED:
        print(f"{job}: {found.status}: {' '.join((found.message or '').split())}", file=sys.stderr)
    code = found.driver_exit_code
    if code is None:
        return 0 if found.status == JobStatus.SUCCEEDED else 1
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
