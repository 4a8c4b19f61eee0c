"""SASRec as a rival must be right: it sees no future, it learns, and it is ranked as we are."""

import json
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.time_to_quality.__main__ import checkpoints, measured_before
from benchmarks.time_to_quality.page import picture, table
from benchmarks.time_to_quality.sasrec import (
    SASRec,
    Settings,
    batches,
    curve,
    earliest_first,
    metrics,
    shared_softmax,
    user_vectors,
)
from cadc_rec.data.dataset import Dataset
from cadc_rec.errors import CadcError

SMALL = Settings(length=6, width=16, heads=2, batch=16, negatives=8, learning_rate=0.01)


def cycles(users=60, items=12, rows=8):
    """Users who take one item after the other: what comes next is certain."""
    taken = (np.arange(users)[:, None] + np.arange(rows + 2)) % items
    taken = taken.astype(np.int32)
    return Dataset(
        path=Path(),
        n_users=users,
        n_items=items,
        train_user=np.repeat(np.arange(users, dtype=np.int32), rows),
        train_item=taken[:, :rows].ravel(),
        user_indptr=np.arange(users + 1) * rows,
        val_item=taken[:, rows].copy(),
        test_item=taken[:, rows + 1].copy(),
        user_attributes=[],
        item_attributes=[],
        order="time",
    )


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
    together = user_vectors(model, histories)
    alone = model.eval()(torch.tensor([[3, 4, 5]]))[0, -1]
    torch.testing.assert_close(together[0], alone)


def test_histories_are_turned_round_and_still_begin_at_the_left():
    latest = np.array([[3, 2, 1, -1], [9, 8, 7, 6], [5, -1, -1, -1], [-1] * 4], np.int32)
    turned = [[1, 2, 3, -1], [6, 7, 8, 9], [5, -1, -1, -1], [-1] * 4]
    np.testing.assert_array_equal(earliest_first(latest), turned)


def test_the_loss_is_a_cross_entropy_without_the_target_among_the_negatives():
    torch.manual_seed(0)
    items, vectors = torch.nn.Embedding(5, 4), torch.randn(2, 4)
    found = shared_softmax(vectors, torch.tensor([0, 3]), torch.tensor([3, 1, 4]), items)
    scores = vectors @ items.weight.T
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
        metrics(model, data, 6, sample),
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


def test_checkpoints_halve():
    assert checkpoints(640.0) == [10, 20, 40, 80, 160, 320, 640]


def point(name, seconds, ndcg, **more):
    both = {"hr@10": 2 * ndcg, "ndcg@10": ndcg}
    return {"name": name, "cpu_seconds": seconds, "validation": both, "test": both, **more}


def test_the_table_says_when_the_rival_is_as_good():
    rival = [point("SASRec", s, n, epochs=s) for s, n in ((10.0, 0.02), (20.0, 0.05), (40.0, 0.04))]
    ours = [point("prior", 5.0, 0.03, kept=None), point("auto", 8.0, 0.06, kept="towers")]
    measured = {"title": "T", "points": [*ours, *rival]}
    lines = [line.split(" | ") for line in table([measured]).splitlines()[2:]]
    assert [line[1] for line in lines[:2]] == ["prior", "auto; kept: towers"]
    assert lines[0][4:] == ["6.00 / 3.00", "20.0 s |"]
    assert lines[1][4:] == ["12.00 / 6.00", "not within 40.0 s |"]
    shown = picture([measured])
    assert all(name in shown for name in ("SASRec", "prior", "auto", "CPU seconds"))


def test_a_run_goes_on_but_not_with_another_ones_points(tmp_path):
    out, run = tmp_path / "out.json", {"title": "T", "seed": 0}
    assert measured_before(out, run, 40.0) == []
    points = [point("prior", 5.0, 0.03), point("SASRec", 20.0, 0.02), point("SASRec", 41.0, 0.04)]
    out.write_text(json.dumps({**run, "points": points}))
    assert measured_before(out, run, 40.0) == points
    assert measured_before(out, run, 80.0) == points[:1]  # a curve that was cut off begins anew
    with pytest.raises(CadcError, match=r"out\.json: is of another dataset"):
        measured_before(out, {**run, "seed": 1}, 40.0)
