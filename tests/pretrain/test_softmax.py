"""MF under a softmax: gradients against autograd over all pairs, samples, and what it learns."""

import numpy as np
import pytest
import torch
from scipy import sparse

from cadc_rec.config.experiment import ComputeConfig, PretrainConfig
from cadc_rec.config.file import load_experiment
from cadc_rec.distributed.processes import processes
from cadc_rec.models.factorization import as_dot_products
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pretrain.alternating import Interactions
from cadc_rec.pretrain.factor_tables import ReplicatedTable
from cadc_rec.pretrain.id_tables import IdTables
from cadc_rec.pretrain.softmax import SoftmaxSolver

USERS, ITEMS, FACTORS = 11, 7, 3


@pytest.fixture
def alone():
    with processes(ComputeConfig(device="cpu", threads=1)) as joined:
        yield joined


def interactions_of(users, items, n_users, n_items):
    """CSR in both orders."""
    by_user = sparse.csr_array((np.ones(len(users)), (users, items)), shape=(n_users, n_items))
    by_item = by_user.T.tocsr()
    return Interactions(
        by_user.indptr.astype(np.int64),
        by_user.indices.astype(np.int32),
        by_item.indptr.astype(np.int64),
        by_item.indices.astype(np.int32),
    )


@pytest.fixture
def pairs():
    """Users and items of 40 interactions; user 4 and item 6 have none."""
    rng = np.random.default_rng(0)
    chosen = rng.choice(USERS * ITEMS, 50, replace=False)
    users, items = chosen // ITEMS, chosen % ITEMS
    kept = (users != 4) & (items != 6)
    return users[kept], items[kept]


def tables(user, item, alone):
    return ReplicatedTable(user, alone), ReplicatedTable(item, alone)


def a_solver(pairs, alone, **settings):
    config = PretrainConfig(model="mf", loss="softmax", factors=FACTORS, **settings)
    user, item = torch.empty(USERS, FACTORS + 1), torch.empty(ITEMS, FACTORS + 1)
    solver = SoftmaxSolver(
        *tables(user, item, alone), interactions_of(*pairs, USERS, ITEMS), config, 0, alone
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        user[:, :-1].normal_(generator=generator)
        item.normal_(generator=generator)
    return solver


def summed_loss(user, item, users, items):
    """The sum over interactions of -log softmax, an interaction at a time."""
    scores = user[:, :-1] @ item[:, :-1].T + item[:, -1]
    return torch.nn.functional.cross_entropy(
        scores[users], torch.from_numpy(items).long(), reduction="sum"
    )


@pytest.mark.parametrize("at_once", [1, 2 * ITEMS, 2**22])
def test_with_all_rows_the_gradients_are_those_of_the_whole_softmax(
    at_once, pairs, alone, monkeypatch
):
    """However few logits are held at once."""
    monkeypatch.setattr("cadc_rec.pretrain.softmax._AT_ONCE", at_once)
    solver = a_solver(pairs, alone)
    user, item = (
        side.table.weight.double().clone().requires_grad_() for side in (solver.users, solver.items)
    )
    expected = summed_loss(user, item, *pairs)
    expected.backward()
    with torch.no_grad():
        of_users, loss = solver.user_gradient(0)
        of_items = solver.item_gradient(0)
    torch.testing.assert_close(of_users.double(), user.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(of_items.double(), item.grad, rtol=1e-5, atol=1e-5)
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_an_epoch_is_an_adam_step_of_the_users_and_then_one_of_the_items(pairs, alone):
    solver = a_solver(pairs, alone, epochs=1, learning_rate=0.05, l2=0.7)
    tables = [side.table.weight.clone().requires_grad_() for side in (solver.users, solver.items)]
    for table in tables:  # L2 counts for the side that moves
        adam = torch.optim.Adam([table], lr=0.05)
        adam.zero_grad()
        (summed_loss(*tables, *pairs) + 0.5 * 0.7 * table.square().sum()).backward()
        adam.step()
        for other in tables:
            other.grad = None
    list(solver.epochs())
    for got, table in zip((solver.users, solver.items), tables, strict=True):
        torch.testing.assert_close(got.table.weight, table.detach(), rtol=1e-4, atol=1e-5)


def test_a_users_sum_over_items_is_a_uniform_samples(pairs, alone):
    """The gradient is autograd's, with each user's sum over a sample that all users share."""
    solver = a_solver(pairs, alone, shared_negatives=5)
    user = solver.users.table.weight.double().clone().requires_grad_()
    item = solver.items.table.weight.double()
    sample = solver._sampled_items(3)
    scores = user[:, :-1] @ item[:, :-1].T + item[:, -1]
    sums = scores[:, sample].logsumexp(1) + np.log(ITEMS / 5)
    expected = (sums[pairs[0]] - scores[pairs]).sum()
    expected.backward()
    with torch.no_grad():
        gradient, loss = solver.user_gradient(3)
    torch.testing.assert_close(gradient.double(), user.grad, rtol=1e-5, atol=1e-5)
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)
    drawn = np.bincount(torch.cat([solver._sampled_items(e) for e in range(2000)]), minlength=ITEMS)
    assert np.abs(drawn - 10_000 / ITEMS).max() < 5 * (10_000 / ITEMS) ** 0.5


def test_sampled_users_give_the_items_whole_gradient_on_average(pairs, alone):
    whole, sampled = (a_solver(pairs, alone, shared_negatives=n) for n in (1000, 5))
    draws = 1000
    with torch.no_grad():
        drawn = torch.stack([sampled.item_gradient(epoch) for epoch in range(draws)])
        expected = whole.item_gradient(0)
    error = drawn.std(0) / draws**0.5
    assert ((drawn.mean(0) - expected).abs() < 5 * error + 1e-4).all()


def test_users_biases_stay_zero(pairs, alone):
    solver = a_solver(pairs, alone, epochs=3)
    solver.users.table.weight[:, -1] = 0.0
    list(solver.epochs())
    assert (solver.users.table.weight[:, -1] == 0).all()
    assert (solver.items.table.weight[:, -1] != 0).any()


def test_training_finds_the_groups_of_a_block_world(alone):
    """Users of a group take items of that group only; the scores must tell them apart."""
    rng = np.random.default_rng(2)
    users = np.repeat(np.arange(60), 12)
    chosen = np.concatenate([rng.choice(20, 12, replace=False) for _ in range(60)])
    data = interactions_of(users, (users % 3) * 20 + chosen, 60, 60)
    config = PretrainConfig(
        model="mf", loss="softmax", factors=8, epochs=60, l2=0.3, learning_rate=0.05,
        shared_negatives=20,
    )  # fmt: skip
    user, item = torch.empty(60, 9), torch.empty(60, 9)
    losses = list(SoftmaxSolver(*tables(user, item, alone), data, config, 0, alone).epochs())
    u, v = as_dot_products(user, item)
    same = (np.arange(60)[:, None] % 3) == (np.arange(60)[None, :] // 20)
    scores = (u @ v.T).numpy()
    assert scores[same].mean() > scores[~same].mean() + 1.0
    assert losses[0] == pytest.approx(np.log(60), abs=0.1)  # before it has learned anything
    assert losses[-1] < np.log(30)  # of 60 items it leaves a third, more or less


def test_the_same_seed_gives_the_same_bits_and_another_does_not(pairs, alone):
    data = interactions_of(*pairs, USERS, ITEMS)
    config = PretrainConfig(model="mf", loss="softmax", factors=3, epochs=3, shared_negatives=4)
    made = []
    for seed in (0, 0, 1):
        user, item = torch.empty(USERS, 4), torch.empty(ITEMS, 4)
        list(SoftmaxSolver(*tables(user, item, alone), data, config, seed, alone).epochs())
        made.append(user)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_the_pretrain_stage_exports_the_tables_like_those_of_any_factorization(tiny, tmp_path):
    experiment = load_experiment(tiny, method="mf", overrides=["pretrain.loss=softmax"])
    made = Pipeline(experiment, tmp_path).artifact("pretrain")
    tables = IdTables.open(made)
    assert (tables.user.shape, tables.item.shape) == ((60, 16), (40, 16))
    assert tables.bias_last
    assert (tables.user[:, -1] == 0).all()
    losses = [entry["loss"] for entry in made.info["history"]]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == pytest.approx(np.log(40), abs=0.1)
    assert set(made.info["validation"]) == {"hr@10", "ndcg@10"}
