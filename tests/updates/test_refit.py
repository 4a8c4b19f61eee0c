"""A fit on all rows after updates: the newest log, the steps of the full build; and forgetting."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from cadc_rec.export.finished import Finished
from cadc_rec.export.write import Wanted, write_bundle
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pipeline.refit import refit
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.store.pruned import is_pruned
from cadc_rec.updates.chain import take_update
from cadc_rec.updates.update import carry_on
from tests.updates.conftest import day_rows, shop_rows, user

pytestmark = pytest.mark.slow


def fitted_again(e, workdir):
    taken = take_update(Pipeline(e, workdir))
    again = refit(taken.pipeline, taken.built)
    return taken, again, again.run()


def taken_items(dataset):
    """Every user's items by original id, as they come."""
    users, items = dataset.user_ids().to_pylist(), dataset.item_ids().to_pylist()
    ends = dataset.user_indptr
    return {
        name: [items[i] for i in dataset.train_item[ends[row] : ends[row + 1]]]
        for row, name in enumerate(users)
    }


def expected_items(rows):
    """The same of rows of two tables, the second later: by time, each pair where it is first."""
    found = {}
    for name, item, _ in sorted(rows, key=lambda row: row[2]):  # stable: as the files follow
        if item not in found.setdefault(name, []):
            found[name].append(item)
    return found


def test_the_newest_log_is_learned_by_the_steps_of_the_run(experiment, workdir, day, tmp_path):
    e = experiment()
    run = Pipeline(e, workdir).run()["train"].info
    carry_on(e, workdir, day())
    taken, again, fitted = fitted_again(e, workdir)
    found, expected = taken_items(again.dataset), expected_items([*shop_rows(), *day_rows()])
    assert {name: sorted(of) for name, of in found.items()} == {
        name: sorted(of) for name, of in expected.items()
    }
    repeats = fitted["train"].info["repeats"]
    assert repeats["steps"] == run["best_epoch"] * run["steps_per_epoch"]

    evaluated = taken.pipeline.run()
    finished = Finished(
        e, fitted, again.dataset, again.pretrained, taken.document(), "production", evaluated
    )
    write_bundle(finished, tmp_path / "bundle", Wanted())
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.model()["update"]["number"] == 1
    assert bundle.model()["refit"]["steps"] == repeats["steps"]
    card = bundle.json(layout.CARD_DATA)
    assert card["test"] == evaluated["evaluate"].info["test"]
    assert card["data"]["training_interactions"] == sum(map(len, expected.values()))
    page = (bundle.path / layout.CARD).read_text()
    assert f"which learned from {evaluated['prepare'].info['train']:,} interactions" in page
    known = bundle.arrays(layout.KNOWN)
    assert known["popularity"].sum() == card["data"]["training_interactions"]


def test_who_is_forgotten_is_in_no_later_fit_and_purged_from_earlier_ones(
    experiment, workdir, tmp_path
):
    e, gone = experiment(), tmp_path / "users.txt"
    _, _, before = fitted_again(e, workdir)
    gone.write_text(f"{user(7)}\n")
    carry_on(e, workdir, None, forget={"user": gone, "item": None}, purge_holders=True)
    assert all(is_pruned(made.path) for made in before.values())
    _, again, fitted = fitted_again(e, workdir)
    assert user(7) not in pq.read_table(again.dataset.path / "users.parquet")["user_id"].to_pylist()
    (row,) = again.dataset.forgotten.rows["user"]
    ends = again.dataset.user_indptr
    assert ends[row] == ends[row + 1]
    vectors = load_file(fitted["evaluate"].path / "user_vectors.safetensors")["vectors"]
    assert not vectors[row].any()
    assert np.abs(np.delete(vectors, row, 0)).sum(1).all()
