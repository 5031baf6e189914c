"""Submits a job to a Ray cluster, follows it, and ends with the job's own exit code, where `ray job submit` says 1.

    python infra/submit.py -- python jobs/pretrain.py --experiment pretrain --set pretrain.run_name=first

Where Ray is installed; RAY_API_SERVER_ADDRESS and RAY_AUTH_TOKEN as for `ray job submit`. What is set here of
EMOD_DATA, EMOD_STORE, EMOD_RUNS and MLFLOW_TRACKING_URI goes along, in place of what the cluster's machines have.

Exit codes: the job's; 2 it was refused; 75 the cluster does not answer, or not any more: the job may run;
128 and its number where a signal ended the job, 143 where it was stopped; 130 interrupted here, the job goes on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
import time
import uuid
from pathlib import Path

import aiohttp
import requests
import yaml
from ray.exceptions import RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

ROOT = Path(__file__).resolve().parents[1]
ADDRESSES = ("EMOD_DATA", "EMOD_STORE", "EMOD_RUNS", "MLFLOW_TRACKING_URI")
PATIENCE_S = 60.0
LOOK_EVERY_S = 5.0
LOST = 75
UNREACHABLE = (ConnectionError, requests.ConnectionError)
# All that a request to a cluster ends in.
FAILURES = (OSError, RuntimeError, ValueError, RayError, aiohttp.ClientError, TimeoutError)


def main(words: list[str]) -> int:
    """The exit code."""
    if not words or words[0] != "--" or len(words) == 1:
        return refuse("give the job after --, as in: python infra/submit.py -- python jobs/ingest.py")
    address = os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265")
    given = {name: os.environ[name] for name in ADDRESSES if os.environ.get(name)}
    if secret := next((name for name, url in given.items() if "@" in url.partition("://")[2].partition("/")[0]), None):
        return refuse(f"{secret} holds a password, which everybody who sees the job would see; set it on the machines")
    environment = yaml.safe_load((ROOT / "infra/runtime-env.yaml").read_text(encoding="utf-8"))
    environment["env_vars"] |= given
    environment["working_dir"] = str(ROOT)
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # that a connection was closed
    # runtime-env.yaml names them; Ray warns of each that it would leave out by itself.
    os.environ.setdefault("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", "")
    job = f"raysubmit_{uuid.uuid4().hex[:16]}"
    print(f"{job} at {address}", file=sys.stderr, flush=True)
    try:
        client = JobSubmissionClient(address)
        client.submit_job(entrypoint=shlex.join(words[1:]), submission_id=job, runtime_env=environment)
    except UNREACHABLE as error:
        print(f"submit.py: {address}: {first_line(error)}; ray job status {job} says if it was taken", file=sys.stderr)
        return LOST
    except FAILURES as error:
        return refuse(f"{address}: {first_line(error)}")
    loop = asyncio.new_event_loop()  # asyncio.run would wait at its end for a request that is never answered
    try:
        found = loop.run_until_complete(follow(client, job))
    except KeyboardInterrupt:
        print(f"{job} goes on; ray job logs --follow {job}, ray job stop {job}", file=sys.stderr)
        return 130
    except FAILURES as error:
        print(
            f"submit.py: {address} has not answered for {PATIENCE_S:g} s ({first_line(error)}); {job} may still run: "
            f"look with ray job status {job} before you submit it again",
            file=sys.stderr,
        )
        return LOST
    finally:
        loop.close()
    return code_of(job, found)


async def follow(client: JobSubmissionClient, job: str) -> JobDetails:
    """Prints what the job prints until it has ended; connections may break meanwhile."""
    printed = 0

    async def tail() -> None:
        nonlocal printed
        known = 0  # it begins anew each time
        async for lines in client.tail_job_logs(job):
            print(lines[max(0, printed - known) :], end="", flush=True)
            known += len(lines)
            printed = max(printed, known)

    tailing = asyncio.create_task(tail())
    answered = time.monotonic()
    while True:
        await asyncio.wait([tailing], timeout=LOOK_EVERY_S)
        try:
            # In a thread: a machine that is gone answers nothing, and the request itself would wait for ever.
            found = await asyncio.wait_for(asyncio.to_thread(client.get_job_info, job), 2 * LOOK_EVERY_S)
            answered = time.monotonic()
        except FAILURES:
            if time.monotonic() - answered > PATIENCE_S:
                tailing.cancel()
                await asyncio.gather(tailing, return_exceptions=True)
                raise
            await asyncio.sleep(LOOK_EVERY_S / 5)
            continue
        if found.status.is_terminal():
            await asyncio.wait([tailing], timeout=LOOK_EVERY_S)  # its last lines
            return found
        if tailing.done():
            tailing.exception()  # told by whether the cluster answers
            tailing = asyncio.create_task(tail())


def code_of(job: str, found: JobDetails) -> int:
    """Of a job that has ended."""
    if found.status == JobStatus.STOPPED:
        print(f"{job} was stopped", file=sys.stderr)
        return 143
    code = found.driver_exit_code
    if code is None:  # it never began, or its head was lost
        print(f"{job}: {found.status}: {' '.join((found.message or '').split())}", file=sys.stderr)
        return 0 if found.status == JobStatus.SUCCEEDED else 1
    return 128 - code if code < 0 else code


def refuse(reason: str) -> int:
    """One line, and the code of a wrong request."""
    print(f"submit.py: {reason}", file=sys.stderr)
    return 2


def first_line(error: BaseException) -> str:
    """What an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    ended = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended)  # a request that waits for ever may still hold its thread
