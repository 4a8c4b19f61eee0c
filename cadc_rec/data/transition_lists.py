"""Every item's best targets: the transition matrix itself, less its smallest weights.

Factorizing the matrix to vectors of 96 numbers loses most of what it tells; a few hundred targets
an item keep nearly all. The score of item i after a history h_1 (the latest), h_2, ... is

    sum over j of  decay^(j - 1) T[h_j, i]  /  sum over j of decay^(j - 1),

with T[h, i] = 0 where i is not in h's list. It is no dot product of two short vectors: a history's
scores are a sparse row over the items, and whoever ranks adds that row to the dot products.

On disk: ``transition_lists.safetensors`` with ``indptr`` (int64 ``[n_items + 1]``), ``items``
(int32) and ``weights`` (float32); an item's targets by falling weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

if TYPE_CHECKING:  # a second of imports that a predictor without lists need not wait for
    from scipy import sparse

FILE = "transition_lists.safetensors"
_BLOCK = 2**23  # entries sorted at once


@dataclass(frozen=True)
class TransitionLists:
    """The targets of all items.

    Attributes:
        indptr: ``[n_items + 1]``; item n's targets are ``indptr[n]:indptr[n + 1]``.
        items: int32, the targets; of one item by falling weight.
        weights: float32, above 0.
    """

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]
    weights: NDArray[np.float32]

    @property
    def n_items(self) -> int:
        """Number of items, with targets or without."""
        return len(self.indptr) - 1

    def save(self, file: Path) -> None:
        """Write them."""
        file.write_bytes(self.contents())  # save_file would hide it from other users

    def contents(self) -> bytes:
        """What `save` writes."""
        return save({"indptr": self.indptr, "items": self.items, "weights": self.weights})

    @classmethod
    def open(cls, file: Path) -> TransitionLists:
        """What `save` wrote."""
        return cls(**load_file(file))

    @cached_property
    def matrix(self) -> sparse.csr_array:
        """The same as a CSR matrix ``[n_items, n_items]``."""
        from scipy import sparse

        shape = (self.n_items, self.n_items)
        # A copy: it is sorted by item in place.
        matrix = sparse.csr_array((self.weights, self.items, self.indptr), shape=shape, copy=True)
        matrix.sort_indices()
        return matrix

    def scores(
        self, history: NDArray[np.int32], decay: float, targets: sparse.csr_array | None = None
    ) -> sparse.csr_array:
        """The scores of all items after each history, float32 ``[n, n_items]``.

        A row depends on its own history alone, to the bit. Its items are in no order: sorting them
        takes as long as adding them up.

        Args:
            history: ``[n, L]``, the latest item first, negative where it has ended.
            decay: what each place further back multiplies the weight of an item by.
            targets: columns of `matrix`, the items whose scores are wanted; None for all.
        """
        from scipy import sparse

        known = history >= 0
        weight = np.where(known, decay ** np.arange(history.shape[1]), 0.0)
        weight /= np.maximum(weight.sum(1, keepdims=True), 1e-12)
        indptr = np.concatenate([[0], np.cumsum(known.sum(1))])
        rows = sparse.csr_array(
            (weight[known].astype(np.float32), history[known], indptr),
            shape=(len(history), self.n_items),
        )
        return rows @ (self.matrix if targets is None else targets)


@dataclass(frozen=True)
class ListedScores:
    """The scores of lists as a model adds them to its dot products.

    Attributes:
        lists: every item's targets.
        decay: of a history's places.
        factor: of the scores.
        length: items of a history that count, the latest ones.
        targets: columns of the lists' matrix, where not all items' scores are wanted.
    """

    lists: TransitionLists
    decay: float
    factor: float
    length: int
    targets: sparse.csr_array | None = None

    def of_targets(self, items: range) -> ListedScores:
        """The same scores of these items alone."""
        if len(items) == self.lists.n_items:
            return self
        return replace(self, targets=self.lists.matrix[:, items.start : items.stop])

    def of(self, history: NDArray[np.int32]) -> sparse.csr_array:
        """Of histories ``[n, length]``, the latest item first; see `TransitionLists.scores`."""
        found = self.lists.scores(history, self.decay, self.targets)
        found.data *= np.float32(self.factor)
        return found

    def of_lists(self, histories: Sequence[NDArray[np.integer[Any]]]) -> sparse.csr_array:
        """The same of histories of any length, the latest item first; items ascend in a row."""
        padded = np.full((len(histories), self.length), -1, np.int32)
        for row, history in enumerate(histories):
            latest = history[: self.length]
            padded[row, : len(latest)] = latest
        found = self.of(padded)
        found.sort_indices()
        return found

    def settings(self) -> dict[str, Any]:
        """All but the lists, as JSON values; see `with_settings`."""
        return {"decay": self.decay, "factor": self.factor, "length": self.length}

    @classmethod
    def of_evaluation(cls, info: Mapping[str, Any], folders: Iterable[Path]) -> ListedScores | None:
        """The scores that came on top of dot products when an evaluation ranked; None without.

        Args:
            info: of the evaluation's manifest.
            folders: its artifact's, and that of its transitions: the first that has lists has
                those that it ranked by.
        """
        if "lists" not in info:
            return None
        file = next(folder / FILE for folder in folders if (folder / FILE).exists())
        return cls.with_settings(TransitionLists.open(file), info["lists"])

    @classmethod
    def with_settings(cls, lists: TransitionLists, settings: Mapping[str, Any]) -> ListedScores:
        """Lists, and what `settings` returned."""
        return cls(lists, **settings)


def best_targets(matrix: sparse.csr_array, most: int, block: int = _BLOCK) -> TransitionLists:
    """The entries of each row with the largest weights; of equal ones those of the first items.

    Args:
        matrix: ``[n_items, n_items]``; weights of any sign, not 0.
        most: how many of a row are kept.
        block: entries sorted at once, about; the result does not depend on it.
    """
    n = matrix.shape[0]
    if not matrix.has_sorted_indices:
        matrix = matrix.sorted_indices()
    indptr = matrix.indptr.astype(np.int64)
    kept = np.minimum(np.diff(indptr), most)
    ends = np.concatenate([[0], np.cumsum(kept)])
    items = np.empty(int(ends[-1]), np.int32)
    weights = np.empty(int(ends[-1]), np.float32)
    first = 0
    while first < n:
        last = int(np.searchsorted(indptr, indptr[first] + block, "right")) - 1
        last = min(max(last, first + 1), n)
        part = slice(int(indptr[first]), int(indptr[last]))
        row = np.repeat(np.arange(last - first), np.diff(indptr[first : last + 1]))
        # One stable sort of whole numbers takes a tenth of the time of one by row, weight and item.
        order = np.argsort((row << 32) | _falling(matrix.data[part]), kind="stable")
        place = np.arange(len(order)) - (indptr[first:last] - indptr[first])[row]
        chosen = order[place < most]  # `row` is its own order, so places count within rows
        into = slice(int(ends[first]), int(ends[last]))
        items[into] = matrix.indices[part][chosen]
        weights[into] = matrix.data[part][chosen]
        first = last
    return TransitionLists(ends, items, weights)


def _falling(weights: NDArray[Any]) -> NDArray[np.uint32]:
    """Whole numbers that fall where float32 weights rise."""
    bits = weights.astype(np.float32).view(np.uint32)
    # Of IEEE 754's numbers, those below 0 fall with their bits, and the others rise.
    return np.where(bits >> 31 == 1, bits, ~bits & np.uint32(0x7FFFFFFF))
