"""What a model with a context is asked: by a finished run, and by its bundle."""

import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import cadc_rec
from cadc_rec.data.context import RequestContext
from cadc_rec.errors import CadcError
from cadc_rec.export.finished import Finished
from cadc_rec.export.predict import TwoTowerPredictFactory
from cadc_rec.export.towers import batch_of, history_features, side_features
from cadc_rec.export.write import Wanted, write_bundle
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.bundle.self_test import run_self_test
from cadc_rec.serving.predict.answers import Source
from cadc_rec.serving.predict.predictor import Predictor
from tests.conftest import TINY

pytestmark = pytest.mark.slow  # together; each by itself is quick

FEATURES = ["hour", "device", "gap", "stars", "shelf"]
START = 1_700_000_000


def log():
    """Users 1 to 60; a phone asks for low items and the web for high; ``rare`` ends half of all."""
    draw, rows = np.random.default_rng(3), []
    for user in range(1, 61):
        count = int(draw.integers(5, 12))
        devices = draw.choice(["phone", "web"], count)
        taken = set()
        for place, device in enumerate(devices):
            free = [n for n in range(40) if n not in taken and (n < 20) == (device == "phone")]
            item = int(draw.choice(free))
            taken.add(item)
            at = START + 40 * user + 9000 * place**2 + int(draw.integers(0, 7000))
            last = place == count - 1
            rows.append(
                {
                    "user_id": user,
                    "item_id": item,
                    "at": at,
                    "device": "rare" if last and user % 2 else device,
                    "stars": int(draw.integers(1, 6)),
                    "shelf": int(draw.integers(7, 10)),
                }
            )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with histories, a prior and a context, its bundle, and what they may be asked."""
    torch.set_num_threads(1)
    work = tmp_path_factory.mktemp("context")
    log().to_parquet(work / "log.parquet", index=False)
    text = TINY.replace("[data.generated]\nusers = 60\nitems = 40\ninteractions = 900\n", "")
    config = work / "context.toml"
    config.write_text(text.replace("epochs = 3\n", ""))
    columns = {"user": "user_id", "item": "item_id", "timestamp": "at", "unit": "s"}
    sets = {
        "data.source": "tables",
        "data.tables.interactions.path": "log.parquet",
        **{f"data.tables.interactions.{key}": value for key, value in columns.items()},
        "data.tables.interactions.timestamp_kind": "clock",
        "data.tables.interactions.context": ["device", "shelf"],
        "data.tables.interactions.context_lagged": ["stars"],
        "context.features": FEATURES,
        "context.dim": 3,
        "history.length": 4,
        "history.windows": [1, 3],
        "prior.fit": "none",
        "model.keep": "towers",
        "model.id_dim": 16,
        "select.ratio": 1.0,
        "train.epochs": 15,
        "train.learning_rate": 0.03,
    }
    experiment = cadc_rec.load(config, method="recipe", set=sets)
    run = cadc_rec.run(experiment, workdir=work / "work", data_dir=work)
    pipeline = Pipeline(experiment, work / "work", work)
    done = Finished(experiment, pipeline.run(), pipeline.dataset, pipeline.pretrained)
    write_bundle(done, work / "bundle", Wanted())
    evaluated = done.artifacts["evaluate"].path
    ends = log().sort_values(["user_id", "at"], kind="stable").groupby("user_id").last()
    ranks = pq.read_table(evaluated / "ranks.parquet").to_pydict()
    asked = ends.loc[ranks["user_id"]]
    return SimpleNamespace(
        run=run,
        done=done,
        path=work / "bundle",
        predictor=Predictor.load(work / "bundle"),
        ranks=ranks,
        users=ranks["user_id"],
        # What the request of each user's test item said.
        time=asked["at"].tolist(),
        context={"device": asked["device"].tolist(), "shelf": asked["shelf"].tolist()},
    )


def scores(answer):
    return {
        (place, item): score
        for place, (items, its) in enumerate(zip(answer.item_ids, answer.scores, strict=True))
        for item, score in zip(items.tolist(), its.tolist(), strict=True)
    }


@pytest.mark.parametrize("asker", ["run", "predictor"])
def test_the_test_items_requests_get_the_scores_of_the_evaluation(made, asker):
    answer = getattr(made, asker).recommend(made.users, 20, time=made.time, context=made.context)
    rows = made.predictor.users.rows(made.users)
    users, items = (made.done.vectors(side).astype(np.float64) for side in ("user", "item"))
    evaluated = users[rows] @ items.T
    listed = made.predictor.listed
    if listed is not None:
        read = [made.predictor.known.of(row)[::-1] for row in rows]
        evaluated += listed.of_lists(read).toarray()
    expected = np.take_along_axis(evaluated, answer.rows, 1)
    np.testing.assert_allclose(answer.scores, expected, rtol=1e-4, atol=1e-4)
    for user, (item, rank) in enumerate(
        zip(made.ranks["item_id"], made.ranks["rank"], strict=True)
    ):
        if rank <= 20:
            assert answer.item_ids[user].tolist().index(item) <= rank - 1


def test_a_run_and_its_bundle_answer_alike_at_any_moment(made):
    said = {"time": START + 10**6, "context": {"device": "phone"}}
    one, other = (each.recommend(made.users, 9, **said) for each in (made.run, made.predictor))
    assert (one.item_ids == other.item_ids).mean() > 0.98
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4, atol=1e-4)


def test_a_phone_is_recommended_what_phones_ask_for(made):
    phone, web = (
        made.predictor.recommend(made.users, 10, time=made.time, context={"device": device})
        for device in ("phone", "web")
    )
    assert (phone.item_ids < 20).mean() > (web.item_ids < 20).mean() + 0.1


def test_what_is_not_said_is_now_and_missing(made, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: START + 123_456.0)
    ask = made.predictor.recommend
    default = ask(made.users, 5).scores.tolist()
    for context in (None, {"device": None}, {"device": "never seen", "shelf": 10**6}):
        assert ask(made.users, 5, time=START + 123_456, context=context).scores.tolist() == default
    assert ask(made.users, 5, time=[None] * len(made.users)).scores.tolist() != default


def test_every_user_has_a_moment_of_their_own(made):
    several = made.predictor.recommend(made.users[:2], 5, time=made.time[:2]).scores
    for n in range(2):
        alone = made.predictor.recommend(made.users[n : n + 1], 5, time=made.time[n]).scores
        np.testing.assert_allclose(several[n], alone[0], rtol=1e-5)


def test_a_newcomer_with_a_history_is_asked_for_the_moment_too(made):
    first = made.predictor.items.ids[0].item()
    phone, web = (
        made.predictor.recommend([-7], 5, history=[[first]], context={"device": device})
        for device in ("phone", "web")
    )
    assert phone.sources.tolist() == [Source.HISTORY]
    assert phone.scores.tolist() != web.scores.tolist()


def test_a_score_is_that_of_the_recommendation(made):
    said = {"time": START, "context": {"device": "web"}}
    found = made.predictor.recommend(made.users[:3], 2, **said)
    pairs = [
        (u, i)
        for u, items in zip(made.users[:3], found.item_ids.tolist(), strict=True)
        for i in items
    ]
    np.testing.assert_allclose(
        made.predictor.score(pairs, **said), found.scores.ravel(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"context": {"device": 3}}, "context: values of 'device' are text; got 3"),
        ({"context": {"shelf": "7"}}, "context: values of 'shelf' are whole numbers; got '7'"),
        ({"context": {"stars": 3}}, "context: 'stars' is known only afterwards"),
        ({"context": {"color": "red"}}, "reads no 'color'; there are: device, shelf"),
        ({"context": {"device": ["web", "web"]}}, "give one value of 'device', or one for each"),
        ({"context": "web"}, "context: give the values by column, not 'web'"),
        ({"time": "noon"}, r"time: give seconds since 1970 \(UTC\), not 'noon'"),
        ({"time": [1, 2]}, "time: give one number, or one for each of the 1 users"),
        ({"time": START * 1000}, "is not in the years 1 to 9999"),
        ({"time": float("inf")}, "is not in the years 1 to 9999"),
    ],
)
def test_what_no_request_can_say_is_one_sentence(made, said, sentence):
    with pytest.raises(CadcError, match=sentence):
        made.predictor.recommend(made.users[:1], 5, **said)


def test_the_self_test_has_the_requests_of_the_test_items(made):
    bundle = Bundle.open(made.path)

    def ask(users, k, **said):
        found = made.predictor.recommend(users, k, **said)
        return found.item_ids.tolist(), found.scores.tolist()

    assert bundle.manifest["format_version"] == 3
    assert run_self_test(bundle, ask).passed
    assert not run_self_test(bundle, lambda users, k, **said: ask(users, k)).passed
    assert [one["name"] for one in bundle.model()["context"]] == ["time", "device", "shelf"]
    assert sorted(bundle.json(layout.CONTEXT)["values"]["device"]) == ["phone", "web"]


def test_the_torchrec_module_takes_the_codes_of_a_request(made):
    trained, data = made.done.trained(), made.done.dataset
    codes = RequestContext.of(data, FEATURES).test[:7].astype(np.int64)
    beyond = codes.copy()
    beyond[:, 1] = 999  # a device that no training row had
    histories = data.last_items(4, with_validation=True)[:7]
    factory = TwoTowerPredictFactory(trained, "fp16")
    module = factory.scripted()

    def vectors(codes):
        parts = [
            *side_features(np.arange(7), trained.user.attributes),
            *history_features(histories),
        ]
        for column in codes.T:  # code 0 may be left out
            known = column > 0
            parts += [known.astype(np.int32), column[known]]
        return module.query_vectors(batch_of(parts))["default"].numpy()

    expected = made.done.vectors("user")[:7]
    np.testing.assert_allclose(vectors(codes), expected, rtol=0.02, atol=0.02)
    codes[:, 1] = 0
    np.testing.assert_allclose(vectors(beyond), vectors(codes), rtol=1e-5, atol=1e-6)


def test_a_model_without_a_context_refuses_one(tiny, finished):
    run = cadc_rec.finished(cadc_rec.load(tiny), workdir=finished.workdir)
    with pytest.raises(CadcError, match="time: this model reads nothing of the moment"):
        run.recommend([1], 5, time=START)
