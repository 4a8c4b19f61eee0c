"""Validation on a sample of the users, and ranks that are formed once."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from cadc_rec.config.file import load_experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.evaluation.validation import sampled_validation, validation_sample
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pipeline.stages import evaluate
from cadc_rec.pipeline.summary import run_result, stage_line
from cadc_rec.store.artifact import Artifact, read_manifest

MORE = "evaluate.metrics=['recall', 'mrr', 'map', 'coverage', 'gini', 'tail']"


def run(config, workdir, *sets, method=None):
    return Pipeline(load_experiment(config, method=method, overrides=sets), workdir).run()


def ranks_of(made, file="validation_ranks.parquet"):
    return pq.read_table(made["evaluate"].path / file).to_pylist()


def by_dot_products(made, held_out, without):
    """Ranks by the written vectors over items not in `without`, as the files have them."""
    out, data = made["evaluate"].path, made["prepare"].path
    sides = (
        load_file(out / f"{side}_vectors.safetensors")["vectors"].astype(np.float64)
        for side in ("user", "item")
    )
    users, items = sides
    scores = users @ items.T
    for file in without:
        taken = pq.read_table(data / file)
        scores[taken["user"], taken["item"]] = -np.inf
    user_ids, item_ids = (
        pq.read_table(out / f"{side}_ids.parquet")[f"{side}_id"].to_pylist()
        for side in ("user", "item")
    )
    rows = pq.read_table(data / held_out).sort_by("user").to_pydict()
    ranks = [
        {
            "user_id": user_ids[user],
            "item_id": item_ids[item],
            "rank": int((scores[user] >= scores[user, item]).sum()),
        }
        for user, item in zip(rows["user"], rows["item"], strict=True)
    ]
    return ranks, scores


# --- the sample ---------------------------------------------------------------------------------


def test_a_sample_is_drawn_only_where_there_are_more_users_than_it_holds():
    val_item = np.where(np.arange(100) % 3 == 0, -1, 7)  # 66 users have a validation item
    assert validation_sample(val_item, 66, 0) is None
    assert validation_sample(val_item, 0, 0) is None
    sample = validation_sample(val_item, 65, 0)
    assert len(sample) == 65
    assert (np.diff(sample) > 0).all()
    assert (val_item[sample] == 7).all()


def test_a_sample_depends_on_its_seed_and_stays_when_users_come():
    val_item = np.ones(1000, np.int32)
    sample = validation_sample(val_item, 300, 5)
    assert validation_sample(val_item, 300, 5).tolist() == sample.tolist()
    assert validation_sample(val_item, 300, 6).tolist() != sample.tolist()
    assert set(validation_sample(val_item, 200, 5)) < set(sample)
    grown = validation_sample(np.ones(1100, np.int32), 300, 5)
    assert len(set(grown) & set(sample)) > 250


def test_every_user_is_as_likely_as_any_other():
    val_item, draws = np.ones(40, np.int32), 2000
    times = np.zeros(40)
    for seed in range(draws):
        times[validation_sample(val_item, 10, seed)] += 1
    # Each is drawn with probability 1/4: within five standard deviations of that.
    assert np.abs(times - draws / 4).max() < 5 * np.sqrt(draws * 3 / 16)


# --- runs ---------------------------------------------------------------------------------------


def test_a_sample_is_ranked_on_validation_and_everybody_on_test(tiny, tmp_path):
    made = run(tiny, tmp_path, "evaluate.users=25")
    everybody, _ = by_dot_products(made, "val.parquet", ["train"])
    found = ranks_of(made)
    dataset = Dataset.open(made["prepare"])
    sample = validation_sample(dataset.val_item, 25, 0)
    assert found == [everybody[user] for user in sample]
    assert len(ranks_of(made, "ranks.parquet")) == 60

    result = run_result("cadc", 0, made)
    hits = np.array([row["rank"] for row in found]) <= 10
    told = result["validation_sample"]
    assert (told["users"], told["of"]) == (25, 60)
    assert result["validation"]["hr@10"] == pytest.approx(hits.mean())
    low, high = told["interval"]["hr@10"]
    assert low < hits.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * hits.std() / 5, rel=0.2)
    written = json.loads((made["evaluate"].path / "metrics.json").read_text())
    assert written["validation_sample"]["interval"]["hr@10"] == [low, high]
    line = stage_line("evaluate", made["evaluate"].info)
    assert "validation of 25 of 60 users, 95% intervals: HR@10 " in line
    # Training chose its epoch by these users alone.
    best = max(made["train"].info["history"], key=lambda entry: entry["ndcg@10"])
    assert best["ndcg@10"] == pytest.approx(result["validation"]["ndcg@10"], abs=1e-12)


@pytest.mark.parametrize("method", ["cadc", "mf", "popularity"])
def test_methods_and_seeds_are_judged_on_the_same_sample(method, tiny, tmp_path):
    made = run(tiny, tmp_path, "evaluate.users=25", "seed=3", method=method)
    dataset = Dataset.open(made["prepare"])
    sample = dataset.user_ids().take(validation_sample(dataset.val_item, 25, 0)).to_pylist()
    assert [row["user_id"] for row in ranks_of(made)] == sample
    measured = made["pretrain"].info["validation"]
    if method == "mf":  # its tables are ranked as they are
        assert measured["hr@10"] == made["evaluate"].info["validation"]["hr@10"]


@pytest.mark.parametrize("sets", [("evaluate.users=60",), ("evaluate.users=0",)])
def test_with_no_more_users_than_that_nothing_is_a_sample(sets, tiny, finished, tmp_path):
    made = run(tiny, tmp_path, *sets)
    for stage in ("train", "evaluate"):
        theirs = Path(finished.result["artifacts"][stage])
        assert made[stage].path.name == theirs.name  # the key: what decides the result
        assert made[stage].fingerprint == read_manifest(theirs)["fingerprint"]
    assert "validation_sample" not in made["evaluate"].info
    assert run_result("cadc", 0, made)["validation"] == finished.result["validation"]


def test_a_dataset_with_a_sample_has_its_validation_items_alone(finished):
    folder = Path(finished.result["artifacts"]["prepare"])
    dataset = Dataset.open(Artifact(folder, read_manifest(folder)))
    assert sampled_validation(dataset, 60, 0) is dataset
    sampled = sampled_validation(dataset, 10, 0)
    kept = np.flatnonzero(sampled.val_item >= 0)
    assert kept.tolist() == validation_sample(dataset.val_item, 10, 0).tolist()
    assert (sampled.val_item[kept] == dataset.val_item[kept]).all()


# --- formed once --------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "users"), [("cadc", 0), ("recipe", 25)])
def test_evaluation_takes_the_validation_ranks_that_training_formed(
    method, users, tiny, tiny_recipe, tmp_path, monkeypatch
):
    config = tiny if method == "cadc" else tiny_recipe
    sets = (f"evaluate.users={users}",)
    ranked = []
    form = evaluate.ranks_by_share

    def noted(vectors, items, targets, *arguments):
        ranked.append(len(targets))
        return form(vectors, items, targets, *arguments)

    monkeypatch.setattr(evaluate, "ranks_by_share", noted)
    made = run(config, tmp_path, *sets)
    assert ranked == [60]  # the test items
    monkeypatch.setattr(evaluate, "kept_ranks", lambda checkpoint, users: None)
    again = run(config, tmp_path, *sets, "evaluate.k=[10, 5]")
    assert ranked == [60, users or 60, 60]
    assert again["train"].cached
    first, second = (
        (each["evaluate"].path / "validation_ranks.parquet").read_bytes() for each in (made, again)
    )
    assert first == second


# --- lists --------------------------------------------------------------------------------------


def test_metrics_of_lists_are_those_of_the_written_vectors(tiny, tmp_path):
    made = run(tiny, tmp_path, MORE, "evaluate.k=[3, 10]")
    info = made["evaluate"].info
    plain = run(tiny, tmp_path, "evaluate.k=[3, 10]")["evaluate"]
    for held_out, file, without in (
        ("validation", "val.parquet", ["train"]),
        ("test", "test.parquet", ["train", "val.parquet"]),
    ):
        assert info[held_out].items() >= plain.info[held_out].items()
        rows, scores = by_dot_products(made, file, without)
        n_items = scores.shape[1]
        popular = np.bincount(pq.read_table(made["prepare"].path / "train")["item"])
        head, held = [], 0
        for item in np.argsort(-popular, kind="stable"):
            if held >= 0.8 * popular.sum():
                break
            head.append(item)
            held += popular[item]
        for k in (3, 10):
            lists = np.argsort(-scores, axis=1)[:, :k]
            counts = np.bincount(lists.flatten(), minlength=n_items)
            reciprocal = [1 / row["rank"] if row["rank"] <= k else 0 for row in rows]
            expected = {
                "recall": info[held_out][f"hr@{k}"],
                "mrr": np.mean(reciprocal),
                "map": np.mean(reciprocal),
                "coverage": len(np.unique(lists)) / n_items,
                "gini": np.abs(counts[:, None] - counts).mean() / (2 * counts.mean()),
                "tail": 1 - np.isin(lists, head).mean(),
            }
            for name, value in expected.items():
                assert info[held_out][f"{name}@{k}"] == pytest.approx(value, abs=1e-12), name
    assert run_result("cadc", 0, made)["metrics"] == info["test"]
    files = ("ranks.parquet", "validation_ranks.parquet", "user_vectors.safetensors")
    for file in files:
        assert (made["evaluate"].path / file).read_bytes() == (plain.path / file).read_bytes()
