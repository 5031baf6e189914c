"""infra/README.md names every variable that infra/ sets or reads, and none that nobody does."""

import re

import yaml

from tests.infra.rendering import INFRA, OVERLAYS, ROOT, render


def _set_or_read() -> set[str]:
    found: set[str] = set()
    for path in (INFRA / "compose").glob("compose*.yaml"):
        found |= set(re.findall(r"\$\{(\w+)", path.read_text()))
        for service in yaml.safe_load(path.read_text())["services"].values():
            found |= set(service.get("environment", {}))
    found |= {
        line.partition("=")[0]
        for line in (INFRA / "compose/.env.example").read_text().splitlines()
        if "=" in line and not line.startswith("#")
    }
    for overlay in OVERLAYS:
        for each in render(INFRA / "kubernetes/overlays" / overlay):
            if each["kind"] == "ConfigMap":
                found |= set(each["data"])
            spec = each["spec"].get("rayClusterSpec", each["spec"]) if each["kind"].startswith("Ray") else {}
            for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]] if spec else []:
                for container in group["template"]["spec"]["containers"]:
                    found |= {one["name"] for one in container["env"]}
    found |= set(yaml.safe_load((INFRA / "runtime-env.yaml").read_text())["env_vars"])
    for path in (INFRA / "ray").glob("*.yaml"):
        found |= {name for pair in re.findall(r"--env ([A-Z_0-9]+)=|\$([A-Z_0-9]+)", path.read_text()) for name in pair}
    dockerfile = (INFRA / "images/Dockerfile").read_text()
    for line in re.findall(r"^ENV (.+)$", dockerfile, re.M):
        found |= {word.partition("=")[0] for word in line.split()}
    found |= set(re.findall(r'"([A-Z]+_[A-Z_]+)"', (INFRA / "submit.py").read_text()))
    found -= {"RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES"}  # its own affair
    script = (INFRA / "slurm/emod.sbatch").read_text()
    found |= set(re.findall(r"\b((?:EMOD|RAY|OMP|MKL|OPENBLAS|MPL|PYTHON)[A-Z_]*)\b(?==| RAY|:-)", script))
    return found - {""}


def _told() -> set[str]:
    """First column of each table whose first column is `variable`."""
    told: set[str] = set()
    inside = False
    for line in (INFRA / "README.md").read_text().splitlines():
        if line.startswith("| variable |"):
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside:
            told |= set(re.findall(r"`(\w+)`", line.split("|")[1]))
    return told


def test_the_readme_has_every_variable_and_no_other() -> None:
    used = _set_or_read()
    assert len(used) > 25
    assert used <= _told(), f"not in infra/README.md: {sorted(used - _told())}"
    sources = "".join(path.read_text() for path in (ROOT / "platform/emod").rglob("*.py"))
    unknown = {name for name in _told() - used if name not in sources}
    assert not unknown, f"infra/README.md tells of what nobody sets or reads: {sorted(unknown)}"
