"""The same model under every sharding that CPU offers, on one process and on two."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed.processes import processes
from cadc_rec.errors import CadcError
from tests.distributed import toy
from tests.zygote import run_ranks

pytestmark = pytest.mark.distributed

# Two processes train the whole list in most of a minute.
WORLDS = [pytest.param(world, marks=pytest.mark.slow) for world in ("one", "two")]
KINDS = ("data_parallel", "table_wise", "column_wise", "table_column_wise")
CASES = [f"{ids}:{kind}" for ids in ("init_frozen", "trainable") for kind in (*KINDS, "auto")]
# The other integrations, where a column-wise table would say nothing new.
INTEGRATIONS = ("init", "hybrid", "linear", "mlp", "residual")
INTEGRATED = [f"{ids}:{kind}" for ids in INTEGRATIONS for kind in ("data_parallel", "table_wise")]
HISTORY = [f"{ids}:{kind}" for ids in ("history", "prior") for kind in KINDS]
WHOLE = [
    f"{ids}:{kind}"
    for ids in ("init_frozen", "trainable", "residual", "hybrid")
    for kind in ("data_parallel", "table_wise", "column_wise")
]
MANY = [f"{how}-{case}" for how in ("whole", "sorted") for case in WHOLE]
HALF = [
    f"{toy.HALF}{case}"
    for case in ("init_frozen:table_wise", "whole-trainable:data_parallel", "prior:table_wise")
]
ALL = [*HALF, *CASES, *INTEGRATED, *HISTORY, *MANY]
UNEVEN = [
    "init_frozen:table_wise:113,7",
    "init_frozen:data_parallel:120,0",
    "hybrid:table_wise:120,0",
    "residual:data_parallel:120,0",
    "history:table_wise:120,0",
    "prior:table_wise:120,0",
    "whole-init_frozen:column_wise:120,0",
]


@pytest.fixture(scope="module")
def one():
    with processes(ComputeConfig(device="cpu", threads=1)) as joined:
        results = {case: toy.train(*case.split(":"), joined) for case in ALL}
        return {**results, **toy.pretraining(joined)}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    out = tmp_path_factory.mktemp("two") / "results.json"
    worker = Path(__file__).with_name("worker.py")
    run_ranks(worker, [out, *ALL, *UNEVEN, "pretraining"], ranks=2, seconds=240)
    return json.loads(out.read_text())


def bits(tensor):
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("case", HALF)
@pytest.mark.parametrize("world", WORLDS)
def test_bfloat16_products_learn_what_float32_ones_do_on_frozen_tables_that_stay_bit_identical(
    world, case, request
):
    results = request.getfixturevalue(world)
    half, full = results[case], results[case.removeprefix(toy.HALF)]
    assert half["intact"]
    # Eight bits of mantissa: near, and not the same.
    assert half["loss"] == pytest.approx(full["loss"], rel=2e-3)
    assert half["loss"] != full["loss"]
    assert half["vectors"] == pytest.approx(full["vectors"], rel=0.1, abs=0.5)


@pytest.mark.parametrize("kind", [*KINDS, "auto"])
@pytest.mark.parametrize("world", WORLDS)
def test_a_trained_models_file_is_written_by_rows_as_safetensors_writes_it_whole(
    kind, world, request
):
    assert request.getfixturevalue(world)[f"trainable:{kind}"]["streamed"]


@pytest.mark.parametrize("kind", [*KINDS, "auto"])
@pytest.mark.parametrize("world", WORLDS)
def test_frozen_tables_are_bit_identical_after_training(kind, world, request):
    result = request.getfixturevalue(world)[f"init_frozen:{kind}"]
    assert result["intact"]
    expected = toy.tables()
    assert sorted(result["tables"].values()) == sorted([bits(expected.user), bits(expected.item)])


@pytest.mark.parametrize("case", [c for c in INTEGRATED if not c.startswith("init:")])
@pytest.mark.parametrize("world", WORLDS)
def test_what_an_integration_freezes_is_bit_identical_and_all_the_rest_is_trained(
    case, world, request
):
    result = request.getfixturevalue(world)[case]
    assert result["intact"]
    columns = 4 if case.startswith("hybrid") else toy.DIM  # 8 columns: two groups of four
    expected = toy.tables()
    assert sorted(result["tables"].values()) == sorted(
        [bits(table[:, :columns].contiguous()) for table in (expected.user, expected.item)]
    )
    more = {
        "hybrid": {"ids.free.embedding_bags.{}_free.weight"},
        "linear": {"ids.layer.weight", "ids.layer.bias"},
        "mlp": {"ids.layer.weight", "ids.layer.bias", "ids.last.weight", "ids.last.bias"},
        "residual": set(),
    }[case.split(":")[0]]
    learned = {f"{side}.{name.format(side)}" for side in ("user", "item") for name in more}
    assert {name for name in result["learned"] if ".ids." in name} == learned
    assert set(result["learned"]) == set(result["learned_before"])
    for name, after in result["learned"].items():
        assert after != result["learned_before"][name], name


@pytest.mark.parametrize("case", HISTORY)
@pytest.mark.parametrize("world", WORLDS)
def test_histories_and_transitions_are_looked_up_alike_under_every_sharding(case, world, request):
    """One item table serves ids and histories; all four tables stay as they were."""
    results = request.getfixturevalue(world)
    result, reference = results[case], results[f"{case.split(':')[0]}:data_parallel"]
    given = toy.pretrained("history")
    tables = (given.ids.user, given.ids.item, given.transitions.source, given.transitions.target)
    assert result["intact"]
    assert sorted(result["tables"].values()) == sorted(bits(table) for table in tables)
    assert result["loss"] == pytest.approx(reference["loss"], rel=1e-5)
    assert result["vectors"] == pytest.approx(reference["vectors"], rel=1e-3, abs=1e-3)
    assert result["kept"] == [[True, 1]] * len(result["kept"])  # the second time none are read


@pytest.mark.parametrize("case", WHOLE)
@pytest.mark.parametrize("world", WORLDS)
def test_dividing_the_items_and_keeping_rows_changes_no_loss(case, world, request):
    """Ranks that share out the item tower learn what ranks learn that each compute all of it."""
    results = request.getfixturevalue(world)
    divided, each = results[f"whole-{case}"], results[f"sorted-{case}"]
    assert divided["intact"]
    assert divided["loss"] == pytest.approx(each["loss"], rel=1e-5)
    assert divided["vectors"] == pytest.approx(each["vectors"], rel=1e-3, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["als", "als of interactions", "als partitioned"])
def test_als_is_the_same_on_two_processes_as_on_one(kind, one, two):
    reference = one["als of interactions" if kind == "als partitioned" else kind]
    for alone, together in zip(reference, two[kind], strict=True):
        assert np.abs(alone).max() > 0.05
        assert together == pytest.approx(alone, rel=1e-3, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["transitions", "transitions partitioned", "transition lists"])
def test_transitions_counted_by_two_processes_are_those_of_one(kind, one, two):
    reference = one["transitions" if kind == "transitions partitioned" else kind]
    assert set(two[kind]) == set(reference)
    for name, values in reference.items():
        if name == "info":
            assert two[kind]["info"]["pairs"] == values["pairs"] > 100
        elif "items" in name or "indptr" in name:
            assert two[kind][name] == values
        else:
            assert two[kind][name] == pytest.approx(values, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("kind", ["data_parallel", "table_wise"])
@pytest.mark.parametrize("world", WORLDS)
def test_inits_tables_start_from_the_pretrained_vectors_and_do_change(kind, world, request):
    result = request.getfixturevalue(world)[f"init:{kind}"]
    expected = toy.tables()
    pretrained = [bits(expected.user), bits(expected.item)]
    assert sorted(result["tables_before"].values()) == sorted(pretrained)
    for name, after in result["tables"].items():
        assert after != result["tables_before"][name], name


@pytest.mark.parametrize("ids", ["linear", "mlp", "residual"])
@pytest.mark.parametrize("world", WORLDS)
def test_an_integration_on_frozen_tables_is_the_same_under_every_sharding(ids, world, request):
    results = request.getfixturevalue(world)
    reference, other = results[f"{ids}:data_parallel"], results[f"{ids}:table_wise"]
    assert other["loss"] == pytest.approx(reference["loss"], rel=1e-5)
    assert other["vectors"] == pytest.approx(reference["vectors"], rel=1e-3, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "auto"])
def test_trainable_tables_do_change(kind, one, two):
    for world in (one, two):
        result = world[f"trainable:{kind}"]
        assert set(result["tables"]) == set(result["tables_before"])
        for name, after in result["tables"].items():
            assert after != result["tables_before"][name], name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["column_wise", "table_column_wise"])
def test_columns_are_dealt_to_both_processes(kind, two):
    """Eight columns on two processes: two shards, the second starting at column 4."""
    for side in ("user", "item"):
        assert two[f"init_frozen:{kind}"]["columns"][side] == [0, 4]


@pytest.mark.slow
def test_frozen_tables_have_no_optimizer(one):
    """Adam holds the MLPs and the feature tables, and not one element of the id tables."""
    mlps = sum((8 + 4) * 8 + 8 + 8 * 4 + 4 for _ in ("user", "item"))
    features = 4 * 4 + 6 * 4
    for kind in KINDS:
        assert one[f"init_frozen:{kind}"]["optimized"] == mlps + features
    ids = (toy.USERS + toy.ITEMS) * toy.DIM
    assert one["trainable:data_parallel"]["optimized"] == mlps + features + ids
    assert one["trainable:table_wise"]["optimized"] == mlps + features
    assert one["init:data_parallel"]["optimized"] == mlps + features + ids
    # hybrid learns half of eight columns; a linear layer has 8 * 8 + 8 parameters a side
    assert one["hybrid:data_parallel"]["optimized"] == mlps + features + ids // 2
    assert one["hybrid:table_wise"]["optimized"] == mlps + features
    for kind in ("data_parallel", "table_wise"):
        assert one[f"linear:{kind}"]["optimized"] == mlps + features + 2 * 72
        assert one[f"mlp:{kind}"]["optimized"] == mlps + features + 4 * 72
        assert one[f"residual:{kind}"]["optimized"] == mlps + features


@pytest.mark.slow
def test_the_asked_for_sharding_is_the_one_used(two):
    for kind in KINDS:
        plan = two[f"init_frozen:{kind}"]["plan"]
        assert plan["user.ids.table.user"] == plan["item.ids.table.item"] == kind
        assert plan["item.features.tables.item_genres"] == "data_parallel"


@pytest.mark.parametrize("world", WORLDS)
def test_frozen_training_is_the_same_under_every_sharding(world, request):
    results = request.getfixturevalue(world)
    reference = results["init_frozen:data_parallel"]
    for kind in (*KINDS[1:], "auto"):
        result = results[f"init_frozen:{kind}"]
        assert result["loss"] == pytest.approx(reference["loss"], rel=1e-5)
        assert result["vectors"] == pytest.approx(reference["vectors"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*(f"trainable:{kind}" for kind in KINDS), *INTEGRATED])
def test_training_starts_alike_on_one_process_and_two(case, one, two):
    """Batches differ (each rank shuffles its own rows), the first epoch's loss hardly does."""
    assert two[case]["loss"][0] == pytest.approx(one[case]["loss"][0], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("case", UNEVEN)
def test_uneven_ranks_and_an_empty_one_do_not_hang(case, two):
    assert len(two[case]["loss"]) == 2
    assert two[case]["intact"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["factorize", "softmax", "partitioned", "softmax partitioned"])
def test_factorization_on_two_processes_is_that_of_one(kind, one, two):
    """Each rank solves its own rows from the same random sequences; only rounding may differ."""
    same = {"partitioned": "factorize", "softmax partitioned": "softmax"}
    alone = one[same.get(kind, kind)]
    for table_of_one, table_of_two in zip(alone, two[kind], strict=True):
        assert table_of_two == pytest.approx(table_of_one, rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_shares_of_a_table_are_written_and_scaled_as_the_whole(two):
    """Against NumPy on the whole table."""
    whole = np.random.default_rng(5).normal(2.0, 3.0, (toy.USERS, toy.DIM)).astype(np.float32)
    written = {scale: np.array(rows) for scale, rows in two["written"].items()}
    np.testing.assert_array_equal(written["none"], whole)
    np.testing.assert_allclose(written["unit"], whole / whole.std(ddof=1), rtol=1e-5)
    white = written["whiten"]
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(toy.DIM), atol=1e-4)
    # Rotated and scaled only: what it spans is what the table spans.
    back, *_ = np.linalg.lstsq(white, whole, rcond=None)
    np.testing.assert_allclose(white @ back, whole, atol=1e-3)


@pytest.mark.slow
def test_pretraining_with_an_mlp_on_two_processes_learns_as_on_one(one, two):
    """Batches differ, so the losses only nearly agree; on both the loss falls."""
    for world in (one, two):
        losses = world["neural"]["loss"]
        assert len(losses) == 3
        assert losses[-1] < losses[0]
        assert {k: len(v) for k, v in world["neural"]["tables"].items()} == {
            "user": toy.USERS * toy.DIM,
            "item": toy.ITEMS * toy.DIM,
        }
    assert two["neural"]["loss"] == pytest.approx(one["neural"]["loss"], rel=0.05)


def test_a_sharding_that_needs_cuda_is_refused_on_cpu():
    with (
        processes(ComputeConfig(device="cpu", threads=1)) as joined,
        pytest.raises(CadcError, match=r"row_wise.*needs CUDA.*data_parallel"),
    ):
        toy.train("init_frozen", "row_wise", joined)


def test_ranks_exchange_rows_of_a_matrix_for_its_columns(tmp_path):
    out = tmp_path / "columns.json"
    run_ranks(Path(__file__).with_name("worker.py"), [out, "columns"], ranks=2, seconds=240)
    with processes(ComputeConfig(device="cpu", threads=1)) as joined:
        alone = toy.columns(joined)
    assert json.loads(out.read_text())["columns"] == alone
    assert np.count_nonzero(alone) > 100  # of which 50 are sent at once
