"""The pretrain stage: D_full in, `IdTables` out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from cadc_rec.config.experiment import PretrainConfig, ShardingConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.distributed.processes import Processes, choose_device
from cadc_rec.log import track
from cadc_rec.pipeline.stages.pretrain_outcome import save_shares, validation_of
from cadc_rec.pretrain.als import train_als
from cadc_rec.pretrain.alternating import Interactions
from cadc_rec.pretrain.factor_tables import (
    PartitionedTable,
    plain_tables,
)
from cadc_rec.pretrain.held_rows import held_rows, sides_in_blocks
from cadc_rec.pretrain.id_tables import IdTables, divisor
from cadc_rec.pretrain.kernels import compile_kernels, compile_ordering, worth_compiling
from cadc_rec.store.artifact import Draft

if TYPE_CHECKING:
    from cadc_rec.training.checkpoints import Checkpoints

_SHARDING = ShardingConfig()


def warm_up(config: PretrainConfig, interactions: int, sizes: tuple[int, int], device: str) -> None:
    """Compile what `build_tables` will need; not counted in the stage's seconds, like imports.

    Args:
        config: the model and its loss.
        interactions: rows of D_full.
        sizes: users and items.
        device: ``compute.device``.
    """
    on = choose_device(device, 0)
    compiled = config.model == "mf" and config.loss == "binary"
    if compiled and worth_compiling(interactions, on):
        compile_kernels()
    als = config.model == "als"
    if (compiled or als) and on.type == "cpu" and sides_in_blocks(config, interactions, sizes):
        compile_ordering(least_squares=als)


def build_tables(
    config: PretrainConfig,
    seed: int,
    dataset: Dataset,
    processes: Processes,
    draft: Draft,
    sharding: ShardingConfig = _SHARDING,
    mf_tables: str = "auto",
    saved: Checkpoints | None = None,
) -> None:
    """Fill the draft of the pretrain stage by whichever model ``pretrain.model`` names.

    Validation is only measured (last epoch, and every ``pretrain.evaluate_every``), never used:
    the tables are those of the last epoch.

    Args:
        config: the model and its settings.
        seed: of initial vectors and negatives.
        dataset: D_full.
        processes: the ranks; each solves its share of the rows.
        draft: receives ``user.safetensors`` and ``item.safetensors``.
        sharding: what memory tables may fill.
        mf_tables: ``compute.mf_tables``: how the tables of MF and ALS lie on several ranks.
        saved: where MF is saved between its epochs, and gone on with.
    """
    config = config.sized(len(dataset.train_item), dataset.n_users)
    if config.model == "popularity":
        _build_popularity(dataset, processes, draft)
    elif config.model == "als":
        _build_als(config, seed, dataset, processes, draft, sharding, mf_tables)
    elif config.model == "mlp":
        # Both of these are trained by TorchRec, which takes more than a second to import.
        from cadc_rec.pipeline.stages.pretrain_neural import build_neural_tables

        build_neural_tables(config, seed, dataset, processes, draft)
    else:
        from cadc_rec.pipeline.stages.pretrain_mf import build_mf_tables

        build_mf_tables(config, seed, dataset, processes, draft, sharding, mf_tables, saved)


def popularity_tables(item_counts: np.ndarray, n_users: int) -> IdTables:
    """Popularity as a factorization: tables ``[n, 2]`` of one factor, all zero, and a bias.

    An item's bias is the number of its training interactions. It is what every method has to beat;
    as `IdTables` it is scored, ranked and measured like the rest.

    Args:
        item_counts: training interactions of every item ``[n_items]``.
        n_users: rows of the user table.
    """
    user, item = torch.zeros(n_users, 2), torch.zeros(len(item_counts), 2)
    item[:, 1] = torch.from_numpy(item_counts.astype(np.float32))
    return IdTables(user, item)


def _build_popularity(dataset: Dataset, processes: Processes, draft: Draft) -> None:
    """Count every item's training interactions."""
    tables = popularity_tables(dataset.item_counts, dataset.n_users)
    if processes.rank == 0:
        tables.save(draft.path)
    draft.rows = len(dataset.train_item)
    draft.info = {
        "interactions": len(dataset.train_item),
        "validation": validation_of(dataset, tables.shares(processes), processes),
        "validation_seconds": 0.0,
        "history": [],
    }


def _build_als(
    config: PretrainConfig,
    seed: int,
    dataset: Dataset,
    processes: Processes,
    draft: Draft,
    sharding: ShardingConfig,
    mf_tables: str,
) -> None:
    """Factorize every training interaction by implicit-feedback ALS and export its tables."""
    dim = config.factors + 1  # without a bias, every element of a row is a factor
    rows = (dataset.n_users, dataset.n_items)
    on_gpu, world = processes.device.type == "cuda", processes.world_size
    held = held_rows(config, len(dataset.train_item), rows, world, on_gpu).training
    user, item = plain_tables(rows, dim, processes, sharding, mf_tables, held)
    sweeps = train_als(user, item, Interactions.of(dataset), config.als, seed)
    chief = processes.rank == 0
    with track("pretrain (ALS)", config.als.iterations, "sweeps", visible=chief) as ticker:
        for _ in sweeps:
            ticker.advance()
    started, worked = time.perf_counter(), time.process_time()
    shares = IdTables(user.local, item.local, bias_last=False)
    measured = validation_of(dataset, shares, processes)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
    save_shares(draft, shares.user, shares.item, dataset, config.scale, processes)
    draft.rows = len(dataset.train_item) * config.als.iterations
    draft.info = {
        "bias_last": False,
        "alpha": config.als.alpha,
        "tables": "partitioned" if isinstance(user, PartitionedTable) else "replicated",
        "divided_by": [
            divisor(table.local, config.scale, processes.all_reduce_sum) for table in (user, item)
        ],
        "interactions": len(dataset.train_item),
        "validation": measured,
        "validation_seconds": seconds,
        "validation_cpu_seconds": cpu_seconds,
        "history": [],
    }
