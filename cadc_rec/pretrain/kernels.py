"""One half-step's gradient: logits at a CSR pattern, their error, and its product with the rows.

In: rows to move, the other side's rows, a pattern of (row, column) entries with one label. Out: the
gradient of the rows, and the sums of the entries' errors and losses. Three implementations of the
same sums:

- `torch_gradient`, sparse kernels of torch (cuSPARSE on CUDA, MKL on CPU);
- `FusedGradient`, one loop on CPU, compiled by numba (`pretrain.fused_loop`). A row's columns are
  read twice while they are still in the nearest cache, and a row's sum is always formed in the same
  order, so the result does not depend on the number of threads. Where the other side's table is
  larger than the caches, entries go by blocks of it (`pretrain.column_blocks`);
- `TritonGradient` (`pretrain.triton_gradient`), the same as one kernel on CUDA, where Triton is.

Compiling takes seconds, so the loop is for those who have enough entries (`worth_compiling`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch

from cadc_rec.data.randomness import Key
from cadc_rec.models.sparse import csr_matrix, products_at

_WORTH_COMPILING = 300_000  # entries; below, a hundred epochs take less than compiling
LEAST_PROBABILITY = 1e-7  # in the loss; four of them multiplied are still a normal float32


@dataclass(frozen=True)
class Pattern:
    """Entries as CSR: row pointers ``[rows + 1]`` and columns ``[n]``, int32 or int64."""

    crow: torch.Tensor
    col: torch.Tensor


@dataclass(frozen=True)
class DrawnPattern:
    """Entries whose columns are drawn by whoever reads them; only `TritonGradient` does.

    Attributes:
        crow: row pointers ``[rows + 1]``, int32 or int64.
        key: of the uniform sequence that columns are drawn from (`positional_integers`).
        first: position of the first entry in it.
        below: the sequence's bound.
        values: what is drawn from ``[below]``; None where the numbers drawn are the columns.
    """

    crow: torch.Tensor
    key: Key
    first: int
    below: int
    values: torch.Tensor | None = None


@dataclass
class Gradient:
    """Sums over entries: of the error (the bias's gradient) and of the positives' log loss."""

    bias: torch.Tensor
    loss: torch.Tensor


EntriesGradient: TypeAlias = Callable[
    [Any, float, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], Gradient
]
"""Adds the gradient of binary cross-entropy over one label's entries to its last argument.

An entry's score is ``mine[r] . others[c] + other_bias[c] + bias``. Arguments:

- pattern: the entries, a `Pattern`; `TritonGradient` takes a `DrawnPattern`, too;
- label: 1 for positives, 0 for negatives; the loss is summed for positives only, for half of it is
  enough to watch;
- mine ``[rows, d]``, others ``[columns, d]``, other_bias ``[columns]``, bias (scalar);
- into ``[rows, d]``: receives ``sum (sigma(score) - label) * others[c]``.
"""


def worth_compiling(entries: int, device: torch.device) -> bool:
    """Whether `FusedGradient` pays on `device` for this many entries, the same on every rank."""
    return device.type == "cpu" and entries >= _WORTH_COMPILING


def kernel_for(entries: int, device: torch.device, lanes: Lanes) -> EntriesGradient:
    """The implementation for so many entries on `device`."""
    if worth_compiling(entries, device):
        return FusedGradient(lanes)
    if device.type == "cuda" and find_spec("triton") is not None:
        from cadc_rec.pretrain.triton_gradient import TritonGradient

        return TritonGradient()
    return torch_gradient


def compile_kernels() -> None:
    """Compile `FusedGradient` now, for int32 patterns: seconds that are no stage's."""
    one = torch.zeros(1, 4)
    pattern = Pattern(torch.tensor([0, 1], dtype=torch.int32), torch.zeros(1, dtype=torch.int32))
    FusedGradient(Lanes())(pattern, 1.0, one, one, one[:, 0].contiguous(), one.sum(), one.clone())


def compile_ordering(least_squares: bool) -> None:
    """The same of what orders int32 patterns by blocks, and of `least_squares`' loops over them."""
    from cadc_rec.pretrain.blocked_products import BlockedProducts

    crow, col, weight = np.array([0, 1], np.int32), np.zeros(1, np.int32), np.ones(1, np.float32)
    products, one = BlockedProducts.of(crow, col, (weight, weight), 1, 1), torch.ones(1, 4)
    if least_squares:
        products.times(products.target(one), one)


def torch_gradient(
    pattern: Pattern,
    label: float,
    mine: torch.Tensor,
    others: torch.Tensor,
    other_bias: torch.Tensor,
    bias: torch.Tensor,
    into: torch.Tensor,
) -> Gradient:
    """`EntriesGradient` by sparse kernels, on any device."""
    crow, col = pattern.crow, pattern.col
    scores = products_at(crow, col, mine, others)
    probability = scores.add_(other_bias[col]).add_(bias).sigmoid_()
    loss = torch.zeros_like(bias)
    if label:
        loss -= probability.clamp_min(LEAST_PROBABILITY).log().sum()
    error = probability.sub_(label)
    into += csr_matrix(crow, col, error, len(others)) @ others
    return Gradient(error.sum(), loss)


class FusedGradient:
    """`EntriesGradient` by one loop over the entries, on CPU.

    Args:
        lanes: the threads that share the rows; their number does not change the result.
    """

    def __init__(self, lanes: Lanes) -> None:
        # numba takes half a second to import, and few of those who read this file have a loop.
        from cadc_rec.pretrain.column_blocks import by_blocks
        from cadc_rec.pretrain.fused_loop import add_gradient

        self.lanes, self._add_gradient, self._by_blocks = lanes, add_gradient, by_blocks

    def __call__(
        self,
        pattern: Pattern,
        label: float,
        mine: torch.Tensor,
        others: torch.Tensor,
        other_bias: torch.Tensor,
        bias: torch.Tensor,
        into: torch.Tensor,
    ) -> Gradient:
        """See `EntriesGradient`."""
        crow, col = pattern.crow.numpy(), pattern.col.numpy()
        row_bytes = others.shape[1] * others.element_size()
        blocks = self._by_blocks(crow, col, len(others), row_bytes, self.lanes)
        sums = np.zeros((len(crow) - 1, 2), np.float32)
        arrays = [tensor.numpy() for tensor in (mine, others, other_bias)]
        target, value, wanted = into.numpy(), np.float32(bias.item()), np.float32(label)

        def solve(rows: tuple[int, int]) -> None:
            entries = (blocks.pointers, blocks.col, blocks.width)
            self._add_gradient(*rows, *entries, wanted, *arrays, value, target, sums)

        self.lanes.map(solve, self.lanes.rows(crow))
        error, loss = sums.sum(0, dtype=np.float64)
        return Gradient(bias.new_tensor(error), bias.new_tensor(loss))


T = TypeVar("T")
R = TypeVar("R")


_PIECES = 8  # for each thread; all wait for the last one to end


class Lanes:
    """A fixed number of threads, kept from one use to the next.

    Each takes a further piece when it is free: one whose core is busy with another process takes
    fewer, and holds up the others for a piece at most.

    Args:
        count: how many; with one, everything runs in the caller's thread.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = max(1, count)
        self.pieces = 1 if self.count == 1 else self.count * _PIECES
        self._pool = ThreadPoolExecutor(self.count) if self.count > 1 else None

    def map(self, function: Callable[[T], R], pieces: Sequence[T]) -> list[R]:
        """``[function(piece) for piece in pieces]``, so many side by side as there are threads.

        The first error of a piece is raised, after every piece has ended.
        """
        if self._pool is None or len(pieces) < 2:
            return [function(piece) for piece in pieces]
        futures = [self._pool.submit(function, piece) for piece in pieces]
        for future in futures:
            future.exception()  # waits: nothing may still write when the error is raised
        return [future.result() for future in futures]

    def rows(self, crow: np.ndarray) -> list[tuple[int, int]]:
        """First and last row, exclusive, of pieces of a CSR ``[rows + 1]``; no piece is empty."""
        # Of equal entries, not equal rows: the busiest rows often stand together.
        ends = np.linspace(0, int(crow[-1]), self.pieces + 1)[1:-1]
        cuts = [0, *np.searchsorted(crow, ends).tolist(), len(crow) - 1]
        return [(a, b) for a, b in pairwise(cuts) if a < b]

    def cut(self, start: int, stop: int) -> list[range]:
        """``start .. stop`` in `pieces` equal pieces; no piece is empty."""
        ends = [start + (stop - start) * k // self.pieces for k in range(self.pieces + 1)]
        return [range(a, b) for a, b in pairwise(ends) if a < b]
