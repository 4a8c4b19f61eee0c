"""Time and memory of every stage on 8 to 256 GPUs: a model, not a measurement.

    python -m benchmarks.at_scale                                  # the docs' example
    python -m benchmarks.at_scale --users 200M --items 20M --interactions 20B
    python -m benchmarks.at_scale --docs                           # docs/scale.md anew

Memory and lookups of the towers are those of TorchRec's planner; arithmetic and bytes are counted
from the equations; how much of a device's peak they reach is assumed, and said in the table's head.
Nothing here needs a GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.paper import between
from benchmarks.peers.ceilings import pair_flops, tower_flops
from cadc_rec.config.experiment import Experiment
from cadc_rec.config.file import load_experiment
from cadc_rec.config.types import parse_number
from cadc_rec.errors import CadcError
from cadc_rec.planning.plan import ExperimentPlan, plan_experiment
from cadc_rec.planning.sizes import Machines, Sizes
from cadc_rec.pretrain.factor_tables import block_rows

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scale.md"
CONFIG = Path(__file__).resolve().parent.parent / "configs" / "ml-1m.toml"
GPUS = (8, 16, 32, 64, 128, 256)
_NODE = 8
_NEGATIVES = 4  # as in the configuration
_FLOAT = 4  # bytes
_GIB = 2**30
_MEMORY = 80 * _GIB  # of a GPU


@dataclass(frozen=True)
class Assumed:
    """What is believed of the machines; each may be set on the command line.

    The shares are those this package reaches of a CPU's ceilings (docs/performance.md), rounded
    down; that a GPU is used as well is the assumption to doubt first.
    """

    memory_gb: float = 3350.0
    """A GPU's memory, GB/s at its peak."""
    memory_share: float = 0.5
    tflops: float = 60.0
    """A GPU's float32 arithmetic at its peak, TFLOP/s."""
    tflops_share: float = 0.25
    network_gb: float = 50.0
    """GB/s of a GPU into and out of its node."""
    network_share: float = 0.6
    step_ms: float = 4.0
    """Of a step that no size changes: launching kernels, starting collectives, Python."""
    cores: int = 16
    """Host cores for each GPU, which prepare and select."""
    prepared_rows: float = 6e4
    """Rows a second and core, prepared by Spark, which uses all nodes; DuckDB does more on one."""
    selected_rows: float = 2.5e6
    """Rows a second and core, selected."""


@dataclass(frozen=True)
class Work:
    """What is to be done."""

    users: int
    items: int
    interactions: int
    ratio: float
    epochs: int
    pretrain_epochs: int
    batch: int
    """Positives a GPU and step."""
    sharding: str = "auto"
    """Of all id tables."""


@dataclass(frozen=True)
class Seconds:
    """Of each stage, on so many GPUs."""

    prepare: float
    pretrain: float
    select: float
    train: float
    gold: float
    """Training on everything for as many epochs, ids learned."""

    @property
    def ratio(self) -> float:
        """Pre-training, selection and training over gold's training."""
        return (self.pretrain + self.select + self.train) / self.gold


def seconds(
    work: Work, experiment: Experiment, plans: dict[str, ExperimentPlan], gpus: int, a: Assumed
) -> Seconds:
    """The model. `plans` are those of ``cadc`` and ``gold`` on these GPUs."""
    width = experiment.pretrain.factors + 1
    bandwidth, network = a.memory_gb * 1e9 * a.memory_share, a.network_gb * 1e9 * a.network_share
    # A half-step reads a row of the other side for each positive and negative, twice: for the
    # logits and for the gradient. Then the side that moved is sent to everybody.
    entries = work.interactions * (1 + experiment.pretrain.negatives)
    read = 2 * 2 * entries * width * _FLOAT / gpus
    sent = (work.users + work.items) * width * _FLOAT * (gpus - 1) / gpus
    if (plan := plans["cadc"].pretrain) is not None and plan.tables == "partitioned":
        # A block fetches a row once; where all rows may be fetched, there is one block.
        block, mine = block_rows(_MEMORY, width), entries / gpus
        fetched = (n if n <= block else mine for n in (work.users, work.items))
        sent = sum(fetched) * width * _FLOAT
    pretrain = work.pretrain_epochs * (read / bandwidth + sent / network)
    host = a.cores * gpus
    train, gold = (
        work.epochs * _epoch(work, rows, experiment, plan, gpus, a, learns)
        for rows, plan, learns in (
            (work.interactions / work.ratio, plans["cadc"], False),
            (work.interactions, plans["gold"], True),
        )
    )
    return Seconds(
        prepare=work.interactions / (a.prepared_rows * host),
        pretrain=pretrain,
        select=work.interactions / (a.selected_rows * host),
        train=train,
        gold=gold,
    )


def _epoch(
    work: Work,
    rows: float,
    experiment: Experiment,
    plan: ExperimentPlan,
    gpus: int,
    a: Assumed,
    learns: bool,
) -> float:
    """Seconds of an epoch over `rows`."""
    steps = max(1.0, rows / (work.batch * gpus))
    pairs = work.batch * (1 + experiment.train.negatives)
    model = experiment.model
    # A large catalogue: hardly an item stands twice in a step.
    flops = pair_flops(pairs, model.tower[-1]) + sum(
        tower_flops(n, model.id_dim, 0, model.tower, learns) for n in (work.batch, pairs)
    )
    arithmetic = flops / (a.tflops * 1e12 * a.tflops_share)
    lookups = sum(plan.cost()) / 1e3
    dense = 2 * sum(r.mlps for r in plan.ranks[:1]) / (a.network_gb * 1e9 * a.network_share)
    return steps * (arithmetic + lookups + dense + a.step_ms / 1e3)


def rows_of(work: Work, a: Assumed) -> list[list[str]]:
    """A row of the table for each number of GPUs."""
    table = []
    for gpus in GPUS:
        machines = Machines(gpus, _NODE, "cuda", _MEMORY, 128 * _GIB)
        sizes = Sizes(work.users, work.items, "the command line", interactions=work.interactions)
        # A large catalogue: a positive's item and negatives are hardly ever another's too.
        looked_up = work.batch * (1 + _NEGATIVES)
        settings = ["compute.device=cuda", f"sharding.batch_size={looked_up}"]
        settings += [f"sharding.{ids}={work.sharding}" for ids in ("trainable", "frozen")]
        experiments = {
            name: load_experiment(
                CONFIG,
                method=name,
                overrides=settings,
            )
            for name in ("cadc", "gold")
        }
        plans = {name: plan_experiment(e, sizes, machines) for name, e in experiments.items()}
        cadc = plans["cadc"]
        held = max((rank.total for rank in cadc.ranks), default=0)
        row = [
            str(gpus),
            f"{held / _GIB:.1f}",
            f"{(cadc.pretrain.most if cadc.pretrain else 0) / _GIB:.1f}",
        ]
        wrong = {
            f"{name}'s {problem.split(':')[0]}"
            for name, plan in plans.items()
            for problem in plan.problems
        }
        if wrong:
            table.append([*row, *[""] * 6, "does not fit: " + ", ".join(sorted(wrong))])
            continue
        s = seconds(work, experiments["cadc"], plans, gpus, a)
        times = (s.prepare, s.pretrain, s.select, s.train, s.gold)
        table.append([*row, *(_duration(t) for t in times), f"{s.ratio:.3f}", "fits"])
    return table


def _duration(value: float) -> str:
    return f"{value / 3600:,.1f} h" if value >= 3600 else f"{value / 60:,.1f} min"


def text(work: Work, a: Assumed) -> str:
    """The assumptions and the table, as Markdown."""
    head = (
        f"{work.users:,} users, {work.items:,} items, {work.interactions:,} interactions, ratio "
        f"{work.ratio:g}, {work.epochs} epochs of the towers, {work.pretrain_epochs} of MF, "
        f"{work.batch:,} positives a GPU and step. Assumed of each GPU: {a.memory_gb:g} GB/s at "
        f"{a.memory_share:.0%}, {a.tflops:g} TFLOP/s at {a.tflops_share:.0%}, {a.network_gb:g} "
        f"GB/s of network at {a.network_share:.0%}, {a.step_ms:g} ms of every step, {a.cores} "
        f"host cores with {a.prepared_rows:,.0f} rows/s prepared and {a.selected_rows:,.0f} "
        "selected on each."
    )
    columns = ["GPUs", "towers GiB/GPU", "MF GiB/GPU", "prepare", "MF", "select", "train"]
    columns += ["gold", "time / gold", "plan"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in rows_of(work, a)]
    return head + "\n\n" + "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for name, default in (("users", "50M"), ("items", "5M"), ("interactions", "10B")):
        parser.add_argument(f"--{name}", type=parse_number, default=parse_number(default))
    parser.add_argument("--ratio", type=float, default=10.0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--pretrain-epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--sharding", default="auto", help="sharding type of all id tables")
    for name, kind in Assumed.__annotations__.items():
        parse = int if kind == "int" else float
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=parse, default=getattr(Assumed(), name)
        )
    parser.add_argument("--docs", action="store_true", help="write the table into docs/scale.md")
    options = parser.parse_args(arguments)
    work = Work(
        int(options.users),
        int(options.items),
        int(options.interactions),
        options.ratio,
        options.epochs,
        options.pretrain_epochs,
        options.batch,
        options.sharding,
    )
    assumed = Assumed(**{name: getattr(options, name) for name in Assumed.__annotations__})
    try:
        table = text(work, assumed)
    except CadcError as error:
        sys.exit(f"error: {error}")
    if options.docs:
        PAGE.write_text(between(PAGE.read_text("utf-8"), "scale", table, PAGE), "utf-8")
    print(table)


if __name__ == "__main__":
    main()
