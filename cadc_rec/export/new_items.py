"""The program that gives vectors to items that no table has a row of, by their attributes.

In: the towers. Out: a `torch.export` program of codes, and of vectors and numbers, to the learned
part of new items' vectors; `cadc_rec.serving.predict.cold_items` makes whole vectors with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn

from cadc_rec.data.dataset import Attribute
from cadc_rec.errors import CadcError
from cadc_rec.export.programs import Program, pooled
from cadc_rec.export.trained import Side, Table, TrainedModel
from cadc_rec.models.forward import new_item_vectors

_ROOM = 2  # a new item may have so many times as many values of an attribute as any known one
_LEAST = 16


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
