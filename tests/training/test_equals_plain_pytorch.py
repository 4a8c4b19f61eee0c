"""The sharded model on unique ids against plain PyTorch on every pair: the same training."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.data.load.loader import Loader
from cadc_rec.data.load.pair_batches import PairBatches
from cadc_rec.data.load.shards import Examples
from cadc_rec.distributed.processes import processes
from cadc_rec.distributed.state import gather_state
from cadc_rec.training.build import build_model
from cadc_rec.training.losses import make_objective
from cadc_rec.training.tables import dense_optimizer
from cadc_rec.training.trainer import Trainer
from tests.distributed import toy

FROZEN = ("init_frozen", "hybrid", "linear", "mlp", "residual")


class PlainIds(nn.Module):
    """nn.Embedding, with what an integration technique adds to it."""

    def __init__(self, kind, side, state):
        super().__init__()
        weight = state[f"{side}.ids.table.embedding_bags.{side}.weight"].clone()
        self.kind = kind
        self.table = nn.Embedding.from_pretrained(weight, freeze=kind in FROZEN)
        if kind == "hybrid":
            free = state[f"{side}.ids.free.embedding_bags.{side}_free.weight"].clone()
            self.free = nn.Embedding.from_pretrained(free, freeze=False)
        if kind in ("linear", "mlp"):
            self.layer = self._linear(f"{side}.ids.layer", state)
        if kind == "mlp":
            self.last = self._linear(f"{side}.ids.last", state)

    @staticmethod
    def _linear(name, state):
        weight = state[f"{name}.weight"]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({kind: state[f"{name}.{kind}"] for kind in ("weight", "bias")})
        return layer

    def forward(self, ids):
        vectors = self.table(ids)
        if self.kind == "hybrid":
            return torch.cat([vectors, self.free(ids)], 1)
        if self.kind == "linear":
            return self.layer(vectors)
        if self.kind == "mlp":
            return self.last(torch.relu(self.layer(vectors)))
        return vectors


class PlainTower(nn.Module):
    """`PlainIds`, a mean of nn.Embedding rows for each attribute, an MLP."""

    def __init__(self, kind, side, attributes, state):
        super().__init__()
        self.ids = PlainIds(kind, side, state)
        self.attributes = attributes
        self.tables = nn.ModuleList(
            nn.Embedding.from_pretrained(
                state[f"{side}.features.tables.embedding_bags.{side}_{a.name}.weight"].clone(),
                freeze=False,
            )
            for a in attributes
        )
        first, second = state[f"{side}.join.weight"], state[f"{side}.mlp.1.weight"]
        self.mlp = nn.Sequential(
            nn.Linear(first.shape[1], first.shape[0]),
            nn.ReLU(),
            nn.Linear(second.shape[1], second.shape[0]),
        )
        ours = {"0": "join", "2": "mlp.1"}  # plain name to the name in the sharded model
        self.mlp.load_state_dict(
            {
                f"{plain}.{kind}": state[f"{side}.{name}.{kind}"]
                for plain, name in ours.items()
                for kind in ("weight", "bias")
            }
        )

    def forward(self, ids):
        parts = [self.ids(ids)]
        for attribute, table in zip(self.attributes, self.tables, strict=True):
            rows = []
            for i in ids.tolist():
                codes = attribute.values[attribute.indptr[i] : attribute.indptr[i + 1]]
                zero = table.weight.new_zeros(table.embedding_dim)
                known = table(torch.from_numpy(codes.astype(np.int64)))
                rows.append(known.mean(0) if len(codes) else zero)
            parts.append(torch.stack(rows))
        return self.mlp(torch.cat(parts, 1))


def factorizations_score(user, item, who, what):
    """u'.v' + u_bias + v_bias of the frozen rows, the bias last."""
    u, v = user.ids.table(who), item.ids.table(what)
    return (u[:, :-1] * v[:, :-1]).sum(1) + u[:, -1] + v[:, -1]


def ten_steps(ids, item_offsets=None):
    """Ours and plain PyTorch's losses; afterwards the scores of all pairs, ours and theirs."""
    rng = np.random.default_rng(4)
    users, items = rng.integers(0, toy.USERS, 200), rng.integers(0, toy.ITEMS, 200)
    experiment = toy.experiment(ids, "data_parallel")
    with processes(ComputeConfig(device="cpu", threads=1)) as alone:
        model = build_model(experiment, toy.dataset(), toy.pretrained(ids), alone)
        state = copy.deepcopy(gather_state(model.wrapped, alone))
        loader = Loader(Examples(users, items), [200], 0, 20, 0, PairBatches(2, toy.ITEMS))
        optimizer = dense_optimizer(model.wrapped, model.module, experiment.train)
        trainer = Trainer(
            model.wrapped,
            optimizer,
            loader,
            experiment.train,
            alone,
            model.trains,
            make_objective(experiment.train, item_offsets),
        )
        steps = list(loader.epoch(1))
        ours = [float(trainer.step(step.each(torch.from_numpy))) for step in steps]
        user_vectors, item_vectors = model.user_vectors(), model.item_vectors()
        our_scores = user_vectors @ item_vectors.T

    data = toy.dataset()
    user = PlainTower(ids, "user", data.user_attributes, state)
    item = PlainTower(ids, "item", data.item_attributes, state)

    def scores_of(who, what):
        scores = (user(who) * item(what)).sum(1)
        return scores + factorizations_score(user, item, who, what) if ids == "residual" else scores

    parameters = [p for p in (*user.parameters(), *item.parameters()) if p.requires_grad]
    adam = torch.optim.Adam(parameters, lr=experiment.train.learning_rate)
    theirs = []
    for step in steps:
        who = torch.from_numpy(np.repeat(step.users, np.diff(step.pattern.crow)))
        what = torch.from_numpy(step.items[step.pattern.col])
        labels = torch.zeros(len(who)).view(-1, 3)
        labels[:, 0] = 1
        scores = scores_of(who, what)
        if item_offsets is not None:
            scores = scores - item_offsets[what]
        loss = nn.functional.binary_cross_entropy_with_logits(scores, labels.flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
        theirs.append(loss.item())
    who, what = torch.cartesian_prod(torch.arange(toy.USERS), torch.arange(toy.ITEMS)).T
    with torch.no_grad():
        their_scores = scores_of(who, what).view(toy.USERS, toy.ITEMS)
    return ours, theirs, our_scores, their_scores


KINDS = ("trainable", "init_frozen", "init", "hybrid", "linear", "mlp", "residual")


@pytest.mark.parametrize("ids", KINDS)
def test_ten_steps_give_the_losses_and_then_the_scores_of_plain_pytorch(ids):
    ours, theirs, our_scores, their_scores = ten_steps(ids)
    assert ours == pytest.approx(theirs, rel=1e-5)
    torch.testing.assert_close(our_scores, their_scores, rtol=1e-3, atol=1e-4)


def test_logqs_offsets_count_in_training_and_not_in_what_is_validated():
    """Plain PyTorch with the offsets in its loss and not in its scores: the same of both."""
    counts = np.arange(toy.ITEMS) % 5 * 3
    mean = (counts + 1).mean()
    offsets = torch.tensor([math.log((c + 1) / mean) for c in counts.tolist()])
    ours, theirs, our_scores, their_scores = ten_steps("trainable", offsets)
    assert ours == pytest.approx(theirs, rel=1e-5)
    torch.testing.assert_close(our_scores, their_scores, rtol=1e-3, atol=1e-4)
    without, *_ = ten_steps("trainable")
    assert max(abs(a - b) for a, b in zip(ours, without, strict=True)) > 0.01
