"""The pretrain stage: D_full in, `IdTables` out."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from cadc_rec.artifacts import Artifact, Draft
from cadc_rec.config import Experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.distributed.processes import Processes, choose_device
from cadc_rec.distributed.sharding import shard_model
from cadc_rec.distributed.state import gather_state, local_tensors
from cadc_rec.evaluation.metrics import ranking_metrics
from cadc_rec.evaluation.ranking import Excluded, held_out_ranks
from cadc_rec.pretrain.als import train_als
from cadc_rec.pretrain.alternating import AlternatingSolver, Interactions
from cadc_rec.pretrain.id_tables import IdTables
from cadc_rec.pretrain.kernels import compile_kernels, worth_compiling
from cadc_rec.pretrain.matrix_factorization import MatrixFactorization
from cadc_rec.pretrain.popularity import popularity_tables
from cadc_rec.pretrain.scaling import Scale, scaled
from cadc_rec.pretrain.softmax import SoftmaxSolver
from cadc_rec.progress import track
from cadc_rec.stages.pretrain_neural import build_neural_tables


def warm_up(experiment: Experiment, dataset: Artifact) -> None:
    """Compile what `build_tables` will need; not counted in the stage's seconds, like imports."""
    config, device = experiment.pretrain, choose_device(experiment.compute.device, 0)
    compiled = config.model == "mf" and config.loss == "binary"
    if compiled and worth_compiling(int(dataset.info["train"]), device):
        compile_kernels()


def build_tables(
    experiment: Experiment, dataset: Dataset, processes: Processes, draft: Draft
) -> None:
    """Fill the draft of the pretrain stage by whichever model ``pretrain.model`` names.

    Args:
        experiment: the ``[pretrain]`` settings and the seed.
        dataset: D_full.
        processes: the ranks.
        draft: receives ``user.safetensors`` and ``item.safetensors``.
    """
    _BUILDERS[experiment.pretrain.model](experiment, dataset, processes, draft)


def _build_popularity(
    experiment: Experiment, dataset: Dataset, processes: Processes, draft: Draft
) -> None:
    """Count every item's training interactions."""
    tables = popularity_tables(dataset.train_item, dataset.n_users, dataset.n_items)
    if processes.rank == 0:
        tables.save(draft.path)
    draft.rows = len(dataset.train_item)
    draft.info = {
        "interactions": len(dataset.train_item),
        "validation": _validation(dataset, tables),
        "validation_seconds": 0.0,
        "history": [],
    }


def _build_factorization(
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
    wrapped = shard_model(model, kinds, processes, experiment.train.batch_size, experiment.sharding)
    (user,) = (local.tensor for local in local_tensors(model.users))
    (item,) = (local.tensor for local in local_tensors(model.items))
    data, seed = interactions(dataset), experiment.seed
    solver: AlternatingSolver | SoftmaxSolver
    if config.loss == "softmax":
        solver = SoftmaxSolver(user, item, data, config, seed, processes)
    else:
        solver = AlternatingSolver(user, item, model.bias, data, config, seed, processes)
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
        _scaled(
            state["users.embedding_bags.user.weight"],
            state["items.embedding_bags.item.weight"],
            config.scale,
        ).save(draft.path)
    draft.rows = len(dataset.train_item) * config.epochs
    draft.info = {
        "global_bias": float(model.bias.detach()),
        "interactions": len(dataset.train_item),
        "validation": {k: v for k, v in history[-1].items() if "@" in k},
        "validation_seconds": sum(entry.get("seconds", 0.0) for entry in history),
        "history": history,
    }


def _build_als(
    experiment: Experiment, dataset: Dataset, processes: Processes, draft: Draft
) -> None:
    """Factorize every training interaction by implicit-feedback ALS and export its tables."""
    config, device = experiment.pretrain, processes.device
    dim = config.factors + 1  # without a bias, every element of a row is a factor
    user, item = (torch.zeros(n, dim, device=device) for n in (dataset.n_users, dataset.n_items))
    sweeps = train_als(user, item, interactions(dataset), config.als, experiment.seed, processes)
    chief = processes.rank == 0
    with track("pretrain (ALS)", config.als.iterations, "sweeps", visible=chief) as ticker:
        for _ in sweeps:
            ticker.advance()
    started = time.perf_counter()
    measured = _validation(dataset, IdTables(user, item, bias_last=False)) if chief else {}
    seconds = time.perf_counter() - started
    if chief:
        _scaled(user, item, config.scale).save(draft.path)
    draft.rows = len(dataset.train_item) * config.als.iterations
    draft.info = {
        "bias_last": False,
        "interactions": len(dataset.train_item),
        "validation": measured,
        "validation_seconds": seconds,
        "history": [],
    }


def _scaled(user: torch.Tensor, item: torch.Tensor, scale: Scale) -> IdTables:
    """Tables as they are exported; each is brought to scale for itself."""
    return IdTables(scaled(user, scale), scaled(item, scale))


_BUILDERS = {
    "mf": _build_factorization,
    "als": _build_als,
    "mlp": build_neural_tables,
    "popularity": _build_popularity,
}


def interactions(dataset: Dataset) -> Interactions:
    """The training interactions in both orders."""
    item_indptr, users_by_item = dataset.csr_by_item
    return Interactions(dataset.user_indptr, dataset.train_item, item_indptr, users_by_item)


def _validation(dataset: Dataset, tables: IdTables) -> dict[str, float]:
    users, items = tables.as_dot_products()
    ranks = held_out_ranks(
        users, items, dataset.val_item, Excluded(dataset.user_indptr, dataset.train_item)
    )
    held_out = np.asarray(dataset.val_item) >= 0
    return ranking_metrics(ranks[held_out], (10,)) if held_out.any() else {}
