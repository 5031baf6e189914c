"""A registered model over HTTP, by MLflow's own server.

    python jobs/serve.py --model models:/emod@champion
    python jobs/serve.py --model models:/emod/3 --host 0.0.0.0 --port 8080 --workers 2

It serves the version that MODEL names now; start it again after a promotion. POST /invocations answers windows, GET
/ping says whether it is ready. --dry-run says what would be served and on which electrodes it was trained. The server
asks nobody who they are: beyond this machine put it behind something that does.
"""

from __future__ import annotations

import os
import socket
import sys

from emod.cli import experiment_parser, load_requested, run_job, show_plan
from emod.errors import RequestError


def main() -> None:
    parser = experiment_parser(__doc__, default="finetune")
    parser.add_argument(
        "--model",
        default="models:/emod@champion",
        metavar="MODEL",
        help="models:/NAME@ALIAS or models:/NAME/VERSION (default: models:/emod@champion)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="whom it listens to (default: this machine alone)")
    parser.add_argument("--port", type=int, default=5000, help="(default: 5000)")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with the model (default: 1)")
    arguments = parser.parse_args()
    experiment = load_requested(arguments)
    if arguments.workers < 1:
        raise RequestError(f"--workers {arguments.workers}: give 1 or more")

    from emod.tracking import fetch_registered, registry_uri

    uri = registry_uri(experiment)
    model = fetch_registered(uri, arguments.model, field="--model")
    card, address = model.servable.card, f"http://{arguments.host}:{arguments.port}"
    lines = [f"{model.name} version {model.version} at {address}/invocations"]
    if card.trained_on.simulated:
        lines.append("trained on SIMULATED recordings: its answers say nothing about people")
    for name, corpus in sorted(card.trained_on.corpora.items()):
        lines.append(f"learned from {name}: {corpus.sfreq_hz:g} Hz, {' '.join(corpus.channels)}")
    if arguments.dry_run:
        show_plan(experiment, lines)
        return
    _check_free(arguments.host, arguments.port)
    print("\n".join(lines), flush=True)
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{model.name}/{model.version}"]
    command += ["--env-manager", "local", "--host", arguments.host, "--port", str(arguments.port)]
    command += ["--workers", str(arguments.workers)]
    # MLflow starts its server by name. Signals and the exit code are then the server's own.
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.execve(sys.executable, command, {**os.environ, "MLFLOW_TRACKING_URI": uri, "PATH": path})  # noqa: S606


def _check_free(host: str, port: int) -> None:
    try:
        socket.create_server((host, port)).close()
    except (OSError, OverflowError) as error:
        raise RequestError(f"--host {host} --port {port}: {error}; choose another") from None


if __name__ == "__main__":
    run_job(main)
