"""Local worker processes for one stage, under torch's own elastic launcher."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cadc_rec.errors import FAILURE_FILE, CadcError, DefectError, left_failure
from cadc_rec.machine import available_cores

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

WORKER_MARK = "_CADC_REC_WORKER"  # in a worker's environment: its parent prints the result

# In the environment of a process that must not outlive its parent. Both marks hold the parent's
# process id.
CHILD_MARK = "_CADC_REC_CHILD"

_AGENT_MARK = "TORCHELASTIC_RUN_ID"  # in the environment of whatever torchrun's agent starts

# What every rank needs, so that users need not know it.
ENVIRONMENT = {
    # torch 2.13 with gloo hangs an elastic restart over a shared rendezvous store.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}


def run_workers(
    arguments: Sequence[str], processes: int, environment: Mapping[str, str] | None = None
) -> None:
    """Run ``python -m cadc_rec ARGUMENTS`` in `processes` local workers; wait for them.

    Args:
        arguments: the arguments of every worker's command line.
        processes: number of workers.
        environment: environment variables of the workers, in addition to this process's own.

    Raises:
        CadcError: the error of the first worker that failed, or that it was ended from outside.
        DefectError: a worker ran into a defect of cadc-rec.
        KeyboardInterrupt: Ctrl-C; the workers have ended.
        SystemExit: another signal ended this process; the workers have ended.
    """
    from cadc_rec.versions import require_trio

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
    import tempfile

    with tempfile.TemporaryDirectory(prefix="cadc-rec-workers-") as made:
        failure = Path(made) / "failure.json"
        marks = {WORKER_MARK: str(os.getpid()), FAILURE_FILE: str(failure), **(environment or {})}
        try:
            with _environment(marks):
                elastic_launch(config, sys.executable)("-m", "cadc_rec", *arguments)
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + error.sigval) from None
        except ChildFailedError as error:
            raise left_failure(failure) or _ended(error, processes) from None


def _ended(error: ChildFailedError, processes: int) -> CadcError | DefectError:
    """The error for a worker that left no failure."""
    rank, failure = error.get_first_failure()
    how = (
        f"was ended by signal {-failure.exitcode}"
        if failure.exitcode < 0
        else f"ended with exit code {failure.exitcode}"
    )
    return CadcError(
        f"worker {rank} of {processes} {how}; run the same command again, finished stages are kept."
    )


@contextlib.contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    """Inside this context, this process's environment, which children inherit, holds these too."""
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def restarted() -> bool:
    """Whether a launcher started this process again after an earlier one was lost."""
    counts = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return any(int(os.environ.get(name) or 0) > 0 for name in counts)


def is_local_worker() -> bool:
    """Whether `run_workers` of another process started this one."""
    return WORKER_MARK in os.environ


def is_child() -> bool:
    """Whether this process should end with its parent.

    That is so for workers, ours and torchrun's, and for cells of a study.
    """
    return is_local_worker() or CHILD_MARK in os.environ or _AGENT_MARK in os.environ


def end_with_parent() -> None:
    """Ask Linux to end this process when its parent dies, for whatever reason.

    Otherwise a killed parent leaves workers that hold the stage's lock and run for hours.
    """
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        # If it died while this process was loading its libraries, no signal comes.
        parent = os.environ.get(WORKER_MARK) or os.environ.get(CHILD_MARK)
        if parent and os.getppid() != int(parent):
            raise SystemExit(128 + signal.SIGTERM)
