"""Writes checkpoints while training goes on.

In: this rank's live tensors. Out: a committed checkpoint, some time later. The tensors are copied
first. A thread then writes the copy and talks to the other ranks' threads over a process group of
its own; on rank 0 it commits the checkpoint and removes old ones. If a save fails, a warning
follows when the next one begins, or at the end; if several in a row do, training ends there.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.store.atomic import disk_error
from cadc_rec.store.checkpoints.files import Together, attempted, by_itself, save_tensors
from cadc_rec.store.checkpoints.parts import Offsets, Parts, Tensors
from cadc_rec.store.checkpoints.store import CheckpointStore
from cadc_rec.store.remote.origin import place_on_node

_MOST_FAILURES = 3  # in a row: what fills a disk or takes its rights away seldom passes by itself


class Saver:
    """Saves one checkpoint after the other; every rank must call every method.

    Args:
        store: the folder of checkpoints; only rank 0 may own it.
        group: a group of the ranks for this alone, which can send Python objects (gloo).
        background: return as soon as the copy is made; otherwise what lies in the host's memory is
            not copied.
        keep_last: see `CheckpointStore.keep`.
        keep_best: see `CheckpointStore.keep`.
        together: has the ranks of `group` do what each has to do, and wait for one another however
            long it takes: `Processes.together`. Default: of one rank.
    """

    def __init__(
        self,
        store: CheckpointStore,
        group: dist.ProcessGroup,
        background: bool,
        keep_last: int,
        keep_best: bool,
        together: Together = by_itself,
    ) -> None:
        self.together = together
        self.store, self.group, self.background = store, group, background
        self.keep_last, self.keep_best = keep_last, keep_best
        self.rank = dist.get_rank(group)
        self._thread: threading.Thread | None = None
        self._failed: tuple[int, BaseException] | None = None
        self._failures, self._why = 0, ""
        self._copies: dict[tuple[str, Offsets], torch.Tensor] = {}

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, step: int, tensors: Tensors, body: Mapping[str, Any]) -> float:
        """Save; returns the seconds that training waited.

        Args:
            step: the checkpoint's step, part of its name.
            tensors: this rank's live parts.
            body: content of the manifest; rank 0's counts.

        Raises:
            CadcError: on rank 0, the last three saves failed.
        """
        started = time.perf_counter()
        self.wait()
        if self.rank == 0 and self._failures >= _MOST_FAILURES:
            newest = next(iter(self.store.folders()), None)
            kept = f"the last good one, {newest}, is kept" if newest else "there is no other"
            raise CadcError(
                f"training ended at step {step}, because {self._failures} checkpoints in a row "
                f"could not be saved ({kept}); mend this, then start the same command again: "
                f"{self._why}"
            )
        staged, ready = self._staged(tensors)
        self._thread = threading.Thread(
            target=self._write, args=(step, staged, dict(body), ready), name="checkpoint"
        )
        self._thread.daemon = True  # a thread that hangs must not keep the process alive
        self._thread.start()
        if not self.background:
            self.wait()
        return time.perf_counter() - started

    def wait(self, timeout: float | None = None) -> None:
        """Wait until nothing is being written, and warn of a save that failed."""
        if self._thread is not None:
            self._thread.join(timeout)
        if self._failed is not None:
            step, error = self._failed
            self._failed = None
            self._failures, self._why = self._failures + 1, _reason(error, self.store.workdir)
            if self.rank == 0:
                log.warning(
                    "the checkpoint of step %d was not saved, training goes on: %s",
                    step,
                    self._why,
                )

    def _staged(self, tensors: Tensors) -> tuple[Tensors, torch.cuda.Event | None]:
        """Copies on the CPU, in memory that is reused, and what to wait for before using them."""
        ready = None
        staged = {}
        with torch.no_grad():
            for name, parts in tensors.items():
                copies = {}
                for offsets, tensor in parts.parts.items():
                    if not (self.background or tensor.is_cuda):  # nothing moves until it is written
                        copies[offsets] = tensor
                        continue
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
            # The next steps are queued behind the copies, so there is no need to wait here.
            ready.record()
        return staged, ready

    def _write(
        self, step: int, tensors: Tensors, body: dict[str, Any], ready: torch.cuda.Event | None
    ) -> None:
        try:
            if ready is not None:
                ready.synchronize()
            draft = self.store.draft(step)
            sends = self._sender(step)
            files = save_tensors(draft, tensors, self.group, sends, self.together)
            if self.store.origin is not None:
                # Nodes may share the cache; then the draft is needed until rank 0 is done.
                commit = attempted(lambda: self.store.commit(step, files, body))
                outcome = self.together(commit if self.rank == 0 else None)
                if outcome is not None:
                    outcome()
            elif self.rank == 0:
                self.store.commit(step, files, body)
        except (
            BaseException
        ) as error:  # `wait` warns of it; CheckpointException is not an Exception
            self._failed = (step, error)
            if self.rank == 0:
                shutil.rmtree(self.store.draft(step), ignore_errors=True)
        else:
            self._failures = 0
            if self.rank == 0:
                self._remove_others()
            elif self.store.origin is not None and place_on_node()[0] == 0:
                # Of this node, unless it is rank 0's, which has renamed it.
                shutil.rmtree(self.store.draft(step), ignore_errors=True)

    def _sender(self, step: int) -> Callable[[Path, Mapping[str, Any]], None]:
        """What each rank calls with the files that it wrote."""
        if self.store.origin is None:
            return lambda draft, files: None
        box = [""]
        failed: Exception | None = None
        try:
            if self.rank == 0:
                box = [self.store.next_name(step)]
        except Exception as error:  # the others wait for the name
            failed = error
        dist.broadcast_object_list(box, src=0, group=self.group)
        (name,) = box
        if not name:
            raise failed or CadcError("rank 0 cannot name the checkpoint.")
        return lambda draft, files: self.store.send(draft, name, files)

    def _remove_others(self) -> None:
        try:
            self.store.keep(self.keep_last, self.keep_best)
        except (OSError, CadcError) as error:  # tried again after the next one
            log.warning("old checkpoints could not be removed: %s", error)


def _reason(error: BaseException, folder: Path) -> str:
    """The error as one line."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    explained = disk_error(error, folder) if isinstance(error, Exception) else None
    lines = str(explained or error).splitlines()
    return lines[0] if lines else type(error).__name__
