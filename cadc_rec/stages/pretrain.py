"""The pretrain stage: D_full in, `IdTables` out."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from cadc_rec.artifacts import Draft
from cadc_rec.config import Experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.sharding import shard_model
from cadc_rec.distributed.state import gather_state, local_tensors
from cadc_rec.evaluation.metrics import ranking_metrics
from cadc_rec.evaluation.ranking import Excluded, held_out_ranks
from cadc_rec.pretrain.alternating import AlternatingSolver, Interactions
from cadc_rec.pretrain.id_tables import IdTables
from cadc_rec.pretrain.matrix_factorization import MatrixFactorization, as_dot_products
from cadc_rec.progress import track


def build_tables(
    experiment: Experiment, dataset: Dataset, processes: Processes, draft: Draft
) -> None:
    """Train matrix factorization on every training interaction and export its tables.

    Validation is only measured (last epoch, and every ``pretrain.evaluate_every``), never used:
    the tables are those of the last epoch.

    Args:
        experiment: the ``[pretrain]`` settings and the seed.
        dataset: D_full.
        processes: the ranks; each solves its share of the rows.
        draft: receives ``user.safetensors`` and ``item.safetensors``.
    """
    config = experiment.pretrain
    model = MatrixFactorization(dataset.n_users, dataset.n_items, config.factors)
    # Replicated tables: a half-step reads the whole other side, and each rank writes its own rows.
    kinds = {"user": "data_parallel", "item": "data_parallel"}
    wrapped = shard_model(model, kinds, processes, experiment.train.batch_size)
    (user,) = (local.tensor for local in local_tensors(model.users))
    (item,) = (local.tensor for local in local_tensors(model.items))
    solver = AlternatingSolver(
        user, item, model.bias, interactions(dataset), config, experiment.seed, processes
    )
    history: list[dict[str, Any]] = []
    chief = processes.rank == 0
    with track("pretrain (MF)", config.epochs, "epochs", visible=chief) as ticker:
        for epoch, loss in enumerate(solver.epochs(), start=1):
            entry: dict[str, Any] = {"epoch": epoch, "loss": loss}
            due = config.evaluate_every and epoch % config.evaluate_every == 0
            if chief and (due or epoch == config.epochs):
                started = time.perf_counter()
                entry.update(_validation(dataset, IdTables(user, item)))
                entry["seconds"] = time.perf_counter() - started
            history.append(entry)
            ticker.advance(1, f"loss {loss:.4f}")
    state = gather_state(wrapped, processes)
    if chief:
        IdTables(
            state["users.embedding_bags.user.weight"], state["items.embedding_bags.item.weight"]
        ).save(draft.path)
    draft.rows = len(dataset.train_item) * config.epochs
    draft.info = {
        "global_bias": float(model.bias.detach()),
        "interactions": len(dataset.train_item),
        "validation": {k: v for k, v in history[-1].items() if "@" in k},
        "validation_seconds": sum(entry.get("seconds", 0.0) for entry in history),
        "history": history,
    }


def interactions(dataset: Dataset) -> Interactions:
    """The training interactions in both orders."""
    item_indptr, users_by_item = dataset.csr_by_item
    return Interactions(dataset.user_indptr, dataset.train_item, item_indptr, users_by_item)


def _validation(dataset: Dataset, tables: IdTables) -> dict[str, float]:
    users, items = as_dot_products(tables.user, tables.item)
    ranks = held_out_ranks(
        users, items, dataset.val_item, Excluded(dataset.user_indptr, dataset.train_item)
    )
    held_out = np.asarray(dataset.val_item) >= 0
    return ranking_metrics(ranks[held_out], (10,)) if held_out.any() else {}
