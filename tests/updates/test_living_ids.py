"""What becomes of a dataset and of its tables where ids come and go."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from cadc_rec.config.experiment import ComputeConfig, Experiment
from cadc_rec.config.ids import IdsConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.distributed.processes import processes
from cadc_rec.distributed.state import local_tensors
from cadc_rec.errors import CadcError
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.training.build import build_model, load_grown
from cadc_rec.updates.drift import popularity_shift, vector_drift
from tests.updates.conftest import (
    after_day,
    base_dataset,
    day_rows,
    item,
    shop_rows,
    split_by_hand,
    split_of,
    user,
)

SIDES = ("user", "item")
PLACE = {"user": 0, "item": 1}


def changed_owners(before, after, side):
    """Rows that have another generation."""
    was, now = before.generation(side), after.generation(side)
    return np.flatnonzero(was != now[: len(was)])


def test_learned_rows_that_change_owner_start_like_those_of_newcomers(tmp_path, experiment):
    """A checkpoint of sevens: it is loaded everywhere but in the reused rows."""
    model = {"id_embedding": "trainable", "id_dim": 8, "feature_dim": 4, "tower": [8, 4]}
    learned = experiment(pretrain={"model": "none"}, model=model)
    pipeline = Pipeline(learned, tmp_path / "work")
    pipeline.run(until="select")
    with processes(ComputeConfig(device="cpu", threads=1)) as alone:
        model = build_model(learned, pipeline.dataset, pipeline.pretrained, alone)
        state = {
            t.name: torch.full_like(t.tensor, 7.0)
            for t in local_tensors(model.wrapped, model.trains)
        }
        names = {side: f"{side}.ids.table.embedding_bags.{side}.weight" for side in SIDES}
        fresh = {t.name: t.tensor.clone() for t in local_tensors(model.wrapped, model.trains)}
        load_grown(model, state, {"user": np.array([0, 5]), "item": np.array([29])})
        found = {t.name: t.tensor for t in local_tensors(model.wrapped, model.trains)}
        for name, rows in ((names["user"], [0, 5]), (names["item"], [29])):
            assert torch.equal(found[name][rows], fresh[name][rows])
            others = np.setdiff1d(np.arange(len(found[name])), rows)
            assert (found[name][others] == 7).all()
        assert all((found[n] == 7).all() for n in found.keys() - set(names.values()))


def same_dataset(one, other):
    """Whether two prepared datasets have the same bytes, but for the map itself."""
    files = [
        {f.relative_to(a.path): f.read_bytes() for f in a.path.rglob("*") if f.is_file()}
        for a in (one, other)
    ]
    kept = [
        {n: b for n, b in f.items() if n.parts[0] != "ids" and n.name != "manifest.json"}
        for f in files
    ]
    return kept[0] == kept[1]


def test_with_rows_for_everybody_the_dataset_is_that_of_closed_ids(prepared, day):
    tables = {"users": [(user(99), "pro", 30.0)], "items": [(item(77), "New", ["blue"])]}
    folder = day(**tables)
    closed = prepared(folder).after
    ids = IdsConfig(user_rows=1000, item_rows=1000)
    open_ended = prepared(folder, ids=ids).after
    assert same_dataset(closed, open_ended)
    assert open_ended.info["ids"]["user"]["evicted"] == 0


def test_rows_are_given_up_with_all_that_is_theirs(prepared, day):
    """Thirty items have rows; item 77 takes the row of the one that was seen longest ago."""
    ids = IdsConfig(user_rows=41, item_rows=30)
    made = prepared(day(), ids=ids)
    before, after = Dataset.open(made.before), Dataset.open(made.after)
    last = {}
    for _, one, at in shop_rows():
        last[one] = max(last.get(one, 0), at)
    today = {row[1] for row in day_rows()}
    idle = [one for one in last if one not in today]
    seen = {one: sum(row[1] == one for row in shop_rows()) for one in idle}
    row_of = {one: n for n, one in enumerate(before.item_ids().to_pylist())}
    gone = min(idle, key=lambda one: (last[one], seen[one], row_of[one]))
    assert after.item_ids().to_pylist()[row_of[gone]] == item(77)
    assert changed_owners(before, after, "item").tolist() == [row_of[gone]]
    assert after.n_users == 41
    assert not len(changed_owners(before, after, "user"))
    kept = [row for row in [*shop_rows(), *day_rows()] if row[1] != gone]
    assert {p: sorted(rows) for p, rows in split_of(made.after).items()} == {
        p: sorted(rows) for p, rows in split_by_hand(kept).items()
    }
    counts = made.after.info["update"]
    assert counts["evicted_items"] == 1
    assert counts["evicted_users"] == 0
    assert counts["evicted_interactions"] == seen[gone]
    assert counts["new_items"] == 1
    # Its attributes went with it: the row has the newcomer's, which nothing describes.
    items = pq.read_table(made.after.path / "items.parquet").to_pylist()
    assert items[row_of[gone]]["title"] is None
    assert not items[row_of[gone]]["tags"]


def test_a_catalogue_that_is_bounded_has_what_the_latest_table_lists(prepared, experiment, day):
    """Items that nobody took: 80 and 81 are listed, then 81 and 82, of which 81 is taken."""

    def listed(*numbers):
        return [(item(n), f"Item {n}", ["blue"]) for n in numbers]

    ids = IdsConfig(user_rows=100, item_rows=100)
    one = prepared(day(day_rows(), "one", items=listed(80, 81)), ids=ids).after
    found = [pq.read_table(one.path / "items.parquet").to_pylist()]
    again = day([(user(3), item(81), 400)], "two", items=listed(82))
    two = after_day(
        one.path.parent.parent, experiment().data.model_copy(update={"ids": ids}), one, again
    )
    found.append(pq.read_table(two.path / "items.parquet").to_pylist())
    rows = [[row["item_id"] for row in items] for items in found]
    assert rows[0][one.info["items"] :] == [item(80), item(81)]
    assert rows[1][two.info["items"] - 1 :] == [item(81), item(82)]
    assert found[1][two.info["items"] - 1]["title"] == "Item 81"
    assert two.info["untaken_items"] == 1


def test_a_newcomer_waits_until_it_was_seen_often_enough(prepared, day):
    ids = IdsConfig(user_rows=1000, item_rows=1000, admission=3)
    rows = [(user(1), item(500), 300), (user(2), item(500), 301), (user(3), item(2), 302)]
    made = prepared(day(rows), ids=ids)
    assert item(500) not in Dataset.open(made.after).item_ids().to_pylist()
    assert made.after.info["update"]["without_row"] == 2
    assert made.after.info["ids"]["item"]["waiting"] == 1


def test_a_first_run_takes_the_ids_that_were_seen_most_often(tmp_path, experiment):
    config = experiment().data.model_copy(update={"ids": IdsConfig(user_rows=12, item_rows=9)})
    dataset = Dataset.open(base_dataset(tmp_path, config))
    rows, kept = shop_rows(), {}
    for side, most in (("item", 9), ("user", 12)):
        place = PLACE[side]
        seen = {row[place]: 0 for row in rows}
        last = dict(seen)
        for row in rows:
            seen[row[place]] += 1
            last[row[place]] = max(last[row[place]], row[2])
        kept[side] = sorted(sorted(seen, key=lambda i: (-seen[i], -last[i], i))[:most])
        rows = [row for row in rows if row[place] in kept[side]]
    assert dataset.user_ids().to_pylist() == kept["user"]
    assert dataset.item_ids().to_pylist() == kept["item"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"ids": {"admission": 2}}, "data.ids.admission is about rows of a fixed number"),
        ({"ids": {"user_rows": 5, "ttl_days": 3.0}}, "data.ids.ttl_days is read with"),
        ({"ids": {"user_rows": 5, "sketch_width": 8}}, "data.ids.sketch_width is read with"),
        ({"ids": {"item_rows": 5}, "k_core": 2}, "data.k_core is about a closed set of ids"),
    ],
)
def test_settings_that_nothing_would_read_are_refused(data, words):
    with pytest.raises(ValidationError, match=words):
        Experiment.model_validate({"data": data})


def test_age_needs_a_clock(prepared, day):
    with pytest.raises(CadcError, match="'ttl' needs the times of a clock"):
        prepared(day(), ids=IdsConfig(item_rows=30, eviction="ttl"))


def test_drift_leaves_out_rows_that_have_another_owner():
    before = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
    after = torch.tensor([[1.0, 0.0], [5.0, 0.0], [4.0, 3.0]])
    found = vector_drift(before, after, np.array([1, 2]), np.array([1]))
    assert found["all"]["rows"] == 2
    assert found["changed"]["rows"] == 1
    assert found["changed"]["cosine"] == pytest.approx(24 / 25)
    assert found["unchanged"]["cosine"] == pytest.approx(1)


def test_popularity_of_a_former_owner_is_not_the_new_ones():
    """Item 0 had all rows and left; the newcomer in its row has all new ones: nothing in common."""
    old, came = np.zeros(10, np.int32), np.zeros(4, np.int32)
    assert popularity_shift(old, came, 2)["total_variation"] == 0
    found = popularity_shift(old, came, 2, np.array([0]))
    assert found["total_variation"] == 1
