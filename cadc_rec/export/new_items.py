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
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import nn

from cadc_rec.data.content import Content, coded_vectors
from cadc_rec.data.dataset import Attribute, coded_attribute, known_to_towers
from cadc_rec.data.dense import DenseAttribute, side_by_side
from cadc_rec.errors import CadcError
from cadc_rec.export.programs import Program, padded_codes, pooled
from cadc_rec.export.trained import Side, Table, TrainedModel
from cadc_rec.models.forward import new_item_vectors
from cadc_rec.pretrain.likeness import USERS, Likeness, gain, moved, reach
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.bundle.programs import load_program

_ROOM = 2  # a new item may have so many times as many values of an attribute as any known one
_LEAST = 16

Learned = Callable[..., torch.Tensor]
"""Codes, and vectors and numbers where any are read, to the learned part of vectors."""


class GivenFeatures(nn.Module):
    """What a tower reads of attributes that are given, in place of those of an id.

    Args:
        side: the tower's tables.
        widths: places of each attribute's codes.
    """

    def __init__(self, side: Side, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = list(widths)
        self.means = [table.mean for table in side.features]
        for number, table in enumerate(side.features):
            self.register_buffer(f"values_{number}", table.weight)
        self.layers = side.layers

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Of a program: ``codes``, and ``dense`` where vectors or numbers are read."""
        codes: dict[str, tuple[int, ...]] = {"codes": (sum(self.widths),)}
        return codes if self.layers is None else {**codes, "dense": (sum(self.layers.widths),)}

    def forward(self, codes: torch.Tensor, dense: torch.Tensor | None = None) -> torch.Tensor:
        """``[n, feature width]``.

        Args:
            codes: int64 ``[n, sum of widths]``, -1 where there are no more.
            dense: float32 ``[n, some]``, vectors and numbers side by side, where any are read.
        """
        parts = [
            pooled(getattr(self, f"values_{number}"), of_one, mean)
            for number, (of_one, mean) in enumerate(
                zip(codes.split(self.widths, 1), self.means, strict=True)
            )
        ]
        if self.layers is not None:
            parts.append(self.layers(dense))
        return torch.cat(parts, 1)


class NewItemProgram(nn.Module):
    """Codes of attributes to the learned part of the vectors of new items.

    Args:
        trained: the towers.
        widths: places of each attribute's codes.
    """

    row: torch.Tensor

    def __init__(self, trained: TrainedModel, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths, self.absent = list(widths), trained.model.leaves_ids_out
        self.features = GivenFeatures(trained.item, widths)
        tables = [*trained.item.ids, *([trained.targets] if trained.targets else [])]
        self.register_buffer("row", torch.cat([table.weight.mean(0) for table in tables]))
        self.tower = trained.model.item.without_tables()

    def program(self) -> Program:
        """The program of a bundle."""
        width = int(self.tower.last_layer().out_features)
        return Program(self, self.features.inputs, width, floats=("dense",))

    def forward(self, codes: torch.Tensor, dense: torch.Tensor | None = None) -> torch.Tensor:
        """Vectors ``[n, tower[-1]]``.

        Args:
            codes: int64 ``[n, sum of widths]``, -1 where an item has no more.
            dense: float32 ``[n, some]``, vectors and numbers side by side, where any are read.
        """
        rows = self.row.expand(codes.shape[0], -1)
        return new_item_vectors(self.tower, rows, self.features(codes, dense), self.absent)


def code_widths(tables: Sequence[Table], attributes: Sequence[Attribute]) -> list[int]:
    """Places for each attribute's codes: one, or of several values twice what any item has."""
    return [
        1 if each.kind != "multi" else max(_LEAST, _ROOM * int(np.diff(each.indptr).max(initial=0)))
        for _, each in zip(tables, attributes, strict=True)
    ]


def new_item_program(
    trained: TrainedModel, attributes: Sequence[Attribute]
) -> NewItemProgram | None:
    """What gives the learned part; None of a model that reads no attributes of items.

    Args:
        trained: the towers.
        attributes: of every item of the catalogue.
    """
    if not trained.item.features and trained.item.layers is None:
        return None
    widths = code_widths(trained.item.features, attributes)
    return NewItemProgram(trained, widths).eval().requires_grad_(False)


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
        codes = padded_codes(attribute)
        if codes.shape[1] > width:
            whose = "an item" if side == "item" else "a user"
            raise CadcError(
                f"attribute {attribute.name}: {whose} has {codes.shape[1]} values, and the model "
                f"takes {width} at most; leave the least important ones out."
            )
        parts.append(torch.nn.functional.pad(codes, (0, width - codes.shape[1]), value=-1))
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


def write_vectors(file: Path, side: str, ids: pa.Array, vectors: NDArray[np.float32]) -> None:
    """Write ``SIDE_id`` and ``vector``, a list of one length, whole or not at all."""
    flat = pa.array(np.ascontiguousarray(vectors).ravel())
    lists = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    draft = file.with_name(f".{file.name}.tmp")
    try:
        pq.write_table(pa.table({f"{side}_id": ids, "vector": lists}), draft)
        draft.replace(file)
    except OSError as error:
        raise CadcError(f"{file}: cannot be written ({error.strerror}); correct --out.") from None
    finally:
        draft.unlink(missing_ok=True)
