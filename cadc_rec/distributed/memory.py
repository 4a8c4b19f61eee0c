"""What memory a process may fill, by its device and the settings.

It stands apart from `cadc_rec.distributed.sharding`, because factorizations ask it, too: they need
no TorchRec, which takes more than a second to import.
"""

from __future__ import annotations

import torch

from cadc_rec.config.experiment import ShardingConfig
from cadc_rec.config.types import parse_memory
from cadc_rec.distributed.processes import Processes
from cadc_rec.machine import memory_bytes


def memory_caps(processes: Processes, config: ShardingConfig) -> dict[str, int]:
    """Bytes that each process may fill; TorchRec assumes that a process has a whole machine.

    Returns:
        ``ddr_cap``, the host's memory, and on CUDA ``hbm_cap``, the GPU's.
    """
    caps = {"ddr_cap": memory_bytes(processes.local_world_size)}
    if processes.device.type == "cuda":
        caps["hbm_cap"] = torch.cuda.get_device_properties(processes.device).total_memory
        if config.device_memory:
            caps["hbm_cap"] = parse_memory(config.device_memory)
    if config.host_memory:
        caps["ddr_cap"] = parse_memory(config.host_memory)
    return caps


def process_memory(processes: Processes, config: ShardingConfig) -> int:
    """Bytes that this process may fill: its GPU's memory, or on CPU its share of the host's."""
    caps = memory_caps(processes, config)
    return caps["hbm_cap"] if processes.device.type == "cuda" else caps["ddr_cap"]
