"""Pre-trained vectors as frozen tables load them: one for each user and item, and more of items.

On disk: ``user.safetensors`` and ``item.safetensors``, or ``item_source.safetensors`` and
``item_target.safetensors``, each with one float32 tensor ``weight`` of
shape ``[rows, dim]``, memory-mapped when read, so that a rank touches only the rows and columns of
its own shards.

`scaled` brings vectors to a common scale before they are written, so that a tower's first layer
meets like inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from cadc_rec.data.transition_lists import TransitionLists
from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.row_files import Target, write_rows
from cadc_rec.models.factorization import as_dot_products
from cadc_rec.store.artifact import Artifact, Draft

Scale = Literal["none", "unit", "whiten"]
Total: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""The sum of a tensor over all shares of a table."""
_LEAST = 1e-6  # of the largest variance; a direction with less is noise, and is not blown up
_AT_ONCE = 2**20  # rows in float64 at once


def scaled(rows: torch.Tensor, scale: Scale, total: Total = lambda x: x) -> torch.Tensor:
    """`rows` ``[n, d]`` themselves, over the table's standard deviation, or whitened.

    Whitening (ZCA is not needed: a linear layer follows) rotates to the principal axes of
    ``table' table / n`` and divides each by its deviation; the mean is left in.

    Args:
        rows: the table, or a rank's share of it.
        scale: which.
        total: where `rows` is a share, the sum of a tensor over all shares.
    """
    if scale == "none":
        return rows
    n = _count(rows, total)
    if not n:
        return rows
    if scale == "unit":
        return rows / _deviation(rows, n, total).to(rows.dtype)
    variance, axes = torch.linalg.eigh(total(_summed(rows, lambda part: part.t() @ part)) / n)
    keep = variance > _LEAST * variance.max()
    inverse = torch.where(keep, variance.clamp_min(1e-300).rsqrt(), 0.0)
    turn = axes * inverse
    return torch.cat([(part.double() @ turn).to(rows.dtype) for part in rows.split(_AT_ONCE)])


def divisor(rows: torch.Tensor, scale: Scale, total: Total = lambda x: x) -> float | None:
    """What `scaled` divides the table by; None where that is no single number."""
    if scale == "whiten":
        return None
    n = _count(rows, total)
    if scale == "none" or not n:
        return 1.0
    return float(_deviation(rows, n, total).to(rows.dtype))


def _count(rows: torch.Tensor, total: Total) -> float:
    """Rows of all shares."""
    return float(total(torch.tensor([len(rows)], dtype=torch.float64, device=rows.device)))


def _deviation(rows: torch.Tensor, n: float, total: Total) -> torch.Tensor:
    """Of all elements of the table's n rows, float64 ``[1]``; 1 where they are equal."""
    elements = n * rows.shape[1]
    mean = total(_summed(rows, lambda part: part.sum().view(1))) / elements
    squares = total(_summed(rows, lambda part: (part - mean).square().sum().view(1)))
    deviation = (squares / max(elements - 1, 1)).sqrt()
    return deviation if deviation > 0 else torch.ones_like(deviation)


def _summed(rows: torch.Tensor, of: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Sum of `of` over pieces of the rows, in float64."""
    parts = iter(rows.split(_AT_ONCE))
    result = of(next(parts).double())
    for part in parts:
        result += of(part.double())
    return result


@dataclass(frozen=True)
class IdTables:
    """User and item vectors: ``[n_users, dim]`` and ``[n_items, dim]``, float32.

    Attributes:
        bias_last: whether the last element of a row is its bias; otherwise a pair's score is the
            plain dot product.
    """

    user: torch.Tensor
    item: torch.Tensor
    bias_last: bool = True

    def save(self, folder: Path) -> None:
        """Write both tables into `folder`."""
        _save(folder, user=self.user, item=self.item)

    @staticmethod
    def save_shares(
        draft: Draft,
        user: torch.Tensor,
        item: torch.Tensor,
        rows: tuple[int, int],
        processes: Processes,
    ) -> None:
        """Write tables of which each rank has its share of the rows. Every rank must call.

        Args:
            draft: where to.
            user: this rank's users ``[share, dim]``.
            item: its items.
            rows: how many users and items there are.
            processes: the ranks that share them.
        """
        for name, local, n in zip(("user", "item"), (user, item), rows, strict=True):
            target = Target(draft.path / f"{name}.safetensors", draft.sliced)
            write_rows(target, "weight", local, n, processes)

    @classmethod
    def open(cls, artifact: Artifact) -> IdTables:
        """Read the tables of a pre-training artifact."""
        user, item = _load(artifact.path, "user", "item")
        return cls(user, item, bool(artifact.info.get("bias_last", True)))

    def shares(self, processes: Processes) -> IdTables:
        """This rank's share of the users and of the items, as views."""
        users, items = (processes.share(len(table)) for table in (self.user, self.item))
        return replace(
            self,
            user=self.user[users.start : users.stop],
            item=self.item[items.start : items.stop],
        )

    def of_pairs(
        self, user: NDArray[np.int32], item: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The vectors of these users and items, whose plain dot products are the pairs' scores."""
        users, items = (torch.from_numpy(ids.astype(np.int64)) for ids in (user, item))
        taken = replace(self, user=self.user[users], item=self.item[items])
        vectors = taken.as_dot_products()
        return vectors[0].numpy(), vectors[1].numpy()

    def as_dot_products(self) -> tuple[torch.Tensor, torch.Tensor]:
        """User and item vectors whose plain dot product is the score (less a constant)."""
        if self.bias_last:
            return as_dot_products(self.user, self.item)
        return self.user, self.item


@dataclass(frozen=True)
class TransitionTables:
    """Item vectors ``[n_items, dim]``, float32: of an item as what came before, and as what came.

    ``source[i] . target[j]`` is large where j often followed i.
    """

    source: torch.Tensor
    target: torch.Tensor

    def save(self, folder: Path) -> None:
        """Write both tables into `folder`."""
        _save(folder, item_source=self.source, item_target=self.target)

    @classmethod
    def open(cls, artifact: Artifact) -> TransitionTables:
        """Read the tables of a transitions artifact."""
        return cls(*_load(artifact.path, "item_source", "item_target"))


@dataclass(frozen=True)
class Pretrained:
    """All that a two-tower model is given of what was learned from everything."""

    ids: IdTables | None = None
    transitions: TransitionTables | None = None
    lists: TransitionLists | None = None


def _save(folder: Path, **tables: torch.Tensor) -> None:
    for name, table in tables.items():
        weight = table.detach().float().cpu().contiguous()
        save_file({"weight": weight}, folder / f"{name}.safetensors")


def _load(folder: Path, *names: str) -> list[torch.Tensor]:
    return [load_file(folder / f"{name}.safetensors")["weight"] for name in names]
