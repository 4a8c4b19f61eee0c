"""Where a training's steps come from: the host, or the device that trains.

In: a loader. Out: `Batch`es of tensors, step by step. On a CPU the loader's own arrays are the
batch. On a GPU the rows lie in its memory, and negatives, different ids and the pattern of pairs
are made there: the same numbers, in shapes that are the same in every step of an epoch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from math import inf
from typing import Protocol

import numpy as np
import torch

from cadc_rec.data.load.batches import Batch, Step
from cadc_rec.data.load.candidates import SoftmaxBatches
from cadc_rec.data.load.loader import Loader
from cadc_rec.data.load.pair_batches import PairBatches
from cadc_rec.data.load.position import Course, Position
from cadc_rec.data.load.shards import Examples
from cadc_rec.data.load.stream_loader import StreamLoader
from cadc_rec.data.randomness import Purpose
from cadc_rec.data.streams import prefetched
from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.training.batches.candidates import SoftmaxLayout
from cadc_rec.training.batches.draws import DeviceNegatives
from cadc_rec.training.batches.layout import PairLayout, Rows
from cadc_rec.training.intervals import Waits

AnyLoader = Loader | StreamLoader
Batches = Generator[Batch[torch.Tensor], None, None]
Layout = PairLayout | SoftmaxLayout
Drawn = tuple[Rows, Layout]
"""A step's rows on the device, and what makes the batch of them."""
ROW_BYTES = 8 + 4  # of D_sel in a GPU's memory: a user, an item, and a place in the epoch's order
ROWS_AT_ONCE = 2**20
"""Rows that are taken, and uploaded where they are streamed, for several steps at once."""

_DRAWS = 2**22  # numbers that are drawn at once
_AHEAD = 2  # batches made while one is trained on
_MOST_ROWS = 2**31 - 1
_MOST_MARKS = 2**31  # bytes of a matrix of rows and candidates
_MOST_LOOKS = 2**28  # known items that a step looks at: milliseconds of a GPU


class BatchSource(Protocol):
    """What gives training its steps."""

    waits: Waits
    """For the data of steps, so far."""

    @property
    def rows(self) -> int:
        """Positives of an epoch over all ranks."""

    @property
    def rows_here(self) -> int:
        """Those of this rank."""

    @property
    def steps(self) -> int:
        """Steps of an epoch."""

    def epoch(self, epoch: int, done: Position = ()) -> Batches:
        """The steps of epoch number `epoch` that are not `done`; the same whenever asked for."""


def source_on(
    device: torch.device, loader: AnyLoader, on_host: bool = False, epochs: float = inf
) -> BatchSource:
    """The source for a training on `device`.

    Args:
        device: that trains.
        loader: of this rank.
        on_host: the model reads something that is made of each step's ids on the host.
        epochs: of the training at most.

    Raises:
        CadcError: the rows do not fit in the GPU's memory.
    """
    if device.type == "cpu":
        return HostBatches(loader, device)
    if on_host:
        log.info("batches are made on the host: their known scores are formed there")
        return HostBatches(loader, device)
    if _leaves_out_too_many(loader):
        log.info("batches are made on the host: what users know is too much for a step on the GPU")
        return HostBatches(loader, device)
    try:
        return DeviceBatches(loader, device, epochs)
    except torch.OutOfMemoryError:
        size = ROW_BYTES * max(loader.rows_by_rank) / 2**30 if isinstance(loader, Loader) else 0
        raise CadcError(
            f"a process's rows of D_sel take {size:.1f} GiB, and the GPU has no room for them; set "
            "loader.kind = 'stream', which holds a window of them, or use more processes."
        ) from None


def _leaves_out_too_many(loader: AnyLoader) -> bool:
    """Whether what a step's rows leave out is too large a matrix, or takes too long to mark."""
    arrange = loader.arrange
    if not isinstance(arrange, SoftmaxBatches) or arrange.known is None:
        return False
    rows = -(-loader.rows // max(1, loader.ranks * loader.steps))
    longest = int((arrange.known.indptr[1:] - arrange.known.indptr[:-1]).max(initial=0))
    return too_many_marks(arrange.candidates, rows, arrange.n_items, arrange.negatives, longest)


def too_many_marks(kind: str, rows: int, n_items: int, negatives: int, longest: float) -> bool:
    """Whether the host marks what a softmax's rows leave out of their candidates.

    Args:
        kind: of candidates, see `SoftmaxBatches`.
        rows: of a step on one rank.
        n_items: items there are.
        negatives: that all rows share.
        longest: the most items that a user knows.
    """
    candidates = n_items
    if kind == "sampled":
        candidates = min(candidates, negatives)
    elif kind != "all":
        candidates = min(candidates, rows + negatives)
    return rows * candidates > _MOST_MARKS or rows * longest > _MOST_LOOKS


class HostBatches:
    """The loader's batches, made on the host; see `BatchSource`.

    Args:
        loader: of this rank.
        device: that trains: beside a GPU, batches are made ahead.
    """

    def __init__(self, loader: AnyLoader, device: torch.device) -> None:
        self.loader, self.device, self.waits = loader, device, Waits()

    @property
    def rows(self) -> int:
        """See `BatchSource`."""
        return self.loader.rows

    @property
    def rows_here(self) -> int:
        """See `BatchSource`."""
        return self.loader.rows_here

    @property
    def steps(self) -> int:
        """See `BatchSource`."""
        return self.loader.steps

    def epoch(self, epoch: int, done: Position = ()) -> Batches:
        """See `BatchSource`."""
        made = (arrays.each(torch.from_numpy) for arrays in self.loader.epoch(epoch, done))
        if self.device.type == "cuda":
            return self.waits.over(prefetched(made, _AHEAD))
        return self.waits.over(made)


class DeviceBatches:
    """The same batches, made on the device, each filled up to the size of the largest.

    Args:
        loader: of this rank; its arrangement has a device form.
        device: that trains.
        epochs: of the training at most; the order of none after them is drawn.
    """

    def __init__(self, loader: AnyLoader, device: torch.device, epochs: float = inf) -> None:
        self.loader, self.device, self.epochs = loader, device, epochs
        self.waits = Waits()
        self.rows, self.steps, self.rows_here = loader.rows, loader.steps, loader.rows_here
        assert isinstance(loader.arrange, PairBatches | SoftmaxBatches)
        self.arrange = loader.arrange
        self.each = self.shared = 0  # negatives that a row has for itself, that a step's share
        if isinstance(self.arrange, PairBatches):
            self.each = self.arrange.negatives
        elif self.arrange.candidates in ("sampled", "mixed"):
            self.shared = self.arrange.negatives
        self.n_users = _MOST_ROWS
        self.resident: tuple[torch.Tensor, torch.Tensor] | None = None
        if isinstance(loader, Loader):
            examples = loader.examples
            self.resident = self._uploaded(examples.users), self._uploaded(examples.items)
            self.n_users = int(examples.users.max(initial=0)) + 1
            most = -(-len(examples) // self.steps)
            self.order = torch.empty(len(examples) + most, dtype=torch.int32, device=device)
        self.draws = DeviceNegatives(self.arrange.n_items, self.arrange.draws, device)
        self._layouts: dict[int, Layout] = {}  # kept: a recorded step reads their tensors
        # The order of an epoch is drawn by one thread, for each place depends on those before.
        self._thread = ThreadPoolExecutor(1, "epoch-order")
        self._next: tuple[int, Future[tuple[Course, np.ndarray]]] | None = None

    def epoch(self, epoch: int, done: Position = ()) -> Batches:
        """See `BatchSource`."""
        with contextlib.closing(self.drawn(epoch, done)) as steps:
            for rows, layout in steps:
                yield layout(rows)

    def drawn(self, epoch: int, done: Position = ()) -> Generator[Drawn]:
        """The same before batches are made of them; of an epoch all in the same shapes."""
        return self.waits.over(self._made(epoch, done))

    def _made(self, epoch: int, done: Position) -> Generator[Drawn]:
        with self._reading(epoch, done) as (course, take):
            layout = self._layout(course.most)
            counts: dict[int, torch.Tensor] = {}
            steps = course.left()
            while group := tuple(islice(steps, self._together(course.most))):
                start, stop = group[0].start, group[-1].start + len(group[-1].rows)
                users, items, places = take(start, stop, course.most)
                drawn = self._drawn(group[0], len(group), users)
                for number, step in enumerate(group):
                    mine = slice(step.start - start, step.start - start + course.most)
                    count = len(step.rows)
                    if count not in counts:
                        counts[count] = torch.full((), count, device=self.device)
                    of_all = slice(number * self.shared, (number + 1) * self.shared)
                    negatives = drawn[mine if self.each else of_all]
                    of_step = users[mine], items[mine], places[mine], negatives
                    yield Rows(*of_step, counts[count], step.positives), layout

    def _together(self, rows: int) -> int:
        """Steps of so many rows to take and to draw negatives for at once."""
        draws = rows * self.each + self.shared
        return max(1, min(ROWS_AT_ONCE // max(1, rows), _DRAWS // max(1, draws)))

    def _layout(self, rows: int) -> Layout:
        if rows not in self._layouts:
            self._layouts[rows] = (
                PairLayout(self.arrange, rows, self.n_users, self.device)
                if isinstance(self.arrange, PairBatches)
                else SoftmaxLayout(self.arrange, rows, self.device)
            )
        return self._layouts[rows]

    def _drawn(self, first: Step, steps: int, users: torch.Tensor) -> torch.Tensor:
        """The negatives of so many steps, of which `users` are the rows'."""
        if self.each:
            return self.draws.of_rows(first.key(Purpose.NEGATIVES), first.start, users, self.each)
        key, start = first.key(Purpose.SHARED_NEGATIVES), first.number * self.shared
        return self.draws.shared(key, start, steps * self.shared)

    @contextlib.contextmanager
    def _reading(
        self, epoch: int, done: Position
    ) -> Iterator[tuple[Course, Callable[[int, int, int], tuple[torch.Tensor, ...]]]]:
        """What is left, and what gives rows of it: users, items, and places among the examples.

        From one place to another, and so many more that only fill up.
        """
        if isinstance(self.loader, StreamLoader):
            with self.loader.reading(epoch, done) as (course, read):

                def windowed(start: int, stop: int, more: int) -> tuple[torch.Tensor, ...]:
                    rows: Examples = read(start, stop)
                    columns = rows.users, rows.items, np.arange(start, stop)
                    return tuple(self._uploaded(_filled(each, more)) for each in columns)

                yield course, windowed
            return
        assert self.resident is not None
        course, order = self._course(self.loader, epoch, done)
        users, items = self.resident
        filled = _filled(order.astype(np.int32), course.most)
        if len(filled) > len(
            self.order
        ):  # an epoch that other ranks began may have few, long steps
            self.order = torch.empty(len(filled), dtype=torch.int32, device=self.device)
        on_device = self.order[: len(filled)].copy_(self._pinned(filled), non_blocking=True)

        def taken(start: int, stop: int, more: int) -> tuple[torch.Tensor, ...]:
            places = on_device[start : stop + more]
            return users[places], items[places], places

        yield course, taken

    def _course(self, loader: Loader, epoch: int, done: Position) -> tuple[Course, np.ndarray]:
        """See `Loader.course`; the next epoch's is begun meanwhile."""
        waiting, self._next = self._next, None
        if not done and waiting is not None and waiting[0] == epoch:
            found = waiting[1].result()
        else:
            found = loader.course(epoch, done)
        if epoch < self.epochs:
            self._next = epoch + 1, self._thread.submit(loader.course, epoch + 1)
        return found

    def _uploaded(self, array: np.ndarray) -> torch.Tensor:
        """A copy on the device, int32."""
        return self._pinned(array).to(self.device, non_blocking=True)

    def _pinned(self, array: np.ndarray) -> torch.Tensor:
        """In memory from which a GPU copies while the host goes on, int32."""
        tensor = torch.from_numpy(np.ascontiguousarray(array, np.int32))
        return tensor.pin_memory() if self.device.type == "cuda" else tensor


def _filled(array: np.ndarray, more: int) -> np.ndarray:
    """With the last element so many times more: what fills a step up is a row of this rank."""
    last = array[-1:] if len(array) else np.zeros(1, array.dtype)
    return np.concatenate([array, np.repeat(last, more)])
