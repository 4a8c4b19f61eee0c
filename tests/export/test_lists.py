"""A bundle of tables alone with lists answers as the evaluation ranked."""

from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import cadc_rec
from cadc_rec.config.file import load_experiment
from cadc_rec.errors import CadcError
from cadc_rec.export.finished import Finished
from cadc_rec.export.towers import batch_of, history_features, side_features
from cadc_rec.export.write import Wanted, write_bundle
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.bundle.programs import load_scripted
from cadc_rec.serving.bundle.self_test import run_self_test
from cadc_rec.serving.predict.predictor import Predictor

SETS = [
    "data.generated.users=260",
    "data.generated.interactions=3000",
    "pretrain.factors=7",
    "history.length=4",
    "transitions.form=lists",
    "transitions.targets=9",
    "prior.fit=validation",
]


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """A run, its bundle with every kind of index, and the ranks of the test items."""
    torch.set_num_threads(1)
    work = tmp_path_factory.mktemp("lists")
    experiment = load_experiment(tiny, method="prior", overrides=SETS)
    pipeline = Pipeline(experiment, work / "work")
    done = Finished(experiment, pipeline.run(), pipeline.dataset, pipeline.pretrained)
    assert done.fitted().factors["popularity"], "the fit gave popularity no part: nothing is tried"
    for kind in ("exact", "hnsw"):
        write_bundle(done, work / kind, Wanted(index=kind))
    ranks = pq.read_table(done.artifacts["evaluate"].path / "ranks.parquet").to_pydict()
    return SimpleNamespace(work=work, experiment=experiment, done=done, ranks=ranks)


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_recommendations_are_the_ranking(made, kind):
    answers_are_ranks(Predictor.load(made.work / kind), made.ranks)


@pytest.mark.slow
def test_those_of_towers_are_too(tiny, tmp_path):
    sets = [
        *SETS,
        "model.id_dim=8",
        "model.keep=towers",
        "train.epochs=2",
        "train.learning_rate=0.05",
    ]
    experiment = load_experiment(tiny, method="recipe", overrides=sets)
    pipeline = Pipeline(experiment, tmp_path / "work")
    done = Finished(experiment, pipeline.run(), pipeline.dataset, pipeline.pretrained)
    write_bundle(done, tmp_path / "bundle", Wanted(index="hnsw", precisions=("fp16",)))
    predictor = Predictor.load(tmp_path / "bundle")
    assert predictor.item_vectors.vectors.shape[1] > 8, "the towers have no part in it"
    ranks = pq.read_table(done.artifacts["evaluate"].path / "ranks.parquet").to_pydict()
    answers_are_ranks(predictor, ranks)
    the_scripted_module_adds_the_lists(done, tmp_path / "bundle", predictor)


def the_scripted_module_adds_the_lists(done, folder, predictor):
    """Its pair scores are the predictor's; lists by themselves are so to the bit."""
    module = load_scripted(Bundle.open(folder), "fp16")
    data, trained, listed = done.dataset, done.trained(), done.listed()
    users = np.arange(30)
    items = np.arange(30) % data.n_items
    last = data.last_items(trained.history_length, with_validation=True)[users]
    history = history_features(last)
    mine = side_features(users, trained.user.attributes)
    theirs = side_features(items, trained.item.attributes)
    scores = module(batch_of([*mine, *history, *theirs]))["default"].numpy()
    ids = np.array(data.user_ids())[users].tolist(), np.array(data.item_ids())[items].tolist()
    expected = predictor.score(list(zip(*ids, strict=True)))
    every = listed.of(last).toarray()
    assert every[users, items].any()
    assert np.abs(scores - expected).max() < 0.01 * np.abs(expected).max()
    of_all = module.all_list_scores(batch_of(history))["default"].numpy()
    assert np.array_equal(of_all, every)
    two = np.stack([items, items[::-1]], 1)
    candidates = [np.full(len(users), 2, np.int32), two.ravel()]
    found = module.list_scores(batch_of([*history, *candidates]))["default"].numpy()
    assert np.array_equal(found.reshape(-1, 2), np.take_along_axis(every, two, 1))
    methods = Bundle.open(folder).model()["torchrec"]["methods"]
    assert [feature["name"] for feature in methods["list_scores"]] == ["history", "item"]


def answers_are_ranks(predictor, ranks):
    """Every user is recommended what the evaluation ranked before the test item, and it."""
    users, items = ranks["user_id"], ranks["item_id"]
    found = predictor.recommend(users, 10)
    alone = [predictor.recommend([user], 10).item_ids[0].tolist() for user in users[:20]]
    assert alone == found.item_ids[:20].tolist()
    for user, item, rank, answer in zip(
        users, items, ranks["rank"], found.item_ids.tolist(), strict=True
    ):
        # An item with the target's own score ranks before it in evaluation, and may not here.
        assert (item in answer) >= (rank <= 10), user
        if rank <= 10:
            assert answer.index(item) <= rank - 1
    hits = sum(item in answer for item, answer in zip(items, found.item_ids.tolist(), strict=True))
    assert hits == pytest.approx(sum(rank <= 10 for rank in ranks["rank"]), abs=2)


def test_a_score_is_that_of_the_recommendation_and_lists_have_a_part_in_it(made):
    predictor = Predictor.load(made.work / "exact")
    users = made.ranks["user_id"][:30]
    found = predictor.recommend(users, 5)
    pairs = [(u, i) for u, items in zip(users, found.item_ids.tolist(), strict=True) for i in items]
    np.testing.assert_allclose(predictor.score(pairs), found.scores.ravel(), rtol=1e-9)
    rows = predictor.users.rows(users)
    dots = predictor.user_vectors[rows].astype(np.float64) @ predictor.item_vectors.vectors.T
    assert (found.scores > np.take_along_axis(dots, found.rows, 1) + 1e-3).any()


@pytest.mark.slow
def test_a_newcomer_with_a_known_users_history_gets_what_that_user_gets(made):
    predictor = Predictor.load(made.work / "exact")
    users = made.ranks["user_id"][:30]
    rows = predictor.users.rows(users)
    histories = [predictor.items.of_rows(predictor.known.of(row)).tolist() for row in rows]
    known = predictor.recommend(users, 10)
    new = predictor.recommend([10**9 + n for n in range(30)], 10, history=histories)
    same = (known.item_ids == new.item_ids).mean()
    assert same > 0.98  # vectors of two programs: the last bits differ
    np.testing.assert_allclose(new.scores, known.scores, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_self_test_passes_and_the_manifest_asks_for_a_reader_of_lists(made):
    bundle = Bundle.open(made.work / "exact")
    predictor = Predictor.load(made.work / "exact")

    def ask(users, k):
        found = predictor.recommend(users, k)
        return found.item_ids.tolist(), found.scores.tolist()

    assert bundle.manifest["format_version"] == 2
    assert run_self_test(bundle, ask).passed


@pytest.mark.slow
def test_the_finished_run_answers_as_its_bundle(made):
    users = made.ranks["user_id"][:30]
    found = cadc_rec.finished(made.experiment, workdir=made.work / "work").recommend(users, 10)
    bundle = Predictor.load(made.work / "exact").recommend(users, 10)
    assert found.item_ids.tolist() == bundle.item_ids.tolist()
    assert found.scores.tolist() == bundle.scores.tolist()


@pytest.mark.slow
def test_lists_that_do_not_fit_the_items_are_refused(made, monkeypatch):
    arrays = Bundle.arrays

    def changed(self, name):
        found = arrays(self, name)
        if name == layout.LISTS:
            found = {**found, "items": found["items"] + 40}
        return found

    monkeypatch.setattr(Bundle, "arrays", changed)
    with pytest.raises(CadcError, match=r"lists\.safetensors does not fit the items"):
        Predictor.load(made.work / "exact")
