"""SASRec as a rival must be right: it sees no future, it learns, and it is ranked as we are."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.time_to_quality.histories import Histories, batches, earliest_first
from benchmarks.time_to_quality.sasrec import SASRec, Settings, curve
from benchmarks.time_to_quality.sequences import metrics, shared_softmax, user_vectors
from tests.benchmarks.sequences import cycles

SMALL = Settings(length=6, width=16, heads=2, batch=16, negatives=8, learning_rate=0.01)


def test_what_comes_later_changes_nothing_before_it():
    torch.manual_seed(0)
    model = SASRec(12, SMALL).eval()
    one = torch.randint(12, (3, 6))
    other = one.clone()
    other[:, 4:] = (other[:, 4:] + 5) % 12
    a, b = model(one), model(other)
    assert torch.equal(a[:, :4], b[:, :4])
    assert not torch.allclose(a[:, 4], b[:, 4])


def test_padding_at_the_end_changes_no_users_vector():
    torch.manual_seed(0)
    model = SASRec(12, SMALL)
    histories = np.array([[3, 4, 5, -1, -1, -1], [1, 2, 3, 4, 5, 6]], np.int32)
    together = user_vectors(model, Histories(histories))
    alone = model.eval()(torch.tensor([[3, 4, 5]]))[0, -1]
    torch.testing.assert_close(together[0], alone)


def test_histories_are_turned_round_and_still_begin_at_the_left():
    latest = np.array([[3, 2, 1, -1], [9, 8, 7, 6], [5, -1, -1, -1], [-1] * 4], np.int32)
    turned = [[1, 2, 3, -1], [6, 7, 8, 9], [5, -1, -1, -1], [-1] * 4]
    np.testing.assert_array_equal(earliest_first(latest, latest), turned)


@pytest.mark.parametrize("with_validation", [False, True])
def test_times_stand_where_their_items_do(with_validation):
    data = cycles(users=4, rows=3)
    pairs = zip(data.train_user, data.train_item, strict=True)
    data = replace(data, train_time=np.array([1000.0 * user + item for user, item in pairs]))
    object.__setattr__(data, "val_timestamp", 1000.0 * np.arange(4) + data.val_item)
    users = np.array([3, 1])
    found = Histories.before_the_end(data, 5, with_validation, users, timed=True)
    for user, items, times in zip(users, found.items, found.times, strict=True):
        known = [(user + n) % 12 for n in range(4 if with_validation else 3)]
        padding = [-1] * (5 - len(known))
        assert items.tolist() == known + padding
        assert times.tolist() == [1000 * user + item for item in known] + padding


@pytest.mark.parametrize("bias", [None, torch.tensor([0.5, -1.0, 0.0, 2.0, 0.25])])
def test_the_loss_is_a_cross_entropy_without_the_target_among_the_negatives(bias):
    torch.manual_seed(0)
    items, vectors = torch.nn.Embedding(5, 4), torch.randn(2, 4)
    targets, negatives = torch.tensor([0, 3]), torch.tensor([3, 1, 4])
    found = shared_softmax(vectors, targets, negatives, items, bias, 5)
    scores = vectors @ items.weight.T + (0 if bias is None else bias)
    first = functional.cross_entropy(scores[0, [0, 3, 1, 4]], torch.tensor(0))
    second = functional.cross_entropy(scores[1, [3, 1, 4]], torch.tensor(0))
    torch.testing.assert_close(found, first + second)


def test_an_epoch_has_every_row_once_beside_rows_of_its_length():
    torch.manual_seed(0)
    lengths = torch.randint(2, 50, (1000,))
    found = batches(lengths, 10)
    assert torch.equal(torch.cat(found).sort().values, torch.arange(1000))
    spread = [int(lengths[rows].max() - lengths[rows].min()) for rows in found]
    assert np.mean(spread) < 5


def test_its_metrics_are_those_of_a_full_ranking_by_hand():
    torch.manual_seed(0)
    data, model = cycles(), SASRec(12, SMALL)
    sample = np.arange(0, 60, 3)
    for found, targets, held, users in zip(
        metrics(model, data, sample),
        (data.val_item, data.test_item),
        (8, 9),
        (sample, np.arange(60)),
        strict=True,
    ):
        gains = []
        for user in users:
            taken = [(user + n) % 12 for n in range(held)]
            history = torch.tensor([taken[-6:]])
            scores = (model.items.weight @ model.eval()(history)[0, -1]).detach().numpy()
            left = [i for i in range(12) if i not in taken]
            rank = sum(scores[i] >= scores[targets[user]] for i in left)
            gains.append(1 / np.log2(rank + 1) if rank <= 10 else 0)
        assert found["ndcg@10"] == pytest.approx(np.mean(gains))


def test_it_learns_what_is_certain():
    steps = count().__next__  # each step takes a second of this clock
    early, late = curve(cycles(64), SMALL, 0, checkpoints=[1, 40], sample=None, clock=steps)
    assert (early.cpu_seconds, late.cpu_seconds) == (1, 40)
    assert early.epochs == pytest.approx(16 / 64)
    assert late.epochs == pytest.approx(10)  # four steps an epoch
    assert late.test["ndcg@10"] > 0.95 > early.test["ndcg@10"]
