"""Training whose next steps' ids are on their way to the tables while a step is computed.

In: sharded collections, a function that computes a step of their rows, batches. Out: what each step
gives, in order: the same numbers as without the pipeline, for no row is read before its step.

This is TorchRec's `TrainPipelineSparseDist`. It finds by torch.fx which collections read a jagged
tensor that is part of the batch, and follows no model of ours; so it is given a module of lookups
alone, behind which the rest of a step is a leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import nn
from torchrec import KeyedJaggedTensor
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.streamable import Pipelineable


class Tensors(Protocol):
    """A batch that knows all of its tensors."""

    def each(self, change: Callable[[torch.Tensor], Any]) -> Any:
        """The same batch with every tensor changed."""


B = TypeVar("B", bound=Tensors)
Rows = Mapping[str, Any]
"""Of each collection what a lookup gives, which may be to wait for."""


class _Ahead(Pipelineable, Generic[B]):
    """A batch on the device, and beside it the ids of each collection, as attributes."""

    def __init__(self, batch: B, ids: Mapping[str, KeyedJaggedTensor]) -> None:
        self.batch, self._names = batch, tuple(ids)
        for name, each in ids.items():
            setattr(self, name, each)

    def to(self, device: torch.device, non_blocking: bool = False) -> _Ahead[B]:
        """It is there already."""
        return self

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep its memory until `stream` has read it."""
        self.batch.each(lambda tensor: tensor.record_stream(stream))
        for name in self._names:
            getattr(self, name).record_stream(stream)


class _Step(nn.Module):
    """A step without its lookups. What the function holds is hidden from whoever lists modules."""

    def __init__(self, step: Callable[[Any, Rows], tuple[torch.Tensor, torch.Tensor]]) -> None:
        super().__init__()
        self.step = step

    def forward(self, batch: Any, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        return self.step(batch, rows)


class _Lookups(nn.Module):
    def __init__(self, collections: Mapping[str, nn.Module], step: _Step) -> None:
        super().__init__()
        self.collections, self.step = nn.ModuleDict(collections), step

    def forward(self, ahead: Any) -> tuple[torch.Tensor, torch.Tensor]:
        rows = {name: each(getattr(ahead, name)) for name, each in self.collections.items()}
        found: tuple[torch.Tensor, torch.Tensor] = self.step(ahead.batch, rows)
        return found


class LookupPipeline(Generic[B]):
    """Takes the steps of a training; all ranks take equally many.

    Args:
        collections: under DistributedModelParallel, by a name that no attribute of a module has.
        ids: of a batch on the device: what each of them is to look up.
        step: given a batch and rows, the loss whose gradient is taken, and what a step gives.
        optimizer: of what is not fused.
        device: where steps run.
    """

    def __init__(
        self,
        collections: Mapping[str, nn.Module],
        ids: Callable[[B], Mapping[str, KeyedJaggedTensor]],
        step: Callable[[B, Rows], tuple[torch.Tensor, torch.Tensor]],
        optimizer: torch.optim.Optimizer,
        device: torch.device,
    ) -> None:
        self._ids, self._device = ids, device
        model = _Lookups(collections, _Step(step))
        self._pipeline: Any = TrainPipelineSparseDist(model, optimizer, device)

    def steps(self, batches: Iterator[B]) -> Generator[torch.Tensor, None, None]:
        """What each step gives, one whenever it is asked for.

        In between, the collections answer the pipeline alone; at its end, or when it is closed,
        they answer everybody again.
        """
        ahead = self._with_ids(batches)
        try:
            while True:
                try:
                    yield self._pipeline.progress(ahead)
                except StopIteration:
                    return
        finally:
            self._pipeline.detach()

    def _with_ids(self, batches: Iterator[B]) -> Iterator[_Ahead[B]]:
        gpu = self._device.type == "cuda"
        if gpu:  # a stream of the pipeline's own makes the batches, of what was uploaded before
            stream = torch.cuda.current_stream(self._device)
            stream.wait_stream(torch.cuda.default_stream(self._device))
        for batch in batches:
            if gpu:
                batch = batch.each(lambda each: each.to(self._device, non_blocking=True))
            yield _Ahead(batch, self._ids(batch))
