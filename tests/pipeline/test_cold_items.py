"""Cold items in a whole run: nothing that learns reads a row of theirs; their ranks are right."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import cadc_rec.data.content
import cadc_rec.pretrain.likeness
from cadc_rec.config.experiment import Experiment
from cadc_rec.data.cold_items import ColdItems
from cadc_rec.data.content import Content
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.dense import DenseAttribute
from cadc_rec.data.user_items import UserItems
from cadc_rec.evaluation.content_baselines import baseline_ranks
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pipeline.summary import run_result
from cadc_rec.pretrain.likeness import Likeness
from cadc_rec.study.run.grid import Cell
from cadc_rec.study.run.records import record_done
from tests.data.raw_files import members_1m, text_of

USERS, ITEMS, TAKEN, SHARE = 30, 40, 12, 0.25
GENRES = ("Action", "Comedy", "Drama", "Western", "War")
RECIPE = {
    "pretrain": {"model": "als", "factors": 7},
    "transitions": {"window": 3, "form": "lists", "targets": 10},
    "history": {"length": 4, "windows": [1, 4]},
    "prior": {"use": True},
    "select": {"kind": "recent", "ratio": 3},
    "model": {"id_dim": 8, "id_embedding": "init_frozen", "cold_dropout": 0.3},
    "train": {"epochs": 2, "loss": "softmax"},
}


def is_cold(item):
    return int(hashlib.md5(f"0:cold:{item}".encode()).hexdigest(), 16) < SHARE * 16**32


def run(folder, rows, **data):
    folder.mkdir()
    movies = "".join(
        f"{n}::Film {n} (1990)::{GENRES[n % 5]}|{GENRES[n % 3]}\n" for n in range(ITEMS)
    )
    users = "".join(f"{n}::F::{(1, 18, 25)[n % 3]}::10::48067\n" for n in range(USERS))
    with zipfile.ZipFile(folder / "ml-1m.zip", "w") as archive:
        for name, text in members_1m(text_of(rows), users, movies).items():
            archive.writestr(name, text)
    settings = {"data": {"source": "movielens-1m", "cold_items": SHARE, **data}, **RECIPE}
    torch.set_num_threads(1)
    return Pipeline(Experiment.model_validate(settings), folder / "work", folder).run()


def taken():
    rng = np.random.default_rng(3)
    return [
        (user, int(item), 5, 1000 + 10 * place)
        for user in range(USERS)
        for place, item in enumerate(rng.permutation(ITEMS)[:TAKEN])
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("cold") / "a", taken())


def contents(artifact, own=()):
    files = (file for file in artifact.path.rglob("*") if file.is_file() and file.name not in own)
    return {str(file.relative_to(artifact.path)): file.read_bytes() for file in files}


def test_nothing_that_learns_reads_a_row_of_a_cold_item(finished, tmp_path):
    """Give these rows other users and times: every byte stays, but for their own ranks."""
    rows = taken()
    cold = [n for n, row in enumerate(rows) if is_cold(row[1])]
    rng = np.random.default_rng(1)
    others = rng.permutation([rows[n][0] for n in cold])
    for n, user in zip(cold, others, strict=True):
        rows[n] = (int(user), rows[n][1], 5, int(rng.integers(0, 5000)))
    again = run(tmp_path / "b", rows)
    own = ("cold.parquet", "cold_ranks.parquet", "metrics.json", "manifest.json")
    for stage in finished:
        before, after = (contents(each[stage], own) for each in (finished, again))
        assert before, stage
        assert before == after, stage
    held_out = [(each["prepare"].path / "cold.parquet").read_bytes() for each in (finished, again)]
    assert held_out[0] != held_out[1]
    for key in ("test", "validation", "items"):
        assert finished["evaluate"].info[key] == again["evaluate"].info[key]


def test_cold_items_are_ranked_on_validation_and_test_with_both_baselines(finished):
    info = finished["evaluate"].info["cold"]
    ranks = pq.read_table(finished["evaluate"].path / "cold_ranks.parquet").to_pandas()
    assert not info["control"]
    for of in ("validation", "test"):
        mine = ranks[ranks.of == of]
        assert info[of]["users"] == len(mine) > 10
        for among in ("among_cold", "among_all"):
            found = info[of][among]
            for name, column in (
                (None, among),
                ("neighbours", f"neighbours_{among}"),
                ("attribute_popularity", f"attribute_popularity_{among}"),
            ):
                metrics = found if name is None else found[name]
                hits = mine[column] <= 10
                assert metrics["hr@10"] == pytest.approx(hits.mean())
                gains = np.where(hits, 1 / np.log2(mine[column] + 1), 0)
                assert metrics["ndcg@10"] == pytest.approx(gains.mean())
        assert (mine.among_cold <= mine.among_all).all()


def test_a_studys_record_keeps_the_ranks_by_the_users_own_ids(finished, tmp_path):
    cell = Cell("ml", "ML", Path("ml.toml"), "recipe", "", (), Experiment.model_validate(RECIPE))
    record = record_done(cell, run_result("recipe", 0, finished), tmp_path)
    kept = pq.read_table(tmp_path / record["cold_ranks"]).to_pandas()
    ranks = pq.read_table(finished["evaluate"].path / "cold_ranks.parquet").to_pandas()
    ids = pq.read_table(finished["prepare"].path / "users.parquet")["user_id"].to_numpy()
    assert kept.user_id.tolist() == ids[ranks.user].tolist()
    assert kept.among_all.tolist() == ranks.among_all.tolist()
    assert record["cold"]["items"] == finished["evaluate"].info["cold"]["items"]


def likes_by_hand(data, known):
    """Dense: cosine by the known items' idf, the twenty best of these, cubed, to sum 1."""
    parts = []
    for attribute in data.every_item_attributes():
        dense = np.zeros((known + data.n_untaken, attribute.size))
        row = np.repeat(np.arange(len(dense)), np.diff(attribute.indptr))
        dense[row, attribute.values] = 1
        parts.append(dense[:, 1:])
    values = np.concatenate(parts, 1)
    values *= np.log(known / np.maximum(values[:known].sum(0), 1))
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return values, weights_by_hand(values, known)


def weights_by_hand(values, known):
    cosine = np.maximum(values[known:] @ values[:known].T, 0)
    weights = np.zeros_like(cosine)
    for n, row in enumerate(cosine):
        best = np.lexsort((np.arange(known), -row))[:20]
        weights[n, best] = row[best] ** 3
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("dense", [False, True])
def test_a_new_item_stands_where_the_items_most_like_it_stand(finished, dense, monkeypatch):
    monkeypatch.setattr(cadc_rec.data.content, "_ELEMENTS", 70)  # ten known items at once
    monkeypatch.setattr(cadc_rec.pretrain.likeness, "_BLOCK", 30)  # three new ones
    data = Dataset.open(finished["prepare"])
    values, expected = likes_by_hand(data, data.n_items)
    tables, count, known = [], len(values), data.n_items
    if dense:
        tables = [some_vectors("a", count, 3, [1, known]), some_vectors("b", count, 4, [1, 2])]
        expected = weights_by_hand(with_vectors(values, tables, known), known)
    content = Content.of(data.every_item_attributes(), tables, count, known)
    new = content.part(slice(known, None))
    likeness = Likeness.of(content.part(slice(0, known)), new)
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(data.n_items, 5))).float()
    np.testing.assert_allclose(likeness.of_vectors(rows), expected @ rows.numpy(), atol=1e-4)


def some_vectors(name, n_items, width, missing):
    """Unit vectors that have much in common; some are missing."""
    rows = 1 + np.random.default_rng(width).normal(size=(n_items, width))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[missing] = 0
    return DenseAttribute(name, "vector", rows.astype(np.float32))


def with_vectors(values, tables, known):
    """A half for the coded values and a half for the vectors, less the known items' mean."""
    parts = [values * 0.5**0.5]
    for table in tables:
        rows = table.values.astype(np.float64)
        has = np.abs(rows).sum(1) > 0
        rows[has] -= rows[:known][has[:known]].mean(0)
        rows[has] /= np.linalg.norm(rows[has], axis=1, keepdims=True)
        parts.append(rows * (0.5 / len(tables)) ** 0.5)
    every = np.concatenate(parts, 1)
    return every / np.maximum(np.linalg.norm(every, axis=1, keepdims=True), 1e-12)


@pytest.mark.parametrize("dense", [False, True])
def test_baselines_are_those_of_plain_numpy(finished, dense, monkeypatch):
    monkeypatch.setattr(cadc_rec.data.content, "_ELEMENTS", 70)  # ten items at once
    data = Dataset.open(finished["prepare"])
    cold = ColdItems.of(data)
    values, _ = likes_by_hand(data, data.n_items)
    count, known = len(values), data.n_items
    tables = []
    if dense:
        numbers = DenseAttribute("continuous", "numbers", np.ones((count, 4), np.float32))
        tables = [some_vectors("a", count, 3, [1, known]), some_vectors("b", count, 4, [1, 2])]
        tables.append(numbers)  # have no part in it
    content = Content.of(data.every_item_attributes(), tables, count, known)
    has = values > 0
    values = with_vectors(values, tables[:2], known) if dense else values
    excluded = cold.excluded(data, cold.test_item)
    histories = UserItems(data.user_indptr, data.train_item)
    every = {"among_all": np.arange(len(values))}
    ranks = baseline_ranks(content, histories, cold.test_item, excluded, every)
    counts = np.bincount(data.train_item, minlength=data.n_items)
    of_value = counts @ has[: data.n_items] / np.maximum(has[: data.n_items].sum(0), 1)
    popular = has @ of_value / has.sum(1)
    place = 0
    for user in range(data.n_users):
        target = cold.test_item[user]
        if target < 0:
            continue
        allowed = np.ones(len(values), bool)
        allowed[excluded.of(user)] = False
        history = data.train_item[data.user_indptr[user] : data.user_indptr[user + 1]]
        alike = values @ values[history].mean(0)
        for name, scores in (("attribute_popularity", popular), ("neighbours", alike)):
            scores = np.round(scores, 6)
            above = (scores > scores[target])[allowed].sum()
            equal = (scores == scores[target])[allowed].sum() - 1
            low, high = 1 + above, 1 + above + equal
            assert low <= ranks[f"{name}_among_all"][place] <= high
        place += 1
    assert place == len(ranks["neighbours_among_all"])


@pytest.mark.slow
def test_the_control_ranks_the_same_rows_against_the_same_candidates(finished, tmp_path):
    control = run(tmp_path / "c", taken(), cold_control=True)
    rows = []
    for made in (finished, control):
        names = pq.read_table(made["prepare"].path / "items.parquet")["item_id"].to_pylist()
        found = pq.read_table(made["evaluate"].path / "cold_ranks.parquet").to_pandas()
        rows.append(sorted(zip(found.of, found.user, (names[n] for n in found.item), strict=True)))
        assert len(names) == ITEMS
    assert rows[0] == rows[1]
    info = control["evaluate"].info["cold"]
    assert info["control"]
    assert "neighbours" not in info["test"]["among_all"]
    assert finished["prepare"].info["items"] < control["prepare"].info["items"] == ITEMS
