"""What the moment of a request says is ranked as offline: sessions, times, contexts, live events.

Ranks are those that the evaluation wrote; counts are made here, from the prepared Parquet files.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cadc_rec.config.file import load_experiment
from cadc_rec.data.context import requests_of_test_items
from cadc_rec.export.finished import Finished
from cadc_rec.export.write import Wanted, write_bundle
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.predict.events import Event
from cadc_rec.serving.predict.predictor import Predictor
from cadc_rec.serving.predict.recent import RecentNow

pytestmark = pytest.mark.slow

SETS = (
    "data.generated.users=260",
    "data.generated.interactions=3000",
    "pretrain.factors=7",
    "transitions.form=lists",
    "transitions.targets=20",
    "prior.fit=validation",
    "prior.recent=true",
    "model.id_dim=8",
)
TOWERS = ("model.keep=towers", 'context.features=["hour", "weekday"]', "context.dim=2")


@pytest.fixture(scope="module", params=["prior", "recipe", "auto"])
def made(request, tiny, tmp_path_factory):
    """A finished experiment whose score reads all that there is, as both kinds of bundle."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param)
    sets = SETS if request.param == "prior" else (*SETS, *TOWERS)
    experiment = load_experiment(tiny, method=request.param, overrides=sets)
    pipeline = Pipeline(experiment, folder / "work")
    done = Finished(experiment, pipeline.run(), pipeline.dataset, pipeline.pretrained)
    for state in ("evaluation", "production"):
        write_bundle(replace(done, state=state), folder / state, Wanted(precisions=()))
    return SimpleNamespace(done=done, folder=folder, rows=rows_of(done), method=request.param)


def rows_of(done):
    """All rows of the log: user, item, seconds, and which of the three splits."""
    prepared, found = done.artifacts["prepare"].path, []
    files = [(file, 0) for file in sorted((prepared / "train").glob("*.parquet"))]
    files += [(prepared / "val.parquet", 1), (prepared / "test.parquet", 2)]
    for file, split in files:
        table = pq.read_table(file, columns=["user", "item", "timestamp"]).to_pydict()
        columns = table["user"], table["item"], table["timestamp"]
        found += [(*row, split) for row in zip(*columns, strict=True)]
    return sorted(found, key=lambda row: row[2])


def recent_scores(rows, recent, start, end, n_items):
    """factor x log(1 + how often each item was taken in [start, end))."""
    items = [item for _, item, time, _ in rows if start <= time < end]
    counts = np.bincount(np.array(items, int), minlength=n_items)
    return (recent["factor"] * np.log1p(counts)).astype(np.float32)


def test_a_session_at_its_moment_ranks_as_the_evaluation_did(made):
    """Each user's history up to the test item, told with its time and context, to the place."""
    done, data = made.done, made.done.dataset
    predictor = Predictor.load(made.folder / "evaluation")
    recent = done.artifacts["evaluate"].info["recent"]
    items, users = data.item_ids().to_pylist(), data.user_ids().to_pylist()
    train = [row for row in made.rows if row[3] == 0]
    before = {user: [] for user in range(data.n_users)}
    for user, item, _, split in sorted(made.rows, key=lambda row: (row[0], row[3])):
        if split < 2:
            before[user].append(items[item])
    told = {}
    if done.codes is not None:
        times, columns = requests_of_test_items(data, done.codes)
        assert not columns
        told = {"times": times}
    ranks = pq.read_table(done.artifacts["evaluate"].path / "ranks.parquet").to_pydict()
    expected = dict(zip(ranks["user_id"], ranks["rank"], strict=True))
    assert len(expected) > 200
    by_session = 0
    for user in range(data.n_users):
        if users[user] not in expected:
            continue
        now = data.test_timestamp[user]
        scores = recent_scores(train, recent, now - recent["window"], now, data.n_items)
        rows = np.flatnonzero(scores).astype(np.int32)
        predictor.events.recent = RecentNow(rows, scores[rows])
        moment = {"time": float(told["times"][user])} if told else {}
        found = predictor.recommend(
            [users[user]], len(items), history=[before[user]], history_mode="replace", **moment
        )
        target = items[data.test_item[user]]
        place = found.lists()[0].index(target)
        own = found.scores[0, place]
        rank = int((found.scores[0] >= own - 1e-6).sum())
        assert rank == expected[users[user]]
        if made.method == "prior":  # knows users by their histories alone
            nobody = predictor.recommend([None], len(items), history=[before[user]])
            rank = int((nobody.scores[0] >= own - 1e-6).sum())
            by_session += rank == expected[users[user]]
    assert made.method != "prior" or by_session == len(expected)


def test_live_events_rank_as_a_log_that_ended_with_them(made):
    done, data = made.done, made.done.dataset
    still = Predictor.load(made.folder / "production")
    live = Predictor.load(made.folder / "production")
    recent = done.artifacts["evaluate"].info["recent"]
    n, end = data.n_items, max(row[2] for row in made.rows)
    items, users = data.item_ids().to_pylist(), data.user_ids().to_pylist()
    assert live.events.log_ends == end
    # A while after the log's end, so that rows fall out of the window as others come in.
    draw = np.random.default_rng(3)
    times = np.sort(end + draw.uniform(0, 0.8 * recent["window"], 60))
    who = draw.integers(0, 12, 60)  # eight known users, two new ones, two rows of nobody
    taken = {user: {row[1] for row in made.rows if row[0] == user} for user in range(8)}
    log, sessions, events = list(made.rows), {}, []
    for time, user, item in zip(times.tolist(), who.tolist(), draw.integers(0, n, 60), strict=True):
        name = users[user] if user < 8 else (-user if user < 10 else None)
        events.append(Event(items[item], time, name))
        mine = taken.setdefault(user, set())
        if name is None or item not in mine:  # of a pair, a log has the first row
            log.append((user, item, time, 3))
        if name is not None:
            mine.add(item)
            sessions.setdefault(name, []).append(items[item])
    for part in (slice(0, 60, 2), slice(1, 60, 2)):  # half of them come late
        assert live.count(events[part]).taken == 30
    last = times[-1]
    begin = np.nextafter(last, np.inf) - recent["window"]
    now = recent_scores(log, recent, begin, np.inf, n)
    then = still.item_vectors.vectors[:n, -1]
    assert (now != then).sum() > 5
    moment = {} if done.codes is None else {"time": 1.5e9}
    for name in [*users[:20], -8, -9, -77]:
        session = sessions.get(name, [])
        old = still.recommend([name], n, history=[session], **moment)
        rows = old.rows[0][old.rows[0] >= 0]
        expected = old.scores[0][: len(rows)] + (now - then)[rows].astype(np.float64)
        if old.sources[0] == 2:  # a new user without a session is answered by counts of all time
            expected = old.scores[0][: len(rows)]
        found = live.recommend([name], n, **moment)
        assert found.sources[0] == old.sources[0]
        order = np.lexsort((rows, -expected))
        np.testing.assert_allclose(
            found.scores[0][: len(rows)], expected[order], rtol=1e-4, atol=1e-4
        )
        same = found.rows[0][: len(rows)] == rows[order]
        close = np.abs(np.diff(expected[order], prepend=np.inf, append=-np.inf)) < 1e-5
        assert (same | close[1:] | close[:-1]).all()
        assert set(found.rows[0]) == set(old.rows[0])


def test_a_bundle_says_what_it_counts(made):
    bundle = Bundle.open(made.folder / "production")
    recent = made.done.artifacts["evaluate"].info["recent"]
    model, rows = bundle.model(), bundle.arrays(layout.RECENT)
    end = max(row[2] for row in made.rows)
    assert model["recent"] == {"window": recent["window"], "factor": recent["factor"]}
    assert model["log_ends"] == end
    expected = sorted((row[2], row[1]) for row in made.rows if row[2] > end - recent["window"])
    found = sorted(zip(rows["time"].tolist(), rows["item"].tolist(), strict=True))
    assert found == expected
    assert (np.diff(rows["time"]) >= 0).all()
