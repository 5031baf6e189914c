"""Runs on a real sqlite MLflow: found again by name, idempotent, and without a secret anywhere."""

from __future__ import annotations

import base64
import math
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

import emod
from emod.catalog import Addresses, Experiment, fingerprint
from emod.errors import RequestError
from emod.storage import redact
from emod.tracking import (
    MetricLog,
    check_reachable,
    ensure_run,
    finish,
    log_experiment,
    log_lineage,
    tracking_uri,
)
from emod.tracking.runs import _artifact_location, _git_commit
from emod.training.launch import claim_run

SECRET = "wJalr/XUtn+FEMI@K7"


def an_experiment(**changes: object) -> Experiment:
    plain = {
        "name": "small",
        "description": f"data of s3://reader:{SECRET}@store.example/deap",
        "corpora": ("deap", "seed_iv"),
        "addresses": Addresses(
            data={"deap": f"s3://reader:{SECRET}@store.example/deap"}, runs=f"az://c/x?sig={SECRET}"
        ),
        "pretrain": {"epochs": 3, "workers": 1},
    }
    return Experiment.model_validate(plain | changes)


def everything_stored(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/a", "s3://bucket/a"),
        ("s3://me:pa@ss/w@bucket/a", "s3://***@bucket/a"),
        ("https://token@host/x", "https://***@host/x"),
        ("http://host:9000/x", "http://host:9000/x"),
        ("az://c/x?sig=abc%2F&se=1 and gs://b/y", "az://c/x?*** and gs://b/y"),
        ("postgresql+psycopg://u:p@db:5432/mlflow", "postgresql+psycopg://***@db:5432/mlflow"),
        ("mail somebody@host about 1:2", "mail somebody@host about 1:2"),
        ("a://u:one@h,b://u:two@g", "a://***@g"),
    ],
)
def test_redact_cuts_secrets_and_nothing_else(text: str, expected: str) -> None:
    assert redact(text) == expected


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30))
def test_no_password_survives(password: str) -> None:
    assert redact(f"s3://user:<{password}>@host/path") == "s3://***@host/path"


def test_tracking_uri_prefers_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert tracking_uri("s3://bucket/runs") == "http://tracker:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    assert tracking_uri("deep/runs") == f"sqlite:///{tmp_path}/deep/runs/mlflow.db"
    assert (tmp_path / "deep" / "runs").is_dir()
    with pytest.raises(RequestError, match=r"^s3://\*\*\*@bucket/runs .*set MLFLOW_TRACKING_URI"):
        tracking_uri(f"s3://reader:{SECRET}@bucket/runs")


def test_a_run_is_found_again_by_name(uri: str, tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=uri)
    first = ensure_run(uri, "emod", "pretrain", {"emod.role": "pretrain"})
    other = ensure_run(uri, "emod", "finetune", {})
    elsewhere = ensure_run(uri, "another", "pretrain", {})
    assert len({first, other, elsewhere}) == 3
    finish(client, first, "FAILED")
    assert client.get_run(first).info.status == "FAILED"

    assert ensure_run(uri, "emod", "pretrain", {"emod.attempt": "2"}) == first
    run = client.get_run(first)
    assert run.info.status == "FAILED", "whoever takes it up says when it runs again"
    assert run.info.run_name == "pretrain"
    assert {"emod.role": "pretrain", "emod.attempt": "2"}.items() <= run.data.tags.items()

    client.log_text(first, "x", "note.txt")
    assert (tmp_path / "runs" / "mlartifacts" / first / "artifacts" / "note.txt").read_text() == "x"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_name_whose_folder_was_removed_is_another_run(uri: str, tmp_path: Path) -> None:
    """Its points and lineage are its own, and so is what it registers."""
    runs = str(tmp_path / "trained")
    claims = [claim_run(runs, "backbone", {"seed": 0}, room="pretrain") for _ in range(2)]
    assert claims[0] == claims[1]
    found = [ensure_run(uri, "emod", "backbone", {}, claim=claim) for claim in claims]
    assert found[0] == found[1]
    with pytest.raises(RequestError, match=r"'backbone' in .* was made with seed = 0, not 1; set it back, choose"):
        claim_run(runs, "backbone", {"seed": 1}, room="pretrain")
    shutil.rmtree(runs)
    assert ensure_run(uri, "emod", "backbone", {}, claim=claim_run(runs, "backbone", {}, room="pretrain")) != found[0]


def test_the_newest_of_two_namesakes_is_resumed(uri: str) -> None:
    client = MlflowClient(tracking_uri=uri)
    first = ensure_run(uri, "emod", "pretrain", {})
    info = client.get_run(first).info
    newer = client.create_run(
        info.experiment_id, start_time=info.start_time + 1000, tags={"emod.run_name": "pretrain"}
    ).info.run_id
    older = client.create_run(
        info.experiment_id, start_time=info.start_time - 1000, tags={"emod.run_name": "pretrain"}
    ).info.run_id
    assert ensure_run(uri, "emod", "pretrain", {}) == newer != older


def test_bad_requests_are_one_line_without_secrets(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RequestError, match=r"MLflow at http.*check MLFLOW_TRACKING_URI") as unreachable:
        ensure_run(f"http://me:{SECRET.replace('/', '_')}@127.0.0.1:9", "emod", "pretrain", {})
    with pytest.raises(RequestError, match="a bare database has no place for artifacts") as bare:
        _artifact_location(f"postgresql+psycopg://me:{SECRET}@db/mlflow")
    with pytest.raises(RequestError, match='run_name = "it\'s"'):
        ensure_run(uri, "emod", "it's", {})
    for error in (unreachable, bare):
        assert "\n" not in str(error.value)
        assert "wJalr" not in str(error.value)


def test_a_deleted_experiment_is_named(uri: str) -> None:
    client = MlflowClient(tracking_uri=uri)
    ensure_run(uri, "emod", "pretrain", {})
    client.delete_experiment(client.get_experiment_by_name("emod").experiment_id)
    with pytest.raises(RequestError, match="'emod' is deleted: restore it"):
        ensure_run(uri, "emod", "pretrain", {})


def test_an_experiment_is_logged_whole_and_twice(uri: str) -> None:
    client = MlflowClient(tracking_uri=uri)
    run_id = ensure_run(uri, "emod", "pretrain", {})
    experiment = an_experiment()
    log_experiment(client, run_id, experiment, world_size=1)
    once = client.get_run(run_id).data
    log_experiment(client, run_id, experiment, world_size=4)
    data = client.get_run(run_id).data
    assert data.params == once.params
    assert data.params["pretrain.learning_rate"] == "0.0005"
    assert data.params["pretrain.epochs"] == "3"
    assert data.params["signal.ica.method"] == "picard"
    assert data.params["corpora"] == '["deap", "seed_iv"]'
    assert data.params["finetune"] == "null"
    assert not [key for key in data.params if key.startswith("addresses")]
    assert data.tags["emod.experiment_hash"] == fingerprint(experiment, exclude=("addresses",))
    assert (once.tags["emod.world_size"], data.tags["emod.world_size"]) == ("1", "4")
    assert {"emod.version", "emod.version.torch", "emod.version.ray", "emod.version.mne"} <= data.tags.keys()

    text = client.download_artifacts(run_id, "experiment.yaml")
    assert "s3://***@store.example/deap" in Path(text).read_text()


def test_no_secret_reaches_the_store(uri: str, tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=uri)
    run_id = ensure_run(uri, "emod", "pretrain", {"note": f"from s3://me:{SECRET}@b"})
    log_experiment(client, run_id, an_experiment(), world_size=1)
    url = f"s3://reader:{SECRET}@store.example/shards"
    log_lineage(client, run_id, store_url=url, manifest_hash="f" * 64, simulated=False, corpora=["deap"])
    stored = everything_stored(tmp_path / "runs")
    assert b"store.example/deap" in stored
    assert b"store.example/shards" in stored
    for part in (b"wJalr", b"XUtn", b"FEMI", b"K7@", b"reader:"):
        assert part not in stored


def test_other_settings_do_not_resume_but_other_resources_do(uri: str) -> None:
    client = MlflowClient(tracking_uri=uri)
    run_id = ensure_run(uri, "emod", "pretrain", {})
    log_experiment(client, run_id, an_experiment(), world_size=1, exclude=("finetune",))
    more_workers = an_experiment(pretrain={"epochs": 3, "workers": 4}, finetune={"corpus": "deap"})
    log_experiment(client, run_id, more_workers, world_size=4, exclude=("finetune",))
    assert client.get_run(run_id).data.tags["emod.pretrain.workers"] == "4"
    assert not [key for key in client.get_run(run_id).data.params if key.startswith("finetune")]
    with pytest.raises(
        RequestError, match=r"^pretrain.epochs = 5, but this run was started with 3: use another run_name"
    ):
        log_experiment(client, run_id, an_experiment(pretrain={"epochs": 5}), world_size=1, exclude=("finetune",))


def test_lineage_is_a_dataset_input_once(uri: str) -> None:
    client = MlflowClient(tracking_uri=uri)
    run_id = ensure_run(uri, "emod", "pretrain", {})
    digest = "0123456789abcdef" * 4
    for _ in range(2):
        log_lineage(
            client, run_id, store_url="s3://b/shards", manifest_hash=digest, simulated=True, corpora=["seed_iv", "deap"]
        )
    run = client.get_run(run_id)
    (given_input,) = run.inputs.dataset_inputs
    assert given_input.dataset.digest == digest[:36]
    assert given_input.dataset.source_type == "s3"
    assert given_input.dataset.source == '{"uri": "s3://b/shards"}'
    assert run.data.tags["emod.manifest"] == digest
    assert run.data.tags["emod.simulated"] == "true"
    assert run.data.tags["emod.corpora"] == "deap,seed_iv"


def points(client: MlflowClient, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]


def test_a_resume_replays_no_metric(uri: str) -> None:
    client = MlflowClient(tracking_uri=uri)
    run_id = ensure_run(uri, "emod", "pretrain", {})
    log = MetricLog(client, run_id)
    for step in range(10):
        log.log(step, {"loss": 1.0 / (step + 1), **({"kappa": 0.1 * step} if step % 4 == 3 else {})})
    log.flush()
    log.flush()

    # Resumed from the checkpoint at step 6: steps 6..9 are replayed, then it goes on.
    log = MetricLog(client, run_id)
    for step in range(6, 14):
        log.log(step, {"loss": 1.0 / (step + 1), **({"kappa": 0.1 * step} if step % 4 == 3 else {})})
        log.log(step, {"loss": -1.0})
    log.flush()
    assert points(client, run_id, "loss") == [(step, 1.0 / (step + 1)) for step in range(14)]
    assert points(client, run_id, "kappa") == [(step, 0.1 * step) for step in (3, 7, 11)]


def test_a_name_that_first_appears_after_a_resume_is_kept(uri: str) -> None:
    client = MlflowClient(tracking_uri=uri)
    run_id = ensure_run(uri, "emod", "pretrain", {})
    client.log_metric(run_id, "loss", 1.0, step=50)
    log = MetricLog(client, run_id)
    log.log(20, {"loss": 2.0, "kappa": 0.3})
    log.flush()
    assert points(client, run_id, "loss") == [(50, 1.0)]
    assert points(client, run_id, "kappa") == [(20, 0.3)]


def test_more_metrics_than_one_batch_arrive_by_themselves(uri: str) -> None:
    client = MlflowClient(tracking_uri=uri)
    run_id = ensure_run(uri, "emod", "pretrain", {})
    log = MetricLog(client, run_id)
    for step in range(MetricLog.LARGEST_BUFFER // 2):
        log.log(step, {"a": step, "b": -step})
    log._sender.submit(int).result()  # what was handed over is sent
    assert len(points(client, run_id, "a")) == MetricLog.LARGEST_BUFFER // 2
    log.log(999, {f"m{i}": i for i in range(1200)})
    log._sender.submit(int).result()
    assert points(client, run_id, "m1199") == [(999, 1199.0)]


def test_what_was_sent_is_not_sent_again(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow forgives a repeated point with an equal timestamp, so only the requests show it."""
    client = MlflowClient(tracking_uri=uri)
    log = MetricLog(client, ensure_run(uri, "emod", "pretrain", {}))
    sent: list[int] = []
    monkeypatch.setattr(client, "log_batch", lambda run_id, metrics: sent.append(len(metrics)))
    for step in range(3):
        log.log(step, {"loss": 1.0})
        log.flush()
    log.flush()
    assert sent == [1, 1, 1]


def test_non_finite_values_are_told_not_charted(uri: str) -> None:
    client = MlflowClient(tracking_uri=uri)
    run_id = ensure_run(uri, "emod", "pretrain", {})
    log = MetricLog(client, run_id)
    for step, value in enumerate([1.0, math.nan, math.inf, 2.0]):
        log.log(step, {"loss": value})
    log.flush()
    assert points(client, run_id, "loss") == [(0, 1.0), (3, 2.0)]
    assert client.get_run(run_id).data.tags["emod.non_finite"] == "loss = nan at step 1"


def test_git_commit_is_that_of_the_repository_that_tracks_the_package(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    package = tmp_path / "platform" / "emod"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    assert _git_commit(package) is None
    git("init", "-q")
    assert _git_commit(package) is None
    git("add", ".")
    git("commit", "-qm", "one")
    assert _git_commit(package) == git("rev-parse", "HEAD")
    (package / "new.py").write_text("")
    assert _git_commit(package) == git("rev-parse", "HEAD")
    (package / "__init__.py").write_text("changed = True\n")
    assert _git_commit(package) == git("rev-parse", "HEAD") + "-dirty"


def test_a_server_behind_a_password_is_asked_for_a_sign_of_life() -> None:
    """The password in its address goes to it, and nowhere else."""
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, base64.b64decode(self.headers["Authorization"].split()[1]).decode()))
            self.send_response(403)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://reader:{SECRET.replace('/', '')}@127.0.0.1:{server.server_port}"
        check_reachable(address)
        server.shutdown()
    assert asked == [("/health", f"reader:{SECRET.replace('/', '')}")]
    with pytest.raises(RequestError, match=r"http://\*\*\*@127\.0\.0\.1.* does not answer .*refused") as failed:
        check_reachable(address)
    assert SECRET.replace("/", "") not in str(failed.value)


def test_a_password_is_taken_out_of_the_servers_address() -> None:
    """Before anything could pass the address on, or an error repeat it; MLflow's client sends it all the same."""
    address = "http://reader:p%40ss%2F@127.0.0.1:9"
    program = """
import os
from mlflow import MlflowClient
from emod.tracking import tracking_uri
print(tracking_uri("."), os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])
MlflowClient(tracking_uri(".")).get_run("0" * 32)
"""
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": address,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "PYTHONPATH": str(Path(emod.__file__).parents[1]),
    }
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["http://127.0.0.1:9", "reader", "p@ss/"]
    assert "http://127.0.0.1:9" in done.stderr
    assert "p%40ss" not in done.stderr
