"""An S3 server that honours conditional writes, as AWS does and rclone does not: moto, in a thread."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import s3fs
from moto.server import ThreadedMotoServer

BUCKET = "honouring"


@pytest.fixture(scope="session")
def honouring_endpoint() -> Iterator[str]:
    """The running server's endpoint."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
def honouring_s3(honouring_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an empty bucket of it; for the time of one test this process finds no other server.

    Workers of the session's Ray look for theirs where it was when they were started.
    """
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anybody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", honouring_endpoint)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = s3fs.S3FileSystem()
    bucket.mkdir(BUCKET)
    try:
        yield f"s3://{BUCKET}"
    finally:
        bucket.rm(BUCKET, recursive=True)
        s3fs.S3FileSystem.clear_instance_cache()
