"""`IdTables`: one pre-trained vector for each user and item, as frozen tables load them.

On disk: ``user.safetensors`` and ``item.safetensors``, each with one float32 tensor ``weight`` of
shape ``[rows, dim]``, memory-mapped when read, so that a rank touches only the rows and columns of
its own shards.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from cadc_rec.artifacts import Artifact


@dataclass(frozen=True)
class IdTables:
    """User and item vectors: ``[n_users, dim]`` and ``[n_items, dim]``, float32."""

    user: torch.Tensor
    item: torch.Tensor

    def save(self, folder: Path) -> None:
        """Write both tables into `folder`."""
        for side in ("user", "item"):
            table = getattr(self, side).detach().float().cpu().contiguous()
            save_file({"weight": table}, folder / f"{side}.safetensors")

    @classmethod
    def open(cls, artifact: Artifact) -> IdTables:
        """Read the tables of a pre-training artifact."""
        sides = {
            side: load_file(artifact.path / f"{side}.safetensors")["weight"]
            for side in ("user", "item")
        }
        return cls(**sides)
