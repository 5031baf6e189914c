"""A cluster as an operator starts it: `ray start` for each machine, a token, and jobs submitted over HTTP.

A machine is a raylet with a temporary folder of its own; on loopback, or on a network with an address of its own.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conftest import free_port
from tests.network import Network

ROOT = Path(__file__).resolve().parents[1]
RAY = Path(sys.executable).with_name("ray")
_MEMORY = 80 * 2**20


class Machines:
    """A head without CPUs and workers with one each.

    Args:
        variables: What every machine has in its environment beside the token.
        network: Where machines get addresses; without it all are on loopback.

    Attributes:
        folder: Of all machines: a log, and Ray's own files, each.
        token: Of the cluster.
    """

    def __init__(self, variables: Mapping[str, str], network: Network | None = None) -> None:
        # Sockets have short names.
        self.folder = Path(tempfile.mkdtemp(prefix="emod-"))
        self.token = secrets.token_hex(32)
        self._network = network
        self._port, self._dashboard = free_port(), free_port()
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "EMOD_", "MLFLOW_"))}
        # Of whoever submits; and of the machines.
        self._submits = clean | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",
        }
        self._environment = self._submits | {
            # A node counts as lost after 6 s instead of half a minute.
            "RAY_health_check_period_ms": "2000",
            "RAY_health_check_failure_threshold": "3",
            **variables,
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        """Of the dashboard, which takes jobs."""
        return f"http://{self._host('head')}:{self._dashboard}"

    def start(self, name: str, *, head: bool = False) -> None:
        """Starts a machine; a head first, and again where one was lost."""
        ports = ["--dashboard-agent-listen-port", str(free_port()), "--metrics-export-port", str(free_port())]
        # Of its own: in one folder the agent of each machine would remove what jobs of another still use.
        ports += ["--temp-dir", str(self.folder / name)]
        memory = ["--object-store-memory", str(_MEMORY), "--node-ip-address", self._host(name)]
        if head:
            role = ["--head", "--port", str(self._port), "--num-cpus", "0", "--dashboard-port", str(self._dashboard)]
            role += ["--dashboard-host", self._host(name), "--ray-client-server-port", str(free_port())]
        else:
            role = ["--address", f"{self._host('head')}:{self._port}", "--num-cpus", "1"]
        inside = self._network.inside(name) if self._network else []
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [*inside, RAY, "start", "--block", "--disable-usage-stats", *role, *ports, *memory],
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """SIGKILL to all that a machine runs, as when its power goes."""
        process = self._running.pop(name)
        if self._network:
            while running := self._network.processes(name):
                for number in running:
                    with suppress(ProcessLookupError):
                        os.kill(number, signal.SIGKILL)
                process.poll()
                time.sleep(0.05)
        else:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(process.pid, signal.SIGKILL)  # workers end with their raylet
        process.wait()

    def processes(self, name: str, title: str) -> list[int]:
        """Process numbers of what a machine runs under a title, such as ray::RayTrainWorker or python jobs/."""
        numbers = self._network.processes(name) if self._network else self._below(name)
        found = []
        for number in numbers:
            with suppress(OSError):  # it has ended
                line = Path(f"/proc/{number}/cmdline").read_bytes().decode().replace("\0", " ")
                if line.startswith(title):
                    found.append(number)
        return found

    def submit(self, *entrypoint: str, token: str | None = None, own_code: bool = True) -> subprocess.Popen[str]:
        """A job as infra/README.md says it, from the sources alone.

        Args:
            entrypoint: The job's command.
            token: Another than the cluster's.
            own_code: By infra/submit.py, whose exit code is the job's; else by `ray job submit`.
        """
        words = [sys.executable, "infra/submit.py"]
        if not own_code:
            words = [str(RAY), "job", "submit", "--working-dir", ".", "--runtime-env", "infra/runtime-env.yaml"]
        environment = self._submits | {"RAY_API_SERVER_ADDRESS": self.address}
        return subprocess.Popen(
            [*words, "--", *entrypoint],
            cwd=ROOT,
            env=environment | ({} if token is None else {"RAY_AUTH_TOKEN": token}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_until_ready(self) -> None:
        """Until the head takes jobs."""
        request = urllib.request.Request(
            f"{self.address}/api/version", headers={"Authorization": f"Bearer {self.token}"}
        )
        patience = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(request, timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                lost = self._running["head"].poll() is not None or time.monotonic() > patience
                assert not lost, (self.folder / "head.log").read_text()
                time.sleep(0.2)

    def stop(self) -> None:
        """Everything, and what it wrote."""
        for name in list(self._running):
            self.kill(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _host(self, name: str) -> str:
        return self._network.join(name) if self._network else "127.0.0.1"

    def _below(self, name: str) -> Iterator[int]:
        """Workers are in groups of their own, below their machine's raylet."""
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if os.getpgid(parent) == self._running[name].pid:
                    yield int(folder.name)


@contextmanager
def machines(workers: int, variables: Mapping[str, str], network: Network | None = None) -> Iterator[Machines]:
    """A head that takes jobs and so many workers, called worker-1 and so on."""
    started = Machines(variables, network)
    try:
        started.start("head", head=True)
        started.wait_until_ready()
        for number in range(1, workers + 1):
            started.start(f"worker-{number}")
        yield started
    finally:
        started.stop()
