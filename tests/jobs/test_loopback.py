"""What a job starts on this machine listens to this machine alone."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

PROGRAM = """
from emod.workflow import on_ray

with on_ray(num_cpus=1, quiet=True, dashboard=True):
    import ray

    assert ray.get(ray.remote(lambda: 1).remote()) == 1
    print("running", flush=True)
    input()
"""
LISTENS = "0A"


def started_with(mark: str) -> set[int]:
    """All processes that have it in their environment: Ray's have no parent to be known by."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.add(int(folder.name))
        except OSError:  # it has ended
            continue
    return found


def listening() -> dict[str, str]:
    """Inode of each listening socket -> the address that it is bound to, as the kernel writes it."""
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == LISTENS:
                found[words[9]] = words[1].partition(":")[0]
    return found


def addresses_of(processes: set[int]) -> set[str]:
    sockets = listening()
    found = set()
    for number in processes:
        try:
            links = [os.readlink(link) for link in Path(f"/proc/{number}/fd").iterdir()]
        except OSError:  # it has ended
            continue
        found |= {sockets[inode] for link in links if (inode := link.removeprefix("socket:[").rstrip("]")) in sockets}
    return found


def test_a_local_ray_and_its_dashboard_listen_to_loopback() -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "EMOD_"))}
    mark = secrets.token_hex(16)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=clean | {"PYTHONPATH": str(Path(__file__).resolve().parents[2] / "platform"), "MARK": mark},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as job:
        assert job.stdin is not None
        assert job.stdout is not None
        try:
            assert job.stdout.readline() == "running\n"
            found = addresses_of(started_with(mark))
        finally:
            job.stdin.write("\n")
            job.stdin.close()
            job.wait()
    # 127.0.0.1 in the byte order of the kernel, alone and as an IPv6 address.
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert found, "it listens somewhere"
    assert found <= loopback
