"""Every command that infra/ shows is one that its job takes, and the upload behind it is small."""

import importlib.util
import re
import shlex
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private.runtime_env.packaging import create_package

import emod.cli
from tests.infra.rendering import INFRA, OVERLAYS, ROOT, render

# What infra/ may set: which run, on how many of which machines. Everything else is a choice of the experiment.
PLACES = re.compile(r"addresses\..+|\w+\.(run_name|workers|gpu|cpus_per_\w+)")
KEPT_OUT = {".venv", "venv", "__pycache__", ".git", "outputs", "tests", "*.png", "*.env", "*.dump", "backup"}


class _Parsed(Exception):
    """Ends a job once its flags are read."""


def _commands() -> list[tuple[str, str]]:
    """File -> every `python jobs/...` in it."""
    found = []
    for path in sorted(INFRA.rglob("*")):
        if not path.is_file() or path.suffix == ".png":
            continue
        text = re.sub(r" \\\n#? *", " ", path.read_text())
        for match in re.finditer(r"python (jobs/[^\n`\"&|#]*)", text):
            command = match[1].split(" ...")[0].strip()
            found.append((str(path.relative_to(ROOT)), command))
    return found


def _parse(command: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The job's own parser on its own flags, and the experiment they describe."""
    name, *flags = shlex.split(command)
    path = ROOT / name
    assert path.is_file(), f"{name} does not exist"
    spec = importlib.util.spec_from_file_location(f"infra_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    job = importlib.util.module_from_spec(spec)
    parse = emod.cli.JobParser.parse_known_args
    held = {}

    def keep(self: emod.cli.JobParser, *arguments: Any, **named: Any) -> None:
        held["arguments"], rest = parse(self, *arguments, **named)
        assert not rest, f"{command}: no flag of this job: {rest}"
        raise _Parsed

    with monkeypatch.context() as patched:
        patched.setattr(emod.cli.JobParser, "parse_known_args", keep)
        patched.setattr(sys, "argv", [name, *flags])
        spec.loader.exec_module(job)
        with pytest.raises(_Parsed):
            job.main()
    arguments = held["arguments"]
    if hasattr(arguments, "overrides"):
        for override in arguments.overrides:
            field = override.partition("=")[0]
            assert PLACES.fullmatch(field), f"--set {field} is a choice of an experiment, not of infra/"
        emod.cli.load_requested(arguments)  # the experiment exists, and has these fields
    return arguments


def test_there_are_commands_for_every_verb() -> None:
    shown = {shlex.split(command)[0] for place, command in _commands() if place == "infra/README.md"}
    verbs = {f"jobs/{path.name}" for path in (ROOT / "jobs").glob("*.py")} - {"jobs/quickstart.py", "jobs/serve.py"}
    assert verbs <= shown, "infra/README.md has a line for each job but the two that need no cluster"


@pytest.mark.parametrize(("place", "command"), _commands())
def test_a_command_is_one_that_its_job_takes(place: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _parse(command, monkeypatch)


@pytest.mark.parametrize(
    "broken", ["jobs/nothing.py", "jobs/pretrain.py --experiment nothing", "jobs/pretrain.py --fast"]
)
def test_a_command_that_no_job_takes_is_found(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((AssertionError, emod.cli.RequestError)):
        _parse(broken, monkeypatch)


def test_jobs_on_kubernetes_have_names_that_stay() -> None:
    """A retry is a new cluster: what it resumes is found by name alone."""
    for overlay in OVERLAYS:
        for each in render(INFRA / "kubernetes/overlays" / overlay):
            if each["kind"] == "RayJob":
                line = each["spec"]["entrypoint"]
                assert line.startswith("python jobs/")
                assert "ingest" in line or re.search(r"--set \w+\.run_name=[\w-]+", line), line


def test_sweep_and_evaluate_start_from_the_backbone_that_pretrain_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    for overlay in OVERLAYS:
        jobs = {
            each["metadata"]["name"]: each["spec"]["entrypoint"].removeprefix("python ")
            for each in render(INFRA / "kubernetes/overlays" / overlay)
            if each["kind"] == "RayJob"
        }
        read = {name: emod.cli.load_requested(_parse(line, monkeypatch)) for name, line in jobs.items()}
        names = {name: read[name].pretrain.run_name for name in ("emod-pretrain", "emod-sweep", "emod-evaluate")}
        assert len(set(names.values())) == 1, names
        corpora = set(read["emod-ingest"].corpora)
        assert all(set(experiment.corpora) <= corpora for experiment in read.values())


def test_lines_one_after_the_other_find_what_earlier_ones_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each training starts from a pretraining above it, on corpora that an ingest above it brings."""
    left, brought = set(), set()
    for command in re.findall(
        r"^ray job submit .* -- python (jobs/.*)", (INFRA / "README.md").read_text(), re.MULTILINE
    ):
        job = Path(shlex.split(command)[0]).stem
        if job not in ("ingest", "pretrain", "sweep", "evaluate", "finetune", "register"):
            continue
        experiment = emod.cli.load_requested(_parse(command, monkeypatch))
        if job == "ingest":
            brought |= set(experiment.corpora)
            continue
        assert set(experiment.corpora) <= brought, command
        if job == "pretrain":
            left.add(experiment.pretrain.run_name)
        assert experiment.pretrain.run_name in left, command
    assert len(left) > 1


def test_the_upload_is_sources_alone(tmp_path: Path) -> None:
    """As Ray packs it for `ray job submit --working-dir .`."""
    excludes = yaml.safe_load((INFRA / "runtime-env.yaml").read_text())["excludes"]
    assert set(excludes) == KEPT_OUT
    packed = tmp_path / "upload.zip"
    copy = tmp_path / "copy"
    # Without what other tests write meanwhile.
    left_out = (".venv*", ".git", "outputs", ".*_cache", ".hypothesis", "__pycache__", "tests")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*left_out))
    compiled = "platform/emod/__pycache__/cli.pyc"
    for secret in (
        compiled,
        "credentials.env",
        "infra/compose/.env",
        "mlflow.dump",
        "backup/mlflow/model",
        "venv/bin/python",
    ):
        (copy / secret).parent.mkdir(parents=True, exist_ok=True)
        (copy / secret).write_text("secret")
    create_package(str(copy), packed, include_gitignore=True, include_parent_dir=False, excludes=excludes)
    with zipfile.ZipFile(packed) as archive:
        names = archive.namelist()
    assert "platform/emod/__init__.py" in names
    assert "catalogs/emotion_words.yaml" in names
    assert not [name for name in names if name.startswith(("tests/", ".venv", "outputs/")) or name.endswith(".png")]
    assert not [name for name in names if re.search(r"\.env$|\.dump$|^backup|^venv|__pycache__", name)]
    assert packed.stat().st_size < 5e6
