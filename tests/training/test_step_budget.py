"""What a training step asks of a GPU: how many launches, and nothing that waits for it.

Counted on CPU, with the branches that a GPU takes. An operator that only names memory anew is no
launch. Kernels within an operator (of fbgemm, cuSPARSE, cuBLAS) are not seen.
"""

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cadc_rec.data.load.shards import Examples
from cadc_rec.models import features, tower
from cadc_rec.training import tables
from cadc_rec.training.build import build_model
from cadc_rec.training.kept import Histories
from cadc_rec.training.reading import make_loader
from cadc_rec.training.trainer import Trainer
from cadc_rec.training.training_state import TrainingState
from tests.distributed import toy

ROWS = 60
NO_LAUNCH = ("empty", "new_empty", "_reshape_alias", "_unsafe_view", "lift", "detach", "alias")
NO_LAUNCH += ("_record_function", "promote_types", "_sparse_csr", "sparse_compressed_tensor")
NO_LAUNCH += ("values", "crow_indices", "col_indices", "resize_")
READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")
SIZED = ("repeat_interleave",)  # waits for the number of its values unless it is told
PYTHONS = ("tolist", "item", "numpy", "__bool__", "__int__", "__float__", "__index__")


class Launches(TorchDispatchMode):
    """Operators that launch a kernel, and those that wait for the device."""

    def __init__(self):
        super().__init__()
        self.launched, self.waits = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        if any(read in name for read in READS) or self.masks(name, args):
            self.waits[str(func)] += 1
        if name in SIZED and kwargs.get("output_size") is None:
            self.waits[str(func)] += 1
        if not (func.is_view or any(name.startswith(each) for each in NO_LAUNCH)):
            self.launched[str(func)] += 1
        return func(*args, **kwargs)

    @staticmethod
    def masks(name, args):
        """Whether what is taken depends on a mask's values, and so does a shape."""
        if name not in ("index", "index_put", "index_put_"):
            return False
        return any(i is not None and i.dtype == torch.bool for i in args[1])


def training(ids, alone, **model):
    """Two steps' batches of a toy training, and a function that takes one."""
    e = toy.experiment(ids, "data_parallel")
    e = e.model_copy(update={"model": e.model.model_copy(update=model)})
    rng = np.random.default_rng(1)
    users, items = rng.integers(0, toy.USERS, ROWS), rng.integers(0, toy.ITEMS, ROWS)
    history = toy.histories(ROWS) if ids in toy.HISTORIES else None
    made = build_model(e, toy.dataset(), toy.pretrained(ids), alone)
    examples = Examples(users, items, history)
    loader = make_loader(e.train, examples, [ROWS], 0, toy.ITEMS, 0, toy.known_items())
    if ids not in toy.HISTORIES:
        loader.arrange.everything = None  # a catalogue's attributes are read once
    histories = None
    if history is not None:
        histories = Histories(made.module, history, [ROWS], alone, 1 << 30)
    optimizer = tables.dense_optimizer(made.wrapped, made.module, e.train)
    trainer = Trainer(
        made.wrapped, optimizer, loader, e.train, alone, made.trains, histories=histories
    )
    state = TrainingState(made.wrapped, optimizer, made.trains, alone, horizon=10.0)
    made.wrapped.train()

    def step(batch):
        state.loss += trainer.step(batch)
        state.average.update()
        return state

    return [each.each(torch.from_numpy) for each in loader.epoch(1)], step


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    for module in (features, tower, tables):
        monkeypatch.setattr(module, "on_gpu", lambda device: True)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(
    ("ids", "dropout", "budget"),
    [("init_frozen", 0, 56), ("trainable", 0, 60), ("prior", 0, 79), ("prior", 0.2, 81)],
)
def test_a_step_launches_few_operators_and_waits_for_none(ids, dropout, budget, alone, monkeypatch):
    """cadc, gold, and the recipe: a history, transitions, a prior, candidates that are masked."""
    batches, step = training(ids, alone, id_dropout=dropout)
    for batch in batches[:-1]:  # the first steps make what all others use again
        step(batch)
    python, made = Counter(), Counter()

    def counted(real, name, counts):
        def call(*args, **kwargs):
            counts[name] += 1
            return real(*args, **kwargs)

        return call

    for name in PYTHONS:
        monkeypatch.setattr(torch.Tensor, name, counted(getattr(torch.Tensor, name), name, python))
    for name in ("tensor", "from_numpy", "as_tensor"):
        monkeypatch.setattr(torch, name, counted(getattr(torch, name), name, made))
    with Launches() as seen:
        step(batches[-1])
    monkeypatch.undo()
    assert (seen.waits, python, made) == (Counter(), Counter(), Counter())
    assert sum(seen.launched.values()) <= budget, seen.launched


@pytest.mark.parametrize("ids", ["init_frozen", "prior"])
def test_what_a_gpu_does_otherwise_comes_to_the_same(ids, alone, monkeypatch):
    def losses():
        batches, step = training(ids, alone)
        return [float(step(batch).loss) for batch in batches]

    expected = losses()
    for module in (features, tower, tables):
        monkeypatch.setattr(module, "on_gpu", lambda device: True)
    assert losses() == pytest.approx(expected, rel=1e-5)
