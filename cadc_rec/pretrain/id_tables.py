"""Pre-trained vectors as frozen tables load them: one for each user and item, and more of items.

On disk: ``user.safetensors`` and ``item.safetensors``, or ``item_source.safetensors`` and
``item_target.safetensors``, each with one float32 tensor ``weight`` of
shape ``[rows, dim]``, memory-mapped when read, so that a rank touches only the rows and columns of
its own shards.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from cadc_rec.artifacts import Artifact
from cadc_rec.models.factorization import as_dot_products


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

    @classmethod
    def open(cls, artifact: Artifact) -> IdTables:
        """Read the tables of a pre-training artifact."""
        user, item = _load(artifact.path, "user", "item")
        return cls(user, item, bool(artifact.info.get("bias_last", True)))

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
