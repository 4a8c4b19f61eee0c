"""The float towers as `torch.export` programs with any batch size: `.pt2` archives without pickles.

In: a trained model. Out: modules that take ids, the bytes of their archives, and where wanted the
same compiled.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cadc_rec.errors import CadcError
from cadc_rec.export.trained import ItemForward, Side, Table, TrainedModel, UserForward
from cadc_rec.models.dense import DenseLayers
from cadc_rec.models.features import AttributeValues
from cadc_rec.models.rows import TensorRows


class SideLookup(nn.Module):
    """Rows and side features of ids, from plain tensors."""

    def __init__(self, side: Side) -> None:
        super().__init__()
        self.rows = TensorRows(torch.cat([table.weight for table in side.ids], 1))
        self.features = nn.ModuleList(
            CodedFeature(table.weight, padded_codes(attribute), table.mean)
            for table, attribute in zip(side.features, side.attributes, strict=True)
        )
        if side.layers is not None:
            self.features.append(DenseFeature(side.dense, side.layers))

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``[n, id width]`` and ``[n, feature width]`` of int64 ids ``[n]``."""
        rows: torch.Tensor = self.rows(ids)
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
        return pooled(self.weight, self.codes[ids], self.mean)


def pooled(weight: torch.Tensor, codes: torch.Tensor, mean: bool) -> torch.Tensor:
    """The mean or sum of codes' rows, ``[n, width]`` of int64 ``[n, most]``, -1 after the last."""
    known = (codes >= 0).to(weight.dtype)
    total = (weight[codes.clamp_min(0)] * known[:, :, None]).sum(1)
    return total / known.sum(1, keepdim=True).clamp_min(1) if mean else total


class DenseFeature(nn.Module):
    """Vectors and numbers of every id, projected.

    Args:
        tables: with a row for each id.
        layers: what is made of their rows side by side.
    """

    def __init__(self, tables: Sequence[Table], layers: DenseLayers) -> None:
        super().__init__()
        self.rows = TensorRows(torch.cat([table.weight for table in tables], 1))
        self.layers = layers

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """``[n, width]`` of int64 ids ``[n]``."""
        projected: torch.Tensor = self.layers(self.rows(ids))
        return projected


def padded_codes(attribute: AttributeValues) -> torch.Tensor:
    """int64 ``[ids, most]``: each id's codes, then -1."""
    lengths = np.diff(attribute.indptr)
    most = max(1, int(lengths.max(initial=0)))
    codes = np.full((len(lengths), most), -1, np.int64)
    codes[np.arange(most) < lengths[:, None]] = attribute.values
    return torch.from_numpy(codes)


class QueryProgram(nn.Module):
    """Users, and their histories and requests where the model reads them, to vectors.

    Args:
        trained: the towers.
        latest: whether the last element is what multiplies an item's latest popularity.
    """

    def __init__(self, trained: TrainedModel, latest: bool = False) -> None:
        super().__init__()
        self.latest = latest
        self.lookup = SideLookup(trained.user)
        self.histories = HistoryLookup(trained)
        self.vectors = UserForward(trained.model)

    def forward(
        self, user: torch.Tensor, history: torch.Tensor, request: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Vectors ``[n, d]``.

        Args:
            user: int64 ``[n]``.
            history: int64 ``[n, L]``, -1 where they have ended.
            request: int64 ``[n, features]``, codes of the requests' context.
        """
        asked = () if request is None else (request,)
        vectors: torch.Tensor = self.vectors(*self.lookup(user), *self.histories(history), *asked)
        if self.latest:
            vectors = torch.cat([vectors, torch.ones_like(vectors[:, :1])], 1)
        return vectors


class PlainQueryProgram(nn.Module):
    """`QueryProgram` of a model without histories."""

    def __init__(self, trained: TrainedModel, latest: bool = False) -> None:
        super().__init__()
        self.query = QueryProgram(trained, latest)

    def forward(self, user: torch.Tensor, request: torch.Tensor | None = None) -> torch.Tensor:
        """``[n, d]`` of int64 users ``[n]``, and of requests' codes where the model reads any."""
        vectors: torch.Tensor = self.query(user, user[:, None][:, :0], request)
        return vectors


class HistoryLookup(nn.Module):
    """Frozen vectors of the items of histories.

    Args:
        trained: whose tables are looked up; of a model without a history, none is.
    """

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.length, sources = trained.history_length, trained.sources
        if self.length:
            self.items = TensorRows(trained.item.ids[0].weight)
            self.sources = None if sources is None else TensorRows(sources.weight)

    def forward(self, history: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Item vectors ``[n, L, dim]``, source vectors ``[n, L, e]`` and bool ``[n, L]``."""
        known = history >= 0
        if not self.length:
            nothing = history[:, :, None][:, :, :0].float()
            return nothing, nothing, known
        items = self.items.sequences(history)
        if self.sources is None:
            return items, items[:, :, :0], known
        return items, self.sources.sequences(history), known


class ItemProgram(nn.Module):
    """Items to vectors.

    Args:
        trained: the towers.
        latest: every item's latest popularity, float32 ``[n_items]``, the last element of its
            vector; None without.
    """

    def __init__(self, trained: TrainedModel, latest: torch.Tensor | None = None) -> None:
        super().__init__()
        self.latest = None if latest is None else TensorRows(latest[:, None])
        self.lookup = SideLookup(trained.item)
        self.vectors = ItemForward(trained.model)
        self.targets = TensorRows(trained.targets.weight) if trained.targets else None

    def forward(self, item: torch.Tensor) -> torch.Tensor:
        """``[n, d]`` of int64 items ``[n]``."""
        rows, features = self.lookup(item)
        targets = rows[:, :0] if self.targets is None else self.targets(item)
        vectors: torch.Tensor = self.vectors(rows, features, targets)
        if self.latest is not None:
            vectors = torch.cat([vectors, self.latest(item)], 1)
        return vectors


@dataclass(frozen=True)
class Program:
    """A module and what it takes: a name and the shape below the batch for each input."""

    module: nn.Module
    inputs: dict[str, tuple[int, ...]]
    width: int | None = None
    """Of what it gives; None: whole vectors."""
    floats: tuple[str, ...] = ()
    """Inputs that are float32; the others are int64."""

    def example(self, batch: int) -> tuple[torch.Tensor, ...]:
        """Inputs of so many rows, all of them row 0 of the tables."""
        return tuple(
            torch.zeros(batch, *shape, dtype=torch.float32 if name in self.floats else torch.int64)
            for name, shape in self.inputs.items()
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


def tower_programs(trained: TrainedModel, latest: np.ndarray | None = None) -> dict[str, Program]:
    """The two towers by the name they have in a bundle.

    Args:
        trained: the towers.
        latest: every item's latest popularity, see `ItemProgram`.
    """
    length, popular, asked = trained.history_length, latest is not None, request_input(trained)
    if length:
        given = {"user": (), "history": (length,), **asked}
        query = Program(QueryProgram(trained, popular), given)
    else:
        query = Program(PlainQueryProgram(trained, popular), {"user": (), **asked})
    item = ItemProgram(trained, None if latest is None else torch.from_numpy(latest))
    return {"query": query, "item": Program(item, {"item": ()})}


def request_input(trained: TrainedModel) -> dict[str, tuple[int, ...]]:
    """The input of a request's context, where the model reads any."""
    return {"request": (len(trained.request),)} if trained.request else {}


def compile_program(program: torch.export.ExportedProgram, file: Path) -> None:
    """Compile `program` by AOTInductor, for processors like this one's, and write it to `file`.

    The package is a shared library with its weights inside. It needs a C++ compiler here, and none
    where it is loaded.

    Raises:
        CadcError: there is no C++ compiler.
    """
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        raise CadcError("--aot needs a C++ compiler: install g++, or leave --aot out.")
    file.parent.mkdir(exist_ok=True)
    with torch.no_grad():
        torch._inductor.aoti_compile_and_package(program, package_path=str(file))
