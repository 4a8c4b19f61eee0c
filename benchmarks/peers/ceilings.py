"""What the machine can do at best, measured, and how much work a stage's arithmetic is.

A share of a ceiling says how much there is left to gain. The ceiling of the towers is the speed of
matrix products of the towers' own shapes, not of large square ones, which no small model reaches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch

_REPEATS = 7
_COPY_BYTES = 2**28  # several times any cache
_TOWER_ROWS = 4096
_LEAST_SECONDS = 0.02  # of one measurement; below, the clock and the scheduler have too much say


def measure_ceilings(widths: Sequence[int]) -> dict[str, float]:
    """Ceilings with torch's present number of threads.

    Args:
        widths: of a tower, its input first.

    Returns:
        ``tower GFLOP/s`` (products of the tower's layers), ``square GFLOP/s`` (1024 cubed) and
        ``copy GB/s`` (bytes read and written).
    """
    layers = [(torch.randn(_TOWER_ROWS, a), torch.randn(a, b)) for a, b in pairwise(widths)]
    flops = sum(2 * _TOWER_ROWS * a * b for a, b in pairwise(widths))

    def towers() -> None:
        for rows, weight in layers:
            rows @ weight

    square = torch.randn(1024, 1024)
    source = torch.ones(_COPY_BYTES // 4)
    target = torch.empty_like(source)
    return {
        "tower GFLOP/s": flops / _seconds(towers) / 1e9,
        "square GFLOP/s": 2 * 1024**3 / _seconds(lambda: square @ square) / 1e9,
        "copy GB/s": 2 * _COPY_BYTES / _seconds(lambda: target.copy_(source)) / 1e9,
    }


def _seconds(work: Callable[[], object]) -> float:
    """Seconds of one call: the median of a few measurements of enough calls each."""
    calls = 1
    while (taken := _time(work, calls)) < _LEAST_SECONDS:
        calls = max(2 * calls, int(calls * _LEAST_SECONDS / max(taken, 1e-9)))
    return float(np.median([_time(work, calls) for _ in range(_REPEATS)])) / calls


def _time(work: Callable[[], object], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        work()
    return time.perf_counter() - started


def tower_flops(rows: float, ids: int, features: int, tower: Sequence[int], learns: bool) -> float:
    """Floating-point operations of one tower in a step, forward and backward.

    Forward is one product a layer; backward one for the weights, and one for the input where that
    needs a gradient: in the first layer the features do, and the ids where they are learned.

    Args:
        rows: that it sees.
        ids: width of the id vector.
        features: width of all feature embeddings.
        tower: widths of the layers.
        learns: whether the id vectors are learned.
    """
    first = (ids + features) * tower[0]
    into = (features + (ids if learns else 0)) * tower[0]
    rest = sum(a * b for a, b in pairwise(tower))
    return 2.0 * rows * (2 * first + into + 3 * rest)


def pair_flops(pairs: float, width: int) -> float:
    """Of the pairs' dot products: forward, and a gradient for either side."""
    return 3.0 * 2.0 * pairs * width
