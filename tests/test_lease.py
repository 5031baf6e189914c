"""Two drivers of one run on one machine; tests/training/test_submitted.py has them on one cluster."""

from __future__ import annotations

import subprocess
import sys
from uuid import uuid4

import pytest

from emod.errors import RequestError
from emod.lease import hold

HOLDS = """
import sys, time
from emod.lease import hold
with hold(sys.argv[1], "mine"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_run_has_one_driver_and_whoever_dies_lets_go() -> None:
    run_id = uuid4().hex
    other = subprocess.Popen([sys.executable, "-c", HOLDS, run_id], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with (
        pytest.raises(RequestError, match=r"run mine: another job on this machine is at it; .* set another run_name"),
        hold(run_id, "mine"),
    ):
        pass
    with hold(uuid4().hex, "another run"):
        pass
    other.kill()
    other.communicate()
    for _ in range(2):
        with hold(run_id, "mine"):
            pass
