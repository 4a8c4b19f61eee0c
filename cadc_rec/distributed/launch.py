"""Local worker processes for one stage, under torch's own elastic launcher."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Sequence

from cadc_rec.errors import CadcError
from cadc_rec.machine import available_cores
from cadc_rec.versions import require_trio

WORKER_MARK = "_CADC_REC_WORKER"  # in a worker's environment: its result is its parent's to print

# In the environment of a process that must not outlive the one that started it. Both marks hold
# that one's process id.
CHILD_MARK = "_CADC_REC_CHILD"

_AGENT_MARK = "TORCHELASTIC_RUN_ID"  # in the environment of whatever torchrun's agent starts

# What every rank needs and no user should have to know.
ENVIRONMENT = {
    # Spinning threads of several processes on the same cores ruin each other.
    "OMP_WAIT_POLICY": "passive",
    # torch 2.13 with gloo hangs an elastic restart over a shared rendezvous store.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}


def run_workers(arguments: Sequence[str], processes: int) -> None:
    """Run ``python -m cadc_rec ARGUMENTS`` in `processes` local workers; wait for them.

    Raises:
        CadcError: a worker was ended from outside; the message says which and how.
        KeyboardInterrupt: interrupted; the workers have ended.
        SystemExit: another signal asked us to end, and the workers have; or one of them failed,
            and has said why.
    """
    require_trio()
    # Set before torch is imported, which reads some of them at once; the workers inherit them.
    threads = {"OMP_NUM_THREADS": str(max(1, available_cores() // processes))}
    for name, value in {**ENVIRONMENT, **threads}.items():
        os.environ.setdefault(name, value)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id="cadc-rec",
        max_restarts=0,
    )
    os.environ[WORKER_MARK] = str(os.getpid())
    try:
        elastic_launch(config, sys.executable)("-m", "cadc_rec", *arguments)
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + error.sigval) from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode in (1, 2):  # a worker has said why
            raise SystemExit(failure.exitcode) from None
        how = (
            f"was ended by signal {-failure.exitcode}"
            if failure.exitcode < 0
            else f"ended with exit code {failure.exitcode}"
        )
        raise CadcError(
            f"worker {rank} of {processes} {how}; run the same command again, finished stages are "
            "kept."
        ) from None
    finally:
        del os.environ[WORKER_MARK]


def is_local_worker() -> bool:
    """Whether `run_workers` of another process started this one."""
    return WORKER_MARK in os.environ


def is_child() -> bool:
    """Whether this process should end with the one that started it.

    That is a worker of ours or of torchrun's, or a study's cell.
    """
    return is_local_worker() or CHILD_MARK in os.environ or _AGENT_MARK in os.environ


def end_with_parent() -> None:
    """Ask Linux to end this process when the process that started it dies, however it dies.

    Otherwise a killed parent leaves workers that hold the stage's lock and go on for hours.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        # It may have died while this process was loading its libraries; no signal comes then.
        parent = os.environ.get(WORKER_MARK) or os.environ.get(CHILD_MARK)
        if parent and os.getppid() != int(parent):
            raise SystemExit(128 + signal.SIGTERM)
