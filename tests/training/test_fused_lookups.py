"""Tables whose optimizer runs in their backward pass: what is known of a step's rows, and of Adam.

Adam is fused on CUDA alone; where a kernel is not needed, a stand-in is.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice
from torchrec.optim import Adagrad, Adam, RowWiseAdagrad

from cadc_rec.config.experiment import TrainConfig
from cadc_rec.data.load.shards import Examples
from cadc_rec.distributed import fused_lookups
from cadc_rec.distributed.fused_state import local_moments
from cadc_rec.training import tables
from cadc_rec.training.averaging import WeightAverage
from cadc_rec.training.build import build_model
from cadc_rec.training.reading import make_loader
from cadc_rec.training.trainer import Trainer
from cadc_rec.training.training_state import TrainingState
from tests.distributed import toy


def training(alone, ids="trainable", kind="table_wise", horizon=6.0):
    """A toy training's steps, one after another, and its state."""
    e = toy.experiment(ids, kind)
    draw = np.random.default_rng(1)
    rows = Examples(draw.integers(0, toy.USERS, 120), draw.integers(0, toy.ITEMS, 120))
    made = build_model(e, toy.dataset(), toy.pretrained(ids), alone)
    loader = make_loader(e.train, rows, [120], 0, toy.ITEMS, 0)
    loader.arrange.everything = None
    optimizer = tables.dense_optimizer(made.wrapped, made.module, e.train)
    trainer = Trainer(made.wrapped, optimizer, loader, e.train, alone, made.trains)
    state = TrainingState(made.wrapped, optimizer, made.trains, alone, horizon)
    made.wrapped.train()

    def steps(epochs):
        for epoch in range(1, epochs + 1):
            for batch in trainer.batches.epoch(epoch):
                trainer.step(batch)
                yield state

    return steps, state


@pytest.mark.parametrize("kind", ["table_wise", "column_wise"])
@pytest.mark.parametrize("ids", ["trainable", "hybrid"])
def test_rows_are_averaged_as_they_come_as_if_all_were_in_every_step(ids, kind, alone):
    steps, state = training(alone, ids, kind)
    of_tables = [".ids.free." in n or ".ids.table." in n for n in (a.name for a in state.locals)]
    swept = {each.data_ptr() for each in state.average._swept[1]}
    by_row = [each.data_ptr() not in swept for each in state.live]
    assert by_row == of_tables
    plain = WeightAverage(state.live, 6.0)
    for number, _ in enumerate(steps(9)):
        plain.update()
        state.average.update()
        if number in (0, 20):  # in the warm-up of 24 steps, and after it
            state.average.catch_up()
    assert number > 40
    with state.average.in_place():
        found = [each.clone() for each in state.live]
    for mine, expected in zip(found, plain.average, strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-6)


def test_no_step_reads_rows_of_a_table_that_it_does_not_look_up(alone):
    """The average of a row that no step had is as old as it was."""
    steps, state = training(alone)
    touched = next(steps(1))
    touched.average.update()
    ages = [each.seen for each in state.average._rows.values()]
    assert all((age == 0).all() for age in ages)  # what the first step changes was right before it
    for _ in steps(1):
        state.average.update()
    assert any(len(age.unique()) > 1 for age in ages)
    assert max(int(age.max()) for age in ages) == state.average.steps - 1


def test_a_table_that_is_swept_is_averaged_to_the_bit_as_before():
    live = [torch.randn(5, 3), torch.randn(4)]
    average, expected = WeightAverage(live, 3.0), [each.clone() for each in live]
    for step in range(1, 9):
        for each in live:
            each += torch.randn_like(each)
        average.update()
        torch._foreach_lerp_(expected, live, 1.0 / min(4.0, 1.0 + step / 4))
    assert all(map(torch.equal, average.average, expected))


def test_a_resumed_training_goes_on_with_a_moment_for_every_element(alone, monkeypatch):
    """As fused Adam's; on CPU an Adagrad that is not row-wise has such a state."""
    monkeypatch.setattr(tables, "fused_optimizer", lambda *_: (Adagrad, {"lr": 0.1}))
    steps, state = training(alone, kind="column_wise")
    for _ in steps(2):
        state.average.update()
    saved = dict(state.tensors())
    names = [each.name for each in local_moments(state.model)]
    weight = "{0}.ids.table.embedding_bags.{0}.weight"
    assert set(names) == {weight.format(side) + "/momentum1" for side in ("user", "item")}
    sizes = {
        "moments/user.ids.table.embedding_bags.user.weight/momentum1": (toy.USERS, toy.DIM),
        "moments/item.ids.table.embedding_bags.item.weight/momentum1": (toy.ITEMS, toy.DIM),
    }
    assert {n: tuple(p.size) for n, p in saved.items() if n.startswith("moments/")} == sizes
    assert state.optimizers()["user.ids.table.embedding_bags.user.weight"] == "fused Adam"
    described = state.described()
    copies = {n: [t.clone() for t in p.parts.values()] for n, p in saved.items()}
    expected = [each.clone() for _ in steps(1) for each in state.live]

    def load(wanted):
        for name, parts in wanted.items():
            for mine, theirs in zip(parts.parts.values(), copies[name], strict=True):
                mine.copy_(theirs)

    again, resumed = training(alone, kind="column_wise")
    sizes = {name: parts.size for name, parts in saved.items()}
    assert resumed.restore(described, sizes, load) == []
    found = [each.clone() for _ in again(1) for each in resumed.live]
    assert all(map(torch.equal, found, expected))


def test_what_moves_divided_tables_depends_on_the_device():
    config = TrainConfig(learning_rate=0.002, fused_learning_rate=0.3)
    assert tables.fused_optimizer(config, "cuda") == (Adam, {"lr": 0.002})
    assert tables.fused_optimizer(config, "cpu") == (RowWiseAdagrad, {"lr": 0.3})


def test_fused_adam_is_told_the_steps_number_and_rate():
    """Its own count would have validation's lookups in it, and begin anew after a restart."""
    told = []
    kernel = SimpleNamespace(
        iter_cpu=torch.zeros(1, dtype=torch.int64),
        set_optimizer_step=lambda step: told.append(("begin", step)),
        set_learning_rate=lambda rate: told.append((int(kernel.iter_cpu), rate)),
    )
    fused_lookups.begin_adam_step([kernel], 0, 0.1)
    kernel.iter_cpu += 7  # validation
    fused_lookups.begin_adam_step([kernel], 1, 0.05)
    assert told == [("begin", 0), (0, 0.1), (1, 0.05)]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_fused_adam_is_adam_where_every_step_has_every_row():
    """With lookups in between that train nothing, and a rate that changes."""
    on, rows, width = torch.device("cuda"), 50, 8
    place = EmbeddingLocation.DEVICE, ComputeDevice.CUDA
    kernel = fused_lookups.Kernel(
        [(rows, width, *place)], optimizer=EmbOptimType.ADAM, learning_rate=0.1, eps=1e-8, device=on
    )
    weight = torch.nn.Parameter(kernel.split_embedding_weights()[0].detach().clone())
    plain = torch.optim.Adam([weight], lr=0.1, eps=1e-8)
    every = torch.arange(rows, device=on), torch.arange(rows + 1, device=on)
    for step in range(5):
        rate = 0.1 / (1 + step)
        gradient = torch.randn(rows, width, device=on)
        fused_lookups.begin_adam_step([kernel], step, rate)
        kernel(*every).backward(gradient)
        with torch.no_grad():
            kernel(*every)
        plain.param_groups[0]["lr"], weight.grad = rate, gradient
        plain.step()
        mine = kernel.split_embedding_weights()[0]
        torch.testing.assert_close(mine, weight.detach(), rtol=1e-4, atol=1e-5)
