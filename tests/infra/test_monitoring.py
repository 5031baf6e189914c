"""Rules and dashboard: whole, about metrics that exist, each with words on what to do."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from emod.training import watching
from tests.infra.rendering import INFRA, ROOT

MONITORING = INFRA / "monitoring"
RULES = yaml.safe_load((MONITORING / "emod.rules.yml").read_text())["groups"]
BOARD = json.loads((MONITORING / "grafana/dashboards/emod.json").read_text())
OTHERS = {"up"}  # Prometheus' own


def _alerts() -> list[dict[str, Any]]:
    return [rule for group in RULES for rule in group["rules"]]


def _panels() -> list[dict[str, Any]]:
    return [panel for panel in BOARD["panels"] if panel["type"] != "row"]


def _expressions() -> list[str]:
    return [rule["expr"] for rule in _alerts()] + [one["expr"] for panel in _panels() for one in panel["targets"]]


def _metrics(expression: str) -> set[str]:
    """Names of metrics: words that are neither in braces nor in a by-clause, nor called, nor an operator."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on) *\([^)]*\)", " ", expression)
    return set(re.findall(r"\b[a-z][a-z_0-9]*\b(?! *\()", bare)) - {"and", "or", "unless", "sum", "bool", "offset"}


def _of_ray() -> set[str]:
    """What Ray's own dashboards of the pinned release ask for."""
    folder = Path(ray.__file__).parent / "dashboard/modules/metrics/dashboards"
    text = "".join(path.read_text() for path in folder.glob("*.py"))
    return set(re.findall(r"\b(?:ray|autoscaler)_[a-z0-9_]+", text))


def _of_us() -> set[str]:
    """Gauges that emod.training.watching tells of and that stand in its sources; count("name") and gauge("name")."""
    assert watching.__doc__
    text = "".join(path.read_text() for path in (ROOT / "platform/emod/training").glob("*.py"))
    told = set(re.findall(r"`([a-z_0-9]+)(?:/<corpus>)?`", watching.__doc__))
    gauges = {name for name in told if re.search(rf"\"{name}(\"|/\{{)", text)}
    text = "".join(path.read_text() for path in (ROOT / "platform/emod").rglob("*.py"))
    gauges |= set(re.findall(r"\bgauge\(\s*\"([a-z_0-9]+)\"", text))
    counters = re.findall(r"\bcount\(\s*\"([a-z_0-9]+)\"", text)
    return {f"ray_emod_{name}" for name in gauges} | {f"ray_emod_{name}_total" for name in counters}


def test_every_metric_exists() -> None:
    known = _of_ray() | _of_us() | OTHERS
    used = set().union(*(_metrics(expression) for expression in _expressions()))
    assert used <= known, used - known
    assert len(used) > 25


def test_a_metric_that_nobody_sends_is_found() -> None:
    assert _metrics('sum by (run) (rate(ray_emod_lost{rank="0"}[5m])) > 0 and up == 1') == {"ray_emod_lost", "up"}
    assert not {"ray_emod_lost", "ray_emod_cuda", "ray_emod_finished"} & _of_us()


@pytest.mark.parametrize("expression", _expressions())
def test_brackets_close(expression: str) -> None:
    for pair in ("()", "[]", "{}"):
        assert expression.count(pair[0]) == expression.count(pair[1])


def test_alerts_say_what_to_do_and_the_readme_says_more() -> None:
    readme = (INFRA / "README.md").read_text()
    names = [rule["alert"] for rule in _alerts()]
    assert len(set(names)) == len(names)
    for rule in _alerts():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert len(rule["annotations"]["description"]) > 80
        assert rule["annotations"]["summary"]
        assert f"`{rule['alert']}`" in readme
    assert set(re.findall(r"`((?:Emod|Ray)[A-Z][A-Za-z]+[a-z])` \|", readme)) <= set(names)


def test_the_dashboard_is_whole() -> None:
    assert BOARD["uid"]
    assert BOARD["schemaVersion"] >= 39
    assert "id" not in BOARD
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
    variables = {one["name"] for one in BOARD["templating"]["list"]}
    for panel in _panels():
        assert len(panel["description"]) > 40, panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables


def test_prometheus_reads_what_ray_writes_and_the_rules() -> None:
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["file_sd_configs"][0]["files"] == [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]
    assert config["rule_files"] == ["emod.rules.yml"]


def test_grafana_is_given_its_source_and_its_dashboards() -> None:
    compose = yaml.safe_load((INFRA / "compose/compose.yaml").read_text())["services"]
    mounted = {volume.split(":")[1] for volume in compose["grafana"]["volumes"]}
    providers = yaml.safe_load((MONITORING / "grafana/provisioning/dashboards/dashboards.yaml").read_text())[
        "providers"
    ]
    for provider in providers:
        assert any(provider["options"]["path"].startswith(place) for place in mounted)
    (source,) = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in compose
