"""Pre-trained vectors as frozen tables load them: one for each user and item, and more of items.

On disk: ``user.safetensors`` and ``item.safetensors``, or ``item_source.safetensors`` and
``item_target.safetensors``, each with one float32 tensor ``weight`` of
shape ``[rows, dim]``, memory-mapped when read, so that a rank touches only the rows and columns of
its own shards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.rows import write_rows
from cadc_rec.models.factorization import as_dot_products
from cadc_rec.store.artifact import Artifact


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
        folder: Path,
        user: torch.Tensor,
        item: torch.Tensor,
        rows: tuple[int, int],
        processes: Processes,
    ) -> None:
        """Write tables of which each rank has its share of the rows. Every rank must call.

        Args:
            folder: where to, on rank 0.
            user: this rank's users ``[share, dim]``.
            item: its items.
            rows: how many users and items there are.
            processes: the ranks that share them.
        """
        for name, local, n in zip(("user", "item"), (user, item), rows, strict=True):
            write_rows(folder / f"{name}.safetensors", "weight", local, n, processes)

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

    def as_dot_products(self) -> tuple[torch.Tensor, torch.Tensor]:
        """User and item vectors whose plain dot product is the score (less a constant)."""
        if self.bias_last:
            return as_dot_products(self.user, self.item)
        return self.user, self.item


@dataclass(frozen=True)
class TransitionTables:
    """Item vectors ``[n_items, dim]``, float32: of an item as what came before, and as what came.

    ``source[i] . target[j]`` tells how often j followed i.
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


def _save(folder: Path, **tables: torch.Tensor) -> None:
    for name, table in tables.items():
        weight = table.detach().float().cpu().contiguous()
        save_file({"weight": weight}, folder / f"{name}.safetensors")


def _load(folder: Path, *names: str) -> list[torch.Tensor]:
    return [load_file(folder / f"{name}.safetensors")["weight"] for name in names]
