"""Every manifest of infra/ against its published schema, offline, and against what a platform engineer would refuse."""

import json
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from jsonschema import Draft7Validator, Draft202012Validator
from ray.autoscaler._private.util import prepare_config, validate_config
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from emod import __version__
from tests.infra.rendering import INFRA, OVERLAYS, ROOT, Manifest, render

SCHEMAS = Path(__file__).parent / "schemas"
KUBERNETES = "kubernetes-v1.34.json"
CORE = {
    "ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "ServiceAccount": "io.k8s.api.core.v1.ServiceAccount",
    "NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
}
LAUNCHERS = sorted((INFRA / "ray").glob("*.yaml"))
COMPOSE = [INFRA / "compose/compose.yaml", INFRA / "compose/compose.gpu.yaml"]


@cache
def _validator(kind: str) -> Draft202012Validator:
    kuberay = yaml.safe_load((SCHEMAS / "kuberay-v1.yaml").read_text())
    kubernetes = json.loads((SCHEMAS / KUBERNETES).read_text())
    registry: Registry[Any] = Registry().with_resources(
        (name, Resource.from_contents(schema, default_specification=DRAFT202012))
        for name, schema in ((KUBERNETES, kubernetes), ("kuberay-v1.yaml", kuberay))
    )
    if kind == "PodMonitor":
        schema = yaml.safe_load((SCHEMAS / "podmonitor-v1.yaml").read_text())
    elif kind in CORE:
        schema = {"$ref": f"{KUBERNETES}#/$defs/{CORE[kind]}"}
    else:
        schema = {"$ref": f"kuberay-v1.yaml#/$defs/{kind}"}
    return Draft202012Validator(schema, registry=registry)


def _complaints(validator: Any, manifest: Manifest) -> list[str]:
    return [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(manifest)]


@cache
def _rendered(overlay: str) -> tuple[Manifest, ...]:
    return tuple(render(INFRA / "kubernetes/overlays" / overlay))


def _clusters(overlay: str) -> list[tuple[str, Manifest]]:
    """Name -> RayClusterSpec, of the cluster and of each job."""
    found = []
    for each in _rendered(overlay):
        if each["kind"] == "RayCluster":
            found.append((each["metadata"]["name"], each["spec"]))
        elif each["kind"] == "RayJob":
            found.append((each["metadata"]["name"], each["spec"]["rayClusterSpec"]))
    return found


def _groups(spec: Manifest) -> list[tuple[str, Manifest]]:
    return [("head", spec["headGroupSpec"])] + [(group["groupName"], group) for group in spec["workerGroupSpecs"]]


def _pods(overlay: str) -> list[tuple[str, Manifest]]:
    """Name -> PodSpec, of every pod that Ray and its jobs become."""
    pods = [
        (f"{name} {group}", held["template"]["spec"])
        for name, spec in _clusters(overlay)
        for group, held in _groups(spec)
    ]
    for each in _rendered(overlay):
        if each["kind"] == "RayJob":
            pods.append((f"{each['metadata']['name']} submitter", each["spec"]["submitterPodTemplate"]["spec"]))
    return pods


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_what_its_schema_says(overlay: str) -> None:
    for each in _rendered(overlay):
        assert _complaints(_validator(each["kind"]), each) == [], f"{each['kind']} {each['metadata']['name']}"


def test_a_field_that_nobody_knows_is_found() -> None:
    cluster = next(each for each in render(INFRA / "kubernetes/overlays/gpu") if each["kind"] == "RayCluster")
    cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resource"] = {}
    cluster["spec"]["autoscalerOptions"]["idleTimeout"] = 60
    assert len(_complaints(_validator("RayCluster"), cluster)) == 2


def test_every_file_is_part_of_a_kustomization() -> None:
    base = yaml.safe_load((INFRA / "kubernetes/base/kustomization.yaml").read_text())
    named = {*base["resources"], *(patch["path"] for patch in base["patches"]), "kustomization.yaml"}
    assert named == {path.name for path in (INFRA / "kubernetes/base").iterdir()}
    assert OVERLAYS == ["cpu", "gpu", "spot"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_names_that_objects_give_each_other_exist(overlay: str) -> None:
    names = {(each["kind"], each["metadata"]["name"]) for each in _rendered(overlay)}
    assert "Secret" not in {kind for kind, _ in names}
    for where, pod in _pods(overlay):
        if account := pod.get("serviceAccountName"):
            assert ("ServiceAccount", account) in names, where
        mounts = {mount["name"] for container in pod["containers"] for mount in container.get("volumeMounts", [])}
        assert mounts == {volume["name"] for volume in pod.get("volumes", [])}, where
        for container in pod["containers"]:
            for source in container.get("envFrom", []):
                if "configMapRef" in source:
                    assert ("ConfigMap", source["configMapRef"]["name"]) in names, where
    ports = {
        port["name"]
        for _, pod in _pods(overlay)
        for container in pod["containers"]
        for port in container.get("ports", [])
    }
    for each in _rendered(overlay):
        if each["kind"] == "PodMonitor":
            assert {endpoint["port"] for endpoint in each["spec"]["podMetricsEndpoints"]} <= ports


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_clusters_have_a_token_a_head_without_work_and_workers_that_go(overlay: str) -> None:
    found = _clusters(overlay)
    assert [name for name, _ in found] == ["emod", "emod-ingest", "emod-pretrain", "emod-sweep", "emod-evaluate"]
    for name, spec in found:
        assert spec["rayVersion"] == ray.__version__, name
        assert spec["authOptions"] == {"mode": "token"}, name
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", name
        assert (spec["enableInTreeAutoscaling"], spec["autoscalerOptions"]["version"]) == (True, "v2")
        for group in spec["workerGroupSpecs"]:
            assert group["minReplicas"] == group["replicas"] == 0, name
            assert group["maxReplicas"] > 0, name
    for each in _rendered(overlay):
        if each["kind"] == "RayJob":
            spec = each["spec"]
            assert spec["suspend"], "started by hand, one after the other"
            assert spec["backoffLimit"] >= 1
            assert spec["activeDeadlineSeconds"] > 0
            assert spec["shutdownAfterJobFinishes"]
            assert spec["ttlSecondsAfterFinished"] > 0


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_have_no_rights_to_spare(overlay: str) -> None:
    """No root, no way up, limits that are the requests, scratch that is bounded."""
    for where, pod in _pods(overlay):
        security = pod["securityContext"]
        assert security["runAsNonRoot"], where
        assert security["runAsUser"] >= 1000, where
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, where
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}, where
            assert container["resources"]["requests"] == container["resources"]["limits"], where
        for volume in pod.get("volumes", []):
            assert "sizeLimit" in volume["emptyDir"], where
        if "submitter" not in where:
            assert "/tmp/ray" in [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]], where
            cache = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
            (limit,) = (one["emptyDir"]["sizeLimit"] for one in pod["volumes"] if one["name"] == "cache")
            assert int(cache["EMOD_CACHE_GB"]) < int(limit.removesuffix("Gi")) * 1.05, where


def test_only_the_gpu_overlays_ask_for_gpus() -> None:
    for overlay in OVERLAYS:
        asked = {
            group: container["resources"]["limits"].get("nvidia.com/gpu")
            for _, spec in _clusters(overlay)
            for group, held in _groups(spec)
            for container in held["template"]["spec"]["containers"]
        }
        assert asked == {"head": None, "cpu": None} | ({} if overlay == "cpu" else {"gpu": "1"})


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_is_what_its_specification_says(path: Path) -> None:
    schema = json.loads((SCHEMAS / "compose-spec.json").read_text())
    assert _complaints(Draft7Validator(schema), yaml.safe_load(path.read_text())) == []


def test_services_are_bound_to_this_machine_have_limits_and_say_when_they_are_well() -> None:
    services = yaml.safe_load(COMPOSE[0].read_text())["services"]
    declared = yaml.safe_load(COMPOSE[0].read_text())["volumes"]
    for name, service in services.items():
        for port in service.get("ports", []):
            assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), f"{name}: {port}"
        assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"]), name
        assert "healthcheck" in service or name == "buckets", name
        for other, wait in service.get("depends_on", {}).items():
            condition = "service_completed_successfully" if other == "buckets" else "service_healthy"
            assert wait == {"condition": condition}, name
            assert other in services, name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (COMPOSE[0].parent / source).exists(), f"{name}: {source}"
            else:
                assert source in declared, f"{name}: {source}"


def test_nothing_has_a_password_that_works() -> None:
    text = COMPOSE[0].read_text()
    for variable, default in re.findall(r"\$\{(\w+)([^}]*)\}", text):
        if re.search("PASSWORD|TOKEN|KEY", variable):
            assert default.startswith(":?"), f"{variable} has a default"
    for line in (INFRA / "compose/.env.example").read_text().splitlines():
        name, _, value = line.partition("=")
        if re.search("PASSWORD|TOKEN|KEY", name) and not line.startswith("#"):
            assert not value, name
    words = "password|secret_key|secret_access_key|auth_token|access_key_id"
    secret = re.compile(rf"(?i)^[^#\n]*(?:{words})[\"']?[ \t]*[:=](?!\?)[ \t]*(?P<value>[^\s#]+)", re.M)
    for path in _texts():
        for found in secret.finditer(path.read_text()):
            assert found["value"].startswith(("$", "/srv/ray", "~")), f"{path.name}: {found[0]}"


def _texts() -> list[Path]:
    return [path for path in sorted(INFRA.rglob("*")) if path.is_file() and path.suffix not in (".md", ".json")]


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_launchers_are_what_ray_reads(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    assert _complaints(Draft7Validator(schema), config) == []
    validate_config(prepare_config(config))  # what `ray up` does before it asks a provider
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert any("auth_token" in mount for mount in config["file_mounts"])
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])


def _images() -> set[str]:
    found: set[str] = set()
    for overlay in OVERLAYS:
        found |= {container["image"] for _, pod in _pods(overlay) for container in pod["containers"]}
    for path in COMPOSE:
        found |= {
            service["image"] for service in yaml.safe_load(path.read_text())["services"].values() if "image" in service
        }
    found |= {yaml.safe_load(path.read_text())["docker"]["image"] for path in LAUNCHERS}
    found |= set(re.findall(r"^FROM (\S+:\S+)", (INFRA / "images/Dockerfile").read_text(), re.M))
    return found


def test_every_image_is_pinned_and_ours_has_the_version_of_the_package() -> None:
    found = _images()
    assert len(found) > 6
    for image in found:
        name, _, tag = image.rpartition(":")
        assert name, f"{image}: no tag"
        assert re.search(r"\d+\.\d+", tag), f"{image}: no version"
        if re.search(r"\bemod/", name):
            assert tag == __version__, image


def test_every_python_package_of_the_images_is_pinned_by_constraints() -> None:
    text = re.sub(r"^ *#.*\n", "", (INFRA / "images/Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    lines = [part for line in text.splitlines() for part in line.split("&&") if "pip install" in part]
    pinned = dict(
        line.strip().lower().split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    assert len(lines) == 5
    for line in lines:
        assert "--constraint /srv/constraints.txt" in line
        assert "==" not in line, "versions stand in constraints.txt alone"
        words = line.split("pip install")[1].split()
        values = {words[at + 1] for at, word in enumerate(words) if word.startswith("--")}
        packages = [word for word in words if not word.startswith("--") and word not in values]
        assert set(packages) <= pinned.keys(), line
    assert pinned["ray"] == ray.__version__


def test_images_run_as_nobody_in_particular_and_hold_only_what_is_named() -> None:
    stages = re.split(r"^FROM ", (INFRA / "images/Dockerfile").read_text(), flags=re.M)[1:]
    by_name = {re.search(r" AS (\w+)", stage)[1]: stage for stage in stages}  # type: ignore[index]
    for target in ("cpu", "train", "mlflow"):
        assert re.findall(r"^USER (.+)", by_name[target], re.M) == ["1000:1000"]
    ignored = [
        line
        for line in (INFRA / "images/Dockerfile.dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert ignored[0] == "*"
    for line in ignored:
        if line.startswith("!"):
            assert (ROOT / line[1:]).exists(), line


def test_the_launcher_finds_what_amazon_wants() -> None:
    """Its driver runs on the head; what a node does not name Ray would choose: an old image, open to the world."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["aws"] == ["boto3"]
    assert "*p['optional-dependencies']['aws']" in (INFRA / "images/Dockerfile").read_text()
    nodes = yaml.safe_load((INFRA / "ray/aws.yaml").read_text())["available_node_types"]
    for name, node in nodes.items():
        config = node["node_config"]
        assert {"ImageId", "SubnetIds", "SecurityGroupIds"} <= config.keys(), name
        assert config["IamInstanceProfile"] == {"Name": "emod-head" if name == "head" else "emod-data"}
    assert "openssh-client rsync" in (INFRA / "images/Dockerfile").read_text(), "the head starts workers by them"
    allowed = json.loads((INFRA / "ray/iam-head.json").read_text())["Statement"]
    free = {each["Action"] for each in allowed if "Condition" not in each}
    assert free == {"ec2:DescribeInstances", "ec2:RunInstances", "iam:PassRole"}
    (passed,) = [each["Resource"] for each in allowed if each["Action"] == "iam:PassRole"]
    assert passed.endswith(":role/emod-data")
    conditions = [each["Condition"]["StringEquals"] for each in allowed if "Condition" in each]
    assert conditions == [{"ec2:CreateAction": "RunInstances"}, {"ec2:ResourceTag/ray-cluster-name": "emod"}]


def test_rays_object_store_lies_in_memory() -> None:
    """Ray takes a share of the machine's memory, and the disk where /dev/shm is smaller."""
    for name in ("ray-head", "ray-worker"):
        service = yaml.safe_load((INFRA / "compose/compose.yaml").read_text())["services"][name]
        (store,) = re.findall(r"--object-store-memory=(\d+)", service["command"])
        assert service["shm_size"] == "2gb"
        assert 10**9 < int(store) < 2 * 2**30 * 0.95


def test_the_head_of_spot_machines_stays() -> None:
    for name, spec in _clusters("spot"):
        head = spec["headGroupSpec"]["template"]
        assert head["metadata"]["annotations"] == {"karpenter.sh/do-not-disrupt": "true"}, name
        assert head["spec"]["nodeSelector"] == {"karpenter.sh/capacity-type": "on-demand"}, name
