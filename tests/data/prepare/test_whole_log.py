"""A dataset in which nothing is held out: its rows, its context, and what is refused."""

import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.config.data import DataConfig
from cadc_rec.data.context import RequestContext
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.prepare.build_dataset import build_dataset
from cadc_rec.data.prepare.whole_log import build_whole_log, require_whole
from cadc_rec.data.sources.raw_input import find_raw
from cadc_rec.errors import CadcError
from cadc_rec.store.artifact import run_stage

USERS, EACH = 6, 5


@pytest.fixture
def prepared(tmp_path):
    """Each user takes five items in turn, the last two, which are held out, on other devices."""
    rows = [
        (user, (user + 2 * place) % 11, 100 * place + user, device(user, place))
        for user in range(USERS)
        for place in range(EACH)
    ]
    names = ("user_id", "item_id", "at", "device")
    table = pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))
    pq.write_table(table, tmp_path / "rows.parquet")

    def make(**data):
        keys = {"path": str(tmp_path / "rows.parquet"), "timestamp": "at", "context": ["device"]}
        tables = {"interactions": {**keys, "timestamp_kind": "clock", "unit": "s"}}
        config = DataConfig.model_validate({"source": "tables", "tables": tables, **data})
        raw = find_raw(config)
        inputs = {"raw": raw.fingerprint}
        return run_stage(
            tmp_path / "work",
            "prepare",
            config.decisive(),
            inputs,
            lambda draft: build_dataset(config, raw, draft),
        )

    return make


def device(user, place):
    return ("watch", "car")[place - 3] if place >= 3 else ("phone", "web")[(user + place) % 2]


def whole(tmp_path, before):
    inputs = {"dataset_before": before}
    return run_stage(
        tmp_path / "work", "prepare", {}, inputs, lambda draft: build_whole_log(before, draft)
    )


def test_every_row_is_learned_from_with_its_context(prepared, tmp_path):
    before = prepared()
    require_whole(before)
    made = whole(tmp_path, before)
    data = Dataset.open(made)
    assert (made.info["train"], made.info["val"], made.info["test"]) == (USERS * EACH, 0, 0)
    items = data.item_ids().to_pylist()
    expected = [(user + 2 * place) % 11 for user in range(USERS) for place in range(EACH)]
    assert [items[i] for i in data.train_item] == expected
    times = [100.0 * place + user for user in range(USERS) for place in range(EACH)]
    assert data.train_timestamp.tolist() == times
    (described,) = json.loads((made.path / "context.json").read_text())
    (of_parent,) = json.loads((before.path / "context.json").read_text())
    assert (of_parent["size"], described["size"]) == (3, 5)  # two values, and two held-out ones
    codes = RequestContext.of(data, ["device"]).train[:, 0]
    values = [None, *described["vocabulary"]]
    devices = [device(user, place) for user in range(USERS) for place in range(EACH)]
    assert [values[code] for code in codes] == devices


def test_a_split_by_time_keeps_what_it_has(prepared, tmp_path):
    before = prepared(split="time", time_shares=[0.4, 0.2])
    rows = sum(before.info[part] for part in ("train", "val", "test"))
    assert before.info["after_held_out"] == USERS * EACH - rows == USERS
    made = whole(tmp_path, before)
    assert (made.info["train"], made.info["after_held_out"]) == (
        rows,
        before.info["after_held_out"],
    )
    starts, times = Dataset.open(made).user_indptr, Dataset.open(made).train_timestamp
    assert all((np.diff(times[a:b]) > 0).all() for a, b in pairwise(starts))


def test_cold_items_are_refused(tmp_path):
    (tmp_path / "cold.parquet").touch()
    with pytest.raises(CadcError, match="set it to 0 and run again, or leave --refit out"):
        require_whole(SimpleNamespace(path=tmp_path))
