"""What finds the best items: by a user's vector, by likeness, by popularity.

In: the contents of a bundle, perhaps with items beside them. Out: what searches them for each kind
of question, made at the first call and then kept. With items beside the bundle it is what searches
the bundle, and these with it: nothing that has the size of the catalogue is made again.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from cadc_rec.serving.predict.choosing import Popularity
from cadc_rec.serving.predict.contents import Contents
from cadc_rec.serving.predict.retrieval import AlteredItems, AndAltered, AndOthers, Retrieval
from cadc_rec.serving.predict.top_k import Floats, ItemVectors


class SearchedContents(Contents):
    """Contents with what finds the best of their items; `retrieval` is there from the start."""

    @cached_property
    def directions(self) -> ItemVectors | AlteredItems:
        """The item vectors at length one, made at the first call."""
        if isinstance(self.item_vectors, AlteredItems):
            altered = self.item_vectors.altered
            first = self.bundle.directions
            assert isinstance(first, ItemVectors)
            few = ItemVectors(_at_length_one(altered.items.vectors))
            return AlteredItems(first, replace(altered, items=few))
        return ItemVectors(_at_length_one(self.item_vectors.vectors))

    @cached_property
    def _every_item(self) -> Retrieval:
        """Finds the best of all items, also of those that nobody took yet."""
        if isinstance(self.item_vectors, AlteredItems):
            bundle, altered = self.bundle, self.item_vectors.altered
            return AndAltered(bundle._every_item, len(bundle.items), altered)
        if isinstance(self.retrieval, ItemVectors):
            return self.item_vectors
        return AndOthers(self.retrieval, self.n_taken, self.item_vectors)

    @cached_property
    def _popular(self) -> Popularity:
        """Finds the most popular of the items that were taken."""
        if self.base is not None:
            return replace(self.bundle._popular, added=len(self.beside.behind))
        order = np.argsort(-self.popularity, kind="stable")
        return Popularity(order, self.popularity, self.n_taken)

    @cached_property
    def _popular_of_every(self) -> Popularity:
        """The same, also of items that nobody took yet."""
        return replace(self._popular, ranked=len(self.popularity))


def _at_length_one(vectors: Any) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Floats = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return found
