"""The transitions stage: D_full in, `TransitionTables` or `TransitionLists` out."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from cadc_rec.config.experiment import ShardingConfig, TransitionsConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.randomness import Purpose
from cadc_rec.data.transition_lists import FILE, best_targets
from cadc_rec.data.transition_matrix import transition_matrix
from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.row_files import Target, write_joined, write_rows
from cadc_rec.log import track
from cadc_rec.pretrain.factor_tables import plain_tables
from cadc_rec.pretrain.id_tables import Scale, divisor, scaled
from cadc_rec.pretrain.least_squares import Entries, LeastSquares, by_column
from cadc_rec.store.artifact import Draft


def build_transitions(
    config: TransitionsConfig,
    scale: Scale,
    seed: int,
    dataset: Dataset,
    processes: Processes,
    draft: Draft,
    sharding: ShardingConfig,
    mf_tables: str,
) -> None:
    """Count which item followed which in D_full; export two tables of factors, or lists.

    Args:
        config: how transitions are counted, and what is kept of them.
        scale: ``pretrain.scale``, of the exported tables.
        seed: of the initial vectors.
        dataset: D_full.
        processes: the ranks; each counts what followed its share of the items.
        draft: receives ``item_source.safetensors`` and ``item_target.safetensors``, or
            ``transition_lists.safetensors``.
        sharding: what memory tables may fill.
        mf_tables: ``compute.mf_tables``: how the tables lie on several ranks.
    """
    draft.rows = len(dataset.train_item)
    mine, total = processes.share(dataset.n_items), processes.total
    matrix = transition_matrix(dataset, config, items=mine, total=total)
    (pairs,) = total(np.array([matrix.nnz], np.float64))
    draft.info = {"pairs": int(pairs)}
    if config.form == "lists":
        kept, of_kept, whole = total(_write_lists(matrix, config.targets, processes, draft))
        draft.info |= {"kept_pairs": int(kept), "kept_weight": of_kept / whole if whole else 1.0}
        return
    rows = (dataset.n_items, dataset.n_items)
    tables = plain_tables(rows, config.dim, processes, sharding, mf_tables)
    device = processes.device
    entries = tuple(Entries.of(m, None, device) for m in (matrix, by_column(matrix, processes)))
    key = (seed, Purpose.TRANSITIONS_INITIALIZATION)
    solver = LeastSquares(*tables, (entries[0], entries[1]), config.l2, 0, key)
    chief = processes.rank == 0
    with track("transitions (ALS)", config.iterations, "sweeps", visible=chief) as ticker:
        for _ in solver.sweeps(config.iterations):
            ticker.advance()
    every = processes.all_reduce_sum
    for name, table in zip(("item_source", "item_target"), tables, strict=True):
        local = scaled(table.local, scale, every)
        target = Target(draft.path / f"{name}.safetensors", draft.sliced)
        write_rows(target, "weight", local, table.n, processes)
    draft.info["divided_by"] = [divisor(table.local, scale, every) for table in tables]


def _write_lists(
    matrix: sparse.csr_array, targets: int, processes: Processes, draft: Draft
) -> NDArray[np.float64]:
    """Write every item's best targets.

    Returns:
        Of this rank's items: how many pairs are kept, their weight, and that of all.
    """
    lists = best_targets(matrix, targets)
    before = sum(processes.all_gather(len(lists.items))[: processes.rank])
    arrays = {
        "indptr": lists.indptr[processes.rank > 0 :] + before,  # the first rank's begins with 0
        "items": lists.items,
        "weights": lists.weights,
    }
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    write_joined(Target(draft.path / FILE, draft.sliced), tensors, processes)
    sums = (values.sum(dtype=np.float64) for values in (lists.weights, matrix.data))
    return np.array([len(lists.items), *sums])
