"""A step that is recorded and played again does what an eager one does, to the bit.

A tape stands in for a CUDA graph: it keeps the operators of a step with the tensors that they read
and wrote, and runs them again on these. No Python of a step runs a second time, so whatever the
host knew when it was recorded is fixed, as it is in a graph. The tape does not see into fbgemm's
backward. With it a model learns no tables; where it does, the step's Python runs again instead.
"""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from cadc_rec.data.load.shards import Examples
from cadc_rec.errors import CadcError
from cadc_rec.models import features, tower
from cadc_rec.training import tables
from cadc_rec.training import trainer as trainer_module
from cadc_rec.training.batches.source import DeviceBatches
from cadc_rec.training.build import build_model
from cadc_rec.training.checkpoints import NoCheckpoints
from cadc_rec.training.kept import Histories
from cadc_rec.training.reading import make_loader
from cadc_rec.training.steps import runner
from cadc_rec.training.steps.graph import WARM_UP, NotRecordedError
from cadc_rec.training.trainer import Trainer
from tests.distributed import toy
from tests.training.test_step_budget import Launches

ROWS, BATCH = 103, 20  # steps of 17 and of 18 rows


class Tape(TorchDispatchMode):
    """The operators within, to be run again on the very same memory."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not func.is_view and not func.overloadpacket.__name__.startswith("empty"):
            self.calls.append((func, args, kwargs, result))
        return result

    @torch.no_grad()
    def play(self):
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(*map(pytree.tree_leaves, (result, again)), strict=True):
                if isinstance(old, torch.Tensor) and old is not new:
                    old.copy_(new)


class Tapes:
    """Stands in for `CudaRecorder`."""

    made: list[Tapes] = []  # noqa: RUF012

    def __init__(self, device):
        self.ran = self.tried = self.recorded = self.played = 0
        self.refuses = ""
        Tapes.made.append(self)

    def run(self, work):
        self.ran += 1
        return work()

    def trial(self, work):
        self.tried += 1
        with torch.random.fork_rng([]):
            work()
        if self.refuses:
            raise NotRecordedError(self.refuses)

    def record(self, work):
        self.recorded += 1
        with Tape() as tape:
            result = work()
        done = [True]  # a graph is recorded without being run; the tape has run once

        def play():
            self.played += 1
            if not done:
                tape.play()
            done.clear()

        return play, result


class Closures(Tapes):
    """Runs a step's Python again; its result stays one tensor, as a graph's does."""

    def record(self, work):
        self.recorded += 1
        result = work()
        done = [True]

        def play():
            self.played += 1
            if not done:
                result.copy_(work())
            done.clear()

        return play, result


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The branches of a GPU, on CPU."""
    for module in (features, tower, tables, runner):
        monkeypatch.setattr(module, "on_gpu", lambda device: True)
    monkeypatch.setattr(
        trainer_module, "source_on", lambda device, loader, *_: DeviceBatches(loader, device)
    )
    monkeypatch.setattr(runner, "CudaRecorder", Tapes)
    Tapes.made.clear()


CASES = {
    "cadc": ("init_frozen", {"model": {"id_dropout": 0.3}}, Tapes),
    "cold": ("init_frozen", {"model": {"cold_dropout": 0.4}}, Tapes),
    "recipe": ("prior", {"model": {"id_dropout": 0.3}}, Tapes),
    "cadc with tables": ("init_frozen", {"model": {"id_dropout": 0.3}}, Closures),
    "gold": ("trainable", {}, Closures),
}


def training(name, alone, graphs):
    """A trainer of a toy model, begun from the seed."""
    ids, changes, recorder = CASES[name]
    e = toy.experiment(ids, "data_parallel")
    train = {"epochs": 3, "schedule": "cosine", "average_epochs": 1.0, "batch_size": BATCH}
    for section, values in {"train": train, **changes}.items():
        part = getattr(e, section).model_copy(update=values)
        e = e.model_copy(update={section: part})
    rng = np.random.default_rng(1)
    users, items = (rng.integers(0, n, ROWS).astype(np.int32) for n in (toy.USERS, toy.ITEMS))
    history = toy.histories(ROWS) if ids in toy.HISTORIES else None
    made = build_model(e, toy.dataset(), toy.pretrained(ids), alone)
    for part in (made.module.user.features, made.module.item.features):
        if recorder is Tapes:
            part.forward = lambda ids, given=part.forward: given(ids).detach()
    examples = Examples(users, items, history)
    loader = make_loader(e.train, examples, [ROWS], 0, toy.ITEMS, 0, toy.known_items())
    histories = None
    if history is not None:
        histories = Histories(made.module, history, [ROWS], alone, 1 << 30)
    absence = made.module.absence
    return Trainer(
        made.wrapped,
        tables.dense_optimizer(made.wrapped, made.module, e.train),
        loader,
        e.train,
        alone,
        made.trains,
        histories=histories,
        before_step=lambda step: None if absence is None else absence.begin(step),
        graphs=graphs,
    )


class Noted(NoCheckpoints):
    """Copies the state after every step; goes on from a copy, if one is given."""

    def __init__(self, start=None):
        self.start, self.states = start, []

    def resume(self, state):
        if self.start is None:
            return
        values, manifest = self.start

        def load(wanted):
            for name, parts in wanted.items():
                for place, tensor in parts.parts.items():
                    tensor.copy_(values[name][place])

        sizes = {name: next(iter(parts.values())).shape for name, parts in values.items()}
        state.restore(manifest, sizes, load)

    def after_step(self, state, per_epoch):
        values = {
            name: {place: tensor.clone() for place, tensor in parts.parts.items()}
            for name, parts in state.tensors().items()
        }
        self.states.append((values, state.described()))


def same(states, expected):
    assert len(states) == len(expected)
    for (found, manifest), (wanted, other) in zip(states, expected, strict=True):
        assert found.keys() == wanted.keys()
        assert manifest["average_steps"] == other["average_steps"]
        for name, parts in wanted.items():
            for place, tensor in parts.items():
                assert torch.equal(found[name][place], tensor), name


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("name", CASES)
def test_recorded_steps_are_eager_ones_to_the_bit_and_can_be_resumed(name, alone, monkeypatch):
    """Weights, average, Adam's state, loss and generator after every step of three epochs."""
    monkeypatch.setattr(runner, "CudaRecorder", CASES[name][2])
    expected, states = Noted(), Noted()
    wanted = training(name, alone, "off").fit(None, checkpoints=expected).history
    trainer = training(name, alone, "on")
    assert trainer.fit(None, checkpoints=states).history == wanted
    same(states.states, expected.states)
    per_epoch = trainer.batches.steps
    (tapes,) = Tapes.made  # one for all steps: every step of every epoch has the same shapes
    assert (tapes.ran, tapes.tried, tapes.recorded) == (WARM_UP, 1, 1)
    assert tapes.played == 3 * per_epoch - WARM_UP
    half = per_epoch + 2  # steps into the second epoch; an epoch's last step is not noted
    again, rest = training(name, alone, "on"), Noted(states.states[half])
    assert again.fit(None, checkpoints=rest).history == wanted
    same(rest.states, expected.states[half + 1 :])


@pytest.mark.usefixtures("as_on_a_gpu")
def test_few_operators_are_launched_outside_of_the_graph(alone, monkeypatch):
    """Drawing, copies, rate, average and loss: at most 40 a step, and nothing is read."""
    trainer = training("cadc", alone, "on")
    count = Counter()

    class Hidden(Tapes):
        def record(self, work):
            play, result = super().record(work)

            def hidden():
                with torch.utils._python_dispatch._disable_current_modes():
                    play()

            return hidden, result

    monkeypatch.setattr(runner, "CudaRecorder", Hidden)
    seen = Launches()

    class Second(NoCheckpoints):
        def after_epoch(self, state, per_epoch):
            if state.progress.epoch == 2:
                seen.__enter__()
            else:
                seen.__exit__(None, None, None)

    trainer.fit(None, checkpoints=Second())
    steps = trainer.batches.steps
    # An epoch's loss is read once, and its rows and negatives are drawn once for these few steps.
    count.update(seen.waits)
    assert count == Counter({"aten._local_scalar_dense.default": 1})
    drawn = 350
    assert sum(seen.launched.values()) <= drawn + 40 * steps, seen.launched


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_step_that_cannot_be_recorded_is_launched_and_a_line_says_why(alone, caplog, monkeypatch):
    caplog.set_level("INFO", "cadc_rec")
    wanted = training("cadc", alone, "off").fit(None).history

    class Refusing(Tapes):
        def __init__(self, device):
            super().__init__(device)
            self.refuses = "it reads the weather"

    monkeypatch.setattr(runner, "CudaRecorder", Refusing)
    trainer = training("cadc", alone, "auto")
    assert trainer.fit(None).history == wanted
    told = "launched operator by operator, not as a CUDA graph: it reads the weather"
    assert caplog.text.count(told) == 1
    with pytest.raises(
        CadcError, match=r"compute\.graphs = 'on', but .* it reads the weather; set"
    ):
        training("cadc", alone, "on").fit(None)


@pytest.mark.parametrize(
    ("world", "fused", "why"),
    [(2, False, "2 processes exchange"), (1, True, "within the backward"), (1, False, "the host")],
)
def test_where_no_graph_is_possible_the_reason_is_named(world, fused, why, monkeypatch, caplog):
    """A device's name stands in for a GPU: nothing is computed."""
    caplog.set_level("INFO", "cadc_rec")
    gpu = SimpleNamespace(device=torch.device("cuda"), world_size=world, rank=0)
    given = (SimpleNamespace(epoch=None), None)
    assert isinstance(runner.step_runner("auto", *given, gpu, fused), runner.EagerSteps)
    assert why in caplog.text
    with pytest.raises(CadcError, match=f"compute.graphs = 'on'.*{why}.*set it to 'auto'"):
        runner.step_runner("on", *given, gpu, fused)
    cpu = SimpleNamespace(device=torch.device("cpu"), world_size=1, rank=0)
    with pytest.raises(CadcError, match="this runs on CPU"):
        runner.step_runner("on", *given, cpu, False)
    caplog.clear()
    runner.step_runner("off", *given, gpu, fused)
    runner.step_runner("auto", *given, cpu, fused)
    assert not caplog.text
