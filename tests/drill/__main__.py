"""The drill: the jobs on a cluster of real parts, five of them while those are killed. python -m tests.drill

A head and two workers in network namespaces, an S3 server, MLflow on PostgreSQL; the jobs are submitted over HTTP with
a token. What was lost or doubled is counted afterwards in the store, in MLflow's database and in every log. It wants
root, Debian's postgresql and iproute2 (make debian) and some 25 minutes. The last line but the table is the verdict;
exit code 1 if anything was lost, doubled or told.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow.parquet as pq
from rich.console import Console

from emod.shards import ShardStore
from tests.drill.servers import FaultyS3, Postgres, Server, mlflow_server
from tests.machines import Machines, machines
from tests.network import DEVICE, Network

CONSOLE = Console()
BUCKET = "drill"
DISK_MB = 600
# Of catalogs/experiments/drill.yaml.
STEPS, TRIALS, EPOCHS, TRAININGS = 960, 6, 8, 8
LOST_MACHINE = "a machine is lost (raylet and workers), back after 10 s"
# As they are called in infra/README.md.
COLUMNS = ("fault", "during", "what happened", "longest pause", "results lost", "results doubled", "points doubled")
_MOST_SUBMISSIONS = 6
_LONGEST_JOB_S = 900.0
# Pieces of work after a fault by which a job is seen to go on.
_GOES_ON = 2


@dataclass
class Row:
    """A fault and what came of it."""

    fault: str
    during: str
    happened: str
    pause_s: float = 0.0
    counted: Counts | None = None

    def cells(self) -> tuple[str, ...]:
        """As `COLUMNS`."""
        assert self.counted is not None
        found = self.counted
        counted = ("none made" if count is None else str(count) for count in (found.lost, found.doubled, found.points))
        return self.fault, self.during, self.happened, f"{self.pause_s:.0f} s", *counted


@dataclass(frozen=True)
class Counts:
    """What a job's faults cost, counted once it was done.

    Attributes:
        points: Metric points that are there twice; None of a job that makes none.
    """

    lost: int
    doubled: int
    points: int | None

    @property
    def whole(self) -> bool:
        return not (self.lost or self.doubled or self.points)


@dataclass(frozen=True)
class Fault:
    """Something that is done to a cluster.

    Attributes:
        name: What.
        at: After so many pieces of the job's work.
        strike: Does it.
        mend: Undoes it.
        lasts_s: Between the two.
    """

    name: str
    at: int
    strike: Callable[[], None]
    mend: Callable[[], None] = lambda: None
    lasts_s: float = 0.0


class Progress(Protocol):
    """When each piece of a job's work was done, in seconds of the wall clock."""

    def __call__(self) -> list[float]:
        """In order."""


class Files:
    """A piece of work leaves a file, which may be removed later."""

    def __init__(self, folder: Path, pattern: str) -> None:
        self._folder, self._pattern = folder, pattern
        self._seen: dict[Path, float] = {}

    def __call__(self) -> list[float]:
        for path in self._folder.rglob(self._pattern):
            with suppress(FileNotFoundError):
                self._seen.setdefault(path, path.stat().st_mtime)
        return sorted(self._seen.values())


class Points:
    """A piece of work leaves a point of a metric, which says when it was made."""

    def __init__(self, postgres: Postgres, name: str, key: str) -> None:
        self._postgres = postgres
        self._query = (
            f"select timestamp from metrics join runs using (run_uuid) where name {name} and key = '{key}' order by 1"
        )

    def __call__(self) -> list[float]:
        return [int(str(timestamp)) / 1000 for (timestamp,) in self._postgres.ask(self._query)]


@dataclass
class Place:
    """All parts of the drill."""

    cluster: Machines
    s3: FaultyS3
    postgres: Postgres
    mlflow: Server
    told: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def job(
        self, *words: str, faults: Sequence[Fault] = (), progress: Progress = list, ends_with: tuple[int, ...] = (0,)
    ) -> None:
        """A job to its end, submitted again whenever it ends with another exit code."""
        name = Path(words[0]).stem
        command, began, submissions = ("python", *words), time.monotonic(), 1
        print(f"{time.strftime('%H:%M:%S')} {' '.join(command)}", flush=True)
        running = _Running(self.cluster.submit(*command))

        def say(what: str) -> None:
            print(f"  {time.monotonic() - began:4.0f} s: {what}", flush=True)

        ends: list[tuple[float, str]] = []

        def again() -> None:
            nonlocal running, submissions
            self.told.append(running.read())
            submissions += 1
            assert submissions <= _MOST_SUBMISSIONS, running.read()[-4000:]
            ends.append((time.time(), f"exit code {running.code}"))
            say(f"{ends[-1][1]}: {running.last_line()}")
            running = _Running(self.cluster.submit(*command))

        def until(reached: Callable[[], bool]) -> None:
            while not reached():
                if running.ended and running.code == 0:
                    return  # done, before it could be seen to go on
                if running.ended:
                    again()
                assert time.monotonic() - began < _LONGEST_JOB_S, running.read()[-4000:]
                time.sleep(0.2)

        struck: list[float] = []
        for fault in faults:
            until(lambda fault=fault: len(progress()) >= fault.at)  # type: ignore[misc]
            assert not running.ended, f"{name} was done before {fault.name}: {running.read()[-2000:]}"
            say(f"{len(progress())} done; {fault.name}")
            struck.append(time.time())
            fault.strike()
            time.sleep(fault.lasts_s)
            fault.mend()
            mended = time.time()
            # What had left the job before the fault may become known after it.
            until(lambda mended=mended: len([at for at in progress() if at > mended + 1]) >= _GOES_ON)  # type: ignore[misc]
            say(f"{len(progress())} done; it goes on")
        while running.wait() not in ends_with:
            again()
        self.told.append(running.read())
        say(f"done, exit code {running.code}; {running.last_line()}")
        moments = progress()
        for fault, first, last in zip(faults, struck, [*struck, math.inf][1:], strict=True):
            codes = [said for at, said in ends if first < at <= last]
            happened = f"the job ended with {', '.join(codes)}; submitted again, it went on" if codes else "it went on"
            self.rows.append(Row(fault.name, name, happened, _longest_pause(moments, first, last)))

    def count(self, job: str, counts: Counts) -> None:
        """What was lost and doubled, for every fault of a job."""
        for row in self.rows:
            if row.during == job:
                row.counted = counts


class _Running:
    """A submission."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def code(self) -> int:
        return int(self._process.returncode)

    def wait(self) -> int:
        return self._process.wait()

    def read(self) -> str:
        if self.ended:
            self._reader.join()
        return "".join(self._lines)

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)

    def last_line(self) -> str:
        """The job's own, not the submission's."""
        lines = [line for line in self.read().splitlines() if line.strip() and not line.startswith("raysubmit_")]
        return lines[-1][:160] if lines else ""


def _longest_pause(moments: Sequence[float], first: float, last: float) -> float:
    """Between two pieces of work that followed each other, of those that ended between two times."""
    pairs = itertools.pairwise(moments)
    return max((after - before for before, after in pairs if first < after <= last), default=0.0)


@contextmanager
def place() -> Iterator[Place]:
    """Everything started, and at the end removed."""
    if os.geteuid() != 0:
        raise SystemExit("drill: network namespaces and a small disk need root")
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="emod-drill-"))
        folder.chmod(0o755)  # for PostgreSQL's own user
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        network = Network()
        stack.callback(network.remove)
        postgres = Postgres(folder / "postgres")
        stack.callback(postgres.stop)
        mlflow, address = mlflow_server(postgres, network.address, folder)
        stack.callback(mlflow.kill)
        s3 = FaultyS3(network.address, folder, disk_mb=DISK_MB, buckets=[BUCKET])
        stack.callback(s3.stop)
        store = {
            "AWS_ACCESS_KEY_ID": s3.key,
            "AWS_SECRET_ACCESS_KEY": s3.secret,
            "AWS_ENDPOINT_URL_S3": s3.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        os.environ.update(store)
        user, password = "drill", postgres.password  # MLflow asks nobody; a server that does would take them like this
        variables = {
            "OMP_NUM_THREADS": "1",
            "EMOD_DATA": f"s3://{BUCKET}/recordings",
            "EMOD_STORE": f"s3://{BUCKET}/store",
            "EMOD_RUNS": f"s3://{BUCKET}/runs",
            "EMOD_CACHE": str(folder / "cache"),
            "MLFLOW_TRACKING_URI": address.replace("://", f"://{user}:{password}@"),
            "RAY_LOGGING_CONFIG_ENCODING": "JSON",
            # The machines share one name, which leads each of them to itself.
            "GLOO_SOCKET_IFNAME": DEVICE,
            **store,
        }
        cluster = stack.enter_context(machines(2, variables, network))
        yield Place(cluster, s3, postgres, mlflow)


def faults_of(drill: Place) -> dict[str, list[Fault]]:
    """Job -> what is done to it, and when."""
    cluster, s3, mlflow = drill.cluster, drill.s3, drill.mlflow

    def kill_worker(title: str) -> Callable[[], None]:
        def strike() -> None:
            patience = time.monotonic() + 60
            found: list[int] = []
            while not found:
                assert time.monotonic() < patience, f"no {title} to kill"
                found = [number for name in ("worker-1", "worker-2") for number in cluster.processes(name, title)]
            os.kill(found[0], signal.SIGKILL)

        return strike

    def kill_driver() -> None:
        drivers = cluster.processes("head", "python jobs/")
        assert drivers, "no driver to kill"
        for number in drivers:
            os.kill(number, signal.SIGKILL)

    def lose_cluster() -> None:
        for name in ("head", "worker-1", "worker-2"):
            cluster.kill(name)

    def new_cluster() -> None:
        cluster.start("head", head=True)
        cluster.wait_until_ready()
        for name in ("worker-1", "worker-2"):
            cluster.start(name)

    def machine(name: str) -> dict[str, Callable[[], None]]:
        return {"strike": lambda: cluster.kill(name), "mend": lambda: cluster.start(name)}

    def mood(name: str) -> dict[str, Callable[[], None]]:
        return {"strike": lambda: setattr(s3, "mood", name), "mend": lambda: setattr(s3, "mood", "well")}

    dead_s3 = {"strike": s3.server.kill, "mend": s3.server.start}
    dead_mlflow = {"strike": mlflow.kill, "mend": mlflow.start}
    return {
        "ingest": [
            Fault("a worker is killed", 4, kill_worker("ray::Map")),
            Fault("S3 answers every other request with 503", 10, **mood("busy"), lasts_s=10),
            Fault(LOST_MACHINE, 16, **machine("worker-2"), lasts_s=10),
            Fault("S3 answers a second late", 26, **mood("slow"), lasts_s=10),
            Fault("the driver is killed", 31, kill_driver),
            Fault("the S3 server is killed, back after 20 s", 36, **dead_s3, lasts_s=20),
        ],
        "pretrain": [
            Fault("a worker is killed", 80, kill_worker("ray::RayTrainWorker")),
            Fault(LOST_MACHINE, 200, **machine("worker-1"), lasts_s=10),
            Fault("the MLflow server is killed, back after 20 s", 320, **dead_mlflow, lasts_s=20),
            Fault("the S3 server is killed, back after 20 s", 440, **dead_s3, lasts_s=20),
            Fault("the disk below the bucket is full for 20 s", 560, s3.fill, s3.empty, 20),
            Fault("S3 says that the token has expired, for 20 s", 680, **mood("expired"), lasts_s=20),
            Fault("the driver is killed", 800, kill_driver),
        ],
        "sweep": [
            Fault(LOST_MACHINE, 8, **machine("worker-2"), lasts_s=10),
            Fault("the MLflow server is killed, back after 20 s", 20, **dead_mlflow, lasts_s=20),
            Fault("the driver is killed", 30, kill_driver),
        ],
        "finetune": [
            Fault("a worker is killed", 2, kill_worker("ray::RayTrainWorker")),
            Fault("the driver is killed", 5, kill_driver),
        ],
        "evaluate": [
            Fault("a worker is killed", 1, kill_worker("ray::_answer")),
            Fault("the head is lost, and the cluster with it; a new one comes", 4, lose_cluster, new_cluster),
        ],
    }


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    signal.signal(signal.SIGTERM, lambda *told: sys.exit(1))  # and remove what was started
    began = time.monotonic()
    with place() as drill:
        faults = faults_of(drill)
        disk = drill.s3.disk / BUCKET
        experiment = ("--experiment", "drill")
        # Names of runs, as SQL says them, and a metric of each epoch.
        trials = ("like 'drill-sweep/%'", "validation")
        finetuning = ("= 'drill-finetune-emotion'", "finetune/emotion/loss")
        for corpus, size in {"deap": ("20", "16", "0.2"), "seed_iv": ("10", "6", "0.06")}.items():
            flags = ("--subjects", size[0], "--trials", size[1], "--time-scale", size[2], "--effect", "strong")
            drill.job("jobs/simulate.py", "--corpus", corpus, "--out", f"s3://{BUCKET}/recordings/{corpus}", *flags)
        drill.job("jobs/ingest.py", *experiment, "--set", f"addresses.store=s3://{BUCKET}/calm")
        drill.job(
            "jobs/ingest.py",
            *experiment,
            faults=faults["ingest"],
            progress=Files(disk / "store/staging", "*.arrow"),
        )
        drill.count("ingest", counted_windows())
        drill.job(
            "jobs/pretrain.py",
            *experiment,
            faults=faults["pretrain"],
            progress=Points(drill.postgres, "= 'drill-pretrain'", "loss"),
        )
        drill.job("jobs/pretrain.py", *experiment, "--set", "pretrain.run_name=drill-calm")
        drill.count("pretrain", counted_steps(drill.postgres))
        drill.job("jobs/sweep.py", *experiment, faults=faults["sweep"], progress=Points(drill.postgres, *trials))
        drill.count("sweep", counted_epochs(drill.postgres, *trials, trainings=TRIALS))
        drill.job(
            "jobs/finetune.py", *experiment, faults=faults["finetune"], progress=Points(drill.postgres, *finetuning)
        )
        drill.count("finetune", counted_epochs(drill.postgres, *finetuning, trainings=1))
        drill.job(
            "jobs/evaluate.py",
            *experiment,
            faults=faults["evaluate"],
            progress=Files(disk / "runs/drill-evaluate", "*.parquet"),
        )
        drill.count("evaluate", counted_answers(disk / "runs/drill-evaluate", drill.postgres))
        drill.job("jobs/register.py", *experiment, ends_with=(0, 3))  # 3: the gate says no to so small a model
        found = told_secrets(drill)
    for line in found:
        CONSOLE.print(f"[red]a secret in {line}[/]")
    print(f"{(time.monotonic() - began) / 60:.1f} minutes, {os.cpu_count()} cores\n")
    for cells in (COLUMNS, ["---"] * len(COLUMNS), *(row.cells() for row in drill.rows)):
        print(f"| {' | '.join(cells)} |")
    whole = not found and all(row.counted is not None and row.counted.whole for row in drill.rows)
    CONSOLE.print("[green]nothing lost, doubled or told[/]" if whole else "[red]not whole[/]")
    return 0 if whole else 1


def counted_windows() -> Counts:
    """Of the store that was made under faults, beside the one that was made in peace from the same recordings."""
    calm, store = (ShardStore.open(f"s3://{BUCKET}/{name}") for name in ("calm", "store"))
    problems = store.verify()
    assert not problems, problems
    lost = doubled = 0
    for corpus in calm.corpora:
        wanted = Counter(calm.metadata(corpus)["window_id"].to_pylist())
        found = Counter(store.metadata(corpus)["window_id"].to_pylist())
        lost += (wanted - found).total()
        doubled += (found - wanted).total()
    corpora = tuple(calm.corpora)
    if not lost + doubled:
        assert calm.manifest.hash_of(corpora) == store.manifest.hash_of(corpora), "other windows under the same names"
    return Counts(lost, doubled, None)


def counted_steps(postgres: Postgres) -> Counts:
    """Steps whose loss is not that of the same step of an undisturbed run: other windows, other weights, or none."""
    calm, found = ({step: loss for step, loss in _losses(postgres, name)} for name in ("drill-calm", "drill-pretrain"))
    assert sorted(calm) == list(range(1, STEPS + 1))
    lost = sum(not math.isclose(found.get(step, math.nan), loss, rel_tol=1e-4) for step, loss in calm.items())
    doubled = len(_losses(postgres, "drill-pretrain")) - len(found)
    return Counts(lost, doubled, doubled_points(postgres, "= 'drill-pretrain'"))


def _losses(postgres: Postgres, name: str) -> list[tuple[int, float]]:
    query = f"select step, value from metrics join runs using (run_uuid) where name = '{name}' and key = 'loss'"
    return [(int(str(step)), float(str(loss))) for step, loss in postgres.ask(query)]


def counted_epochs(postgres: Postgres, name: str, key: str, *, trainings: int) -> Counts:
    """Epochs of each training, from the first to its last without a gap."""
    query = f"select name, step from metrics join runs using (run_uuid) where name {name} and key = '{key}'"
    epochs: dict[str, Counter[int]] = {}
    for training, step in postgres.ask(query):
        epochs.setdefault(str(training), Counter())[int(str(step))] += 1
    lost = (trainings - len(epochs)) * EPOCHS + sum(
        len(set(range(1, EPOCHS + 1)) - set(each)) for each in epochs.values()
    )
    doubled = sum(of_trial.total() - len(of_trial) for of_trial in epochs.values())
    return Counts(lost, doubled, doubled_points(postgres, name))


def counted_answers(folder: Path, postgres: Postgres) -> Counts:
    """Of each training to each test window of the split, which is the same for all."""
    (split,) = (folder / "splits").glob("*.json")
    windows = set(json.loads(split.read_text())["window_ids"]["test"])
    assert windows
    files = sorted((folder / "answers").glob("*.parquet"))
    answers = [Counter(pq.read_table(path)["window_id"].to_pylist()) for path in files]
    lost = (TRAININGS - len(answers)) * len(windows) + sum(len(windows - set(each)) for each in answers)
    doubled = sum(each[window] - 1 for each in answers for window in windows & set(each))
    return Counts(lost, doubled, doubled_points(postgres, "= 'drill-evaluate'"))


def doubled_points(postgres: Postgres, name: str) -> int:
    """Metric points of these runs that are there more than once."""
    query = f"""select count(*) from (select 1 from metrics join runs using (run_uuid) where name {name}
        group by run_uuid, key, step having count(*) > 1) as doubled"""
    return _number(postgres.ask(query))


def told_secrets(drill: Place) -> list[str]:
    """Where a secret of the drill can be read: what jobs printed, what Ray wrote, MLflow's database, the bucket."""
    secrets = [drill.cluster.token, drill.s3.secret, drill.postgres.password]
    assert all(secrets)
    pattern = re.compile("|".join(secrets).encode())
    found = [f"what job {n} printed" for n, text in enumerate(drill.told) if pattern.search(text.encode())]
    found += ["MLflow's database"] * bool(pattern.search(drill.postgres.dump().encode()))
    for folder in (drill.cluster.folder, drill.s3.disk.parent):
        for path in folder.rglob("*"):
            with suppress(OSError):  # a socket, or gone meanwhile
                if path.is_file() and "postgres/data" not in str(path) and pattern.search(path.read_bytes()):
                    found.append(str(path))
    return found


def _number(rows: Sequence[tuple[object, ...]]) -> int:
    return int(str(rows[0][0])) if rows else 0


if __name__ == "__main__":
    raise SystemExit(main())
