"""Submits a job to a Ray cluster, follows it, and ends with the job's own exit code, where `ray job submit` says 1.

    python infra/submit.py -- python jobs/pretrain.py --experiment pretrain --set pretrain.run_name=first

Where Ray is installed; RAY_API_SERVER_ADDRESS and RAY_AUTH_TOKEN as for `ray job submit`. What is set here of
EMOD_DATA, EMOD_STORE, EMOD_RUNS and MLFLOW_TRACKING_URI goes along, in place of what the cluster's machines have.

Exit codes: the job's; 2 it was refused; 75 the cluster does not answer, not yet or not any more: the job may run, or
the cluster's head was lost and the job with it;
128 and its number where a signal ended the job, 143 where it was stopped; 130 interrupted here, or nobody reads its
output any more: the job goes on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import aiohttp
import requests
import yaml
from ray.exceptions import RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

Answer = TypeVar("Answer")

ROOT = Path(__file__).resolve().parents[1]
ADDRESSES = ("EMOD_DATA", "EMOD_STORE", "EMOD_RUNS", "MLFLOW_TRACKING_URI")
PATIENCE_S = 60.0
SENDING_S = 600.0
LOOK_EVERY_S = 5.0
ANSWER_S = 10.0
LOST = 75
UNREACHABLE = (ConnectionError, requests.ConnectionError, TimeoutError)
# A server that cannot now, or a proxy in front of none: as Ray's client says it, and as requests does.
PASSING = re.compile(r"(Request failed with status code )?5\d\d\b")
# What a head says of a job that its own agent refused.
REFUSED = re.compile(r"\nRuntimeError: Request failed with status code 4\d\d")
# All that a request to a cluster ends in.
FAILURES = (OSError, RuntimeError, ValueError, RayError, aiohttp.ClientError)


def main(words: list[str]) -> int:
    """The exit code."""
    if not words or words[0] != "--" or len(words) == 1:
        return refuse("give the job after --, as in: python infra/submit.py -- python jobs/ingest.py")
    address = os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265")
    os.environ.pop("RAY_ADDRESS", None)  # Ray's client would take it instead
    given = {name: os.environ[name] for name in ADDRESSES if os.environ.get(name)}
    if secret := next((name for name, url in given.items() if re.search("://.*[@?]", url)), None):
        return refuse(
            f"{secret} holds a password or a signature: whoever sees the job would see it; set it on the machines"
        )
    environment = yaml.safe_load((ROOT / "infra/runtime-env.yaml").read_text(encoding="utf-8"))
    environment["env_vars"] |= given
    environment["working_dir"] = str(ROOT)
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # that a connection was closed
    # runtime-env.yaml names them; Ray warns of each that it would leave out by itself.
    os.environ.setdefault("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", "")
    job = f"raysubmit_{uuid.uuid4().hex[:16]}"
    shown = without_secrets(address)
    tell(f"{job} at {shown}")
    try:
        return code_of(job, asyncio.run(submitted(address, job, shlex.join(words[1:]), environment)))
    except (KeyboardInterrupt, UnreadError):
        tell(f"{job} goes on if it was taken; ray job logs --follow {job}, ray job stop {job}")
        return 130
    except LostError as error:
        tell(f"submit.py: {shown}: {error}")
        return LOST
    except FAILURES as error:
        return refuse(f"{shown}: {in_a_line(error)}")


class LostError(Exception):
    """The cluster does not answer; what to do."""


class UnreadError(Exception):
    """Nobody reads what is printed."""


async def submitted(address: str, job: str, entrypoint: str, environment: dict[str, object]) -> JobDetails:
    """Uploads the sources, submits the job, and follows it to its end."""

    def submit() -> JobSubmissionClient:
        client = JobSubmissionClient(address)
        client.submit_job(entrypoint=entrypoint, submission_id=job, runtime_env=environment)
        return client

    try:
        client = await within(SENDING_S, submit)
    except FAILURES as error:
        passing = PASSING.match(str(error)) and not REFUSED.search(str(error))
        if passing or isinstance(error, UNREACHABLE):
            raise LostError(f"{in_a_line(error)}; ray job status {job} says if it was taken") from error
        raise
    return await follow(client, job)


async def within(seconds: float, request: Callable[[], Answer]) -> Answer:
    """A request of Ray's client, which would wait for ever for a machine that is gone: in a thread that may do so."""
    answer: Future[Answer] = Future()
    answer.set_running_or_notify_cancel()

    def run() -> None:
        try:
            answer.set_result(request())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wait_for(asyncio.wrap_future(answer), seconds)


async def follow(client: JobSubmissionClient, job: str) -> JobDetails:
    """Prints what the job prints until it has ended; connections may break meanwhile."""
    printed, told = 0, False

    async def tail() -> None:
        nonlocal printed
        known = 0  # it begins anew each time
        async for lines in client.tail_job_logs(job):
            show(lines[max(0, printed - known) :])
            known += len(lines)
            printed = max(printed, known)

    tailing = asyncio.create_task(tail())
    answered = time.monotonic()
    while True:
        await asyncio.wait([tailing], timeout=LOOK_EVERY_S)
        if tailing.done() and isinstance(tailing.exception(), UnreadError):
            tailing.result()
        try:
            found = await within(ANSWER_S, lambda: client.get_job_info(job))
            answered = time.monotonic()
        except FAILURES as error:
            if f"Job {job} does not exist" in str(error):
                raise LostError(f"it does not know {job} any more: its head was lost, and the job with it") from error
            if time.monotonic() - answered > PATIENCE_S:
                tailing.cancel()
                await asyncio.gather(tailing, return_exceptions=True)
                raise LostError(
                    f"no answer for {PATIENCE_S:g} s ({in_a_line(error)}); {job} may still run: look with "
                    f"ray job status {job} before you submit it again"
                ) from error
            await asyncio.sleep(LOOK_EVERY_S / 5)
            continue
        if found.status.is_terminal():
            await asyncio.wait([tailing], timeout=LOOK_EVERY_S)  # its last lines
            if not tailing.done() or tailing.exception():
                tailing.cancel()
                with suppress(*FAILURES):
                    lines = await within(ANSWER_S, lambda: client.get_job_logs(job))
                    show(lines[printed:])
            return found
        if tailing.done():
            if (broken := tailing.exception()) and not told:
                told = True
                tell(f"its output does not come ({in_a_line(broken)}); it is asked for again")
            await asyncio.sleep(LOOK_EVERY_S / 5)
            tailing = asyncio.create_task(tail())


def show(lines: str) -> None:
    """Prints what the job printed."""
    try:
        print(lines, end="", flush=True)
    except BrokenPipeError:
        raise UnreadError from None


def code_of(job: str, found: JobDetails) -> int:
    """Of a job that has ended."""
    if found.status == JobStatus.STOPPED:
        tell(f"{job} was stopped")
        return 143
    code = found.driver_exit_code
    if code is None:  # it never began, or its head was lost
        tell(f"{job}: {found.status}: {' '.join((found.message or '').split())}")
        return 0 if found.status == JobStatus.SUCCEEDED else 1
    return 128 - code if code < 0 else code


def refuse(reason: str) -> int:
    """One line, and the code of a wrong request."""
    tell(f"submit.py: {reason}")
    return 2


def tell(line: str) -> None:
    """A line of our own, for whoever still reads it."""
    with suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)


def in_a_line(error: BaseException) -> str:
    """What an error says; of a traceback that a head sends along, its end."""
    silent = "no answer" if isinstance(error, TimeoutError) else type(error).__name__
    first, *others = str(error).strip().splitlines() or [silent]
    if others:
        first = first.replace("Traceback (most recent call last):", others[-1])
    return without_secrets(first.rstrip("."))


def without_secrets(text: str) -> str:
    """Without users and passwords of addresses."""
    return re.sub(r"(?<=://)\S*@", "***@", text)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")
    ended = main(sys.argv[1:])
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    os._exit(ended)  # a closed output would be complained about once more
