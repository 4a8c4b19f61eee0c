"""Side features of users or items: attributes of an id, embedded and joined.

In: unique ids. Out: ``[n, features * width]``, one pooled embedding for each attribute (several
values of one attribute, such as a film's genres, are averaged).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torchrec import KeyedJaggedTensor

from cadc_rec.distributed.sharding import build_collection
from cadc_rec.models.jagged import as_many_each, wait
from cadc_rec.models.rows import Cache, on_gpu

_PADDING = 4  # codes are padded to one length for a GPU while they are at most so many times more


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


@dataclass(frozen=True)
class PaddedCodes:
    """Codes of several attributes, as many for every id, so that shapes depend on no values.

    How long jagged rows are together only the device knows, and reading it back stops a GPU.

    Attributes:
        codes: int64 ``[attributes, ids, L]``.
        weights: float32 likewise: 1 over an id's number of values, 0 behind them; None where every
            id has exactly one of each attribute.
    """

    codes: torch.Tensor
    weights: torch.Tensor | None

    def to(self, device: torch.device) -> PaddedCodes:
        """The same on `device`."""
        weights = None if self.weights is None else self.weights.to(device)
        return PaddedCodes(self.codes.to(device), weights)

    def of(self, names: Sequence[str], ids: torch.Tensor) -> KeyedJaggedTensor:
        """Those of int64 ids ``[n]``, under the features' names."""
        weights = None if self.weights is None else self.weights.index_select(1, ids).flatten()
        codes = self.codes.index_select(1, ids).flatten()
        return as_many_each(names, codes, self.codes.shape[2], weights)


def worth_padding(rows: int, values: float, longest: int) -> bool:
    """Whether rows of codes are padded to the longest: jagged ones would not be far fewer."""
    return rows * longest <= _PADDING * (rows + values)


def padded(attributes: Sequence[AttributeValues]) -> PaddedCodes | None:
    """Attributes of one side in `PaddedCodes`; None where these would be far more."""
    ids = len(attributes[0].indptr) - 1
    lengths = np.stack([np.diff(a.indptr) for a in attributes])
    longest = max(1, int(lengths.max(initial=0)))
    if not worth_padding(lengths.size, int(lengths.sum()), longest):
        return None
    codes = np.zeros((len(attributes), ids, longest), np.int64)
    known = np.arange(longest) < lengths[:, :, None]
    for place, attribute in enumerate(attributes):
        codes[place][known[place]] = attribute.values
    weights = None
    if not known.all():
        share = np.float32(1) / np.maximum(lengths, 1).astype(np.float32)
        weights = torch.from_numpy(known * share[:, :, None])
    elif longest > 1:
        weights = torch.full(codes.shape, 1 / longest)
    return PaddedCodes(torch.from_numpy(codes), weights)


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
        self.width = width * len(attributes)
        self.padded = padded(attributes) if on_gpu(device) else None
        weighted = self.padded is not None and self.padded.weights is not None
        self.tables = build_collection(
            {name: (a.size, width) for name, a in zip(self.names, attributes, strict=True)},
            mean=frozenset() if weighted else multi,
            weighted=weighted,
        )
        self.cache: Cache[KeyedJaggedTensor] = Cache()
        if self.padded is not None:
            self.padded = self.padded.to(device)
            return
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

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings ``[n, features * width]`` of int64 ids ``[n]``."""
        return wait(self.tables(self.cache.get(ids, self._jagged))).values()

    def _jagged(self, ids: torch.Tensor) -> KeyedJaggedTensor:
        if self.padded is not None:
            return self.padded.of(self.names, ids)
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
