"""What a rank measures of its steps, interval by interval: speed, waits, memory, loss.

In: the trainer's steps. Out: a `Measured` every few seconds and at the end of each epoch, to the
rank's JSON log and to who asks; at the end of an epoch rank 0 gets those of all ranks.

Within a step nothing is read from a GPU: the loss is fetched when an interval ends. Between two
ends of epochs ranks tell each other nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import nn

from cadc_rec.distributed.exchange import ExchangeClock
from cadc_rec.distributed.processes import Processes
from cadc_rec.log import note

T = TypeVar("T")
_MEMORY = Path("/proc/self/statm")  # the second number is of pages in memory


@dataclass(frozen=True)
class Measured:
    """An interval of one rank.

    Attributes:
        epoch: in which it lies, from 1.
        step: steps of all epochs done at its end.
        steps: in it.
        seconds: it took, checkpoints included, validation not.
        positives: of this rank in it; exact but for a row a step.
        waiting_seconds: the host waited for the data of its steps.
        exchange_seconds: spent in exchange with other ranks, see `ExchangeClock`.
        loss: this rank's part of the mean loss, summed over its steps: the sum of all ranks' parts,
            over `steps`, is the mean loss.
        host_memory_bytes: resident at its end.
        device_memory_bytes: the most that was allocated on the GPU so far; 0 on a CPU.
    """

    epoch: int
    step: int
    steps: int
    seconds: float
    positives: float
    waiting_seconds: float
    exchange_seconds: float
    loss: float
    host_memory_bytes: int
    device_memory_bytes: int

    @property
    def own_seconds_a_step(self) -> float:
        """What is left of a step without the exchange, in which a rank waits for slower ones."""
        return (self.seconds - self.exchange_seconds) / self.steps

    def line(self) -> str:
        """For a person who reads the rank's log."""
        return (
            f"step {self.step}: {self.positives / self.seconds:,.0f} positives/s, "
            f"{self.waiting_seconds / self.seconds:.1%} of the time waiting for data, "
            f"{self.exchange_seconds / self.seconds:.1%} in exchange"
        )


class OnInterval(Protocol):
    """What is told of intervals; on every rank, of its own."""

    def interval(self, mine: Measured) -> None:
        """An interval of this rank has ended."""

    def epoch(self, of_ranks: list[list[Measured]], slowest: int) -> None:
        """An epoch of several ranks has ended: the intervals of each, and the slowest rank."""


class Untold:
    """Tells nobody."""

    def interval(self, mine: Measured) -> None:
        """Do nothing."""

    def epoch(self, of_ranks: list[list[Measured]], slowest: int) -> None:
        """Do nothing."""


class Waits:
    """Seconds that were waited for what an iterator gives."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def over(self, given: Generator[T, None, None]) -> Generator[T, None, None]:
        """What `given` gives, and its end closes it."""
        with contextlib.closing(given):
            while True:
                started = time.perf_counter()
                try:
                    each = next(given)
                except StopIteration:
                    return
                finally:
                    self.seconds += time.perf_counter() - started
                yield each


class Meter:
    """Measures the steps of a training.

    Args:
        seconds: of an interval; 0 measures nothing.
        model: wrapped.
        processes: the ranks.
        told: of what was measured.
    """

    def __init__(
        self, seconds: float, model: nn.Module, processes: Processes, told: OnInterval
    ) -> None:
        self.every, self.processes, self.told = seconds, processes, told
        self._exchange = ExchangeClock(model, processes.world_size) if seconds else None
        self._due = float("inf")
        self._of_epoch: list[Measured] = []

    def begin(
        self, epoch: int, number: int, waits: Waits, rows_a_step: float, loss: torch.Tensor
    ) -> None:
        """An epoch, or what is left of it, begins.

        Args:
            epoch: from 1.
            number: steps of all epochs done.
            waits: for the data of steps.
            rows_a_step: positives of this rank in a step.
            loss: this rank's parts, which steps add to.
        """
        if self._exchange is None:
            return
        self._epoch, self._waits, self._rows = epoch, waits, rows_a_step
        self._loss, self._of_epoch = float(loss), []
        self._start(number)

    def due(self) -> bool:
        """Whether an interval has ended; asked after every step."""
        return time.perf_counter() >= self._due

    def cut(self, number: int, loss: torch.Tensor) -> None:
        """End an interval after `number` steps of all epochs; waits for the GPU."""
        if self._exchange is None or number == self._number:
            return
        now_loss = float(loss)
        steps = number - self._number
        measured = Measured(
            self._epoch,
            number,
            steps,
            time.perf_counter() - self._started,
            self._rows * steps,
            self._waits.seconds - self._waited,
            self._exchange.since_last(steps),
            now_loss - self._loss,
            _resident_bytes(),
            _allocated_bytes(self.processes.device),
        )
        self._loss = now_loss
        self._of_epoch.append(measured)
        note(measured.line(), {"interval": asdict(measured)})
        self.told.interval(measured)
        self._start(number)

    def end(self, number: int, loss: torch.Tensor) -> None:
        """End the epoch; all ranks call."""
        if self._exchange is None:
            return
        self.cut(number, loss)
        self._due = float("inf")
        if self.processes.world_size > 1:
            of_ranks = self.processes.all_gather(self._of_epoch)
            last = slowest(of_ranks)
            note(f"epoch {self._epoch}: rank {last} is the slowest", {"slowest_rank": last})
            self.told.epoch(of_ranks, last)

    def _start(self, number: int) -> None:
        self._number, self._waited = number, self._waits.seconds
        self._started = time.perf_counter()
        self._due = self._started + self.every


def unmeasured(processes: Processes) -> Meter:
    """A meter that measures nothing."""
    return Meter(0.0, nn.Module(), processes, Untold())


def slowest(of_ranks: list[list[Measured]]) -> int:
    """The rank whose own work takes longest in a step; the others wait for it in the exchange."""

    def own(rank: int) -> float:
        mine = of_ranks[rank]
        steps = sum(each.steps for each in mine)
        return sum(each.own_seconds_a_step * each.steps for each in mine) / max(1, steps)

    return max(range(len(of_ranks)), key=own)


def _resident_bytes() -> int:
    try:
        return int(_MEMORY.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no Linux
        return 0


def _allocated_bytes(device: torch.device) -> int:
    """A counter of torch's allocator, on the host."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
