"""Peers that are no transformers: right by independent arithmetic, and ranked as all models are."""

import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from benchmarks.peers.peers import MissingPeer
from benchmarks.time_to_quality import ease, implicit_models, recbole, rechub
from benchmarks.time_to_quality.contenders import Reached
from benchmarks.time_to_quality.ranked import Watch, best_so_far, interactions, metrics
from cadc_rec.data.dataset import Attribute, Dataset
from cadc_rec.errors import CadcError

USERS, ITEMS, ROWS = 40, 30, 8


@pytest.fixture
def data():
    """Users who took eight items each, and two that are held out; attributes of either kind."""
    draw = np.random.default_rng(3)
    popular = 1 / np.arange(1, ITEMS + 1)
    taken = np.stack(
        [draw.choice(ITEMS, ROWS + 2, False, popular / popular.sum()) for _ in range(USERS)]
    ).astype(np.int32)
    ages = Attribute(
        "age", "categorical", 3, np.arange(USERS + 1), draw.integers(3, size=USERS, dtype=np.int32)
    )
    kinds = Attribute(
        "kind",
        "multi",
        4,
        np.arange(ITEMS + 1) * 2,
        draw.integers(4, size=2 * ITEMS, dtype=np.int32),
    )
    return Dataset(
        path=Path(),
        n_users=USERS,
        n_items=ITEMS,
        train_user=np.repeat(np.arange(USERS, dtype=np.int32), ROWS),
        train_item=taken[:, :ROWS].ravel(),
        user_indptr=np.arange(USERS + 1) * ROWS,
        val_item=taken[:, ROWS].copy(),
        test_item=taken[:, ROWS + 1].copy(),
        user_attributes=[ages],
        item_attributes=[kinds],
        order="time",
    )


def dense(data, with_validation):
    """What each user is known to have taken, as zeros and ones."""
    known = np.zeros((USERS, ITEMS))
    known[data.train_user, data.train_item] = 1
    if with_validation:
        known[np.arange(USERS), data.val_item] = 1
    return known


def by_hand(data, scores, sample):
    """NDCG@10 of validation and test, from whole matrices of scores."""
    found = []
    for late, targets, users in (
        (False, data.val_item, sample),
        (True, data.test_item, np.arange(USERS)),
    ):
        own, known, gains = scores(late), dense(data, late), []
        for user in users:
            left = np.flatnonzero(known[user] == 0)
            # Equal sums may differ in their last digit by the order of their terms.
            close = 1e-6 * abs(own[user]).max()
            rank = (own[user, left] >= own[user, targets[user]] - close).sum()
            gains.append(1 / np.log2(rank + 1) if rank <= 10 else 0)
        found.append(np.mean(gains))
    return found


def ndcgs(reached):
    return [reached.validation["ndcg@10"], reached.test["ndcg@10"]]


SAMPLE = np.arange(0, USERS, 3)


def test_interactions_are_ones_and_a_pair_stands_once(data):
    data.train_item[1] = data.train_item[0]
    before = data.train_item.copy()
    for late in (False, True):
        np.testing.assert_array_equal(interactions(data, late).toarray(), dense(data, late))
    np.testing.assert_array_equal(data.train_item, before)  # whose order means something


def regressions(known, l2):
    """EASE's definition: each item's column from all other items', by a ridge regression."""
    weights = np.zeros((ITEMS, ITEMS))
    for item in range(ITEMS):
        others = np.delete(np.arange(ITEMS), item)
        x, y = known[:, others], known[:, item]
        weights[others, item] = np.linalg.solve(x.T @ x + l2 * np.eye(len(others)), x.T @ y)
    return weights


def test_ease_regresses_each_item_on_all_others(data):
    together = ease.gram(interactions(data))
    before = together.clone()
    found = ease.item_weights(together, 3.0)
    np.testing.assert_allclose(found, regressions(dense(data, False), 3.0), atol=1e-6)
    assert torch.equal(together, before)  # the next penalty begins with it


def test_ease_is_ranked_by_what_is_known_and_keeps_the_best_penalty(data):
    penalties = (1e6, 2.0, 20.0)
    found = list(ease.curve(data, ease.Settings(penalties), 0, [100.0], SAMPLE))
    alone = []
    for l2 in penalties:
        weights = regressions(dense(data, False), l2)
        alone.append(by_hand(data, lambda late, w=weights: dense(data, late) @ w, SAMPLE))
    best = [max(alone[: tried + 1], key=lambda both: both[0]) for tried in range(3)]
    assert [ndcgs(point) for point in found] == [pytest.approx(each) for each in best]
    assert [point.epochs for point in found] == [1, 2, 3]
    assert 0 < found[0].cpu_seconds < found[1].cpu_seconds < found[2].cpu_seconds


def test_ease_begins_no_penalty_after_the_last_checkpoint(data):
    clock = count().__next__  # a second at each look
    found = list(ease.curve(data, ease.Settings((1.0, 2.0, 3.0)), 0, [1, 2], SAMPLE, clock))
    assert [point.cpu_seconds for point in found] == [2]


def test_ease_says_what_memory_it_lacks():
    ease.require_memory(20_000, 24 * 20_000**2)
    message = r"EASE needs 8\.9 GiB for the dense matrices of 20,000 items .* there are 4\.0 GiB"
    with pytest.raises(CadcError, match=message):
        ease.require_memory(20_000, 4 * 2**30)


def test_item_item_models_are_ranked_by_sums_of_similarities(data):
    library = pytest.importorskip("implicit.nearest_neighbours")
    settings = implicit_models.Settings("item-item", neighbours=(5, 12))
    found = list(implicit_models.curve(data, settings, 0, [100.0], SAMPLE))
    alone = []
    for kind in (library.CosineRecommender, library.BM25Recommender):
        for neighbours in (5, 12):
            model = kind(K=neighbours, num_threads=1)
            model.fit(sparse.csr_matrix(dense(data, False), dtype=np.float32), show_progress=False)
            similar = model.similarity.toarray()
            alone.append(by_hand(data, lambda late, s=similar: dense(data, late) @ s, SAMPLE))
    best = [max(alone[: tried + 1], key=lambda both: both[0]) for tried in range(4)]
    assert [ndcgs(point) for point in found] == [pytest.approx(each) for each in best]


def test_als_is_ranked_by_users_that_solve_for_what_is_known(data):
    library = pytest.importorskip("implicit.cpu.als")
    settings = implicit_models.Settings(
        "als", factors=4, sweeps=3, regularization=(0.5,), alpha=(7.0,)
    )
    (found,) = implicit_models.curve(data, settings, 5, [100.0], SAMPLE)
    model = library.AlternatingLeastSquares(
        4, regularization=0.5, alpha=7.0, iterations=3, random_state=5, num_threads=1
    )
    model.fit(sparse.csr_matrix(dense(data, False), dtype=np.float32), show_progress=False)
    items = model.item_factors.astype(np.float64)

    def scores(late):
        users = []
        for known in dense(data, late):
            confident = np.where(known, 7.0, 1.0)
            left = items.T @ (confident[:, None] * items) + 0.5 * np.eye(4)
            users.append(np.linalg.solve(left, items.T @ (7.0 * known)))
        return np.array(users) @ items.T

    assert ndcgs(found) == pytest.approx(by_hand(data, scores, SAMPLE))
    assert found.epochs == 3


def test_als_goes_on_to_its_next_setting_and_stops_at_the_last_checkpoint(data):
    pytest.importorskip("implicit.cpu.als")
    clock = count().__next__
    settings = implicit_models.Settings("als", factors=4, sweeps=4)
    found = list(implicit_models.curve(data, settings, 0, [2, 6, 7], SAMPLE, clock))
    # A sweep takes a second here, and so does what comes after a setting's last one.
    assert [point.epochs for point in found] == [2, 4, 5, 6]
    assert [point.cpu_seconds for point in found] == [2, 4, 6, 7]


def test_bpr_is_ranked_as_it_is_after_so_many_epochs(data):
    library = pytest.importorskip("implicit.cpu.bpr")
    settings = implicit_models.Settings("bpr", factors=4, epochs=20)
    clock = count().__next__
    early, late = implicit_models.curve(data, settings, 5, [8, 100], SAMPLE, clock)
    for found, epochs in ((early, 8), (late, 20)):
        model = library.BayesianPersonalizedRanking(
            4, iterations=epochs, random_state=5, num_threads=1
        )
        model.fit(sparse.csr_matrix(dense(data, False), dtype=np.float32), show_progress=False)
        scores = model.user_factors.astype(np.float64) @ model.item_factors.T.astype(np.float64)
        assert ndcgs(found) == pytest.approx(by_hand(data, lambda _, s=scores: s, SAMPLE))
        assert found.epochs == epochs


def test_a_model_that_implicit_lacks_is_named(data):
    with pytest.raises(CadcError, match="no model 'svd': there are als, bpr and item-item"):
        next(implicit_models.curve(data, implicit_models.Settings("svd"), 0, [1.0], SAMPLE))


def test_the_best_so_far_is_chosen_by_validation_alone():
    points = [
        Reached(second, second, {"ndcg@10": validation}, {"ndcg@10": test})
        for second, validation, test in ((1, 0.2, 0.9), (2, 0.1, 1.0), (3, 0.3, 0.1))
    ]
    found = list(best_so_far(points))
    assert [(point.cpu_seconds, *ndcgs(point)) for point in found] == [
        (1, 0.2, 0.9),
        (2, 0.2, 0.9),
        (3, 0.3, 0.1),
    ]


def test_a_watch_counts_only_what_is_within_it():
    ticks = iter([10, 13, 100, 101, 105])
    watch = Watch(ticks.__next__)
    with watch:
        pass
    assert watch.now() == 3
    with watch:
        assert watch.now() == 4
    assert watch.seconds == 8


def test_rechub_is_fed_every_positive_once_an_epoch_beside_drawn_items(data):
    settings = rechub.Settings(length=3, negatives=2, batch=48)
    inputs = rechub.Inputs(data, settings)
    batches = rechub.training_rows(data, inputs, settings, np.random.default_rng(0))
    seen, drawn = [], []
    for rows, labels in (next(batches) for _ in range(USERS * ROWS // 16)):
        assert rows["user_age"].tolist() == data.user_attributes[0].values[rows["user"]].tolist()
        kinds = data.item_attributes[0].values.reshape(ITEMS, 2)
        assert torch.equal(rows["item_kind"], torch.from_numpy(kinds)[rows["item"] - 1].long())
        assert labels.reshape(-1, 3).tolist() == [[1, 0, 0]] * 16
        seen += list(zip(rows["user"][::3].tolist(), rows["item"][::3].tolist(), strict=True))
        drawn += (rows["item"][labels == 0] - 1).tolist()
        fed = (rows[name][::3] for name in ("user", "item", "history"))
        for user, item, history in zip(*fed, strict=True):
            mine = data.train_item[user * ROWS : (user + 1) * ROWS] + 1
            before = mine[: mine.tolist().index(item)][::-1][:3].tolist()
            assert history.tolist() == before + [0] * (3 - len(before))
    assert sorted(seen) == sorted(
        zip(data.train_user.tolist(), (data.train_item + 1).tolist(), strict=True)
    )
    expected = data.item_counts**0.75 / (data.item_counts**0.75).sum()
    # 640 draws: a share lies within four deviations of what it should be.
    share = np.bincount(drawn, minlength=ITEMS) / len(drawn)
    assert (abs(share - expected) <= 4 * np.sqrt(expected / len(drawn))).all()


def test_rechub_that_is_not_installed_is_named(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_rechub", None)
    with pytest.raises(MissingPeer):
        next(rechub.curve(data, rechub.Settings(), 0, [1.0], SAMPLE))


@pytest.mark.slow
def test_rechub_is_ranked_by_its_towers_with_the_validation_item_in_the_history(data):
    pytest.importorskip("torch_rechub")
    torch.manual_seed(0)
    settings = rechub.Settings(length=3, width=4, tower=(8, 4), negatives=2, batch=48)
    model, inputs = rechub.build(data, settings), rechub.Inputs(data, settings)
    for table in model.embedding.embed_dict.values():
        torch.nn.init.normal_(table.weight)  # the library's are nearly all the same
    found = metrics(data, SAMPLE, rechub.scores(model, inputs))
    model.eval()

    def scores(late):
        histories = np.zeros((USERS, 3), np.int32)
        for user in range(USERS):
            mine = list(data.train_item[user * ROWS : (user + 1) * ROWS])
            histories[user] = [*mine, data.val_item[user]][::-1][(0 if late else 1) :][:3]
        every = np.arange(USERS)
        with torch.no_grad():
            users = model.user_tower(inputs.users(every, histories)).double().numpy()
            items = model.item_tower(inputs.items(np.arange(ITEMS))).double().numpy()
        return users @ items.T

    assert [each["ndcg@10"] for each in found] == pytest.approx(by_hand(data, scores, SAMPLE))
    early, late = rechub.curve(data, settings, 0, [0.2, 2.0], SAMPLE)
    assert 0.2 <= early.cpu_seconds < 2.0 <= late.cpu_seconds
    assert 0 < early.epochs < late.epochs


def best_lists(data, scores, users, late, listed):
    """Each user's best candidates by whole rows of scores; those that are none score -inf."""
    own = np.where(dense(data, late), -np.inf, scores)[users]
    items = np.argsort(-own, 1, kind="stable")[:, :listed].astype(np.int32)
    return items, np.take_along_axis(own, items, 1).astype(np.float32)


def lists_of(data, scores):
    found = {}
    for name, users, late in (("val", SAMPLE, False), ("test", np.arange(USERS), True)):
        lists = best_lists(data, scores, users, late, 11)
        found[f"{name}_items"], found[f"{name}_scores"] = lists
    return found


@pytest.mark.parametrize("values", [5, 1000])  # of few values, many scores are the same
def test_lists_of_eleven_give_the_metrics_of_a_full_ranking(data, values):
    scores = np.random.default_rng(0).integers(values, size=(USERS, ITEMS)).astype(float)
    found = recbole.of_lists(data, SAMPLE, lists_of(data, scores))
    expected = by_hand(data, lambda _: scores, SAMPLE)
    assert [each["ndcg@10"] for each in found] == pytest.approx(expected)


def test_a_list_with_what_was_taken_is_refused(data):
    lists = lists_of(data, np.random.default_rng(0).random((USERS, ITEMS)))
    lists["test_items"][7, 4] = data.val_item[7]
    with pytest.raises(CadcError, match="RecBole's test lists have items that were taken before"):
        recbole.of_lists(data, SAMPLE, lists)


def test_a_driver_that_fails_is_quoted_after_what_it_reached(tmp_path):
    script = "print('noise'); print('reached {\"epochs\": 1}', flush=True); raise ValueError('no')"
    found = recbole.announced([sys.executable, "-c", script], tmp_path)
    assert next(found) == {"epochs": 1}
    with pytest.raises(CadcError, match=r"RecBole failed: ValueError: no\."):
        next(found)


def test_a_driver_is_ended_when_nobody_listens(tmp_path):
    script = "import time; print('reached {}', flush=True); time.sleep(600)"
    found = recbole.announced([sys.executable, "-c", script], tmp_path)
    next(found)
    found.close()  # waits for its end


def test_an_environment_that_cannot_be_made_gives_the_reason(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text(
        "#!/bin/sh\necho 'ERROR: No matching distribution found for x' >&2; exit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    message = "RecBole cannot be installed here: ERROR: No matching distribution found for x"
    with pytest.raises(CadcError, match=message):
        recbole.environment(tmp_path / "environment")


def test_an_environment_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    folder = tmp_path / "environment"
    folder.mkdir()
    (folder / "requirements.txt").write_text("a==1\n")
    assert recbole.environment(folder, ["a==1"]) == folder / "bin" / "python"
    with pytest.raises(CadcError, match="cannot be installed"):
        recbole.environment(folder, ["a==2"])


@pytest.mark.slow
def test_recbole_ranks_by_histories_in_its_own_environment(data):
    if not (recbole.ENVIRONMENT / "requirements.txt").exists():
        pytest.skip(
            "RecBole's environment is not made: python -m benchmarks.time_to_quality.recbole"
        )
    for model in ("GRU4Rec", "LightGCN"):
        settings = recbole.Settings(model, length=5)
        early, late = recbole.curve(data, settings, 0, [0.1, 1.0], SAMPLE)
        assert 0.1 <= early.cpu_seconds < 1.0 <= late.cpu_seconds
        assert 0 < early.epochs < late.epochs
        assert 0 < late.test["hr@10"] <= 1
