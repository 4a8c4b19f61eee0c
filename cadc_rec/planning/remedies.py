"""What would fit where a plan does not: other settings and more processes, each tried.

In: sharding settings under which tables have no plan, and a function that tries others. Out: one
sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from cadc_rec.config.experiment import ShardingConfig
from cadc_rec.planning.layout import INT8_ROW
from cadc_rec.planning.sizes import Machines, Sizes

Fits = Callable[[ShardingConfig, Machines], bool]
"""Whether training has a plan and room under these settings, on these processes."""
_MOST_PROCESSES = 512  # tried when looking for a number that fits


def what_would_fit(
    sharding: ShardingConfig,
    id_dim: int,
    sizes: Sizes,
    machines: Machines,
    frozen: frozenset[str],
    fits: Fits,
) -> str:
    """One sentence: the largest table, what there is, and each change that makes a plan.

    Args:
        sharding: the settings under which there is none.
        id_dim: width of the id tables.
        sizes: their rows.
        machines: the processes on which there is none.
        frozen: names of the tables that never change.
        fits: tries other settings and processes.
    """
    bits = {"fp32": 4, "fp16": 2, "int8": 1}

    def size(name: str, rows: int, width: int) -> tuple[int, str]:
        storage = sharding.frozen_storage if name in frozen else "fp32"
        row = width * bits[storage] + (INT8_ROW if storage == "int8" else 0)
        return rows * row, f"{name} ({rows:,} x {width} {storage} = {in_units(rows * row)})"

    main = {
        name: size(name, rows, id_dim)
        for name, rows in (("user", sizes.users), ("item", sizes.items))
    }
    names = " and ".join(text for _, text in main.values())
    usable = machines.usable(sharding.reserve)
    changes = [
        text
        for text, changed in _candidates(sharding, machines, bool(frozen))
        if fits(changed, machines)
    ]
    group = "frozen" if frozen else "trainable"
    for text, changed in _spread(sharding, group, machines):
        more = _enough_processes(changed, machines, fits)
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
    config: ShardingConfig, machines: Machines, frozen: bool
) -> Iterator[tuple[str, ShardingConfig]]:
    """Changes of settings that may make a plan: how they are written, and what results."""
    group = "frozen" if frozen else "trainable"

    yield from _freed(config, group, machines)
    if frozen:
        for storage in ("fp16", "int8"):
            if storage != config.frozen_storage and config.frozen_storage != "int8":
                text = f"sharding.frozen_storage = '{storage}'"
                yield text, config.model_copy(update={"frozen_storage": storage})
    if machines.device == "cuda":
        kinds = getattr(config, group)
        kind = "row_wise" if kinds in ("auto", "data_parallel") else kinds
        for kernel in ("fused_uvm_caching", "fused_uvm") if frozen else ("fused_uvm",):
            if getattr(config, f"{group}_kernel") != kernel:
                settings = {group: kind, f"{group}_kernel": kernel}
                text = " with ".join(f"sharding.{k} = '{v}'" for k, v in settings.items())
                yield text, config.model_copy(update=settings)


def _freed(
    config: ShardingConfig, group: str, machines: Machines
) -> Iterator[tuple[str, ShardingConfig]]:
    """The settings with their `group` of tables laid as the planner likes, then row by row.

    The planner does not know what training keeps beside a table, and may choose one node for it.
    """
    kernel = f"{group}_kernel"
    for kind in ("auto", "row_wise") if machines.device == "cuda" else ("auto",):
        if (getattr(config, group), getattr(config, kernel)) != (kind, "auto"):
            free = config.model_copy(update={group: kind, kernel: "auto"})
            yield f"sharding.{group} = '{kind}'", free


def _spread(
    config: ShardingConfig, group: str, machines: Machines
) -> Iterator[tuple[str, ShardingConfig]]:
    """What to try on more processes: the settings as they are, then tables laid otherwise."""
    if getattr(config, group) != "data_parallel":  # each has all of it, however many
        yield "", config
    # Row by row first: it is the likelier, and the other takes seconds on hundreds of processes.
    for text, free in reversed(list(_freed(config, group, machines))):
        yield f" with {text}", free


def _enough_processes(config: ShardingConfig, machines: Machines, fits: Fits) -> int | None:
    """The smallest doubling of the number of processes that has a plan."""
    count = machines.world_size * 2
    while count <= _MOST_PROCESSES:
        if fits(config, replace(machines, world_size=count)):
            return count
        count *= 2
    return None


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
