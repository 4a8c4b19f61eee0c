"""Side features of users or items: attributes of an id, embedded and joined.

In: unique ids. Out: ``[n, features * width]``, one pooled embedding for each attribute (several
values of one attribute, such as a film's genres, are averaged).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torchrec import KeyedJaggedTensor

from cadc_rec.distributed.sharding import build_collection
from cadc_rec.models.rows import Cache, wait


class AttributeValues(Protocol):
    """Values of one attribute for every id, as CSR; attributes of the data room have this form."""

    @property
    def name(self) -> str:
        """Unique on its side."""

    @property
    def kind(self) -> str:
        """``categorical`` (one value each) or ``multi``."""

    @property
    def size(self) -> int:
        """Number of codes."""

    @property
    def indptr(self) -> np.ndarray:
        """int64 ``[ids + 1]``."""

    @property
    def values(self) -> np.ndarray:
        """Codes, int32."""


class SideFeatures(nn.Module):
    """Embeds the attributes of ids.

    Args:
        side: ``user`` or ``item``; prefixes the tables' names.
        attributes: one column for each attribute, all over the same ids.
        width: of each attribute's embedding.
        device: device of the attribute values.
    """

    def __init__(
        self, side: str, attributes: Sequence[AttributeValues], width: int, device: torch.device
    ) -> None:
        super().__init__()
        self.names = [f"{side}_{a.name}" for a in attributes]
        multi = frozenset(
            name for name, a in zip(self.names, attributes, strict=True) if a.kind == "multi"
        )
        self.tables = build_collection(
            {name: (a.size, width) for name, a in zip(self.names, attributes, strict=True)},
            mean=multi,
        )
        self.width = width * len(attributes)
        # All attributes end to end as one CSR, so that a batch is gathered in one go.
        lengths = [torch.from_numpy(np.diff(a.indptr).astype(np.int32)) for a in attributes]
        offsets = np.cumsum([0, *(len(a.values) for a in attributes)])
        starts = [
            torch.from_numpy(a.indptr[:-1].astype(np.int64) + before)
            for a, before in zip(attributes, offsets[:-1], strict=True)
        ]
        values = [torch.from_numpy(a.values.astype(np.int64)) for a in attributes]
        # Not buffers: they are data, and have no place in a checkpoint.
        self._lengths = torch.stack(lengths).to(device)
        self._starts = torch.stack(starts).to(device)
        self._values = torch.cat(values).to(device)
        self.cache: Cache[KeyedJaggedTensor] = Cache()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings ``[n, features * width]`` of int64 ids ``[n]``."""
        return wait(self.tables(self.cache.get(ids, self._jagged))).values()

    def _jagged(self, ids: torch.Tensor) -> KeyedJaggedTensor:
        return KeyedJaggedTensor(keys=self.names, **self._gather(ids))

    def _gather(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        lengths = self._lengths[:, ids].flatten()
        starts = self._starts[:, ids].flatten()
        ends = lengths.cumsum(0)
        total = int(ends[-1]) if len(ends) else 0
        # Position of every value: its row's start plus its place within the row.
        shift = torch.repeat_interleave(starts - (ends - lengths), lengths, output_size=total)
        return {
            "values": self._values[shift + torch.arange(total, device=ids.device)],
            "lengths": lengths,
        }
