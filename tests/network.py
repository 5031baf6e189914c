"""Machines with addresses of their own on one: a network namespace each, joined by a bridge that leads nowhere else."""

from __future__ import annotations

import secrets
import subprocess

__all__ = ["DEVICE", "Network"]

# What a machine calls its end of the line.
DEVICE = "eth0"


class Network:
    """A bridge, which this process reaches too, and namespaces. It wants root and iproute2.

    Attributes:
        address: Of this process on the bridge.
    """

    def __init__(self) -> None:
        self._name = f"emod{secrets.token_hex(2)}"
        self._subnet = f"10.77.{secrets.randbelow(200)}"
        self._members: dict[str, str] = {}
        self.address = f"{self._subnet}.1"
        _ip("link", "add", self._name, "type", "bridge")
        _ip("address", "add", f"{self.address}/24", "dev", self._name)
        _ip("link", "set", self._name, "up")

    def join(self, name: str) -> str:
        """Address of a machine, which gets one if it has none."""
        if name not in self._members:
            number = len(self._members) + 2
            space, inside, outside = self._space(name), f"{self._name}i{number}", f"{self._name}o{number}"
            _ip("netns", "add", space)
            _ip("link", "add", inside, "type", "veth", "peer", "name", outside)
            _ip("link", "set", inside, "netns", space)
            _ip("link", "set", outside, "master", self._name)
            _ip("link", "set", outside, "up")
            self._members[name] = f"{self._subnet}.{number}"
            _ip("-n", space, "link", "set", inside, "name", DEVICE)
            _ip("-n", space, "address", "add", f"{self._members[name]}/24", "dev", DEVICE)
            for device in (DEVICE, "lo"):
                _ip("-n", space, "link", "set", device, "up")
        return self._members[name]

    def inside(self, name: str) -> list[str]:
        """What stands before a command that is to run on a machine."""
        return ["ip", "netns", "exec", self._space(name)]

    def processes(self, name: str) -> list[int]:
        """All that runs on a machine."""
        return [int(number) for number in _ip("netns", "pids", self._space(name)).split()]

    def remove(self) -> None:
        """Bridge and namespaces; what runs in them must have ended."""
        for name in self._members:
            _ip("netns", "delete", self._space(name))
        _ip("link", "delete", self._name)

    def _space(self, name: str) -> str:
        return f"{self._name}-{name}"


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
