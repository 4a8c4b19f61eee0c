"""Saving a small training on some ranks and loading it on others: what both sides see of it.

Run as the ranks of a job, ``resharding.py OUT FOLDER save|load CASE...``: rank 0 writes the
results. A case is a sharding type to save under, or ``FROM>TO`` to load what was saved under the
first.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

from cadc_rec.config.experiment import CheckpointConfig, ComputeConfig
from cadc_rec.data.load.shards import Examples
from cadc_rec.distributed.fused_state import local_momenta
from cadc_rec.distributed.processes import processes
from cadc_rec.distributed.state import gather_state
from cadc_rec.training.build import build_model
from cadc_rec.training.checkpoints import SavedTraining, Training
from cadc_rec.training.reading import make_loader
from cadc_rec.training.tables import dense_optimizer
from cadc_rec.training.trainer import Trainer
from tests.distributed import toy

KINDS = ("data_parallel", "table_wise", "column_wise", "table_column_wise")
SHARDS = [20, 30, 10, 25, 35]
SETTINGS = CheckpointConfig(every_seconds=0.0, every_epochs=2, keep_finished=True)


class Stop(Exception):
    """Enough was seen."""


class Watched(SavedTraining):
    """Checkpoints that say what the model looks like when one was saved, or taken over."""

    def __init__(self, trainer, model, **arguments):
        super().__init__(**arguments)
        self.trainer, self.model = trainer, model

    def after_epoch(self, state, per_epoch):
        super().after_epoch(state, per_epoch)
        if state.progress.epoch == 3:
            self._see(state)

    def resume(self, state):
        super().resume(state)
        if self.named is not None:
            self._see(state)

    def _see(self, state):
        self._saver.wait()
        joined, weights = self.processes, {}
        weights["live"] = gather_state(self.model.wrapped, joined, self.model.trains)
        with state.average.in_place():
            weights["average"] = gather_state(self.model.wrapped, joined, self.model.trains)
        kept = [tensor.clone() for tensor in state.live]
        state.restore_best()
        weights["best"] = gather_state(self.model.wrapped, joined, self.model.trains)
        with torch.no_grad():
            torch._foreach_copy_(state.live, kept)
        momenta = [
            (m.name, m.row, list(m.groups[m.group]), m.tensor.tolist())
            for m in local_momenta(self.model.wrapped)
        ]
        dense = {
            name: {key: value.tolist() for key, value in state.optimizer.state[parameter].items()}
            for group in state.optimizer.param_groups
            for name, parameter in zip(group["param_names"], group["params"], strict=True)
            if parameter in state.optimizer.state
        }
        self.seen = {
            "weights": {kind: {n: bits(v) for n, v in of.items()} for kind, of in weights.items()},
            "momenta": sorted(each for of_rank in joined.all_gather(momenta) for each in of_rank),
            "dense": dense,
            "losses": [step(self.trainer) for _ in range(2)],
            "progress": state.progress.as_json() | {"training_seconds": 0, "epoch_seconds": 0},
            "resumed": [{k: v for k, v in each.items() if k != "from"} for each in self.resumed],
        }
        raise Stop


def bits(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def step(trainer) -> float:
    """One step on the same 60 pairs on every rank, whatever their number; the loss before it."""
    rng = np.random.default_rng(8)
    examples = Examples(rng.integers(0, toy.USERS, 60), rng.integers(0, toy.ITEMS, 60))
    loader = make_loader(trainer.config, examples, [60], 0, toy.ITEMS, 0)
    batch = next(iter(loader.epoch(1))).each(torch.from_numpy)
    trainer.model.train()
    trainer.optimizer.zero_grad(set_to_none=True)
    loss = trainer.model(batch, loss=trainer.step.objective.loss) / 20
    loss.backward()
    trainer.optimizer.step()
    return float(loss.detach())


def watch(kind: str, joined, folder: Path, named: Path | None) -> dict:
    """Train two epochs under `kind` and save, or take over what was saved."""
    e = toy.experiment("trainable", kind)
    e = e.model_copy(update={"train": e.train.model_copy(update={"epochs": 3})})
    rng = np.random.default_rng(1)
    numbers = np.split(np.arange(120), np.cumsum(SHARDS)[:-1])
    mine = np.concatenate(numbers[joined.rank :: joined.world_size])
    examples = Examples(
        rng.integers(0, toy.USERS, 120)[mine], rng.integers(0, toy.ITEMS, 120)[mine]
    )
    rows = [sum(SHARDS[rank :: joined.world_size]) for rank in range(joined.world_size)]
    model = build_model(e, toy.dataset(), toy.pretrained("trainable"), joined)
    loader = make_loader(e.train, examples, rows, joined.rank, toy.ITEMS, 0, None, SHARDS)
    optimizer = dense_optimizer(model.wrapped, model.module, e.train)
    trainer = Trainer(model.wrapped, optimizer, loader, e.train, joined, model.trains)
    watched = Watched(
        trainer,
        model,
        workdir=folder,
        training=Training("toy", {"settings": {}, "inputs": {}}, {"users": toy.USERS}),
        config=SETTINGS,
        processes=joined,
        timeout_seconds=60,
        named=named,
    )
    scores = iter([0.5, 0.4])  # the first epoch is the best one, the second is saved
    try:
        with watched.opened():
            trainer.fit(lambda: {"ndcg@10": next(scores)}, checkpoints=watched)
    except Stop:
        return watched.seen
    raise AssertionError("nothing was seen")


def run(folder: Path, what: str, cases: list[str], joined) -> dict:
    """Every case's result."""
    results = {}
    for case in cases:
        before, _, kind = case.rpartition(">")
        named = None
        if what == "load":
            (named,) = (folder / before / "checkpoints" / "toy").glob("[0-9]*")
        where = folder / kind if what == "save" else folder / f"load{joined.world_size}-{case}"
        results[case] = watch(kind, joined, where, named)
    return results


if __name__ == "__main__":
    out, folder, what, *cases = sys.argv[1:]
    with processes(ComputeConfig(device="cpu", threads=1, timeout_seconds=60)) as joined:
        results = run(Path(folder), what, cases, joined)
        if joined.rank == 0:
            Path(out).write_text(json.dumps(results))
