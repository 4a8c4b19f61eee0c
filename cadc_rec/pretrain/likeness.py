"""What stands for the tables' part of an item that nobody took: its most similar items' mean.

Tables know items by who took them, so of a new item they say nothing, while every item that was
taken has their score on top of the towers'. So that the two can be compared, a new item has
the weighted mean of what the tables say of the items that are most like it by content. That
holds for each part that is linear in an item: its rows, its score by lists, its popularity.

A mean of several items stands nearer to the middle than any of them, and would hardly ever be among
the best. How much nearer, known items tell: each is made of the others, as if it were new, and the
scores of both are compared (`reach`). New items are moved away from the middle by that ratio.

In: the content of known items and of new ones. Out: a `Likeness`, and a gain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from cadc_rec.data.content import Content
from cadc_rec.data.transition_lists import best_targets

USERS = 1000
"""Users whose scores the gain is taken from."""
_MOST = 20
_ITEMS = 1000  # known items that are made of others
_BEST = 100  # the best one in so many
_GAINS = (0.1, 10.0)
_BLOCK = 2**22  # similarities held at once


@dataclass(frozen=True)
class Likeness:
    """Items that stand for others.

    Attributes:
        weights: float32 ``[rows, known]``; a row sums to 1, or is empty where nothing is alike.
    """

    weights: sparse.csr_array

    @classmethod
    def of(cls, known: Content, new: Content) -> Likeness:
        """Of new items, by the cosine of all that is known of both.

        Args:
            known: items that can stand for others.
            new: items that others stand for.
        """
        return cls._of_rows(known, new, np.full(len(new), -1))

    @classmethod
    def of_known(cls, known: Content) -> tuple[NDArray[np.int64], Likeness]:
        """Some known items, evenly spread, and the others that would stand for each.

        Args:
            known: items.
        """
        rows = np.linspace(0, len(known) - 1, min(len(known), _ITEMS)).astype(np.int64)
        rows = np.unique(rows)
        return rows, cls._of_rows(known, known.part(rows), rows)

    @classmethod
    def _of_rows(cls, known: Content, new: Content, own: NDArray[np.int64]) -> Likeness:
        """The known items that are most like others, none of which stands for itself (`own`)."""
        found = _most_alike(known, new, own)
        # Cubed, so that those that are much alike count for more than those that share a year.
        found.data = found.data.astype(np.float64) ** 3
        total = np.repeat(found.sum(1), np.diff(found.indptr))
        found.data /= np.maximum(total, 1e-30)
        return cls(found.astype(np.float32))

    def of_vectors(self, vectors: torch.Tensor) -> torch.Tensor:
        """``[rows, d]`` of the known items' ``[known, d]``; the mean where nothing is alike."""
        values = vectors.cpu().numpy()
        alone = np.diff(self.weights.indptr) == 0
        found = self.weights @ values
        if alone.any():
            found[alone] = values.mean(0, dtype=np.float64)
        return torch.from_numpy(found.astype(np.float32)).to(vectors.device)

    def of_scores(self, scores: sparse.csr_array) -> sparse.csr_array:
        """``[n, rows]`` of sparse scores ``[n, known]``."""
        return sparse.csr_array(scores @ self.weights.T)


def _most_alike(known: Content, new: Content, own: NDArray[np.int64]) -> sparse.csr_array:
    """The largest cosines of each new item, those above 0; ``[new, known]``.

    The known items pass block by block, so that tables larger than memory are read once.
    """
    found = sparse.csr_array((len(new), len(known)), dtype=np.float32)
    for block in known.blocks():
        of_block = known.rows(block)
        columns = sparse.csr_array(of_block[0].T), of_block[1].T.astype(np.float64)
        size, parts = max(1, _BLOCK // (block.stop - block.start)), []
        for first in range(0, len(new), size):
            some = slice(first, first + size)
            alike = _cosines(new.rows(some), columns)
            itself = np.repeat(own[some], np.diff(alike.indptr)) == alike.indices + block.start
            alike.data[itself | (alike.data < 0)] = 0.0
            before = found[some]
            if before.nnz:
                worst = np.zeros(before.shape[0], np.float32)
                full = np.diff(before.indptr) == _MOST
                worst[full] = before.data[before.indptr[1:][full] - 1]
                alike.data[alike.data <= np.repeat(worst, np.diff(alike.indptr))] = 0.0
            alike.eliminate_zeros()
            parts.append(_best(before, alike, block.start))
        found = sparse.csr_array(sparse.vstack(parts)) if parts else found
    return found


def _cosines(
    rows: tuple[sparse.csr_array, NDArray[np.float32]],
    columns: tuple[sparse.csr_array, NDArray[np.float64]],
) -> sparse.csr_array:
    """Products of both parts of unit vectors, sparse where there are no vectors."""
    products = sparse.csr_array(rows[0] @ columns[0])
    if not rows[1].shape[1]:
        return products
    # In float64, so that items of the same content are equally alike in any block.
    every = rows[1].astype(np.float64) @ columns[1] + products.toarray()
    return sparse.csr_array(every.astype(np.float32))


def _best(before: sparse.csr_array, alike: sparse.csr_array, first: int) -> sparse.csr_array:
    """The best of what was found before and of a block that begins at item `first`."""
    lengths = np.diff(before.indptr) + np.diff(alike.indptr)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    data, items = np.empty(indptr[-1], np.float32), np.empty(indptr[-1], np.int64)
    old = indptr[:-1].repeat(np.diff(before.indptr)) + _places(before)
    new = (indptr[:-1] + np.diff(before.indptr)).repeat(np.diff(alike.indptr)) + _places(alike)
    data[old], items[old] = before.data, before.indices
    data[new], items[new] = alike.data, first + alike.indices
    best = best_targets(sparse.csr_array((data, items, indptr), shape=before.shape), _MOST)
    return sparse.csr_array((best.weights, best.items, best.indptr), shape=before.shape)


def _places(matrix: sparse.csr_array) -> NDArray[np.int64]:
    """Of each entry, its place in its row."""
    counts = np.diff(matrix.indptr)
    return np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], counts)


def reach(scores: torch.Tensor) -> torch.Tensor:
    """How far the best percent of each row's scores are above its mean; the sum over rows.

    Args:
        scores: ``[users, items]``.
    """
    best = scores.topk(max(1, scores.shape[1] // _BEST), 1).values
    return (best.mean(1) - scores.mean(1)).double().sum()


def gain(real: float, pretended: float) -> float:
    """What new items are moved by, from the `reach` of known items and of those made of others."""
    return float(np.clip(real / pretended, *_GAINS)) if pretended > 0 else 1.0


def moved(vectors: torch.Tensor, known: torch.Tensor, by: float) -> torch.Tensor:
    """`vectors` ``[n, d]``, so many times as far from the mean of the known ``[known, d]``."""
    mean = known.double().mean(0).float()
    return mean + by * (vectors - mean)
