"""The study of days judges all contenders on the same clicks, which none of them has seen."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.days.__main__ import fitted, main
from benchmarks.days.cells import Study
from benchmarks.days.clicks import DAY, HOUR, Log
from benchmarks.days.judge import MISSED, of_finished, of_popularity, ranks
from benchmarks.days.page import DOCS, TABLES
from benchmarks.days.results import Results
from cadc_rec.data.recent_popularity import LatestScores

MIDNIGHT = 1_506_826_800_000


def clicks(rows, seed=0, days=4, users=120, items=40):
    """A log in which items grow old: those of a day are mostly taken on that day."""
    random = np.random.default_rng(seed)
    day = random.integers(0, days, rows)
    item = day * 10 + (items * random.random(rows) ** 2).astype(int)
    times = MIDNIGHT + day * DAY + random.integers(0, DAY, rows)
    return pa.table(
        {
            "user_id": pa.array(1000 + random.integers(0, users, rows), pa.int32()),
            "item_id": pa.array(item * 3, pa.int32()),
            "timestamp": times,
            "rating": np.ones(rows, np.int8),
        }
    )


def in_time(log):
    """(time, user, item) of every interaction, the earliest first."""
    columns = (log.table[name].to_pylist() for name in ("timestamp", "user_id", "item_id"))
    return list(zip(*columns, strict=True))


def test_a_request_is_the_first_click_on_something_new_to_the_user_and_known_to_the_log():
    log = Log(clicks(900))
    start = MIDNIGHT + 2 * DAY
    before = [row for row in in_time(log) if row[0] < start]
    taken, known = {}, {item for _, _, item in before}
    for _, user, item in before:
        taken.setdefault(user, [])
        if item not in taken[user]:
            taken[user].append(item)
    wanted, returned = [], set()
    for time, user, item in in_time(log):
        if not start <= time < start + DAY or user not in taken or user in returned:
            continue
        if item not in taken[user]:
            returned.add(user)
            if item in known:
                wanted.append((user, item, time))
    asked = log.requests(start, start + DAY)
    found = zip(asked.user.tolist(), asked.target.tolist(), asked.time.tolist(), strict=True)
    assert list(found) == wanted
    assert asked.returned == len(returned) > len(wanted) > 0
    for place, (user, _, _) in enumerate(wanted):
        assert log.items[asked.taken.of(place)].tolist() == taken[user]


def test_a_share_of_the_users_has_all_their_clicks_and_is_the_same_in_every_log():
    table = clicks(2000)
    part = Log(table, 0.3)
    kept = set(part.users.tolist())
    assert 0 < len(kept) < len(Log(table).users)
    every = [row for row in in_time(Log(table)) if row[1] in kept]
    assert in_time(part) == every
    again = Log(table.slice(500), 0.3)
    assert set(again.users.tolist()) <= kept


@pytest.mark.parametrize("live", [False, True])
def test_popularity_counts_what_came_before_and_ranks_what_the_log_knew(live):
    log = Log(clicks(900))
    start = MIDNIGHT + 2 * DAY
    asked = log.requests(start, start + DAY)
    found = ranks(log, asked, of_popularity(log, asked, start, 12, live))
    firsts = {}
    for time, user, item in in_time(log):
        firsts.setdefault((user, item), time)
    known = {item for (_, item), time in firsts.items() if time < start}
    for place in range(len(asked)):
        until = int(asked.time[place]) if live else start
        counts = dict.fromkeys(known, 0)
        for (_, item), time in firsts.items():
            if until - 12 * HOUR <= time < until and item in counts:
                counts[item] += 1
        target = int(asked.target[place])
        candidates = known - set(log.items[asked.taken.of(place)].tolist())
        rank = sum(counts[item] >= counts[target] for item in candidates)
        assert found[place] == rank


def times_taken(n_items):
    """How often the model's log has each item."""
    return np.arange(n_items)[::-1] * 7


def made_of(log, known_users, known_items):
    """A model with these original ids; its vectors are random, its newcomers' sums of items'."""
    random = np.random.default_rng(1)
    vectors = {
        "user": random.normal(size=(len(known_users), 4)).astype(np.float32),
        "item": random.normal(size=(len(known_items), 4)).astype(np.float32),
    }

    taken = times_taken(len(known_items))

    def newcomer(history):
        items = torch.from_numpy(vectors["item"])[history.clamp(min=0)]
        return (items * (history >= 0)[..., None]).sum(1)

    return SimpleNamespace(
        dataset=SimpleNamespace(
            item_ids=lambda: pa.array(known_items),
            user_ids=lambda: pa.array(known_users),
        ),
        known=SimpleNamespace(items=np.repeat(np.arange(len(known_items)), taken)),
        vectors=vectors.get,
        listed=lambda: None,
        latest=LatestScores(None),
        newcomer_program=SimpleNamespace(module=newcomer, inputs={"history": (3,)}),
    )


def test_whom_a_model_does_not_know_gets_what_its_service_gives():
    log = Log(clicks(900))
    start = MIDNIGHT + 2 * DAY
    asked = log.requests(start, start + DAY)
    random = np.random.default_rng(2)
    users = random.permutation(log.users)[: len(log.users) // 2].tolist()
    items = random.permutation(log.items)[:12].tolist()
    made = made_of(log, users, items)
    found = ranks(log, asked, of_finished(log, asked, made))
    of_item = dict(zip(items, made.vectors("item").astype(np.float64), strict=True))
    kinds = set()
    for place in range(len(asked)):
        user, target = int(asked.user[place]), int(asked.target[place])
        if target not in of_item:
            assert found[place] == MISSED
            continue
        taken = log.items[asked.taken.of(place)].tolist()
        history = [item for item in taken if item in of_item][::-1]
        if user in users:
            kind, query = "known", made.vectors("user")[users.index(user)]
            scores = {item: vector @ query for item, vector in of_item.items()}
        elif history:
            kind, query = "history", sum(of_item[item] for item in history[:3])
            scores = {item: vector @ query for item, vector in of_item.items()}
        else:
            kind = "nobody"
            scores = dict(zip(items, times_taken(len(items)).tolist(), strict=True))
        kinds.add(kind)
        left = [score for item, score in scores.items() if item not in taken]
        assert found[place] == sum(score >= scores[target] - 1e-9 for score in left)
    assert kinds == {"known", "history", "nobody"}


@pytest.mark.slow
def test_four_days_are_judged_as_the_update_itself_foresaw_and_are_not_made_twice(tmp_path):
    data, work = tmp_path / "clicks.parquet", tmp_path / "work"
    pq.write_table(clicks(6000, users=400), data)
    words = ["--data", str(data), "--workdir", str(work), "--days", "4", "--hours-of", "4"]
    words += [
        "--hours",
        "2",
        "--parts",
        "days",
        "half",
        "hours",
        "--set",
        "pretrain.als.iterations=3",
    ]
    main(words)
    found = Results.read(work / "results")
    assert not any(cell["interrupted"] for cell in found.cells.values())
    # The update that learned day 3 was judged on it before, by other code: that of the update.
    foreseen = found.cells["update-04"]["report"]["progressive"]
    first = found.cells["rebuild-03-seed-0"]
    assert foreseen["users"] == first["requests"]
    assert foreseen["metrics"]["hr@10"] == pytest.approx(
        first["metrics"]["evaluated"]["all"]["hr@10"]
    )
    assert foreseen["metrics"]["ndcg@10"] == pytest.approx(
        first["metrics"]["evaluated"]["all"]["ndcg@10"]
    )
    # The model of both days is no-update's on day 3; later on it is not that of the updates.
    assert found.metric("none", "03") == found.metric("rebuild", "03")
    assert found.metric("none", "04") != found.metric("update", "04")
    files = sorted((work / "results").iterdir())
    made = [file.stat().st_mtime_ns for file in files]
    main(words)
    assert [file.stat().st_mtime_ns for file in files] == made
    # One that a kill had cut off says so, and its seconds are left out of the page.
    (work / "results" / "update-04.json").unlink()
    (work / "results" / "update-04.started").touch()
    main(words)
    again = json.loads((work / "results" / "update-04.json").read_text("utf-8"))
    assert again["interrupted"]
    assert again["metrics"] == found.cells["update-04"]["metrics"]
    main([*words, "--anew", "4"])
    anew = json.loads((work / "results" / "update-04.json").read_text("utf-8"))
    assert not anew["interrupted"]
    assert anew["metrics"] == again["metrics"]
    # What the fits are recorded as is what the states of those days were fitted to.
    study = Study(Log.read(data, 1.0), work, "prior", MIDNIGHT, ("pretrain.als.iterations=3",))
    states = [study.state(work / "work", number) for number in (0, 1)]
    files = [state.artifacts["prior"].path / "fitted_prior.json" for state in states]
    of_days = [json.loads(file.read_text("utf-8")) for file in files]
    recorded = fitted(work / "work")
    assert list(recorded) == ["03", "04"]
    assert of_days[0]["factors"] != of_days[1]["factors"]
    assert [fit["factors"] for fit in recorded.values()] == [fit["factors"] for fit in of_days]
    # What is recorded makes the page of what was measured, without the ranks.
    found = Results.read(work / "results")
    content = json.loads(json.dumps(found.record()))
    assert DOCS.tables(content) == {mark: "\n".join(made(found)) for mark, made in TABLES.items()}
    ratio = found.metric("update", "04") / found.metric("rebuild", "04")
    assert f"| {ratio:.3f} |" in DOCS.tables(content)["days-accuracy"]
    assert math.isclose(found.metric("update", "03"), found.metric("rebuild", "03"))
    assert DOCS.pictures(content)["docs/images/days.svg"].startswith("<svg")
