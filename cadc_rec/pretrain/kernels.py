"""One half-step's gradient: logits at a CSR pattern, their error, and its product with the rows.

In: rows to move, the other side's rows, a pattern of (row, column) entries with one label. Out: the
gradient of the rows, and the sums of the entries' errors and losses. Three implementations of the
same sums:

- `torch_gradient`, sparse kernels of torch (cuSPARSE on CUDA, MKL on CPU);
- `FusedGradient`, one loop on CPU, compiled by numba. A row's columns are read twice while they
  are still in the nearest cache, no array of all entries is written, and a row's sum is always
  formed in the same order, so the result does not depend on the number of threads;
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

from cadc_rec.compiled import compiled
from cadc_rec.data.randomness import Key
from cadc_rec.models.sparse import csr_matrix, products_at

_CHUNK = 256  # entries whose logits are held at once; their rows then still are in the L2 cache
_WORTH_COMPILING = 300_000  # entries; below, a hundred epochs take less than compiling
_LOG2_E = np.float32(1.4426950408889634)
_LARGEST_EXPONENT = np.float32(126.0)  # of a normal float32
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
        self.lanes = lanes

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
        # Equal entries for each thread, not equal rows: the busiest rows often stand together.
        ends = np.linspace(0, int(crow[-1]), self.lanes.count + 1)[1:-1]
        parts = [0, *np.searchsorted(crow, ends).tolist(), len(crow) - 1]
        sums = np.zeros((len(crow) - 1, 2), np.float32)
        arrays = [tensor.numpy() for tensor in (mine, others, other_bias)]
        target, value, wanted = into.numpy(), np.float32(bias.item()), np.float32(label)

        def solve(rows: tuple[int, int]) -> None:
            _entries(*rows, crow, col, wanted, *arrays, value, target, sums)

        self.lanes.map(solve, list(pairwise(parts)))
        error, loss = sums.sum(0, dtype=np.float64)
        return Gradient(bias.new_tensor(error), bias.new_tensor(loss))


@compiled(fastmath=True, nogil=True, inline="always")
def _products(row: Any, others: Any, col: Any, first: int, last: int, out: Any) -> None:
    """Dot products of `row` with the rows ``col[first:last]``, four at a time."""
    width = row.shape[0]
    k = first
    while k + 4 <= last:
        a, b, c, d = others[col[k]], others[col[k + 1]], others[col[k + 2]], others[col[k + 3]]
        of_a, of_b, of_c, of_d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for j in range(width):
            w = row[j]
            of_a += w * a[j]
            of_b += w * b[j]
            of_c += w * c[j]
            of_d += w * d[j]
        at = k - first
        out[at], out[at + 1], out[at + 2], out[at + 3] = of_a, of_b, of_c, of_d
        k += 4
    while k < last:
        a = others[col[k]]
        of_a = np.float32(0)
        for j in range(width):
            of_a += row[j] * a[j]
        out[k - first] = of_a
        k += 1


@compiled(fastmath=True, nogil=True, inline="always")
def _add_rows(into: Any, others: Any, col: Any, first: int, last: int, weight: Any) -> None:
    """Add the rows ``col[first:last]``, weighted, to `into`, four at a time."""
    width = into.shape[0]
    k = first
    while k + 4 <= last:
        a, b, c, d = others[col[k]], others[col[k + 1]], others[col[k + 2]], others[col[k + 3]]
        at = k - first
        w_a, w_b, w_c, w_d = weight[at], weight[at + 1], weight[at + 2], weight[at + 3]
        for j in range(width):
            into[j] += w_a * a[j] + w_b * b[j] + w_c * c[j] + w_d * d[j]
        k += 4
    while k < last:
        a = others[col[k]]
        for j in range(width):
            into[j] += weight[k - first] * a[j]
        k += 1


@compiled(fastmath=True, nogil=True, inline="always")
def _sigmoid(x: Any, bits: Any, power: Any, n: int) -> None:
    """``1 / (1 + exp(-x))`` of the first n elements, in place, to about 2e-7.

    exp(-x) = 2^t is taken apart into a whole power, written as a float's exponent (`power` is
    `bits` seen as float32), and the rest, by its Taylor series. No call, no branch: the compiler
    makes vector code of it, which it does not of a library's exp.
    """
    for k in range(n):
        t = -x[k] * _LOG2_E
        t = min(max(t, -_LARGEST_EXPONENT), _LARGEST_EXPONENT)
        whole = np.floor(t + np.float32(0.5))
        f = t - whole
        series = np.float32(1.5403530e-4)
        series = series * f + np.float32(1.3333558e-3)
        series = series * f + np.float32(9.6181291e-3)
        series = series * f + np.float32(5.5504109e-2)
        series = series * f + np.float32(2.4022651e-1)
        series = series * f + np.float32(6.9314718e-1)
        x[k] = series * f + np.float32(1.0)
        bits[k] = (np.int32(whole) + np.int32(127)) << np.int32(23)
    for k in range(n):
        x[k] = np.float32(1.0) / (np.float32(1.0) + x[k] * power[k])


@compiled(fastmath=True, nogil=True, inline="always")
def _log_loss(probability: Any, n: int) -> Any:
    """Minus the sum of the logarithms, one logarithm for four of them."""
    least = np.float32(LEAST_PROBABILITY)
    loss = np.float32(0)
    product = np.float32(1)
    for k in range(n):
        product *= max(probability[k], least)
        if k % 4 == 3:
            loss -= np.log(product)
            product = np.float32(1)
    return loss - np.log(product)


@compiled(fastmath=True, nogil=True)
def _entries(
    start: int,
    stop: int,
    crow: Any,
    col: Any,
    label: Any,
    mine: Any,
    others: Any,
    other_bias: Any,
    bias: Any,
    into: Any,
    sums: Any,
) -> None:
    """Rows ``start:stop``; `sums` receives error and loss of each."""
    value = np.empty(_CHUNK, np.float32)
    bits = np.empty(_CHUNK, np.int32)
    power = bits.view(np.float32)
    for row in range(start, stop):
        error, loss = np.float32(0), np.float32(0)
        first = crow[row]
        while first < crow[row + 1]:
            last = min(first + _CHUNK, crow[row + 1])
            n = last - first
            _products(mine[row], others, col, first, last, value)
            for k in range(n):
                value[k] += other_bias[col[first + k]] + bias
            _sigmoid(value, bits, power, n)
            if label > 0:
                loss += _log_loss(value, n)
            for k in range(n):
                value[k] -= label
                error += value[k]
            _add_rows(into[row], others, col, first, last, value)
            first = last
        sums[row, 0] = error
        sums[row, 1] = loss


T = TypeVar("T")
R = TypeVar("R")


class Lanes:
    """A fixed number of threads, kept from one use to the next.

    Args:
        count: how many; with one, everything runs in the caller's thread.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = max(1, count)
        self._pool = ThreadPoolExecutor(self.count) if self.count > 1 else None

    def map(self, function: Callable[[T], R], pieces: Sequence[T]) -> list[R]:
        """``[function(piece) for piece in pieces]``, pieces side by side.

        The first error of a piece is raised, after every piece has ended.
        """
        if self._pool is None or len(pieces) < 2:
            return [function(piece) for piece in pieces]
        futures = [self._pool.submit(function, piece) for piece in pieces]
        for future in futures:
            future.exception()  # waits: nothing may still write when the error is raised
        return [future.result() for future in futures]

    def cut(self, start: int, stop: int) -> list[range]:
        """``start .. stop`` in as many equal pieces as there are threads; no piece is empty."""
        ends = [start + (stop - start) * k // self.count for k in range(self.count + 1)]
        return [range(a, b) for a, b in pairwise(ends) if a < b]
