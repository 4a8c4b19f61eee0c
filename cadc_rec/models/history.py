"""A user's last items as vectors: averages over windows, from a frozen item table.

A history is int32 ``[n, L]``, the latest item first, -1 where there is none; rows are filled from
the left. What it is looked up in is the collection of the items themselves, one bag for each
window, so that a sharded table pools on the rank that holds it and no id has new parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cadc_rec.models.id_embedding import FrozenIds


def usable_windows(windows: Sequence[int], length: int) -> list[int]:
    """The windows a history of `length` can fill, and `length` itself where one is cut short.

    >>> usable_windows([1, 3, 10, 50], 20)
    [1, 3, 10, 20]
    """
    return sorted({min(window, length) for window in windows})


@torch.no_grad()
def window_means(
    table: FrozenIds, history: torch.Tensor, windows: Sequence[int]
) -> list[torch.Tensor]:
    """The mean vector of each row's last items, for every window.

    Windows are nested, so each item is looked up once: the table sums the items of every ring
    between two windows, and the sums are added up.

    Args:
        table: looked up; its lookups are sums over bags.
        history: ``[n, L]``.
        windows: ascending, at most L.

    Returns:
        One ``[n, dim]`` for each window; zeros in rows without any item.
    """
    known = history >= 0
    bags, lengths, first = [], [], 0
    for last in windows:
        ring = known[:, first:last]
        bags.append(history[:, first:last][ring])
        lengths.append(ring.sum(1, dtype=torch.int32))
        first = last
    sums = table.sums(torch.cat(bags).to(torch.int64), torch.cat(lengths))
    sums = sums.view(len(windows), len(history), sums.shape[1])
    total = torch.zeros_like(sums[0])
    count = torch.zeros(len(history), device=history.device)
    means = []
    for ring_sum, ring_length in zip(sums, lengths, strict=True):
        total = total + ring_sum
        count = count + ring_length
        means.append(total / count.clamp_min(1)[:, None])
    return means


def sequence_means(
    vectors: torch.Tensor, known: torch.Tensor, windows: Sequence[int]
) -> list[torch.Tensor]:
    """What `window_means` gives, of items that have been looked up one by one.

    Args:
        vectors: ``[n, L, dim]``, the latest first; zeros where a history has ended.
        known: bool ``[n, L]``, where it has not.
        windows: ascending, at most L.
    """
    counted = known.to(vectors.dtype)
    return [
        vectors[:, :last].sum(1) / counted[:, :last].sum(1, keepdim=True).clamp_min(1)
        for last in windows
    ]
