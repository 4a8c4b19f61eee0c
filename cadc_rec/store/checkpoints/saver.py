"""Writing checkpoints while training goes on.

In: this rank's tensors, live. Out: a committed checkpoint, some time later. What is saved is copied
first; a thread then writes the copy, talks to the other ranks' threads over a process group of its
own, and on rank 0 commits and removes what is no longer kept. A failed save causes a warning
when the next one begins, and at the end.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from cadc_rec.log import log
from cadc_rec.store.atomic import disk_error
from cadc_rec.store.checkpoints.files import save_tensors
from cadc_rec.store.checkpoints.parts import Offsets, Parts, Tensors
from cadc_rec.store.checkpoints.store import CheckpointStore


class Saver:
    """Saves one checkpoint after the other; every rank calls every method alike.

    Args:
        store: where they go; only rank 0's process may own it.
        group: the ranks' own group for this, able to carry Python objects (gloo).
        background: return once the copy is made.
        keep_last: see `CheckpointStore.keep`.
        keep_best: likewise.
    """

    def __init__(
        self,
        store: CheckpointStore,
        group: dist.ProcessGroup,
        background: bool,
        keep_last: int,
        keep_best: bool,
    ) -> None:
        self.store, self.group, self.background = store, group, background
        self.keep_last, self.keep_best = keep_last, keep_best
        self.rank = dist.get_rank(group)
        self._thread: threading.Thread | None = None
        self._failed: tuple[int, BaseException] | None = None
        self._copies: dict[tuple[str, Offsets], torch.Tensor] = {}

    @property
    def busy(self) -> bool:
        """Whether one is being written."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, step: int, tensors: Tensors, body: Mapping[str, Any]) -> float:
        """Save; returns the seconds that the caller stood still.

        Args:
            step: names the checkpoint.
            tensors: this rank's parts, live.
            body: of the manifest; rank 0's counts.
        """
        started = time.perf_counter()
        self.wait()
        staged, ready = self._staged(tensors)
        self._thread = threading.Thread(
            target=self._write, args=(step, staged, dict(body), ready), name="checkpoint"
        )
        self._thread.daemon = True  # one that hangs must not keep the process from ending
        self._thread.start()
        if not self.background:
            self.wait()
        return time.perf_counter() - started

    def wait(self, timeout: float | None = None) -> None:
        """Wait until nothing is being written, and tell of a save that failed."""
        if self._thread is not None:
            self._thread.join(timeout)
        if self._failed is not None:
            step, error = self._failed
            self._failed = None
            if self.rank == 0:
                log.warning(
                    "the checkpoint of step %d was not saved, training goes on: %s",
                    step,
                    _reason(error, self.store.workdir),
                )

    def _staged(self, tensors: Tensors) -> tuple[Tensors, torch.cuda.Event | None]:
        """Copies on the CPU, in memory that is used again; and what to wait for before use."""
        ready = None
        staged = {}
        with torch.no_grad():
            for name, parts in tensors.items():
                copies = {}
                for offsets, tensor in parts.parts.items():
                    copy = self._copies.get((name, offsets))
                    if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
                        copy = torch.empty(
                            tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda
                        )
                        self._copies[name, offsets] = copy
                    copy.copy_(tensor, non_blocking=True)
                    copies[offsets] = copy
                    if tensor.is_cuda and ready is None:
                        ready = torch.cuda.Event()
                staged[name] = Parts(parts.size, copies)
        if ready is not None:
            # The steps that follow are queued behind the copies: nobody has to wait for them here.
            ready.record()
        return staged, ready

    def _write(
        self, step: int, tensors: Tensors, body: dict[str, Any], ready: torch.cuda.Event | None
    ) -> None:
        try:
            if ready is not None:
                ready.synchronize()
            files = save_tensors(self.store.draft(step), tensors, self.group)
            if self.rank == 0:
                self.store.commit(step, files, body)
        except BaseException as error:  # told of by `wait`; CheckpointException is no Exception
            self._failed = (step, error)
            if self.rank == 0:
                shutil.rmtree(self.store.draft(step), ignore_errors=True)
        else:
            if self.rank == 0:
                self._remove_others()

    def _remove_others(self) -> None:
        try:
            self.store.keep(self.keep_last, self.keep_best)
        except OSError as error:  # tried again after the next one
            log.warning("old checkpoints could not be removed: %s", error)


def _reason(error: BaseException, folder: Path) -> str:
    """What went wrong, as one line."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    explained = disk_error(error, folder) if isinstance(error, Exception) else None
    lines = str(explained or error).splitlines()
    return lines[0] if lines else type(error).__name__
