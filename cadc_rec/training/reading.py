"""How a rank of the train stage reads D_sel: its loader, and which users and items its rows have.

In: the selection's shards, settings, the dataset. Out: a `Reading`, whether the rows are in
memory or streamed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cadc_rec.config.experiment import LoaderConfig, NegativesConfig, TrainConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.load.batches import Arrangement, Negatives
from cadc_rec.data.load.candidates import Lifetimes, SoftmaxBatches
from cadc_rec.data.load.loader import Loader
from cadc_rec.data.load.pair_batches import PairBatches, worth_compiling
from cadc_rec.data.load.shards import Examples, SelectionShards
from cadc_rec.data.load.stream_loader import StreamLoader
from cadc_rec.data.user_items import UserItems
from cadc_rec.distributed.processes import Processes
from cadc_rec.errors import CadcError


@dataclass(frozen=True)
class Reading:
    """One rank's rows of D_sel.

    Attributes:
        loader: their batches.
        users: the users of those rows, with repetitions.
        item_counts: how often each item is among them, int64 ``[n_items]``.
        history: int32 ``[rows, L]``, where they have any.
    """

    loader: Loader | StreamLoader
    users: np.ndarray
    item_counts: Callable[[], np.ndarray]
    history: np.ndarray | None = None


def open_reading(
    config: TrainConfig,
    negatives: NegativesConfig,
    loading: LoaderConfig,
    history: int,
    seed: int,
    dataset: Dataset,
    shards: SelectionShards,
    processes: Processes,
    by_example: bool = False,
) -> Reading:
    """This rank's part of a selection.

    Args:
        config: loss, batch size, negatives.
        negatives: what negatives are drawn from.
        loading: whether rows are in memory or streamed.
        history: items that a row's history has at most; 0 where rows have none.
        seed: of order and negatives.
        dataset: sizes, and what each user took in training.
        shards: of the selection.
        processes: the ranks, which share the shards.
        by_example: rows differ by more than their users, such as by a context.

    Raises:
        CadcError: negatives alive at a time are asked for, and times are no clock's or are
            streamed.
    """
    rank, ranks = processes.rank, processes.world_size
    known = UserItems(dataset.user_indptr, dataset.train_item)
    draws = negatives_of(negatives, config, dataset, known)
    n_users, n_items = dataset.n_users, dataset.n_items
    total = sum(shards.rows)
    if loading.streams(total, history or by_example):
        if negatives.distribution == "alive":
            raise CadcError(
                f"negatives.distribution = 'alive' needs D_sel in memory, and its {total:,} rows "
                "are more than loader.memory_rows; set loader.kind = 'memory'."
            )
        rows = shards.rows_by_rank(ranks)[rank]
        positives = min(config.batch_size, total) // ranks
        arrange = make_arrangement(
            config,
            n_items,
            positives,
            known=known,
            draws=draws,
            compiled=compiles(config, rows),
            mixed=negatives.distribution == "mixed",
        )
        return Reading(
            StreamLoader(
                shards,
                rank,
                ranks,
                config.batch_size,
                seed,
                arrange,
                loading.buffer_rows,
            ),
            np.flatnonzero(shards.counts("user", n_users, rank, ranks)),
            lambda: shards.counts("item", n_items, rank, ranks),
        )
    examples = shards.read(rank, ranks, history)
    lifetimes = None
    if negatives.distribution == "alive":
        dataset.require_clock("negatives.distribution = 'alive'")
        places = shards.places(rank, ranks)
        lifetimes = Lifetimes.of(dataset.train_item, dataset.train_timestamp, n_items, places)
    loader = make_loader(
        config,
        examples,
        shards.rows_by_rank(ranks),
        rank,
        n_items,
        seed,
        known,
        shards.rows,
        draws,
        by_example,
        negatives.distribution == "mixed",
        lifetimes,
    )
    return Reading(
        loader,
        examples.users,
        lambda: np.bincount(examples.items, minlength=n_items),
        examples.history,
    )


def make_loader(
    config: TrainConfig,
    examples: Examples,
    rows_by_rank: Sequence[int],
    rank: int,
    n_items: int,
    seed: int,
    known: UserItems | None = None,
    rows_by_shard: Sequence[int] | None = None,
    draws: Negatives | None = None,
    by_example: bool = False,
    mixed: bool = False,
    lifetimes: Lifetimes | None = None,
) -> Loader:
    """The loader that `config`'s loss needs; see `cadc_rec.data.load.loader`.

    Args:
        config: loss, batch size, negatives.
        examples: this rank's rows.
        rows_by_rank: number of rows of every rank.
        rank: this rank.
        n_items: items there are.
        seed: of order and negatives.
        known: what each user took in training; needed by ``exclude_known``.
        rows_by_shard: number of rows of every shard, see `Loader`.
        draws: the distribution of negatives; None draws every item equally often.
        by_example: see `make_arrangement`; rows with a history always are.
        mixed: see `make_arrangement`.
        lifetimes: see `SoftmaxBatches`.
    """
    positives = min(config.batch_size, sum(rows_by_rank)) // len(rows_by_rank)
    arrange = make_arrangement(
        config,
        n_items,
        positives,
        by_example or examples.history is not None,
        known,
        draws,
        compiles(config, len(examples)),
        mixed,
        lifetimes,
    )
    return Loader(examples, rows_by_rank, rank, config.batch_size, seed, arrange, rows_by_shard)


def make_arrangement(
    config: TrainConfig,
    n_items: int,
    positives: int,
    by_example: bool = False,
    known: UserItems | None = None,
    draws: Negatives | None = None,
    compiled: bool = False,
    mixed: bool = False,
    lifetimes: Lifetimes | None = None,
) -> Arrangement:
    """How rows become a step under `config`'s loss.

    Args:
        config: loss and negatives.
        n_items: items there are.
        positives: of a step on one rank; see `PairBatches`.
        by_example: each row has a history or a context of its own.
        known: what each user took in training; needed by a softmax with ``exclude_known``.
        draws: the distribution of negatives; None draws every item equally often.
        compiled: see `PairBatches`.
        mixed: a sampled softmax has the step's positives among its candidates, too.
        lifetimes: see `SoftmaxBatches`.
    """
    if config.loss == "binary":
        return PairBatches(config.negatives, n_items, by_example, positives, draws, compiled)
    masked = known if config.exclude_known else None
    if config.loss == "softmax":
        return SoftmaxBatches("all", n_items, known=masked)
    if config.loss == "in-batch-softmax":
        return SoftmaxBatches("in-batch", n_items, known=masked)
    kind: Literal["mixed", "sampled"] = "mixed" if mixed else "sampled"
    return SoftmaxBatches(kind, n_items, config.shared_negatives, masked, draws, lifetimes)


def compiles(config: TrainConfig, rows: int) -> bool:
    """Whether a rank with this many rows lays its pairs out by compiled loops, to the same bits."""
    pairs = rows * config.epochs * (1 + config.negatives)
    return config.loss == "binary" and worth_compiling(pairs)


def negatives_of(
    negatives: NegativesConfig, train: TrainConfig, dataset: Dataset, known: UserItems
) -> Negatives | None:
    """The distribution of negatives; None draws every item equally often."""
    popular = negatives.distribution == "popularity"
    unknown = train.exclude_known and train.loss == "binary"
    if not (popular or unknown):
        return None
    from cadc_rec.data.load.negatives import WeightedNegatives, popularity_weights

    weights = np.ones(dataset.n_items, np.int64)
    if popular:
        weights = popularity_weights(dataset.item_counts, negatives.alpha)
    return WeightedNegatives(weights, known if unknown else None)


def compile_loops(train: TrainConfig, negatives: NegativesConfig, rows: int) -> None:
    """Compile what a rank with this many rows will call: seconds that no stage counts."""
    if compiles(train, rows):
        from cadc_rec.data.load import pair_kernels

        pair_kernels.compile_kernels()
    if negatives.distribution == "popularity" or train.exclude_known:
        from cadc_rec.data.load.negatives import compile_kernels

        compile_kernels()
