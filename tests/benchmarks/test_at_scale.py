"""The model of many GPUs, against its sums done by hand."""

from types import SimpleNamespace

import pytest

from benchmarks.at_scale import Assumed, Work, seconds
from cadc_rec.config.experiment import Experiment
from cadc_rec.config.types import parse_number

ASSUMED = Assumed(
    memory_gb=1000.0,
    memory_share=0.5,
    tflops=10.0,
    tflops_share=0.1,
    network_gb=10.0,
    network_share=0.5,
    step_ms=2.0,
    cores=10,
    prepared_rows=1e6,
    selected_rows=2e6,
)
WORK = Work(1_000_000, 500_000, 1_000_000_000, 10.0, 3, 5, 1000)
EXPERIMENT = Experiment.model_validate(
    {
        "pretrain": {"model": "mf", "factors": 95, "negatives": 1},
        "train": {"negatives": 4},
        "model": {"id_embedding": "init_frozen", "id_dim": 96, "tower": [128, 64]},
    }
)


def a_plan(milliseconds, mlp_bytes=1e6, tables="replicated"):
    return SimpleNamespace(
        cost=lambda: (milliseconds, 0.0),
        ranks=[SimpleNamespace(mlps=mlp_bytes)],
        pretrain=SimpleNamespace(tables=tables),
    )


def test_every_stage_is_the_sum_done_by_hand():
    found = seconds(WORK, EXPERIMENT, {"cadc": a_plan(1.0), "gold": a_plan(3.0)}, 4, ASSUMED)
    assert found.prepare == pytest.approx(1e9 / (1e6 * 40))
    assert found.select == pytest.approx(1e9 / (2e6 * 40))
    # 2 sides x 2 passes x 2e9 entries x 384 bytes, over 4 GPUs of 500 GB/s; then 1.5e6 rows, three
    # quarters of them from elsewhere, over 5 GB/s.
    a_pass = 2 * 2 * 2e9 * 384 / 4 / 500e9
    sent = 1.5e6 * 384 * 0.75 / 5e9
    assert found.pretrain == pytest.approx(5 * (a_pass + sent))
    # Layers 96-128-64 on 1,000 users and 5,000 items: forward, weights' gradient, input's gradient
    # of the second layer; 5,000 dot products of 64 three times. 1e12 operations a second.
    frozen = 2 * 6000 * (2 * 96 * 128 + 3 * 128 * 64) + 6 * 5000 * 64
    step = frozen / 1e12 + 1e-3 + 2 * 1e6 / 5e9 + 2e-3
    assert found.train == pytest.approx(3 * 1e8 / 4000 * step)
    learned = frozen + 2 * 6000 * 96 * 128
    assert found.gold == pytest.approx(3 * 1e9 / 4000 * (learned / 1e12 + 3e-3 + 2e6 / 5e9 + 2e-3))
    assert found.ratio == pytest.approx((found.pretrain + found.select + found.train) / found.gold)


def test_tables_dealt_out_send_each_row_once_to_every_rank_that_asks_for_it():
    plans = {"cadc": a_plan(1.0, tables="partitioned"), "gold": a_plan(3.0)}
    found = seconds(WORK, EXPERIMENT, plans, 4, ASSUMED)
    # Both sides fit into one block: a rank fetches at most all 1.5e6 rows of 384 bytes.
    a_pass = 2 * 2 * 2e9 * 384 / 4 / 500e9
    assert found.pretrain == pytest.approx(5 * (a_pass + 1.5e6 * 384 / 5e9))


def test_sizes_may_be_told_in_millions_and_billions():
    assert [parse_number(text) for text in ("3M", "2.3M", "2.5B", "7K", "0.5")] == [
        *(3e6, 2.3e6, 2.5e9, 7e3, 0.5)
    ]
    for wrong in ("", "M", "many", "5m", "nan", "1e999B", "1e999999B"):
        with pytest.raises(ValueError, match="is no number such as 50M"):
            parse_number(wrong)
