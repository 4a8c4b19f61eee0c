"""A bundle for production knows all that is in the log; one for evaluation, what came before test.

What is expected is put together here from the prepared Parquet files.
"""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cadc_rec.config.file import load_experiment
from cadc_rec.export.finished import Finished
from cadc_rec.export.write import Wanted, write_bundle
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.bundle.programs import load_program
from cadc_rec.serving.bundle.self_test import run_self_test
from cadc_rec.serving.predict.predictor import Predictor

pytestmark = pytest.mark.slow


def in_production(done, folder):
    """The same finished experiment as a bundle for production."""
    now = Finished(
        done.experiment, done.artifacts, done.dataset, done.pretrained, state="production"
    )
    write_bundle(now, folder, Wanted(precisions=()))
    return Bundle.open(folder)


@pytest.fixture(scope="module")
def both(request, tmp_path_factory, either_kind):
    """The bundle of the evaluation and that for production, with the experiment."""
    exported = request.getfixturevalue(either_kind)
    folder = tmp_path_factory.mktemp("production") / "bundle"
    return exported, in_production(exported.finished, folder)


@pytest.fixture(scope="module", params=["plain", "with_history"])
def either_kind(request):
    return request.param


def logs(prepared):
    """Every user's items by time: training rows, then validation, then test."""
    rows = {}
    files = [*sorted((prepared / "train").glob("*.parquet")), *map(prepared.joinpath, HELD_OUT)]
    for file in files:
        table = pq.read_table(file, columns=["user", "item"]).to_pydict()
        for user, item in zip(table["user"], table["item"], strict=True):
            rows.setdefault(user, []).append(item)
    return rows


HELD_OUT = ("val.parquet", "test.parquet")


def test_users_know_all_that_is_in_the_log(both):
    exported, bundle = both
    known = bundle.arrays(layout.KNOWN)
    expected = logs(exported.finished.artifacts["prepare"].path)
    found = np.split(known["items"], known["indptr"][1:-1])
    assert [each.tolist() for each in found] == [expected[user] for user in range(60)]
    assert known["popularity"].sum() == 60 + 840
    assert bundle.model()["state"] == "production"
    assert exported.bundle.model()["state"] == "evaluation"


def test_nobody_is_recommended_what_they_took_last(both):
    exported, bundle = both
    test = pq.read_table(exported.finished.artifacts["prepare"].path / "test.parquet").to_pydict()
    items = bundle.table(layout.ITEMS)["item_id"].to_pylist()
    users = bundle.table(layout.USERS)["user_id"].to_pylist()
    last = {users[u]: items[i] for u, i in zip(test["user"], test["item"], strict=True)}
    found = Predictor.of(bundle).recommend(list(last), k=len(items)).lists()
    before = Predictor.of(exported.bundle).recommend(list(last), k=len(items)).lists()
    assert not any(item in mine for item, mine in zip(last.values(), found, strict=True))
    assert all(item in mine for item, mine in zip(last.values(), before, strict=True))


def test_vectors_read_the_history_to_its_end(both):
    exported, bundle = both
    vectors = bundle.arrays(layout.USER_VECTORS)["vectors"]
    before = exported.bundle.arrays(layout.USER_VECTORS)["vectors"]
    length = bundle.model()["history_length"] if "history" in inputs(bundle) else 0
    if not length:
        assert np.array_equal(vectors, before)
        return
    rows = np.full((60, length), -1, np.int64)
    for user, items in logs(exported.finished.artifacts["prepare"].path).items():
        last = items[::-1][:length]
        rows[user, : len(last)] = last
    found = load_program(bundle, "query")(torch.arange(60), torch.from_numpy(rows))
    assert np.allclose(found.numpy(), vectors, atol=1e-5)
    assert np.abs(vectors - before).max() > 1e-2


def inputs(bundle):
    return [each["name"] for each in bundle.model()["programs"]["query"]["inputs"]]


def test_items_and_metrics_are_those_of_the_evaluation(both):
    exported, bundle = both
    for file in (layout.ITEM_VECTORS, layout.INDEX):
        assert bundle.read(file) == exported.bundle.read(file)
    card, evaluated = (of.json(layout.CARD_DATA) for of in (bundle, exported.bundle))
    assert card["test"] == evaluated["test"]
    assert "as it was evaluated" in (bundle.path / layout.CARD).read_text()
    assert "as it was evaluated" not in (exported.bundle.path / layout.CARD).read_text()


def test_a_session_is_answered_as_if_the_log_had_ended_with_it(both):
    """What the evaluation hid, told as a session: the answers of who knows it, to the place."""
    exported, bundle = both
    if not exported.trained.history_length:
        pytest.skip("this model reads no history")
    held = logs(exported.finished.artifacts["prepare"].path)
    items = bundle.table(layout.ITEMS)["item_id"].to_pylist()
    users = bundle.table(layout.USERS)["user_id"].to_pylist()
    before, now = Predictor.of(exported.bundle), Predictor.of(bundle)
    sessions = [[items[held[row][-1]]] for row in range(60)]
    found = before.recommend(users, 20, history=sessions)
    expected = now.recommend(users, 20)
    assert found.item_ids.tolist() == expected.item_ids.tolist()
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    assert before.recommend(users, 20).item_ids.tolist() != expected.item_ids.tolist()
    # The whole log in place of what is known; an item that comes twice counts where it is last.
    sessions = [[items[held[row][-1]], *(items[i] for i in held[row])] for row in range(60)]
    again = before.recommend(users, 20, history=sessions, history_mode="replace")
    assert again.item_ids.tolist() == expected.item_ids.tolist()


def test_its_own_test_passes(both):
    _, bundle = both
    predictor = Predictor.of(bundle)

    def recommend(users, k):
        found = predictor.recommend(users, k)
        return found.lists(), [row[np.isfinite(row)].tolist() for row in found.scores]

    assert run_self_test(bundle, recommend).passed


@pytest.mark.parametrize("method", ["prior", "als"])
def test_tables_alone_read_the_history_to_its_end(tiny, tmp_path, method):
    experiment = load_experiment(tiny, method=method)
    pipeline = Pipeline(experiment, tmp_path / "work")
    artifacts = pipeline.run()
    done = Finished(experiment, artifacts, pipeline.dataset, pipeline.pretrained)
    bundle = in_production(done, tmp_path / "bundle")
    vectors = bundle.arrays(layout.USER_VECTORS)["vectors"]
    if method == "als":  # nothing of a history is read
        assert np.array_equal(vectors, done.vectors("user"))
        return
    length = experiment.history.length
    expected = logs(artifacts["prepare"].path)
    rows = np.full((len(vectors), length), -1, np.int64)
    for user, items in expected.items():
        last = items[::-1][:length]
        rows[user, : len(last)] = last
    newcomers = load_program(bundle, "newcomer")(torch.from_numpy(rows)).numpy()
    assert np.allclose(vectors, newcomers, atol=1e-5)
    assert np.abs(vectors - done.vectors("user")).max() > 1e-3
