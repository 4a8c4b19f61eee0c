"""The sharded model on unique ids against plain PyTorch on every pair: the same training."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "distributed"))
import toy

from cadc_rec.config import ComputeConfig
from cadc_rec.data.loader import PairLoader
from cadc_rec.distributed.processes import processes
from cadc_rec.distributed.state import gather_state
from cadc_rec.training.build import build_model
from cadc_rec.training.optimizers import dense_optimizer
from cadc_rec.training.trainer import Trainer


class PlainTower(nn.Module):
    """nn.Embedding for the ids, a mean of nn.Embedding rows for each attribute, an MLP."""

    def __init__(self, side, attributes, state):
        super().__init__()
        prefix = f"{side}.ids.table.embedding_bags.{side}.weight"
        self.ids = nn.Embedding.from_pretrained(state[prefix].clone(), freeze=False)
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


@pytest.mark.parametrize("ids", ["trainable", "init_frozen"])
def test_ten_steps_give_the_losses_of_plain_pytorch(ids):
    rng = np.random.default_rng(4)
    users, items = rng.integers(0, toy.USERS, 200), rng.integers(0, toy.ITEMS, 200)
    experiment = toy.experiment(ids, "data_parallel")
    with processes(ComputeConfig(device="cpu", threads=1)) as alone:
        tables = toy.tables() if ids == "init_frozen" else None
        model = build_model(experiment, toy.dataset(), tables, alone)
        state = copy.deepcopy(gather_state(model.wrapped, alone))
        loader = PairLoader(users, items, [200], 0, 20, 2, toy.ITEMS, seed=0)
        optimizer = dense_optimizer(model.wrapped, model.module, experiment.train)
        trainer = Trainer(model.wrapped, optimizer, loader, experiment.train, alone, model.trains)
        steps = list(loader.epoch(1))
        ours = [float(trainer._step(step)) for step in steps]

    data = toy.dataset()
    user = PlainTower("user", data.user_attributes, state)
    item = PlainTower("item", data.item_attributes, state)
    parameters = [*user.parameters(), *item.parameters()]
    if ids == "init_frozen":
        parameters = [
            p for p in parameters if p is not user.ids.weight and p is not item.ids.weight
        ]
    adam = torch.optim.Adam(parameters, lr=experiment.train.learning_rate)
    theirs = []
    for step in steps:
        who = torch.from_numpy(np.repeat(step.users, np.diff(step.crow)))
        what = torch.from_numpy(step.items[step.col])
        labels = torch.zeros(len(who)).view(-1, 3)
        labels[:, 0] = 1
        scores = (user(who) * item(what)).sum(1)
        loss = nn.functional.binary_cross_entropy_with_logits(scores, labels.flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
        theirs.append(loss.item())
    assert ours == pytest.approx(theirs, rel=1e-5)
