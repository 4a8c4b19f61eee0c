"""How a process finds the others of its job and joins the process group.

In: the environment variables that a launcher sets. Out: torch's default process group, and `Peers`.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import HashStore, PrefixStore, Store, TCPStore

from cadc_rec.distributed.peers import Peers
from cadc_rec.distributed.timely import TimelyStore
from cadc_rec.errors import CadcError
from cadc_rec.log import log

_START_SECONDS = 300.0  # for the other processes to start; they only load libraries


def join_alone(device: torch.device) -> None:
    """Make a process group of this process alone."""
    # The store is in memory and takes no port, so many processes may do this at the same time.
    dist.init_process_group(_backend(device), rank=0, world_size=1, store=HashStore())


def join(rank: int, world_size: int, device: torch.device, timeout_seconds: int) -> Peers:
    """Join the process group of the job that the environment describes.

    Args:
        rank: this process's rank.
        world_size: number of ranks of the job.
        device: the device, which decides the backend.
        timeout_seconds: how long a collective waits for a rank.

    Raises:
        CadcError: the environment names no meeting point, or some ranks did not come.
    """
    if device.type == "cuda":  # read when the group is made; where to, when it is written
        os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")
    patience = min(_START_SECONDS, timeout_seconds)
    store = _meet(rank, world_size, patience)
    try:
        peers = Peers(store, rank, world_size, timeout_seconds, patience)
        dist.init_process_group(
            _backend(device),
            rank=rank,
            world_size=world_size,
            store=store,
            timeout=timedelta(seconds=timeout_seconds),
        )
        # Nobody goes on while others connect: a rank that is refused its settings at once, and
        # ends, would look to them like one that crashed.
        timely = TimelyStore(store, patience)
        if timely.add("connected", 1) == world_size:
            timely.set("all_connected", "1")
        if not timely.wait(["all_connected"], patience):
            raise RuntimeError(f"not all had connected after {patience:.0f} s")
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CadcError(
            f"rank {rank} of {world_size} found the other ranks but cannot connect to them: "
            f"{reason}; check that every host can resolve the others' names and that no firewall "
            "blocks them."
        ) from error
    return peers


def _backend(device: torch.device) -> str:
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def _meet(rank: int, world_size: int, patience: float) -> Store:
    """The store that all ranks share in this start of the job."""
    environ = os.environ
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environ.get(name)]
    if missing:
        raise CadcError(
            f"rank {rank} of {world_size} could not join its peers: {' and '.join(missing)} must "
            "be set; start the job with torchx or torchrun, which set them."
        )
    host, port = environ["MASTER_ADDR"], environ["MASTER_PORT"]
    # By default torchrun's agent keeps the store itself; otherwise rank 0 does.
    of_agent = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if of_agent and rank == 0 and int(environ.get("TORCHELASTIC_MAX_RESTARTS", 0)):
        log.warning(
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 is not set for torchrun: restarts of workers "
            "work, but a node that joins or comes back would end the job"
        )
    try:
        store = TCPStore(
            host,
            int(port),
            is_master=rank == 0 and not of_agent,
            timeout=timedelta(seconds=patience),
            wait_for_workers=False,  # `Peers` waits for them and names those that do not come
            multi_tenant=True,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CadcError(
            f"rank {rank} of {world_size} could not join its peers at {host}:{port} within "
            f"{patience:.0f} s: {reason}; check that rank 0 runs there, and start the job with "
            "torchx or torchrun, which set MASTER_ADDR and MASTER_PORT."
        ) from error
    if not of_agent:  # rank 0 made the store when it started, so it is new
        return store
    # An agent's store outlives the workers, so keys of workers before a restart are kept apart. Not
    # elsewhere: each agent counts the restarts that it saw, and one that came later saw fewer.
    return PrefixStore(f"start_{environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
