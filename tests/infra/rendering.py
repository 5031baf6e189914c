"""infra/kubernetes as `kubectl kustomize` renders it; what infra/ does not use of kustomize is an error.

Resources, patches (JSON 6902, or a merge of maps in which lists are replaced), image names and replacements, in the
order in which kustomize applies them. `test_kustomize.py` compares it with the real one where there is one.
"""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
OVERLAYS = sorted(path.parent.name for path in (INFRA / "kubernetes/overlays").glob("*/kustomization.yaml"))

Manifest = dict[str, Any]


def render(folder: Path) -> list[Manifest]:
    """Every object of a kustomization, with what is above it applied; the caller's own to change."""
    return copy.deepcopy(_rendered(folder))


@cache
def _rendered(folder: Path) -> list[Manifest]:
    given = yaml.safe_load((folder / "kustomization.yaml").read_text())
    known = {"apiVersion", "kind", "resources", "images", "patches", "replacements"}
    assert given.keys() <= known, f"{folder}: {given.keys() - known} is not rendered here; teach it, or leave it out"
    objects: list[Manifest] = []
    for resource in given["resources"]:
        path = (folder / resource).resolve()
        found = render(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
        objects += copy.deepcopy(found)  # anchors share what they name; patches must not
    for patch in given.get("patches", []):
        told = patch.get("patch") or (folder / patch["path"]).read_text()
        targets = [each for each in objects if _selected(each, patch["target"])]
        assert targets, f"{folder}: a patch finds nothing at {patch['target']}"
        change = yaml.safe_load(told)
        for target in targets:
            if isinstance(change, list):
                for operation in change:
                    _operate(target, copy.deepcopy(operation))
            else:
                _merge(target, {key: value for key, value in copy.deepcopy(change).items() if key != "metadata"})
    for image in given.get("images", []):
        renamed = sum(_rename(each, image["name"], f"{image['newName']}:{image['newTag']}") for each in objects)
        assert renamed, f"{folder}: no container has the image {image['name']}"
    for replacement in given.get("replacements", []):
        (source,) = (each for each in objects if _selected(each, replacement["source"]))
        for target in replacement["targets"]:
            for each in objects:
                if _selected(each, target["select"]):
                    for field in target["fieldPaths"]:
                        *above, last = field.split(".")
                        place = each
                        for key in above:
                            place = place[key]
                        place[last] = copy.deepcopy(source[replacement["source"]["fieldPath"]])
    return objects


def _selected(manifest: Manifest, target: dict[str, str]) -> bool:
    named = target.get("name") in (None, manifest["metadata"]["name"])
    return manifest["kind"] == target["kind"] and named


def _operate(manifest: Manifest, operation: dict[str, Any]) -> None:
    *above, last = (key.replace("~1", "/") for key in operation["path"].lstrip("/").split("/"))
    place: Any = manifest
    for key in above:
        place = place[int(key)] if isinstance(place, list) else place[key]
    if operation["op"] == "add" and isinstance(place, list):
        assert last == "-", "added at the end of a list, or not at all"
        place.append(operation["value"])
    else:
        assert operation["op"] == "add" or last in place, f"{operation['path']}: replaces what is not there"
        assert operation["op"] in ("add", "replace")
        place[last] = operation["value"]


def _merge(place: dict[str, Any], change: dict[str, Any]) -> None:
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(place.get(key), dict):
            _merge(place[key], value)
        else:
            place[key] = value


def _rename(node: Any, name: str, image: str) -> int:
    """How many containers below have the image by that name; they have the other one now."""
    if isinstance(node, list):
        return sum(_rename(each, name, image) for each in node)
    if not isinstance(node, dict):
        return 0
    renamed = 0
    for key, value in node.items():
        if key == "image" and value == name:
            node[key], renamed = image, renamed + 1
        else:
            renamed += _rename(value, name, image)
    return renamed
