"""What stands for the tables' part of an item that nobody took: its most similar items' mean.

Tables know items by who took them, so of a new item they say nothing, while every item that was
taken has their score on top of the towers'. So that the two can be compared, a new item has
the weighted mean of what the tables say of the items that are most like it by attributes. That
holds for each part that is linear in an item: its rows, its score by lists, its popularity.

In: attributes of all items, the new ones last. Out: a `Likeness`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from cadc_rec.data.dataset import Attribute
from cadc_rec.data.transition_lists import best_targets
from cadc_rec.pretrain.content_lists import content_vectors

_MOST = 20
_BLOCK = 2**22  # similarities held at once


@dataclass(frozen=True)
class Likeness:
    """Items that stand for new ones.

    Attributes:
        weights: float32 ``[new, known]``; a row sums to 1, or is empty where nothing is alike.
    """

    weights: sparse.csr_array

    @property
    def new(self) -> int:
        """How many are new."""
        return int(self.weights.shape[0])

    @classmethod
    def of(cls, attributes: Sequence[Attribute], known: int, new: int) -> Likeness:
        """By cosine of the items' values, weighted by their inverse document frequency.

        Args:
            attributes: of `known` items and then `new` ones.
            known: how many can stand for others.
            new: how many are new.
        """
        vectors = content_vectors(attributes, known + new)
        columns = sparse.csr_array(vectors[:known].T)
        block, parts = max(1, _BLOCK // max(known, 1)), []
        for first in range(known, known + new, block):
            of_block = vectors[first : min(first + block, known + new)]
            found = best_targets(sparse.csr_array(of_block @ columns), _MOST)
            # Cubed, so that those that are much alike count for more than those that share a year.
            data = found.weights.astype(np.float64) ** 3
            part = sparse.csr_array(
                (data, found.items, found.indptr), shape=(of_block.shape[0], known)
            )
            parts.append(part)
        weights = sparse.csr_array(sparse.vstack(parts) if parts else (0, known))
        total = np.repeat(weights.sum(1), np.diff(weights.indptr))
        weights.data /= np.maximum(total, 1e-30)
        return cls(weights.astype(np.float32))

    def of_vectors(self, rows: torch.Tensor) -> torch.Tensor:
        """``[new, d]`` of the known items' ``[known, d]``; the mean where nothing is alike."""
        values = rows.cpu().numpy()
        alone = np.diff(self.weights.indptr) == 0
        found = self.weights @ values
        if alone.any():
            found[alone] = values.mean(0, dtype=np.float64)
        return torch.from_numpy(found.astype(np.float32)).to(rows.device)

    def of_scores(self, scores: sparse.csr_array) -> sparse.csr_array:
        """``[n, known + new]`` of sparse scores ``[n, known]``: a new item has its likes' mean."""
        return sparse.csr_array(sparse.hstack([scores, scores @ self.weights.T], format="csr"))
