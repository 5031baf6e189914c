"""Imports run one way, the mathematics knows no cluster, and catalogs stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "platform" / "emod"

# Each may import those before it, and nothing after it.
ORDER = (
    "errors",
    "storage",
    "monitoring",
    "affect",
    "catalog",
    "cli",
    "page",
    "signal",
    "model",
    "objective",
    "simulation",
    "corpora",
    "shards",
    "sampling",
    "evaluation",
    "tracking",
    "ingest",
    "training",
    "tuning",
    "serving",
    "lease",
    "workflow",
    "evaluating",
    "ablating",
    "sweeping",
    "promoting",
    "evaluation_report",
    "ablation_report",
    "sweep_report",
    "promotion_report",
    "report",
    "study_report",
)
MATHEMATICS = ("affect", "signal", "model", "objective", "sampling")


def rooms_imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            # `from emod import storage` names a room as well.
            found |= {f"emod.{alias.name}" for alias in node.names} if node.module == "emod" else {node.module}
    return found


def sources(room: str) -> list[Path]:
    folder = PACKAGE / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{room}.py"]


def test_every_room_has_a_place_in_the_order() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.name not in {"__init__.py", "__pycache__"}}
    assert rooms == set(ORDER)


@pytest.mark.parametrize("room", ORDER)
def test_imports_run_one_way(room: str) -> None:
    allowed = set(ORDER[: ORDER.index(room) + 1])
    for path in sources(room):
        for name in rooms_imported(path):
            parts = name.split(".")
            if parts[0] == "emod" and len(parts) > 1 and parts[1] in ORDER:
                assert parts[1] in allowed, f"{path.relative_to(PACKAGE)} imports {name}"


@pytest.mark.parametrize("room", MATHEMATICS)
def test_mathematics_knows_no_cluster(room: str) -> None:
    for path in sources(room):
        roots = {name.split(".")[0] for name in rooms_imported(path)}
        assert not roots & {"ray", "mlflow"}, path


def test_platform_is_no_package() -> None:
    assert not (PACKAGE.parent / "__init__.py").exists(), "it would shadow the standard library's platform"


def test_catalogs_are_light() -> None:
    heavy = {"torch", "mlflow", "ray", "mne", "scipy", "pandas", "pyarrow"}
    code = f"import sys, emod.catalog, emod.cli; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
