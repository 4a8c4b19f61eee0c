"""A step's loss is that of all its scores, however many rows are taken at a time."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cadc_rec.config.experiment import TrainConfig
from cadc_rec.data.load.shards import Examples
from cadc_rec.models import summed_loss
from cadc_rec.models.shared import shared_scores
from cadc_rec.training.build import build_model
from cadc_rec.training.losses import make_objective
from cadc_rec.training.reading import make_loader
from tests.distributed import toy

ROWS = 60
LOSSES = ("softmax", "sampled-softmax", "in-batch-softmax")


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that is made of rows and candidates."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dim() == 2:
            self.elements = max(self.elements, made.numel())
        return made


def step_of(loss, alone):
    """A model that reads histories and adds a prior, a step of `ROWS` rows, and its loss."""
    e = toy.experiment("prior", "data_parallel")
    model = build_model(e, toy.dataset(), toy.pretrained("prior"), alone)
    with torch.no_grad():  # towers begin silent
        for parameter in model.module.user.last_layer().parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    config = TrainConfig(
        loss=loss, batch_size=ROWS, shared_negatives=9, exclude_known=True, temperature=0.5
    )
    rng = np.random.default_rng(3)
    users, items = rng.integers(0, toy.USERS, ROWS), rng.integers(0, toy.ITEMS, ROWS)
    examples = Examples(users, items, toy.histories(ROWS))
    (arrays,) = make_loader(config, examples, [ROWS], 0, toy.ITEMS, 0, toy.known_items()).epoch(1)
    offsets = torch.linspace(-1, 1, toy.ITEMS)
    return model, arrays, examples.history[arrays.rows], make_objective(config, offsets).loss


@pytest.mark.parametrize("loss", LOSSES)
def test_it_is_the_cross_entropy_of_each_rows_candidates(loss, alone):
    """In float64, of the joined vectors that ranking uses, row by row."""
    model, arrays, history, objective = step_of(loss, alone)
    read = model.module.read(torch.from_numpy(history))
    got = model.wrapped(arrays.each(torch.from_numpy), read, loss=objective)
    with torch.no_grad():
        users = model.module.user_vectors(torch.from_numpy(arrays.users), torch.from_numpy(history))
        items = model.module.item_vectors(torch.arange(toy.ITEMS))
    logits = users.double().numpy() @ items.double().numpy().T / 0.5
    logits -= np.linspace(-1, 1, toy.ITEMS)
    known, expected = toy.known_items(), 0.0
    shared = arrays.items if arrays.negatives is None else arrays.items[arrays.negatives]
    for row, (user, label) in enumerate(zip(arrays.users, arrays.labels, strict=True)):
        positive = arrays.items[label]
        left_out = set(known.items[known.indptr[user] : known.indptr[user + 1]].tolist())
        among = sorted((set(shared.tolist()) - left_out) | {positive})
        expected += np.log(np.exp(logits[row, among]).sum()) - logits[row, positive]
    assert got.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_few_rows_at_a_time_give_the_same_loss_and_gradients(loss, alone, monkeypatch):
    model, arrays, history, objective = step_of(loss, alone)
    batch, read = arrays.each(torch.from_numpy), model.module.read(torch.from_numpy(history))
    named = dict(model.module.named_parameters())
    learned = {name: p for name, p in named.items() if model.trains(name)}

    def lost():
        model.wrapped.zero_grad()
        value = 2 * model.wrapped(batch, read, loss=objective)
        value.backward()
        return value.item(), {n: p.grad.clone() for n, p in learned.items()}

    at_once, gradients = lost()
    columns = len(batch.items if batch.negatives is None else batch.negatives)
    monkeypatch.setattr(summed_loss, "AT_ONCE", 7 * columns)
    in_blocks, others = lost()
    assert in_blocks == pytest.approx(at_once, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-4, atol=1e-5)
    assert any(gradient.abs().sum() > 0 for gradient in gradients.values())


def test_scores_of_all_rows_are_never_there_at_once(monkeypatch):
    """Vectors of two elements, so that nothing else is as large."""
    from cadc_rec.data.load.batches import Batch
    from cadc_rec.models.forward import Vectors

    monkeypatch.setattr(summed_loss, "AT_ONCE", 7 * 50)
    users, items = (torch.randn(n, 2, requires_grad=True) for n in (60, 50))
    batch = Batch(torch.arange(60), torch.arange(50), labels=torch.arange(60) % 50)
    objective = make_objective(TrainConfig(loss="softmax")).loss
    with Largest() as largest:
        summed_loss.summed_loss(objective, Vectors(users), Vectors(items), None, batch).backward()
    assert largest.elements == 7 * 50


@pytest.mark.parametrize("scaled", [0, 2])
def test_scores_of_shared_negatives_are_products_of_rows_and_so_are_their_gradients(scaled):
    """Against differences in float64, for the columns of items that are learned."""
    draw = np.random.default_rng(0).normal
    learned, items, *fixed = (
        torch.tensor(draw(size=shape)) for shape in ((5, 3), (6, 8), (5, 1), (5, 2), (5, 2))
    )
    negatives, labels = torch.tensor([4, 0, 2]), torch.tensor([0, 5, 5, 1, 2])
    factors = torch.tensor([0.5, 3.0], dtype=torch.float64)[:scaled]
    factor = [1.0, *(factors.tolist() or [1.0, 1.0])]

    def scores(learned, own_columns, factors):
        joined = torch.cat([own_columns, items[:, 3:]], 1)
        return shared_scores(learned, joined, negatives, labels, fixed, factors if scaled else None)

    rows = torch.cat([learned, *(f * part for f, part in zip(factor, fixed, strict=True))], 1)
    shared, own = scores(learned, items[:, :3], factors)
    torch.testing.assert_close(shared, rows @ items[negatives].T)
    torch.testing.assert_close(own, (rows * items[labels]).sum(1))
    given = [each.clone().requires_grad_() for each in (learned, items[:, :3], factors)]
    assert torch.autograd.gradcheck(scores, given if scaled else [*given[:2], factors])


def test_under_autocast_the_large_product_alone_is_bfloat16():
    learned, items = torch.randn(5, 3, requires_grad=True), torch.randn(6, 3, requires_grad=True)
    negatives, labels = torch.tensor([4, 0]), torch.tensor([0, 5, 5, 1, 2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        shared, own = shared_scores(learned, items, negatives, labels)
    low = learned.bfloat16() @ items[negatives].bfloat16().T
    assert torch.equal(shared, low.float())
    torch.testing.assert_close(own, (learned * items[labels]).sum(1))
    (shared.sum() + own.sum()).backward()
    assert learned.grad.dtype == items.grad.dtype == torch.float32
