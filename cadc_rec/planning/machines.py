"""Processes that are planned for, and what memory each has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machines:
    """The processes that are planned for.

    Attributes:
        world_size: in all.
        local_world_size: a node.
        device: ``cuda`` or ``cpu``.
        device_bytes: memory of each GPU; 0 on CPU.
        host_bytes: host memory of each process.
    """

    world_size: int
    local_world_size: int
    device: str
    device_bytes: int
    host_bytes: int

    def usable(self, reserve: float) -> int:
        """What tables and their state may fill of each process."""
        return int(self.memory * (1 - reserve))

    @property
    def memory(self) -> int:
        """Of one process: its GPU's, or on CPU the host's."""
        return self.device_bytes if self.device == "cuda" else self.host_bytes
