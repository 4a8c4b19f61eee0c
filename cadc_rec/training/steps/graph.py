"""Steps as CUDA graphs: recorded once, then launched as a whole.

A small step on a GPU lasts as long as the host takes to launch its kernels. A graph launches all of
them at once, but with the same addresses, shapes and host numbers as when it was recorded. So a
step's rows are copied into tensors that stay (`_Recorded`), and whatever changes from step to step
lies on the device: the rows, how many are real, the number of terms, the learning rate, Adam's
steps, the words of `model.cold_dropout`, and the generator's place, which torch moves on.

The batch is laid out, and forward, backward and optimizer run, within the graph. Outside remain the
drawing of rows and negatives for many steps at once, the copies, and the moving average.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import Protocol

import torch

from cadc_rec.data.load.position import Position
from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.training.batches.layout import Rows
from cadc_rec.training.batches.source import DeviceBatches, Drawn, Layout
from cadc_rec.training.steps.step import Step, Terms

WARM_UP = 2
"""Steps of a shape that are taken before one is recorded: they make what later steps use again."""

Work = Callable[[], torch.Tensor]


class NotRecordedError(Exception):
    """A step cannot be recorded; says why."""


class Recorder(Protocol):
    """What records; CUDA, or its stand-in in tests."""

    def run(self, work: Work) -> torch.Tensor:
        """Do the work now, where a recording will be made of it."""

    def trial(self, work: Work) -> None:
        """Do work that changes no weights; generators stand afterwards as they stood before.

        Raises:
            NotRecordedError: it waits for the device.
        """

    def record(self, work: Work) -> tuple[Callable[[], object], torch.Tensor]:
        """Record the work without doing it.

        Returns:
            What does it, and the tensor that then has its result.

        Raises:
            NotRecordedError: it cannot be recorded. Nothing has changed.
        """


class CudaRecorder:
    """Records on a stream of its own; see `Recorder`.

    Args:
        device: a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)

    def run(self, work: Work) -> torch.Tensor:
        """See `Recorder`."""
        with self._beside():
            return work()

    def trial(self, work: Work) -> None:
        """See `Recorder`.

        A recording that fails leaves allocator and generator in a state that torch has no way out
        of. So what a recording cannot hold is looked for where it does no harm.
        """
        before = torch.cuda.get_sync_debug_mode()
        try:
            with self._beside(), torch.random.fork_rng([self.device]):
                torch.cuda.set_sync_debug_mode("error")
                try:
                    work()
                finally:
                    torch.cuda.set_sync_debug_mode(before)
        except RuntimeError as error:
            raise NotRecordedError(_first_line(error)) from error

    def record(self, work: Work) -> tuple[Callable[[], object], torch.Tensor]:
        """See `Recorder`."""
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        current, kept = torch.cuda.current_stream(self.device), generator.graphsafe_get_state()
        # The graph takes hold of the generator's state; a failure leaves it with the copy.
        generator.graphsafe_set_state(kept.clone_state())
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may go on: one writes checkpoints.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                result = work()
        except RuntimeError as error:
            torch.cuda.set_stream(current)
            generator.graphsafe_set_state(kept)
            raise NotRecordedError(_first_line(error.__context__ or error)) from error
        return graph.replay, result

    @contextlib.contextmanager
    def _beside(self) -> Iterator[None]:
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            current.wait_stream(self.stream)


class _Recorded:
    """Steps of one shape: the tensors that they read, and the recording, once there is one.

    Args:
        rows: of the first such step.
        terms: likewise.
        layout: makes the batch.
        step: what is computed of it.
    """

    def __init__(self, rows: Rows, terms: Terms, layout: Layout, step: Step) -> None:
        self.layout, self.step, self.taken = layout, step, 0
        users, items, places, negatives, count = (each.clone() for each in rows.tensors())
        self.rows = Rows(users, items, places, negatives, count, 0)  # `terms` has their number
        self.terms = Terms(terms.share.clone(), terms.count.clone())
        self.replay: Callable[[], object] | None = None
        self.loss: torch.Tensor | None = None

    def fill(self, rows: Rows, terms: Terms) -> None:
        """Let the next step be of these."""
        for mine, given in zip(self.rows.tensors(), rows.tensors(), strict=True):
            mine.copy_(given)
        self.terms.share.copy_(terms.share)
        self.terms.count.copy_(terms.count)

    def work(self) -> torch.Tensor:
        """Take the step."""
        return self.step.take(self.layout(self.rows), self.terms)

    def gradients(self) -> torch.Tensor:
        """All of it that changes no weights."""
        return self.step.gradients(self.layout(self.rows), self.terms)


class GraphSteps:
    """Records a step of each shape and replays it; see `StepRunner`.

    An epoch's steps have one shape. Another comes only where other numbers of processes began the
    epoch.

    Args:
        source: of rows.
        step: what is computed of a batch.
        recorder: records it.
        must: raise where a step cannot be recorded; else steps are launched operator by operator.
    """

    def __init__(
        self, source: DeviceBatches, step: Step, recorder: Recorder, must: bool = False
    ) -> None:
        self.source, self.step, self.recorder, self.must = source, step, recorder, must
        self.recorded: dict[tuple[tuple[int, ...], ...], _Recorded] = {}
        self.possible = True

    def inputs(self, epoch: int, done: Position = ()) -> Generator[Drawn]:
        """See `StepRunner`."""
        return self.source.drawn(epoch, done)

    def take(self, given: Drawn) -> torch.Tensor:
        """See `StepRunner`.

        Raises:
            CadcError: the step cannot be recorded, and must be.
        """
        rows, layout = given
        terms = self.step.terms(rows.positives)
        if not self.possible:
            return self.step.take(layout(rows), terms)
        key = tuple(tuple(each.shape) for each in rows.tensors())
        if key not in self.recorded:
            self.recorded[key] = _Recorded(rows, terms, layout, self.step)
        mine = self.recorded[key]
        mine.fill(rows, terms)
        if mine.taken < WARM_UP:
            mine.taken += 1
            return self.recorder.run(mine.work)
        if mine.replay is None and not self._record(mine):
            return mine.work()
        assert mine.replay is not None
        assert mine.loss is not None
        mine.replay()
        return mine.loss

    def _record(self, mine: _Recorded) -> bool:
        """Whether it could be."""
        try:
            self.recorder.trial(mine.gradients)
            mine.replay, mine.loss = self.recorder.record(mine.work)
        except NotRecordedError as error:
            if self.must:
                raise CadcError(
                    f"compute.graphs = 'on', but no CUDA graph can hold a step: {error}; set it "
                    "to 'auto'."
                ) from error
            log.info("a step is launched operator by operator, not as a CUDA graph: %s", error)
            self.possible = False
            self.recorded.clear()
            return False
        return True


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
