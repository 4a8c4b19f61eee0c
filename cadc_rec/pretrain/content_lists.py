"""Items that are alike by their attributes, as lists: what the content of a history leads to.

An item is a vector over the values of its attributes, each value weighted by its inverse document
frequency, log(n / items with it), and every vector brought to length one. An item's list has the
items with the largest cosine: those with which it shares rare values.

In: attributes. Out: lists like those of transitions, so that their score is a history's in the same
way, and the two are summed to one list of an item by `blended`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from scipy import sparse

from cadc_rec.data.dataset import Attribute
from cadc_rec.data.prepare.vocabulary import UNKNOWN
from cadc_rec.data.transition_lists import TransitionLists, best_targets

FILE = "content_lists.safetensors"
_MOST = 500  # items of a list
_PAIRS = 2e7  # items that share a value, counted for each value: bounds time on any catalogue
_BLOCK = 2**22  # pairs held at once


def content_lists(attributes: Sequence[Attribute], n_items: int) -> TransitionLists | None:
    """Every item's most similar others by cosine; None where no two items share a value.

    Values that most items have tell little and cost most, so that where all would cost too much,
    the most frequent are left out.

    Args:
        attributes: of the items.
        n_items: how many there are.
    """
    vectors = content_vectors(attributes, n_items)
    if not vectors.nnz:
        return None
    columns = sparse.csr_array(vectors.T)
    cost = np.diff(columns.indptr)  # of every value: items that have it
    of_items = np.zeros(n_items + 1)
    np.add.at(of_items, 1 + np.repeat(np.arange(n_items), np.diff(vectors.indptr)),
              cost[vectors.indices])  # fmt: skip
    ends = np.cumsum(of_items)
    lengths, items, weights, first = [np.zeros(1, np.int64)], [], [], 0
    while first < n_items:
        last = int(np.searchsorted(ends, ends[first] + _BLOCK, "right")) - 1
        last = min(max(last, first + 1), n_items)
        products = sparse.csr_array(vectors[first:last] @ columns)
        own = np.repeat(np.arange(first, last), np.diff(products.indptr)) == products.indices
        products.data[own] = 0.0
        _thin(products)
        found = best_targets(products, _MOST)
        lengths.append(np.diff(found.indptr))
        items.append(found.items)
        weights.append(found.weights)
        first = last
    ends_of_lists = np.cumsum(np.concatenate(lengths))
    lists = TransitionLists(ends_of_lists, np.concatenate(items), np.concatenate(weights))
    return lists if len(lists.items) else None


def _thin(products: sparse.csr_array) -> None:
    """Leave out of each row what is below its last place, so that less is sorted; in place."""
    for start, end in itertools.pairwise(products.indptr):
        row = products.data[start:end]
        if len(row) > _MOST:
            row[row < np.partition(row, -_MOST)[-_MOST]] = 0.0
    products.eliminate_zeros()


def blended(lists: TransitionLists, other: TransitionLists, weight: float) -> TransitionLists:
    """Lists whose scores are those of `lists` and `weight` times those of `other`."""
    total = sparse.csr_array(lists.matrix + np.float32(weight) * other.matrix)
    return best_targets(total, lists.n_items)


def content_vectors(
    attributes: Sequence[Attribute], n_items: int, deciding: int | None = None
) -> sparse.csr_array:
    """Every item's weighted values, of length one: float32 ``[n_items, values]``.

    Args:
        attributes: of the items.
        n_items: how many there are.
        deciding: how many, the first ones, decide the weights of the values; None: all.
    """
    deciding = n_items if deciding is None else deciding
    parts = [
        sparse.csr_array(
            (np.ones(len(each.values)), each.values, each.indptr), shape=(n_items, each.size)
        )
        for each in attributes
    ]
    if not parts:
        return sparse.csr_array((n_items, 0), dtype=np.float32)
    for part in parts:
        part.sum_duplicates()
        part.data[part.indices == UNKNOWN] = 0.0
    values = sparse.csr_array(sparse.hstack(parts))
    values.eliminate_zeros()
    values.data[:] = 1.0
    counts = values[:deciding].sum(0)
    order = np.argsort(counts, kind="stable")
    affordable = np.zeros(len(counts), bool)
    affordable[order] = np.cumsum(counts[order] ** 2) <= _PAIRS
    idf = np.log(deciding / np.maximum(counts, 1.0))
    values.data *= np.where(affordable, idf, 0.0)[values.indices]
    values.eliminate_zeros()
    length = np.sqrt(values.multiply(values).sum(1))
    values.data /= np.repeat(length, np.diff(values.indptr))
    return values.astype(np.float32)
