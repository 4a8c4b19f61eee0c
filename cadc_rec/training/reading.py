"""How a rank of the train stage reads D_sel: its loader, and what its rows tell of themselves.

In: the selection's shards, an experiment, the dataset. Out: a `Reading`, whether the rows are in
memory or streamed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cadc_rec.config.experiment import Experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.load.batches import Negatives
from cadc_rec.data.load.loader import Loader
from cadc_rec.data.load.shards import SelectionShards
from cadc_rec.data.load.stream_loader import StreamLoader
from cadc_rec.data.user_items import UserItems
from cadc_rec.distributed.processes import Processes
from cadc_rec.training.objectives import compiles, make_arrangement, make_loader


@dataclass(frozen=True)
class Reading:
    """One rank's rows of D_sel.

    Attributes:
        loader: their batches.
        users: all users among them; perhaps several times.
        item_counts: how often each item is among them, int64 ``[n_items]``.
        history: int32 ``[rows, L]``, where they have any.
    """

    loader: Loader | StreamLoader
    users: np.ndarray
    item_counts: Callable[[], np.ndarray]
    history: np.ndarray | None = None


def open_reading(
    experiment: Experiment, dataset: Dataset, shards: SelectionShards, processes: Processes
) -> Reading:
    """This rank's part of a selection."""
    config, history = experiment.train, experiment.history.length
    rank, ranks = processes.rank, processes.world_size
    known = UserItems(dataset.user_indptr, dataset.train_item)
    draws = negatives_of(experiment, dataset, known)
    n_users, n_items = dataset.n_users, dataset.n_items
    total = sum(shards.rows)
    if experiment.loader.streams(total, history):
        rows = shards.rows_by_rank(ranks)[rank]
        positives = min(config.batch_size, total)
        arrange = make_arrangement(
            config, n_items, positives, known=known, draws=draws, compiled=compiles(config, rows)
        )
        return Reading(
            StreamLoader(
                shards,
                rank,
                ranks,
                config.batch_size,
                experiment.seed,
                arrange,
                experiment.loader.buffer_rows,
            ),
            np.flatnonzero(shards.counts("user", n_users, rank, ranks)),
            lambda: shards.counts("item", n_items, rank, ranks),
        )
    examples = shards.read(rank, ranks, history)
    loader = make_loader(
        config,
        examples,
        shards.rows_by_rank(ranks),
        rank,
        n_items,
        experiment.seed,
        known,
        shards.rows,
        draws,
    )
    return Reading(
        loader,
        examples.users,
        lambda: np.bincount(examples.items, minlength=n_items),
        examples.history,
    )


def negatives_of(experiment: Experiment, dataset: Dataset, known: UserItems) -> Negatives | None:
    """What negatives are drawn from; None is all items alike."""
    popular = experiment.negatives.distribution == "popularity"
    unknown = experiment.train.exclude_known and experiment.train.loss == "binary"
    if not (popular or unknown):
        return None
    from cadc_rec.data.load.negatives import WeightedNegatives, popularity_weights

    weights = np.ones(dataset.n_items, np.int64)
    if popular:
        frequency = np.bincount(dataset.train_item, minlength=dataset.n_items)
        weights = popularity_weights(frequency, experiment.negatives.alpha)
    return WeightedNegatives(weights, known if unknown else None)


def compile_loops(experiment: Experiment, rows: int) -> None:
    """Compile what a rank with this many rows will call: seconds that are no stage's."""
    if compiles(experiment.train, rows):
        from cadc_rec.data.load import pair_kernels

        pair_kernels.compile_kernels()
    if experiment.negatives.distribution != "uniform" or experiment.train.exclude_known:
        from cadc_rec.data.load import negatives

        negatives.compile_kernels()
