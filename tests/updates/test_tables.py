"""Vectors after a day: what changed is solved, the rest keeps its bits, and ALS ends where a
rebuild would."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cadc_rec.config.experiment import ComputeConfig, Experiment, PretrainConfig, UpdateConfig
from cadc_rec.data.forgotten import Forgotten
from cadc_rec.data.randomness import positional_integers
from cadc_rec.distributed.processes import Processes, processes
from cadc_rec.pipeline.stages.pretrain import build_tables
from cadc_rec.pretrain.alternating import Interactions
from cadc_rec.pretrain.changed_rows import ChangedRows
from cadc_rec.pretrain.id_tables import IdTables
from cadc_rec.store.artifact import Artifact, Draft
from cadc_rec.updates.changes import Changes
from cadc_rec.updates.learning import build_updated_tables, divisors, grown
from tests.updates.stand_ins import dataset_of

ALONE = Processes(0, 1, 1, torch.device("cpu"))


@pytest.fixture
def alone():
    with processes(ComputeConfig(device="cpu", threads=1)) as joined:
        yield joined


def a_dataset(taken, n_users, n_items):
    """A dataset from a 0/1 matrix, nothing held out."""
    users, items = (side.astype(np.int32) for side in np.nonzero(taken))
    return dataset_of(users, items, n_users, n_items)


@pytest.fixture
def grown_world():
    """30 users and 20 items, of whom two and one are new; 5 old users took more."""
    random = np.random.default_rng(0)
    taken = random.random((30, 20)) < 0.3
    old = taken[:28, :19].copy()
    more = random.random((5, 19)) < 0.2
    taken[:5, :19] |= more
    return a_dataset(old, 28, 19), a_dataset(taken, 30, 20), taken.astype(float)


def experiment(**update):
    als = {"l2": 0.5, "iterations": 300}
    return Experiment.model_validate(
        {
            "pretrain": {"model": "als", "factors": 19, "als": als},
            "model": {"id_embedding": "init_frozen", "id_dim": 20},
            "update": {"round_changes": 0, **update},
        }
    )


def full(settings, dataset, alone, folder):
    """The pretrain stage from nothing, as an artifact."""
    folder.mkdir()
    draft = Draft(folder)
    build_tables(settings.pretrain, settings.seed, dataset, alone, draft)
    return Artifact(folder, {"info": draft.info})


def updated(settings, before, old, new, alone, folder):
    folder.mkdir()
    draft = Draft(folder)
    changes = Changes.between(old, new)
    e = settings
    build_updated_tables(e.pretrain, e.update, e.seed, before, new, changes, alone, draft)
    return IdTables.open(Artifact(folder, {"info": draft.info})), changes


def loss(taken, user, item, l2=0.5):
    """The whole objective, every zero included."""
    user, item = user.double().numpy(), item.double().numpy()
    return ((taken - user @ item.T) ** 2).sum() + l2 * ((user**2).sum() + (item**2).sum())


def test_als_carried_on_to_the_end_scores_as_a_rebuild_does(grown_world, alone, tmp_path):
    """With as many factors as items the loss has one minimum in the scores: both must find it."""
    old, new, taken = grown_world
    settings = experiment(sweeps=3, polish=300)
    before = full(settings, old, alone, tmp_path / "before")
    tables, _ = updated(settings, before, old, new, alone, tmp_path / "after")
    rebuilt = IdTables.open(full(settings, new, alone, tmp_path / "rebuilt"))
    scores, expected = (t.user @ t.item.T for t in (tables, rebuilt))
    assert (scores - expected).abs().max() < 2e-3
    assert expected.abs().max() > 0.3
    assert loss(taken, tables.user, tables.item) == pytest.approx(
        loss(taken, rebuilt.user, rebuilt.item), rel=1e-5
    )


def test_where_some_are_forgotten_the_others_changes_are_rounded_no_more_coarsely(
    grown_world, alone, tmp_path
):
    """A forgotten row falls to zero, which is far more than what those who met it move by."""
    _, old, taken = grown_world
    left = taken.astype(bool)
    left[:8], left[:, :2] = False, False
    rows = {"user": np.arange(8), "item": np.arange(2)}
    forgotten = replace(Forgotten.nobody(), rows=rows)
    new = replace(a_dataset(left, 30, 20), forgotten=forgotten)
    before = full(experiment(), old, alone, tmp_path / "before")
    was, found = IdTables.open(before), {}
    for share in (0, UpdateConfig().round_changes):
        settings, folder = experiment(round_changes=share), tmp_path / f"after{share}"
        found[share], changes = updated(settings, before, old, new, alone, folder)
    exact, rounded = found.values()
    for side in ("user", "item"):
        moved = np.setdiff1d(getattr(changes, f"{side}s"), rows[side])
        assert len(moved) > 10
        change = getattr(exact, side)[moved] - getattr(was, side)[moved]
        error = getattr(rounded, side)[moved] - getattr(exact, side)[moved]
        assert 0 < error.square().mean() < (0.04**2) * change.square().mean()
        assert not getattr(rounded, side)[rows[side]].any()


def test_als_of_the_changed_rows_alone_comes_near_it(grown_world, alone, tmp_path):
    old, new, taken = grown_world
    settings = experiment(sweeps=3)
    before = full(settings, old, alone, tmp_path / "before")
    tables, _ = updated(settings, before, old, new, alone, tmp_path / "after")
    rebuilt = IdTables.open(full(settings, new, alone, tmp_path / "rebuilt"))
    stale = IdTables.open(before)
    at_best = loss(taken, rebuilt.user, rebuilt.item)
    left = loss(taken, grown(stale.user, 30), grown(stale.item, 20))
    reached = loss(taken, tables.user, tables.item)
    assert at_best < reached < 1.02 * at_best
    assert reached - at_best < 0.2 * (left - at_best)


def test_a_changed_item_is_the_ridge_regression_on_its_users(grown_world, alone, tmp_path):
    old, new, taken = grown_world
    settings = experiment(sweeps=1)
    before = full(settings, old, alone, tmp_path / "before")
    tables, changes = updated(settings, before, old, new, alone, tmp_path / "after")
    user = tables.user.double().numpy()
    for item in changes.items:
        solved = np.linalg.solve(user.T @ user + 0.5 * np.eye(20), user.T @ taken[:, item])
        np.testing.assert_allclose(tables.item[item].numpy(), solved, atol=1e-4)


def test_rows_whose_interactions_did_not_change_keep_their_bits(grown_world, alone, tmp_path):
    old, new, _ = grown_world
    for model in ("als", "mf"):
        settings = experiment(sweeps=2, epochs=3)
        pretrain = settings.pretrain.model_copy(update={"model": model, "epochs": 5})
        settings = settings.model_copy(update={"pretrain": pretrain})
        before = full(settings, old, alone, tmp_path / f"before-{model}")
        tables, changes = updated(settings, before, old, new, alone, tmp_path / f"after-{model}")
        stale = IdTables.open(before)
        for side, changed in (("user", changes.users), ("item", changes.items)):
            was, now = getattr(stale, side), getattr(tables, side)
            kept = np.setdiff1d(np.arange(len(was)), changed)
            assert len(kept) or side == "item"
            assert torch.equal(was[kept], now[kept])
            moved = changed[changed < len(was)]
            assert not torch.isclose(was[moved], now[moved]).all(1).any()
            assert now.isfinite().all()


def test_a_unit_scale_stays_the_one_that_the_towers_know(grown_world, alone, tmp_path):
    old, new, _ = grown_world
    settings = experiment(sweeps=1)
    unit = settings.model_copy(
        update={"pretrain": settings.pretrain.model_copy(update={"scale": "unit"})}
    )
    plain = full(settings, old, alone, tmp_path / "plain")
    scaled = full(unit, old, alone, tmp_path / "scaled")
    divided = divisors(scaled, "unit")
    assert divided is not None
    for side, by in zip(("user", "item"), divided, strict=True):
        assert by == pytest.approx(float(getattr(IdTables.open(plain), side).std()))
    one, _ = updated(settings, plain, old, new, alone, tmp_path / "one")
    other, _ = updated(unit, scaled, old, new, alone, tmp_path / "other")
    np.testing.assert_allclose(other.user.numpy() * divided[0], one.user.numpy(), atol=1e-4)
    np.testing.assert_allclose(other.item.numpy() * divided[1], one.item.numpy(), atol=1e-4)


def test_whitened_tables_cannot_be_carried_on(grown_world, alone, tmp_path):
    old, _, _ = grown_world
    settings = experiment()
    white = settings.model_copy(
        update={"pretrain": settings.pretrain.model_copy(update={"scale": "whiten"})}
    )
    assert divisors(full(white, old, alone, tmp_path / "white"), "whiten") is None


@pytest.mark.parametrize(
    ("model", "section", "name", "by_length"),
    [
        ("mf", None, "l2", lambda mean: min(max(mean**0.5 / 3, 1), 4)),
        ("als", "als", "alpha", lambda mean: min(max((40 / mean) ** 2, 1), 16)),
    ],
)
def test_what_was_chosen_by_the_length_of_histories_stays(
    alone, tmp_path, model, section, name, by_length
):
    """The day makes histories longer; the rows that stay were solved by the old choice."""
    random = np.random.default_rng(3)
    taken = random.random((30, 60)) < 0.9
    old, new = taken & (random.random((30, 60)) < 0.5), taken
    chosen = [by_length(each.sum(1).mean()) for each in (old, new)]
    assert chosen[0] != pytest.approx(chosen[1], rel=0.1)
    old, new = (a_dataset(each, 30, 60) for each in (old, new))

    def settings(value):
        own = {name: value}
        own = own if section is None else {section: {**own, "iterations": 3}}
        epochs = {"epochs": 3} if model == "mf" else {}
        return Experiment.model_validate(
            {
                "pretrain": {"model": model, "factors": 7, **epochs, **own},
                "model": {"id_embedding": "init_frozen", "id_dim": 8},
            }
        )

    tables = {}
    for value in (0.0, *chosen):
        folder = tmp_path / f"{value}"
        before = full(settings(0.0), old, alone, folder)
        after, _ = updated(settings(value), before, old, new, alone, tmp_path / f"{value}-day")
        tables[value] = after.user.numpy()
    np.testing.assert_allclose(tables[0.0], tables[chosen[0]], atol=1e-6)
    assert np.abs(tables[0.0] - tables[chosen[1]]).max() > 1e-3


def test_one_epoch_of_changed_rows_is_adams_step_along_the_losss_gradient():
    """Adam's first step has the learning rate's length in every element, against the gradient."""
    random = np.random.default_rng(0)
    taken = random.random((12, 9)) < 0.4
    data = a_dataset(taken, 12, 9)
    by_item = data.csr_by_item
    both = Interactions(data.user_indptr, data.train_item, *by_item)
    user, item = (random.normal(0, 0.3, (n, 5)).astype(np.float32) for n in (12, 9))
    config = PretrainConfig(learning_rate=0.01, l2=0.5, negatives=2)
    users, items, key, bias = np.array([1, 4, 11]), np.array([], np.int64), (0, 99), -0.7
    tables = torch.from_numpy(user.copy()), torch.from_numpy(item.copy())
    solver = ChangedRows(*tables, bias, both, users, items, config, key, ALONE)
    (_,) = solver.epochs(1)
    counts = taken[users].sum(1)
    drawn = np.split(
        positional_integers((*key, 0, 0), 0, 2 * int(counts.sum()), 9), np.cumsum(2 * counts)[:-1]
    )
    for row, negatives in zip(users, drawn, strict=True):
        gradient = 0.5 * user[row].astype(float)
        labelled = [(i, 1) for i in np.flatnonzero(taken[row])] + [(i, 0) for i in negatives]
        for i, label in labelled:
            score = user[row, :4] @ item[i, :4] + user[row, 4] + item[i, 4] + bias
            inner = np.append(item[i, :4], 1.0)
            gradient += (1 / (1 + np.exp(-score)) - label) * inner
        assert np.abs(gradient).min() > 1e-3
        np.testing.assert_allclose(
            tables[0][row].numpy() - user[row], -0.01 * np.sign(gradient), atol=1e-5
        )
    others = np.setdiff1d(np.arange(12), users)
    np.testing.assert_array_equal(tables[0][others].numpy(), user[others])
    np.testing.assert_array_equal(tables[1].numpy(), item)


def test_new_rows_start_at_the_mean():
    table = torch.tensor([[1.0, 3.0], [3.0, 5.0]])
    assert grown(table, 4).tolist() == [[1.0, 3.0], [3.0, 5.0], [2.0, 4.0], [2.0, 4.0]]


def test_the_rate_of_changed_rows_falls_to_its_end():
    """Of two epochs the second moves a row by half of what the first may move it."""
    random = np.random.default_rng(1)
    data = a_dataset(random.random((6, 5)) < 0.5, 6, 5)
    both = Interactions(data.user_indptr, data.train_item, *data.csr_by_item)
    tables = [torch.from_numpy(random.normal(0, 1, (n, 4)).astype(np.float32)) for n in (6, 5)]
    start = tables[0].clone()
    config = PretrainConfig(learning_rate=0.01, l2=50.0)  # strong: every step goes to zero
    solver = ChangedRows(*tables, 0.0, both, np.arange(6), np.arange(0), config, (0, 99), ALONE)
    for _ in solver.epochs(2):
        pass
    moved = (tables[0] - start).abs()[start.abs() > 0.2]
    np.testing.assert_allclose(moved.numpy(), 0.015, rtol=2e-3)
