"""Vectors and numbers of users or items as inputs of a tower.

In: unique ids. Out: ``[n, width]``: each vector through a learned layer, and the numbers as they
are. Tables are frozen and sharded like those of ids; a row of zeros is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from cadc_rec.models.id_embedding import FrozenIds

_STD = 0.1  # as of the attributes' tables: a vector has the length 1


class DenseValues(Protocol):
    """A table of numbers with a row for every id; those of the data room have this form."""

    @property
    def name(self) -> str:
        """Unique on its side."""

    @property
    def kind(self) -> str:
        """``vector`` (projected by a learned layer) or ``numbers`` (read as they are)."""

    @property
    def width(self) -> int:
        """Of a row."""

    @property
    def half(self) -> bool:
        """Whether the table is stored as fp16."""

    @property
    def values(self) -> Any:
        """``[ids, width]``, a NumPy array; read only when tables are loaded."""


class VectorLayer(nn.Module):
    """Projects vectors; in place of a missing one stands a learned one.

    Args:
        width: of the vectors.
        dim: of what comes out.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, dim)
        nn.init.normal_(self.layer.weight, std=_STD)
        nn.init.zeros_(self.layer.bias)
        self.missing = nn.Parameter(torch.zeros(dim))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """``[n, dim]`` of rows ``[n, width]``, each of length 1, or zeros where it is missing."""
        known = rows.square().sum(1, keepdim=True) > 0
        return torch.where(known, self.layer(rows), self.missing)


class DenseLayers(nn.Module):
    """What is learned of all tables of a side.

    Args:
        tables: of the side.
        dim: width of what is made of each vector.
    """

    def __init__(self, tables: Sequence[DenseValues], dim: int) -> None:
        super().__init__()
        self.widths = [table.width for table in tables]
        self.layers = nn.ModuleList(
            VectorLayer(table.width, dim) if table.kind == "vector" else nn.Identity()
            for table in tables
        )
        self.width = sum(dim if table.kind == "vector" else table.width for table in tables)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """``[n, self.width]`` of the rows of all tables side by side, ``[n, sum(widths)]``."""
        parts = rows.split(self.widths, 1)
        return torch.cat([layer(parts[n]) for n, layer in enumerate(self.layers)], 1)


class DenseFeatures(nn.Module):
    """Looks the tables of a side up and projects their rows.

    Args:
        side: ``user`` or ``item``; in the tables' names.
        values: the side's tables, all over the same ids.
        rows: number of ids.
        dim: width of what is made of each vector.
        device: of the layers; the sharding plan places the tables.
    """

    def __init__(
        self, side: str, values: Sequence[DenseValues], rows: int, dim: int, device: torch.device
    ) -> None:
        super().__init__()
        self.values = list(values)
        self.tables = nn.ModuleDict()
        for each in values:
            name = f"dense_{side}_{each.name}"
            table = FrozenIds(name, rows, each.width, device)
            if each.half:
                table.store_as_half()
            self.tables[name] = table
        # Made on the CPU and moved, so that a seed starts them alike on every device.
        self.layers = DenseLayers(values, dim).to(device)
        self.width = self.layers.width

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """``[n, width]`` of int64 ids ``[n]``; gradients reach the layers alone."""
        rows = [table.lookup(ids) for table in self.of_ids().values()]
        projected: torch.Tensor = self.layers(rows[0] if len(rows) == 1 else torch.cat(rows, 1))
        return projected

    def of_ids(self) -> dict[str, FrozenIds]:
        """The tables by name."""
        return {k: v for k, v in self.tables.items() if isinstance(v, FrozenIds)}

    def weights(self) -> dict[str, torch.Tensor]:
        """What the tables hold, whole, by name; memory-mapped where the values are."""
        return {
            name: torch.from_numpy(each.values)
            for name, each in zip(self.tables, self.values, strict=True)
        }

    def cache(self, recurs: Callable[[torch.Tensor], bool]) -> None:
        """Look up once the rows of ids whose very tensor comes in every step."""
        for table in self.of_ids().values():
            table.cache.recurs = recurs
