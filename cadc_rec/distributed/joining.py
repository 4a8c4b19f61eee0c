"""How a process finds the others of its job and joins the process group.

In: what a launcher says in the environment. Out: torch's default process group, and `Peers`.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore

from cadc_rec.distributed.peers import Peers
from cadc_rec.errors import CadcError
from cadc_rec.log import log

_START_SECONDS = 300.0  # how long the others may take to start: they load their libraries, no more


def join_alone(device: torch.device) -> None:
    """Make a process group of this process."""
    # A store in memory: no port to take, so that many may run side by side.
    dist.init_process_group(_backend(device), rank=0, world_size=1, store=HashStore())


def join(rank: int, world_size: int, device: torch.device, timeout_seconds: int) -> Peers:
    """Join the process group of the job that the environment describes.

    Args:
        rank: of this process.
        world_size: ranks of the job.
        device: decides the backend.
        timeout_seconds: how long a collective waits for a rank.

    Raises:
        CadcError: the environment names no rendezvous, there is nobody, or some did not come.
    """
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
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CadcError(
            f"rank {rank} of {world_size} met its peers and cannot connect to them: {reason}; "
            "see that hosts' names resolve on all of them and no firewall stands between."
        ) from error
    return peers


def _backend(device: torch.device) -> str:
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def _meet(rank: int, world_size: int, patience: float) -> Store:
    """The store that all ranks of this start of the job share."""
    environ = os.environ
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environ.get(name)]
    if missing:
        raise CadcError(
            f"rank {rank} of {world_size} could not join its peers: {' and '.join(missing)} "
            "not set; start the job with torchx or torchrun, which set them."
        )
    host, port = environ["MASTER_ADDR"], environ["MASTER_PORT"]
    # torchrun's agent keeps the store itself where it was not told otherwise; else rank 0 does.
    of_agent = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if of_agent and rank == 0 and int(environ.get("TORCHELASTIC_MAX_RESTARTS", 0)):
        log.warning(
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 is not set for torchrun: workers can be "
            "restarted, but a node that joins or comes back would end the job"
        )
    try:
        store = TCPStore(
            host,
            int(port),
            is_master=rank == 0 and not of_agent,
            timeout=timedelta(seconds=patience),
            wait_for_workers=False,  # `Peers` waits for them, and says who does not come
            multi_tenant=True,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CadcError(
            f"rank {rank} of {world_size} could not join its peers at {host}:{port} within "
            f"{patience:.0f} s: {reason}; see whether rank 0 runs there, and start the job with "
            "torchx or torchrun, which set MASTER_ADDR and MASTER_PORT."
        ) from error
    if not of_agent:  # the store is rank 0's, and as new as its process
        return store
    # An agent's store outlives the workers: what those before a restart left is not ours. Only
    # there, for each agent counts the restarts that it has seen, and one that came later fewer.
    return PrefixStore(f"start_{environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
