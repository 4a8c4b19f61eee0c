"""Plans for GPUs, made by TorchRec's planner without one; and what runs only where there is one."""

import numpy as np
import pytest
import torch
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder

from cadc_rec.config.experiment import ComputeConfig, ModelConfig, ShardingConfig
from cadc_rec.data.load.pair_batches import arrange_pairs
from cadc_rec.distributed import sharding
from cadc_rec.distributed.planner import TableRule, make_planner, plan_tables
from cadc_rec.distributed.processes import Processes, processes
from cadc_rec.models.sparse import pair_scores
from cadc_rec.models.two_tower import SideSpec, TwoTower
from tests.distributed import toy


def needs_gpu(test):
    skip = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
    return pytest.mark.cuda(skip(test))


def plan_of(kind, rows=1_000_000, world_size=16):
    """Of a two-tower model on the meta device, for 2 nodes of 8 GPUs."""
    side = {name: SideSpec(name, rows, []) for name in ("user", "item")}
    config = ModelConfig(id_embedding="init_frozen", id_dim=96)
    model = TwoTower(side["user"], side["item"], config, torch.device("meta"))
    planner = make_planner(model, {"user": kind, "item": kind}, "cuda", world_size, 8, 8192)
    return planner.plan(model, [EmbeddingBagCollectionSharder()]).plan


@pytest.mark.parametrize(
    ("kind", "shards"),
    [
        ("row_wise", 16),
        ("table_row_wise", 8),  # the GPUs of one node
        ("table_wise", 1),
        ("column_wise", 12),  # 96 columns by eight: six for each GPU is no multiple of four
    ],
)
def test_a_plan_for_sixteen_gpus_is_made_without_one(kind, shards):
    table = plan_of(kind)["user.ids.table"]["user"]
    assert table.sharding_type == kind
    assert table.compute_kernel == "fused"
    placed = table.sharding_spec.shards
    assert len(placed) == shards
    assert sum(s.shard_sizes[0] * s.shard_sizes[1] for s in placed) == 1_000_000 * 96
    assert all("cuda" in str(s.placement) for s in placed)


def test_the_planner_chooses_where_nothing_is_asked():
    chosen = plan_of("auto")["item.ids.table"]["item"]
    assert chosen.sharding_type != "data_parallel"  # a copy of 384 MB on each GPU is no choice
    assert sum(s.shard_sizes[0] * s.shard_sizes[1] for s in chosen.sharding_spec.shards) == 96e6


def row_wise(world_size, one_id):
    """Bytes and milliseconds of the fullest GPU, of a table of 256,000 x 96 and 8,192 ids."""
    collection = sharding.build_collection({"item": (256_000, 96)})
    rule = TableRule("row_wise", "fused", one_id=one_id)
    (table,) = plan_tables(
        collection,
        lambda stats: make_planner(
            collection, {"item": rule}, "cuda", world_size, 8, 8192, stats=stats
        ),
    )
    return [max(getattr(s, of) for s in table.shards) for of in ("device_bytes", "forward_ms")]


def test_rows_that_are_sent_as_they_are_take_no_more_room_on_more_gpus_and_less_time_than_sums():
    held, took = row_wise(256, one_id=True)
    rows, sent = 1000 * 96 * 4, 8192 * (96 * 4 + 8)  # of a table's part; and ids, with their rows
    assert held <= rows + 3 * sent
    others, slower = row_wise(256, one_id=False)
    assert others >= 256 * 8192 * 96 * 4  # partial sums for everybody
    assert took < slower / 20


class AskedError(Exception):
    """Training asked for a planner."""


@pytest.mark.parametrize(("setting", "lookups"), [(0, 8192), (40_960, 40_960)])
def test_training_has_the_planner_weigh_one_ranks_share_of_a_step(setting, lookups, monkeypatch):
    def asked(_module, _rules, _device, world_size, _local, batch_size, *_):
        raise AskedError(world_size, batch_size)

    monkeypatch.setattr(sharding, "make_planner", asked)
    config = ShardingConfig(batch_size=setting)
    ranks = Processes(0, 256, 8, torch.device("cpu"))
    with pytest.raises(AskedError) as found:
        sharding.shard_model(torch.nn.Module(), {}, ranks, 256 * 8192, config)
    assert found.value.args == (256, lookups)


@needs_gpu
def test_frozen_tables_stay_on_a_gpu_under_row_wise_sharding():
    with processes(ComputeConfig(device="cuda")) as alone:
        for kind in ("row_wise", "table_wise", "data_parallel"):
            assert toy.train("init_frozen", kind, alone)["intact"]


@needs_gpu
def test_training_on_a_gpu_gives_the_losses_of_the_cpu():
    losses = []
    for device in ("cpu", "cuda"):
        with processes(ComputeConfig(device=device)) as alone:
            losses.append(toy.train("trainable", "data_parallel", alone)["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@needs_gpu
def test_factorization_on_a_gpu_is_that_of_the_cpu():
    tables = []
    for device in ("cpu", "cuda"):
        with processes(ComputeConfig(device=device)) as alone:
            tables.append(toy.factorize(alone))
    for cpu, gpu in zip(*tables, strict=True):
        assert gpu == pytest.approx(cpu, rel=1e-2, abs=1e-3)


@needs_gpu
def test_pair_scores_on_a_gpu_equal_those_of_the_cpu():
    rng = np.random.default_rng(0)
    who, what = (rng.integers(0, 30, 50).astype(np.int32) for _ in range(2))
    drawn = rng.integers(0, 30, (50, 4)).astype(np.int32)
    batch = arrange_pairs(who, what, drawn, 30, 50).each(torch.from_numpy)
    users, items = torch.randn(len(batch.users), 8), torch.randn(len(batch.items), 8)
    on_gpu = batch.to(torch.device("cuda"))
    scores = pair_scores(users.cuda(), items.cuda(), on_gpu.pattern)
    torch.testing.assert_close(scores.cpu(), pair_scores(users, items, batch.pattern))
