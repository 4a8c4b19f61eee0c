"""A half-step against autograd on the model's own forward, and what training amounts to."""

import numpy as np
import pytest
import torch

from cadc_rec.config.experiment import ComputeConfig, PretrainConfig
from cadc_rec.distributed.processes import processes
from cadc_rec.distributed.sharding import shard_model
from cadc_rec.distributed.state import local_tensors
from cadc_rec.models.factorization import as_dot_products
from cadc_rec.pretrain.alternating import AlternatingSolver, Interactions, Side
from cadc_rec.pretrain.factor_tables import ReplicatedTable
from cadc_rec.pretrain.factorizations import MatrixFactorization
from cadc_rec.pretrain.kernels import FusedGradient, Lanes, Pattern, torch_gradient

FUSED = FusedGradient(Lanes())


@pytest.fixture
def alone():
    with processes(ComputeConfig(device="cpu", threads=1)) as joined:
        yield joined


def interactions_of(users, items, n_users, n_items):
    """CSR in both orders, by sorting."""
    by_user, by_item = np.lexsort((items, users)), np.lexsort((users, items))
    return Interactions(
        np.concatenate([[0], np.cumsum(np.bincount(users, minlength=n_users))]),
        items[by_user].astype(np.int32),
        np.concatenate([[0], np.cumsum(np.bincount(items, minlength=n_items))]),
        users[by_item].astype(np.int32),
    )


@pytest.fixture
def small():
    rng = np.random.default_rng(0)
    pairs = rng.choice(11 * 7, 40, replace=False)
    return interactions_of(pairs // 7, pairs % 7, 11, 7)


@pytest.mark.parametrize("kernel", [torch_gradient, FUSED])
def test_a_half_step_is_one_adam_step_on_the_models_own_loss(kernel, small, alone):
    """Through the TorchRec collections, with autograd and torch's Adam: the same rows."""
    config = PretrainConfig(model="mf", factors=3, learning_rate=0.05, l2=0.7)
    model = MatrixFactorization(11, 7, 3)
    shard_model(model, {"user": "data_parallel", "item": "data_parallel"}, alone, 64)
    (user,) = (local.tensor for local in local_tensors(model.users))
    (item,) = (local.tensor for local in local_tensors(model.items))
    torch.manual_seed(1)
    with torch.no_grad():
        user.normal_()
        item.normal_()
        model.bias.fill_(-0.3)
    negatives = np.random.default_rng(1).integers(0, 7, 40)
    rows = np.repeat(np.arange(11), np.diff(small.user_indptr))

    # Expected: plain dense tables, autograd, torch.optim.Adam.
    weight = user.clone().requires_grad_()
    bias = torch.tensor(-0.3, requires_grad=True)
    columns = np.concatenate([small.items_by_user, negatives])
    u, v = weight[np.concatenate([rows, rows])], item[columns]
    logits = (u[:, :3] * v[:, :3]).sum(1) + u[:, 3] + v[:, 3] + bias
    labels = torch.cat([torch.ones(40), torch.zeros(40)])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    scores = model.score(
        torch.from_numpy(np.concatenate([rows, rows])), torch.from_numpy(columns.astype(np.int64))
    )
    torch.testing.assert_close(scores, logits)  # the collections say the same
    (loss + 0.5 * 0.7 * (weight**2).sum()).backward()
    adam = torch.optim.Adam([weight], lr=0.05)
    adam.step()

    side = Side(
        ReplicatedTable(user, alone), small.user_indptr, small.items_by_user, config, kernel
    )
    pattern = Pattern(torch.from_numpy(small.user_indptr), torch.from_numpy(negatives))
    gradient = side.step(ReplicatedTable(item, alone), model.bias, pattern)

    torch.testing.assert_close(user, weight.detach(), rtol=1e-5, atol=1e-6)
    assert bias.grad is not None
    torch.testing.assert_close(gradient.bias, bias.grad, rtol=1e-5, atol=1e-6)


def trained(data, alone, seed=0, **settings):
    config = PretrainConfig(model="mf", factors=8, **settings)
    user, item = torch.empty(data.n_users, 9), torch.empty(data.n_items, 9)
    bias = torch.nn.Parameter(torch.zeros(()))
    tables = ReplicatedTable(user, alone), ReplicatedTable(item, alone)
    solver = AlternatingSolver(*tables, bias, data, config, seed, alone)
    return user, item, list(solver.epochs())


def test_training_finds_the_groups_of_a_block_world(alone):
    """Users of a group take items of that group only; the scores must tell them apart."""
    rng = np.random.default_rng(2)
    users = np.repeat(np.arange(60), 12)
    items = (users % 3) * 20 + np.concatenate(
        [rng.choice(20, 12, replace=False) for _ in range(60)]
    )
    data = interactions_of(users, items, 60, 60)
    user, item, losses = trained(data, alone, epochs=60, l2=0.3, learning_rate=0.05)
    u, v = as_dot_products(user, item)
    same = (np.arange(60)[:, None] % 3) == (np.arange(60)[None, :] // 20)
    scores = (u @ v.T).numpy()
    assert scores[same].mean() > scores[~same].mean() + 1.0
    assert losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(small, alone):
    first, again, other = (trained(small, alone, seed, epochs=3)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_dot_products_of_the_export_are_the_scores_less_the_global_bias():
    user, item = torch.randn(5, 4), torch.randn(6, 4)
    u, v = as_dot_products(user, item)
    expected = user[:, :3] @ item[:, :3].T + user[:, 3:] + item[:, 3:].T
    torch.testing.assert_close(u @ v.T, expected)


def test_lanes_and_torch_threads_change_no_bit_and_are_put_back(alone, monkeypatch):
    """Two lanes with torch held to one thread, and one of each: the same tables."""
    rng = np.random.default_rng(3)
    pairs = rng.choice(60 * 40, 900, replace=False)
    data = interactions_of(pairs // 40, pairs % 40, 60, 40)
    monkeypatch.setattr("cadc_rec.pretrain.kernels.worth_compiling", lambda *_: True)
    before, tables = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            user, item = torch.zeros(60, 8), torch.zeros(40, 8)
            config = PretrainConfig(model="mf", factors=7, epochs=3, negatives=2)
            bias = torch.nn.Parameter(torch.zeros(()))
            whole = ReplicatedTable(user, alone), ReplicatedTable(item, alone)
            for _ in AlternatingSolver(*whole, bias, data, config, 0, alone).epochs():
                assert torch.get_num_threads() == threads  # whoever measures has them all
            tables.append((user, item, bias.detach().clone()))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*tables, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(("interactions", "l2"), [(700, 1.0), (8100, 3.0), (90_000, 4.0), (0, 1.0)])
def test_a_penalty_of_0_is_chosen_by_the_interactions_of_a_user(interactions, l2):
    assert PretrainConfig().sized(interactions, 100).l2 == pytest.approx(l2)
    assert PretrainConfig(l2=0.5).sized(interactions, 100).l2 == 0.5
