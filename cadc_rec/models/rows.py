"""Rows of a table by id, which every form of a model looks up in its own way.

Training asks sharded TorchRec collections (`id_embedding.py`), exported programs index tensors, and
TorchRec's inference modules look jagged features up before they are asked. What is made of the rows
is the same for all of them (`forward.py`). What asks TorchRec is in `jagged.py`: this file loads
without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import nn

T = TypeVar("T")


class Rows(Protocol):
    """A table whose rows are asked for by the ids of a history.

    A history is an integer tensor ``[n, L]``, the latest item first, negative where there is none;
    rows are filled from the left.
    """

    def sequences(self, history: torch.Tensor) -> torch.Tensor:
        """The row of each item, ``[n, L, width]``; zeros where a history has ended."""

    def window_means(self, history: torch.Tensor, windows: Sequence[int]) -> list[torch.Tensor]:
        """The mean row of each history's last items, one ``[n, width]`` for every window.

        Args:
            history: ``[n, L]``.
            windows: ascending, at most L.
        """


class LookedUp:
    """Rows that were looked up before: whatever history is named, it is the one they are of.

    Args:
        vectors: ``[n, L, width]``, zeros where a history has ended.
    """

    def __init__(self, vectors: torch.Tensor) -> None:
        self.vectors = vectors

    def sequences(self, history: torch.Tensor) -> torch.Tensor:
        """See `Rows`."""
        return self.vectors

    def window_means(self, history: torch.Tensor, windows: Sequence[int]) -> list[torch.Tensor]:
        """See `Rows`."""
        counted = (history >= 0).to(self.vectors.dtype)
        return [
            self.vectors[:, :last].sum(1) / counted[:, :last].sum(1, keepdim=True).clamp_min(1)
            for last in windows
        ]


class TensorRows(nn.Module):
    """Rows of a plain tensor.

    Args:
        weight: ``[rows, width]``.
    """

    weight: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows ``[n, width]`` of int64 ids ``[n]``."""
        return self.weight[ids]

    def sequences(self, history: torch.Tensor) -> torch.Tensor:
        """See `Rows`."""
        return self.weight[history.clamp_min(0).long()] * (history >= 0)[:, :, None]

    def window_means(self, history: torch.Tensor, windows: Sequence[int]) -> list[torch.Tensor]:
        """See `Rows`."""
        return LookedUp(self.sequences(history)).window_means(history, windows)


class Cache(Generic[T]):
    """What was found of ids that come again in every step, known by the tensor they are in.

    Attributes:
        recurs: whether a tensor is one of those. Neither it nor what is found of it may change,
            and whoever says so keeps it alive.
    """

    def __init__(self) -> None:
        self.recurs: Callable[[torch.Tensor], bool] = lambda _: False
        self._found: dict[int, T] = {}

    def get(self, ids: torch.Tensor, find: Callable[[torch.Tensor], T]) -> T:
        """``find(ids)``, or what it gave before."""
        if not self.recurs(ids):
            return find(ids)
        if id(ids) not in self._found:
            self._found[id(ids)] = find(ids)
        return self._found[id(ids)]


def on_gpu(device: torch.device) -> bool:
    """Whether operators are launched, so that few are better, and none may wait for the device."""
    return device.type == "cuda"
