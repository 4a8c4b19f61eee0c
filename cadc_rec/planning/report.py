"""A plan as a person reads it, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from cadc_rec.distributed.planner import PlannedTable
from cadc_rec.planning.layout import RankMemory
from cadc_rec.planning.plan import ExperimentPlan
from cadc_rec.planning.pretraining import PretrainPlan
from cadc_rec.planning.remedies import in_units


def plan_lines(plan: ExperimentPlan) -> Iterator[str]:
    """The plan, line by line, without what does not fit."""
    machines, sizes, config = plan.machines, plan.sizes, plan.sharding
    whole = f"{in_units(machines.device_bytes)} of GPU memory and " if machines.device_bytes else ""
    yield (
        f"{machines.world_size} processes ({machines.device}), {machines.local_world_size} on each "
        f"node, each with {whole}{in_units(machines.host_bytes)} of host memory; "
        f"{config.reserve:.0%} is left free"
    )
    yield f"{sizes.users:,} users, {sizes.items:,} items ({sizes.source})"
    if sizes.id_map:
        yield f"an update maps ids to rows in {in_units(sizes.id_map)} of host memory"
    yield f"host memory of a process by stage, at most: {_stages(plan)}"
    if plan.pretrain is not None:
        yield ""
        where = {"partitioned": "each process its rows", "replicated": "whole on each"}
        tables = plan.pretrain.tables
        yield f"pretrain ({plan.pretrain.model}): tables {tables}, {where[tables]}"
        training, ranking = in_units(plan.pretrain.training), in_units(plan.pretrain.validation)
        yield f"  each process holds at most {training} to train and {ranking} to rank"
        if plan.pretrain.model != "mlp":
            yield f"  {_interactions(plan.pretrain, plan.sizes.interactions)}"
    if not plan.tables:
        return
    yield ""
    yield f"train: two towers, looked-up vectors are sent as {config.communication}"
    yield from _columns(
        [
            ("table", "rows", "width", "size", "sharding", "kernel", "shards", "largest shard"),
            *(_table_row(plan, table) for table in plan.tables),
        ]
    )
    yield ""
    fullest = max(plan.ranks, key=lambda rank: rank.total)
    emptiest = min(plan.ranks, key=lambda rank: rank.total)
    on_device = ("tables", "state", "MLPs", "attributes", "rows", "together")
    rows: list[tuple[str, ...]] = [("memory", *on_device, "host (UVM)", "saved")]
    for name, rank in (("fullest", fullest), ("emptiest", emptiest)):
        rows.append((f"{name}, rank {rank.rank}", *map(in_units, _parts(rank))))
    yield from _columns(rows)
    yield "  saved: in host memory, the copy that a checkpoint is written from"
    yield f"  in validation also: {in_units(plan.validation)} on each process"
    yield ""
    forward, backward = plan.cost()
    yield (
        "estimated cost of a step on the slowest rank, by the planner's model of the device: "
        f"{forward:,.2f} ms of lookups, {backward:,.2f} ms of their backward pass"
    )
    yield from plan.notes()


def _stages(plan: ExperimentPlan) -> str:
    return ", ".join(f"{stage} {in_units(held)}" for stage, held in plan.stages.items())


def _interactions(plan: PretrainPlan, rows: int) -> str:
    if not rows:
        return "and the interactions, whose number is not known (give --interactions)"
    return f"{in_units(plan.interactions)} of it to train for {rows:,} interactions"


def plan_document(plan: ExperimentPlan) -> dict[str, Any]:
    """Everything as one JSON object; bytes and milliseconds."""
    forward, backward = plan.cost()
    return {
        "machines": asdict(plan.machines),
        "reserve": plan.sharding.reserve,
        "users": plan.sizes.users,
        "items": plan.sizes.items,
        "interactions": plan.sizes.interactions,
        "id_map_bytes": plan.sizes.id_map,
        "sizes_from": plan.sizes.source,
        "communication": plan.sharding.communication,
        "fits": not plan.problems,
        "problems": plan.problems,
        "notes": list(plan.notes()),
        "pretrain": None
        if plan.pretrain is None
        else {
            **asdict(plan.pretrain),
            "bytes_per_process": plan.pretrain.most,
        },
        "tables": [{**asdict(table), "frozen": table.name in plan.frozen} for table in plan.tables],
        "ranks": [{**asdict(rank), "total": rank.total} for rank in plan.ranks],
        "validation_bytes_per_process": plan.validation,
        "host_bytes_by_stage": plan.stages,
        "cost_ms": {"forward": forward, "backward": backward},
    }


def _parts(rank: RankMemory) -> tuple[int, ...]:
    on_device = (rank.tables, rank.state, rank.mlps, rank.attributes, rank.rows, rank.total)
    return (*on_device, rank.host, rank.staged)


def _table_row(plan: ExperimentPlan, table: PlannedTable) -> tuple[str, ...]:
    name = f"{table.name} (frozen)" if table.name in plan.frozen else table.name
    largest = max(table.shards, key=lambda shard: shard.rows * shard.columns)
    return (
        name,
        f"{table.rows:,}",
        str(table.width),
        in_units(table.bytes),
        table.sharding,
        table.kernel,
        str(len(table.shards)),
        f"{largest.rows:,} x {largest.columns}",
    )


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield ("  " + "  ".join(cells)).rstrip()
