"""Small bridges between plain tensors and TorchRec's jagged ones."""

from __future__ import annotations

from typing import Any

import torch
from torchrec import KeyedJaggedTensor, KeyedTensor


def one_id_each(name: str, ids: torch.Tensor) -> KeyedJaggedTensor:
    """A jagged tensor of one feature with exactly one id a row."""
    lengths = torch.ones(len(ids), dtype=torch.int32, device=ids.device)
    return KeyedJaggedTensor(keys=[name], values=ids, lengths=lengths)


def wait(output: Any) -> KeyedTensor:
    """A collection's output: sharded ones answer later, plain ones at once."""
    result: KeyedTensor = output.wait() if hasattr(output, "wait") else output
    return result
