"""The transitions stage: D_full in, `TransitionTables` or `TransitionLists` out."""

from __future__ import annotations

import shutil

import numpy as np
import torch

from cadc_rec.config.experiment import TransitionsConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.randomness import Purpose
from cadc_rec.data.transition_lists import FILE, best_targets
from cadc_rec.distributed.processes import Processes
from cadc_rec.log import track
from cadc_rec.pretrain.als import LeastSquares
from cadc_rec.pretrain.id_tables import Scale, TransitionTables, divisor, scaled
from cadc_rec.pretrain.transition_matrix import load_matrix, save_matrix, transition_matrix
from cadc_rec.store.artifact import Draft


def build_transitions(
    config: TransitionsConfig,
    scale: Scale,
    seed: int,
    dataset: Dataset,
    processes: Processes,
    draft: Draft,
) -> None:
    """Count which item followed which in D_full; export two tables of factors, or lists.

    Args:
        config: how transitions are counted, and what is kept of them.
        scale: ``pretrain.scale``, of the exported tables.
        seed: of the initial vectors.
        dataset: D_full.
        processes: the ranks; one counts, each solves its share of the rows.
        draft: receives ``item_source.safetensors`` and ``item_target.safetensors``, or
            ``transition_lists.safetensors``.
    """
    chief = processes.rank == 0
    draft.rows = len(dataset.train_item)
    if config.form == "lists":
        if chief:
            build_lists(config, dataset, draft)
        draft.info = processes.broadcast(draft.info)
        return
    scratch = draft.path / ".scratch"
    if chief:
        scratch.mkdir()
        save_matrix(transition_matrix(dataset, config), scratch)
    processes.barrier()
    matrix = load_matrix(scratch, dataset.n_items)
    source, target = (
        torch.zeros(dataset.n_items, config.dim, device=processes.device) for _ in range(2)
    )
    key = (seed, Purpose.TRANSITIONS_INITIALIZATION)
    solver = LeastSquares(source, target, matrix, None, config.l2, 0, key, processes)
    with track("transitions (ALS)", config.iterations, "sweeps", visible=chief) as ticker:
        for _ in solver.sweeps(config.iterations):
            ticker.advance()
    processes.barrier()
    if chief:
        shutil.rmtree(scratch)
        TransitionTables(scaled(source, scale), scaled(target, scale)).save(draft.path)
    draft.info = {
        "pairs": int(matrix.nnz),
        "divided_by": [divisor(table, scale) for table in (source, target)],
    }


def build_lists(config: TransitionsConfig, dataset: Dataset, draft: Draft) -> None:
    """Every item's best targets, by one process."""
    matrix = transition_matrix(dataset, config)
    lists = best_targets(matrix, config.targets)
    lists.save(draft.path / FILE)
    whole = float(matrix.data.sum(dtype=np.float64))
    kept = float(lists.weights.sum(dtype=np.float64))
    draft.info = {
        "pairs": int(matrix.nnz),
        "kept_pairs": len(lists.items),
        "kept_weight": kept / whole if whole else 1.0,
    }
