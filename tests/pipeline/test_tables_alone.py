"""Tables alone, from the command's own pipeline: lists, a fit, updates, several processes."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import cadc_rec
from cadc_rec.config.file import load_experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.transition_lists import FILE as LISTS_FILE
from cadc_rec.data.transition_lists import ListedScores, TransitionLists
from cadc_rec.export.finished import Finished
from cadc_rec.export.write import Wanted, write_bundle
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pretrain.prior_fit import FILE
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.bundle.self_test import run_self_test
from cadc_rec.serving.predict.predictor import Predictor

LISTS = ("transitions.form=lists", "transitions.targets=20")
# Enough users to fit on.
WORLD = ("data.generated.users=260", "data.generated.interactions=3000", "pretrain.factors=7")
FITTED = (*WORLD, *LISTS, "prior.fit=validation")


def run(tiny, workdir, *overrides, method="prior"):
    experiment = load_experiment(tiny, method=method, overrides=overrides)
    return Pipeline(experiment, workdir).run()


def test_a_fit_is_kept_and_used_in_the_evaluation(tiny, tmp_path):
    torch.set_num_threads(1)
    fitted = run(tiny, tmp_path, *FITTED)
    plain = run(tiny, tmp_path, *WORLD, *LISTS, "prior.fit=none")
    assert list(fitted) == ["prepare", "pretrain", "transitions", "prior", "evaluate"]
    assert fitted["transitions"].path == plain["transitions"].path
    chosen = json.loads((fitted["prior"].path / FILE).read_text())
    assert set(chosen["factors"]) == {"folded", "lists", "content", "popularity"}
    assert (
        chosen["users"]
        == pq.read_table(fitted["evaluate"].path / "validation_ranks.parquet").num_rows
    )  # all of them
    # All forty items are candidates of the fit, so the evaluation finds what it found.
    assert fitted["evaluate"].info["validation"]["ndcg@10"] == pytest.approx(
        chosen["ndcg"], abs=5e-3
    )
    assert chosen["ndcg"] >= plain["evaluate"].info["validation"]["ndcg@10"] - 5e-3
    again = run(tiny, tmp_path, *FITTED)
    assert all(made.cached for made in again.values())


def test_ranks_with_recent_popularity_are_those_of_plain_numpy(tiny, tmp_path):
    torch.set_num_threads(1)
    # A clock of a few months: windows of days have something in them.
    made = run(tiny, tmp_path, *FITTED, "prior.recent=true")
    evaluated = made["evaluate"]
    data = Dataset.open(made["prepare"])
    told = evaluated.info
    # The factor is what the fit chose; here only that it is applied is looked at.
    chosen = json.loads((made["prior"].path / FILE).read_text())
    assert set(chosen["factors"]) == {"folded", "lists", "content", "popularity", "recent"}
    vectors = {
        side: load_file(evaluated.path / f"{side}_vectors.safetensors")["vectors"].double().numpy()
        for side in ("user", "item")
    }
    scores = vectors["user"] @ vectors["item"].T
    folders = (evaluated.path, made["transitions"].path)  # blended with content, or not
    file = next(each / LISTS_FILE for each in folders if (each / LISTS_FILE).exists())
    lists = TransitionLists.open(file)
    listed = ListedScores.with_settings(lists, told["lists"])
    scores += listed.of(data.last_items(50, with_validation=True)).toarray()
    times, when = data.train_timestamp, data.test_timestamp
    assert "recent" in told, "the fit gave it no part: nothing is tried"
    for user in range(data.n_users):
        inside = (times < when[user]) & (times >= when[user] - told["recent"]["window"])
        counts = np.bincount(data.train_item[inside], minlength=data.n_items)
        scores[user] += told["recent"]["factor"] * np.log1p(counts)
    expected = {}
    for user, target in enumerate(data.test_item):
        if target >= 0:
            own = scores[user, target]
            known = data.train_item[data.user_indptr[user] : data.user_indptr[user + 1]]
            scores[user, known] = scores[user, data.val_item[user]] = -np.inf
            expected[user] = int((scores[user] >= own - 1e-6).sum())
    ids = data.user_ids().to_pylist()
    ranks = pq.read_table(evaluated.path / "ranks.parquet").to_pydict()
    found = dict(zip(ranks["user_id"], ranks["rank"], strict=True))
    assert found == {ids[user]: rank for user, rank in expected.items()}


def test_settings_that_no_prior_reads_are_refused(tiny):
    for overrides, named in (
        (["prior.use=false", "transitions.form=lists"], "'lists' keeps scores that the prior adds"),
        (["prior.use=false", "prior.fit=validation"], "prior.fit = 'validation' chooses"),
        (["prior.fit=none", "prior.recent=true"], "prior.recent = true needs prior.fit"),
    ):
        with pytest.raises(Exception, match=named):
            load_experiment(tiny, method="recipe", overrides=overrides)
    with pytest.raises(Exception, match="needs a score of the tables that towers add to"):
        load_experiment(tiny, method="cadc", overrides=["model.keep=better"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prior", "recipe"])
def test_a_bundle_scores_by_what_was_taken_just_before_its_log_ended(method, tiny, tmp_path):
    torch.set_num_threads(1)
    sets = [*FITTED, "prior.recent=true", "model.keep=towers", "model.id_dim=8"]
    experiment = load_experiment(tiny, method=method, overrides=sets)
    pipeline = Pipeline(experiment, tmp_path / "work")
    done = Finished(experiment, pipeline.run(), pipeline.dataset, pipeline.pretrained)
    write_bundle(done, tmp_path / "bundle", Wanted())
    data, recent = done.dataset, done.artifacts["evaluate"].info["recent"]
    since = data.train_timestamp.max() - recent["window"]
    counts = np.bincount(data.train_item[data.train_timestamp > since], minlength=data.n_items)
    expected = recent["factor"] * np.log1p(counts)
    assert expected.any()
    predictor = Predictor.load(tmp_path / "bundle")
    np.testing.assert_allclose(predictor.item_vectors.vectors[:, -1], expected, rtol=1e-5)
    users = data.user_ids().to_pylist()[:20]
    found = predictor.recommend(users, 5)
    scores = predictor.user_vectors[:20].astype(np.float64) @ predictor.item_vectors.vectors.T
    history = data.last_items(50, with_validation=True)[:20]
    scores += done.listed().of(history).toarray()
    known = done.known
    for row in range(20):
        scores[row, known.of(row)] = -np.inf
    np.testing.assert_allclose(found.scores, -np.sort(-scores, 1)[:, :5], rtol=1e-5)
    histories = [predictor.items.of_rows(known.of(row)).tolist() for row in range(20)]
    new = predictor.recommend([10**9 + n for n in range(20)], 5, history=histories)
    if method == "prior":  # which knows users by their histories alone
        np.testing.assert_allclose(new.scores, found.scores, rtol=1e-3, atol=1e-3)

    def ask(users, k):
        found = predictor.recommend(users, k)
        return found.item_ids.tolist(), found.scores.tolist()

    assert run_self_test(Bundle.open(tmp_path / "bundle"), ask).passed
    answers = cadc_rec.run(experiment, workdir=tmp_path / "work").recommend(users, 5)
    assert answers.item_ids.tolist() == found.item_ids.tolist()


@pytest.mark.slow
def test_the_moment_of_a_request_and_what_was_taken_just_before_go_together(tiny, tmp_path):
    torch.set_num_threads(1)
    sets = [*FITTED, "prior.recent=true", "model.keep=towers", "model.id_dim=8"]
    sets += ['context.features=["hour"]', "context.dim=2"]
    experiment = load_experiment(tiny, method="recipe", overrides=sets)
    pipeline = Pipeline(experiment, tmp_path / "work")
    done = Finished(experiment, pipeline.run(), pipeline.dataset, pipeline.pretrained)
    assert {"context", "recent"} <= set(done.artifacts["evaluate"].info)
    write_bundle(done, tmp_path / "bundle", Wanted())
    predictor = Predictor.load(tmp_path / "bundle")

    def ask(users, k, **moments):
        found = predictor.recommend(users, k, **moments)
        return found.item_ids.tolist(), found.scores.tolist()

    assert run_self_test(Bundle.open(tmp_path / "bundle"), ask).passed
    finished = cadc_rec.run(experiment, workdir=tmp_path / "work")
    users = done.dataset.user_ids().to_pylist()[:20]
    one, other = (each.recommend(users, 5, time=3600.0 * 9) for each in (finished, predictor))
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4, atol=1e-4)


def test_recent_popularity_needs_a_clock(cli, tmp_path):
    (tmp_path / "log.csv").write_text(
        "user_id,item_id,timestamp\n"
        + "".join(f"{u},{(7 * u + 3 * n) % 19},{n}\n" for u in range(230) for n in range(6))
    )
    config = tmp_path / "order.toml"
    config.write_text(
        'method = "prior"\n[data]\nsource = "tables"\n[data.tables.interactions]\n'
        f'path = "{tmp_path / "log.csv"}"\ntimestamp = "timestamp"\n[compute]\nthreads = 1\n'
    )
    sets = ("--set", "prior.fit=validation", "--set", "prior.recent=true")
    done = cli("run", config, "--workdir", tmp_path / "other", *sets)
    assert done.code == 2
    assert "prior.recent = true needs the times of a clock, and this dataset's are only" in done.err


@pytest.mark.slow
def test_towers_that_add_nothing_give_way_to_the_tables(tiny, cli, tmp_path):
    torch.set_num_threads(1)
    # A content of faint weight is chosen by last bits.
    fitted = (*FITTED, "prior.content=false")
    spoiled = (*fitted, "model.id_dim=8", "train.learning_rate=3.0", "train.epochs=2")
    towers, tables = run(tiny, tmp_path, *spoiled, method="recipe"), run(tiny, tmp_path, *fitted)
    trained, told = towers["train"].info, towers["evaluate"].info
    assert trained["kept"] == told["kept"] == "tables"
    assert trained["of_towers"]["ndcg@10"] <= trained["of_tables"]["ndcg@10"]
    for part in ("test", "validation"):  # their scale differs, which moves last bits
        assert told[part] == pytest.approx(tables["evaluate"].info[part], abs=0.01)
    assert told["beside"]["of"] == "towers"
    assert told["added"]["ndcg@10"] == pytest.approx(
        told["beside"]["test"]["ndcg@10"] - told["test"]["ndcg@10"]
    )
    bundles = []
    for method, sets in (("recipe", spoiled), ("prior", fitted)):
        given = [part for one in sets for part in ("--set", one)]
        bundles.append(tmp_path / f"{method}-bundle")
        told = (tiny, "--method", method, "--workdir", tmp_path, *given)
        assert cli("export", *told, "--out", bundles[-1]).code == 0
    one, other = (load_file(path / layout.ITEM_VECTORS)["vectors"].shape for path in bundles)
    assert one == other  # none of the towers' elements


def test_towers_that_add_are_reported_beside_the_tables(tiny, tmp_path):
    torch.set_num_threads(1)
    sets = (*WORLD, "model.id_dim=8", "train.epochs=3")
    made = run(tiny, tmp_path, *sets, method="cadc-residual")
    told = made["evaluate"].info
    assert "prior" not in made
    tables = run(tiny, tmp_path, *WORLD, method="mf")["evaluate"].info
    both = {told["kept"]: told["test"], told["beside"]["of"]: told["beside"]["test"]}
    assert both["tables"] == tables["test"]
    assert set(both) == {"tables", "towers"}
