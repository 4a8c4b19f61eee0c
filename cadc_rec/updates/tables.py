"""The pretrain and transitions stages of an update: vectors carried on from where they stood.

In: the tables before, the next D_full, what changed of it. Out: tables like any other, in the
space of those before, so that towers that learned to read the old ones can read these.

MF and ALS solve the rows whose interactions changed, users and items in turn, all other rows fixed;
a new entity's row starts at the mean of its table. Transitions, whose counts are brought to a
common scale and so change everywhere, are swept over all rows, which ALS does in one product.
"""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import torch
from torch import nn

from cadc_rec.config.experiment import Experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.randomness import Purpose
from cadc_rec.distributed.processes import Processes
from cadc_rec.log import track
from cadc_rec.pipeline.stages.pretrain import interactions
from cadc_rec.pretrain.als import train_als
from cadc_rec.pretrain.alternating import AlternatingSolver
from cadc_rec.pretrain.changed_rows import ChangedRows
from cadc_rec.pretrain.factor_tables import ReplicatedTable
from cadc_rec.pretrain.id_tables import IdTables, TransitionTables
from cadc_rec.pretrain.least_squares import LeastSquares
from cadc_rec.pretrain.scaling import Scale
from cadc_rec.pretrain.softmax import SoftmaxSolver
from cadc_rec.pretrain.transition_matrix import load_matrix, save_matrix, transition_matrix
from cadc_rec.store.artifact import Artifact, Draft
from cadc_rec.updates.changes import Changes, items_of


def divisors(artifact: Artifact, scale: Scale) -> list[float] | None:
    """What a pretrain or transitions artifact's two tables were divided by; None: no telling.

    Whitened tables were not divided, an MLP's have no rows to solve, and an earlier version did
    not say what it divided by.
    """
    if scale == "none":
        return [1.0, 1.0]
    told = artifact.info.get("divided_by")
    return None if told is None or None in told else [float(value) for value in told]


def build_updated_tables(
    experiment: Experiment,
    before: Artifact,
    dataset: Dataset,
    changes: Changes,
    processes: Processes,
    draft: Draft,
) -> None:
    """Fill the draft of the pretrain stage with MF's or ALS's tables.

    Args:
        experiment: the ``[pretrain]`` and ``[update]`` settings, the seed.
        before: the pretrain artifact of the dataset before.
        dataset: the next D_full.
        changes: from the one before to it.
        processes: one process.
        draft: receives ``user.safetensors`` and ``item.safetensors``.
    """
    divided = divisors(before, experiment.pretrain.scale)
    assert divided is not None
    tables = IdTables.open(before)
    user = grown(tables.user * divided[0], dataset.n_users).to(processes.device)
    item = grown(tables.item * divided[1], dataset.n_items).to(processes.device)
    bias = float(before.info.get("global_bias", 0.0))
    told: dict[str, Any] = {"users_solved": len(changes.users), "items_solved": len(changes.items)}
    if experiment.pretrain.model == "als":
        _solve_als(experiment, user, item, dataset, changes, processes)
        told["bias_last"] = False
    else:
        told["global_bias"] = _solve_mf(experiment, user, item, bias, dataset, changes, processes)
    # By what the old tables were divided by, not by what these would be: the towers know that.
    IdTables(user / divided[0], item / divided[1]).save(draft.path)
    draft.rows = int(changes.came.sum())
    draft.info = {
        **told,
        "divided_by": divided,
        "interactions": len(dataset.train_item),
        "validation": {},
        "validation_seconds": 0.0,
        "history": [],
    }


def _solve_als(
    experiment: Experiment,
    user: torch.Tensor,
    item: torch.Tensor,
    dataset: Dataset,
    changes: Changes,
    processes: Processes,
) -> None:
    config, update, data = experiment.pretrain.als, experiment.update, interactions(dataset)
    items = changes.items
    if config.half_life:  # all interactions of a changed user come to weigh something else
        items = np.union1d(items, items_of(dataset, changes.users))
    for only, sweeps in (((changes.users, items), update.sweeps), (None, update.polish)):
        if sweeps:
            settings = config.model_copy(update={"iterations": sweeps})
            solving = train_als(
                user, item, data, settings, experiment.seed, processes, only, warm=True
            )
            with track("update: ALS", sweeps, "sweeps") as ticker:
                for _ in solving:
                    ticker.advance()


def _solve_mf(
    experiment: Experiment,
    user: torch.Tensor,
    item: torch.Tensor,
    bias: float,
    dataset: Dataset,
    changes: Changes,
    processes: Processes,
) -> float:
    """Move both tables in place; the global bias after it."""
    config, update, data = experiment.pretrain, experiment.update, interactions(dataset)
    epochs, polish = update.epochs, update.polish
    if config.loss == "softmax":  # its sum over items takes every row anyway
        settings = config.model_copy(update={"epochs": epochs + polish})
        tables = ReplicatedTable(user, processes), ReplicatedTable(item, processes)
        softmax = SoftmaxSolver(*tables, data, settings, experiment.seed, processes, warm=True)
        with track("update: MF", epochs + polish, "epochs") as ticker:
            for _ in softmax.epochs():
                ticker.advance()
        return bias
    key = (experiment.seed, Purpose.CHANGED_ROWS_NEGATIVES, len(data))
    chosen = ChangedRows(user, item, bias, data, changes.users, changes.items, config, key)
    with track("update: MF", epochs + polish, "epochs") as ticker:
        for _ in chosen.epochs(epochs):
            ticker.advance()
        if not polish:
            return bias
        parameter = nn.Parameter(torch.tensor(bias, device=processes.device))
        settings = config.model_copy(update={"epochs": polish})
        whole = ReplicatedTable(user, processes), ReplicatedTable(item, processes)
        solver = AlternatingSolver(
            *whole, parameter, data, settings, experiment.seed, processes, warm=True
        )
        for _ in solver.epochs():
            ticker.advance()
    return float(parameter.detach())


def build_updated_transitions(
    experiment: Experiment,
    before: Artifact,
    dataset: Dataset,
    processes: Processes,
    draft: Draft,
) -> None:
    """Fill the draft of the transitions stage: a few sweeps from the tables before.

    Args:
        experiment: the ``[transitions]`` and ``[update]`` settings.
        before: the transitions artifact of the dataset before.
        dataset: the next D_full.
        processes: one process.
        draft: receives both tables.
    """
    config, divided = experiment.transitions, divisors(before, experiment.pretrain.scale)
    assert divided is not None
    scratch = draft.path / ".scratch"
    scratch.mkdir()
    save_matrix(transition_matrix(dataset, config), scratch)
    matrix = load_matrix(scratch, dataset.n_items)
    tables = TransitionTables.open(before)
    source = grown(tables.source * divided[0], dataset.n_items).to(processes.device)
    target = grown(tables.target * divided[1], dataset.n_items).to(processes.device)
    solver = LeastSquares(source, target, matrix, None, config.l2, 0, None, processes)
    for _ in solver.sweeps(experiment.update.sweeps):
        pass
    shutil.rmtree(scratch)
    TransitionTables(source / divided[0], target / divided[1]).save(draft.path)
    draft.rows = len(dataset.train_item)
    draft.info = {"pairs": int(matrix.nnz), "divided_by": divided}


def grown(table: torch.Tensor, rows: int) -> torch.Tensor:
    """`table` with as many rows as asked for; further ones stand at the mean."""
    more = rows - len(table)
    mean = table.mean(0, keepdim=True) if len(table) else table.new_zeros(1, table.shape[1])
    return torch.cat([table, mean.expand(more, -1)]).contiguous()
