"""Metrics are sent behind the steps' back, in order, and none after one that was lost."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from emod.errors import DataError
from emod.tracking import MetricLog, ensure_run, finish
from tests.training.small_disk import little_space


def steps_of(client: MlflowClient, run_id: str, name: str = "loss") -> list[int]:
    return [metric.step for metric in client.get_metric_history(run_id, name)]


def test_steps_do_not_wait_for_a_slow_server(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten batches are taken while the first is under way; each point arrives once, in order."""
    client = MlflowClient(tracking_uri=uri)
    run_id = ensure_run(uri, "emod", "pretrain", {})
    go_on, send = threading.Event(), client.log_batch
    monkeypatch.setattr(MetricLog, "LARGEST_BUFFER", 5)

    def slow(*told: Any, **more: Any) -> None:
        assert go_on.wait(60)
        send(*told, **more)

    monkeypatch.setattr(client, "log_batch", slow)
    with MetricLog(client, run_id) as log:
        for step in range(52):
            log.log(step, {"loss": float(step)})
        assert steps_of(client, run_id) == []
        go_on.set()
    assert steps_of(client, run_id) == list(range(52))


def test_nothing_is_sent_after_a_batch_that_was_lost(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that wait behind it are not: whoever resumes asks for the last step, and a gap below it would stay."""
    client = MlflowClient(tracking_uri=uri)
    run_id = ensure_run(uri, "emod", "pretrain", {})
    go_on, send = threading.Event(), client.log_batch
    monkeypatch.setattr(MetricLog, "LARGEST_BUFFER", 1)

    def sometimes(run_id: str, metrics: list[Metric]) -> None:
        assert go_on.wait(60)
        if metrics[0].step == 3:
            raise MlflowException("the server has a bad day")
        send(run_id, metrics=metrics)

    monkeypatch.setattr(client, "log_batch", sometimes)
    log = MetricLog(client, run_id)
    for step in range(6):
        log.log(step, {"loss": 1.0})
    go_on.set()
    for _ in range(2):
        with pytest.raises(MlflowException, match="bad day"):
            log.flush()
        with pytest.raises(MlflowException, match="bad day"):
            log.log(6, {"loss": 1.0})
    assert steps_of(client, run_id) == [0, 1, 2]


def test_the_curve_ends_where_the_steps_stopped(uri: str) -> None:
    client = MlflowClient(tracking_uri=uri)
    run_id = ensure_run(uri, "emod", "pretrain", {})

    def steps() -> None:
        with MetricLog(client, run_id) as log:
            for step in range(3):
                log.log(step, {"loss": 1.0})
            raise DataError("step 4: the loss is not finite")

    with pytest.raises(DataError, match="not finite"):
        steps()
    assert steps_of(client, run_id) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["disk", "limit"])
def test_a_full_disk_is_named(
    migrated_database: Path, tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """SQLite's own word for it stands three errors deep."""
    room = migrated_database.stat().st_size // 1024 + 400
    with little_space(kind, tmp_path / "small", kilobytes=room) as small:
        shutil.copy(migrated_database, small / "mlflow.db")
        uri = f"sqlite:///{small / 'mlflow.db'}"
        client = MlflowClient(tracking_uri=uri)
        run_id = ensure_run(uri, "emod", "pretrain", {})
        log = MetricLog(client, run_id)

        def log_much() -> None:
            for step in range(10000):
                log.log(step, {"loss": 1.0})
                if step % 250 == 249:
                    log.flush()

        with pytest.raises(DataError) as caught:
            log_much()
        finish(client, run_id, "FAILED")  # whether it can be noted or not, the error before is what is told
    message = str(caught.value)
    assert message.startswith("step ")
    assert f"no space for metrics in MLflow at {uri}; free some" in message
    assert "\n" not in message
