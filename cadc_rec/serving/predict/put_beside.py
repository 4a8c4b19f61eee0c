"""A bundle's predictor with other items beside those of the bundle.

In: the predictor of a bundle, and what was told of items since. Out: a predictor that answers with
them. It takes time and memory by what was told, whatever the size of the bundle.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np

from cadc_rec.serving.predict.altered import altered_attribute
from cadc_rec.serving.predict.contents import Contents
from cadc_rec.serving.predict.ids import AndMore
from cadc_rec.serving.predict.new_items import ItemsBeside
from cadc_rec.serving.predict.retrieval import Altered, AlteredItems, AndAltered
from cadc_rec.serving.predict.top_k import ItemVectors

Served = TypeVar("Served", bound=Contents)


def put_beside(bundle: Served, beside: ItemsBeside) -> Served:
    """The predictor of a bundle, with what was told of items.

    Args:
        bundle: without any.
        beside: all that was told; an item that the bundle does not have has a vector.
    """
    if not (beside.removed or beside.states or beside.behind):
        return bundle
    n, n_items = len(bundle.items), len(bundle.items) + len(beside.behind)
    named = [place for place, item in enumerate(beside.behind) if item in beside.states]
    removed = bundle.items.rows(list(beside.removed))
    items = AndMore(bundle.items, beside.behind, named, removed)
    states = list(beside.states.values())
    rows = items.rows([state.item for state in states])
    order = np.argsort(rows)
    rows, states = rows[order], [states[place] for place in order.tolist()]
    moved = [place for place, state in enumerate(states) if state.vector is not None]
    assert isinstance(bundle.item_vectors, ItemVectors)
    vectors = np.zeros((len(moved), bundle.item_vectors.vectors.shape[1]), np.float32)
    for line, place in enumerate(moved):
        vectors[line] = states[place].vector
    if bundle.events.window is not None:  # it ends with recent popularity, which nobody tells
        own = rows[moved] < n
        vectors[:, -1] = 0
        vectors[own, -1] = bundle.item_vectors.vectors[rows[moved][own], -1]
    moved_rows = rows[moved].astype(np.int32)
    altered = Altered(moved_rows, ItemVectors(vectors), n_items)
    # Those that nobody took stay out of lists that do not ask for them, whatever their vectors.
    ranked = (moved_rows < bundle.n_taken) | (moved_rows >= n)
    of_lists = altered
    if not ranked.all():
        of_lists = Altered(moved_rows[ranked], ItemVectors(vectors[ranked]), n_items)
    told = [state.attributes for state in states]
    return replace(
        bundle,
        items=items,
        item_vectors=AlteredItems(bundle.item_vectors, altered),
        retrieval=AndAltered(bundle.retrieval, bundle.n_taken, of_lists),
        attributes={
            name: altered_attribute(attribute, rows.astype(np.int32), told, n, n_items)
            for name, attribute in bundle.attributes.items()
        },
        beside=beside,
        removed=np.concatenate([removed, n + np.setdiff1d(np.arange(len(beside.behind)), named)]),
        base=bundle,
    )
