"""What is in a bundle answers as the evaluation did."""

import gc
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cadc_rec.errors import CadcError
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.programs import load_program
from cadc_rec.serving.bundle.self_test import run_self_test

pytestmark = pytest.mark.slow


class Exhaustive:
    """Recommends by scoring all items, from nothing but the bundle's files."""

    def __init__(self, bundle):
        self.users = bundle.arrays(layout.USER_VECTORS)["vectors"].astype(np.float64)
        self.items = bundle.arrays(layout.ITEM_VECTORS)["vectors"].astype(np.float64)
        self.known = bundle.arrays(layout.KNOWN)
        self.user_ids = bundle.table(layout.USERS)["user_id"].to_pylist()
        self.item_ids = bundle.table(layout.ITEMS)["item_id"].to_pylist()
        self.row = {user: row for row, user in enumerate(self.user_ids)}

    def scores(self, row):
        scores = self.items @ self.users[row]
        first, last = self.known["indptr"][row : row + 2]
        scores[self.known["items"][first:last]] = -np.inf
        return scores

    def __call__(self, users, k):
        items, all_scores = [], []
        for user in users:
            scores = self.scores(self.row[user])
            best = [i for i in np.argsort(-scores, kind="stable")[:k] if scores[i] > -np.inf]
            items.append([self.item_ids[i] for i in best])
            all_scores.append([float(scores[i]) for i in best])
        return items, all_scores


def test_ranks_from_the_bundle_are_those_of_the_evaluation(either):
    ask = Exhaustive(either.bundle)
    ranks = pq.read_table(either.finished.artifacts["evaluate"].path / "ranks.parquet").to_pydict()
    assert len(ranks["rank"]) == 60
    for user, item, rank in zip(*ranks.values(), strict=True):
        scores = ask.scores(ask.row[user])
        assert (scores >= scores[ask.item_ids.index(item)]).sum() == rank


def test_known_items_are_in_the_order_of_time_and_end_with_the_validation_item(either):
    known = either.bundle.arrays(layout.KNOWN)
    val = pq.read_table(either.finished.artifacts["prepare"].path / "val.parquet").to_pydict()
    for user, item in zip(val["user"], val["item"], strict=True):
        assert known["items"][known["indptr"][user + 1] - 1] == item
    train = either.finished.dataset
    mine = train.train_item[train.train_user == 7]
    assert known["items"][known["indptr"][7] : known["indptr"][8]][:-1].tolist() == mine.tolist()
    assert known["popularity"].sum() == len(known["items"]) == 840


def histories(exported):
    """Each user's last items, by going back through what is known."""
    known = exported.bundle.arrays(layout.KNOWN)
    length = exported.bundle.model()["history_length"]
    rows = np.full((60, length), -1, np.int64)
    for user in range(60):
        mine = known["items"][known["indptr"][user] : known["indptr"][user + 1]]
        last = mine[::-1][:length]
        rows[user, : len(last)] = last
    return torch.from_numpy(rows)


def test_programs_that_are_let_go_leave_no_shapes_behind(either):
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    def kept():
        load_program(either.bundle, "query")
        gc.collect()
        return sum(type(each) is ShapeEnv for each in gc.get_objects())

    assert kept() == kept() == kept()


def test_the_query_program_gives_the_vectors_of_users(either):
    vectors = either.bundle.arrays(layout.USER_VECTORS)["vectors"]
    program, users = load_program(either.bundle, "query"), torch.arange(60)
    inputs = [users, histories(either)] if either.trained.history_length else [users]
    made = program(*inputs).numpy()
    assert np.allclose(made, vectors, rtol=1e-5, atol=1e-6)
    for rows in (0, 1, 3):
        some = program(*(given[:rows] for given in inputs)).numpy()
        assert some.shape == (rows, vectors.shape[1])
        assert np.allclose(some, made[:rows], rtol=1e-5, atol=1e-6)  # whatever stands beside them


def test_the_item_program_gives_the_vectors_of_items(either):
    vectors = either.bundle.arrays(layout.ITEM_VECTORS)["vectors"]
    program = load_program(either.bundle, "item")
    assert np.allclose(program(torch.arange(40)).numpy(), vectors, rtol=1e-5, atol=1e-6)
    assert np.allclose(program(torch.tensor([9])).numpy(), vectors[9:10], rtol=1e-5, atol=1e-6)


def test_a_newcomer_without_a_history_of_the_model_is_folded_into_the_item_vectors(plain):
    """Implicit least squares in float64: (Y'Y + l2 I + sum (c - 1) y y') x = sum c y."""
    program = load_program(plain.bundle, "newcomer")
    (given,) = plain.bundle.model()["programs"]["newcomer"]["inputs"]
    taken = [3, 17, 5]
    history = torch.full((1, given["shape"][1]), -1)
    history[0, :3] = torch.tensor(taken)
    items = plain.bundle.arrays(layout.ITEM_VECTORS)["vectors"].astype(np.float64)
    gram, config = items.T @ items, plain.finished.experiment.prior
    matrix = gram + config.l2 * np.diag(gram).mean() * np.eye(len(gram))
    right = np.zeros(len(gram))
    for age, item in enumerate(taken):
        confidence = config.alpha * 2 ** (-age / config.half_life)
        matrix += (confidence - 1) * np.outer(items[item], items[item])
        right += confidence * items[item]
    expected = np.linalg.solve(matrix, right)
    assert np.allclose(program(history).numpy()[0], expected, rtol=0.02, atol=1e-3)


def test_a_newcomer_with_the_history_of_a_known_user_likes_much_the_same(with_history):
    """The tower misses the user's own row and attributes; the prior is all the same."""
    program = load_program(with_history.bundle, "newcomer")
    vectors = program(histories(with_history)).numpy()
    known = with_history.bundle.arrays(layout.USER_VECTORS)["vectors"]
    alike = [np.corrcoef(a, b)[0, 1] for a, b in zip(vectors, known, strict=True)]
    assert np.median(alike) > 0.9


def test_the_self_test_passes_a_right_predictor_and_fails_a_wrong_one(either):
    ask = Exhaustive(either.bundle)
    verdict = run_self_test(either.bundle, ask)
    assert (verdict.passed, verdict.requests, verdict.recall) == (True, 60, 1.0)
    ask.items[3] += 0.5
    verdict = run_self_test(either.bundle, ask)
    assert not verdict.passed
    assert "user" in verdict.wrong[0]


def test_the_card_tells_metrics_and_share(plain):
    card = plain.bundle.json(layout.CARD_DATA)
    assert card["data"]["training_interactions"] == 780
    assert card["data"]["seen_by_the_towers"] == 78
    assert card["test"] == plain.finished.artifacts["evaluate"].info["test"]
    assert "78 of them (10.0%)" in plain.bundle.read(layout.CARD).decode()


def test_tables_alone_have_vectors_and_newcomers(cli, finished, tiny, tmp_path):
    """Method popularity: no towers, so no programs of users and items."""
    from cadc_rec.serving.bundle.bundle import Bundle

    options = ["--workdir", tmp_path / "work", "--method", "popularity"]
    assert cli("run", tiny, *options).code == 0
    assert cli("export", tiny, *options, "--out", tmp_path / "b").code == 0
    bundle = Bundle.open(tmp_path / "b")
    assert run_self_test(bundle, Exhaustive(bundle)).passed
    assert list(bundle.model()["programs"]) == ["newcomer"]
    assert bundle.model()["torchrec"] == {}


def test_a_prior_alone_knows_a_newcomer_as_well_as_anybody(tiny_recipe, finished_recipe, tmp_path):
    from cadc_rec.config.file import load_experiment
    from cadc_rec.export.finished import Finished
    from cadc_rec.export.write import Wanted, write_bundle
    from cadc_rec.pipeline.pipeline import Pipeline
    from cadc_rec.serving.bundle.bundle import Bundle

    experiment = load_experiment(tiny_recipe, method="prior", overrides=["history.length=4"])
    pipeline = Pipeline(experiment, tmp_path / "work")
    done = Finished(experiment, pipeline.run(), pipeline.dataset, pipeline.pretrained)
    write_bundle(done, tmp_path / "bundle", Wanted())
    bundle = Bundle.open(tmp_path / "bundle")
    vectors = load_program(bundle, "newcomer")(histories(SimpleNamespace(bundle=bundle))).numpy()
    known = bundle.arrays(layout.USER_VECTORS)["vectors"]
    assert np.allclose(vectors, known, rtol=1e-5, atol=1e-6)


def test_a_bundle_that_is_there_is_replaced_only_by_force(plain, monkeypatch):
    from cadc_rec.export import write

    with pytest.raises(CadcError, match="already exists; name another folder"):
        write.write_bundle(plain.finished, plain.path, write.Wanted())

    def fail(*_):
        raise CadcError("no.")

    monkeypatch.setattr(write, "_write_programs", fail)
    before = plain.bundle.fingerprint
    with pytest.raises(CadcError, match="no"):
        write.write_bundle(plain.finished, plain.path, write.Wanted(replace=True))
    assert type(plain.bundle).open(plain.path).fingerprint == before
    assert [entry.name for entry in plain.path.parent.iterdir() if entry.is_dir()] == ["bundle"]


def test_compiled_programs_answer_as_the_programs_they_were_compiled_from(plain, tmp_path):
    from cadc_rec.export import write
    from cadc_rec.serving.bundle.bundle import Bundle
    from cadc_rec.serving.bundle.programs import load_compiled

    write.write_bundle(plain.finished, tmp_path / "compiled", write.Wanted(aot=True))
    bundle = Bundle.open(tmp_path / "compiled")
    for name, rows in (("query", 60), ("item", 40)):
        ids = torch.arange(rows)
        expected = load_program(bundle, name)(ids)
        compiled = load_compiled(bundle, name)
        assert torch.allclose(compiled(ids), expected, rtol=1e-4, atol=1e-5)
        assert compiled(ids[:1]).shape == expected[:1].shape
