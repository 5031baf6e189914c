"""A registered model's server in a process of its own, and requests to it as anybody would send them."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.servers import answering


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
        folder: Where it runs and writes ``server.log``.
    """
    environment = bare_environment(uri)
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"  # it starts its own server by name
    words = ["models", "serve", "-m", model_uri, "--env-manager", "local", "--workers", "1"]
    return answering([python, "-m", "mlflow", *words], environment, folder, ready="ping")


def _refuse(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


def post(address: str, inputs: Mapping[str, Any], params: Mapping[str, Any]) -> tuple[int, Any]:
    """Status, and the rows or the message."""
    body = json.dumps({"inputs": inputs, "params": params}).encode()
    request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.loads(answer.read(), parse_constant=_refuse)["predictions"]
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
