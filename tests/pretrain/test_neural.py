"""Pre-training with an MLP on the two vectors, against plain PyTorch on gathered ones."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.data.load.pair_batches import arrange_pairs
from cadc_rec.distributed.processes import processes
from cadc_rec.distributed.sharding import shard_model
from cadc_rec.distributed.state import gather_state
from cadc_rec.pretrain.factorizations import NeuralFactorization
from tests.distributed import toy

USERS, ITEMS, WIDTH = 13, 17, 8


@pytest.fixture(scope="module")
def alone():
    with processes(ComputeConfig(device="cpu", threads=1)) as joined:
        yield joined


@pytest.fixture
def batch():
    """40 positives with three negatives each, and the users and items of all pairs."""
    rng = np.random.default_rng(0)
    who, what = (rng.integers(0, n, 40).astype(np.int32) for n in (USERS, ITEMS))
    drawn = rng.integers(0, ITEMS, (40, 3)).astype(np.int32)
    order = np.argsort(who, kind="stable")  # a batch's pairs are ordered by user
    items = np.concatenate([what[order, None], drawn[order]], 1).ravel()
    pairs = torch.from_numpy(np.repeat(who[order], 4)).long(), torch.from_numpy(items).long()
    return arrange_pairs(who, what, drawn, ITEMS, 40).each(torch.from_numpy), *pairs


@pytest.mark.parametrize("hidden", [(6,), (8, 4), (8, 4, 2)])
def test_scores_and_gradients_are_those_of_an_mlp_on_joined_vectors(hidden, alone, batch):
    pairs, who, what = batch
    torch.manual_seed(0)
    model = NeuralFactorization(USERS, ITEMS, WIDTH, hidden, torch.device("cpu"))
    wrapped = shard_model(model, dict.fromkeys(("user", "item"), "data_parallel"), alone, 64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    state = gather_state(wrapped, alone)

    widths = [2 * WIDTH, *hidden, 1]
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    first = torch.cat([state["of_user.weight"], state["of_item.weight"]], 1)
    layers[0].load_state_dict({"weight": first, "bias": state["of_user.bias"]})
    for number, layer in enumerate(layers[1:]):
        name = f"mlp.{2 * number + 1}"  # a ReLU stands before each
        layer.load_state_dict({k: state[f"{name}.{k}"] for k in ("weight", "bias")})
    user, item = (
        state[f"{side}s.embedding_bags.{side}.weight"].requires_grad_() for side in ("user", "item")
    )
    x = torch.cat([user[who], item[what]], 1)
    for layer in layers[:-1]:
        x = torch.relu(layer(x))
    theirs = layers[-1](x).squeeze(1)
    ours = model(pairs)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)

    weights = torch.randn(len(theirs))
    (theirs * weights).sum().backward()
    (ours * weights).sum().backward()
    mine = dict(model.named_parameters())
    for side, expected in (("user", user.grad), ("item", item.grad)):
        got = mine[f"{side}s.embedding_bags.{side}.weight"].grad
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        mine["of_item.weight"].grad, layers[0].weight.grad[:, WIDTH:], rtol=1e-3, atol=1e-3
    )


def test_pretraining_lowers_the_loss_and_is_the_same_every_time(alone):
    first, again = toy.neural(alone), toy.neural(alone)
    assert first == again
    assert len(first["loss"]) == 3
    assert first["loss"][2] < first["loss"][1] < first["loss"][0]
    # two numbers a pair: before anything is learned, log 2 of loss each
    assert first["loss"][0] == pytest.approx(np.log(2), rel=0.1)
