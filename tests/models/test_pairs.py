"""Sparse pair scores against gathering a vector for every pair."""

import numpy as np
import torch

from cadc_rec.data.load.pair_batches import arrange_pairs
from cadc_rec.models.sparse import pair_scores


def a_batch(rng, positives=40, negatives=3, users=13, items=17):
    who = rng.integers(0, users, positives).astype(np.int32)
    what = rng.integers(0, items, positives).astype(np.int32)
    drawn = rng.integers(0, items, (positives, negatives)).astype(np.int32)
    arrays = arrange_pairs(who, what, drawn, items, positives)
    return who, what, drawn, arrays.each(torch.from_numpy)


def gathered(user_table, item_table, who, what, drawn):
    """Scores in the batch's order (by user, stable), by plain indexing."""
    order = np.argsort(who, kind="stable")
    pairs = np.concatenate([what[order, None], drawn[order]], 1)
    u = user_table[torch.from_numpy(who[order]).long()]
    v = item_table[torch.from_numpy(pairs).long()]
    return (u[:, None, :] * v).sum(-1).flatten()


def test_scores_and_gradients_equal_those_of_gathered_vectors():
    rng = np.random.default_rng(0)
    who, what, drawn, batch = a_batch(rng)
    tables = [torch.randn(n, 8, dtype=torch.float64, requires_grad=True) for n in (13, 17)]
    weights = torch.randn(40 * 4, dtype=torch.float64)

    ours = pair_scores(tables[0][batch.users], tables[1][batch.items], batch.pattern)
    got = torch.autograd.grad((ours * weights).sum(), tables)
    theirs = gathered(*tables, who, what, drawn)
    expected = torch.autograd.grad((theirs * weights).sum(), tables)

    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-12, atol=1e-12)


def test_a_batch_holds_each_user_and_item_once():
    who, what, drawn, batch = a_batch(np.random.default_rng(1))
    assert batch.users.tolist() == sorted(set(who.tolist()))
    assert batch.items.tolist() == sorted(set(what.tolist()) | set(drawn.flatten().tolist()))


def test_large_catalogues_take_another_way_to_the_same_layout(monkeypatch):
    from cadc_rec.data.load import batches

    rng = np.random.default_rng(2)
    who, what, drawn, few = a_batch(rng)
    monkeypatch.setattr(batches, "_DENSE_IDS", 0)  # sort instead of marking
    many = arrange_pairs(who, what, drawn, 17, 40).each(torch.from_numpy)
    assert few.items.tolist() == many.items.tolist()
    for name, value in vars(few.pattern).items():
        assert value.tolist() == getattr(many.pattern, name).tolist(), name


def test_an_empty_batch_has_no_scores_and_zero_gradients():
    empty = np.zeros(0, dtype=np.int32)
    batch = arrange_pairs(empty, empty, empty.reshape(0, 3), 17, 0).each(torch.from_numpy)
    users, items = torch.zeros(0, 8, requires_grad=True), torch.zeros(0, 8, requires_grad=True)
    scores = pair_scores(users, items, batch.pattern)
    scores.sum().backward()
    assert scores.shape == (0,)
    assert users.grad is not None
    assert users.grad.shape == (0, 8)
