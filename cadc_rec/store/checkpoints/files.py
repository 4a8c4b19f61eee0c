"""Tensors in parts as safetensors files and one JSON index; nothing is pickled.

torch.distributed.checkpoint's own storage pickles its index, and its safetensors writer makes a
file for each part of a tensor. Here a rank writes its parts to ``rank-00000-000.safetensors`` and
so on, and rank 0 writes an index of all, ``tensors.json``: name, size, and the place of each part.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from cadc_rec.store.checkpoints.parts import PartsLoadPlanner, PartsSavePlanner, Tensors
from cadc_rec.store.manifest import file_entry

Together = Callable[[Callable[[], Any] | None], Any]
"""Has ranks do what each has to do, and wait for one another."""
INDEX = "tensors.json"
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.uint8,
    )
}
_FILE_BYTES = 2**28  # safetensors copies a whole file's tensors before it writes them


def by_itself(work: Callable[[], Any] | None = None) -> Any:
    """What `Processes.together` is of one rank."""
    return work() if work is not None else None


def attempted(work: Callable[[], Any]) -> Callable[[], Callable[[], Any]]:
    """Work that raises nothing: it gives a function that returns its result, or raises its error.

    A rank whose part of a common work failed still has to wait for the others'.
    """

    def attempt() -> Callable[[], Any]:
        try:
            result = work()
        except BaseException as error:
            failed = error

            def again() -> Any:
                raise failed

            return again
        return lambda: result

    return attempt


def save_tensors(
    folder: Path,
    tensors: Tensors,
    group: dist.ProcessGroup,
    written: Callable[[Path, Mapping[str, Any]], None] = lambda folder, files: None,
    together: Together = by_itself,
) -> dict[str, dict[str, Any]]:
    """Write all ranks' parts; every rank must call.

    Args:
        folder: the folder to make and fill.
        tensors: this rank's parts, on the CPU.
        group: the ranks, in a group that can send Python objects (gloo).
        written: called by each rank with the folder and its files' sizes and SHA-256 by name.
        together: within it each rank writes; see `Saver`.

    Returns:
        Size and SHA-256 of every file by name, on rank 0; empty on the others.
    """
    writer = _Writer(folder, dist.get_rank(group), written, together)
    save(dict(tensors), storage_writer=writer, planner=PartsSavePlanner(), process_group=group)
    return writer.files


def load_tensors(folder: Path, tensors: Tensors, group: dist.ProcessGroup) -> None:
    """Fill this rank's parts in place; every rank must call, with names from `saved_sizes`."""
    load(
        dict(tensors),
        storage_reader=_Reader(folder),
        planner=PartsLoadPlanner(),
        process_group=group,
    )


def saved_sizes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Whole size of every saved tensor, by name."""
    return {name: tuple(entry["size"]) for name, entry in _index(folder).items()}


class _Writer(StorageWriter):
    def __init__(
        self,
        folder: Path,
        rank: int,
        written: Callable[[Path, Mapping[str, Any]], None],
        together: Together,
    ) -> None:
        self.folder, self.rank, self.written = folder, rank, written
        self.together = together
        self.files: dict[str, dict[str, Any]] = {}

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """A writer is used once."""

    def set_up_storage_writer(self, is_coordinator: bool, *_: Any, **__: Any) -> None:
        """Called on the coordinator before any rank writes."""
        if is_coordinator:
            self.folder.mkdir(parents=True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        outcome = self.together(attempted(lambda: self._write(plan, planner)))
        future: Future[list[WriteResult]] = Future()
        future.set_result(outcome())
        return future

    def _write(self, plan: SavePlan, planner: SavePlanner) -> list[WriteResult]:
        written = []
        mine: dict[str, Any] = {}
        self.folder.mkdir(parents=True, exist_ok=True)  # each node may have a disk of its own
        for number, items in enumerate(_batches(plan)):
            name = f"rank-{self.rank:05}-{number:03}.safetensors"
            parts = {}
            for item in items:
                tensor = planner.resolve_data(item)
                assert isinstance(tensor, torch.Tensor)
                parts[_key(item.index)] = tensor
            save_file(parts, self.folder / name)
            _sync(self.folder / name)
            entry = file_entry(self.folder / name)  # each rank hashes the files that it wrote
            mine[name] = entry
            written += [
                WriteResult(item.index, parts[_key(item.index)].nbytes, (name, entry))
                for item in items
            ]
        self.written(self.folder, mine)
        return written

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        files = {}
        for result in (result for of_rank in results for result in of_rank):
            files[result.index] = result.storage_data[0]
            self.files[result.storage_data[0]] = result.storage_data[1]
        index = {
            name: _described(name, saved, files)
            for name, saved in metadata.state_dict_metadata.items()
        }
        path = self.folder / INDEX
        path.write_text(json.dumps(index) + "\n", "utf-8")
        self.files[INDEX] = file_entry(path)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True


class _Reader(StorageReader):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """A reader is used once."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        tensors: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
        places = {}
        for name, entry in _index(self.folder).items():
            chunks = []
            for part in entry["parts"]:
                offsets, sizes = torch.Size(part["offsets"]), torch.Size(part["sizes"])
                chunks.append(ChunkStorageMetadata(offsets, sizes))
                places[MetadataIndex(name, offsets)] = part["file"]
            properties = TensorProperties(dtype=_DTYPES[entry["dtype"]])
            tensors[name] = TensorStorageMetadata(properties, torch.Size(entry["size"]), chunks)
        return Metadata(tensors, storage_data=places)

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *_: Any, **__: Any
    ) -> None:
        self.places: dict[MetadataIndex, str] = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        by_file = defaultdict(list)
        for item in plan.items:
            by_file[self.places[item.storage_index]].append(item)
        for name, items in by_file.items():
            with safe_open(self.folder / name, framework="pt") as file:
                for item in items:
                    key = _key(item.storage_index)
                    wanted = tuple(
                        slice(start, start + length)
                        for start, length in zip(item.storage_offsets, item.lengths, strict=True)
                    )
                    # safetensors cannot slice a scalar.
                    read = file.get_slice(key)[wanted] if wanted else file.get_tensor(key)
                    planner.resolve_tensor(item).copy_(read)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True


def _batches(plan: SavePlan) -> Iterator[list[Any]]:
    """The plan's items, grouped by file."""
    batch: list[Any] = []
    size = 0
    for item in plan.items:
        added = item.tensor_storage_size() or 0
        if batch and size + added > _FILE_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += added
    if batch:
        yield batch


def _described(name: str, saved: Any, files: Mapping[MetadataIndex, str]) -> dict[str, Any]:
    assert isinstance(saved, TensorStorageMetadata)
    return {
        "size": list(saved.size),
        "dtype": str(saved.properties.dtype).removeprefix("torch."),
        "parts": [
            {
                "offsets": list(chunk.offsets),
                "sizes": list(chunk.sizes),
                "file": files[MetadataIndex(name, chunk.offsets)],
            }
            for chunk in saved.chunks
        ],
    }


def _key(index: MetadataIndex) -> str:
    """The name of a part in its file."""
    assert index.offset is not None
    return f"{index.fqn}[{','.join(map(str, index.offset))}]"


def _index(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / INDEX).read_text("utf-8"))
    return found


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
