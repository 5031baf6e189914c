"""MLflow runs: found again by name, with settings, lineage and metrics that survive a resume.

Everything goes through a plain ``MlflowClient``: no active run, no global tracking URI, nothing written to the current
folder. Secrets inside URLs are cut out before anything is sent. Models are not logged here.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import unquote

import requests
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

import emod
from emod.catalog import Experiment, dump_yaml, fingerprint
from emod.errors import DataError, RequestError
from emod.storage import is_local, redact

__all__ = ["MetricLog", "check_reachable", "ensure_run", "finish", "log_experiment", "log_lineage", "tracking_uri"]

# Whenever a run ends MLflow would print its address, and with it the password that stands in it.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def _set_password_apart() -> None:
    """Takes user and password out of MLFLOW_TRACKING_URI: MLflow repeats that address in errors, and we pass it on.

    MLflow's client finds them where they are put. Each process of a job does this when it imports this module.
    """
    scheme, found, rest = os.environ.get("MLFLOW_TRACKING_URI", "").partition("://")
    place, slash, path = rest.partition("/")
    secret, at, host = place.rpartition("@")
    if found and at and scheme in ("http", "https"):
        user, _, password = secret.partition(":")
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(user)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(password)
        os.environ["MLFLOW_TRACKING_URI"] = f"{scheme}://{host}{slash}{path}"


_set_password_apart()

RUN_NAME_TAG = "emod.run_name"
CLAIM_TAG = "emod.claim"

# Tags that name the windows a run learned from, and the corpora they belong to: its own, and its backbone's.
LINEAGE_TAGS = (("emod.manifest", "emod.corpora"), ("emod.backbone_manifest", "emod.backbone_corpora"))

# Where a run computes and how often it is repeated, not what: these may change when it is resumed, and MLflow's
# params may not.
RESOURCE_FIELDS = frozenset(
    {
        "checkpoint_every_steps",
        "cpus_per_recording",
        "cpus_per_training",
        "cpus_per_worker",
        "gpu",
        "max_failures",
        "seeds",
        "threads_per_worker",
        "watch_every_steps",
        "workers",
    }
)

# Parts of an experiment that change nothing of what a run learns.
UNDECIDING = frozenset({"addresses", "description", "embed", "ingest", "name", "promote", "serving", "study", "sweep"})

# MLflow's limits: params and tags per request, and the width of its digest column.
BATCH = 100
DIGEST_LENGTH = 36


def check_reachable(uri: str) -> None:
    """Asks an MLflow server for a sign of life before hours are spent; a database file needs none.

    Raises:
        RequestError: If it does not answer.
    """
    if not uri.startswith(("http://", "https://")):
        return
    try:
        # Whatever it answers is a sign of life; what it allows is found out when asked.
        requests.get(f"{uri.rstrip('/')}/health", timeout=20)
    except requests.RequestException as error:
        reason = redact(" ".join(str(error).split()))
        raise RequestError(
            f"MLflow at {redact(uri)} does not answer ({reason}); check MLFLOW_TRACKING_URI and the server"
        ) from None


def tracking_uri(default_folder: str) -> str:
    """Where runs are tracked: $MLFLOW_TRACKING_URI, else a sqlite database in a local folder.

    Args:
        default_folder: Used, and created if need be, only where the environment gives nothing.

    Raises:
        RequestError: If the environment gives nothing and the folder is not local or cannot be made.
    """
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    if not is_local(default_folder):
        raise RequestError(
            f"{redact(default_folder)} cannot hold MLflow's database: set MLFLOW_TRACKING_URI to an MLflow server"
        )
    folder = Path(default_folder.removeprefix("file://")).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{folder}: cannot be made ({error.strerror}); use another folder") from None
    return f"sqlite:///{folder / 'mlflow.db'}"


def ensure_run(
    uri: str, experiment_name: str, run_name: str, tags: Mapping[str, str], *, claim: str | None = None
) -> str:
    """The id of the newest run of that name in that MLflow experiment; a new run if there is none.

    Args:
        uri: From ``tracking_uri``. Beside a sqlite database, artifacts go to its neighbour folder ``mlartifacts``;
            elsewhere the server decides.
        experiment_name: Made if need be.
        run_name: The same name finds the same run.
        tags: Set on the run, new or found.
        claim: From `emod.training.launch.claim_run`: a run of that name with another is somebody else's, or of a folder
            that was removed. None takes any.

    Raises:
        RequestError: If MLflow cannot be reached or refuses, or the name cannot be searched for.
    """
    if "'" in run_name or not run_name:
        raise RequestError(f"run_name = {run_name!r}: use letters, digits, dots, dashes, underscores")
    own = {RUN_NAME_TAG: run_name} | ({} if claim is None else {CLAIM_TAG: claim})
    with _worded(uri):
        client = MlflowClient(tracking_uri=uri)
        experiment_id = _ensure_experiment(client, uri, experiment_name)
        found = client.search_runs(
            [experiment_id],
            filter_string=" and ".join(f"tags.`{tag}` = '{value}'" for tag, value in own.items()),
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        info = found[0].info if found else client.create_run(experiment_id, run_name=run_name).info
        run_id = str(info.run_id)
        _set_tags(client, run_id, {**tags, **own})
    return run_id


def log_experiment(
    client: MlflowClient,
    run_id: str,
    experiment: Experiment,
    *,
    world_size: int | tuple[int, int],
    exclude: Collection[str] = (),
) -> None:
    """Record what the run is: params, ``experiment.yaml``, and tags for code, versions and world size.

    Params are the experiment's leaves (``pretrain.learning_rate``) but those that decide nothing of the run (its
    description, how shards are packed). Fields that only say where it computes (workers, gpu, ...) are tags, since a
    resume may change them. Repeating it with equal settings is harmless.

    Args:
        client: Of the run's tracking URI.
        run_id: From ``ensure_run``.
        experiment: Resolved.
        world_size: Number of workers of this attempt, or the least and the most; training then sets what it has.
        exclude: Top-level fields that play no part in this run; pretraining leaves out ``finetune``.

    Raises:
        RequestError: If the run was started with other settings.
    """
    plain = _redact_tree(experiment.model_dump(mode="json"))
    parts = {key: value for key, value in plain.items() if key not in {*UNDECIDING, *exclude}}
    leaves = dict(_leaves(parts))
    resources = {key: value for key, value in leaves.items() if key.rpartition(".")[2] in RESOURCE_FIELDS}
    params = {key: value for key, value in leaves.items() if key not in resources}
    logged = client.get_run(run_id).data.params
    for key, value in params.items():
        if logged.get(key, value) != value:
            raise RequestError(
                f"{key} = {value}, but this run was started with {logged[key]}: use another run_name or the old value"
            )
    new = [Param(key, value) for key, value in params.items() if key not in logged]
    for start in range(0, len(new), BATCH):
        client.log_batch(run_id, params=new[start : start + BATCH])
    client.log_text(run_id, dump_yaml(Experiment.model_validate_json(json.dumps(plain))), "experiment.yaml")
    _set_tags(
        client,
        run_id,
        {
            "emod.experiment": experiment.name,
            "emod.experiment_hash": fingerprint(experiment, exclude=("addresses",)),
            "emod.world_size": str(world_size) if isinstance(world_size, int) else "{}-{}".format(*world_size),
            **{f"emod.{key}": value for key, value in resources.items()},
            **_code_tags(),
        },
    )


def log_lineage(
    client: MlflowClient, run_id: str, *, store_url: str, manifest_hash: str, simulated: bool, corpora: Collection[str]
) -> None:
    """Record which shard store the run reads, as an MLflow dataset input and as tags.

    Args:
        client: Of the run's tracking URI.
        run_id: From ``ensure_run``.
        store_url: Where the store lies; secrets in it are cut out.
        manifest_hash: The tag holds it whole, the dataset's digest its first 36 characters (MLflow's limit).
        simulated: Whether any recording in the store is simulated.
        corpora: Read by this run.
    """
    url = redact(store_url)
    dataset = Dataset(
        name="shards",
        digest=manifest_hash[:DIGEST_LENGTH],
        source_type="local" if is_local(store_url) else store_url.partition("://")[0],
        source=json.dumps({"uri": url}),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    _set_tags(
        client,
        run_id,
        {
            "emod.manifest": manifest_hash,
            "emod.simulated": "true" if simulated else "false",
            "emod.corpora": ",".join(sorted(corpora)),
            "emod.store": url,
        },
    )


class MetricLog:
    """Metrics of one run, sent in batches, each name at most once per step, across resumes too.

    A name is asked for at the tracking store when it first appears: steps up to its last logged one are dropped, since
    a run resumed from a checkpoint replays them. NaN and infinities are not sent, because MLflow stores infinities as
    1.8e308, which ruins the chart; the tag ``emod.non_finite`` says which name had one first, and when.

    Batches are sent in a thread of their own, one after the other, so a slow server does not hold up the steps. After
    one that failed none is sent: a gap would not be filled by whoever resumes.
    """

    LARGEST_BUFFER = 500
    LONGEST_WAIT_S = 5.0

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._last_step: dict[str, int] = {}
        self._buffer: list[Metric] = []
        self._sent_at = time.monotonic()
        self._reported_non_finite = False
        self._lock = threading.Lock()
        self._sender = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow")
        self._failure: Exception | None = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of one step; steps rise. What is kept is sent with the next batch.

        Raises:
            DataError: If an earlier batch found MLflow's disk full.
            MlflowException: If an earlier batch was refused for another reason.
        """
        if self._failure is not None:
            raise self._failure
        now_ms = int(time.time() * 1000)
        for name, value in values.items():
            if step <= self._last_logged(name):
                continue
            self._last_step[name] = step
            if math.isfinite(value):
                with self._lock:
                    self._buffer.append(Metric(name, float(value), now_ms, step))
            elif not self._reported_non_finite:
                self._client.set_tag(self._run_id, "emod.non_finite", f"{name} = {value} at step {step}")
                self._reported_non_finite = True
        if len(self._buffer) >= self.LARGEST_BUFFER or time.monotonic() - self._sent_at > self.LONGEST_WAIT_S:
            self._sent_at = time.monotonic()
            self._sender.submit(self._send)

    def __enter__(self) -> MetricLog:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Sends what is kept, up to where the steps stopped; an error of theirs is the one to be told."""
        with suppress(Exception) if kind is not None else nullcontext():
            self.flush()

    def flush(self) -> None:
        """Send what is kept, and wait until all is sent; any thread may. Call it before each checkpoint and at the end.

        Raises:
            DataError, MlflowException: As `log`.
        """
        self._sender.submit(self._send).result()
        if self._failure is not None:
            raise self._failure

    def _send(self) -> None:
        with self._lock:
            kept, self._buffer = self._buffer, []
        for start in range(0, len(kept), self.LARGEST_BUFFER):
            if self._failure is not None:
                return
            batch = kept[start : start + self.LARGEST_BUFFER]
            try:
                self._client.log_batch(self._run_id, metrics=batch)
            except Exception as error:
                self._failure = self._worded(batch[0].step, error)

    def _worded(self, step: int, error: Exception) -> Exception:
        # What a full disk is called by SQLite, by Linux, and by PostgreSQL behind a server.
        if not re.search(r"disk is full|no space left|disk full|disk I/O error", str(error), re.IGNORECASE):
            return error
        return DataError(
            f"step {step}: no space for metrics in MLflow at {redact(self._client.tracking_uri)}; "
            "free some and give the same command again"
        )

    def _last_logged(self, name: str) -> int:
        if name not in self._last_step:
            history = self._client.get_metric_history(self._run_id, name)
            self._last_step[name] = max((metric.step for metric in history), default=-1)
        return self._last_step[name]


def finish(client: MlflowClient, run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
    """Mark the run as ended; ``ensure_run`` can take it up again.

    What made a run fail may be that MLflow cannot be written to: then there is a line on stderr and no second error.
    """
    try:
        client.set_terminated(run_id, status)
    except MlflowException as error:
        if status == "FINISHED":
            raise
        print(f"MLflow run {run_id} cannot be marked as {status}: {_first_line(error)}", file=sys.stderr)


def _redact_tree(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _redact_tree(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_redact_tree(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def _set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    client.log_batch(run_id, tags=[RunTag(key, redact(value)) for key, value in tags.items()])


def _ensure_experiment(client: MlflowClient, uri: str, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifact_location=_artifact_location(uri)))
        except MlflowException as error:
            # Another worker may have made it between the two calls.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)
    if experiment.lifecycle_stage != "active":
        raise RequestError(f"MLflow experiment {name!r} is deleted: restore it there, or use another name")
    return str(experiment.experiment_id)


def _artifact_location(uri: str) -> str | None:
    """Where a new experiment keeps files; MLflow's own default for a bare database is the current folder."""
    dialect = uri.partition(":")[0].partition("+")[0]
    if dialect == "sqlite":
        return str(Path(uri.partition(":///")[2].partition("?")[0]).resolve().parent / "mlartifacts")
    if dialect in {"postgresql", "mysql", "mssql"}:
        raise RequestError(
            f"MLFLOW_TRACKING_URI = {redact(uri)}: a bare database has no place for artifacts; put an MLflow server "
            "before it and give that one's http address"
        )
    return None


def _code_tags() -> dict[str, str]:
    tags = {"emod.version": emod.__version__, "emod.version.python": sys.version.split()[0]}
    for package in ("ray", "torch", "mne"):
        try:
            tags[f"emod.version.{package}"] = version(package)
        except PackageNotFoundError:
            continue
    if commit := _git_commit(Path(emod.__file__).parent):
        tags["emod.git_commit"] = commit
    return tags


def _git_commit(package: Path) -> str | None:
    """Commit of the repository that tracks the package, with ``-dirty`` if a tracked file was changed; else None."""
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*words: str) -> str | None:
        done = subprocess.run([git, "-C", str(package), *words], capture_output=True, text=True, check=False)  # noqa: S603
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed copy may lie inside somebody else's repository, so being in one is not enough.
    if ask("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = ask("rev-parse", "HEAD")
    if commit is None:
        return None
    return f"{commit}-dirty" if ask("status", "--porcelain", "--untracked-files=no") else commit


@contextmanager
def _worded(uri: str) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        raise RequestError(
            f"MLflow at {redact(uri)}: {_first_line(error)}; check MLFLOW_TRACKING_URI and that the server runs"
        ) from None


def _first_line(error: Exception) -> str:
    return redact((str(error).splitlines() or [type(error).__name__])[0])
