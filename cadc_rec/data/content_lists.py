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

from cadc_rec.data.content import weighted_values
from cadc_rec.data.dataset import Attribute
from cadc_rec.data.settled import Rounded, to_float32
from cadc_rec.data.transition_lists import TransitionLists, best_targets

FILE = "content_lists.safetensors"
_MOST = 500  # items of a list
_BLOCK = 2**22  # pairs held at once


def content_lists(
    attributes: Sequence[Attribute], n_items: int, rounded: Rounded = to_float32
) -> TransitionLists | None:
    """Every item's most similar others by cosine; None where no two items share a value.

    Values that most items have tell little and cost most, so that where all would cost too much,
    the most frequent are left out. Cosines are worked out in double precision, so that rounded they
    come out alike everywhere.

    Args:
        attributes: of the items.
        n_items: how many there are.
        rounded: makes float32 numbers of the cosines.
    """
    vectors = weighted_values(attributes, n_items)
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
        exact = sparse.csr_array(vectors[first:last] @ columns)
        products = sparse.csr_array((rounded(exact.data), exact.indices, exact.indptr), exact.shape)
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
