"""Ids that come and go over days: no row is ever read as its former owner's."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

from cadc_rec.config.experiment import Experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.distributed.state import local_tensors
from cadc_rec.export.finished import Finished
from cadc_rec.export.write import Wanted, write_bundle
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pipeline.stages import train as train_stage
from cadc_rec.serving.predict.predictor import Predictor
from cadc_rec.store.artifact import open_artifact
from cadc_rec.training.build import load_grown
from cadc_rec.updates import learning
from cadc_rec.updates.chain import take_update
from cadc_rec.updates.update import carry_on
from tests.updates.conftest import (
    INTERACTIONS,
    item,
    settings,
    split_by_hand,
    split_of,
    user,
    write_table,
)

SIDES = ("user", "item")
PLACE = {"user": 0, "item": 1}


def living(shop, tmp_path, ids, base=None, **sections):
    """An experiment on the shop's first rows, or others, with `[data.ids]`."""
    tree = settings(shop, **sections)
    if base is not None:
        write_table(tmp_path / "base" / "interactions.parquet", base, INTERACTIONS)
        tree["data"]["tables"]["interactions"]["path"] = str(
            tmp_path / "base" / "interactions.parquet"
        )
    tree["data"]["ids"] = ids
    tree["update"] = tree["update"] | {"round_changes": 0}  # the planted vectors are exact
    return Experiment.model_validate(tree)


def day_of(number, seed=3):
    """Day `number` of a shop whose users and items move on by 4 and 3 a day; a row an hour."""
    random = np.random.default_rng((seed, number))
    users = np.arange(4 * number, 4 * number + 40)
    items = np.arange(3 * number, 3 * number + 30)
    rows = []
    for u in random.choice(users, 25, replace=False):
        rows += [(user(u), item(i)) for i in random.choice(items, 6, replace=False)]
    order = random.permutation(len(rows))
    return [(*rows[n], 1000 * number + place) for place, n in enumerate(order)]


def owners_by_hand(days, limits):
    """Rows by the law, a day at a time, in plain Python: of each day row -> id, of both sides.

    Least recently seen leaves first, then the seldomest, then the lower row; admission is 1.
    """
    rows, found = {side: [] for side in SIDES}, []
    for day in days:
        left = list(day)
        for side in ("item", "user"):
            place, mine = PLACE[side], rows[side]
            seen, last = {}, {}
            for row in left:
                seen[row[place]] = seen.get(row[place], 0) + 1
                last[row[place]] = max(last.get(row[place], 0), row[2])
            there = {one[0]: one for one in mine}
            for one in seen:
                if one in there:
                    there[one][1] += seen[one]
                    there[one][2] = max(there[one][2], last[one])
            new = sorted(seen.keys() - there.keys(), key=lambda i: (-seen[i], -last[i], i))
            free = limits[side] - len(mine)
            idle = [n for n, one in enumerate(mine) if one[0] not in seen]
            idle.sort(key=lambda n: (mine[n][2], mine[n][1], n))
            given = sorted(idle[: max(len(new) - free, 0)])
            got = sorted(new[: free + len(given)])
            for one in got[:free]:
                mine.append([one, seen[one], last[one]])
            for n, one in zip(given, got[free:], strict=True):
                mine[n] = [one, seen[one], last[one]]
            have = {one[0] for one in mine}
            left = [row for row in left if row[place] in have]
        found.append({side: [one[0] for one in rows[side]] for side in SIDES})
    return found


def known_by_hand(days, owners):
    """Interactions that are left each day: of whoever has a row, and has had it since then."""
    kept = []
    for day, now in zip(days, owners, strict=True):
        have = {side: set(now[side]) for side in SIDES}
        kept = [row for row in [*kept, *day] if row[0] in have["user"] and row[1] in have["item"]]
        yield list(kept)


TABLES = {
    "mf": {"pretrain": {"model": "mf", "epochs": 2, "factors": 7}, "model": {"kind": "tables"}},
    "prior": {
        "pretrain": {"model": "als", "factors": 7},
        "transitions": {"window": 3, "dim": 8},
        "history": {"length": 4},
        "prior": {"use": True},
        "model": {"kind": "tables"},
    },
}
TOWERS = {
    "learned ids": {"pretrain": {"model": "none"}, "model": {"id_embedding": "trainable"}},
    "recipe": {
        **TABLES["prior"],
        "pretrain": {"model": "als", "factors": 7, "scale": "unit"},
        "model": {"id_embedding": "init_frozen"},
    },
}
SMALL = {"id_dim": 8, "feature_dim": 4, "tower": [8, 4]}
LIMITS = {"user": 44, "item": 33}
IDS = {"user_rows": LIMITS["user"], "item_rows": LIMITS["item"]}


def number_of(one):
    return float(one[1:])


def over_days(shop, tmp_path, day, experiment, days, seen):
    """Runs the days; calls `seen(number, before, after, artifacts)` after each."""
    workdir = tmp_path / "work"
    made = Pipeline(experiment, workdir).run()
    before = Dataset.open(made["prepare"])
    for number in range(1, len(days)):
        update = carry_on(experiment, workdir, day(days[number], f"day-{number}")).update
        artifacts = {s: open_artifact(workdir / f) for s, f in update.artifacts.items()}
        after = Dataset.open(artifacts["prepare"])
        seen(number, before, after, artifacts)
        before = after
    return Pipeline(experiment, workdir)


def changed_owners(before, after, side):
    """Rows whose ids differ; the generations must say the same."""
    was, now = (getattr(d, f"{side}_ids")().to_pylist() for d in (before, after))
    other = [a != b for a, b in zip(was, now, strict=False)]
    assert (before.generation(side) != after.generation(side)[: len(was)]).tolist() == other
    return np.flatnonzero(other)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mf", "prior"])
def test_vectors_that_tell_their_owner_are_never_anothers(shop, tmp_path, day, monkeypatch, method):
    """Solvers that plant the number of a row's owner in all of its columns, over days."""
    days = [day_of(n) for n in range(12 if method == "mf" else 6)]
    owners = owners_by_hand(days, LIMITS)
    number, planted = 1, []

    def plant(table, side, kind):
        rows = len(table)
        before, now = (owners[n][side] for n in (number - 1, number))
        assert len(now) == rows
        kept = np.array([n < len(before) and before[n] == one for n, one in enumerate(now)])
        if number > 1:
            mine = torch.tensor([number_of(one) for one in now], dtype=table.dtype)[:, None]
            held = torch.from_numpy(kept)
            assert torch.allclose(table[held], mine[held].expand(-1, table.shape[1]))
            mean = mine[held].mean()
            assert torch.allclose(table[~held], mean.expand_as(table[~held]))
        table[:] = torch.tensor([number_of(one) for one in now])[:, None]
        planted.append((kind, int((~kept).sum())))

    def solve(*arguments):
        user, item = (a for a in arguments if isinstance(a, torch.Tensor))
        plant(user, "user", "user")
        plant(item, "item", "item")
        return 0.0

    class Solver:
        def __init__(self, source, target, *others):
            plant(source.weight, "item", "source")
            plant(target.weight, "item", "target")

        def sweeps(self, count):
            return iter(())

    monkeypatch.setattr(learning, "_solve_mf", solve)
    monkeypatch.setattr(learning, "_solve_als", solve)
    monkeypatch.setattr(learning, "LeastSquares", Solver)

    def seen(day_number, before, after, artifacts):
        nonlocal number
        for side in SIDES:
            changed_owners(before, after, side)
            names = getattr(after, f"{side}_ids")().to_pylist()
            assert names == owners[day_number][side]
            served = pq.read_table(artifacts["evaluate"].path / f"{side}_ids.parquet")
            assert served[f"{side}_id"].to_pylist() == names
            if method == "mf":
                file = artifacts["evaluate"].path / f"{side}_vectors.safetensors"
                found = load_file(file)["vectors"][:, :6]
                assert (found == np.array([[number_of(one)] for one in names])).all()
        number = day_number + 1

    experiment = living(shop, tmp_path, IDS, days[0], **TABLES[method])
    base = over_days(shop, tmp_path, day, experiment, days, seen)
    kinds = SIDES if method == "mf" else (*SIDES, "source", "target")
    assert {kind for kind, _ in planted} == set(kinds)
    for kind in kinds:
        assert sum(count for of, count in planted if of == kind) > 10
    if method == "mf":  # and what is served of it
        bundle = tmp_path / "bundle"
        taken = take_update(base)
        made = taken.pipeline.run()
        data = taken.pipeline.dataset
        write_bundle(Finished(experiment, made, data, taken.pipeline.pretrained), bundle, Wanted())
        predictor = Predictor.load(bundle)
        for side in SIDES:
            catalogue = getattr(predictor, f"{side}s")
            names = owners[-1][side]
            assert catalogue.rows(names).tolist() == list(range(len(names)))
            gone = {one for n in owners for one in n[side]} - set(names)
            assert (catalogue.rows(sorted(gone)) == -1).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", list(TOWERS))
def test_what_is_learned_counted_and_held_out_is_of_the_owners_of_today(
    shop, tmp_path, day, monkeypatch, method
):
    """D_full, held-out items, popularity, D_sel and towers, against plain Python over days."""
    days = [day_of(n) for n in range(4)]
    owners = owners_by_hand(days, LIMITS)
    known = list(known_by_hand(days, owners))
    starts = []

    def loaded(model, state, reused=None, components=None):
        fresh = {t.name: t.tensor.clone() for t in local_tensors(model.wrapped, model.trains)}
        load_grown(model, state, reused, components)
        starts.append((fresh, state, reused, model))

    monkeypatch.setattr(train_stage, "load_grown", loaded)
    reuses = dict.fromkeys(SIDES, 0)

    def seen(number, before, after, artifacts):
        names = {side: getattr(after, f"{side}_ids")().to_pylist() for side in SIDES}
        rows = {side: changed_owners(before, after, side) for side in SIDES}
        for side in SIDES:
            assert names[side] == owners[number][side]
            reuses[side] += len(rows[side])
        mine, expected = split_of(artifacts["prepare"]), split_by_hand(known[number])
        assert {part: sorted(pairs) for part, pairs in mine.items()} == {
            part: sorted(pairs) for part, pairs in expected.items()
        }
        counts = dict.fromkeys(names["item"], 0)
        for _, one in expected["train"]:
            counts[one] += 1
        assert after.item_counts.tolist() == list(counts.values())
        drawn = [pq.read_table(f) for f in artifacts["select"].path.glob("shard-*.parquet")]
        pairs = {
            (names["user"][u], names["item"][i])
            for shard in drawn
            for u, i in zip(shard["user"].to_pylist(), shard["item"].to_pylist(), strict=True)
        }
        assert pairs <= set(expected["train"])
        fresh, state, reused, _ = starts.pop()
        assert {side: reused[side].tolist() for side in SIDES} == {
            side: rows[side].tolist() for side in SIDES
        }
        if method == "learned ids":
            assert state["user.ids.table.embedding_bags.user.weight"].shape[0] == before.n_users
            assert fresh["user.ids.table.embedding_bags.user.weight"].shape[0] == after.n_users

    model = {"model": {**SMALL, **TOWERS[method]["model"]}}
    experiment = living(shop, tmp_path, IDS, days[0], **{**TOWERS[method], **model})
    over_days(shop, tmp_path, day, experiment, days, seen)
    assert min(reuses.values()) > 5
