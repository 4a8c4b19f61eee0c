"""What stands for the tables' part of an item that nobody took: its most similar items' mean.

Tables know items by who took them, so of a new item they say nothing, while every item that was
taken has their score on top of the towers'. So that the two can be compared, a new item has
the weighted mean of what the tables say of the items that are most like it by attributes. That
holds for each part that is linear in an item: its rows, its score by lists, its popularity.

A mean of several items stands nearer to the middle than any of them, and would hardly ever be among
the best. How much nearer, known items tell: each is made of the others, as if it were new, and the
scores of both are compared (`reach`). New items are moved away from the middle by that ratio.

In: attributes of all items, the new ones last. Out: a `Likeness`, and a gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from cadc_rec.data.dataset import Attribute
from cadc_rec.data.transition_lists import best_targets
from cadc_rec.pretrain.content_lists import content_vectors

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
    def of(cls, attributes: Sequence[Attribute], known: int, new: int) -> Likeness:
        """Of new items, by cosine of values weighted by the known items' inverse frequency.

        Args:
            attributes: of `known` items and then `new` ones.
            known: how many can stand for others.
            new: how many are new.
        """
        vectors = content_vectors(attributes, known + new, known)
        return cls._of_rows(vectors, known, np.arange(known, known + new))

    @classmethod
    def of_known(
        cls, attributes: Sequence[Attribute], known: int
    ) -> tuple[NDArray[np.int64], Likeness]:
        """Some known items, evenly spread, and the others that would stand for each.

        Args:
            attributes: of `known` items, and perhaps more.
            known: how many of the first count.
        """
        rows = np.unique(np.linspace(0, known - 1, min(known, _ITEMS)).astype(np.int64))
        n_items = len(attributes[0].indptr) - 1 if attributes else known
        vectors = content_vectors(attributes, n_items, known)
        return rows, cls._of_rows(vectors, known, rows)

    @classmethod
    def _of_rows(cls, vectors: sparse.csr_array, known: int, rows: NDArray[np.int64]) -> Likeness:
        """The known items that are most like these rows, none of which stands for itself."""
        columns = sparse.csr_array(vectors[:known].T)
        block, parts = max(1, _BLOCK // max(known, 1)), []
        for first in range(0, len(rows), block):
            some = rows[first : first + block]
            alike = sparse.csr_array(vectors[some] @ columns)
            own = np.repeat(some, np.diff(alike.indptr)) == alike.indices
            alike.data[own] = 0.0
            alike.eliminate_zeros()
            found = best_targets(alike, _MOST)
            # Cubed, so that those that are much alike count for more than those that share a year.
            data = found.weights.astype(np.float64) ** 3
            shape = (len(some), known)
            parts.append(sparse.csr_array((data, found.items, found.indptr), shape=shape))
        weights = sparse.csr_array(sparse.vstack(parts) if parts else (0, known))
        total = np.repeat(weights.sum(1), np.diff(weights.indptr))
        weights.data /= np.maximum(total, 1e-30)
        return cls(weights.astype(np.float32))

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
