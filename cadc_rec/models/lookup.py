"""Small bridges between plain tensors and TorchRec's jagged ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torchrec import KeyedJaggedTensor, KeyedTensor

T = TypeVar("T")


class Remembered(Generic[T]):
    """What is known of ids that come again in every step, told apart by the tensor they are in.

    Attributes:
        comes_again: whether a tensor is one of those. Neither it nor what is known of it may
            change, and whoever says so keeps it.
    """

    def __init__(self) -> None:
        self.comes_again: Callable[[torch.Tensor], bool] = lambda _: False
        self._answers: dict[int, T] = {}

    def get(self, ids: torch.Tensor, find: Callable[[torch.Tensor], T]) -> T:
        """``find(ids)``, or what it gave before."""
        if not self.comes_again(ids):
            return find(ids)
        if id(ids) not in self._answers:
            self._answers[id(ids)] = find(ids)
        return self._answers[id(ids)]


def one_id_each(name: str, ids: torch.Tensor) -> KeyedJaggedTensor:
    """A jagged tensor of one feature with exactly one id a row."""
    lengths = torch.ones(len(ids), dtype=torch.int32, device=ids.device)
    return KeyedJaggedTensor(keys=[name], values=ids, lengths=lengths)


def wait(output: Any) -> KeyedTensor:
    """A collection's output: sharded ones answer later, plain ones at once."""
    result: KeyedTensor = output.wait() if hasattr(output, "wait") else output
    return result
