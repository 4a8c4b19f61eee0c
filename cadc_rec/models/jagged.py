"""What TorchRec's collections are asked with, and how their answers are awaited.

In: ids, as many for every row. Out: a jagged tensor that knows its lengths; a keyed tensor.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torchrec import KeyedJaggedTensor, KeyedTensor

from cadc_rec.distributed.exchange import exchanging_rows


def one_id_each(name: str, ids: torch.Tensor) -> KeyedJaggedTensor:
    """A jagged tensor of one feature with exactly one id a row."""
    return as_many_each([name], ids, 1)


def as_many_each(
    names: Sequence[str],
    values: torch.Tensor,
    each: int,
    weights: torch.Tensor | None = None,
) -> KeyedJaggedTensor:
    """A jagged tensor whose every row has the same number of values of every feature.

    All that TorchRec wants to know of its lengths is said here. It would otherwise sum them up on
    the device, and read the sums back.

    Args:
        names: of the features.
        values: ``[features * n * each]``, feature by feature.
        each: values of a row.
        weights: of the values, in their order; None is none.
    """
    bags = len(values) // each
    rows = bags // len(names)
    lengths, offsets = _equal_bags(values.device, each, bags.bit_length())
    return KeyedJaggedTensor(
        keys=list(names),
        values=values,
        weights=weights,
        lengths=lengths[:bags],
        offsets=offsets[: bags + 1],
        stride=rows,
        length_per_key=[rows * each] * len(names),
        offset_per_key=[rows * each * place for place in range(len(names) + 1)],
    )


@functools.cache  # for good: a recorded step reads them where they are
def _equal_bags(device: torch.device, each: int, power: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Lengths and offsets of fewer than 2^power bags; what a step needs is a part of them."""
    with torch.inference_mode(False):  # or training could not use them
        bags = 1 << power
        lengths = torch.full((bags,), each, dtype=torch.int32, device=device)
        return lengths, torch.arange(0, each * bags + 1, each, device=device)


def wait(output: Any) -> KeyedTensor:
    """A collection's output: sharded ones answer later, plain ones at once."""
    if not hasattr(output, "wait"):
        return output
    with exchanging_rows():
        result: KeyedTensor = output.wait()
    return result
