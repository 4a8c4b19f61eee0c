"""A predict module for a GPU has its tables and its layers there, on one GPU too.

A CPU stands in for the tables' device, the meta device for that of the layers.
"""

import itertools
from types import SimpleNamespace

import pytest
import torch

from cadc_rec.config.experiment import HistoryConfig, ModelConfig, PriorConfig
from cadc_rec.export import predict
from cadc_rec.export.trained import Side, Table, TrainedModel
from cadc_rec.models.dense import DenseLayers
from cadc_rec.models.prior import HistoryPrior
from cadc_rec.models.tower import SideSpec
from cadc_rec.models.two_tower import TwoTower

USERS, ITEMS, DIM = 7, 5, 12  # a row of int8 with its scale is 16 bytes, aligned on any device


@pytest.fixture
def trained():
    """Untrained towers without attributes that read a history and add a prior."""
    torch.manual_seed(0)
    item = torch.randn(ITEMS, DIM)
    model = TwoTower(
        SideSpec("user", USERS, []),
        SideSpec("item", ITEMS, []),
        ModelConfig(id_embedding="init_frozen", id_dim=DIM, tower=[4]),
        torch.device("cpu"),
        HistoryConfig(length=3, windows=[3]),
        HistoryPrior.of(item, PriorConfig(use=True)),
        [0.7],
    )
    model.eval().requires_grad_(False)
    user = Side("user", (Table("user", torch.randn(USERS, DIM)),), (), ())
    return TrainedModel(
        model, user, Side("item", (Table("item", item),), (), ()), None, None, 3, {}
    )


def test_tables_for_one_gpu_are_put_on_it(trained, monkeypatch):
    asked, real = [], predict.shard_quant_model

    def on_cpu(tables, **given):
        asked.append((given["world_size"], given["compute_device"], given["sharding_device"]))
        return real(tables, **{**given, "compute_device": "cpu", "sharding_device": "cpu"})

    monkeypatch.setattr(predict, "shard_quant_model", on_cpu)
    placed = predict.TwoTowerPredictFactory(trained, device="cuda").table_bytes()
    assert asked == [(1, "cuda", "cuda")]
    assert placed == (USERS + ITEMS) * (DIM + 4)
    predict.TwoTowerPredictFactory(trained).table_bytes()
    assert len(asked) == 1


def test_layers_for_a_device_are_on_it_and_the_models_own_stay(trained):
    user, item = predict.TwoTowerPredictFactory(trained, device="meta").dense_layers()
    moved = [*itertools.chain(user.parameters(), user.buffers(), item.parameters())]
    assert {each.device.type for each in (*moved, user.factors, user.reader.prior.gram)} == {"meta"}
    mine, _ = predict.TwoTowerPredictFactory(trained).dense_layers()
    own = [*mine.parameters(), mine.factors, mine.reader.prior.gram]
    assert {each.device.type for each in own} == {"cpu"}


def test_layers_of_vectors_and_numbers_are_moved_too():
    table = SimpleNamespace(name="image", kind="vector", width=4, half=False, values=None)
    side = Side("item", (), (), (), (), DenseLayers([table], 3))
    moved = side.layers_on(torch.device("meta"))
    assert {each.device.type for each in moved.parameters()} == {"meta"}
    assert {each.device.type for each in side.layers.parameters()} == {"cpu"}
    assert side.layers_on(torch.device("cpu")) is side.layers
