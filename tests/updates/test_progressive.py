"""Predict, then learn: what the model before an update foresaw, worked out by plain NumPy."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

from cadc_rec.config.experiment import UpdateConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.user_items import UserItems
from cadc_rec.errors import CadcError
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.study.report.days import write_days
from cadc_rec.updates.changes import Changes
from cadc_rec.updates.drift import held_out_before_and_after
from cadc_rec.updates.progressive import fell, norms, progressive
from cadc_rec.updates.report import update_lines
from cadc_rec.updates.served import served_ranks
from cadc_rec.updates.update import _Update, carry_on
from tests.updates.conftest import day_rows, item, shop_rows, user


def by_hand(base, rows):
    """HR@10 and NDCG@10 of next items by the base's vectors, and the counts, by original ids."""
    folder = base["evaluate"].path
    table = {
        side: dict(
            zip(
                pq.read_table(folder / f"{side}_ids.parquet")[f"{side}_id"].to_pylist(),
                load_file(folder / f"{side}_vectors.safetensors")["vectors"].astype(np.float64),
                strict=True,
            )
        )
        for side in ("user", "item")
    }
    known = {}
    for who, what, _ in shop_rows():
        known.setdefault(who, set()).add(what)
    counts = {"known": 0, "new_user": 0, "new_item": 0, "new_both": 0}
    nexts = {}
    for who, what, _ in sorted(rows, key=lambda row: row[2]):
        mine = nexts.setdefault(who, [])
        if what in known.get(who, ()) or what in mine:
            continue
        mine.append(what)
        kinds = ("known", "new_item") if who in known else ("new_user", "new_both")
        counts[kinds[what not in table["item"]]] += 1
    ranks, unforeseen = [], 0
    for who, came in nexts.items():
        if who not in known or not came:
            continue
        if came[0] not in table["item"]:
            unforeseen += 1
            continue
        scores = {what: vector @ table["user"][who] for what, vector in table["item"].items()}
        better = [w for w, s in scores.items() if w not in known[who] and s > scores[came[0]]]
        ranks.append(1 + len(better))
    hits = [rank <= 10 for rank in ranks]
    gains = [1 / math.log2(1 + rank) if rank <= 10 else 0.0 for rank in ranks]
    return counts, np.mean(hits), np.mean(gains), len(ranks), unforeseen


def test_next_items_are_ranked_by_the_model_that_has_not_seen_them(workdir, experiment, day):
    base = Pipeline(experiment(), workdir).run()
    # One more user, whose next item is one that nobody had.
    rows = [*day_rows(), (user(20), item(77), 250), (user(20), item(3), 260)]
    update = carry_on(experiment(), workdir, day(rows)).update
    counts, hits, gains, users, unforeseen = by_hand(base, rows)
    found = update.report["progressive"]
    assert found["rows"] == counts
    assert sum(counts.values()) == update.report["day"]["interactions"]
    assert (found["users"], found["new_item"]) == (users, unforeseen)
    assert unforeseen >= 1
    assert found["metrics"] == pytest.approx({"hr@10": hits, "ndcg@10": gains})
    said = "\n".join(update_lines(update.report))
    assert f"next items of {users} users who came back: HR@10 {100 * hits:.2f}%" in said


def test_tables_lengths_are_told_before_and_after(workdir, experiment, day):
    base = Pipeline(experiment(), workdir).run()
    update = carry_on(experiment(), workdir, day()).update
    before = load_file(base["pretrain"].path / "item.safetensors")["weight"]
    after = load_file(workdir / update.artifacts["pretrain"] / "item.safetensors")["weight"]

    def of(rows):
        return np.linalg.norm(rows.astype(np.float64), axis=1).mean()

    expected = {"before": of(before), "after": of(after[: len(before)]), "new": of(after[30:])}
    assert len(after) == 31
    assert update.report["norms"]["tables"]["item"] == pytest.approx(expected)
    alone = norms(torch.ones(2, 4), torch.ones(2, 4))
    assert alone == {"before": 2.0, "after": 2.0, "new": None}


def test_lists_that_come_on_top_of_vectors_are_part_of_what_is_foreseen(tmp_path, experiment):
    """The test items, known to the evaluation, are ranked as it ranked them."""
    made = experiment(
        pretrain={"model": "als", "factors": 7},
        transitions={"window": 3, "form": "lists"},
        history={"length": 4},
        prior={"use": True},
        model={"kind": "tables"},
    )
    base = Pipeline(made, tmp_path / "work").run()
    assert "lists" in base["evaluate"].info
    old = Dataset.open(base["prepare"])
    users = np.flatnonzero(old.test_item >= 0)
    taken = [
        np.append(old.train_item[old.user_indptr[u] : old.user_indptr[u + 1]], old.val_item[u])
        for u in users
    ]
    lists = UserItems.of_lists([each.astype(np.int32) for each in taken])
    ranks = served_ranks(base, old, users, old.test_item[users].astype(np.int64), lists)
    kept = pq.read_table(base["evaluate"].path / "ranks.parquet")["rank"].to_numpy()
    assert ranks.tolist() == kept.tolist()
    # Of one model, whose test items were all of another day once: before and after are the same.
    other = replace(old, test_item=np.full_like(old.test_item, -1))
    compared = held_out_before_and_after(other, old, base, base["evaluate"], [10])
    assert compared["users"] == len(users)
    assert compared["before"] == compared["after"] == base["evaluate"].info["test"]


def foreseen(rate, users):
    return {"users": users, "metrics": {"hr@10": rate}}


@pytest.mark.parametrize(
    ("first", "now", "falls"),
    [
        (foreseen(0.2, 10_000), foreseen(0.15, 10_000), True),  # 16% is the bound
        (foreseen(0.2, 10_000), foreseen(0.17, 10_000), False),
        (foreseen(0.2, 100), foreseen(0.15, 100), False),  # by chance
        (None, foreseen(0.0, 10_000), False),  # the first after a full build
        (foreseen(0.2, 10_000), {"users": 0, "metrics": None}, False),
        ({"users": 0, "metrics": None}, foreseen(0.1, 10_000), False),
    ],
)
def test_a_fall_beyond_the_bound_and_chance_advises_a_rebuild(first, now, falls):
    why = fell(UpdateConfig(), first, now)
    assert bool(why) == falls
    if falls:
        assert why == (
            "HR@10 of users' next items, before they are learned, is 15.00%, and was 20.00% after "
            "the last full build: below update.advise_hit_rate = 0.8 of it"
        )


def test_an_update_compares_with_the_first_one_after_the_run(workdir, experiment, day, monkeypatch):
    from cadc_rec.updates import update as at_work

    given = iter([foreseen(0.5, 10_000), foreseen(0.45, 10_000), foreseen(0.3, 10_000)])
    rows = {"rows": {"known": 1, "new_user": 0, "new_item": 0, "new_both": 0}, "new_item": 0}
    monkeypatch.setattr(at_work, "progressive", lambda *_: next(given) | rows)
    advised = []
    for number, name in enumerate(("one", "two", "three")):
        one = carry_on(experiment(), workdir, day([(user(8), item(90 + number), 350)], name)).update
        advised.append([why for why in one.report["rebuild"] if why.startswith("HR@10 of users'")])
    assert [len(why) for why in advised] == [0, 0, 1]
    assert "is 30.00%, and was 50.00%" in advised[2][0]


def test_a_day_on_which_nobody_came_back_is_not_what_others_are_compared_with():
    reports = [
        {"rebuilt": "why", "progressive": foreseen(0.9, 9)},
        {"rebuilt": ""},  # an older record
        {"rebuilt": "", "progressive": {"users": 0, "metrics": None}},
        {"rebuilt": "", "progressive": foreseen(0.5, 9)},
        {"rebuilt": "", "progressive": foreseen(0.3, 9)},
    ]
    done = [SimpleNamespace(report=report) for report in reports]
    assert _Update._first_since_full_build(SimpleNamespace(done=done)) == foreseen(0.5, 9)


def test_a_user_of_whom_only_what_is_held_out_changed_came_back(monkeypatch):
    """Item 5 lost its row, so the user's other items moved on; D_full has the same rows."""
    none = np.zeros(0, np.int64)
    dataset = {"n_users": 2, "n_items": 7, "user_indptr": np.array([0, 1, 2])}
    dataset["train_item"] = np.array([0, 4], np.int32)
    rows = {"item": np.array([6]), "user": none}
    dataset["forgotten"] = SimpleNamespace(rows=rows)
    old = SimpleNamespace(**dataset, val_item=np.array([5, 1]), test_item=np.array([2, -1]))
    new = SimpleNamespace(**dataset, val_item=np.array([2, 1]), test_item=np.array([3, -1]))
    changes = Changes(np.arange(2), np.zeros(2, bool), none, none, {"item": np.array([5])})
    asked = []

    def ranks(_before, _old, users, targets, taken, k):
        assert k == 10
        asked.append((users.tolist(), targets.tolist(), taken.of(0).tolist()))
        return np.array([3])

    monkeypatch.setattr("cadc_rec.updates.progressive.served_ranks", ranks)
    found = progressive({}, old, new, changes, [10])
    assert asked == [([0], [3], [0, 5, 2, 6])]  # and 6 was forgotten
    assert found["rows"] == {"known": 1, "new_user": 0, "new_item": 0, "new_both": 0}


def drawn(number, name, progressive):
    drift = {"all": {"cosine": 0.9}}
    length = {"before": 1.0, "after": 1.5, "new": None}
    report = {
        "progressive": progressive,
        "norms": {"vectors": {"user": length, "item": length}, "tables": {}},
        "vectors": {"user": drift, "item": drift},
        "rebuilt": "",
        "rebuild": ["why"] if number == 3 else [],
    }
    return SimpleNamespace(number=number, name=name, report=report)


def test_a_chain_of_updates_is_drawn_over_its_days(tmp_path):
    rows = {"known": 60, "new_user": 25, "new_item": 10, "new_both": 5}
    nothing = {"rows": rows, "users": 0, "new_item": 4, "metrics": None}
    some = {**nothing, "users": 100, "metrics": {"hr@10": 0.25, "ndcg@10": 0.125}}
    old = SimpleNamespace(number=1, name="old", report={"rebuilt": "", "rebuild": []})
    updates = [old, drawn(2, "tue|day", nothing), drawn(3, "", some)]
    page = write_days(updates, tmp_path / "drawn")
    lines = page.read_text().splitlines()
    assert "| 2 | tue\\|day | 100 | 60.0% | 30.0% | 15.0% | 0 |  |  |  |" in lines
    assert "| 3 |  | 100 | 60.0% | 30.0% | 15.0% | 100 | 25.00% | 12.50% | advised |" in lines
    picture = (tmp_path / "drawn" / "updates.svg").read_text()
    assert "next items, before they were learned: 25%" in picture
    assert picture.count("known user and item: 60%") == 2
    with pytest.raises(CadcError, match="no update here tells what was foreseen"):
        write_days([old], tmp_path / "none")


def test_the_command_draws_them(cli, workdir, config, experiment, day, tmp_path):
    carry_on(experiment(), workdir, day(name="monday"))
    done = cli("updates", config, "--workdir", workdir, "--draw", tmp_path / "drawn")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == str(tmp_path / "drawn" / "updates.md")
    assert "| 1 | monday |" in (tmp_path / "drawn" / "updates.md").read_text()
