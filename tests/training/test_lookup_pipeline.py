"""Ids that are sent to trained tables ahead of time: the training is the same, to the bit."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cadc_rec.distributed.lookup_pipeline import _Ahead
from cadc_rec.training.build import build_model
from tests.distributed import toy
from tests.zygote import run_ranks

SAME = ("loss", "learned", "vectors", "measured", "rows_used")
CASES = [
    "trainable:table_wise",
    "trainable:column_wise",
    "trainable:table_wise:120,0",
    "whole-trainable:table_wise",
    "hybrid:table_wise",
    "init:column_wise",
]


def same(each: dict, ahead: dict) -> None:
    for name in SAME:
        assert ahead[name] == each[name], name
    assert each["loss"][0] != each["loss"][1]  # it learns


def test_one_process_learns_the_same_and_validates_in_between(alone):
    each, ahead = (toy.train("trainable", "table_wise", alone, ahead=on) for on in (False, True))
    same(each, ahead)
    assert len(ahead["measured"]) == 2


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_learn_the_same(tmp_path):
    out = tmp_path / "results.json"
    worker, cases = Path(toy.__file__).with_name("worker.py"), [f"twice/{case}" for case in CASES]
    run_ranks(worker, [out, *cases], ranks=2, seconds=240)
    found = json.loads(out.read_text())
    assert list(found) == cases
    for each, ahead in found.values():
        same(each, ahead)


@pytest.mark.parametrize(
    ("ids", "kind", "world", "piped"),
    [
        ("trainable", "table_wise", 2, True),
        ("hybrid", "column_wise", 2, True),
        ("trainable", "data_parallel", 2, False),
        ("init_frozen", "table_wise", 2, False),
        ("trainable", "table_wise", 1, False),
    ],
)
def test_it_is_for_trained_rows_that_others_hold(ids, kind, world, piped, alone):
    model = build_model(toy.experiment(ids, kind), toy.dataset(), toy.pretrained(ids), alone)
    several = replace(model, processes=replace(alone, world_size=world))
    assert (several.ahead() is not None) == piped


def test_whatever_a_gpus_stream_reads_is_kept_until_it_has():
    told = []
    keyed, batch = (SimpleNamespace(record_stream=told.append) for _ in range(2))
    tensors = SimpleNamespace(each=lambda change: change(batch))
    ahead = _Ahead(tensors, {"user": keyed})
    ahead.record_stream("the stream")
    assert told == ["the stream"] * 2
    assert ahead.to(None) is ahead
