"""Tensors in parts, as torch.distributed.checkpoint's planners take them.

In: for each name, the parts of a tensor that this rank holds. Out: plans of what each rank writes
(a part that several ranks hold is written by one) or reads (also from parts cut in another way).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

Offsets = tuple[int, ...]


@dataclass(frozen=True)
class Parts:
    """This rank's parts of one tensor.

    Attributes:
        size: of the whole tensor.
        parts: views of live memory, by where they start in the tensor; may be empty.
    """

    size: tuple[int, ...]
    parts: Mapping[Offsets, torch.Tensor]

    @classmethod
    def whole(cls, tensor: torch.Tensor) -> Parts:
        """`tensor` as one part, for a rank that holds all of it."""
        return cls(tuple(tensor.shape), {(0,) * tensor.dim(): tensor})

    def chunks(self) -> list[ChunkStorageMetadata]:
        """Where the parts are in the tensor."""
        return [
            ChunkStorageMetadata(torch.Size(offsets), tensor.shape)
            for offsets, tensor in self.parts.items()
        ]


Tensors = Mapping[str, Parts]
"""Parts by the name of their tensor; names do not depend on the sharding."""


class PartsSavePlanner(DefaultSavePlanner):
    """Plans the writing of `Tensors`; a part that several ranks hold is written once."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def create_local_plan(self) -> SavePlan:
        """See `SavePlanner`."""
        self.plan = SavePlan(
            [
                WriteItem(
                    MetadataIndex(name, offsets),
                    WriteItemType.SHARD,
                    tensor_data=TensorWriteData(
                        ChunkStorageMetadata(torch.Size(offsets), tensor.shape),
                        TensorProperties(dtype=tensor.dtype),
                        torch.Size(parts.size),
                    ),
                )
                for name, parts in self.state_dict.items()
                for offsets, tensor in parts.parts.items()
            ]
        )
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> torch.Tensor:
        """See `DefaultSavePlanner`."""
        return _part(self.state_dict, index)


class PartsLoadPlanner(LoadPlanner):
    """Plans the reading of `Tensors` in place, from parts that were cut in any way."""

    def set_up_planner(
        self,
        state_dict: dict[str, Any],
        metadata: Metadata | None = None,
        is_coordinator: bool = False,
    ) -> None:
        """See `LoadPlanner`."""
        assert metadata is not None
        self.tensors: Tensors = state_dict
        self.metadata = metadata

    def create_local_plan(self) -> LoadPlan:
        """See `LoadPlanner`."""
        items = []
        for name, parts in self.tensors.items():
            saved = self.metadata.state_dict_metadata[name]
            assert isinstance(saved, TensorStorageMetadata)
            items += create_read_items_for_chunk_list(name, saved, parts.chunks())
        return LoadPlan(items)

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """See `LoadPlanner`."""
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        """See `LoadPlanner`."""
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Never called: only tensors are saved, since other objects would be pickled."""
        raise AssertionError(f"{read_item.dest_index.fqn} is no tensor")

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        """See `LoadPlanner`."""
        part = _part(self.tensors, read_item.dest_index)
        for dimension, (start, length) in enumerate(
            zip(read_item.dest_offsets, read_item.lengths, strict=True)
        ):
            part = part.narrow(dimension, start, length)
        return part

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None:
        """Nothing to do: `tensor` is a view of where it belongs."""


def _part(tensors: Tensors, index: MetadataIndex) -> torch.Tensor:
    assert index.offset is not None
    return tensors[index.fqn].parts[tuple(index.offset)]
