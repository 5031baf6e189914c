"""What tests here render is what kustomize renders."""

import shutil
import subprocess

import pytest
import yaml

from tests.infra.rendering import INFRA, OVERLAYS, render

_COMMANDS = [["kustomize", "build"], ["kubectl", "kustomize"]]


@pytest.mark.kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_renders_the_same(overlay: str) -> None:
    command = next(command for command in _COMMANDS if shutil.which(command[0]))
    folder = INFRA / "kubernetes/overlays" / overlay
    told = subprocess.run([*command, str(folder)], check=True, capture_output=True, text=True, timeout=60).stdout
    real = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(told)}
    assert real == {(each["kind"], each["metadata"]["name"]): each for each in render(folder)}
