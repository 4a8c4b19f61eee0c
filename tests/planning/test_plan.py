"""Plans on paper: what they say of memory, of cost, and of what does not fit."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cadc_rec.config.experiment import ComputeConfig, PretrainConfig
from cadc_rec.config.file import load_experiment
from cadc_rec.data.dataset import Attribute, Dataset
from cadc_rec.data.load.candidates import Lifetimes
from cadc_rec.data.load.shards import Examples
from cadc_rec.data.user_items import UserItems
from cadc_rec.distributed.planner import TableRule, make_planner
from cadc_rec.distributed.processes import processes
from cadc_rec.distributed.sharding import build_collection
from cadc_rec.errors import CadcError
from cadc_rec.models.features import padded
from cadc_rec.planning.memory import attribute_bytes, row_bytes, validation_bytes
from cadc_rec.planning.plan import plan_experiment
from cadc_rec.planning.pretraining import plan_pretraining
from cadc_rec.planning.remedies import in_units
from cadc_rec.planning.sizes import Machines, PlannedAttribute, Sizes, find_sizes, map_bytes
from cadc_rec.pretrain.factor_tables import Extent
from cadc_rec.pretrain.id_tables import Pretrained
from cadc_rec.store.pruned import prune
from cadc_rec.training.batches.source import DeviceBatches
from cadc_rec.training.build import build_model
from cadc_rec.training.reading import make_loader, negatives_of
from cadc_rec.training.tables import dense_optimizer
from cadc_rec.training.training_state import TrainingState
from tests.distributed import toy

GIB = 2**30
BILLION = Sizes(10**9, 10**8, "the test")


@pytest.fixture
def experiment(tmp_path):
    def load(*overrides, method="cadc"):
        path = tmp_path / "empty.toml"
        path.write_text("")
        sets = ["compute.device=cuda", *overrides]
        return load_experiment(path, method=method, overrides=sets)

    return load


def gpus(world_size, gib=80, host=128, local=8):
    return Machines(world_size, min(local, world_size), "cuda", gib * GIB, host * GIB)


def tables(plan):
    return {table.name: table for table in plan.tables}


def elements(table):
    return sum(shard.rows * shard.columns for shard in table.shards)


@pytest.mark.parametrize("world_size", [64, pytest.param(256, marks=pytest.mark.slow)])
def test_a_billion_users_have_a_plan_for_all_that_is_held(world_size, experiment):
    plan = plan_experiment(experiment(), BILLION, gpus(world_size))
    found = tables(plan)
    assert found["user"].bytes == 10**9 * 96 * 4
    assert found["item"].bytes == 10**8 * 96 * 4
    assert [elements(found[side]) for side in ("user", "item")] == [96 * 10**9, 96 * 10**8]
    usable = 0.85 * 80 * GIB
    assert 0 < max(rank.total for rank in plan.ranks) <= usable
    # Whatever lies where, all of it lies somewhere.
    assert sum(rank.tables + rank.host for rank in plan.ranks) >= 1.1e9 * 96 * 4
    assert plan.problems == []
    # Tables of 393 GiB whole would fill no GPU; in shares they fit, with gradient and moments.
    assert plan.pretrain.tables == "partitioned"
    assert plan.pretrain.training >= 4 * 1.1e9 * 96 * 4 / world_size
    vectors = (10**8 + 10**9) / world_size * 64 * 4  # a share of both
    assert plan.validation == pytest.approx(vectors)
    forward, backward = plan.cost()
    assert forward > 0
    assert backward == 0  # both tables are frozen


def test_a_factorization_that_cannot_be_dealt_is_told_what_it_would_take(experiment):
    plan = plan_experiment(experiment("compute.mf_tables=replicated"), BILLION, gpus(64))
    (problem,) = plan.problems
    assert problem.startswith("pretrain: each process holds both tables whole")
    assert in_units(1.1e9 * 96 * 4) in problem
    assert "set compute.mf_tables = 'partitioned'" in problem
    plan = plan_experiment(experiment("pretrain.loss=softmax"), BILLION, gpus(64))
    assert plan.pretrain.tables == "partitioned"
    (problem, *_) = plan_experiment(experiment(), BILLION, gpus(1)).problems
    assert "compute.mf_tables" not in problem
    assert "use more processes" in problem
    plan = plan_experiment(experiment("pretrain.model=als"), BILLION, gpus(64))
    assert plan.pretrain.tables == "partitioned"
    # Four GPUs could hold neither their shares nor all items' vectors.
    (problem, *_) = plan_experiment(experiment(), BILLION, gpus(4)).problems
    assert problem.startswith("pretrain: each process holds ")
    assert "use more processes" in problem


def test_the_mlp_of_pretraining_holds_its_own_rows_and_those_of_a_step(experiment):
    """A row, its gradient and Adam's moments; 8,192 positives with a negative each."""
    plan = plan_experiment(experiment(method="cadc-mlp"), BILLION, gpus(64))
    own, looked_up = 4 * 1.1e9 * 96 * 4 / 64, (8192 + 2 * 8192) / 64 * 96 * 4
    assert plan.pretrain.tables == "partitioned"
    assert plan.pretrain.training == pytest.approx(own + 4 * looked_up, rel=1e-9)
    alone = plan_experiment(experiment(method="cadc-mlp"), BILLION, gpus(1))
    (problem,) = (p for p in alone.problems if p.startswith("pretrain: each process holds"))
    assert "use more processes, fewer rows" in problem


def test_the_planner_weighs_one_processs_share_of_a_step(experiment):
    sizes = Sizes(10**6, 10**5, "the test")
    sets = ("sharding.frozen=row_wise", f"train.batch_size={16 * 8192}")
    plan = plan_experiment(experiment(*sets), sizes, gpus(16))
    said = plan_experiment(experiment(*sets, "sharding.batch_size=8192"), sizes, gpus(16))
    assert plan.tables == said.tables
    # A rank's rows, and what its lookups send and receive: 16 x 8,192 vectors and some.
    (held,) = {rank.tables for rank in plan.ranks}
    assert held < 1.1e6 * 96 * 4 / 16 + 2 * 4 * (16 * 8192) * 96 * 4


def test_a_plan_that_fits_has_no_problems(experiment):
    plan = plan_experiment(experiment(), Sizes(10**6, 10**5, "the test"), gpus(16))
    assert plan.problems == []
    assert {table.kernel for table in plan.tables} <= {"fused", "dense"}


@pytest.mark.parametrize(
    ("kernel", "on_gpu"), [("fused_uvm", 0.0), ("fused_uvm_caching", 0.3), ("fused", 1.0)]
)
def test_a_kernel_decides_whose_memory_a_table_fills(kernel, on_gpu, experiment):
    sets = ("sharding.frozen=row_wise", f"sharding.frozen_kernel={kernel}")
    plan = plan_experiment(experiment(*sets, "sharding.cache_share=0.3"), BILLION, gpus(64))
    assert {table.kernel for table in plan.tables} == {kernel}
    weights = 1.1e9 * 96 * 4 / 64
    (host,) = {rank.host for rank in plan.ranks}
    (device,) = {rank.tables for rank in plan.ranks}
    assert host == pytest.approx(0 if kernel == "fused" else weights, rel=1e-3)
    # Beside the weights: what lookups of one step send and receive, under half a gigabyte; and a
    # cache's own state, 16 bytes a row.
    beside = 0.5 * GIB + (kernel == "fused_uvm_caching") * 16 * 1.1e9 / 64
    assert on_gpu * weights <= device <= on_gpu * weights + beside


@pytest.mark.parametrize("kind", ["row_wise", "auto"])
def test_a_trained_table_that_no_gpu_can_hold_is_in_the_hosts_memory_without_a_cache(
    kind, experiment
):
    """What averages and validates its weights reads them there."""
    config = experiment(f"sharding.trainable={kind}", method="gold")
    plan = plan_experiment(config, Sizes(10**7, 10**6, "the test"), gpus(4, gib=1))
    assert tables(plan)["user"].kernel == "fused_uvm"
    with pytest.raises(CadcError, match=r"sharding\.trainable_kernel.*'fused_uvm'"):
        experiment("sharding.trainable_kernel=fused_uvm_caching", method="gold")


def test_no_rule_puts_a_trained_table_behind_a_cache():
    collection = build_collection({"user": (1000, 8)})
    rule = TableRule("row_wise", "fused_uvm_caching", trained=True)
    with pytest.raises(CadcError, match="of table user is for frozen tables"):
        make_planner(collection, {"user": rule}, "cuda", 2, 2, 64)


@pytest.mark.parametrize("kind", ["row_wise", "table_row_wise", "table_wise", "column_wise"])
def test_the_configs_sharding_type_is_the_plans(kind, experiment):
    plan = plan_experiment(experiment(f"sharding.frozen={kind}"), Sizes(10**6, 10**5, ""), gpus(16))
    shards = {"row_wise": 16, "table_row_wise": 8, "table_wise": 1, "column_wise": 12}[kind]
    for table in plan.tables:
        assert (table.sharding, len(table.shards)) == (kind, shards)


@pytest.mark.parametrize(("storage", "row"), [("fp32", 384), ("fp16", 192), ("int8", 100)])
def test_storage_decides_a_frozen_tables_bytes(storage, row, experiment):
    sets = (f"sharding.frozen_storage={storage}", "sharding.frozen=row_wise")
    plan = plan_experiment(experiment(*sets), BILLION, gpus(64))
    assert {name: table.bytes for name, table in tables(plan).items()} == {
        "user": 10**9 * row,
        "item": 10**8 * row,
    }


def test_what_does_not_fit_is_said_with_what_would(experiment):
    plan = plan_experiment(experiment(), BILLION, gpus(2, host=64))
    assert plan.tables == []
    (problem,) = (p for p in plan.problems if p.startswith("train:"))
    assert "user (1,000,000,000 x 96 fp32 = 357.6 GiB)" in problem
    assert "2 GPUs that may each fill 68.0 GiB (136.0 GiB in all) and 64.0 GiB of host" in problem
    assert "\n" not in problem
    # 110 GB of bytes fit into 136 GiB, 211 GB of halves do not: and so it says.
    assert "frozen_storage = 'int8'" in problem
    assert "fp16" not in problem
    world_size = int(re.search(r"--world-size (\d+)", problem)[1])
    for count, fits in ((world_size, True), (world_size // 2, False)):
        again = plan_experiment(experiment(), BILLION, gpus(count, host=64))
        assert bool(again.tables) == fits
    eight_bits = experiment("sharding.frozen_storage=int8")
    assert plan_experiment(eight_bits, BILLION, gpus(2, host=64)).tables


def test_trainable_tables_too_large_to_copy_are_told_to_spread(experiment):
    random = experiment(method="gold")
    roomy = 256  # GiB of host memory, in which checkpoints are copied
    plan = plan_experiment(random, BILLION, gpus(8, host=roomy))
    (problem,) = (p for p in plan.problems if p.startswith("train:"))
    more = re.search(r"--world-size (\d+) with sharding.trainable = 'row_wise'", problem)
    spread = experiment("sharding.trainable=row_wise", method="gold")
    for count, fits in ((int(more[1]), True), (int(more[1]) // 2, False)):
        found = plan_experiment(spread, BILLION, gpus(count, host=roomy)).problems
        assert any(p.startswith("train:") for p in found) != fits
    plan = plan_experiment(spread, BILLION, gpus(64))
    # The best epoch's and the average's copy of each rank's rows, and the average's age of each.
    rows = 1_100_000_000 // 64
    assert {rank.state for rank in plan.ranks} == {2 * rows * 96 * 4 + rows * 4}
    # Adam's two moments beside the weights.
    assert min(rank.tables for rank in plan.ranks) >= 3 * rows * 96 * 4
    assert plan.cost()[1] > 0


def test_the_advised_number_of_processes_has_room_for_the_copies_of_checkpoints_too(experiment):
    """Tables of 393 GiB five times over: weights, two moments, best, average; a row's age beside.

    In 68 GiB of each GPU they fit from 32 on, in 32 GiB of host memory from 64 on.
    """
    kept = 5 * 1.1e9 * 96 * 4 + 1.1e9 * 4
    assert kept / 16 > 0.85 * 80 * GIB > kept / 32 > 32 * GIB > kept / 64
    sets = ("sharding.trainable=row_wise", "train.batch_size=8192")
    for more, advised in ((("checkpoint.every_seconds=0",), 32), ((), 64)):
        gold = experiment(*sets, *more, method="gold")
        plan = plan_experiment(gold, BILLION, gpus(2, host=32))
        (problem,) = (p for p in plan.problems if p.startswith("train:"))
        assert f"--world-size {advised}." in problem
        found = plan_experiment(gold, BILLION, gpus(advised, host=32)).problems
        assert not any(p.startswith("train:") for p in found)
    (problem,) = plan_experiment(gold, BILLION, gpus(32, host=32)).problems
    assert re.search(r"train: rank \d+ copies .* to host memory for each checkpoint", problem)


def test_attributes_and_mlps_are_counted(experiment):
    attributes = (PlannedAttribute("age", "categorical", 7),)
    sizes = Sizes(1000, 500, "the test", attributes)
    plan = plan_experiment(experiment(), sizes, gpus(1))
    (rank,) = plan.ranks
    assert rank.attributes == 1000 * 8  # a code; on CPU a length and a start beside it
    (on_cpu,) = plan_experiment(experiment(), sizes, replace(gpus(1), device="cpu")).ranks
    assert on_cpu.attributes == 1000 * 20
    # (96 + 16) x 128 + 128, 128 x 64 + 64; without the attribute on the item side.
    weights = (112 * 128 + 128 + 128 * 64 + 64) + (96 * 128 + 128 + 128 * 64 + 64)
    assert rank.mlps == weights * 4 * 6
    # A learned table of 7 x 16, with a gradient, two moments and two copies.
    assert rank.state == 7 * 16 * 4 * 5


def test_what_the_factorization_and_validation_hold():
    sizes = Sizes(1000, 100, "the test")
    user, item = 1000 * 8 * 4, 100 * 8 * 4
    # Both whole, 3 x own rows, then the users once more and two shares of them.
    four = Extent(1000, 100, 8, 4)
    assert four.replicated_bytes() == 2 * user + item + 3 * (user + item) // 4 + 2 * user // 4
    assert Extent(1000, 100, 8, 1).replicated_bytes() == 4 * (user + item) + user
    # Own rows four times; 300 rows fetched and 300 sent.
    assert four.partitioned_bytes(300) == user + item + 2 * 300 * 8 * 4
    assert four.partitioned_bytes(10**6) == 3 * user + item
    assert validation_bytes(sizes, 8, gpus(1)) == user + item
    # With several, its share of both; on CPU the items' transposes beside them.
    assert validation_bytes(sizes, 8, gpus(2)) == (user + item) // 2
    assert validation_bytes(sizes, 8, Machines(4, 4, "cpu", 0, GIB)) == user // 4 + item // 2


@pytest.mark.parametrize(
    ("loss", "device", "ranks", "training"),
    [
        # Both orders of 1,000 interactions, 4 bytes each; on one GPU the kernel draws negatives.
        ("binary", "cuda", 1, 2 * 1000 * 4),
        # Else three negatives of each interaction.
        ("binary", "cuda", 4, 2 * 250 * 4 + 250 * 3 * 4),
        # On CPU the orders are mapped files.
        ("binary", "cpu", 1, 1000 * 3 * 4),
        # And a one for each interaction in either order.
        ("softmax", "cuda", 1, 2 * 1000 * 4 + 2 * 1000 * 4),
    ],
)
def test_interactions_take_memory_while_the_factorization_trains(loss, device, ranks, training):
    sizes = Sizes(1000, 100, "the test", interactions=1000)
    machines = Machines(ranks, ranks, device, 80 * GIB, 128 * GIB)
    config = PretrainConfig(model="mf", loss=loss, negatives=3)

    def planned(sizes):
        return plan_pretraining(config, "auto", 0.15, sizes, machines)

    found, without = planned(sizes), planned(replace(sizes, interactions=0))
    assert (found.interactions, without.interactions) == (training, 0)
    assert found.training - without.training == training
    negatives = 0 if loss == "softmax" or (device, ranks) == ("cuda", 1) else 1000 // ranks * 3 * 4
    assert found.validation - without.validation == training - negatives  # drawn for each epoch


def test_each_stages_share_of_the_hosts_memory_follows_from_rows_ids_and_ranks(experiment):
    sets = ("compute.device=cpu", "history.length=10", "transitions.window=1")
    sizes = Sizes(10**6, 20_000, "the test", interactions=10**8)

    def planned(ranks, sizes=sizes, *more):
        machines = Machines(ranks, ranks, "cpu", 0, 3 * GIB)
        return plan_experiment(experiment(*sets, *more), sizes, machines)

    two, four = planned(2), planned(4)
    libraries = 0.6 * GIB  # at most
    assert set(two.stages) == {
        "prepare", "transitions", "select", "pretrain", "train", "evaluate"
    }  # fmt: skip
    # Half of both processes' 3 GiB: one prepares, and the other waits.
    assert 3 * GIB < two.stages["prepare"] < 3 * GIB + libraries
    assert 0 < two.stages["select"] < libraries
    assert two.pretrain.most < two.stages["pretrain"] < two.pretrain.most + libraries
    # Each of 400M possible pairs is drawn a quarter of a time: a fifth of them occurs. Both orders
    # take 8 bytes of a pair.
    pairs = 4 * 10**8 * (1 - np.exp(-0.25)) * 16
    more = two.stages["transitions"] - four.stages["transitions"]
    assert more == pytest.approx(pairs / 4, rel=1e-3)
    assert pairs / 2 < two.stages["transitions"] < pairs / 2 + libraries
    assert four.stages["prepare"] == two.stages["prepare"]  # one process prepares
    # No more than items x items pairs: twenty times the window brings none of them. So rows of four
    # bytes take most, and the more popular half of the items has three quarters of them.
    few = replace(sizes, items=100)
    longer = planned(2, few, "transitions.window=20").stages["transitions"]
    assert longer == planned(2, few).stages["transitions"]
    uneven = replace(few, of_items=np.repeat([1_500_000, 500_000], 50))
    uneven_rows = planned(2, uneven).stages["transitions"] - longer
    assert uneven_rows == pytest.approx(4 * 25 * 10**6, rel=1e-3)
    # 5M examples: item, user and order, ten items of history. The rows of their million users are
    # fetched in pieces and joined; what the histories come to takes too much to be kept.
    beside = max(rank.total for rank in two.ranks) + two.validation
    examples = 5 * 10**6 * (12 + 40) + 2 * 10**6 * 96 * 4
    assert examples * 0.95 < two.stages["train"] - beside < examples + libraries
    on_gpus = plan_experiment(experiment(*sets[1:]), sizes, gpus(2))
    assert set(on_gpus.stages) == {"prepare", "transitions", "select"}


def test_the_command_prints_a_plan_and_the_same_as_json(cli, tiny, tmp_path):
    arguments = ("plan", tiny, "--world-size", 4, "--hbm", "16GiB", "--workdir", tmp_path)
    done = cli(*arguments)
    assert done.code == 0, done.err
    assert "60 users, 40 items ([data.generated])" in done.out
    assert "each with 16.0 GiB of GPU memory and 128.0 GiB of host memory" in done.out
    found = json.loads(cli(*arguments, "--json").out)
    assert found["fits"]
    assert found["machines"]["device_bytes"] == 16 * GIB
    assert {t["name"]: (t["rows"], t["width"], t["frozen"]) for t in found["tables"]} == {
        "user": (60, 16, True),
        "item": (40, 16, True),
    }
    assert len(found["ranks"]) == 4
    assert found["pretrain"]["bytes_per_process"] > 100 * 16 * 4


def test_the_command_takes_sizes_in_thousands_millions_and_billions(cli, tiny, tmp_path):
    sizes = ("--users", "2.3M", "--items", "50K", "--interactions", "0.1B")
    done = cli("plan", tiny, "--world-size", 2, "--workdir", tmp_path, *sizes, "--json")
    assert done.code == 0, done.err
    rows = {table["name"]: table["rows"] for table in json.loads(done.out)["tables"]}
    assert rows == {"user": 2_300_000, "item": 50_000}


def test_the_command_takes_the_prepared_datasets_sizes_and_attributes(finished, tiny, cli):
    arguments = ("plan", tiny, "--world-size", 2, "--workdir", finished.workdir, "--json")
    found = json.loads(cli(*arguments).out)
    assert found["sizes_from"].startswith(str(finished.workdir))
    described = json.loads(
        next((finished.workdir / "prepare").glob("*/attributes.json")).read_text()
    )
    assert {t["name"] for t in found["tables"]} == {"user", "item"} | {
        f"{side}_{attribute['name']}" for side in described for attribute in described[side]
    }


def test_a_dataset_that_was_pruned_counts_as_none(finished, tiny, tmp_path):
    shutil.copytree(finished.workdir / "prepare", tmp_path / "prepare")
    (folder,) = (tmp_path / "prepare").glob("*/")
    prune(folder, "for a test")
    sizes = find_sizes(load_experiment(tiny).data, tmp_path, None, None, "the test")
    assert sizes.source == "[data.generated]"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--world-size", 4, "--hbm", "80"), r"--hbm 80: write a size such as 80GiB"),
        (("--world-size", 4, "--users", "many"), r"--users many: write a whole number above 0"),
        (("--world-size", 4, "--items", "0"), r"--items 0: write a whole number above 0"),
        (
            ("--world-size", 4, "--interactions", "1.5"),
            r"--interactions 1.5: write a whole number above 0",
        ),
        (("--world-size", 12), r"--world-size 12 is not a multiple of --local-world-size 8"),
        (("--world-size", 4, "--hbm", "8GiB", "--device", "cpu"), r"--hbm is a GPU's memory"),
        (
            ("--world-size", 2, "--device", "cpu", "--set", "sharding.communication=bf16"),
            r"sharding.communication = 'bf16' needs CUDA",
        ),
        (
            ("--world-size", 4, "--users", 10**9, "--items", 10**8, "--hbm", "8GiB"),
            r"train: tables user \(1,000,000,000 x 16 fp32 = 59.6 GiB\)",
        ),
    ],
)
def test_the_command_refuses_in_a_sentence(options, said, cli, tiny, tmp_path):
    done = cli("plan", tiny, "--workdir", tmp_path, "--ddr", "1GiB", *options)
    assert done.code == 2
    assert re.search(said, done.err), done.err
    assert "Traceback" not in done.err


def test_a_dataset_that_is_not_prepared_is_told_how(cli, tmp_path):
    config = tmp_path / "ml.toml"
    config.write_text('[data]\nsource = "movielens-1m"\n')
    done = cli("plan", config, "--world-size", 4, "--workdir", tmp_path / "work")
    assert done.code == 2
    assert "run cadc-rec prepare" in done.err
    assert "--users and --items" in done.err


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("sharding.frozen_kernel=fused_uvm", "sharding.frozen_kernel = 'fused_uvm' needs CUDA"),
        ("sharding.communication=fp16", "sharding.communication = 'fp16' needs CUDA"),
        ("sharding.trainable_kernel=fused", "is for model-parallel tables"),
        ("sharding.device_memory=80", "sharding.device_memory = "),
    ],
)
def test_settings_no_cpu_can_carry_out_are_refused_when_read(setting, said, tiny):
    with pytest.raises(CadcError, match=re.escape(said)):
        load_experiment(tiny, overrides=[setting])


def test_the_rows_of_d_sel_are_counted_on_a_gpu_and_streamed_where_they_do_not_fit(experiment):
    """A GPU of a GiB, two of them: 100 million rows each, 12 bytes a row."""
    sizes = Sizes(1000, 1000, "the test", interactions=2 * 10**9)
    memory_alone = experiment("loader.kind=memory")
    plan = plan_experiment(memory_alone, sizes, gpus(2, gib=1))
    assert {rank.rows for rank in plan.ranks} == {12 * 10**8}
    (problem,) = [each for each in plan.problems if "D_sel" in each]
    assert re.search(r"1\.1 GiB of D_sel's rows.*set loader\.kind = 'stream'", problem)
    streamed = plan_experiment(experiment("loader.kind=stream"), sizes, gpus(2, gib=1))
    assert {rank.rows for rank in streamed.ranks} == {12 * 2**20}
    assert not [each for each in streamed.problems if "D_sel" in each]
    cpu = replace(gpus(2), device="cpu")
    assert {rank.rows for rank in plan_experiment(memory_alone, sizes, cpu).ranks} == {0}


def held(source):
    """Bytes of rows and tables that a source of steps keeps."""
    layout, draws = source._layout(16), source.draws
    tensors = [*source.resident, source.order[: len(source.resident[0])], draws.ends]
    for part in (draws.known, getattr(layout, "known", None), getattr(layout, "alive", None)):
        tensors += [] if part is None else vars(part).values()
    return sum(each.nbytes for each in tensors if isinstance(each, torch.Tensor))


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("train.exclude_known=true",),
        ("negatives.distribution=popularity",),
        ("train.exclude_known=true", "train.loss=softmax"),
        ("train.exclude_known=true", "train.loss=sampled-softmax"),
        ("train.loss=sampled-softmax", "negatives.distribution=alive"),
    ],
)
def test_what_makes_steps_on_a_gpu_is_counted_as_it_is_held(sets, experiment):
    users, items, each = 50, 40, 6
    draw = np.random.default_rng(0)
    known = UserItems(
        np.arange(users + 1) * each,
        np.concatenate([draw.choice(items, each, False) for _ in range(users)]).astype(np.int32),
    )
    rows = Examples(np.repeat(np.arange(users, dtype=np.int32), each), known.items)
    e, times = experiment("select.kind=everything", *sets), np.zeros(users * each)
    counts = np.bincount(known.items, minlength=items)
    data = SimpleNamespace(n_items=items, train_item=known.items, item_counts=counts)
    loader = make_loader(
        e.train.sized(len(rows)),
        rows,
        [len(rows)],
        0,
        items,
        0,
        known,
        draws=negatives_of(e.negatives, e.train, data, known),
        lifetimes=Lifetimes.of(known.items, times, items, np.arange(len(rows)))
        if e.negatives.distribution == "alive"
        else None,
    )
    sizes = Sizes(users, items, "the test", interactions=len(rows))
    assert row_bytes(e, sizes, gpus(1)) == held(DeviceBatches(loader, torch.device("cpu")))


def test_what_users_know_counts_nowhere_if_the_host_makes_the_steps(experiment):
    """A full softmax: 10,000 rows a step by a million items are too many to mark on a GPU."""
    sizes = Sizes(1000, 10**6, "the test", interactions=10**6)
    sets = ("train.exclude_known=true", "train.loss=softmax", "train.batch_size=10000")
    assert row_bytes(experiment(*sets), sizes, gpus(1)) == 0


def test_padded_codes_are_counted_as_a_gpu_holds_them(finished, tiny):
    """One to three values a row, one value a row, and a row far longer than the others."""
    draw = np.random.default_rng(0)
    lengths = {
        "some": draw.integers(1, 4, 60),
        "one": np.ones(60, np.int64),
        "long": np.eye(60, dtype=np.int64)[0] * 500,
    }
    for counts in lengths.values():
        indptr = np.concatenate([[0], np.cumsum(counts)])
        there = Attribute("a", "multi", 9, indptr, np.ones(indptr[-1], np.int32))
        planned = PlannedAttribute("a", "multi", 9, counts.mean(), int(counts.max()))
        made = padded([there])
        sizes = Sizes(60, 40, "the test", (planned,))
        if made is None:
            assert attribute_bytes(sizes, "cuda") == 60 * 12 + 500 * 8
            continue
        weights = 0 if made.weights is None else made.weights.nbytes
        assert attribute_bytes(sizes, "cuda") == made.codes.nbytes + weights
    found = find_sizes(load_experiment(tiny).data, finished.workdir, None, None, "the test")
    dataset = Dataset.open(SimpleNamespace(path=Path(found.source), info=info_of(found.source)))
    sides = [*found.user_attributes, *found.item_attributes]
    real = [*dataset.user_attributes, *dataset.item_attributes]
    assert [(a.name, a.each, a.longest) for a in sides] == [
        (a.name, len(a.values) / (len(a.indptr) - 1), np.diff(a.indptr).max()) for a in real
    ]


def test_tables_of_ids_that_come_and_go_are_planned_full(experiment, tmp_path):
    """100 users' rows of 28 bytes and as many that wait, of 24; of items four lines of counters."""
    data = experiment("data.ids.user_rows=100", "data.ids.item_rows=50").data
    found = find_sizes(data, tmp_path, None, None, "the test")
    assert (found.users, found.items, found.source) == (100, 50, "[data.ids]")
    assert found.id_map == 150 * (28 + 24)
    sketched = experiment(
        "data.ids.item_rows=50", "data.ids.counting=sketch", "data.ids.sketch_width=1000"
    ).data
    assert find_sizes(sketched, tmp_path, 7, None, "the test").users == 7
    assert map_bytes(sketched.ids) == 50 * 28 + 4 * 4 * 1000


def info_of(folder):
    return json.loads((Path(folder) / "manifest.json").read_text())["info"]


@pytest.mark.parametrize("kind", ["table_wise", "column_wise", "data_parallel"])
def test_what_training_keeps_of_trained_tables_is_counted_as_it_is_held(kind):
    """The best epoch's weights, the average, and of a fused table each row's age; else Adam's."""
    e = toy.experiment("trainable", kind)
    data = toy.dataset()
    attributes = [
        tuple(
            PlannedAttribute(a.name, a.kind, a.size, len(a.values) / n, 3)
            for a in getattr(data, f"{side}_attributes")
        )
        for side, n in (("user", toy.USERS), ("item", toy.ITEMS))
    ]
    sizes = Sizes(toy.USERS, toy.ITEMS, "the test", *attributes)
    plan = plan_experiment(e, sizes, Machines(1, 1, "cpu", 0, GIB))
    with processes(ComputeConfig(device="cpu", threads=1)) as alone:
        model = build_model(e, data, Pretrained(), alone)
        optimizer = dense_optimizer(model.wrapped, model.module, e.train)
        state = TrainingState(model.wrapped, optimizer, model.trains, alone, horizon=60.0)
        state.keep_as_best()
        places = [n for n, local in enumerate(state.locals) if ".embedding_bags." in local.name]
        kept = [of[n] for n in places for of in (state.best, state.average.average)]
        kept += state.average.seen().values()
        swept = [state.live[n] for n in places if n not in state.average.seen()]
        # A gradient and two moments, of what no lookup moves.
        held = sum(each.nbytes for each in kept) + 3 * sum(each.nbytes for each in swept)
    (rank,) = plan.ranks
    assert rank.state == held
