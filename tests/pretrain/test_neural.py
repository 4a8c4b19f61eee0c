"""Pre-training with an MLP on the two vectors, against plain PyTorch on whole tables."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.data.load.pair_batches import arrange_pairs
from cadc_rec.distributed.processes import processes
from cadc_rec.pretrain.factorizations import NeuralFactorization
from tests.distributed import toy
from tests.pretrain import neural_worker as steps
from tests.pretrain.neural_worker import ITEMS, USERS, WIDTH
from tests.zygote import run_ranks


@pytest.fixture(scope="module")
def alone():
    with processes(ComputeConfig(device="cpu", threads=1)) as joined:
        yield joined


@pytest.fixture
def batch():
    """40 positives with three negatives each, and the users and items of all pairs."""
    who, what, drawn = steps.drawn(0)
    order = np.argsort(who, kind="stable")  # a batch's pairs are ordered by user
    items = np.concatenate([what[order, None], drawn[order]], 1).ravel()
    pairs = torch.from_numpy(np.repeat(who[order], 4)).long(), torch.from_numpy(items).long()
    return arrange_pairs(who, what, drawn, ITEMS, 40).each(torch.from_numpy), *pairs


class Plain(nn.Module):
    """An MLP on joined vectors."""

    def __init__(self, hidden, user, item, state):
        super().__init__()
        self.user, self.item = (nn.Parameter(torch.tensor(table)) for table in (user, item))
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([2 * WIDTH, *hidden, 1]))
        given = {name: torch.tensor(values) for name, values in state.items()}
        first = torch.cat([given["of_user.weight"], given["of_item.weight"]], 1)
        self.layers[0].load_state_dict({"weight": first, "bias": given["of_user.bias"]})
        for number, layer in enumerate(self.layers[1:]):
            name = f"mlp.{2 * number + 1}"  # a ReLU stands before each
            layer.load_state_dict({k: given[f"{name}.{k}"] for k in ("weight", "bias")})

    def forward(self, who, what):
        x = torch.cat([self.user[who], self.item[what]], 1)
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x).squeeze(1)


@pytest.mark.parametrize("hidden", [(6,), (8, 4), (8, 4, 2)])
def test_scores_and_gradients_are_those_of_an_mlp_on_joined_vectors(hidden, alone, batch):
    pairs, who, what = batch
    model = NeuralFactorization(USERS, ITEMS, WIDTH, hidden, alone)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    state = {name: value.tolist() for name, value in model.state_dict().items()}
    plain = Plain(hidden, state["users.weight"], state["items.weight"], state)
    theirs, ours = plain(who, what), model(pairs)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)

    weights = torch.randn(len(theirs))
    (theirs * weights).sum().backward()
    (ours * weights).sum().backward()
    for got, expected in ((model.users, plain.user), (model.items, plain.item)):
        torch.testing.assert_close(got.weight.grad, expected.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        model.of_item.weight.grad, plain.layers[0].weight.grad[:, WIDTH:], rtol=1e-3, atol=1e-3
    )


def of_plain_pytorch(found):
    """Losses, tables and the first layer of the same steps on whole tables, by one process."""
    plain = Plain(steps.HIDDEN, *found["before"].values(), found["start"])
    adam = torch.optim.Adam(plain.parameters(), lr=steps.RATE, weight_decay=steps.DECAY)
    losses = []
    for number in range(steps.STEPS):
        who, what, others = (torch.from_numpy(ids).long() for ids in steps.drawn(number))
        items = torch.cat([what[:, None], others], 1)
        wanted = torch.zeros(items.shape)
        wanted[:, 0] = 1.0
        scores = plain(who.repeat_interleave(items.shape[1]), items.flatten())
        loss = nn.functional.binary_cross_entropy_with_logits(scores, wanted.flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    return losses, plain.user, plain.item, plain.layers[0].weight[:, :WIDTH]


# Of a batch of 40, some ranks take no row. 13 users and 17 items are never dealt out evenly.
@pytest.mark.parametrize(
    "shares",
    [
        ["40"],
        pytest.param(["27,13", "0,40"], marks=[pytest.mark.distributed, pytest.mark.slow]),
        pytest.param(["20,0,20", "1,38,1"], marks=pytest.mark.distributed),
    ],
    ids=["one", "two", "three"],
)
def test_steps_on_the_ranks_own_rows_are_those_of_whole_tables(shares, tmp_path):
    ranks = len(shares[0].split(","))
    worker = Path(steps.__file__)
    run_ranks(worker, [tmp_path / "results.json", *shares], ranks=ranks, seconds=120)
    results = json.loads((tmp_path / "results.json").read_text())
    for case in shares:
        found = results[case]
        losses, user, item, first = of_plain_pytorch(found)
        assert found["losses"] == pytest.approx(losses, rel=1e-5)
        assert losses[-1] < losses[0]
        for got, expected in zip(
            (found["after"]["user"], found["after"]["item"], found["first"]),
            (user, item, first),
            strict=True,
        ):
            torch.testing.assert_close(torch.tensor(got), expected.detach(), rtol=1e-4, atol=1e-5)
        bounds = [[n * r // ranks for r in range(ranks + 1)] for n in (USERS, ITEMS)]
        assert found["held"] == [
            [bound[r + 1] - bound[r] for bound in bounds] for r in range(ranks)
        ]


def test_pretraining_lowers_the_loss_and_is_the_same_every_time(alone):
    first, again = toy.neural(alone), toy.neural(alone)
    assert first == again
    assert len(first["loss"]) == 3
    assert first["loss"][2] < first["loss"][1] < first["loss"][0]
    # two numbers a pair: before anything is learned, log 2 of loss each
    assert first["loss"][0] == pytest.approx(np.log(2), rel=0.1)
