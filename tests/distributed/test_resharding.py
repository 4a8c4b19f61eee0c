"""A checkpoint of two ranks loaded on one, three and four, under each sharding that CPU offers."""

import json
from pathlib import Path

import numpy as np
import pytest

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed.processes import processes
from tests.distributed import toy
from tests.distributed.resharding import KINDS, run
from tests.zygote import run_ranks

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

CASES = [f"{before}>{after}" for before in KINDS for after in KINDS]
SHARDED = [kind for kind in KINDS if kind != "data_parallel"]


def on_ranks(ranks, folder, what, cases):
    """The results of that many processes."""
    script, out = Path(__file__).with_name("resharding.py"), folder / f"{what}-{ranks}.json"
    run_ranks(script, [out, folder, what, *cases], ranks, seconds=300)
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def saved(folder):
    return on_ranks(2, folder, "save", list(KINDS))


@pytest.fixture(scope="module")
def loaded(folder, saved):
    with processes(ComputeConfig(device="cpu", threads=1)) as joined:
        one = run(folder, "load", CASES, joined)
    one = json.loads(json.dumps(one))
    return {1: one, **{ranks: on_ranks(ranks, folder, "load", CASES) for ranks in (3, 4)}}


def expected_momentum(saved_momenta, name, columns):
    """The mean of the saved groups' momenta, each weighted by the columns it shares."""
    total, weights = 0.0, 0.0
    for table, row, (start, stop), values in saved_momenta:
        assert row == 0
        shared = min(stop, columns[1]) - max(start, columns[0])
        if table == name and shared > 0:
            total = total + shared * np.array(values)
            weights += shared
    return total / weights


@pytest.mark.parametrize("ranks", [1, 3, 4])
@pytest.mark.parametrize("case", CASES)
def test_every_table_its_average_and_its_best_are_equal_to_the_bit(case, ranks, saved, loaded):
    before, now = saved[case.partition(">")[0]], loaded[ranks][case]
    assert set(before["weights"]["live"]) == set(now["weights"]["live"])
    assert len(before["weights"]["live"]) == 12  # four tables, two towers of two layers
    assert now["weights"] == before["weights"]
    assert len({json.dumps(of, sort_keys=True) for of in now["weights"].values()}) == 3


@pytest.mark.parametrize("ranks", [1, 3, 4])
@pytest.mark.parametrize("case", CASES)
def test_the_next_step_has_the_same_loss(case, ranks, saved, loaded):
    before, now = saved[case.partition(">")[0]], loaded[ranks][case]
    assert now["losses"][0] == pytest.approx(before["losses"][0], rel=1e-5)


@pytest.mark.parametrize("ranks", [1, 3, 4])
@pytest.mark.parametrize("case", CASES)
def test_momentum_is_joined_by_columns_and_divided_as_it_is(case, ranks, saved, loaded):
    kinds = case.split(">")
    before, now = saved[kinds[0]]["momenta"], loaded[ranks][case]["momenta"]
    if kinds[1] == "data_parallel":
        assert now == []
        return
    assert {name for name, *_ in now} == {
        "user.ids.table.embedding_bags.user.weight",
        "item.ids.table.embedding_bags.item.weight",
    }
    for name, row, columns, values in now:
        assert row == 0
        if kinds[0] == "data_parallel":  # Adam moved it before: begun anew
            assert not any(values)
        else:
            expected = expected_momentum(before, name, columns)
            assert expected.any()
            np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize("ranks", [1, 3, 4])
@pytest.mark.parametrize("case", [f"{a}>{b}" for a in SHARDED for b in ("table_wise",)])
def test_joined_momentum_takes_the_steps_of_one_that_was_never_divided(case, ranks, saved, loaded):
    """Two steps on, the loss is that of the ranks that saved, whose table was not divided."""
    if case.startswith("table_wise"):
        before = saved["table_wise"]["losses"]
        assert loaded[ranks][case]["losses"] == pytest.approx(before, rel=1e-4)
    else:
        alone = loaded[1][case]["losses"]
        assert loaded[ranks][case]["losses"] == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("ranks", [1, 3, 4])
@pytest.mark.parametrize("case", CASES)
def test_adam_goes_on_where_it_moved_a_tensor_before(case, ranks, saved, loaded):
    before, now = saved[case.partition(">")[0]]["dense"], loaded[ranks][case]["dense"]
    shared = before.keys() & now.keys()
    assert len(shared) >= 10
    for name in shared:
        assert now[name] == before[name]
    if case == "data_parallel>data_parallel":
        assert len(shared) == 12
        losses = saved["data_parallel"]["losses"]
        assert loaded[ranks][case]["losses"] == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_what_was_found_so_far_is_known_to_all(ranks, saved, loaded):
    now = loaded[ranks]["table_wise>column_wise"]
    assert now["progress"] == saved["table_wise"]["progress"]
    assert [now["progress"][key] for key in ("best", "latest", "best_epoch")] == [0.5, 0.4, 1]
    assert now["resumed"] == [{"epoch": 3, "step": 0, "ranks": 2}]


def test_column_groups_were_really_divided_and_joined(saved, loaded):
    """Eight columns: two groups on two ranks and on three, one on one."""

    def groups(result):
        return sorted({tuple(columns) for _, _, columns, _ in result["momenta"]})

    assert groups(saved["column_wise"]) == [(0, 4), (4, 8)]
    assert groups(loaded[1]["column_wise>column_wise"]) == [(0, 8)]
    assert groups(loaded[3]["table_wise>column_wise"]) == [(0, 4), (4, 8)]
    assert toy.DIM == 8
