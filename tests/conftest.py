"""What several rooms' tests share: a real S3 server on loopback and one small Ray cluster, each started once."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
import ray.data
import s3fs

KEY, SECRET = "loopback-key-of-the-tests", "loopback-secret-of-the-tests"


def pytest_configure() -> None:
    """One token for all processes of the tests: of two that make the user's at once, each could have its own."""
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@dataclass(frozen=True)
class S3Server:
    """A running server: its endpoint, one bucket for all tests, and the folder that holds its objects as files.

    Give Ray tasks its URLs, not the object: workers cannot import a conftest.
    """

    endpoint: str
    bucket: str
    folder: Path

    def url(self, *parts: str) -> str:
        """s3:// URL of something in the bucket."""
        return "/".join((f"s3://{self.bucket}", *parts))

    def path(self, *parts: str) -> Path:
        """The same thing as a file of the server's disk, for tests that damage it."""
        return self.folder.joinpath(self.bucket, *parts)


def free_port(host: str = "127.0.0.1") -> int:
    """A port of an address of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server; endpoint and credentials are in the environment, where s3fs and botocore look for them."""
    folder = tmp_path_factory.mktemp("s3")
    log = folder.with_name(f"{folder.name}.log")
    (folder / "emod-tests").mkdir()
    port = free_port()
    rclone = os.path.join(sysconfig.get_path("scripts"), "rclone")
    with log.open("wb") as sink, pytest.MonkeyPatch.context() as environment:
        # Its own configuration file: a user's remotes are none of the tests' business.
        command = [rclone, "--config", "/dev/null", "serve", "s3", "--addr", f"127.0.0.1:{port}"]
        server = subprocess.Popen(
            [*command, "--auth-key", f"{KEY},{SECRET}", str(folder)], stdout=sink, stderr=subprocess.STDOUT
        )
        try:
            environment.setenv("AWS_ACCESS_KEY_ID", KEY)
            environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
            environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
            environment.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
            for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
                environment.delenv(name, raising=False)
            for _ in range(200):
                assert server.poll() is None, f"rclone stopped: {log.read_text()}"
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            else:
                pytest.fail(f"no S3 server on port {port}: {log.read_text()}")
            s3fs.S3FileSystem.clear_instance_cache()  # an instance made before has other credentials
            yield S3Server(f"http://127.0.0.1:{port}", "emod-tests", folder)
        finally:
            server.terminate()
            server.wait(10)
            s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def ray_cluster(s3_server: S3Server) -> Iterator[None]:
    """A local Ray of two CPUs for the whole session. Its workers inherit the S3 server's address."""
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    assert not ray.is_initialized(), "another test left its own Ray running"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")  # two workers on two cores
        environment.delenv("RAY_ADDRESS", raising=False)
        # Workers import what this process imports, with or without the package installed.
        source = str(Path(__file__).parents[1] / "platform")
        environment.setenv("PYTHONPATH", os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH")))))
        # Where no dashboard answers, as here, each run of Ray Train would end 12 s late: the guard of its placement
        # group waits that long before it stops (ray 2.60).
        environment.setattr(PlacementGroupCleanerCallback.__init__, "__defaults__", (1.0, 1.0, 2.0))
        ray.init(
            address="local",  # a cluster that somebody runs on this machine is none of the tests' business
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=200 * 2**20,
            log_to_driver=False,
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # it floods the report of a failing test
        try:
            yield
        finally:
            ray.shutdown()
