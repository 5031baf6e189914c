"""A registered model's server in a process of its own, and requests to it as anybody would send them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any


def bare_environment(uri: str) -> dict[str, str]:
    """Nothing of this repository on the path, no pickle, one thread."""
    plain = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return plain | {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
    }


def models_serve(python: Path, uri: str, model_uri: str, folder: Path) -> AbstractContextManager[str]:
    """MLflow's own command; its address, once it answers.

    Args:
        python: Of the environment that serves.
        uri: MLflow's.
        model_uri: What is served.
        folder: Where it runs and writes ``serve.log``.
    """
    environment = bare_environment(uri)
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"  # it starts its own server by name
    words = ["models", "serve", "-m", model_uri, "--env-manager", "local", "--workers", "1"]
    return answering([python, "-m", "mlflow", *words], environment, folder)


@contextmanager
def answering(command: Sequence[str | Path], environment: Mapping[str, str], folder: Path) -> Iterator[str]:
    """The address of a server that takes --host and --port, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with (folder / "serve.log").open("w") as log:
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
                assert process.poll() is None, (folder / "serve.log").read_text()
                try:
                    urllib.request.urlopen(f"{address}/ping", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.2)
            yield address
        finally:
            os.killpg(process.pid, 15)
            process.wait()


def post(address: str, inputs: Mapping[str, Any], params: Mapping[str, Any]) -> tuple[int, Any]:
    """Status, and the rows or the message."""
    body = json.dumps({"inputs": inputs, "params": params}).encode()
    request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.loads(answer.read())["predictions"]
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
