"""Vectors of items that no table has a row of: that nobody took yet, or that came after training.

In: attributes of known items and of new ones, and the vectors of the known. Out: a vector each, in
the space of the others. The item tower gives the learned part from the attributes; what stands for
the item's rows there is their mean, or nothing if ids were left out in training. The rest of a
vector is linear in the item's rows: it is that of the items most like it.

A bundle holds all that this takes, so that nothing of a run is needed to embed a new item.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from cadc_rec.data.content import Content, coded_vectors
from cadc_rec.data.dataset import Attribute, coded_attribute, known_to_towers
from cadc_rec.data.dense import DenseAttribute, side_by_side
from cadc_rec.errors import CadcError
from cadc_rec.pretrain.likeness import USERS, Likeness, gain, moved, reach
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.bundle.programs import load_program
from cadc_rec.serving.predict.attributes import padded_codes

Learned = Callable[..., torch.Tensor]
"""Codes, and vectors and numbers where any are read, to the learned part of vectors."""


@dataclass(frozen=True)
class NewItems:
    """What gives vectors to new items.

    Attributes:
        known: attributes of the known items.
        vectors: float32 ``[known, d]``, of these.
        learned: of the first elements of a vector, from codes; None where nothing reads them.
        widths: places of each attribute's codes.
        gain: how much farther than the mean of its likes a new item stands from the middle.
        known_dense: vectors of the known items, and for `gain_for` their numbers, too.
    """

    known: Sequence[Attribute]
    vectors: NDArray[np.float32]
    learned: Learned | None
    widths: Sequence[int]
    gain: float = 1.0
    known_dense: Sequence[DenseAttribute] = ()

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> NewItems:
        """By what a bundle holds.

        Raises:
            CadcError: it was exported before new items could be embedded.
        """
        model, described = bundle.model(), bundle.json(layout.ATTRIBUTES)["item"]
        made = model.get("new_items")
        if made is None:
            raise CadcError(f"{bundle.path}: cannot embed new items; export it anew.")
        items = bundle.table(layout.ITEMS)
        items = items.slice(0, len(items) - int(model.get("untaken_items", 0)))
        known = [coded_attribute(items[entry["name"]], entry) for entry in described]
        vectors = bundle.arrays(layout.ITEM_VECTORS)["vectors"][: len(items)]
        learned = load_program(bundle, "new_item") if "new_item" in model["programs"] else None
        dense = bundle.json(layout.DENSE)["item"] if bundle.has(layout.DENSE) else []
        names = [entry["name"] for entry in dense if entry["kind"] == "vector"]
        tables = [
            DenseAttribute(name, "vector", bundle.mapped(layout.item_content(place))[: len(items)])
            for place, name in enumerate(names)
        ]
        return cls(known, vectors, learned, made["codes"], made["gain"], tables)

    @cached_property
    def _content(self) -> Content:
        """Of the known items."""
        count = len(self.vectors)
        return Content.of(self.known, self.known_dense, count, count)

    def vectors_of(
        self, new: Sequence[Attribute], count: int, dense: Sequence[DenseAttribute] = ()
    ) -> NDArray[np.float32]:
        """Vectors of new items, float32 ``[count, d]``; a vector depends on its own item alone.

        Args:
            new: their attributes, in the order of the known items'.
            count: how many there are.
            dense: their vectors and numbers, likewise.

        Raises:
            CadcError: an item has more values of an attribute than there are places for.
        """
        new = [known_to_towers(attribute) for attribute in new]
        every = [_joined(*pair) for pair in zip(self.known, new, strict=True)]
        known = self._content
        coded = coded_vectors(every, len(known) + count, len(known))
        likeness = Likeness.of(known, known.beside(sparse.csr_array(coded[len(known) :]), dense))
        found = self._of_attributes(new, count, side_by_side(dense), likeness)
        return moved(found, torch.from_numpy(self.vectors), self.gain).numpy()

    def gain_for(self, users: NDArray[np.float32]) -> float:
        """See `cadc_rec.pretrain.likeness`.

        Args:
            users: vectors of users; the first of them count.
        """
        rows, others = Likeness.of_known(self._content)
        sample = [_some(attribute, rows) for attribute in self.known]
        dense = side_by_side(self.known_dense, rows)
        pretended = self._of_attributes(sample, len(rows), dense, others)
        some = torch.from_numpy(users[:USERS])
        items = torch.from_numpy(self.vectors[rows])
        return gain(*(float(reach(some @ each.t())) for each in (items, pretended)))

    def _of_attributes(
        self,
        attributes: Sequence[Attribute],
        count: int,
        dense: NDArray[np.float32] | None,
        likeness: Likeness,
    ) -> torch.Tensor:
        parts: list[torch.Tensor] = []
        width = 0
        if self.learned is not None:
            with torch.inference_mode():
                given = [] if dense is None else [torch.from_numpy(dense)]
                parts.append(self.learned(self._codes(attributes, count), *given).float())
            width = parts[0].shape[1]
        rest = torch.from_numpy(np.ascontiguousarray(self.vectors[:, width:]))
        return torch.cat([*parts, likeness.of_vectors(rest)], 1)

    def _codes(self, new: Sequence[Attribute], count: int) -> torch.Tensor:
        return given_codes(new, self.widths, count, "item")


def given_codes(
    attributes: Sequence[Attribute], widths: Sequence[int], count: int, side: str
) -> torch.Tensor:
    """Codes as programs take them, int64 ``[count, sum of widths]``, -1 where there are no more.

    Raises:
        CadcError: a user or item has more values of an attribute than there are places for.
    """
    parts = []
    for attribute, width in zip(attributes, widths, strict=True):
        most = int(np.diff(attribute.indptr).max(initial=0))
        if most > width:
            whose = "an item" if side == "item" else "a user"
            raise CadcError(
                f"attribute {attribute.name}: {whose} has {most} values, and the model "
                f"takes {width} at most; leave the least important ones out."
            )
        parts.append(torch.from_numpy(padded_codes(attribute, width)))
    return torch.cat(parts, 1) if parts else torch.zeros(count, 0, dtype=torch.int64)


def _some(attribute: Attribute, rows: NDArray[np.int64]) -> Attribute:
    """The values of some items."""
    counts = np.diff(attribute.indptr)
    kept = np.zeros(len(counts), bool)
    kept[rows] = True  # ascending
    indptr = np.concatenate([[0], np.cumsum(counts[rows])])
    values = attribute.values[np.repeat(kept, counts)]
    return Attribute(attribute.name, attribute.kind, attribute.size, indptr, values)


def _joined(first: Attribute, second: Attribute) -> Attribute:
    """The values of some items and then of others."""
    indptr = np.concatenate([first.indptr, first.indptr[-1] + second.indptr[1:]])
    values = np.concatenate([first.values, second.values])
    return Attribute(first.name, first.kind, first.size, indptr, values)
