"""The processes that run a stage together: ranks, device, backend, and how they talk.

In: the experiment's ``[compute]`` section and, under torchrun or torchx, their environment. Out: a
`Processes`, which is also the `Group` that artifacts are committed under.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from cadc_rec.config import ComputeConfig
from cadc_rec.errors import CadcError
from cadc_rec.machine import available_cores, keep_freed_memory


@dataclass(frozen=True)
class Processes:
    """This process's place among its peers."""

    rank: int
    world_size: int
    local_world_size: int
    device: torch.device

    @property
    def group(self) -> dist.ProcessGroup:
        """The process group of all ranks."""
        assert dist.group.WORLD is not None
        return dist.group.WORLD

    def broadcast(self, value: Any) -> Any:
        """Rank 0's `value`, on every rank."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def all_gather(self, value: Any) -> list[Any]:
        """Every rank's `value`, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def another_group(self, timeout_seconds: float) -> dist.ProcessGroup:
        """A group of the same ranks on the CPU, for a thread to talk over; all ranks must call.

        Args:
            timeout_seconds: how long a rank waits for its peers in it.
        """
        timeout = timedelta(seconds=timeout_seconds)
        group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=timeout)
        return group

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            dist.barrier()

    def share(self, n: int) -> range:
        """This rank's contiguous part of ``range(n)``; parts differ by at most one."""
        return self.share_of(self.rank, n)

    def share_of(self, rank: int, n: int) -> range:
        """Another rank's contiguous part."""
        return range(n * rank // self.world_size, n * (rank + 1) // self.world_size)

    def all_gather_rows(self, local: torch.Tensor, n: int) -> torch.Tensor:
        """Join every rank's ``share(n)`` of rows into ``[n, d]``, on every rank."""
        if self.world_size == 1:
            return local
        longest = -(-n // self.world_size)  # collectives want equal shapes
        padded = local.new_zeros(longest, *local.shape[1:])
        padded[: len(local)] = local
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded)
        sizes = [len(self.share_of(rank, n)) for rank in range(self.world_size)]
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def most(self, count: int) -> int:
        """The largest `count` of any rank."""
        if self.world_size == 1:
            return count
        largest = torch.tensor(count, device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest)

    def all_reduce_sum(self, value: torch.Tensor) -> torch.Tensor:
        """Sum of `value` over the ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value


def choose_device(wanted: str, local_rank: int) -> torch.device:
    """The device of this process.

    Raises:
        CadcError: CUDA was asked for by name and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise CadcError(
            "compute.device = 'cuda', and torch sees no CUDA device; use 'cpu' or 'auto', or "
            "install the CUDA build (make install-cuda)."
        )
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise CadcError(
            f"local rank {local_rank} has no GPU of its own: this node has "
            f"{torch.cuda.device_count()}; start as many processes as GPUs."
        )
    return torch.device("cuda", local_rank)


@contextlib.contextmanager
def processes(compute: ComputeConfig) -> Iterator[Processes]:
    """Join the process group that torchrun describes, or make one of this process alone."""
    environ = os.environ
    rank, world_size = int(environ.get("RANK", 0)), int(environ.get("WORLD_SIZE", 1))
    local_rank = int(environ.get("LOCAL_RANK", 0))
    local_world_size = int(environ.get("LOCAL_WORLD_SIZE", 1))
    device = choose_device(compute.device, local_rank)
    keep_freed_memory()
    # One thread too many on a core makes both wait: share the cores among the local ranks.
    torch.set_num_threads(compute.threads or max(1, available_cores() // local_world_size))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    arguments: dict[str, Any] = {
        "backend": backend,
        "rank": rank,
        "world_size": world_size,
        "timeout": timedelta(seconds=compute.timeout_seconds),
    }
    if world_size == 1:
        arguments["store"] = HashStore()  # no port to take: many may run side by side
    try:
        dist.init_process_group(**arguments)
    except (RuntimeError, ValueError) as error:
        raise CadcError(
            f"rank {rank} of {world_size} could not join its peers: {error}; start the job with "
            "torchx or torchrun, which set MASTER_ADDR and MASTER_PORT."
        ) from error
    try:
        yield Processes(rank, world_size, local_world_size, device)
    finally:
        dist.destroy_process_group()
