"""A trained model's file is written from shards, some rows at a time; no rank has a whole table."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load, save
from torch import nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed import row_files
from cadc_rec.distributed.processes import processes
from cadc_rec.distributed.row_files import Target
from cadc_rec.distributed.state import gather_state, local_tensors, write_state
from cadc_rec.training.build import build_model
from tests.distributed import toy

ROW = 4 * toy.DIM  # bytes


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a state; its bytes, and the sizes of the pieces that were copied."""
    sizes, of_piece = [], row_files._bytes_of

    def bytes_of(piece):
        sizes.append(piece.nbytes)
        return of_piece(piece)

    monkeypatch.setattr(row_files, "_bytes_of", bytes_of)

    def write(*arguments, **more):
        file = tmp_path / "model.safetensors"
        write_state(Target(file), *arguments, **more)
        return SimpleNamespace(bytes=file.read_bytes(), sizes=sizes)

    return write


@pytest.fixture
def alone():
    with processes(ComputeConfig(device="cpu", threads=1)) as joined:
        yield joined


@pytest.mark.parametrize("kind", ["table_wise", "column_wise"])
def test_sharded_tables_are_written_by_rows_without_being_gathered(
    kind, alone, written, monkeypatch
):
    """`ShardedTensor.gather` fails on GPUs under a backend for each device; here it always does."""

    def gather(*_, **__):
        raise RuntimeError("Expected all tensors to be on the same device")

    monkeypatch.setattr(ShardedTensor, "gather", gather)
    experiment = toy.experiment("trainable", kind)
    model = build_model(experiment, toy.dataset(), toy.pretrained("trainable"), alone)
    file = written(model.wrapped, alone, model.trains, piece=5 * ROW)
    whole = gather_state(model.wrapped, alone, model.trains)
    assert file.bytes == save(whole)
    assert max(file.sizes) == 5 * ROW  # of 23 and 41 rows
    found = load(file.bytes)
    sharded = [each for each in local_tensors(model.wrapped) if ".ids." in each.name]
    assert {each.name for each in sharded} == {
        f"{side}.ids.table.embedding_bags.{side}.weight" for side in ("user", "item")
    }
    for part in sharded:  # shards begin at their own columns
        assert torch.equal(part.tensor, part.of(found[part.name]))


def test_tensors_of_all_kinds_are_in_the_order_of_safetensors(alone, written):
    module = nn.Module()
    kinds = (torch.bool, torch.uint8, torch.int16, torch.float16, torch.bfloat16, torch.int32)
    for place, kind in enumerate((*kinds, torch.float32, torch.float64, torch.int64, torch.int8)):
        module.register_buffer(f"z{place}", torch.arange(6).reshape(2, 3).to(kind))
        module.register_buffer(f"a{place}", torch.ones(1, place).to(kind))
    module.register_buffer("scalar", torch.tensor(2.5))
    state = {name: value.contiguous() for name, value in module.state_dict().items()}
    assert written(module, alone, piece=5).bytes == save(state)
