"""Frozen rows of the next step, fetched from other GPUs while this one computes.

Frozen rows depend on no weights. So as soon as a step is launched, the rows that the next one looks
up are asked for on a stream of their own, through a process group of their own (`RowExchange`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Protocol

import torch

from cadc_rec.data.load.batches import Batch
from cadc_rec.data.load.position import Position
from cadc_rec.models.id_embedding import FrozenIds
from cadc_rec.training.batches.source import BatchSource
from cadc_rec.training.steps.step import Step

FrozenReads = Callable[[Batch[torch.Tensor]], Sequence[tuple[FrozenIds, torch.Tensor]]]
"""Which frozen tables a batch's step looks up, each with the ids."""

_Pair = tuple[Batch[torch.Tensor], Batch[torch.Tensor] | None]


class Beside(Protocol):
    """Where rows are fetched: a second stream, or its stand-in in tests."""

    def mark(self) -> None:
        """What is launched so far is what the next fetch needs, and no more."""

    def fetching(self, ids: Sequence[torch.Tensor]) -> contextlib.AbstractContextManager[object]:
        """Within, work runs after the last mark, beside what is launched later; it reads `ids`."""

    def join(self, rows: Sequence[torch.Tensor]) -> None:
        """What is launched from here on comes after what was fetched, and reads `rows`."""


class SideStream:
    """A stream of a GPU; see `Beside`.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)
        self.made = torch.cuda.Event()

    def mark(self) -> None:
        """See `Beside`."""
        self.made.record(torch.cuda.current_stream(self.device))

    @contextlib.contextmanager
    def fetching(self, ids: Sequence[torch.Tensor]) -> Iterator[None]:
        """See `Beside`."""
        self.stream.wait_event(self.made)
        with torch.cuda.stream(self.stream):
            yield
        for each in ids:  # their memory may be used again only when this stream is done with it
            each.record_stream(self.stream)

    def join(self, rows: Sequence[torch.Tensor]) -> None:
        """See `Beside`."""
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self.stream)
        for each in rows:
            each.record_stream(current)


class AheadSteps:
    """Launches operator by operator, and fetches frozen rows a step ahead; see `StepRunner`.

    Every rank takes as many steps, so all of them fetch together.

    Args:
        source: of batches, made on the GPU.
        step: what is computed of one.
        reads: what a step looks up in frozen tables.
        beside: where rows are fetched.
    """

    def __init__(self, source: BatchSource, step: Step, reads: FrozenReads, beside: Beside) -> None:
        self.source, self.step, self.reads, self.beside = source, step, reads, beside
        self._fetched: list[tuple[FrozenIds, torch.Tensor, torch.Tensor]] = []

    def inputs(self, epoch: int, done: Position = ()) -> Generator[_Pair]:
        """Each step's batch, and the next one's, which is made before this one is taken."""
        with contextlib.closing(self.source.epoch(epoch, done)) as batches:
            following = next(batches, None)
            self.beside.mark()
            if following is not None:
                self._fetch(following)
            while following is not None:
                batch, following = following, next(batches, None)
                self.beside.mark()
                yield batch, following

    def take(self, given: _Pair) -> torch.Tensor:
        """See `StepRunner`."""
        batch, following = given
        self.beside.join([rows for _, _, rows in self._fetched])
        for table, ids, rows in self._fetched:
            table.fetched = ids, rows
        loss = self.step(batch)
        for table, _, _ in self._fetched:
            table.fetched = None
        self._fetched.clear()
        if following is not None:
            self._fetch(following)
        return loss

    def _fetch(self, batch: Batch[torch.Tensor]) -> None:
        wanted = [(table, ids) for table, ids in self.reads(batch) if table.fetches]
        with self.beside.fetching([ids for _, ids in wanted]):
            self._fetched = [(table, ids, table.fetch(ids)) for table, ids in wanted]
