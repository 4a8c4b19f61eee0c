"""Section ``towers``: positives a second of two-tower training.

Ours, with ids that are learned and ids that are frozen, in one process and in two, beside plain
PyTorch, plain TorchRec and other libraries. Ours loads, draws negatives and sorts out unique ids
within its time; the others' batches are made beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from benchmarks.peers.ceilings import measure_ceilings, pair_flops, tower_flops
from benchmarks.peers.ours import WITHOUT_EXTRAS, OurTraining, plain_batches, unique_counts
from benchmarks.peers.peers import MissingPeer
from benchmarks.peers.plain_torch import PlainTraining
from benchmarks.peers.plain_torchrec import TorchRecTraining
from benchmarks.peers.rechub import RechubTraining
from benchmarks.peers.record import Check, Entry, Section, rate_figures, ratios_of
from benchmarks.peers.session import now
from benchmarks.peers.timing import Contender, alternate
from benchmarks.peers.two_processes import SPAWNED, Spawned
from benchmarks.peers.workload import Workload
from cadc_rec.config.experiment import Experiment
from cadc_rec.distributed.processes import Processes, processes
from cadc_rec.distributed.state import gather_state
from cadc_rec.versions import code_commit

IDS = {"trainable": "gold", "frozen": "cadc"}  # the method that has ids of this kind
LARGEST_LOSS_DIFFERENCE = 1e-5
_CHECKED_STEPS = 5
_TURN_SECONDS = 1.0

_WHAT = {
    "ours-trainable": "ours, ids learned, one process",
    "ours-frozen": "ours, ids frozen, one process",
    "plain-trainable": "plain PyTorch, ids learned",
    "plain-frozen": "plain PyTorch, ids frozen",
    "torchrec-trainable": "plain TorchRec under DMP, ids learned",
    "torch-rechub": "torch-rechub's DSSM and trainer",
    **{name: spawned.what for name, spawned in SPAWNED.items()},
}
_OTHERS = ("plain-trainable", "plain-frozen", "torchrec-trainable", "torch-rechub")


def measure(workload: Workload) -> Section:
    """Let all contenders take turns."""
    learned = workload.experiment("gold", WITHOUT_EXTRAS)
    spawned = {} if workload.short else SPAWNED
    with processes(learned.compute) as alone:
        model = learned.model
        features = model.feature_dim * len(workload.dataset.user_attributes)
        ceilings = measure_ceilings([model.id_dim + features, *model.tower])
        checks = [check for kind in IDS for check in equal_losses(workload, kind, alone)]
        turns, missing, flops = _contenders(workload, alone)
        turns += [
            Contender(name, Spawned(workload, name, kind).turn) for name, kind in spawned.items()
        ]
        seconds = alternate(
            turns, workload.repeats, at_least=_TURN_SECONDS, neighbour=workload.neighbour
        )
        notes = _notes(workload, alone)
    entries = {
        name: Entry(
            what=_WHAT[name],
            figures=(figures := rate_figures(taken)),
            ceiling="tower GFLOP/s" if name in flops else None,
            share=flops[name] * figures.median / 1e9 / ceilings["tower GFLOP/s"]
            if name in flops
            else None,
        )
        for name, taken in seconds.items()
    }
    return Section(
        title="Two-tower training",
        unit="positives/s",
        better="more",
        measured=now(),
        commit=code_commit(),
        entries=entries,
        ratios=ratios_of(seconds, _pairs(list(seconds))),
        missing=missing,
        checks=checks,
        notes=notes,
        ceilings=ceilings,
    )


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Each of ours against each of the others; two processes against one of as many threads."""
    ours = [name for name in names if name.startswith("ours")]
    pairs = [(own, other) for own in ours for other in _OTHERS]
    return pairs + [
        (name, spawned.against) for name, spawned in SPAWNED.items() if spawned.against is not None
    ]


def _contenders(
    workload: Workload, alone: Processes
) -> tuple[list[Contender], dict[str, str], dict[str, float]]:
    """Who takes turns in this process, who is missing, and the arithmetic of a positive."""
    turns, missing, flops = [], {}, {}
    data = workload.dataset
    for kind, method in IDS.items():
        experiment = workload.experiment(method, WITHOUT_EXTRAS)
        config = experiment.train
        ours = OurTraining(experiment, data, workload.steps * config.batch_size, alone)
        batches = plain_batches(ours.loader)
        state = gather_state(ours.model.wrapped, alone)
        tower, rate, frozen = experiment.model.tower, config.learning_rate, kind == "frozen"
        plain = PlainTraining(data, state, tower, frozen, rate, batches)
        turns += [
            Contender(f"ours-{kind}", ours.turn),
            Contender(f"plain-{kind}", plain.turn),
        ]
        users, items = unique_counts(ours.loader)
        size, pairs = config.batch_size, config.batch_size * (1 + config.negatives)
        flops[f"ours-{kind}"] = step_flops(workload, experiment, users, items) / size
        flops[f"plain-{kind}"] = step_flops(workload, experiment, size, pairs) / size
        if kind == "frozen":
            continue
        torchrec = TorchRecTraining(data, state, tower, rate, batches, alone)
        turns.append(Contender("torchrec-trainable", torchrec.turn))
        flops["torchrec-trainable"] = flops["plain-trainable"]
        few = batches[: max(1, len(batches) // 3)]  # a slow one needs no more to be timed well
        try:
            turns.append(Contender("torch-rechub", RechubTraining(data, experiment, few).turn))
        except MissingPeer as error:
            missing["torch-rechub"] = str(error)
    return turns, missing, flops


def step_flops(workload: Workload, experiment: Experiment, users: float, items: float) -> float:
    """Arithmetic of a step whose towers see this many rows."""
    model, config, data = experiment.model, experiment.train, workload.dataset
    learns = model.id_embedding == "trainable"
    total = pair_flops(config.batch_size * (1 + config.negatives), model.tower[-1])
    for rows, attributes in ((users, data.user_attributes), (items, data.item_attributes)):
        width = model.feature_dim * len(attributes)
        total += tower_flops(rows, model.id_dim, width, model.tower, learns)
    return total


def equal_losses(workload: Workload, kind: str, alone: Processes) -> list[Check]:
    """Whether a few steps on the same batches lose the same in ours and in the plain ones."""
    data = workload.dataset
    # An epoch of one step, several epochs: the history then has the loss of every step.
    several = [*WITHOUT_EXTRAS, f"train.epochs={_CHECKED_STEPS}"]
    experiment = workload.experiment(IDS[kind], several)
    config, tower = experiment.train, experiment.model.tower
    ours = OurTraining(experiment, data, config.batch_size, alone)
    state = {k: v.clone() for k, v in gather_state(ours.model.wrapped, alone).items()}
    batches = plain_batches(ours.loader, _CHECKED_STEPS)
    plain = PlainTraining(data, state, tower, kind == "frozen", config.learning_rate, batches)
    theirs = {"plain PyTorch": plain.losses(batches)}
    if kind == "trainable":
        torchrec = TorchRecTraining(data, state, tower, config.learning_rate, batches[:1], alone)
        theirs["plain TorchRec"] = torchrec.losses(batches)
    mine = ours.losses()
    return [
        Check(
            what=f"largest relative difference of the losses, ids {kind}, from {name}",
            value=largest_difference(mine, other),
            limit=LARGEST_LOSS_DIFFERENCE,
        )
        for name, other in theirs.items()
    ]


def largest_difference(mine: Sequence[float], others: Sequence[float]) -> float:
    """The largest relative difference of values at the same place; infinite where one is NaN."""
    differences = [abs(a - b) / abs(b) for a, b in zip(mine, others, strict=True)]
    return max(d if math.isfinite(d) else math.inf for d in differences)


def _notes(workload: Workload, alone: Processes) -> dict[str, float]:
    """What a step looks like."""
    experiment = workload.experiment("gold", WITHOUT_EXTRAS)
    rows = workload.steps * experiment.train.batch_size
    loader = OurTraining(experiment, workload.dataset, rows, alone).loader
    users, items = unique_counts(loader)
    return {
        "threads": torch.get_num_threads(),
        "different users of a step": users,
        "different items of a step": items,
    }
