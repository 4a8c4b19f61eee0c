"""A shop with new stock: items that nobody took yet, from preparation to answers, and on Monday."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from cadc_rec.config.experiment import Experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.store.artifact import Artifact
from tests.updates.conftest import (
    COLUMNS,
    INTERACTIONS,
    ITEMS,
    USERS,
    after_day,
    base_dataset,
    item,
    item_table,
    settings,
    shop_rows,
    user,
    user_table,
    write_table,
)

NEW = [item(n) for n in range(ITEMS, ITEMS + 5)]  # i30 to i34
STOCK = [*item_table(range(ITEMS + 4)), (NEW[4], "Item 34", ["lilac"])]


def experiment(folder: Path, keep: str) -> Experiment:
    made = settings(folder)
    made["data"]["tables"]["items"]["keep"] = keep
    return Experiment.model_validate(made)


@pytest.fixture(scope="session")
def stocked(tmp_path_factory):
    """The tables of the shop, whose items' table has five more."""
    folder = tmp_path_factory.mktemp("stocked")
    write_table(folder / "interactions.parquet", shop_rows(), INTERACTIONS)
    write_table(folder / "users.parquet", user_table(range(USERS)), COLUMNS["users"])
    write_table(folder / "items.parquet", STOCK, COLUMNS["items"])
    return folder


@pytest.fixture(scope="session")
def runs(stocked, tmp_path_factory):
    """The whole experiment with and without them: its pipeline, artifacts and settings."""
    found = {}
    for keep in ("all", "taken"):
        made = experiment(stocked, keep)
        pipeline = Pipeline(made, tmp_path_factory.mktemp(keep) / "work")
        found[keep] = SimpleNamespace(experiment=made, artifacts=pipeline.run(), pipeline=pipeline)
    return found


@pytest.mark.slow
def test_results_are_the_same_to_the_bit(runs):
    ours, theirs = (runs[keep].artifacts for keep in ("all", "taken"))
    for stage in ("pretrain", "select", "train", "evaluate"):
        assert ours[stage].fingerprint == theirs[stage].fingerprint, stage
    assert (ours["prepare"].info["items"], ours["prepare"].info["untaken_items"]) == (ITEMS, 5)


@pytest.fixture(scope="session")
def bundles(runs, tmp_path_factory):
    pytest.importorskip("faiss")
    from cadc_rec.export.finished import Finished
    from cadc_rec.export.write import Wanted, write_bundle

    found = {}
    for keep, run in runs.items():
        folder = tmp_path_factory.mktemp("bundle") / keep
        done = Finished(
            run.experiment, run.artifacts, run.pipeline.dataset, run.pipeline.pretrained
        )
        write_bundle(done, folder, Wanted())
        found[keep] = SimpleNamespace(folder=folder, finished=done)
    return found


@pytest.fixture(scope="session")
def predictors(bundles):
    from cadc_rec.serving.predict.predictor import Predictor

    return {keep: Predictor.load(made.folder) for keep, made in bundles.items()}


@pytest.mark.slow
def test_a_bundle_recommends_them_where_they_are_asked_for_and_nowhere_else(predictors):
    ours, theirs = predictors["all"], predictors["taken"]
    users = [user(n) for n in range(USERS)]
    assert ours.recommend(users, 20).lists() == theirs.recommend(users, 20).lists()
    assert ours.recommend(["nobody"], ITEMS).lists() == theirs.recommend(["nobody"], ITEMS).lists()
    every = ours.recommend([user(0), "nobody"], ITEMS + 5, exclude_seen=False)
    assert every.counts.tolist() == [ITEMS, ITEMS]
    some = [*NEW[:2], item(0), "i99"]
    asked = ours.recommend([user(0), "nobody"], 3, exclude_seen=False, candidates=some)
    assert [sorted(mine) for mine in asked.lists()] == [sorted([*NEW[:2], item(0)])] * 2
    (lilac,) = ours.recommend([user(3)], 5, filter={"tags": ["lilac"]}).lists()
    assert lilac == [NEW[4]], "also by a value that no taken item has"
    (blue,) = ours.recommend([user(3)], ITEMS + 5, filter={"tags": ["blue"]}).lists()
    assert {NEW[1], NEW[3]} <= set(blue)


@pytest.mark.slow
def test_their_scores_are_those_of_their_vectors_and_they_have_similar_items(predictors):
    ours = predictors["all"]
    found = ours.recommend([user(5)], 5, candidates=NEW)
    assert found.scores[0] == pytest.approx(ours.score([(user(5), i) for i in found.lists()[0]]))
    (similar,) = ours.similar_items([NEW[0]], ITEMS + 5).lists()
    assert sorted(similar) == sorted(item(n) for n in range(ITEMS))
    (others,) = ours.similar_items([item(0)], ITEMS + 5).lists()
    assert not set(others) & set(NEW)


@pytest.mark.slow
def test_a_history_may_name_them(predictors):
    ours = predictors["all"]
    plain = ours.recommend(["nobody"], 5, history=[[item(1), item(2)]])
    named = ours.recommend(["nobody"], 5, history=[[item(1), NEW[2], item(2)]])
    assert named.lists() == plain.lists()
    only = ours.recommend(["nobody"], 5, history=[[NEW[2]]])
    assert only.sources.tolist() == [2], "nothing was learned of it"
    left = ours.recommend(["nobody"], 5, history=[[NEW[2], item(1)]], candidates=NEW)
    assert NEW[2] not in left.lists()[0]


@pytest.mark.slow
def test_their_vectors_come_from_their_attributes(bundles, predictors):
    vectors = predictors["all"].item_vectors.vectors[ITEMS:]
    red, both = vectors[0], vectors[1]  # i30 is red, i31 red and blue, i34 lilac
    assert (vectors[2] == red).all()
    assert (vectors[3] == both).all()
    assert not np.allclose(red, both)
    assert not np.allclose(red, vectors[4])


def test_with_tables_alone_they_stand_where_the_items_most_like_them_stand():
    from cadc_rec.data.dataset import Attribute
    from cadc_rec.serving.predict.cold_items import NewItems

    def colour(codes):
        return [Attribute("c", "categorical", 4, np.arange(len(codes) + 1), np.array(codes, "i4"))]

    items = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
    stock = NewItems(colour([1, 1, 2, 3, 3, 3, 2]), items, None, [])
    found = stock.vectors_of(colour([3, 0, 1]), 3)
    assert found.dtype == np.float32
    means = np.stack([items[3:6].mean(0), items.mean(0), items[:2].mean(0)])  # 0: nothing is known
    assert np.allclose(found, means, atol=1e-6)


@pytest.mark.slow
def test_the_self_test_of_the_bundle_passes(bundles):
    from cadc_rec.serving.bundle.bundle import Bundle
    from cadc_rec.serving.bundle.self_test import run_self_test
    from cadc_rec.serving.predict.predictor import Predictor

    def recommend(users, k):
        found = Predictor.load(bundles["all"].folder).recommend(users, k)
        return found.lists(), [
            r[:n].tolist() for r, n in zip(found.scores, found.counts, strict=True)
        ]

    assert run_self_test(Bundle.open(bundles["all"].folder), recommend).passed


def items_of(artifact: Artifact) -> tuple[list[str], list[list[str]]]:
    """Ids and tags of the catalogue."""
    rows = pq.read_table(artifact.path / "items.parquet").to_pydict()
    (tags,) = json.loads((artifact.path / "attributes.json").read_text("utf-8"))["item"]
    words = [[tags["vocabulary"][code - 1] for code in codes] for codes in rows["tags"]]
    return rows["item_id"], words


def test_what_is_taken_on_monday_joins_the_others_with_the_attributes_it_had(
    stocked, day, tmp_path
):
    data = experiment(stocked, "all").data
    before = base_dataset(tmp_path, data)
    rows = [(user(1), NEW[4], 300), (user(1), "i77", 301), (user(2), NEW[1], 302)]
    after = after_day(tmp_path, data, before, day(rows))
    ids, words = items_of(after)
    old, old_words = items_of(before)
    assert ids[:ITEMS] == old[:ITEMS]
    assert ids[ITEMS:] == [NEW[1], NEW[4], "i77", NEW[0], NEW[2], NEW[3]]
    assert words[:ITEMS] == old_words[:ITEMS]
    assert words[ITEMS:] == [["blue", "red"], ["lilac"], [], ["red"], ["red"], ["blue", "red"]]
    info = after.info
    assert (info["items"], info["untaken_items"]) == (ITEMS + 3, 3)
    assert info["update"]["new_items"] == 3
    (tags,) = Dataset.open(after).item_attributes
    assert tags.size == 4, "lilac is a value like any other now"
    assert int(tags.values.max()) == 3


@pytest.mark.slow
def test_a_day_may_bring_stock_that_nobody_takes_and_describe_the_old_anew(stocked, day, tmp_path):
    rows = [(user(1), NEW[0], 300)]
    stock = [("i50", "Fifty", ["green"]), (NEW[1], "Item 31", ["red"]), (NEW[0], "I", ["blue"])]
    found = {}
    for keep in ("all", "taken"):
        data = experiment(stocked, keep).data
        before = base_dataset(tmp_path / keep, data)
        found[keep] = after_day(tmp_path / keep, data, before, day(rows, keep, items=stock))
    ids, words = items_of(found["all"])
    assert ids[ITEMS:] == [NEW[0], *NEW[1:], "i50"]
    assert words[ITEMS:] == [["blue"], ["red"], ["red"], ["blue", "red"], ["lilac"], ["green"]]
    assert found["all"].info["untaken_items"] == 5
    ids, words = items_of(found["taken"])
    assert (ids[ITEMS:], words[ITEMS:]) == ([NEW[0]], [["blue"]])
    assert "untaken_items" not in found["taken"].info
