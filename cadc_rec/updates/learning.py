"""What an update learns of vectors, carried on from where they stood.

In: the tables before, the next D_full, what changed of it. Out: tables like any other, in the space
of those before, so that towers that learned to read the old ones can read these. Every rank holds
the tables whole and solves a share of the rows; rank 0 writes them.

MF and ALS solve the rows whose interactions changed, users and items in turn, all other rows fixed;
a new entity's row starts at the mean of its table. Transitions, whose counts are brought to a
common scale and so change everywhere, are swept over all rows, which ALS does in one product.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cadc_rec.config.experiment import (
    AlsConfig,
    PretrainConfig,
    TransitionsConfig,
    UpdateConfig,
)
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.randomness import Purpose
from cadc_rec.data.sources.raw_tables import Side
from cadc_rec.data.transition_matrix import transition_matrix
from cadc_rec.distributed.processes import Processes
from cadc_rec.log import track
from cadc_rec.pretrain.als import train_als
from cadc_rec.pretrain.alternating import AlternatingSolver, Interactions
from cadc_rec.pretrain.changed_rows import ChangedRows
from cadc_rec.pretrain.factor_tables import ReplicatedTable
from cadc_rec.pretrain.id_tables import IdTables, Scale, TransitionTables
from cadc_rec.pretrain.least_squares import Entries, LeastSquares, by_column
from cadc_rec.pretrain.softmax import SoftmaxSolver
from cadc_rec.store.artifact import Artifact, Draft
from cadc_rec.updates.changes import Changes, items_of
from cadc_rec.updates.rounding import rounded_changes


def divisors(artifact: Artifact, scale: Scale) -> list[float] | None:
    """What a pretrain or transitions artifact's two tables were divided by.

    None where they cannot be brought back: whitened tables were not divided, and an MLP's have no
    rows to solve.
    """
    if scale == "none":
        return [1.0, 1.0]
    divided = artifact.info.get("divided_by", [None, None])
    return None if None in divided else [float(value) for value in divided]


def build_updated_tables(
    config: PretrainConfig,
    update: UpdateConfig,
    seed: int,
    before: Artifact,
    dataset: Dataset,
    changes: Changes,
    processes: Processes,
    draft: Draft,
) -> None:
    """Fill the draft of the pretrain stage with MF's or ALS's tables.

    Args:
        config: the model and its settings.
        update: how far changed rows are moved.
        seed: of the negatives.
        before: the pretrain artifact of the dataset before.
        dataset: the next D_full.
        changes: from the one before to it.
        processes: the ranks.
        draft: receives ``user.safetensors`` and ``item.safetensors``.
    """
    divided = divisors(before, config.scale)
    assert divided is not None
    tables = IdTables.open(before)
    reused = changes.reused
    user = grown(tables.user * divided[0], dataset.n_users, reused.get("user"))
    item = grown(tables.item * divided[1], dataset.n_items, reused.get("item"))
    user, item = user.to(processes.device), item.to(processes.device)
    _empty(dataset, user=user, item=item)
    bias = float(before.info.get("global_bias", 0.0))
    info: dict[str, Any] = {"users_solved": len(changes.users), "items_solved": len(changes.items)}
    data = Interactions.of(dataset)
    if config.model == "als":
        items = changes.items
        if config.als.half_life:  # all interactions of a changed user come to weigh something else
            items = np.union1d(items, items_of(dataset, changes.users))
        only = changes.users, items
        als = config.als
        if not als.alpha:  # rows that stay were solved at the run's own
            als = als.model_copy(update={"alpha": float(before.info["alpha"])})
        _solve_als(als, update, seed, user, item, data, only, processes)
        info.update(bias_last=False, alpha=als.alpha)
    else:
        if not config.l2:
            config = config.model_copy(update={"l2": float(before.info.get("l2", 0.0))})
        info["l2"] = config.l2
        info["global_bias"] = _solve_mf(
            config, update, seed, user, item, bias, data, changes, processes
        )
    if processes.rank == 0:
        # Divided by what the old tables were divided by: the towers have learned to read that
        # scale.
        user = _stored(tables.user, user / divided[0], update, _others(dataset, "user", reused))
        item = _stored(tables.item, item / divided[1], update, _others(dataset, "item", reused))
        _empty(dataset, user=user, item=item)
        IdTables(user, item).save(draft.path)
    draft.rows = int(changes.came.sum())
    draft.info = {
        **info,
        "divided_by": divided,
        "interactions": len(dataset.train_item),
        "validation": {},
        "validation_seconds": 0.0,
        "history": [],
    }


def _solve_als(
    config: AlsConfig,
    update: UpdateConfig,
    seed: int,
    user: torch.Tensor,
    item: torch.Tensor,
    data: Interactions,
    changed: tuple[np.ndarray, np.ndarray],
    processes: Processes,
) -> None:
    """Move both tables in place: the changed rows, then as many sweeps of all as are asked for."""
    for only, sweeps in ((changed, update.sweeps), (None, update.polish)):
        if sweeps:
            settings = config.model_copy(update={"iterations": sweeps})
            tables = ReplicatedTable(user, processes), ReplicatedTable(item, processes)
            solving = train_als(*tables, data, settings, seed, only, warm=True)
            with track("update: ALS", sweeps, "sweeps") as ticker:
                for _ in solving:
                    ticker.advance()


def _solve_mf(
    config: PretrainConfig,
    update: UpdateConfig,
    seed: int,
    user: torch.Tensor,
    item: torch.Tensor,
    bias: float,
    data: Interactions,
    changes: Changes,
    processes: Processes,
) -> float:
    """Move both tables in place; the global bias after it."""
    epochs, polish = update.epochs, update.polish
    if config.loss == "softmax":  # its sum over items takes every row anyway
        settings = config.model_copy(update={"epochs": epochs + polish})
        tables = ReplicatedTable(user, processes), ReplicatedTable(item, processes)
        softmax = SoftmaxSolver(*tables, data, settings, seed, processes, warm=True)
        with track("update: MF", epochs + polish, "epochs") as ticker:
            for _ in softmax.epochs():
                ticker.advance()
        return bias
    key = (seed, Purpose.CHANGED_ROWS_NEGATIVES, len(data))
    only = changes.users, changes.items
    chosen = ChangedRows(user, item, bias, data, *only, config, key, processes)
    with track("update: MF", epochs + polish, "epochs") as ticker:
        for _ in chosen.epochs(epochs):
            ticker.advance()
        if not polish:
            return bias
        parameter = nn.Parameter(torch.tensor(bias, device=processes.device))
        settings = config.model_copy(update={"epochs": polish})
        whole = ReplicatedTable(user, processes), ReplicatedTable(item, processes)
        solver = AlternatingSolver(*whole, parameter, data, settings, seed, processes, warm=True)
        for _ in solver.epochs():
            ticker.advance()
    return float(parameter.detach())


def build_updated_transitions(
    config: TransitionsConfig,
    scale: Scale,
    update: UpdateConfig,
    before: Artifact,
    dataset: Dataset,
    processes: Processes,
    draft: Draft,
    reused: NDArray[np.int64] | None = None,
) -> None:
    """Fill the draft of the transitions stage: a few sweeps from the tables before.

    Args:
        config: how transitions are counted and factorized.
        scale: ``pretrain.scale``.
        update: how many sweeps there are, of all rows.
        before: the transitions artifact of the dataset before.
        dataset: the next D_full.
        processes: the ranks; each counts what followed its share of the items.
        draft: receives both tables.
        reused: rows of items that were another's before.
    """
    divided = divisors(before, scale)
    assert divided is not None
    total = processes.total
    matrix = transition_matrix(dataset, config, items=processes.share(dataset.n_items), total=total)
    (pairs,) = total(np.array([matrix.nnz], np.float64))
    tables = TransitionTables.open(before)
    source = grown(tables.source * divided[0], dataset.n_items, reused).to(processes.device)
    target = grown(tables.target * divided[1], dataset.n_items, reused).to(processes.device)
    for table in (source, target):
        _empty(dataset, item=table)
    entries = tuple(
        Entries.of(m, None, processes.device) for m in (matrix, by_column(matrix, processes))
    )
    sides = ReplicatedTable(source, processes), ReplicatedTable(target, processes)
    solver = LeastSquares(*sides, (entries[0], entries[1]), config.l2, 0, None)
    for _ in solver.sweeps(update.sweeps):
        pass
    if processes.rank == 0:
        others = _others(dataset, "item", {} if reused is None else {"item": reused})
        source = _stored(tables.source, source / divided[0], update, others)
        target = _stored(tables.target, target / divided[1], update, others)
        for table in (source, target):
            _empty(dataset, item=table)
        TransitionTables(source, target).save(draft.path)
    draft.rows = len(dataset.train_item)
    draft.info = {"pairs": int(pairs), "divided_by": divided}


def grown(table: torch.Tensor, rows: int, reused: NDArray[np.int64] | None = None) -> torch.Tensor:
    """`table` with as many rows as asked for; further ones stand at the mean.

    Args:
        table: ``[n, d]``.
        rows: at least n.
        reused: rows that have another owner now. They stand at the mean too, which is that of the
            others: nothing of the former owners is left.
    """
    more, stay = rows - len(table), table
    if reused is not None and len(reused):
        kept = torch.ones(len(table), dtype=torch.bool)
        kept[torch.from_numpy(reused)] = False
        stay = table[kept]
    mean = stay.mean(0, keepdim=True) if len(stay) else table.new_zeros(1, table.shape[1])
    found = torch.cat([table, mean.expand(more, -1)]).contiguous()
    if stay is not table:
        found[: len(table)][~kept] = mean
    return found


def _stored(
    before: torch.Tensor,
    after: torch.Tensor,
    update: UpdateConfig,
    others: NDArray[np.int64],
) -> torch.Tensor:
    """A table as it is written."""
    return rounded_changes(before, after.cpu(), update.round_changes, others)


def _others(
    dataset: Dataset, side: Side, reused: Mapping[Side, NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Rows whose change is not rounded, nor says how large the others' is: nobody learned it.

    They have another owner, or none: a forgotten row falls to zero over its whole length.
    """
    forgotten = dataset.forgotten.rows[side]
    return np.union1d(forgotten, reused[side]) if side in reused else forgotten


def _empty(dataset: Dataset, **tables: torch.Tensor) -> None:
    """Set the rows of forgotten users and items to zero, in place; tables by side."""
    for side, table in tables.items():
        table[torch.from_numpy(dataset.forgotten.rows[side]).to(table.device)] = 0
