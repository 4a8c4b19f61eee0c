"""What would fit where a plan does not: other settings and more processes, each tried.

In: an experiment whose tables have no plan. Out: one sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cadc_rec.config.experiment import Experiment, ShardingConfig
from cadc_rec.distributed.planner import DoesNotFitError
from cadc_rec.planning.layout import INT8_ROW, plan_towers, rank_memory, two_towers
from cadc_rec.planning.sizes import Machines, Sizes

_MOST_PROCESSES = 512  # tried when looking for a number that fits


def what_would_fit(
    experiment: Experiment,
    sizes: Sizes,
    machines: Machines,
    frozen: frozenset[str],
) -> str:
    """One sentence: the largest table, what there is, and each change that makes a plan."""
    bits = {"fp32": 4, "fp16": 2, "int8": 1}

    def size(name: str, rows: int, width: int) -> tuple[int, str]:
        storage = experiment.sharding.frozen_storage if name in frozen else "fp32"
        row = width * bits[storage] + (INT8_ROW if storage == "int8" else 0)
        return rows * row, f"{name} ({rows:,} x {width} {storage} = {in_units(rows * row)})"

    main = {
        name: size(name, rows, experiment.model.id_dim)
        for name, rows in (("user", sizes.users), ("item", sizes.items))
    }
    names = " and ".join(text for _, text in main.values())
    usable = machines.usable(experiment.sharding.reserve)
    changes = [
        text
        for text, changed, on in _candidates(experiment, machines, bool(frozen))
        if _fits(changed, sizes, on)
    ]
    group = "frozen" if frozen else "trainable"
    for text, changed in _spread(experiment, group, machines):
        more = _enough_processes(changed, sizes, machines)
        if more:
            changes.append(f"--world-size {more}{text}")
            break
    cure = (
        f"each of these changes alone would fit: {'; '.join(changes)}."
        if changes
        else "no other storage, kernel or number of processes was found that would fit."
    )
    what = "GPUs" if machines.device == "cuda" else "processes"
    return (
        f"train: tables {names} have no plan on {machines.world_size} {what} that may each fill "
        f"{in_units(usable)} ({in_units(usable * machines.world_size)} in all) and "
        f"{in_units(machines.host_bytes)} of host memory; {cure}"
    )


def _candidates(
    experiment: Experiment, machines: Machines, frozen: bool
) -> Iterator[tuple[str, Experiment, Machines]]:
    """Changes of settings that may make a plan: how they are written, and what results."""
    config = experiment.sharding
    group = "frozen" if frozen else "trainable"

    for text, free in _freed(experiment, group, machines):
        yield text, free, machines
    if frozen:
        for storage in ("fp16", "int8"):
            if storage != config.frozen_storage and config.frozen_storage != "int8":
                text = f"sharding.frozen_storage = '{storage}'"
                yield text, _changed(experiment, frozen_storage=storage), machines
    if machines.device == "cuda":
        kinds = getattr(config, group)
        kind = "row_wise" if kinds in ("auto", "data_parallel") else kinds
        for kernel in ("fused_uvm_caching", "fused_uvm"):
            if getattr(config, f"{group}_kernel") != kernel:
                settings = {group: kind, f"{group}_kernel": kernel}
                text = " with ".join(f"sharding.{k} = '{v}'" for k, v in settings.items())
                yield text, _changed(experiment, **settings), machines


def _changed(experiment: Experiment, **settings: Any) -> Experiment:
    """The experiment with other ``[sharding]`` settings."""
    new: ShardingConfig = experiment.sharding.model_copy(update=settings)
    return experiment.model_copy(update={"sharding": new})


def _freed(
    experiment: Experiment, group: str, machines: Machines
) -> Iterator[tuple[str, Experiment]]:
    """The experiment with its `group` of tables laid as the planner likes, then row by row.

    The planner does not know what training keeps beside a table, and may choose one node for it.
    """
    kernel = f"{group}_kernel"
    for kind in ("auto", "row_wise") if machines.device == "cuda" else ("auto",):
        if (getattr(experiment.sharding, group), getattr(experiment.sharding, kernel)) != (
            kind,
            "auto",
        ):
            free = _changed(experiment, **{group: kind, kernel: "auto"})
            yield f"sharding.{group} = '{kind}'", free


def _spread(
    experiment: Experiment, group: str, machines: Machines
) -> Iterator[tuple[str, Experiment]]:
    """What to try on more processes: the experiment as it is, then laid otherwise."""
    if getattr(experiment.sharding, group) != "data_parallel":  # each has all of it, however many
        yield "", experiment
    # Row by row first: it is the likelier, and the other takes seconds on hundreds of processes.
    for text, free in reversed(list(_freed(experiment, group, machines))):
        yield f" with {text}", free


def _enough_processes(experiment: Experiment, sizes: Sizes, machines: Machines) -> int | None:
    """The smallest doubling of the number of processes that has a plan."""
    count = machines.world_size * 2
    while count <= _MOST_PROCESSES:
        if _fits(experiment, sizes, replace(machines, world_size=count)):
            return count
        count *= 2
    return None


def _fits(experiment: Experiment, sizes: Sizes, machines: Machines) -> bool:
    module, rules, frozen = two_towers(experiment, sizes, machines)
    try:
        tables = plan_towers(
            experiment.sharding, experiment.train.batch_size, module, rules, machines
        )
    except DoesNotFitError:
        return False
    ranks = rank_memory(experiment.train, sizes, module, tables, frozen, machines)
    return max(rank.total for rank in ranks) <= machines.usable(experiment.sharding.reserve)


def in_units(size: float) -> str:
    """Bytes as people write them, in powers of 1024.

    >>> in_units(384_000_000_000)
    '357.6 GiB'
    """
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:,.0f} B" if unit == "B" else f"{size:,.1f} {unit}"
