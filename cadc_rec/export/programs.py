"""The float towers as `torch.export` programs with any batch size: `.pt2` archives without pickles.

In: a trained model (or, for newcomers, item vectors alone). Out: modules that take ids, and the
bytes of their archives.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cadc_rec.export.dense import DenseItem, DenseQuery
from cadc_rec.export.trained import Side, TrainedModel
from cadc_rec.models.features import AttributeValues
from cadc_rec.models.prior import HistoryPrior

NO_ITEM = -1


class SideLookup(nn.Module):
    """Rows and side features of ids, from plain tensors."""

    rows: torch.Tensor

    def __init__(self, side: Side) -> None:
        super().__init__()
        self.register_buffer("rows", torch.cat([table.weight for table in side.ids], 1))
        self.features = nn.ModuleList(
            CodedFeature(table.weight, padded_codes(attribute), table.mean)
            for table, attribute in zip(side.features, side.attributes, strict=True)
        )

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``[n, id width]`` and ``[n, feature width]`` of int64 ids ``[n]``."""
        rows: torch.Tensor = self.rows[ids]
        features = [feature(ids) for feature in self.features]
        return rows, torch.cat(features, 1) if features else rows[:, :0]


class CodedFeature(nn.Module):
    """One attribute of every id, embedded.

    Args:
        weight: ``[codes, width]``.
        codes: int64 ``[ids, most]``, -1 where an id has no more.
        mean: average the codes of an id; otherwise sum them.
    """

    weight: torch.Tensor
    codes: torch.Tensor

    def __init__(self, weight: torch.Tensor, codes: torch.Tensor, mean: bool) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("codes", codes)
        self.mean = mean

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """``[n, width]`` of int64 ids ``[n]``."""
        codes = self.codes[ids]
        known = (codes >= 0).to(self.weight.dtype)
        total = (self.weight[codes.clamp_min(0)] * known[:, :, None]).sum(1)
        return total / known.sum(1, keepdim=True).clamp_min(1) if self.mean else total


def padded_codes(attribute: AttributeValues) -> torch.Tensor:
    """int64 ``[ids, most]``: each id's codes, then -1."""
    lengths = np.diff(attribute.indptr)
    most = max(1, int(lengths.max(initial=0)))
    codes = np.full((len(lengths), most), -1, np.int64)
    codes[np.arange(most) < lengths[:, None]] = attribute.values
    return torch.from_numpy(codes)


class QueryProgram(nn.Module):
    """Users, and their histories where the model has them, to vectors."""

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.lookup = SideLookup(trained.user)
        self.histories = HistoryLookup(trained)
        self.dense = DenseQuery(trained)

    def forward(self, user: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
        """``[n, d]`` of int64 users ``[n]`` and histories ``[n, L]``, -1 where they have ended."""
        vectors: torch.Tensor = self.dense(*self.lookup(user), *self.histories(history))
        return vectors


class PlainQueryProgram(nn.Module):
    """`QueryProgram` of a model without histories."""

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.query = QueryProgram(trained)

    def forward(self, user: torch.Tensor) -> torch.Tensor:
        """``[n, d]`` of int64 users ``[n]``."""
        vectors: torch.Tensor = self.query(user, user[:, None][:, :0])
        return vectors


class HistoryLookup(nn.Module):
    """Frozen vectors of the items of histories.

    Args:
        trained: whose tables are looked up; of a model without a history, none is.
    """

    items: torch.Tensor
    sources: torch.Tensor | None

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.length, sources = trained.history_length, trained.sources
        if self.length:
            self.register_buffer("items", trained.item.ids[0].weight)
            self.register_buffer("sources", None if sources is None else sources.weight)

    def forward(self, history: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Item vectors ``[n, L, dim]``, source vectors ``[n, L, e]`` and bool ``[n, L]``."""
        known = history >= 0
        if not self.length:
            nothing = history[:, :, None][:, :, :0].float()
            return nothing, nothing, known
        places, there = history.clamp_min(0), known[:, :, None]
        items = self.items[places] * there
        if self.sources is None:
            return items, items[:, :, :0], known
        return items, self.sources[places] * there, known


class ItemProgram(nn.Module):
    """Items to vectors."""

    targets: torch.Tensor | None

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.lookup = SideLookup(trained.item)
        self.dense = DenseItem(trained)
        self.register_buffer("targets", trained.targets.weight if trained.targets else None)

    def forward(self, item: torch.Tensor) -> torch.Tensor:
        """``[n, d]`` of int64 items ``[n]``."""
        rows, features = self.lookup(item)
        targets = rows[:, :0] if self.targets is None else self.targets[item]
        vectors: torch.Tensor = self.dense(rows, features, targets)
        return vectors


class FoldedNewcomer(nn.Module):
    """Histories to vectors by folding them into the items' own vectors.

    A history's vector is what implicit ALS would give a user of these items if the items' final
    vectors were its item table. It needs nothing of the model but them.

    Args:
        items: ``[n_items, d]``, the vectors that are searched.
        fold: confidences and regularization.
    """

    items: torch.Tensor

    def __init__(self, items: torch.Tensor, fold: HistoryPrior) -> None:
        super().__init__()
        self.register_buffer("items", items)
        self.fold = fold

    def forward(self, history: torch.Tensor) -> torch.Tensor:
        """``[n, d]`` of int64 ``[n, L]``, the latest first, -1 where they have ended."""
        known = history >= 0
        return self.fold.folded(self.items[history.clamp_min(0)] * known[:, :, None], known)


class HistoryNewcomer(nn.Module):
    """Histories to vectors by the user tower, for a user it has no row and no attributes of.

    Args:
        trained: a model with a history.
        fold: what stands in for the user's row, where user rows are ALS's; None leaves it zero.
    """

    features: torch.Tensor

    def __init__(self, trained: TrainedModel, fold: HistoryPrior | None) -> None:
        super().__init__()
        self.histories, self.dense, self.fold = HistoryLookup(trained), DenseQuery(trained), fold
        unknown = [
            torch.zeros(table.weight.shape[1]) if table.mean else table.weight[0]
            for table in trained.user.features
        ]
        self.register_buffer("features", torch.cat([torch.zeros(0), *unknown]))
        self.width = trained.user.id_width

    def forward(self, history: torch.Tensor) -> torch.Tensor:
        """``[n, d]`` of int64 ``[n, L]``, the latest first, -1 where they have ended."""
        items, sources, known = self.histories(history)
        if self.fold is None:
            rows = items.sum((1, 2))[:, None].expand(-1, self.width) * 0.0
        else:
            rows = self.fold.folded(items, known)
        features = self.features.expand(rows.shape[0], -1)
        vectors: torch.Tensor = self.dense(rows, features, items, sources, known)
        return vectors


@dataclass(frozen=True)
class Program:
    """A module and what it takes: a name and the shape below the batch for each input."""

    module: nn.Module
    inputs: dict[str, tuple[int, ...]]

    def example(self, batch: int) -> tuple[torch.Tensor, ...]:
        """Inputs of so many rows, all of them row 0 of the tables."""
        return tuple(
            torch.zeros(batch, *shape, dtype=torch.int64) for shape in self.inputs.values()
        )

    def exported(self) -> torch.export.ExportedProgram:
        """The program, its batch size left open."""
        batch = torch.export.Dim("batch")
        shapes = {name: {0: batch} for name in self.inputs}
        module = self.module.eval().requires_grad_(False)
        return torch.export.export(module, self.example(2), dynamic_shapes=shapes)


def save_program(program: torch.export.ExportedProgram, file: Path) -> None:
    """Write an archive in which nothing is pickled (torch would pickle the example inputs)."""
    program._example_inputs = None
    contents = io.BytesIO()
    torch.export.save(program, contents)
    file.write_bytes(contents.getvalue())


def tower_programs(trained: TrainedModel) -> dict[str, Program]:
    """The two towers by the name they have in a bundle."""
    length = trained.history_length
    if length:
        query = Program(QueryProgram(trained), {"user": (), "history": (length,)})
    else:
        query = Program(PlainQueryProgram(trained), {"user": ()})
    return {"query": query, "item": Program(ItemProgram(trained), {"item": ()})}
