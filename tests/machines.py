"""A cluster as an operator starts it: `ray start` for each machine, a token, and jobs submitted over HTTP.

The machines are process groups on loopback, a raylet and a temporary folder each.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RAY = Path(sys.executable).with_name("ray")
_MEMORY = 80 * 2**20


class Machines:
    """A head without CPUs and workers with one each.

    Args:
        variables: What every machine has in its environment beside the token.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        # Sockets have short names.
        self._folder = Path(tempfile.mkdtemp(prefix="emod-"))
        self._port, self._dashboard = _free_port(), _free_port()
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "EMOD_", "MLFLOW_"))}
        self._environment = clean | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",
            # A node counts as lost after 6 s instead of half a minute.
            "RAY_health_check_period_ms": "2000",
            "RAY_health_check_failure_threshold": "3",
            **variables,
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        """Of the dashboard, which takes jobs."""
        return f"http://127.0.0.1:{self._dashboard}"

    def start(self, name: str, *, head: bool = False) -> None:
        """Starts a machine; a head first, and again where one was lost."""
        ports = ["--dashboard-agent-listen-port", str(_free_port()), "--metrics-export-port", str(_free_port())]
        # Of its own: in one folder the agent of each machine would remove what jobs of another still use.
        ports += ["--temp-dir", str(self._folder / name)]
        memory = ["--object-store-memory", str(_MEMORY), "--node-ip-address", "127.0.0.1"]
        if head:
            role = ["--head", "--port", str(self._port), "--num-cpus", "0", "--dashboard-port", str(self._dashboard)]
            role += ["--dashboard-host", "127.0.0.1", "--ray-client-server-port", str(_free_port())]
        else:
            role = ["--address", f"127.0.0.1:{self._port}", "--num-cpus", "1"]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [RAY, "start", "--block", "--disable-usage-stats", *role, *ports, *memory],
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """SIGKILL to all that a machine runs, as when its power goes."""
        process = self._running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def processes(self, name: str, title: str) -> list[int]:
        """Process numbers of what a machine runs under a title, such as ray::RayTrainWorker."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                number = int(folder.name)
                # Workers are in groups of their own, below their machine's raylet.
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                same = os.getpgid(parent) == self._running[name].pid
                if same and (folder / "cmdline").read_bytes().decode().startswith(title):
                    found.append(number)
            except OSError:  # it has ended
                continue
        return found

    def submit(self, *entrypoint: str, token: str | None = None) -> subprocess.Popen[str]:
        """`ray job submit` as infra/README.md says it, from the sources alone."""
        words = ["--working-dir", ".", "--runtime-env", "infra/runtime-env.yaml", "--", *entrypoint]
        return subprocess.Popen(
            [RAY, "job", "submit", "--address", self.address, *words],
            cwd=ROOT,
            env=self._environment | ({} if token is None else {"RAY_AUTH_TOKEN": token}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_until_ready(self) -> None:
        """Until the head takes jobs."""
        request = urllib.request.Request(
            f"{self.address}/api/version", headers={"Authorization": f"Bearer {self._environment['RAY_AUTH_TOKEN']}"}
        )
        while True:
            try:
                urllib.request.urlopen(request, timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                assert self._running["head"].poll() is None, (self._folder / "head.log").read_text()
                time.sleep(0.2)

    def stop(self) -> None:
        """Everything, and what it wrote."""
        for name in list(self._running):
            self.kill(name)
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def machines(workers: int, variables: Mapping[str, str]) -> Iterator[Machines]:
    """A head that takes jobs and so many workers, called worker-1 and so on."""
    started = Machines(variables)
    try:
        started.start("head", head=True)
        started.wait_until_ready()
        for number in range(1, workers + 1):
            started.start(f"worker-{number}")
        yield started
    finally:
        started.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
