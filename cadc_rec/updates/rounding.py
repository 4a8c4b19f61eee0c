"""What an update changes of a learned table or layer, rounded, so that it takes few bytes to tell.

In: a table before and after. Out: the table after, each changed number a whole number of steps from
where it was. The last bits of a change are noise of the optimizer and its negatives; kept, they are
three quarters of what a delta of a bundle has to hold (`cadc_rec.serving.bundle.rows`).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

_MOST = 2**15  # steps that fit into two bytes


def rounded_changes(
    before: torch.Tensor,
    after: torch.Tensor,
    share: float,
    others: NDArray[np.int64] | None = None,
) -> torch.Tensor:
    """`after`, its changes rounded to multiples of one power of two.

    Args:
        before: float32 ``[n, d]``, as it was stored.
        after: float32 ``[m, d]``, m at least n, as it is to be stored; further rows stay.
        share: the step is at most this share of the root mean square of all changes, and more than
            half of it; 0 rounds nothing.
        others: rows that have another owner now, or none. They stay as they are, for rounded their
            last bits would be the former owner's, and their change has no part in the step.
    """
    if not share:
        return after
    moved = (after[: len(before)] != before).any(1)
    if others is not None:
        moved[torch.from_numpy(others)] = False
    old, new = before[moved], after[: len(before)][moved]
    change = new - old
    size = float(change.square().mean().sqrt()) if len(change) else 0.0
    if not size or not math.isfinite(size):
        return after
    step = 2.0 ** math.floor(math.log2(share * size))
    steps = torch.round(change / step)
    near = (steps.abs() < _MOST).all(1)
    found = after.clone()
    rows = torch.nonzero(moved).flatten()[near]
    found[rows] = old[near] + steps[near] * step  # the product is exact
    return found
