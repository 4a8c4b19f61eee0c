"""The processes that run a stage together: ranks, device, backend, and their communication.

In: the experiment's ``[compute]`` section and, under torchrun or torchx, the environment. Out: a
`Processes`, which is also the `Group` that commits artifacts.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed.joining import join, join_alone
from cadc_rec.distributed.peers import Peers
from cadc_rec.errors import CadcError
from cadc_rec.machine import available_cores, keep_freed_memory

_beside: list[dist.ProcessGroup] = []  # at most one: of all ranks, for exchanges beside others
_HEARTBEAT_SECONDS = 1.0  # between two words of a rank that works while the others wait


@contextlib.contextmanager
def one_torch_thread(when: bool = True) -> Iterator[None]:
    """Within, torch runs in one thread, for operations so small that several would only wait.

    Each takes an equal share of every operation, and all wait for the last: where one's core is
    busy with another process, for longer than the whole operation takes one thread.

    Args:
        when: whether the operations are so small; else nothing changes.
    """
    if not when:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
        """Another group of the same ranks on the CPU, for use by a thread; all ranks must call.

        Args:
            timeout_seconds: how long a rank waits for its peers in it.
        """
        timeout = timedelta(seconds=timeout_seconds)
        group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=timeout)
        return group

    def device_group(self) -> dist.ProcessGroup:
        """Another group of the same ranks, for exchanges beside the others; all ranks must call.

        It is made once and ends with the processes: a communicator of NCCL's keeps GPU memory, and
        one command may build many models.
        """
        if not _beside:
            _beside.append(dist.new_group())
        return _beside[0]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            dist.barrier()

    def by_chief(self, work: Callable[[], object]) -> None:
        """Rank 0 does `work`, and the others wait for it; see `together`."""
        self.together(work if self.rank == 0 else None)

    def together(
        self, work: Callable[[], Any] | None = None, group: dist.ProcessGroup | None = None
    ) -> Any:
        """Each rank does its `work`, if it has some, and waits for all others to have done theirs.

        Every second the ranks hear who is still at work. So no time-out ends them, however long it
        takes, unless a rank falls silent. Every rank must call; there are no other collectives of
        the group meanwhile. A rank that is lost while this one works is found at the next
        collective, when the work is safe.

        Args:
            work: what this rank does; it must end by itself, as requests to a store do.
            group: of the ranks; default: that of all.

        Returns:
            What this rank's `work` gave.
        """
        if work is None:
            while self.world_size > 1 and _are_at_work(False, group):
                pass
            return None
        if self.world_size == 1:
            return work()
        done = threading.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # what loses a rank has no class of its own
                while not done.wait(_HEARTBEAT_SECONDS):
                    _are_at_work(True, group)

        thread = threading.Thread(target=tell, name="heartbeat", daemon=True)
        thread.start()
        try:
            result = work()
        finally:
            done.set()
            thread.join()
        with contextlib.suppress(RuntimeError):
            while _are_at_work(False, group):
                pass
        return result

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
        joined = local.new_empty(self.world_size * longest, *local.shape[1:])
        dist.all_gather_into_tensor(joined, padded)
        # Close the gaps, part by part from the first: no second copy of the whole is ever made.
        for rank in range(1, self.world_size):
            share, start = self.share_of(rank, n), rank * longest
            if share.start < start:
                joined[share.start : share.stop] = joined[start : start + len(share)].clone()
        return joined[:n]

    def most(self, count: int) -> int:
        """The largest `count` of any rank."""
        if self.world_size == 1:
            return count
        return int(self.all_reduce_max(torch.tensor(count, device=self.device)))

    def all_reduce_max(self, value: torch.Tensor) -> torch.Tensor:
        """The largest of each element of `value` over the ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return value

    def all_reduce_sum(self, value: torch.Tensor) -> torch.Tensor:
        """Sum of `value` over the ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def total(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of an array over the ranks."""
        summed = self.all_reduce_sum(torch.from_numpy(values).to(self.device))
        found: NDArray[np.float64] = summed.cpu().numpy()
        return found


def _are_at_work(mine: bool, group: dist.ProcessGroup | None) -> bool:
    """Whether some rank is at work, this one or another; all ranks must call."""
    at_work = torch.tensor(float(mine))
    dist.all_reduce(at_work, op=dist.ReduceOp.MAX, group=group)
    return bool(at_work)


def choose_device(wanted: str, local_rank: int) -> torch.device:
    """The device of this process.

    Raises:
        CadcError: ``compute.device`` is ``cuda`` and there is no CUDA device.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise CadcError(
            "compute.device = 'cuda', but torch finds no CUDA device; use 'cpu' or 'auto', or "
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
def matmul_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Inside this context, a GPU multiplies float32 matrices as `precision` says.

    Containers set an environment variable that has torch use TF32 everywhere; so what is to be
    exact must say so.

    Args:
        precision: ``float32``, or ``tf32``.
        device: whose products they are; a CPU's stay as they are.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def processes(compute: ComputeConfig) -> Iterator[Processes]:
    """Join the process group that torchrun describes, or make one of this process alone.

    If a rank fails inside this context, one rank prints the error for all of them; see
    `cadc_rec.distributed.peers`.

    Raises:
        CadcError: the other ranks did not come, or this rank prints the error of all.
        SystemExit: another rank prints the error.
    """
    environ = os.environ
    rank, world_size = int(environ.get("RANK", 0)), int(environ.get("WORLD_SIZE", 1))
    local_rank = int(environ.get("LOCAL_RANK", 0))
    local_world_size = int(environ.get("LOCAL_WORLD_SIZE", 1))
    device = choose_device(compute.device, local_rank)
    keep_freed_memory()
    # Two threads on one core slow each other down, so share the cores among the local ranks.
    torch.set_num_threads(compute.threads or max(1, available_cores() // local_world_size))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with matmul_precision("float32", device):
        if world_size == 1:
            join_alone(device)
            try:
                yield Processes(0, 1, local_world_size, device)
            finally:
                _destroy_groups()
        else:
            peers = join(rank, world_size, device, compute.timeout_seconds)
            if device.type == "cuda":
                peers.watch(functools.partial(_abort_collectives, device))
            with _accounted_for(peers):
                yield Processes(rank, world_size, local_world_size, device)


@contextlib.contextmanager
def _accounted_for(peers: Peers) -> Iterator[None]:
    """Leave the process group at the end; one rank prints the error of this or another one."""
    try:
        yield
        peers.done()
    except Exception as error:
        ending = peers.account_for(error, leave=functools.partial(_leave, error))
        if ending is error:
            raise
        raise ending from error
    except BaseException:
        peers.give_up()
        _destroy_groups()
        raise
    _destroy_groups()


def _abort_collectives(device: torch.device) -> None:
    """End what this rank's GPU waits for; whatever comes of it is of no use."""
    for group in (dist.group.WORLD, *_beside):
        if group is not None:
            group._get_backend(device).abort()


def _leave(error: BaseException) -> None:
    """Leave the process group in which `error` was raised, so that its connections are closed.

    gloo closes them only when no object holds the group any more. The error's frames hold the
    model, and the model holds the group.
    """
    seen: set[int] = set()
    ended: BaseException | None = error
    while ended is not None and id(ended) not in seen:
        seen.add(id(ended))
        traceback.clear_frames(ended.__traceback__)
        ended = ended.__cause__ or ended.__context__
    _beside.clear()
    gc.collect()
    _destroy_groups()


def _destroy_groups() -> None:
    _beside.clear()
    dist.destroy_process_group()
