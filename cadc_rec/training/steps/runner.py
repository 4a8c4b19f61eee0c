"""How a training's steps are taken: operator by operator, or as one CUDA graph each.

In: the source of steps, and what one computes. Out: a `StepRunner`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol

import torch

from cadc_rec.data.load.position import Position
from cadc_rec.distributed.processes import Processes
from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.models.rows import on_gpu
from cadc_rec.models.two_tower import TwoTower
from cadc_rec.training.batches.source import BatchSource, DeviceBatches
from cadc_rec.training.steps.ahead import AheadSteps, FrozenReads, SideStream
from cadc_rec.training.steps.graph import CudaRecorder, GraphSteps
from cadc_rec.training.steps.pipelined import PipelinedSteps
from cadc_rec.training.steps.step import Step


class StepRunner(Protocol):
    """Takes the steps of an epoch one by one."""

    def inputs(self, epoch: int, done: Position = ()) -> Generator[Any]:
        """What each step of epoch number `epoch` that is not `done` is made of, for `take`."""

    def take(self, given: Any) -> torch.Tensor:
        """Take a step; returns this rank's part of its mean loss, to be read before the next."""


class EagerSteps:
    """Launches every operator of every step; see `StepRunner`.

    Args:
        source: of batches.
        step: what is computed of one.
    """

    def __init__(self, source: BatchSource, step: Step) -> None:
        self.source, self.step = source, step

    def inputs(self, epoch: int, done: Position = ()) -> Generator[Any]:
        """See `StepRunner`."""
        return self.source.epoch(epoch, done)

    def take(self, given: Any) -> torch.Tensor:
        """See `StepRunner`."""
        return self.step(given)


def step_runner(
    graphs: str,
    source: BatchSource,
    step: Step,
    processes: Processes,
    fused: bool,
    reads: FrozenReads | None = None,
    ahead: TwoTower | None = None,
) -> StepRunner:
    """The runner for a training.

    Args:
        graphs: ``auto`` records steps where that is possible, ``on`` wherever it is asked, ``off``
            nowhere.
        source: of batches.
        step: what is computed of one.
        processes: the ranks.
        fused: whether tables are trained within the backward pass.
        reads: what a step looks up in frozen tables; None fetches nothing ahead.
        ahead: the towers, whose trained tables are sent the ids of coming steps ahead of time; with
            them frozen rows are not fetched ahead. None leaves that to each step.

    Raises:
        CadcError: ``on``, and steps cannot be recorded.
    """
    if graphs == "off":
        return _eager(source, step, processes, reads, ahead)
    gpu = on_gpu(processes.device)
    if not gpu:
        why = f"this runs on {processes.device.type.upper()}"
    elif processes.world_size > 1:
        why = f"{processes.world_size} processes exchange vectors and gradients in a step"
    elif fused:
        why = "a table has its optimizer within the backward pass"
    elif isinstance(source, DeviceBatches):
        return GraphSteps(source, step, CudaRecorder(processes.device), must=graphs == "on")
    else:
        why = "batches are made on the host"
    if graphs == "on":
        raise CadcError(
            f"compute.graphs = 'on', but no CUDA graph can hold a step: {why}; set it to 'auto'."
        )
    if gpu and processes.rank == 0:
        log.info("a step is launched operator by operator, not as a CUDA graph: %s", why)
    return _eager(source, step, processes, reads, ahead)


def _eager(
    source: BatchSource,
    step: Step,
    processes: Processes,
    reads: FrozenReads | None,
    ahead: TwoTower | None,
) -> StepRunner:
    """Operator by operator; with several GPUs, ids or frozen rows are exchanged a step ahead."""
    if ahead is not None:
        return PipelinedSteps(source, step, ahead)
    alone = processes.world_size == 1 or not on_gpu(processes.device)
    if reads is None or alone or not isinstance(source, DeviceBatches):
        return EagerSteps(source, step)
    return AheadSteps(source, step, reads, SideStream(processes.device))
