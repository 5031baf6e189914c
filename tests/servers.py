"""Servers of MLflow in processes of their own, on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

__all__ = ["answering", "mlflow_server"]


def mlflow_server(database: Path, folder: Path) -> AbstractContextManager[str]:
    """The address of a tracking server with a registry, artefacts proxied by it.

    Args:
        database: SQLite.
        folder: Where it keeps artefacts and writes ``server.log``.
    """
    words = ["--backend-store-uri", f"sqlite:///{database}", "--workers", "1"]
    words += ["--serve-artifacts", "--artifacts-destination", str(folder / "bucket")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return answering([sys.executable, "-m", "mlflow", "server", *words], environment, folder, ready="health")


@contextmanager
def answering(
    command: Sequence[str | Path], environment: Mapping[str, str], folder: Path, *, ready: str
) -> Iterator[str]:
    """The address of a server that takes --host and --port, once it answers.

    Args:
        command: Without those two.
        environment: All of it.
        folder: Where it runs and writes ``server.log``.
        ready: A page that is there as soon as the others are.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            while True:
                assert process.poll() is None, (folder / "server.log").read_text()
                try:
                    urllib.request.urlopen(f"{address}/{ready}", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.2)
            yield address
        finally:
            os.killpg(process.pid, 15)
            process.wait()
