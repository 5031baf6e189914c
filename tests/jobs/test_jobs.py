"""Every job: light help, one line and the right code when it cannot be done, a dry run that does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from emod.catalog import dump_yaml, load_experiment
from emod.tracking import tracking_uri
from emod.tracking.champion import champion_of, crown
from tests.jobs.conftest import ENVIRONMENT, ROOT, Job, Told, assert_refused
from tests.training.tiny_store import TINY, write_tiny_store

JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py"))
HEAVY = ("torch", "ray", "mlflow", "mne", "scipy", "pandas", "pyarrow", "matplotlib")


@pytest.fixture(scope="module")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("store"))
    write_tiny_store(url)
    return url


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", JOBS)
def test_help_is_light(name: str) -> None:
    """Nothing heavy is imported before the flags are read, so help comes within a second."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{name}.py', '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / 'jobs' / f'{name}.py')!r}, run_name='__main__')\n"
        "except SystemExit as stopped:\n"
        "    assert not stopped.code, stopped.code\n"
        f"print('heavy:', sorted(set({HEAVY}) & set(sys.modules)))\n"
    )
    source = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=source)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: {name}.py" in done.stdout
    assert "--dry-run" in done.stdout
    assert done.stdout.endswith("heavy: []\n")


@pytest.mark.parametrize("name", ["ingest", "pretrain", "finetune", "quickstart", "sweep", "register"])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--set", "pretrain.learning_rat=1.0e-3"), ("pretrain.learning_rat", "did you mean learning_rate?")),
        (("--set", "pretrain.epochs=many"), ("pretrain.epochs", '"many"')),
        (("--set", "pretrain.epochs"), ("pretrain.epochs", "a.b=c")),
        (("--experiment", "quickstrat"), ("quickstrat", "did you mean quickstart?")),
        (
            ("--set", "corpora=[deep]", "--set", "simulate={}", "--set", "finetune=", "--set", "pretrain.corpora="),
            ("deep", "did you mean deap?"),
        ),
        (("--verbose",), ("--verbose", "--help")),
    ],
)
def test_a_wrong_request_is_one_line(
    job: Job, no_ray: None, name: str, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_refused(job(name, *flags), 2, f"{name}.py: ", *words)


@pytest.mark.parametrize("name", ["ingest", "pretrain", "finetune", "sweep"])
def test_a_missing_store_address_names_both_places(job: Job, no_ray: None, name: str) -> None:
    assert_refused(job(name), 2, "addresses.store", "EMOD_STORE")


@pytest.mark.parametrize("name", ["pretrain", "finetune", "sweep"])
def test_a_folder_without_a_store_says_what_to_run(job: Job, no_ray: None, name: str, tmp_path: Path) -> None:
    assert_refused(job(name, "--set", f"addresses.store={tmp_path}/shards"), 2, f"{tmp_path}/shards", "jobs/ingest.py")


@pytest.mark.parametrize("name", ["pretrain", "finetune", "sweep"])
def test_a_missing_runs_address_names_both_places(job: Job, no_ray: None, name: str, store_url: str) -> None:
    assert_refused(job(name, "--set", f"addresses.store={store_url}"), 2, "addresses.runs", "EMOD_RUNS")


def test_a_missing_data_address_names_both_places(job: Job, no_ray: None, tmp_path: Path) -> None:
    told = job("ingest", "--set", f"addresses.store={tmp_path}/shards", "--set", f"addresses.data.deap={tmp_path}")
    assert_refused(told, 2, "addresses.data.seed_iv", "EMOD_DATA")


@pytest.mark.parametrize("dry", [("--dry-run",), ()])
def test_a_missing_data_folder_is_named(job: Job, ray_cluster: None, tmp_path: Path, dry: tuple[str, ...]) -> None:
    addresses = [f"--set=addresses.data.deap={tmp_path}/nowhere", f"--set=addresses.store={tmp_path}/shards"]
    assert_refused(job("ingest", "--set=corpora=[deap]", *addresses, *dry), 2, f"{tmp_path}/nowhere")
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize("name", ["pretrain", "finetune", "sweep"])
def test_a_damaged_manifest_is_bad_data(job: Job, no_ray: None, name: str, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / f"manifest-000001-{'0' * 16}.json").write_text('{"format": 1')
    assert_refused(job(name, "--set", f"addresses.store={tmp_path}/shards"), 3, "manifest-000001", "restore it")


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_a_cut_off_shard_is_bad_data(job: Job, no_ray: None, name: str, tmp_path: Path) -> None:
    url = str(tmp_path / "shards")
    write_tiny_store(url)
    for path in Path(url, "shards", "seed_iv").glob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-40])
    told = job(name, "--experiment", "finetune", "--set", f"addresses.store={url}", "--dry-run")
    assert_refused(told, 3, "shards/seed_iv/", "restore it")


def test_a_backbone_that_is_not_there_is_asked_for(job: Job, no_ray: None, store_url: str, tmp_path: Path) -> None:
    addresses = ["--set", f"addresses.store={store_url}", "--set", f"addresses.runs={tmp_path}/runs"]
    told = job("finetune", *addresses, "--set", "pretrain.run_name=mine")
    assert_refused(told, 2, f"{tmp_path}/runs", "'mine'", "jobs/pretrain.py")


def test_nothing_to_fine_tune_is_a_wrong_request(job: Job, no_ray: None, store_url: str) -> None:
    told = job("finetune", "--experiment", "pretrain", "--set", f"addresses.store={store_url}", "--dry-run")
    assert_refused(told, 2, "no finetune section")


def test_a_dry_sweep_shows_what_varies_and_starts_nothing(
    job: Job, no_ray: None, store_url: str, tmp_path: Path
) -> None:
    addresses = ["--set", f"addresses.store={store_url}", "--set", f"addresses.runs={tmp_path}/runs"]
    told = job("sweep", *addresses, "--set", "finetune.gpu=false", "--dry-run")
    assert told.code == 0
    assert "plan: 32 trials of 100 epochs at most; search tpe; stopping asha from epoch 4, one in 3" in told.out
    assert "plan: varies learning_rate, backbone_rate, layer_rate" in told.out
    assert "test windows are not read" in told.out
    assert not (tmp_path / "runs").exists()


def test_a_registry_without_the_model_is_told(job: Job, no_ray: None, tmp_path: Path) -> None:
    runs = ["--set", f"addresses.runs={tmp_path}/runs"]
    assert_refused(job("register", *runs, "--rollback"), 2, f"{tmp_path}/runs: no MLflow database there")
    assert not (tmp_path / "runs").exists()
    MlflowClient(tracking_uri(f"{tmp_path}/runs")).search_experiments()
    assert_refused(job("register", *runs, "--rollback"), 2, "promote.name = emod: no registered model")
    assert_refused(job("register", *runs, "--card"), 2, "models:/emod@candidate", "name another")


def test_a_dry_rollback_moves_nothing(job: Job, no_ray: None, tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri(f"{tmp_path}/runs"))
    client.create_registered_model("emod")
    for number in ("1", "2"):
        client.create_model_version("emod", f"/nowhere/{number}")
        crown(client, "emod", number, [], instead_of=champion_of(client, "emod"))
    flags = ["--set", f"addresses.runs={tmp_path}/runs", "--rollback"]
    assert job("register", *flags, "--dry-run").out == "champion of emod: would be version 1, no longer 2\n"
    assert champion_of(client, "emod") == "2"
    assert job("register", *flags).out == "champion of emod: version 1, no longer 2\n"
    assert champion_of(client, "emod") == "1"


def test_quickstart_wants_both_or_neither(job: Job, no_ray: None) -> None:
    assert_refused(job("quickstart", "--data", "somewhere"), 2, "--data", "--corpus")
    assert_refused(job("quickstart", "--data", "somewhere", "--corpus", "deep"), 2, "deep", "did you mean deap?")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--corpus", "deep", "--subjects", "1"), ("deep", "did you mean deap?")),
        (("--corpus", "deap", "--subjects", "none"), ("--subjects", "none")),
        (("--corpus", "deap", "--subjects", "0"), ("subjects", "0")),
        (("--corpus", "deap"), ("--subjects",)),
    ],
)
def test_simulate_refuses_in_one_line(job: Job, tmp_path: Path, flags: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_refused(job("simulate", "--out", str(tmp_path / "data"), *flags), 2, "simulate.py: ", *words)
    assert not (tmp_path / "data").exists()


def test_a_dry_pretraining_shows_and_does_nothing(job: Job, no_ray: None, store_url: str, tmp_path: Path) -> None:
    before = tree(Path(store_url))
    overrides = [
        "corpora=[deap, seed_iv]",
        f"addresses.store={store_url}",
        f"addresses.runs={tmp_path}/runs",
        "addresses.data.deap=s3://key:hunter2@lab/DEAP",
        f"model={TINY}",
        "pretrain.rounds=2",
        "pretrain.epochs=3",
        "pretrain.workers=5",
    ]
    told = job("pretrain", *(f"--set={override}" for override in overrides), "--dry-run")
    assert (told.code, told.err) == (0, "")
    assert "hunter2" not in told.out
    shown, *plan = told.out.split("plan: ")
    # One of six subjects is watched: 60 windows a corpus, 18 a corpus and batch make 3 steps an epoch.
    assert plan == ["9 steps of 36 windows on 5 workers\n", "watched on subjects of deap: 1, seed_iv: 1\n"]
    unwatched = job("pretrain", *(f"--set={o}" for o in (*overrides, "pretrain.watch_subjects=0.0")), "--dry-run")
    assert unwatched.out.splitlines()[-1].startswith("plan: watched on nobody: set pretrain.watch_subjects, or add a")
    resolved = dump_yaml(load_experiment("pretrain", overrides))
    assert yaml.safe_load(shown) == yaml.safe_load(resolved.replace("key:hunter2@", "***@"))
    assert tree(Path(store_url)) == before
    assert not (tmp_path / "runs").exists()


def test_a_dry_fine_tuning_shows_split_and_priors(job: Job, no_ray: None, store_url: str, tmp_path: Path) -> None:
    before = tree(Path(store_url))
    flags = ["--set", f"addresses.store={store_url}", "--set", f"addresses.runs={tmp_path}/runs"]
    told = job("finetune", *flags, "--set", "finetune.targets=[emotion, valence]", "--dry-run")
    assert (told.code, told.err) == (0, "")
    plans = [line for line in told.out.splitlines() if line.startswith("plan: ")]
    assert len(plans) == 2
    # Of six subjects with twelve windows each, one validates and two test.
    assert plans[0].startswith("plan: emotion: 100 epochs; windows {'train': 36, 'validation': 12, 'test': 24}")
    assert "fear 0.25, happy 0.25, neutral 0.25, sad 0.25" in plans[0]
    assert plans[1].startswith("plan: valence: ")
    assert tree(Path(store_url)) == before
    assert not (tmp_path / "runs").exists()


def test_dry_simulation_and_dry_ingest(job: Job, no_ray: None, tmp_path: Path) -> None:
    """The first of nothing, the second of recordings that the first would have written."""
    data, store = tmp_path / "deap", tmp_path / "shards"
    flags = ["--corpus", "deap", "--out", str(data), "--subjects", "2", "--trials", "2", "--time-scale", "0.05"]
    told = job("simulate", *flags, "--dry-run")
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("deap: 2 recordings, ")
    assert yaml.safe_load(told.out.partition("\n")[2])["time_scale"] == 0.05
    assert not data.exists()

    told = job("simulate", *flags, "--signal", "tags")
    assert told.code == 0
    assert told.err.splitlines() == ["simulate: 1/2 subject s01 session 1", "simulate: 2/2 subject s02 session 1"]
    before = tree(tmp_path)
    addresses = [f"--set=addresses.data.deap={data}", f"--set=addresses.store={store}"]
    told = job("ingest", "--set=corpora=[deap]", *addresses, "--dry-run")
    assert (told.code, told.err) == (0, "")
    assert told.out.endswith("plan: deap: 2 recordings, to do\n")
    assert tree(tmp_path) == before


def test_a_dry_quickstart_starts_nothing(job: Job, no_ray: None, tmp_path: Path) -> None:
    told = job("quickstart", "--out", str(tmp_path / "out"), "--dry-run")
    assert (told.code, told.err) == (0, "")
    assert f"store: {tmp_path}/out/store\n" in told.out
    assert told.out.splitlines()[-1].startswith("plan: ")
    assert not (tmp_path / "out").exists()


def test_recordings_that_cannot_be_read_are_bad_data(job: Job, ray_cluster: None, tmp_path: Path) -> None:
    data, store = tmp_path / "deap", tmp_path / "shards"
    simulated = job(
        *("simulate", "--corpus", "deap", "--out", str(data), "--subjects", "1"),
        *("--trials", "2", "--time-scale", "0.05", "--signal", "tags"),
    )
    assert simulated.code == 0
    (recording,) = data.rglob("*.dat")
    recording.write_bytes(recording.read_bytes()[:1000])
    addresses = [f"--set=addresses.data.deap={data}", f"--set=addresses.store={store}"]
    told = job("ingest", "--set=corpora=[deap]", *addresses)
    assert told.code == 3
    last = told.err.splitlines()[-1]
    assert last.startswith("ingest.py: ")
    assert "deap" in last
    assert "Traceback" not in told.err
    assert not list(store.glob("manifest-*"))


@pytest.fixture
def two_corpora(job: Job, tmp_path: Path) -> list[str]:
    """Flags of an ingest of a tiny DEAP into a new store; DASPS lies beside it."""
    for name in ("deap", "dasps"):
        flags = ["--corpus", name, "--out", str(tmp_path / name), "--subjects", "1"]
        assert job("simulate", *flags, "--trials", "2", "--time-scale", "0.1", "--signal", "tags").code == 0
    return [
        "--set=corpora=[deap]",
        *(f"--set=addresses.data.{name}={tmp_path / name}" for name in ("deap", "dasps")),
        f"--set=addresses.store={tmp_path / 'shards'}",
        "--set=signal.window_s=2",
        "--set=signal.ica.enabled=false",
    ]


def test_ingest_says_what_it_computed_and_what_not(
    job: Job, ray_cluster: None, two_corpora: list[str], tmp_path: Path
) -> None:
    first = job("ingest", *two_corpora)
    assert (first.code, first.out.splitlines()[0]) == (0, "deap: 6 windows of 1 subjects, 0 problems; computed")
    again = job("ingest", *two_corpora)
    assert again.code == 0
    assert again.out.splitlines()[0].endswith("0 problems; unchanged, nothing computed")
    assert job("ingest", *two_corpora, "--dry-run").out.endswith("plan: deap: 1 recordings, unchanged\n")
    whole = job("ingest", *two_corpora, "--verify")
    assert (whole.code, whole.out, whole.err) == (0, f"version 1 of {tmp_path}/shards: whole; deap\n", "")

    (shard,) = (tmp_path / "shards" / "shards" / "deap").glob("*.arrow")
    content = shard.read_bytes()
    shard.unlink()
    broken = job("ingest", *two_corpora, "--verify")
    assert (broken.code, broken.err.count("\n")) == (3, 1)
    assert broken.out.startswith(f"deap: shards/deap/{shard.name}: missing (")
    assert "version 1" in broken.err
    assert "1 problems; restore the files named above, or remove them and ingest again" in broken.err
    damage = f"shards/deap/{shard.name} of the store was missing or damaged"
    assert job("ingest", *two_corpora, "--dry-run").out.endswith(f"plan: deap: 1 recordings, to do again: {damage}\n")
    repaired = job("ingest", *two_corpora)
    assert repaired.code == 0
    assert repaired.out.splitlines()[0].endswith(f"computed again: {damage}")
    assert shard.read_bytes() == content


def test_a_dry_ingest_refuses_what_the_ingest_would(
    job: Job, ray_cluster: None, two_corpora: list[str], tmp_path: Path
) -> None:
    assert job("ingest", *two_corpora).code == 0
    before = tree(tmp_path / "shards")
    other = ["--set=corpora=[dasps]", "--set=signal.window_s=4", "--set=signal.ica.seed=7"]
    dry, real = (job("ingest", *two_corpora, *other, *flags) for flags in (("--dry-run",), ()))
    assert dry == real
    assert_refused(
        *(real, 2, f"{tmp_path}/shards holds deap", "signal.ica.seed is 0 there and 7 here"),
        "signal.window_s is 2.0 there and 4.0 here",
    )
    greedy = ["--set=signal.clip=10", "--set=ingest.cpus_per_recording=10000"]
    for flags in (("--dry-run",), ()):
        told = job("ingest", *two_corpora, *greedy, *flags)
        assert_refused(told, 2, "ingest.cpus_per_recording is 10000", "set it to what is there")
    assert tree(tmp_path / "shards") == before


def test_a_job_is_a_process(tmp_path: Path) -> None:
    """As users start it: exit code, one line, no traceback and no warning of a library."""
    clean = {key: value for key, value in os.environ.items() if key not in ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "pretrain.py"), f"--set=addresses.store=s3://key:hunter2@{'x' * 64}/"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**clean, "PYTHONPATH": str(ROOT / "platform"), "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"},
    )
    assert "hunter2" not in done.stdout + done.stderr
    assert_refused(Told(done.returncode, done.stdout, done.stderr), 2, "pretrain.py: s3://***@")
    assert list(tmp_path.iterdir()) == []
