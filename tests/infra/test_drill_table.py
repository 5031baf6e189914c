"""The drill's table in infra/README.md: a row for each fault, with nothing lost and nothing doubled."""

import ast
import re

from tests.infra.rendering import INFRA, ROOT


def _faults() -> list[str]:
    """As they stand in the drill; its servers need packages that only the drill has."""
    tree = ast.parse((ROOT / "tests/drill/__main__.py").read_text())
    named = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Fault"]
    names = [call.args[0] for call in calls]
    return [str(named[name.id] if isinstance(name, ast.Name) else ast.literal_eval(name)) for name in names]


def test_the_table_has_every_fault_of_the_drill() -> None:
    section = (INFRA / "README.md").read_text().partition("## The drill")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| ")
    ]
    heading, *faults = (row for row in rows if not set(row[0]) <= {"-"})
    assert heading[0] == "fault"
    assert sorted(row[0] for row in faults) == sorted(_faults())
    for row in faults:
        assert re.fullmatch(r"\d+ s", row[3]), row
        assert row[4:] == ["0", "0", "none made" if row[1] == "ingest" else "0"], row
